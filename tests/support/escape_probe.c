/* Tries to reach the host from inside a container, and prints `what: errno` (0: it worked) for each try. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void tell(const char *what, long result)
{
    printf("%s: %d\n", what, result < 0 ? errno : 0);
    fflush(stdout);
}

static void raw_device(const char *what, unsigned major, unsigned minor)
{
    unlink("/dev/escape");
    long made = mknod("/dev/escape", S_IFBLK | 0600, makedev(major, minor));
    tell(what, made < 0 ? made : open("/dev/escape", O_RDONLY));
}

int main(int argc, char **argv)
{
    char buffer[256];
    struct { unsigned int bytes; int type; unsigned char data[8]; } handle = {8, 1, {2}};

    tell("add_key", syscall(SYS_add_key, "user", "g8", "x", 1UL, KEY_SPEC_SESSION_KEYRING));
    tell("request_key", syscall(SYS_request_key, "user", argc > 1 ? argv[1] : "g8", NULL, 0));
    long key = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", argc > 1 ? argv[1] : "g8", 0);
    tell("search_key", key);
    tell("open_by_handle_at", syscall(SYS_open_by_handle_at, open("/", O_RDONLY), &handle, O_RDONLY));
    tell("init_module", syscall(SYS_init_module, "", 0UL, ""));
    tell("kexec_load", syscall(SYS_kexec_load, 0UL, 0UL, NULL, 0UL));
    tell("bpf", syscall(SYS_bpf, 0, buffer, sizeof buffer));
    tell("perf_event_open", syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
    tell("unshare_user", unshare(CLONE_NEWUSER | CLONE_NEWNS));
    tell("ptrace_stranger", ptrace(PTRACE_ATTACH, argc > 2 ? atoi(argv[2]) : 999999, 0, 0));
    tell("iopl", syscall(SYS_iopl, 3));
    tell("core_pattern", open("/proc/sys/kernel/core_pattern", O_WRONLY));
    tell("sysrq", open("/proc/sysrq-trigger", O_WRONLY));
    tell("mem", open("/dev/mem", O_RDONLY));
    tell("kmsg", open("/dev/kmsg", O_RDONLY));
    raw_device("disk_8_0", 8, 0);
    raw_device("disk_252_0", 252, 0);
    raw_device("disk_7_0", 7, 0);
    return 0;
}

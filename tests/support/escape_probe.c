/* Tries to reach the host from inside a container, and prints `what: errno` (0: it worked) for each try.
 *
 * Each is made by a process of its own, so that none is made with what an earlier one has changed, and is
 * whole: where it is let through to the kernel, it does not fail for being malformed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *key = "g8";
static pid_t stranger = 999999;

static long search(int ring)
{
    char value[64];
    if (ring != KEY_SPEC_SESSION_KEYRING) /* who has it among his own possesses what is in it */
        syscall(SYS_keyctl, KEYCTL_LINK, ring, KEY_SPEC_SESSION_KEYRING);
    long found = syscall(SYS_keyctl, KEYCTL_SEARCH, ring, "user", key, 0);
    return found < 0 ? found : syscall(SYS_keyctl, KEYCTL_READ, found, value, sizeof value);
}

static long add_key(void) { return syscall(SYS_add_key, "user", "g8", "x", 1UL, KEY_SPEC_SESSION_KEYRING); }
static long request_key(void) { return syscall(SYS_request_key, "user", key, NULL, 0); }
static long session_key(void) { return search(KEY_SPEC_SESSION_KEYRING); }
static long user_key(void) { return search(KEY_SPEC_USER_KEYRING); }
static long user_session_key(void) { return search(KEY_SPEC_USER_SESSION_KEYRING); }

static long open_by_handle_at_(void)
{
    struct { struct file_handle head; unsigned char data[MAX_HANDLE_SZ]; } handle = {{MAX_HANDLE_SZ}};
    int number, place = open("/dev", O_RDONLY);
    if (name_to_handle_at(AT_FDCWD, "/dev", &handle.head, &number, 0) < 0)
        return -1;
    return open_by_handle_at(place, &handle.head, O_RDONLY);
}

static long init_module(void) { return syscall(SYS_init_module, "", 0UL, ""); }
static long kexec_load(void) { return syscall(SYS_kexec_load, 0UL, 0UL, NULL, 0UL); }

static long bpf(void)
{
    union bpf_attr map;
    memset(&map, 0, sizeof map);
    map.map_type = BPF_MAP_TYPE_ARRAY, map.key_size = 4, map.value_size = 4, map.max_entries = 1;
    return syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map);
}

static long perf_event_open(void)
{
    struct perf_event_attr clock = {.type = PERF_TYPE_SOFTWARE, .size = sizeof clock};
    return syscall(SYS_perf_event_open, &clock, 0, -1, -1, 0);
}

static long unshare_user(void) { return unshare(CLONE_NEWUSER | CLONE_NEWNS); }

static long writable_again(void)
{
    return unshare_user() < 0 ? -1 : mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL);
}

static long remount(void) { return mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL); }
static long ptrace_stranger(void) { return ptrace(PTRACE_ATTACH, stranger, 0, 0); }

static long iopl_(void)
{
#ifdef SYS_iopl
    return syscall(SYS_iopl, 3);
#else
    errno = ENOSYS;
    return -1;
#endif
}

static long chroot_out(void)
{
    struct stat before, after;
    mkdir("/tmp/deep", 0700);
    if (stat("/", &before) < 0 || chroot("/tmp/deep") < 0)
        return -1;
    for (int up = 0; up < 64; up++)
        if (chdir("..") < 0)
            return -1;
    if (stat(".", &after) < 0)
        return -1;
    errno = EXDEV; /* it is its own root that it comes to */
    return before.st_dev == after.st_dev && before.st_ino == after.st_ino ? -1 : 0;
}

static long set_root_of_first(void)
{
    int space = open("/proc/1/ns/user", O_RDONLY);
    return space < 0 ? -1 : setns(space, 0);
}

static long core_pattern(void) { return open("/proc/sys/kernel/core_pattern", O_WRONLY); }
static long modprobe(void) { return open("/proc/sys/kernel/modprobe", O_WRONLY); }
static long uevent_helper(void) { return open("/sys/kernel/uevent_helper", O_WRONLY); }
static long sysrq(void) { return open("/proc/sysrq-trigger", O_WRONLY); }
static long mem(void) { return open("/dev/mem", O_RDONLY); }
static long kmsg(void) { return open("/dev/kmsg", O_RDONLY); }

static long raw_device(mode_t kind, unsigned major, unsigned minor)
{
    unlink("/dev/escape");
    long made = mknod("/dev/escape", kind | 0600, makedev(major, minor));
    return made < 0 ? made : open("/dev/escape", O_RDONLY | O_NONBLOCK);
}

static long made_mem(void) { return raw_device(S_IFCHR, 1, 1); }
static long made_kmsg(void) { return raw_device(S_IFCHR, 1, 11); }
static long disk_8_0(void) { return raw_device(S_IFBLK, 8, 0); }
static long disk_252_0(void) { return raw_device(S_IFBLK, 252, 0); }
static long disk_7_0(void) { return raw_device(S_IFBLK, 7, 0); }

static void tell(const char *what, long (*try)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        long result = try();
        printf("%s: %d\n", what, result < 0 ? errno : 0);
        fflush(stdout);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
        printf("%s: died %d\n", what, status);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        key = argv[1];
    if (argc > 2)
        stranger = atoi(argv[2]);
    tell("add_key", add_key);
    tell("request_key", request_key);
    tell("session_key", session_key);
    tell("user_key", user_key);
    tell("user_session_key", user_session_key);
    tell("open_by_handle_at", open_by_handle_at_);
    tell("init_module", init_module);
    tell("kexec_load", kexec_load);
    tell("bpf", bpf);
    tell("perf_event_open", perf_event_open);
    tell("unshare_user", unshare_user);
    tell("writable_again", writable_again);
    tell("remount", remount);
    tell("ptrace_stranger", ptrace_stranger);
    tell("iopl", iopl_);
    tell("chroot_out", chroot_out);
    tell("setns", set_root_of_first);
    tell("core_pattern", core_pattern);
    tell("modprobe", modprobe);
    tell("uevent_helper", uevent_helper);
    tell("sysrq", sysrq);
    tell("mem", mem);
    tell("kmsg", kmsg);
    tell("made_mem", made_mem);
    tell("made_kmsg", made_kmsg);
    tell("disk_8_0", disk_8_0);
    tell("disk_252_0", disk_252_0);
    tell("disk_7_0", disk_7_0);
    return 0;
}

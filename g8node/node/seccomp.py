"""The default system call filter of containers (pure): an allow-list in OCI `linux.seccomp` form.

The same calls as Podman's default profile allows, and what newer kernels added beside them; not keyctl, as
with Docker: the keyring of a user is not the container's own, whose root would read keys of the node's. A
call that the list does not know answers ENOSYS, so that libraries fall back to older calls; a known but
refused one answers EPERM. Calls that need a capability are allowed together with it. Names that an
architecture does not have are skipped by the runtime.
"""

import functools
import platform
from collections.abc import Iterable
from typing import Any, Final

_ENOSYS = 38
_EPERM = 1
_EINVAL = 22
_AF_NETLINK = 16
_NETLINK_AUDIT = 9

_ALLOWED: Final = {
    "processes": """
        arch_prctl capget capset clone clone3 execve execveat exit exit_group fork futex futex_time64
        futex_wait futex_wake futex_requeue futex_waitv get_robust_list get_thread_area getcpu getegid
        geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid
        getrlimit getrusage getsid gettid getuid kill membarrier modify_ldt pidfd_getfd pidfd_open
        pidfd_send_signal prctl prlimit64 process_mrelease process_vm_readv process_vm_writev ptrace
        restart_syscall rseq seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsuid
        setgid setgroups setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid
        setuid syscall tgkill tkill ugetrlimit umask uname vfork wait4 waitid waitpid set_tls cacheflush
        breakpoint landlock_add_rule landlock_create_ruleset landlock_restrict_self
        map_shadow_stack""",
    "credentials of 32 bit": """
        chown32 fchown32 lchown32 getegid32 geteuid32 getgid32 getgroups32 getresgid32 getresuid32
        getuid32 setfsgid32 setfsuid32 setgid32 setgroups32 setregid32 setresgid32 setresuid32
        setreuid32 setuid32""",
    "scheduling": """
        ioprio_get ioprio_set sched_get_priority_max sched_get_priority_min sched_getaffinity
        sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
        sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
        sched_yield""",
    "signals": """
        pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal signalfd
        signalfd4 sigpending sigprocmask sigreturn sigsuspend""",
    "time": """
        adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
        clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep
        setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
        timer_settime timer_settime64 timerfd timerfd_create timerfd_gettime timerfd_gettime64
        timerfd_settime timerfd_settime64 times""",
    "memory": """
        brk cachestat get_mempolicy madvise mbind memfd_create memfd_secret mincore mlock mlock2
        mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
        pkey_mprotect remap_file_pages set_mempolicy set_mempolicy_home_node""",
    "descriptors": """
        _llseek _newselect close close_range copy_file_range dup dup2 dup3 epoll_create epoll_create1
        epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
        fadvise64 fadvise64_64 arm_fadvise64_64 fallocate fcntl fcntl64 fdatasync flock fsync ftruncate
        ftruncate64 io_cancel io_destroy io_getevents io_setup io_submit ioctl lseek pipe pipe2 poll
        ppoll ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 pwritev pwritev2
        read readahead readv select sendfile sendfile64 splice sync sync_file_range sync_file_range2
        arm_sync_file_range syncfs tee write writev""",
    "files": """
        access chdir chmod chown creat faccessat faccessat2 fanotify_mark fchdir fchmod fchmodat
        fchmodat2 fchown fchownat fgetxattr flistxattr fremovexattr fsetxattr fstat fstat64 fstatat64
        fstatfs fstatfs64 futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init
        inotify_init1 inotify_rm_watch lchown lgetxattr link linkat listxattr llistxattr lremovexattr
        lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat
        openat2 readdir readlink readlinkat removexattr rename renameat renameat2 rmdir setxattr stat
        stat64 statfs statfs64 statx symlink symlinkat truncate truncate64 unlink unlinkat utime
        utimensat utimensat_time64 utimes""",
    # The kernel asks for CAP_SYS_ADMIN in the namespace's owner, so these serve user namespaces only.
    "mounts and namespaces": """
        fsconfig fsmount fsopen fspick listmount mount mount_setattr move_mount open_tree pivot_root
        statmount umount umount2 unshare""",
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
        recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair""",
    "System V and POSIX IPC": """
        ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
        mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
        semtimedop_time64 shmat shmctl shmdt shmget""",
    "system": "getrandom reboot sysinfo syslog",
}

_REFUSED: Final = """
    bdflush io_pgetevents io_pgetevents_time64 kexec_file_load kexec_load migrate_pages move_pages
    nfsservctl nice oldfstat oldlstat oldolduname oldstat olduname pciconfig_iobase pciconfig_read
    pciconfig_write sgetmask ssetmask swapcontext swapoff swapon sysfs uselib userfaultfd ustat vm86
    vm86old vmsplice"""

_WITH_CAPABILITY: Final = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": "bpf fanotify_init lookup_dcookie perf_event_open quotactl quotactl_fd setdomainname "
    "sethostname setns",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module query_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

# personality(2): query, the default, 32 bit, and without address randomisation what those are with it.
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

_ARCHITECTURES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}


def _rule(names: Iterable[str], action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": sorted(names), "action": action, **more}


def _refusal(names: Iterable[str], errno: int = _EPERM, **more: Any) -> dict[str, Any]:
    return _rule(names, "SCMP_ACT_ERRNO", errnoRet=errno, **more)


def _argument(index: int, value: int, operator: str = "SCMP_CMP_EQ") -> dict[str, Any]:
    return {"index": index, "value": value, "op": operator}


def _socket(capabilities: frozenset[str]) -> list[dict[str, Any]]:
    """Audit sockets only with CAP_AUDIT_WRITE: otherwise login programs take the host's audit for theirs."""
    if "CAP_AUDIT_WRITE" in capabilities:
        return [_rule(["socket"])]
    audit = [_argument(0, _AF_NETLINK), _argument(2, _NETLINK_AUDIT)]
    return [
        _refusal(["socket"], _EINVAL, args=audit),
        _rule(["socket"], args=[_argument(0, _AF_NETLINK, "SCMP_CMP_NE")]),
        _rule(["socket"], args=[_argument(2, _NETLINK_AUDIT, "SCMP_CMP_NE")]),
    ]


@functools.cache
def profile(capabilities: frozenset[str], machine: str = platform.machine()) -> dict[str, Any]:
    """The filter for a process with these capabilities, as the `linux.seccomp` object."""
    allowed = {name for names in _ALLOWED.values() for name in names.split()}
    refused = set(_REFUSED.split())
    for capability, names in _WITH_CAPABILITY.items():
        (allowed if capability in capabilities else refused).update(names.split())
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _ENOSYS,
        "architectures": list(_ARCHITECTURES.get(machine, ())),
        "syscalls": [
            _rule(allowed),
            _refusal(refused),
            *(_rule(["personality"], args=[_argument(0, value)]) for value in _PERSONALITIES),
            *_socket(capabilities),
        ],
    }

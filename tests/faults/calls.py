"""The system calls that can fail, and with what; and those that are not ours.

A call is named as in the table: by its name and, where one name stands for many calls, by
what it is to do.
"""

import fcntl
import mmap

import seccomp

# What the manual pages list and can happen to a memfd, or to what is made beside it; the
# usual one first.  EINTR only where a signal can end a wait: reading, writing and resizing
# a memfd waits for nobody, and messages are sent and received without waiting.
ERRORS = {
    "memfd_create": "EMFILE ENFILE ENOMEM EINVAL EACCES EPERM ENOSYS",
    "fchmod": "EPERM EIO",
    "ftruncate": "EFBIG EPERM EINVAL ENOSPC",
    "fallocate": "ENOSPC EOPNOTSUPP",
    "fcntl F_ADD_SEALS": "EBUSY EPERM EINVAL",
    "fcntl F_GET_SEALS": "EINVAL EPERM",
    "fcntl F_GETFL": "EPERM",
    "fcntl F_SETFL": "EPERM",
    "fcntl F_GETFD": "EPERM",
    "fcntl F_SETFD": "EPERM",
    "fcntl F_DUPFD_CLOEXEC": "EMFILE EPERM",
    "fcntl F_SETSIG": "EINVAL EPERM",
    "fcntl F_SETLEASE": "EAGAIN EACCES EINVAL ENOMEM",
    "fcntl F_GETPIPE_SZ": "EBADF EPERM",
    "fstat": "ENOMEM EPERM",
    "newfstatat": "ENOMEM EACCES ENOENT",
    "statx": "ENOMEM EACCES ENOENT",
    "stat": "ENOMEM EACCES ENOENT",
    "lstat": "ENOMEM EACCES ENOENT",
    "fstatfs": "ENOMEM EIO ENOSYS",
    "mmap of a file": "ENOMEM EAGAIN EPERM EACCES",
    "mmap of addresses": "ENOMEM",
    "mremap": "ENOMEM EAGAIN",
    "munmap": "ENOMEM EINVAL",
    "madvise MADV_DONTFORK": "ENOMEM EINVAL",
    "madvise MADV_DOFORK": "ENOMEM EINVAL",
    "madvise MADV_POPULATE_READ": "ENOMEM EINVAL EFAULT",
    "madvise MADV_POPULATE_WRITE": "ENOMEM EINVAL EFAULT",
    "madvise MADV_COLLAPSE": "EAGAIN ENOMEM EINVAL EBUSY",
    "openat": "EMFILE ENFILE ENOENT EACCES ENOMEM",
    "open": "EMFILE ENFILE ENOENT EACCES ENOMEM",
    "read": "EIO EINTR",
    "pread64": "EIO",
    "preadv": "EIO",
    "preadv2": "EIO",
    "write": "ENOSPC EPERM EINTR",
    "pwrite64": "ENOSPC EPERM EFBIG",
    "pwritev": "ENOSPC EPERM EFBIG",
    "lseek": "EINVAL",
    "readlink": "EACCES ENOENT ENOMEM",
    "readlinkat": "EACCES ENOENT ENOMEM",
    "getdents64": "ENOENT",
    "dup": "EMFILE",
    "dup2": "EBUSY EMFILE",
    "dup3": "EBUSY EMFILE",
    "pipe2": "EMFILE ENFILE",
    "eventfd2": "EMFILE ENFILE ENOMEM",
    "inotify_init1": "EMFILE ENFILE ENOMEM",
    "inotify_add_watch": "ENOSPC ENOMEM EACCES",
    "cachestat": "ENOSYS EPERM EOPNOTSUPP",
    "pidfd_open": "ENOSYS EPERM EMFILE ESRCH",
    "pidfd_getfd": "ENOSYS EPERM EMFILE EBADF",
    "poll": "ENOMEM EINTR",
    "ppoll": "ENOMEM EINTR",
    "epoll_create1": "EMFILE ENOMEM",
    "epoll_ctl": "ENOSPC ENOMEM",
    "epoll_wait": "EINTR",
    "epoll_pwait": "EINTR",
    "clone": "EAGAIN ENOMEM",
    "clone3": "EAGAIN ENOMEM",
    "socket": "EMFILE ENOBUFS",
    "bind": "EADDRINUSE ENOMEM",
    "listen": "EADDRINUSE",
    "getsockname": "ENOBUFS",
    "getpeername": "ENOBUFS",
    "getsockopt": "ENOMEM",
    "setsockopt": "ENOMEM",
    "sendmsg": "ETOOMANYREFS EPIPE ENOBUFS EAGAIN",
    "sendto": "EPIPE ENOBUFS EAGAIN EINTR",
    "recvmsg": "ECONNRESET ENOMEM EAGAIN",
    "recvfrom": "ECONNRESET ENOMEM EAGAIN EINTR",
    "accept4": "EMFILE ECONNABORTED EINTR",
    "connect": "ECONNREFUSED EAGAIN EINTR",
}

# Calls that do not fail, or are not made by this package, and why.  Nobody is asked about
# them, but for munmap(2) where an operation is about that.
NOT_OURS = {
    "close": "it closes, whatever it answers, and has nothing to say of such files",
    "munmap": "of whole mappings it does not fail; the function unmap() is tried",
    "brk": "the allocator's, which then takes mmap",
    "mprotect": "the allocator's and the thread library's",
    "futex": "locks; the C library answers for them",
    "rt_sigaction": "the interpreter's",
    "rt_sigprocmask": "masks, which are always valid",
    "rt_sigreturn": "the end of a signal handler",
    "set_robust_list": "the thread library's",
    "prctl": "the interpreter's, which names its threads (Python 3.14)",
    "sigaltstack": "a sanitizer's, where a thread begins",
    "rseq": "the thread library's",
    "getrandom": "cannot fail once the machine has booted",
    "getpid": "cannot fail",
    "gettid": "cannot fail",
    "getuid": "cannot fail",
    "geteuid": "cannot fail",
    "getgid": "cannot fail",
    "getegid": "cannot fail",
    "prlimit64": "a limit of our own can always be read",
    "sysinfo": "cannot fail",
    "clock_gettime": "cannot fail",
    "clock_nanosleep": "the interpreter tries it again",
    "sched_yield": "cannot fail",
    "sched_getaffinity": "the interpreter's",
    "exit": "does not come back",
    "exit_group": "does not come back",
    "ioctl": "the interpreter's: whether a file is a terminal",
    "wait4": "cannot fail for a child of ours",
    "tgkill": "for a thread that there is",
}

_ANONYMOUS = 0xFFFFFFFF
_NORESERVE, _FIXED = 0x4000, 2
_COMMANDS = {
    getattr(fcntl, name): name
    for name in dir(fcntl)
    if name.startswith("F_") and not name.startswith(("F_SEAL", "F_OFD", "F_OWNER"))
    if name not in ("F_RDLCK", "F_WRLCK", "F_UNLCK", "F_EXLCK", "F_SHLCK")
}
_COMMANDS |= {0: "F_DUPFD", 1: "F_GETFD", 2: "F_SETFD", 3: "F_GETFL", 4: "F_SETFL"}
_ADVICE = {
    mmap.MADV_DONTFORK: "MADV_DONTFORK",
    mmap.MADV_DOFORK: "MADV_DOFORK",
    22: "MADV_POPULATE_READ",
    23: "MADV_POPULATE_WRITE",
    25: "MADV_COLLAPSE",
}


def label(number, arguments):
    """Return what a call is in the table; None: it is the allocator's or NumPy's."""
    name = seccomp.name(number)
    if name == "fcntl":
        command = arguments[1] & 0xFFFFFFFF
        return f"fcntl {_COMMANDS.get(command, command)}"
    if name == "mmap":
        if arguments[4] & 0xFFFFFFFF != _ANONYMOUS:
            return "mmap of a file"
        return "mmap of addresses" if arguments[3] & _NORESERVE else None
    if name == "madvise":
        advice = _ADVICE.get(arguments[2] & 0xFFFFFFFF)
        return None if advice is None else f"madvise {advice}"
    if name == "mremap":
        return name if arguments[3] & _FIXED else None
    return name

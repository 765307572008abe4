"""What a process may be short of, or forbidden, while it does something."""

import ctypes
import errno
import fcntl
import os
import resource
import signal

import seccomp

_THP_DISABLE = 41  # prctl
_NEW_MOUNTS = 0x00020000  # unshare
_PRIVATE, _RECURSIVE = 0x40000, 0x4000  # mount


class Interrupted(Exception):
    """What the handler of a signal raises."""


def _set(limit):
    """Return a function that sets a soft limit."""

    def set_it(value):
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))

    return set_it


def _unset(limit):
    """Return a function that sets a limit to what it was when this was imported."""
    before = resource.getrlimit(limit)
    return lambda: resource.setrlimit(limit, before)


def _few_descriptors(count):
    """Let so many more descriptors be opened."""
    end = 0
    while True:
        try:
            fcntl.fcntl(end, fcntl.F_GETFD)
        except OSError:
            if count == 0:
                break
            count -= 1
        end += 1
    _set(resource.RLIMIT_NOFILE)(end)


def _few_addresses(size):
    """Let so many more bytes be mapped."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    _set(resource.RLIMIT_AS)(used + size)


def _handled(size):
    """Let no file grow beyond a size, where the program has a handler for SIGXFSZ."""
    signal.signal(signal.SIGXFSZ, lambda *_: None)
    _set(resource.RLIMIT_FSIZE)(size)


def _alarms(argument):
    """Have a signal after some microseconds, and again and again.

    ``[first, interval, restarts, raises]``: whether system calls go on by themselves, and
    whether the handler raises.
    """
    first, interval, restarts, raises = argument

    def handle(*_):
        if raises:
            raise Interrupted

    signal.signal(signal.SIGALRM, handle)
    signal.siginterrupt(signal.SIGALRM, not restarts)
    signal.setitimer(signal.ITIMER_REAL, first / 1e6, interval / 1e6)


def _no_alarms():
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)


def _without_proc(_):
    """Mount something empty over /proc, for this thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    for call, arguments in (
        (libc.unshare, (_NEW_MOUNTS,)),
        (libc.mount, (None, b"/", None, _PRIVATE | _RECURSIVE, None)),
        (libc.mount, (b"none", b"/proc", b"tmpfs", 0, None)),
    ):
        if call(*arguments) == -1:
            code = ctypes.get_errno()
            raise seccomp.Unavailable(f"no namespaces here: {os.strerror(code)}")
    if os.path.exists("/proc/self"):
        raise OSError(errno.EEXIST, "/proc is still there")


_LIMITS = {
    "few descriptors": resource.RLIMIT_NOFILE,
    "small files": resource.RLIMIT_FSIZE,
    "small files and a handler": resource.RLIMIT_FSIZE,
    "few addresses": resource.RLIMIT_AS,
}

# How each begins, where the operation is done, and how it ends, maybe twice.
BEGIN = {
    "few descriptors": _few_descriptors,
    "small files": _set(resource.RLIMIT_FSIZE),
    "small files and a handler": _handled,
    "few addresses": _few_addresses,
    "no huge pages": lambda _: ctypes.CDLL(None).prctl(_THP_DISABLE, 1, 0, 0, 0),
    "alarms": _alarms,
}
END = {
    **{name: _unset(limit) for name, limit in _LIMITS.items()},
    "no huge pages": lambda: None,
    "alarms": _no_alarms,
}

# For ever, but only of the thread in which the operation is done.
OF_THREADS = {
    "denied": lambda rules: seccomp.deny(*rules),
    "no /proc": _without_proc,
}

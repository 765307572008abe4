"""What the kernel here has of all that memfds and this package can use, as JSON.

    python tests/features.py

Each is tried; none is concluded from the version.
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import platform
import socket

import memfd

SIZE = 4 << 20  # two huge pages
MADV_POPULATE_WRITE, MADV_COLLAPSE = 23, 25
# System calls that came after all architectures had agreed on their numbers.
PIDFD_GETFD, PROCESS_MADVISE, MEMFD_SECRET, CACHESTAT = 438, 440, 447, 451
SO_PASSPIDFD = 76
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def has_call(number):
    """Tell whether the kernel has a system call, which here gets nothing that is valid."""
    assert LIBC.syscall(number, -1, -1, -1, -1, -1, -1) == -1
    return ctypes.get_errno() != errno.ENOSYS


def works(call, *arguments):
    """Tell whether a call does what is asked, and close what it returns."""
    try:
        answer = call(*arguments)
    except OSError:
        return False
    if hasattr(answer, "close"):
        answer.close()
    elif type(answer) is int and call in (memfd.memfd_create, os.pidfd_open):
        os.close(answer)
    return True


def seals(seal):
    """Tell whether a seal can be added."""
    with memfd.create("feature", SIZE) as f:
        return works(f.seal, seal)


def advises(advice):
    """Tell whether a shared mapping takes an advice."""
    with memfd.create("feature", SIZE) as f:
        # It begins where a huge page can be.
        with memfd.Mapping(f, "r+") as mapping:
            with memoryview(mapping) as view:
                view[:] = bytes(SIZE)
            return LIBC.madvise(mapping.address, SIZE, advice) == 0


def maps_sealed():
    """Tell whether a writable descriptor still gives a shared mapping, to read."""
    with memfd.create("feature", SIZE) as f:
        f.seal(memfd.Seal.WRITE)
        return works(mmap.mmap, f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)


def forges():
    """Tell whether seals of an executable memfd can be had that do not hold."""
    with contextlib.ExitStack() as stack:
        try:
            f = stack.enter_context(memfd.create("feature", SIZE, executable=True))
            stack.enter_context(f.mmap("r+"))
            return bool(memfd.add_seals(f, memfd.Seal.EXEC) & memfd.Seal.WRITE)
        except OSError:
            return False


def huge():
    """Tell whether bytes that are copied in come in huge pages."""
    with memfd.from_bytes(bytes(8 * SIZE)) as f:
        return bool(f.info().huge)


def tells_of_users():
    """Tell whether memory of a pool is used again."""
    with contextlib.closing(memfd.BufferPool()) as pool:
        return pool.reuses


def passes_pidfds():
    with socket.socket(socket.AF_UNIX) as sock:
        return works(sock.setsockopt, socket.SOL_SOCKET, SO_PASSPIDFD, 1)


FEATURES = {
    "`F_SEAL_FUTURE_WRITE`": lambda: seals(memfd.Seal.FUTURE_WRITE),
    "`MFD_NOEXEC_SEAL`": lambda: works(memfd.memfd_create, "", memfd.MFD_NOEXEC_SEAL),
    "`MFD_EXEC`": lambda: works(memfd.memfd_create, "", memfd.MFD_EXEC),
    "`F_SEAL_EXEC`": lambda: seals(memfd.Seal.EXEC),
    "`vm.memfd_noexec`": lambda: os.path.exists("/proc/sys/vm/memfd_noexec"),
    "seals of an executable memfd that do not hold": forges,
    "write-sealed, mapped shared by a writable descriptor": maps_sealed,
    "`MFD_HUGETLB`": lambda: works(memfd.memfd_create, "", memfd.MFD_HUGETLB),
    "`MADV_POPULATE_WRITE`": lambda: advises(MADV_POPULATE_WRITE),
    "`MADV_COLLAPSE`": lambda: advises(MADV_COLLAPSE),
    "huge pages for what is copied in": huge,
    "cachestat(2)": lambda: has_call(CACHESTAT),
    "leases that tell who has a block": tells_of_users,
    "pidfd_open(2)": lambda: works(os.pidfd_open, os.getpid()),
    "pidfd_getfd(2)": lambda: has_call(PIDFD_GETFD),
    "process_madvise(2)": lambda: has_call(PROCESS_MADVISE),
    "memfd_secret(2)": lambda: has_call(MEMFD_SECRET),
    "`SCM_PIDFD`": passes_pidfds,
}

if __name__ == "__main__":
    found = {name: has() for name, has in FEATURES.items()}
    print(json.dumps({"kernel": platform.release(), "features": found}, indent=1))

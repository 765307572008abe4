"""What differs between kernels, found out without the package."""

import ctypes
import errno
import mmap
import os

import memfd
from memfd import Seal

PAGE = mmap.PAGESIZE


def raw_memfd(flags, size):
    file = open(os.memfd_create("probe", flags | os.MFD_CLOEXEC), "r+b", buffering=0)
    file.truncate(size)
    return file


def born_with():
    """Return the seals of a memfd that cannot be executed: EXEC since Linux 6.3."""
    try:
        os.close(os.memfd_create("probe", memfd.MFD_NOEXEC_SEAL))
    except OSError:
        return Seal(0)
    return Seal.EXEC


def writes_before_end():
    """Tell whether a write past the end of what cannot grow writes the pages before."""
    with raw_memfd(os.MFD_ALLOW_SEALING, 2 * PAGE) as file:
        memfd.add_seals(file, Seal.GROW)
        try:
            wrote = file.write(b"x" * 3 * PAGE)
        except PermissionError:
            return False
        assert wrote == 2 * PAGE
        return True


def can_be_executable():
    """Tell whether vm.memfd_noexec lets files be executable."""
    try:
        os.close(os.memfd_create("probe", memfd.MFD_EXEC))
    except OSError:
        return False
    return True


def forges():
    """Tell whether EXEC of an executable file seals what is mapped writable, too."""
    with raw_memfd(os.MFD_ALLOW_SEALING | memfd.MFD_EXEC, PAGE) as file:
        with mmap.mmap(file.fileno(), PAGE):
            try:
                memfd.add_seals(file, Seal.EXEC)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                return False
        return True


def counts_pages():
    """Tell whether there is cachestat(2), number 451 (Linux 6.5)."""
    with raw_memfd(0, PAGE) as file:
        area, answer = (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 5)()
        call = ctypes.CDLL(None).syscall
        return call(451, file.fileno(), area, answer, 0) == 0


def has_small_pages():
    """Tell whether a byte that is written takes one page, and not more."""
    with raw_memfd(0, 64 * PAGE) as file:
        file.write(b"x")
        return os.fstat(file.fileno()).st_blocks * 512 == PAGE


BORN = born_with()
HAS_EXEC = bool(BORN)
WRITES_BEFORE_END = writes_before_end()
CAN_BE_EXECUTABLE = can_be_executable()
FORGES = CAN_BE_EXECUTABLE and forges()
COUNTS_PAGES = counts_pages()
HAS_SMALL_PAGES = has_small_pages()

# cython: language_level=3, binding=True, embedsignature=False
# cython: auto_pickle=False, autotestdict=False
# cython: freethreading_compatible=True, subinterpreters_compatible=own_gil
"""The system calls on a memfd: create, seal, size, look at one.

Each has a C function without the GIL (in the .pxd, for other packages too) and a Python
function beside it.  This is the only file that turns errno into exceptions with advice.
"""

import _thread
import io
import os

cimport cython
from cpython.object cimport PyObject_AsFileDescriptor
from libc cimport errno
from libc.stdio cimport snprintf
from libc.string cimport strlen
from posix.fcntl cimport (
    F_GETFD, F_GETFL, O_ACCMODE, O_CLOEXEC, O_NONBLOCK, O_RDONLY, O_RDWR, fcntl, open,
)
from posix.stat cimport fchmod, fstat, mode_t, struct_stat
from posix.types cimport off_t
from posix.unistd cimport _SC_PAGESIZE, close, lseek, sysconf

cimport memfd._linux as _linux

from memfd._check cimport flags_argument, raise_errno, size_argument
from memfd._owner cimport belong_to_all

cdef extern from *:
    const char *MEMFD_VERSION

cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(object text)

cdef extern from "unistd.h" nogil:
    int SEEK_HOLE

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #if !defined(SYS_cachestat) && (defined(__x86_64__) || defined(__aarch64__) || \
        defined(__riscv) || defined(__powerpc__) || defined(__s390__))
    #define SYS_cachestat 451       /* Linux 6.5 */
    #endif
    /* Count the pages of a file that are there, in memory or swapped out. */
    static int memfd_count_pages(int fd, off_t size, unsigned long long *count)
    {
    #ifdef SYS_cachestat
        struct { unsigned long long offset, length; } part = {0, size};
        struct { unsigned long long cached, dirty, writeback, evicted, recently; } found;
        if (syscall(SYS_cachestat, fd, &part, &found, 0) == -1)
            return -1;
        *count = found.cached + found.evicted;
        return 0;
    #else
        errno = ENOSYS;
        return -1;
    #endif
    }
    """
    int count_pages "memfd_count_pages"(int fd, off_t size, unsigned long long *count)

__version__ = MEMFD_VERSION.decode()

# Objects are never `cdef` here: C variables are one for all interpreters of a process.
_FileIO = io.FileIO
_new_file, _init_file = io.FileIO.__new__, io.FileIO.__init__

cdef enum:
    _NAME_MAX = 249  # bytes; the kernel puts "memfd:" before it and allows 255
    _SMALLEST_PAGE = 4096  # bytes, of any machine

NAME_MAX = _NAME_MAX

MFD_CLOEXEC = _linux.MFD_CLOEXEC
MFD_ALLOW_SEALING = _linux.MFD_ALLOW_SEALING
MFD_HUGETLB = _linux.MFD_HUGETLB
MFD_NOEXEC_SEAL = _linux.MFD_NOEXEC_SEAL
MFD_EXEC = _linux.MFD_EXEC
MFD_HUGE_SHIFT = _linux.MFD_HUGE_SHIFT
MFD_HUGE_MASK = _linux.MFD_HUGE_MASK
MFD_HUGE_64KB = _linux.MFD_HUGE_64KB
MFD_HUGE_512KB = _linux.MFD_HUGE_512KB
MFD_HUGE_1MB = _linux.MFD_HUGE_1MB
MFD_HUGE_2MB = _linux.MFD_HUGE_2MB
MFD_HUGE_8MB = _linux.MFD_HUGE_8MB
MFD_HUGE_16MB = _linux.MFD_HUGE_16MB
MFD_HUGE_32MB = _linux.MFD_HUGE_32MB
MFD_HUGE_256MB = _linux.MFD_HUGE_256MB
MFD_HUGE_512MB = _linux.MFD_HUGE_512MB
MFD_HUGE_1GB = _linux.MFD_HUGE_1GB
MFD_HUGE_2GB = _linux.MFD_HUGE_2GB
MFD_HUGE_16GB = _linux.MFD_HUGE_16GB
F_ADD_SEALS = _linux.F_ADD_SEALS
F_GET_SEALS = _linux.F_GET_SEALS
F_SEAL_SEAL = _linux.F_SEAL_SEAL
F_SEAL_SHRINK = _linux.F_SEAL_SHRINK
F_SEAL_GROW = _linux.F_SEAL_GROW
F_SEAL_WRITE = _linux.F_SEAL_WRITE
F_SEAL_FUTURE_WRITE = _linux.F_SEAL_FUTURE_WRITE
F_SEAL_EXEC = _linux.F_SEAL_EXEC


IMMUTABLE = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE


cdef object _as_seal(int seals):
    """Return `seals` as a Seal, whose module is loaded when it is first needed."""
    from memfd._seal import Seal

    return Seal(seals)


def check_size(value, /, argument="size"):
    """Return `value` as an int that fits off_t, or raise naming `argument`."""
    return size_argument(value, argument)


def check_requirements(require, max_size, /):
    """Return both as an int or None, or raise what is wrong with one."""
    if require is not None:
        require = flags_argument(require, "require")
    if max_size is not None:
        max_size = size_argument(max_size, "max_size")
    return require, max_size


cdef bytes _encoded(object name):
    """Return `name` as the kernel wants it, or raise before it sees it."""
    cdef bytes encoded
    if type(name) is str:
        encoded = PyUnicode_EncodeFSDefault(name)
    elif isinstance(name, (str, bytes, os.PathLike)):
        # Of a subclass, such as numpy.str_, bytes all the same.
        encoded = bytes(os.fsencode(name))
    else:
        raise TypeError(
            f"name must be str, bytes or os.PathLike, not {type(name).__name__}"
        )
    if <Py_ssize_t>strlen(encoded) != len(encoded):  # guard: null byte in a name
        raise ValueError(f"name must not contain a null byte, got {name!r}")
    if len(encoded) > _NAME_MAX:  # guard: long name
        raise ValueError(
            f"name must encode to at most {_NAME_MAX} bytes, "
            f"got {len(encoded)}: {name!r}"
        )
    return encoded


cdef str _sysctl():
    try:
        with io.open("/proc/sys/vm/memfd_noexec") as file:
            return file.read().strip()
    except OSError:
        return "?"


cdef int _raise_create(unsigned int flags) except -1:
    """Raise what memfd_create(2) or the calls right after it answered."""
    cdef int error = errno.errno
    if error == errno.EACCES:
        hint = (
            f"vm.memfd_noexec is {_sysctl()}: only memfds with MFD_NOEXEC_SEAL may be "
            f"made here (executable=False), flags were {flags:#x}"
        )
    else:
        hint = {
            errno.EINVAL: (
                f"this kernel does not know flags {flags:#x}, or the size is no "
                "multiple of the huge page size"
            ),
            errno.EMFILE: "too many descriptors in this process (RLIMIT_NOFILE)",
            errno.ENFILE: "too many open files on this machine (fs.file-max)",
            errno.EFBIG: "the size is beyond RLIMIT_FSIZE or what a file can have",
            errno.ENODEV: f"no huge pages of this size here, flags were {flags:#x}",
            errno.ENOSYS: (
                "memfd_create(2) is missing (Linux before 3.17) or kept from this "
                "process by a seccomp filter"
            ),
            errno.EPERM: (
                "a seccomp filter or security module forbids memfd_create(2), or one of "
                "the calls that follow it"
            ),
        }.get(error, "")
    errno.errno = error
    return raise_errno(hint)


def memfd_create(name, flags=_linux.MFD_CLOEXEC):
    """Create an anonymous file in memory: ``memfd_create(2)`` with exactly `flags`.

    Parameters
    ----------
    name : str, bytes or os.PathLike
        A label of at most 249 encoded bytes, without a null byte.  Not unique, and
        visible to whoever may read ``/proc/PID/fd`` and ``/proc/PID/maps``.
    flags : int
        ``MFD_*`` constants.

    Returns
    -------
    int
        A new descriptor, open for reading and writing, that the caller has to close.

    Raises
    ------
    ValueError
        `name` is too long or contains a null byte.
    OverflowError
        `flags` does not fit an unsigned int.
    OSError
        ``EINVAL``: this kernel does not know one of `flags`, or they contradict.
        ``EACCES``: ``vm.memfd_noexec`` forbids an executable memfd.
        ``EMFILE``, ``ENFILE``: too many open files.  ``ENODEV``: no such huge pages.
        ``ENOSYS``, ``EPERM``: an old kernel or a seccomp filter.

    See Also
    --------
    create : with safe defaults, fallbacks for older kernels, and an owner.

    Notes
    -----
    Since Linux 3.17.  ``MFD_HUGETLB`` since 4.14, ``MFD_NOEXEC_SEAL`` (which implies
    ``MFD_ALLOW_SEALING``) and ``MFD_EXEC`` since 6.3.  It does not need
    ``os.memfd_create``, which Pythons built on an old C library lack.

    Examples
    --------
    >>> import os
    >>> import memfd
    >>> fd = memfd.memfd_create("label", memfd.MFD_CLOEXEC | memfd.MFD_ALLOW_SEALING)
    >>> os.close(fd)
    """
    cdef bytes encoded = _encoded(name)
    cdef const char *label = encoded
    cdef unsigned int bits = flags_argument(flags, "flags")
    cdef int fd
    with nogil:
        fd = _linux.memfd_create(label, bits)
    if fd == -1:
        _raise_create(bits)
    return fd


cdef int _careful(
    const char *name, unsigned int flags, mode_t mode, off_t size, bint sealable
) noexcept nogil:
    """Create with `flags`, falling back where the kernel is old.  -1 and errno."""
    cdef int error, seals
    cdef int fd = _linux.memfd_create(name, flags)
    if fd == -1 and errno.errno == errno.EINVAL:
        # Before Linux 6.3 the two exec flags are unknown; the mode below stands in.
        # guard: kernels before 6.3 -> pass
        flags &= ~(_linux.MFD_EXEC | _linux.MFD_NOEXEC_SEAL)
        fd = _linux.memfd_create(name, flags)
    if fd == -1:
        return -1
    # The kernel's default mode lets every user who was given a read-only descriptor
    # re-open it for writing through /proc.
    # guard: mode of what is created -> if size == 0 or memfd_set_size(fd, size) == 0:
    if fchmod(fd, mode) == 0 and (size == 0 or memfd_set_size(fd, size) == 0):
        if sealable:  # guard: no more seals -> if True:
            return fd
        # MFD_NOEXEC_SEAL implies MFD_ALLOW_SEALING, so this takes a seal of its own.
        seals = memfd_get_seals(fd)
        if seals != -1 and (
            seals & _linux.F_SEAL_SEAL
            or memfd_add_seals(fd, _linux.F_SEAL_SEAL) == 0
        ):
            return fd
    error = errno.errno
    close(fd)
    errno.errno = error
    return -1


# --- who uses a descriptor -----------------------------------------------------------

@cython.final
cdef class Descriptor:
    """The owner of one descriptor, which is closed with it.

    Whoever is about to use the descriptor keeps this meanwhile.  So the number is nobody
    else's until all have done, whoever closes the file in between.
    """

    cdef int _fd

    def __cinit__(self):
        belong_to_all(self)
        self._fd = -1

    def __dealloc__(self):
        if self._fd != -1:
            with nogil:
                close(self._fd)

    def fileno(self):
        """Return the descriptor, which stays owned here."""
        return self._fd


def init_file(file, fd, mode, /):
    """Give a descriptor to a new FileIO, through what `keep` finds there.

    Whatever this raises, the descriptor is still the caller's.
    """
    cdef Descriptor owner = Descriptor.__new__(Descriptor)
    cdef int descriptor = fd
    file._descriptor = owner
    _init_file(file, fd, mode, False)
    owner._fd = descriptor


def release(file, /):
    """Let go of the descriptor of a FileIO that was closed.

    Raises
    ------
    OSError
        ``EBADF``: somebody else has closed it.
    """
    cdef Descriptor owner = file._descriptor
    cdef int descriptor
    file._descriptor = None
    if owner is None or owner._fd == -1:
        return
    # Any other error is that of a filter, and the descriptor is there.
    if fcntl(owner._fd, F_GETFD) == -1 and errno.errno == errno.EBADF:
        descriptor = owner._fd
        owner._fd = -1
        raise_errno(f"descriptor {descriptor} was closed by somebody else")


def keep(file, /):
    """Return what has the descriptor of a file and keeps it open: for a Memfd, its owner.

    Not for a local variable of Python code, which lives on in every traceback.
    """
    if isinstance(file, int):
        return file
    if isinstance(file, _FileIO):
        owner = getattr(file, "_descriptor", None)
        if type(owner) is Descriptor:
            return owner
    return file


def keeping(function, file, /, *arguments):
    """Call ``function(file, *arguments)``, and keep the descriptor open until it returns.

    That another thread has closed the file meanwhile is a ValueError, if it matters.
    """
    kept = keep(file)
    try:
        return function(file, *arguments)
    except OSError as error:
        if kept is not file and error.errno == errno.EBADF and file.closed:
            raise ValueError("I/O operation on closed file") from None
        raise


def locked(lock, function, /, *arguments):
    """Call ``function(*arguments)`` while `lock` is held.

    As ``with lock:``, out of which a signal handler may raise between taking the lock and
    the block, on Python 3.14; it then stays locked for ever.
    """
    lock.acquire()
    try:
        return function(*arguments)
    finally:
        lock.release()


def start_daemon(function, /, *arguments):
    """Call ``function(*arguments)`` in a thread that nobody waits for.

    Return False where none can begin: at a limit, as the interpreter ends, or in one that
    allows no such threads.  A signal handler may raise before or after this, and not in
    the midst of it, as in ``threading.Thread.start``.
    """
    allowed = getattr(_thread, "daemon_threads_allowed", None)  # since Python 3.12
    if allowed is not None and not allowed():
        return False
    try:
        _thread.start_new_thread(function, arguments)
    except RuntimeError:
        return False
    return True


def release_if_owned(lock, /):
    """Release a re-entrant lock unless this thread does not have it."""
    if lock._is_owned():
        lock.release()


def new(cls, name, size, flags, mode, sealable, /):
    """Create carefully and return a `cls`, a kind of FileIO, that owns the descriptor.

    No Python code runs between the two, so a signal handler that raises leaves nothing.
    """
    cdef bytes encoded = _encoded(name)
    cdef str text = name if type(name) is str else os.fsdecode(encoded)
    cdef const char *label = encoded
    cdef unsigned int bits = flags
    cdef mode_t permissions = mode
    cdef off_t length = size_argument(size)
    cdef bint may_seal = sealable
    cdef int fd
    file = _new_file(cls)
    with nogil:
        fd = _careful(label, bits, permissions, length, may_seal)
    if fd == -1:
        _raise_create(bits)
    try:
        init_file(file, fd, "r+b")
    except BaseException:
        close(fd)
        raise
    file.name = text
    return file


def add_seals(fd, seals, /):
    """Forbid changes to a memfd, for good, to everyone who holds it.

    Parameters
    ----------
    fd : int or object with fileno()
        Descriptor of a memfd, open for writing.
    seals : Seal or int
        Seals to add to those already set.

    Returns
    -------
    Seal
        All seals now set.

    Raises
    ------
    OverflowError
        `seals` does not fit an unsigned int.
    PermissionError
        ``EPERM``: `fd` is open for reading only, or carries ``Seal.SEAL``.
    OSError
        ``EBUSY``: ``Seal.WRITE`` while a shared mapping made through a writable
        descriptor exists, in any process, or pages are pinned.  No seal is added then.
        ``EINVAL``: `fd` is no memfd, or this kernel lacks one of `seals`.

    Notes
    -----
    ``F_ADD_SEALS`` of fcntl(2), since Linux 3.17.  It can block for about 160 ms while
    the kernel waits for pinned pages; the GIL is released.

    Examples
    --------
    >>> import os
    >>> import memfd
    >>> fd = memfd.memfd_create("frame", memfd.MFD_ALLOW_SEALING)
    >>> memfd.add_seals(fd, memfd.Seal.GROW | memfd.Seal.SHRINK)
    <Seal.SHRINK|GROW: 6>
    >>> os.close(fd)
    """
    add_seal_bits(fd, seals)
    return get_seals(fd)


def get_seals(fd, /):
    """Return the seals of a memfd.

    Parameters
    ----------
    fd : int or object with fileno()
        Descriptor of a memfd.

    Returns
    -------
    Seal
        All seals, also those that this version has no name for.  A file of an ordinary
        tmpfs answers ``Seal.SEAL``.

    Raises
    ------
    OSError
        ``EINVAL``: `fd` is no memfd.  ``EBADF``: `fd` is closed, or ``O_PATH``.

    Notes
    -----
    ``F_GET_SEALS`` of fcntl(2), since Linux 3.17.

    Examples
    --------
    >>> import os
    >>> import memfd
    >>> fd = memfd.memfd_create("label")
    >>> memfd.get_seals(fd)
    <Seal.SEAL: 1>
    >>> os.close(fd)
    """
    kept = keep(fd)
    cdef int descriptor = PyObject_AsFileDescriptor(kept)
    cdef int seals = memfd_get_seals(descriptor)
    if seals == -1:
        raise_errno(
            f"descriptor {descriptor} is no memfd"
            if errno.errno == errno.EINVAL
            else ""
        )
    return _as_seal(seals)


def add_seal_bits(fd, seals, /):
    """Add seals to a memfd; `add_seals` says what can go wrong."""
    kept = keep(fd)
    cdef int descriptor = PyObject_AsFileDescriptor(kept)
    cdef unsigned int bits = flags_argument(seals, "seals")
    cdef int answer
    with nogil:
        answer = memfd_add_seals(descriptor, <int>bits)
    if answer == -1:
        error = errno.errno
        hint = ""
        if error == errno.EPERM:
            sealed = memfd_get_seals(descriptor)
            access = fcntl(descriptor, F_GETFL)
            if sealed != -1 and sealed & _linux.F_SEAL_SEAL:
                hint = "Seal.SEAL is set: no seal can be added any more"
            elif access != -1 and access & O_ACCMODE == O_RDONLY:
                hint = f"descriptor {descriptor} is open for reading only"
            else:
                hint = "a seccomp filter or security module forbids it"
        elif error == errno.EBUSY:
            hint = "Seal.WRITE while a writable shared mapping or a pinned page exists"
        elif error == errno.EINVAL:
            hint = f"descriptor {descriptor} is no memfd, or seals {bits:#x} are unknown"
        errno.errno = error
        raise_errno(hint)


def seal_bits(fd, /):
    """Return the seals of a memfd as an int, for masks."""
    kept = keep(fd)
    cdef int seals = memfd_get_seals(PyObject_AsFileDescriptor(kept))
    if seals == -1:
        raise_errno("")
    return seals


def set_size(fd, size, /):
    """Make a memfd `size` bytes long.

    Unlike `Memfd.truncate` this asks nobody: memory that is mapped beyond the new end
    answers with SIGBUS.

    Parameters
    ----------
    fd : int or object with fileno()
        Descriptor of a memfd, open for writing.
    size : int
        New size in bytes.  New bytes are zero, and take memory when they are touched.

    Raises
    ------
    ValueError
        `size` is negative.
    PermissionError
        ``EPERM``: ``Seal.SHRINK`` or ``Seal.GROW`` forbids it.
    OSError
        ``EINVAL``: `fd` is open for reading only, or `size` is no multiple of the huge
        page size of a hugetlb memfd.  ``EFBIG``: beyond RLIMIT_FSIZE.

    Notes
    -----
    ftruncate(2).  The GIL is released.

    Examples
    --------
    >>> import os
    >>> import memfd
    >>> fd = memfd.memfd_create("label")
    >>> memfd.set_size(fd, 4096)
    >>> memfd.get_size(fd)
    4096
    >>> os.close(fd)
    """
    kept = keep(fd)
    cdef int descriptor = PyObject_AsFileDescriptor(kept)
    cdef off_t length = size_argument(size)
    cdef int answer
    with nogil:
        answer = memfd_set_size(descriptor, length)
    if answer == -1:
        hint = ""
        error = errno.errno
        if error == errno.EPERM:
            hint = f"sealed against a size of {length} bytes"
        elif error == errno.EINVAL:
            hint = (
                f"descriptor {descriptor} is open for reading only, or {length} bytes "
                "are no multiple of its huge page size"
            )
        elif error == errno.EFBIG:
            hint = f"{length} bytes are beyond RLIMIT_FSIZE"
        raise_errno(hint)


def get_size(fd, /):
    """Return the size of a memfd in bytes (``st_size`` of fstat(2)).

    Parameters
    ----------
    fd : int or object with fileno()
        Descriptor of a memfd.

    Returns
    -------
    int
        Size in bytes, which says nothing about the memory that is really taken.

    Raises
    ------
    OSError
        ``EBADF``: `fd` is closed.

    Examples
    --------
    >>> import os
    >>> import memfd
    >>> fd = memfd.memfd_create("label")
    >>> memfd.get_size(fd)
    0
    >>> os.close(fd)
    """
    kept = keep(fd)
    cdef off_t size = memfd_get_size(PyObject_AsFileDescriptor(kept))
    if size == -1:
        raise_errno("")
    return size


cdef int _is_hugetlb(int fd) noexcept nogil:
    cdef _linux.struct_statfs status
    if _linux.fstatfs(fd, &status) == -1:
        return -1
    return <unsigned int>status.f_type == _linux.HUGETLBFS_MAGIC


def is_hugetlb(fd, /):
    """Tell whether the file behind `fd` consists of pages of the hugetlb pool."""
    kept = keep(fd)
    cdef int answer = _is_hugetlb(PyObject_AsFileDescriptor(kept))
    if answer == -1:
        raise_errno("")
    return answer == 1


def look_at(fd, /):
    """Return what a descriptor is: access, mode, links, size, whether hugetlb.

    Access is ``O_RDONLY``, ``O_WRONLY`` or ``O_RDWR``.
    """
    kept = keep(fd)
    cdef int descriptor = PyObject_AsFileDescriptor(kept)
    cdef int access = fcntl(descriptor, F_GETFL)
    cdef struct_stat status
    if access == -1 or fstat(descriptor, &status) == -1:
        raise_errno("")
    return (
        access & O_ACCMODE, status.st_mode, status.st_nlink, status.st_size,
        is_hugetlb(descriptor),
    )


cdef off_t _first_hole(int fd) noexcept nogil:
    """Return where the first hole of a file begins, or -1 and errno.

    Not asked of the description that a stranger shares: it would move their position, and
    who reads from it into memory that never comes keeps us waiting for ever.
    """
    cdef char path[32]
    cdef off_t hole
    cdef int own
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd)
    # guard: shared position -> own = fd
    own = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    if own == -1:
        return -1
    hole = lseek(own, 0, SEEK_HOLE)
    close(own)
    return hole


cdef int _has_holes(int fd, off_t size, bint is_sealed) noexcept nogil:
    """Tell whether some page of the file does not exist yet.  -1: it cannot be told."""
    cdef unsigned long long there
    cdef long page = sysconf(_SC_PAGESIZE)
    cdef off_t hole
    if size == 0:
        return False
    # Linux 6.5; it waits for nobody.  Not for a file of another user that cannot be
    # written, nor for one of the hugetlb pool.
    if count_pages(fd, size, &there) == 0:
        return there < <unsigned long long>((size - 1) // page + 1)
    # Who writes to a file can keep others from looking for its holes.
    if not is_sealed:  # guard: holes of what is written
        return -1
    hole = _first_hole(fd)
    return -1 if hole == -1 else hole < size


def has_holes(fd, size, is_sealed, /):
    """Tell whether some page of the file does not exist yet.

    None: it cannot be told, of a file that cannot be opened again, or is not `is_sealed`
    against writing.  Where it could be, with one descriptor more, that is the error.
    """
    kept = keep(fd)
    cdef int answer, descriptor = PyObject_AsFileDescriptor(kept)
    cdef bint quiet = is_sealed
    cdef off_t end = size
    with nogil:
        answer = _has_holes(descriptor, end, quiet)
    if answer == -1 and errno.errno in (errno.EMFILE, errno.ENFILE):
        raise_errno(f"looking for holes of fd {fd}, which takes another descriptor")
    return None if answer == -1 else answer == 1


def glance(fd, require, max_size, /):
    """Return the answer of `_foreign.check`, or None if there may be something wrong.

    All its checks at once, in its order; which one fails is not said.
    """
    cdef int descriptor = fd, present, access, holes
    cdef unsigned int wanted
    cdef struct_stat status
    cdef bint large, executable, may_lie, is_sealed
    if require is None:
        return None
    wanted = require
    present = memfd_get_seals(descriptor)
    access = fcntl(descriptor, F_GETFL)
    if present == -1 or access == -1 or fstat(descriptor, &status) == -1:
        return None
    access &= O_ACCMODE
    if access not in (O_RDONLY, O_RDWR):  # guard: write-only at a glance
        return None
    if status.st_nlink:  # guard: named file at a glance
        return None
    # The pages of the pool are larger than the smallest ones.
    large = status.st_blksize > _SMALLEST_PAGE
    if large and _is_hugetlb(descriptor):  # guard: hugetlb at a glance
        return None
    if wanted & ~<unsigned int>present:  # guard: missing seals at a glance
        return None
    executable = status.st_mode & 0o111
    # A forged F_SEAL_WRITE comes with F_SEAL_FUTURE_WRITE.
    may_lie = executable or present & _linux.F_SEAL_FUTURE_WRITE
    if present & _linux.F_SEAL_EXEC and may_lie:  # guard: forged seals at a glance
        return None
    size = status.st_size
    if max_size is not None and size > max_size:  # guard: max_size at a glance
        return None
    is_sealed = present & _linux.F_SEAL_WRITE
    with nogil:
        holes = _has_holes(descriptor, status.st_size, is_sealed)
    if holes:  # guard: holes at a glance
        return None
    return size, access == O_RDWR, False

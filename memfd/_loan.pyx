# cython: language_level=3, binding=True, embedsignature=False
# cython: auto_pickle=False, autotestdict=False
# cython: freethreading_compatible=True, subinterpreters_compatible=own_gil
"""Loans: descriptors kept open for a process that fetches them through /proc.

The sender keeps a duplicate and writes a slip, which says where it is.  The receiver opens
``/proc/PID/fd/N``, sees that it is the file it should be, and writes the slip's number into
a pipe of the sender, which it finds in the same way.
"""

import io
import os

cimport cython
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize, PyBytes_Size
from cpython.object cimport PyObject_AsFileDescriptor
from libc cimport errno
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy, memset
from posix.fcntl cimport (
    F_GETFL, O_ACCMODE, O_CLOEXEC, O_NOCTTY, O_NONBLOCK, O_RDONLY, O_RDWR, fcntl, open,
)
from posix.stat cimport S_IFIFO, S_IFMT, fstat, stat, struct_stat
from posix.unistd cimport close, getpid, read, write

cimport memfd._linux as _linux

from memfd._check cimport raise_errno
from memfd._core cimport memfd_get_seals
from memfd._owner cimport belong_to_all

from memfd._core import init_file, keep

cdef extern from "fcntl.h" nogil:
    int F_DUPFD_CLOEXEC

cdef extern from *:
    """
    #define MEMFD_NANOSECONDS(status) \
        ((int64_t)(status).st_mtim.tv_sec * 1000000000 + (status).st_mtim.tv_nsec)
    """
    int64_t nanoseconds "MEMFD_NANOSECONDS"(struct_stat status) nogil

cdef enum:
    _IMMUTABLE = _linux.F_SEAL_SHRINK | _linux.F_SEAL_GROW | _linux.F_SEAL_WRITE
    _AT_ONCE = 512  # numbers read from the pipe

_new_file = io.FileIO.__new__

# All that a receiver needs.  Both sides are the same program on the same machine.
cdef struct Slip:
    char boot[16]  # of the kernel: elsewhere, equal numbers mean nothing
    uint64_t number  # to be written into the pipe
    uint64_t pipe_device
    uint64_t pipe_inode
    uint64_t device
    uint64_t inode
    int64_t size
    int64_t modified  # nanoseconds
    int32_t pid
    int32_t pipe  # descriptors in the process `pid`
    int32_t loan
    int32_t original
    int32_t access
    int32_t immutable


cdef bytes _boot_id():
    """Return what tells this kernel from all others, or zeros."""
    try:
        with io.open("/proc/sys/kernel/random/boot_id") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


_boot = _boot_id()


cdef bint _is_file(
    const struct_stat *status, uint64_t device, uint64_t inode
) noexcept nogil:
    return <uint64_t>status.st_dev == device and <uint64_t>status.st_ino == inode


cdef bint _is_still(int fd, uint64_t device, uint64_t inode) noexcept nogil:
    """Tell whether a descriptor is what it was: others may close what is not theirs."""
    cdef struct_stat status
    return fd != -1 and fstat(fd, &status) == 0 and _is_file(&status, device, inode)


cdef bint _is_gone(int fd, uint64_t device, uint64_t inode) noexcept nogil:
    """Tell whether somebody closed a descriptor; no, where that cannot be found out."""
    cdef struct_stat status
    if fd == -1 or fstat(fd, &status) == 0:
        return fd == -1 or not _is_file(&status, device, inode)
    return errno.errno == errno.EBADF


cdef void _close(int fd, uint64_t device, uint64_t inode) noexcept nogil:
    """Close a descriptor, unless its number is somebody else's by now."""
    if _is_still(fd, device, inode):  # guard: not ours to close -> if fd != -1:
        close(fd)


cdef class Loan:
    """Loan(fd)

    The owner of a duplicate of `fd`, which is closed with the object.
    """

    cdef object __weakref__
    cdef int _fd
    cdef int _access
    cdef uint64_t _device
    cdef uint64_t _inode

    def __cinit__(self, fd):
        cdef struct_stat status
        cdef int access = -1, error
        belong_to_all(self)
        self._fd = -1
        kept = keep(fd)
        self._fd = fcntl(PyObject_AsFileDescriptor(kept), F_DUPFD_CLOEXEC, 3)
        if self._fd != -1 and fstat(self._fd, &status) == 0:
            access = fcntl(self._fd, F_GETFL)
        if access == -1:
            # Closed here: what is not known to be still ours is not closed later.
            error = errno.errno
            if self._fd != -1:
                close(self._fd)
                self._fd = -1
            elif error == errno.EINVAL:  # RLIMIT_NOFILE allows no number that high
                error = errno.EMFILE
            errno.errno = error
            raise_errno("")
        self._device, self._inode = status.st_dev, status.st_ino
        self._access = access & O_ACCMODE

    def __dealloc__(self):
        with nogil:
            _close(self._fd, self._device, self._inode)

    def fileno(self):
        """Return the duplicate, which stays owned here."""
        return self._fd


cdef class Desk:
    """Desk()

    Where this process writes slips, and learns which of them were used.
    """

    cdef public bint is_kept  # whether somebody waits for what is given back
    cdef int _ends[2]
    cdef Slip _form

    def __cinit__(self):
        cdef struct_stat status
        cdef int error
        cdef bytes start = os.urandom(8)
        self._ends[0] = self._ends[1] = -1
        self._ends[0], self._ends[1] = os.pipe2(O_CLOEXEC | O_NONBLOCK)
        if fstat(self._ends[1], &status) == -1:
            # Closed here: what is not known to be still ours is not closed later.
            error = errno.errno
            close(self._ends[0])
            close(self._ends[1])
            self._ends[0] = self._ends[1] = -1
            errno.errno = error
            raise_errno("")
        memset(&self._form, 0, sizeof(Slip))
        memcpy(self._form.boot, PyBytes_AsString(_boot), 16)
        # Nobody who got the process id or a descriptor of ours later has such numbers.
        memcpy(&self._form.number, PyBytes_AsString(start), 8)
        self._form.pipe_device = status.st_dev
        self._form.pipe_inode = status.st_ino
        self._form.pid = getpid()
        self._form.pipe = self._ends[1]

    def __dealloc__(self):
        self._close_both()

    cdef void _close_both(self) noexcept:
        cdef int i
        for i in range(2):
            _close(self._ends[i], self._form.pipe_device, self._form.pipe_inode)
            self._ends[i] = -1

    cdef bint _is_ours(self) noexcept:
        """Tell whether the end to read from is still what it was."""
        return _is_still(self._ends[0], self._form.pipe_device, self._form.pipe_inode)

    cdef bint _is_gone(self) noexcept:
        return _is_gone(self._ends[0], self._form.pipe_device, self._form.pipe_inode)

    def close(self):
        """Close the pipe."""
        with cython.critical_section(self):
            self._close_both()

    def fileno(self):
        """Return the end of the pipe that can be read when a slip was used, or -1."""
        return self._ends[0]

    def write(self, Loan loan, fd, /):
        """Return the number of a new slip for `loan`, a duplicate of `fd`; and the slip."""
        cdef struct_stat status
        cdef int seals
        kept = keep(fd)
        cdef int descriptor = PyObject_AsFileDescriptor(kept)
        cdef Slip slip
        if fstat(loan._fd, &status) == -1:
            raise_errno(f"descriptor {loan._fd}")
        if not _is_file(&status, loan._device, loan._inode):
            errno.errno = errno.EBADF
            raise_errno(f"descriptor {loan._fd} was closed by somebody else")
        seals = memfd_get_seals(loan._fd)
        with cython.critical_section(self):
            self._form.number += 1
            slip = self._form
        slip.device = status.st_dev
        slip.inode = status.st_ino
        slip.size = status.st_size
        slip.modified = nanoseconds(status)
        slip.loan = loan._fd
        slip.original = descriptor
        slip.access = loan._access
        slip.immutable = seals != -1 and seals & _IMMUTABLE == _IMMUTABLE
        return slip.number, PyBytes_FromStringAndSize(<char *>&slip, sizeof(Slip))

    def read(self, dict pending, /):
        """Take what was given back out of `pending`, number -> anything, and return it.

        Where somebody closed the pipe, `fileno` is -1 from now on.
        """
        cdef uint64_t numbers[_AT_ONCE]
        cdef ssize_t got = sizeof(numbers)
        cdef list found = []
        with cython.critical_section(self):
            if not self._is_ours():  # guard: not ours to read
                if self._is_gone():
                    self._close_both()
                return found
            # In C: what was read once must not be lost when a signal handler raises.
            while got == sizeof(numbers):
                got = read(self._ends[0], numbers, sizeof(numbers))
                for i in range(got // <ssize_t>sizeof(uint64_t)):
                    found.append(pending.pop(numbers[i], None))
        return found


cdef bint _copy(bytes slip, Slip *into):
    """Read a slip, wherever it was written."""
    if PyBytes_Size(slip) != sizeof(Slip):  # guard: size of a slip
        return False
    memcpy(into, PyBytes_AsString(slip), sizeof(Slip))
    return True


cdef bint _read(bytes slip, Slip *into):
    """Read a slip; tell whether it was written on this machine."""
    if not _copy(slip, into):
        return False
    if _boot == bytes(16):
        return False
    # guard: another machine -> return True
    return memcmp(into.boot, PyBytes_AsString(_boot), 16) == 0


cdef bint _is_of(const Slip *slip, const struct_stat *status) noexcept nogil:
    """Tell whether this is the file that was lent."""
    if <uint64_t>status.st_dev != slip.device:  # guard: device of a loan
        return False
    if <uint64_t>status.st_ino != slip.inode:  # guard: inode of a loan
        return False
    if not slip.immutable:
        return True
    # What never changes tells files apart even where inodes are numbered again.
    if status.st_size != slip.size:  # guard: size of a loan
        return False
    return nanoseconds(status[0]) == slip.modified  # guard: time of a loan -> return True


cdef bint _is_pipe_of(const Slip *slip, const struct_stat *status) noexcept nogil:
    """Tell whether this is the pipe of who wrote the slip."""
    if status.st_mode & S_IFMT != S_IFIFO:  # guard: no pipe
        return False
    if <uint64_t>status.st_dev != slip.pipe_device:  # guard: device of a pipe
        return False
    return <uint64_t>status.st_ino == slip.pipe_inode  # guard: pipe -> return True


def file_of(bytes slip, /):
    """Return device and inode of what was lent, and whether it is immutable, or None."""
    cdef Slip form
    if not _read(slip, &form):
        return None
    return form.device, form.inode, form.immutable != 0


def is_of(bytes slip, fd, /):
    """Tell whether `fd` is the file that was lent."""
    cdef Slip form
    cdef struct_stat status
    return (
        _read(slip, &form)
        and fstat(PyObject_AsFileDescriptor(fd), &status) == 0
        and _is_of(&form, &status)
    )


def is_numbered(bytes slip, fd, /):
    """Tell whether `fd`, which came from this machine, has the numbers of what was lent."""
    cdef Slip form
    return _copy(slip, &form) and _is_still(
        PyObject_AsFileDescriptor(fd), form.device, form.inode
    )


cdef int _open(const Slip *slip, int lent) noexcept nogil:
    """Open what was lent where the sender has it as `lent`.  -1 and errno.

    ESTALE: there is another file by now.
    """
    cdef char path[40]
    cdef struct_stat status
    cdef int access, fd, error
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", slip.pid, lent)
    # Looked at first: opening a device, for one, can do things.
    if stat(path, &status) == -1:
        return -1
    if not _is_of(slip, &status):  # guard: look before opening
        errno.errno = errno.ESTALE
        return -1
    # No flag of the slip's, such as O_TRUNC, gets there.
    access = slip.access & O_ACCMODE  # guard: access of a slip -> access = slip.access
    fd = open(path, access | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    if fd == -1:
        return -1
    if fstat(fd, &status) == 0:
        if _is_of(slip, &status):  # guard: look after opening -> if True:
            return fd
        errno.errno = errno.ESTALE
    error = errno.errno
    close(fd)
    errno.errno = error
    return -1


cdef class _Pipe:
    """The pipe that was written to last, as most messages come from one sender."""

    cdef int fd
    cdef int pid
    cdef int number
    cdef uint64_t device
    cdef uint64_t inode

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        _close(self.fd, self.device, self.inode)

    cdef bint reach(self, const Slip *slip) noexcept:
        """Open the pipe of this sender, unless that was done already."""
        cdef char path[40]
        cdef struct_stat status
        if (
            self.pid == slip.pid
            and self.number == slip.pipe
            # guard: not ours to write -> and self.inode == slip.pipe_inode
            and _is_still(self.fd, slip.pipe_device, slip.pipe_inode)
        ):
            return True
        _close(self.fd, self.device, self.inode)
        self.fd = -1
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", slip.pid, slip.pipe)
        if stat(path, &status) == -1 or not _is_pipe_of(slip, &status):
            return False
        # For reading, too, so that no SIGPIPE can come when the sender is gone.
        self.fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
        if self.fd == -1:
            return False
        self.pid, self.number = slip.pid, slip.pipe
        self.device, self.inode = slip.pipe_device, slip.pipe_inode
        if fstat(self.fd, &status) == 0 and _is_pipe_of(slip, &status):
            return True
        close(self.fd)
        self.fd = -1
        return False


_pipe = _Pipe()


def fetch(cls, bytes slip, /):
    """Open what was lent and return a `cls`, a kind of FileIO, that owns it.

    Returns
    -------
    cls or None
        With a position of its own; None if it cannot be opened like this: /proc is
        closed to us, or the sender or its loan are gone.

    Raises
    ------
    OSError
        ``EMFILE``, ``ENFILE``: too many open files.
    """
    cdef Slip form
    cdef int fd
    if not _read(slip, &form):
        return None
    file = _new_file(cls)
    # Before the last descriptor that is left may go.
    with cython.critical_section(_pipe):
        (<_Pipe>_pipe).reach(&form)
    with nogil:
        fd = _open(&form, form.loan)
        if fd == -1 and errno.errno != errno.EMFILE and errno.errno != errno.ENFILE:
            # The loan is over once a message was read; for another reader of the same
            # message the sender may have the file itself.
            fd = _open(&form, form.original)
    if fd == -1:
        if errno.errno == errno.EMFILE or errno.errno == errno.ENFILE:
            raise_errno("no descriptor is left for a memfd that arrived")
        return None
    try:
        init_file(file, fd, "rb" if form.access == O_RDONLY else "r+b")
    except BaseException:
        close(fd)
        raise
    return file


def give_back(bytes slip, /):
    """Tell the sender that its loan is not needed any more; return whether it was told."""
    cdef Slip form
    cdef _Pipe pipe = _pipe
    if not _read(slip, &form):
        return False
    # The GIL stays, and so does the pipe, until the number is written.
    with cython.critical_section(pipe):
        if not pipe.reach(&form):
            return False
        return write(pipe.fd, &form.number, sizeof(uint64_t)) == sizeof(uint64_t)

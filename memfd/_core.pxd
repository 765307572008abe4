"""System calls on a memfd, for Cython: header-only, without the GIL, -1 and errno."""

from cpython.exc cimport PyErr_SetFromErrno
from posix.fcntl cimport fcntl
from posix.stat cimport fstat, struct_stat
from posix.types cimport off_t
from posix.unistd cimport ftruncate

cimport memfd._linux as _linux


cdef inline int memfd_add_seals(int fd, int seals) noexcept nogil:
    """Add `seals` to those of the memfd `fd`.  0, or -1 and errno."""
    return fcntl(fd, _linux.F_ADD_SEALS, seals)


cdef inline int memfd_get_seals(int fd) noexcept nogil:
    """Return the seals of the memfd `fd`, or -1 and errno."""
    return fcntl(fd, _linux.F_GET_SEALS)


cdef inline int memfd_set_size(int fd, off_t size) noexcept nogil:
    """Make the file behind `fd` `size` bytes long.  0, or -1 and errno."""
    return ftruncate(fd, size)


cdef inline off_t memfd_get_size(int fd) noexcept nogil:
    """Return the size of the file behind `fd` in bytes, or -1 and errno."""
    cdef struct_stat status
    if fstat(fd, &status) == -1:
        return -1
    return status.st_size


cdef inline int memfd_raise() except -1:
    """Raise the OSError that belongs to errno.  Call it with the GIL."""
    PyErr_SetFromErrno(OSError)
    return -1

# cython: language_level=3, binding=True, embedsignature=False
# cython: auto_pickle=False, autotestdict=False
# cython: freethreading_compatible=True, subinterpreters_compatible=own_gil
"""Receiving: one read from a Unix socket, and the descriptors that came with it.

In C, as each descriptor has to have an owner before any Python code, a signal handler
for one, can raise.
"""

import io

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc cimport errno
from libc.string cimport memset
from posix cimport unistd

from memfd._check cimport raise_errno, size_argument

cdef extern from "sys/socket.h" nogil:
    enum:
        SOL_SOCKET
        SCM_RIGHTS
        MSG_DONTWAIT
        MSG_CMSG_CLOEXEC
        MSG_CTRUNC
        MSG_TRUNC
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *header)
    unsigned char *CMSG_DATA(cmsghdr *header)
    size_t CMSG_LEN(size_t size)
    ssize_t recvmsg(int fd, msghdr *message, int flags)

cdef extern from *:
    """
    #include <stddef.h>
    #define MEMFD_SCM_MAX_FD 253    /* what the kernel puts into one message */
    #define MEMFD_SCM_PIDFD 4       /* Linux 6.5 */
    /* Room for all of them, and for what the options of a socket may add. */
    typedef union {
        char bytes[CMSG_SPACE(MEMFD_SCM_MAX_FD * sizeof(int)) + 256];
        struct cmsghdr align;
    } memfd_control;
    """
    enum:
        SCM_MAX_FD "MEMFD_SCM_MAX_FD"
        SCM_PIDFD "MEMFD_SCM_PIDFD"
    ctypedef struct memfd_control:
        char bytes[1]

_new_file, _init_file = io.FileIO.__new__, io.FileIO.__init__


cdef class Descriptors:
    """Descriptors that arrived; those that nobody takes are closed with the object."""

    cdef int _fds[253]
    cdef int _count

    def __dealloc__(self):
        self.close()

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        """Return a descriptor, which stays owned here."""
        cdef int i = index
        if not 0 <= i < self._count:
            raise IndexError(index)
        return self._fds[i]

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        """Close them all."""
        while self._count:
            self._count -= 1
            unistd.close(self._fds[self._count])

    def take(self, cls, mode, /):
        """Give the last descriptor to a new `cls`, a kind of FileIO."""
        file = _new_file(cls)
        _init_file(file, self[self._count - 1], mode)
        self._count -= 1
        return file


def receive(fd, size, /):
    """Read once, without waiting, up to `size` bytes from a Unix socket.

    Returns
    -------
    bytes
        What was read; empty at the end of a stream.
    Descriptors or None
        What came with it, close-on-exec.
    bool
        Whether bytes of the message did not fit.

    Raises
    ------
    BlockingIOError
        Nothing is there.
    OSError
        ``EMFILE``: descriptors were lost for want of room in this process.
    """
    cdef int descriptor = fd
    cdef size_t room = size_argument(size)
    cdef bytes data = PyBytes_FromStringAndSize(NULL, room)
    cdef Descriptors owned = Descriptors()
    cdef memfd_control control
    cdef msghdr message
    cdef iovec place
    cdef cmsghdr *header
    cdef int *fds
    cdef size_t count, i
    cdef ssize_t got
    place.iov_base = PyBytes_AS_STRING(data)
    place.iov_len = room
    memset(&message, 0, sizeof(message))
    message.msg_iov = &place
    message.msg_iovlen = 1
    message.msg_control = control.bytes
    message.msg_controllen = sizeof(control)
    # It does not wait, so it need not let the GIL go, nor be interrupted.
    got = recvmsg(descriptor, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
    if got == -1:
        raise_errno("")
    header = CMSG_FIRSTHDR(&message)
    while header != NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_len > CMSG_LEN(0):
            fds = <int *>CMSG_DATA(header)
            count = (header.cmsg_len - CMSG_LEN(0)) // sizeof(int)
            for i in range(count):
                if header.cmsg_type == SCM_PIDFD:
                    unistd.close(fds[i])
                elif header.cmsg_type == SCM_RIGHTS:
                    if owned._count < 253:
                        owned._fds[owned._count] = fds[i]
                        owned._count += 1
                    else:
                        unistd.close(fds[i])
        header = CMSG_NXTHDR(&message, header)
    if message.msg_flags & MSG_CTRUNC:
        errno.errno = errno.EMFILE
        raise_errno("descriptors that were sent did not fit into this process")
    return data[:got], owned if owned._count else None, message.msg_flags & MSG_TRUNC != 0

# cython: language_level=3, binding=True, embedsignature=False
# cython: auto_pickle=False, autotestdict=False
# cython: freethreading_compatible=True, subinterpreters_compatible=own_gil
"""One write to a Unix socket, or one read, and the descriptors that go with it.

In C, as descriptors that came have to have an owner before any Python code can raise; and
as the calls of Python's sockets wait by themselves.
"""

import _socket

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.object cimport PyObject_AsFileDescriptor
from libc cimport errno
from libc.string cimport memcpy, memset
from posix cimport unistd

from memfd._check cimport raise_errno, size_argument
from memfd._descriptors cimport Descriptors

from memfd._core import keep

cdef extern from "sys/socket.h" nogil:
    enum:
        AF_UNIX
        SOCK_STREAM
        SOCK_SEQPACKET
        SOCK_DGRAM
        SOL_SOCKET
        SCM_RIGHTS
        MSG_DONTWAIT
        MSG_NOSIGNAL
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
    size_t CMSG_SPACE(size_t size)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
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

cdef extern from *:
    """
    static PyObject *memfd_get(PyObject *attribute, PyObject *self)
    {
        descrgetfunc get = (descrgetfunc)PyType_GetSlot(
            Py_TYPE(attribute), Py_tp_descr_get);
        return get(attribute, self, (PyObject *)Py_TYPE(self));
    }
    """
    object memfd_get(object attribute, object self)

# As numbers; what `socket` makes of them takes a microsecond each.
_family, _type = _socket.socket.family, _socket.socket.type


def unix_type(sock, /):
    """Return the type of a Unix socket, or None if it is of another family, or raw."""
    cdef int family = memfd_get(_family, sock), kind = memfd_get(_type, sock)
    if family == AF_UNIX and kind in (SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM):
        return kind
    return None


def send(sock, data, file, /):
    """Write once, without waiting, to a Unix socket.

    With the first byte of `data` goes the descriptor of `file`, unless it is None.

    Returns
    -------
    int
        How many bytes were written; 0 where there is no room.

    Raises
    ------
    OSError
        ``EPIPE``, ``ECONNRESET``, ``ECONNREFUSED``: the other side is gone.
    """
    # The sockets are asked here, where no other thread can close them in between.
    kept = None if file is None else keep(file)
    cdef int travelling = -1 if file is None else PyObject_AsFileDescriptor(kept)
    cdef int descriptor = sock.fileno()
    cdef bytes text = data
    cdef memfd_control control
    cdef msghdr message
    cdef iovec place
    cdef cmsghdr *header
    cdef ssize_t sent
    place.iov_base = PyBytes_AsString(text)
    place.iov_len = len(text)
    memset(&message, 0, sizeof(message))
    message.msg_iov = &place
    message.msg_iovlen = 1
    if travelling != -1:
        memset(control.bytes, 0, CMSG_SPACE(sizeof(int)))
        message.msg_control = control.bytes
        message.msg_controllen = CMSG_SPACE(sizeof(int))
        header = CMSG_FIRSTHDR(&message)
        header.cmsg_level = SOL_SOCKET
        header.cmsg_type = SCM_RIGHTS
        header.cmsg_len = CMSG_LEN(sizeof(int))
        memcpy(CMSG_DATA(header), &travelling, sizeof(int))
    # It does not wait, so it need not let the GIL go, nor be interrupted.
    sent = sendmsg(descriptor, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
    if sent == -1:
        if errno.errno == errno.EAGAIN:
            return 0
        raise_errno("")
    return sent


def receive(sock, size, /):
    """Read once, without waiting, up to `size` bytes from a Unix socket.

    Returns
    -------
    None
        Nothing is there.  Else a tuple of:
    bytes
        What was read; empty at the end of a stream.
    Descriptors or None
        What came with it, close-on-exec.
    bool
        Whether bytes of the message did not fit.

    Raises
    ------
    OSError
        ``EMFILE``: descriptors were lost for want of room in this process.
    """
    cdef int descriptor
    cdef size_t room = size_argument(size)
    cdef bytes data = PyBytes_FromStringAndSize(NULL, room)
    cdef Descriptors owned = Descriptors.__new__(Descriptors)
    cdef memfd_control control
    cdef msghdr message
    cdef iovec place
    cdef cmsghdr *header
    cdef int *fds
    cdef int flags
    cdef size_t count, i
    cdef ssize_t got
    place.iov_base = PyBytes_AsString(data)
    place.iov_len = room
    memset(&message, 0, sizeof(message))
    message.msg_iov = &place
    message.msg_iovlen = 1
    message.msg_control = control.bytes
    message.msg_controllen = sizeof(control)
    # It does not wait, so it need not let the GIL go, nor be interrupted.
    flags = MSG_DONTWAIT  # guard: never waits -> flags = 0
    flags |= MSG_CMSG_CLOEXEC  # guard: close-on-exec
    descriptor = sock.fileno()
    got = recvmsg(descriptor, &message, flags)
    if got == -1:
        if errno.errno == errno.EAGAIN:
            return None
        raise_errno("")
    header = CMSG_FIRSTHDR(&message)
    while header != NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_len > CMSG_LEN(0):
            fds = <int *>CMSG_DATA(header)
            count = (header.cmsg_len - CMSG_LEN(0)) // sizeof(int)
            for i in range(count):
                if header.cmsg_type == SCM_PIDFD:  # guard: pidfd
                    unistd.close(fds[i])
                elif header.cmsg_type == SCM_RIGHTS:  # guard: credentials -> else:
                    if owned._count < 253:
                        owned._fds[owned._count] = fds[i]
                        owned._count += 1
                    else:
                        unistd.close(fds[i])
        header = CMSG_NXTHDR(&message, header)
    if message.msg_flags & MSG_CTRUNC:  # guard: lost descriptors
        errno.errno = errno.EMFILE
        raise_errno("descriptors that were sent did not fit into this process")
    # A slice of `data` would be made through a slice object.
    data = PyBytes_FromStringAndSize(PyBytes_AsString(data), got)
    return data, owned if owned._count else None, message.msg_flags & MSG_TRUNC != 0

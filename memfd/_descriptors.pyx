# cython: language_level=3, binding=True, embedsignature=False
# cython: auto_pickle=False, autotestdict=False
# cython: freethreading_compatible=True, subinterpreters_compatible=own_gil
"""Descriptors that come from elsewhere: owned at once, and closed without waiting.

In C, as each has to have an owner before any Python code, a signal handler for one, can
raise.
"""

import io
import os

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc cimport errno
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen
from posix cimport unistd
from posix.fcntl cimport (
    F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, FD_CLOEXEC, O_ACCMODE, O_CLOEXEC, O_NOCTTY,
    O_NONBLOCK, fcntl, open,
)
from posix.signal cimport SIG_SETMASK, sigfillset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.types cimport pid_t, sigset_t

from memfd._check cimport raise_errno
from memfd._core cimport memfd_get_seals

from memfd._core import init_file, keep

cdef extern from "fcntl.h" nogil:
    int F_GETPIPE_SZ

cdef extern from "unistd.h" nogil:
    int dup3(int old, int new, int flags)

cdef extern from "signal.h" nogil:
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *before)

cdef extern from "sys/socket.h" nogil:
    enum:
        SOL_SOCKET
        SO_LINGER
    struct linger:
        pass
    int setsockopt(int fd, int level, int option, const void *value, unsigned int size)

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_t:
        pass
    int pthread_create(
        pthread_t *thread, const void *how, void *(*run)(void *) noexcept nogil,
        void *argument
    )
    int pthread_detach(pthread_t thread)
    int pthread_timedjoin_np(pthread_t thread, void **answer, const timespec *until)

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static int memfd_of_process(pid_t pid, int fd)
    {
    #ifdef SYS_pidfd_getfd          /* Linux 5.6 */
        int process = (int)syscall(SYS_pidfd_open, pid, 0);
        if (process == -1)
            return -1;
        int own = (int)syscall(SYS_pidfd_getfd, process, fd, 0), error = errno;
        close(process);
        errno = error;
        return own;
    #else
        errno = ENOSYS;
        return -1;
    #endif
    }
    """
    int memfd_of_process(pid_t pid, int fd)

cdef extern from *:
    """
    static int memfd_closing;  /* how many threads wait for a close(2) */
    #define MEMFD_ADD(number) __atomic_add_fetch(&memfd_closing, number, __ATOMIC_RELAXED)

    static PyObject *memfd_new(PyObject *base, PyObject *cls, PyObject *arguments)
    {
        newfunc new = (newfunc)PyType_GetSlot((PyTypeObject *)base, Py_tp_new);
        return new((PyTypeObject *)cls, arguments, NULL);
    }
    """
    int closing "MEMFD_ADD"(int number) nogil
    # What Python reaches through a wrapper, which makes arguments and checks them anew.
    object memfd_new(object base, object cls, tuple arguments)

cdef enum:
    _MOST_CLOSING = 16  # threads
    _PATIENCE = 10_000_000  # nanoseconds

_FileIO = io.FileIO


def _after_fork():
    closing(-closing(0))  # the threads are not in this process


os.register_at_fork(after_in_child=_after_fork)


cdef void *_run_close(void *argument) noexcept nogil:
    """Close as many descriptors as the first number says; those follow it."""
    cdef int *fds = <int *>argument
    cdef int i
    for i in range(fds[0]):
        unistd.close(fds[i + 1])
    free(fds)
    closing(-1)
    return NULL


cdef bint _is_quick(int fd) noexcept nogil:
    """Tell whether a descriptor closes without waiting for anybody."""
    return memfd_get_seals(fd) != -1 or fcntl(fd, F_GETPIPE_SZ) != -1


cdef void _close_slowly(const int *fds, int count) noexcept nogil:
    """Close whatever it is, and go on after 10 ms where that takes longer.

    A stranger decides how long it takes: its socket lingers, its file system waits.
    """
    cdef linger none
    cdef sigset_t signals, before
    cdef pthread_t thread
    cdef timespec until
    cdef int error
    cdef int *batch = <int *>malloc((count + 1) * sizeof(int))
    memset(&none, 0, sizeof(none))
    for i in range(count):
        setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &none, sizeof(none))
        if batch == NULL:
            unistd.close(fds[i])
    if batch == NULL:
        return
    batch[0] = count
    memcpy(batch + 1, fds, count * sizeof(int))
    # A thread ends only when its files let it, so there must not be too many.
    if closing(1) > _MOST_CLOSING:
        _run_close(batch)
        return
    sigfillset(&signals)
    pthread_sigmask(SIG_SETMASK, &signals, &before)
    error = pthread_create(&thread, NULL, _run_close, batch)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    if error:
        _run_close(batch)
        return
    clock_gettime(CLOCK_REALTIME, &until)
    until.tv_nsec += _PATIENCE
    if until.tv_nsec >= 1_000_000_000:
        until.tv_nsec -= 1_000_000_000
        until.tv_sec += 1
    if pthread_timedjoin_np(thread, NULL, &until):
        pthread_detach(thread)


cdef class Descriptors:
    """Descriptors that came; those that nobody takes are closed with the object."""

    def __dealloc__(self):
        self.close()  # guard: dropped descriptors -> pass

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        """Return a descriptor, which stays owned here."""
        cdef int i = index
        if not 0 <= i < self._count:
            raise IndexError(index)
        return self._fds[i]

    cpdef close(self):
        """Close them all."""
        cdef int fd, slow[253]
        cdef int count = 0
        while self._count:
            self._count -= 1
            fd = self._fds[self._count]
            if _is_quick(fd):  # guard: close that waits -> if True:
                with nogil:
                    unistd.close(fd)
            else:
                slow[count] = fd
                count += 1
        if count:
            with nogil:
                _close_slowly(slow, count)

    def take(self, cls, mode, /):
        """Give the last descriptor to a new `cls`, a kind of FileIO."""
        file = memfd_new(_FileIO, cls, ())
        init_file(file, self._fds[self._count - 1], mode)
        self._count -= 1
        return file


cdef Descriptors _owned(int fd):
    cdef Descriptors owner = Descriptors.__new__(Descriptors)
    owner._fds[0] = fd
    owner._count = 1
    return owner


def opened(path, flags, /):
    """Open a path, with close-on-exec; a FIFO or terminal is not waited for."""
    cdef bytes encoded = os.fsencode(path)
    cdef const char *name = encoded
    cdef int how = flags, fd = -1
    if <Py_ssize_t>strlen(name) != len(encoded):
        raise ValueError(f"path must not contain a null byte, got {path!r}")
    errno.errno = errno.EINTR
    while fd == -1 and errno.errno == errno.EINTR:
        PyErr_CheckSignals()
        with nogil:
            fd = open(name, how | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    if fd == -1:
        raise OSError(errno.errno, os.strerror(errno.errno), path)
    return _owned(fd)


def duplicate(fd, /):
    """Duplicate a descriptor, with close-on-exec."""
    cdef int given = fd, own = fcntl(given, F_DUPFD_CLOEXEC, 0)
    if own == -1:
        raise_errno(f"descriptor {given}")
    return _owned(own)


def of_process(pid, fd, /):
    """Duplicate a descriptor of another process, with close-on-exec.

    Nothing is opened, so nobody is told, as the owner of a lease would be, and no mode is
    asked for.  It takes the right to trace that process.
    """
    cdef int own = memfd_of_process(pid, fd)
    if own == -1:
        raise_errno(f"descriptor {fd} of process {pid}")
    return _owned(own)


def adopt(cls, fd, mode, /):
    """Give a descriptor to a new `cls`, a kind of Memfd, which has its own position.

    Whatever this raises, the descriptor is still the caller's.
    """
    file = memfd_new(_FileIO, cls, ())
    file._foreign = True  # guard: offset
    init_file(file, fd, mode)
    del file.name  # the kernel knows a better one
    return file


def leave_description(file, /):
    """Give a received file a description of its own, at offset 0; tell whether it has one.

    Tried once: after that, the file has a position somewhere.  All at once: no other thread
    of Python and no signal handler sees the half of it.
    """
    cdef char path[32]
    cdef int fd, other, flags, error
    kept = keep(file)
    with cython.critical_section(file):
        if file._foreign is not True:
            return not file._foreign
        fd = kept.fileno()
        flags = fcntl(fd, F_GETFL)
        if flags == -1:
            raise_errno(f"descriptor {fd}")
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd)
        other = open(path, (flags & O_ACCMODE) | O_CLOEXEC | O_NONBLOCK)
        if other == -1:
            file._foreign = "for ever"
            return False
        flags = O_CLOEXEC if fcntl(fd, F_GETFD) & FD_CLOEXEC else 0
        error = 0 if dup3(other, fd, flags) != -1 else errno.errno
        unistd.close(other)
        if error:
            errno.errno = error
            raise_errno(f"descriptor {fd}")
        file._foreign = False
    return True

"""Arguments and errors: what every compiled module of the package does alike.

Inline, so that no module needs another one's C functions at run time.
"""

from cpython.buffer cimport PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport ENOMEM, errno
from posix.types cimport off_t

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1


cdef inline long long _integer(object value, str argument, int *overflow) except? -1:
    if not isinstance(value, int):
        if not hasattr(value, "__index__"):
            raise TypeError(f"{argument} must be an int, not {type(value).__name__}")
        value = value.__index__()
    return PyLong_AsLongLongAndOverflow(value, overflow)


cdef inline off_t size_argument(object value, str argument="size") except -1:
    """Return a number of bytes, or raise what is wrong with the argument."""
    cdef int overflow = 0
    cdef long long size = _integer(value, argument, &overflow)
    if size < 0 and overflow <= 0:  # guard: negative size
        raise ValueError(f"{argument} must not be negative, got {value}")
    if overflow:  # guard: size beyond C
        raise OverflowError(f"{argument} must be below 2**63 bytes, got {value}")
    return size


cdef inline size_t memory_size(off_t size) except? 0:
    """Return bytes as C counts memory, of which 32 bits give less than a file can have."""
    if <off_t><size_t>size != size:
        import os
        raise OSError(
            ENOMEM, f"{os.strerror(ENOMEM)}: mapping {size} bytes, beyond all addresses"
        )
    return <size_t>size


cdef inline unsigned int flags_argument(
    object value, str argument
) except? 0xffffffff:
    """Return flags as a C unsigned int; never truncate."""
    cdef int overflow = 0
    cdef long long flags = _integer(value, argument, &overflow)
    if overflow or not 0 <= flags <= 0xffffffff:  # guard: flags beyond C
        raise OverflowError(f"{argument} must fit an unsigned int, got {value}")
    return <unsigned int>flags


cdef inline Py_ssize_t offset_in(object array, size_t address, size_t size) except? -1:
    """Return where in some memory an array begins, or -1 if it reaches outside."""
    cdef Py_buffer view
    cdef Py_ssize_t start, low, high, steps, limit
    cdef bint is_inside = True
    cdef int i
    PyObject_GetBuffer(array, &view, PyBUF_STRIDED_RO)
    # As numbers: to a compiler, these need not be addresses within one object.
    start = low = high = <Py_ssize_t>(<size_t>view.buf - address)
    for i in range(view.ndim):
        steps = view.shape[i] - 1
        if steps <= 0:
            continue
        # Strides that were made up can be so long that the product would wrap around.
        limit = <Py_ssize_t>(size // <size_t>steps)
        if not -limit <= view.strides[i] <= limit:
            is_inside = False
        elif view.strides[i] < 0:
            low += steps * view.strides[i]
        else:
            high += steps * view.strides[i]
    high += view.itemsize
    if view.len == 0:
        start = 0
    # guard: array outside of its memory -> elif False:
    elif not is_inside or low < 0 or high > <Py_ssize_t>size:
        start = -1
    PyBuffer_Release(&view)
    return start


cdef inline int raise_errno(str hint) except -1:
    """Raise the OSError of errno, with `hint` (what to do about it) in its text."""
    cdef int error = errno
    import os
    text = os.strerror(error)
    raise OSError(error, f"{text}: {hint}" if hint else text)

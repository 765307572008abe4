"""The owner of descriptors that came from elsewhere, for the compiled modules."""


cdef class Descriptors:
    cdef int _fds[253]  # what the kernel puts into one message
    cdef int _count

    cpdef close(self)

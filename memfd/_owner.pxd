"""Owners: objects that close a descriptor as they go, in whichever thread that is.

Without a GIL, CPython counts the references of the thread that made an object apart from
all others.  Whoever drops the last of the others leaves the object to that thread, which
may sleep in a system call for as long as it likes, and the descriptor stays open.
"""

cdef extern from *:
    """
    #if defined(Py_GIL_DISABLED) && !defined(Py_LIMITED_API)
    static void memfd_belong_to_all(PyObject *object)
    {
        object->ob_ref_shared = _Py_REF_SHARED(object->ob_ref_local, _Py_REF_MERGED);
        object->ob_ref_local = 0;
        object->ob_tid = 0;
    }
    #else
    #define memfd_belong_to_all(object) ((void)(object))
    #endif
    """
    # As CPython does when the thread that made an object has ended.  Only for one that
    # nobody else has yet: in __cinit__.
    void belong_to_all "memfd_belong_to_all"(object new)

"""The Cython door: every name for ``from memfd cimport …``, and nothing else.

Header-only: what is cimported from here is compiled into the importing module, which
needs nothing of this package at run time.
"""

from memfd._core cimport (
    memfd_add_seals,
    memfd_get_seals,
    memfd_get_size,
    memfd_raise,
    memfd_set_size,
)
from memfd._linux cimport (
    F_ADD_SEALS,
    F_GET_SEALS,
    F_SEAL_EXEC,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_EXEC,
    MFD_HUGE_16GB,
    MFD_HUGE_16MB,
    MFD_HUGE_1GB,
    MFD_HUGE_1MB,
    MFD_HUGE_256MB,
    MFD_HUGE_2GB,
    MFD_HUGE_2MB,
    MFD_HUGE_32MB,
    MFD_HUGE_512KB,
    MFD_HUGE_512MB,
    MFD_HUGE_64KB,
    MFD_HUGE_8MB,
    MFD_HUGE_MASK,
    MFD_HUGE_SHIFT,
    MFD_HUGETLB,
    MFD_NOEXEC_SEAL,
    memfd_create,
)
from memfd._mapping cimport memfd_map, memfd_unmap

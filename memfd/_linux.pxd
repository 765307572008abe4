"""What the kernel offers: declarations only, no logic.

The MFD_ and F_SEAL_ numbers are kernel ABI, the same on every architecture, so those
that C libraries lack or got late are given here, under a prefix of our own: this file is
compiled into other packages, whose headers may define the plain names.
"""

cdef extern from "sys/mman.h" nogil:
    """
    #ifndef MFD_CLOEXEC         /* a C library older than glibc 2.27 or musl 1.1.20 */
    #include <sys/syscall.h>
    #include <unistd.h>
    #define MFD_CLOEXEC 0x0001U
    #define MFD_ALLOW_SEALING 0x0002U
    static inline int memfd_create(const char *name, unsigned int flags)
    {
        return (int)syscall(SYS_memfd_create, name, flags);
    }
    #endif
    """
    int memfd_create(const char *name, unsigned int flags)
    const unsigned int MFD_CLOEXEC
    const unsigned int MFD_ALLOW_SEALING

cdef extern from * nogil:
    """
    #ifndef MEMFD_PXD_FLAGS
    #define MEMFD_PXD_FLAGS
    #define MEMFD_PXD_HUGETLB 0x0004U        /* Linux 4.14 */
    #define MEMFD_PXD_NOEXEC_SEAL 0x0008U    /* Linux 6.3 */
    #define MEMFD_PXD_EXEC 0x0010U           /* Linux 6.3 */
    #define MEMFD_PXD_HUGE_SHIFT 26
    #define MEMFD_PXD_HUGE_MASK 0x3fU
    #define MEMFD_PXD_HUGE(log2) ((unsigned int)(log2) << MEMFD_PXD_HUGE_SHIFT)
    #define MEMFD_PXD_F_ADD_SEALS 1033       /* Linux 3.17 */
    #define MEMFD_PXD_F_GET_SEALS 1034
    #define MEMFD_PXD_F_SEAL_SEAL 0x0001
    #define MEMFD_PXD_F_SEAL_SHRINK 0x0002
    #define MEMFD_PXD_F_SEAL_GROW 0x0004
    #define MEMFD_PXD_F_SEAL_WRITE 0x0008
    #define MEMFD_PXD_F_SEAL_FUTURE_WRITE 0x0010    /* Linux 5.1 */
    #define MEMFD_PXD_F_SEAL_EXEC 0x0020            /* Linux 6.3 */
    #define MEMFD_PXD_MADV_POPULATE_READ 22         /* Linux 5.14 */
    #define MEMFD_PXD_MADV_POPULATE_WRITE 23        /* Linux 5.14 */
    #define MEMFD_PXD_MADV_COLLAPSE 25              /* Linux 6.1 */
    #define MEMFD_PXD_HUGETLBFS_MAGIC 0x958458f6
    #endif
    """
    const unsigned int MFD_HUGETLB "MEMFD_PXD_HUGETLB"
    const unsigned int MFD_NOEXEC_SEAL "MEMFD_PXD_NOEXEC_SEAL"
    const unsigned int MFD_EXEC "MEMFD_PXD_EXEC"
    const unsigned int MFD_HUGE_SHIFT "MEMFD_PXD_HUGE_SHIFT"
    const unsigned int MFD_HUGE_MASK "MEMFD_PXD_HUGE_MASK"
    const unsigned int MFD_HUGE_64KB "MEMFD_PXD_HUGE(16)"
    const unsigned int MFD_HUGE_512KB "MEMFD_PXD_HUGE(19)"
    const unsigned int MFD_HUGE_1MB "MEMFD_PXD_HUGE(20)"
    const unsigned int MFD_HUGE_2MB "MEMFD_PXD_HUGE(21)"
    const unsigned int MFD_HUGE_8MB "MEMFD_PXD_HUGE(23)"
    const unsigned int MFD_HUGE_16MB "MEMFD_PXD_HUGE(24)"
    const unsigned int MFD_HUGE_32MB "MEMFD_PXD_HUGE(25)"
    const unsigned int MFD_HUGE_256MB "MEMFD_PXD_HUGE(28)"
    const unsigned int MFD_HUGE_512MB "MEMFD_PXD_HUGE(29)"
    const unsigned int MFD_HUGE_1GB "MEMFD_PXD_HUGE(30)"
    const unsigned int MFD_HUGE_2GB "MEMFD_PXD_HUGE(31)"
    const unsigned int MFD_HUGE_16GB "MEMFD_PXD_HUGE(34)"
    const int F_ADD_SEALS "MEMFD_PXD_F_ADD_SEALS"
    const int F_GET_SEALS "MEMFD_PXD_F_GET_SEALS"
    const int F_SEAL_SEAL "MEMFD_PXD_F_SEAL_SEAL"
    const int F_SEAL_SHRINK "MEMFD_PXD_F_SEAL_SHRINK"
    const int F_SEAL_GROW "MEMFD_PXD_F_SEAL_GROW"
    const int F_SEAL_WRITE "MEMFD_PXD_F_SEAL_WRITE"
    const int F_SEAL_FUTURE_WRITE "MEMFD_PXD_F_SEAL_FUTURE_WRITE"
    const int F_SEAL_EXEC "MEMFD_PXD_F_SEAL_EXEC"
    const int MADV_POPULATE_READ "MEMFD_PXD_MADV_POPULATE_READ"
    const int MADV_POPULATE_WRITE "MEMFD_PXD_MADV_POPULATE_WRITE"
    const int MADV_COLLAPSE "MEMFD_PXD_MADV_COLLAPSE"
    const unsigned long HUGETLBFS_MAGIC "MEMFD_PXD_HUGETLBFS_MAGIC"

cdef extern from "sys/vfs.h" nogil:
    ctypedef struct struct_statfs "struct statfs":
        long f_type
    int fstatfs(int fd, struct_statfs *result)

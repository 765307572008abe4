"""The types of the system call and what belongs to it."""

import os
from typing import assert_type

import memfd

FLAGS = (
    memfd.MFD_ALLOW_SEALING
    | memfd.MFD_CLOEXEC
    | memfd.MFD_EXEC
    | memfd.MFD_HUGETLB
    | memfd.MFD_HUGE_1GB
    | memfd.MFD_HUGE_1MB
    | memfd.MFD_HUGE_2GB
    | memfd.MFD_HUGE_2MB
    | memfd.MFD_HUGE_8MB
    | memfd.MFD_HUGE_16GB
    | memfd.MFD_HUGE_16MB
    | memfd.MFD_HUGE_32MB
    | memfd.MFD_HUGE_64KB
    | memfd.MFD_HUGE_256MB
    | memfd.MFD_HUGE_512KB
    | memfd.MFD_HUGE_512MB
    | memfd.MFD_HUGE_MASK << memfd.MFD_HUGE_SHIFT
    | memfd.MFD_NOEXEC_SEAL
)
SEALS = (
    memfd.F_SEAL_EXEC
    | memfd.F_SEAL_FUTURE_WRITE
    | memfd.F_SEAL_GROW
    | memfd.F_SEAL_SEAL
    | memfd.F_SEAL_SHRINK
    | memfd.F_SEAL_WRITE
)


def check_constants() -> None:
    assert_type(FLAGS, int)
    assert_type(SEALS, int)
    assert_type(memfd.F_ADD_SEALS, int)
    assert_type(memfd.F_GET_SEALS, int)
    assert_type(memfd.__version__, str)
    assert_type(memfd.get_include(), str)


def check_system_calls() -> None:
    fd = memfd.memfd_create("it", memfd.MFD_CLOEXEC | memfd.MFD_ALLOW_SEALING)
    assert_type(fd, int)
    memfd.set_size(fd, 4096)
    assert_type(memfd.get_size(fd), int)
    assert_type(memfd.get_seals(fd), memfd.Seal)
    assert_type(memfd.add_seals(fd, memfd.Seal.GROW), memfd.Seal)
    assert_type(memfd.add_seals(fd, memfd.F_SEAL_SHRINK), memfd.Seal)
    address = memfd.map(fd, 4096, True)
    assert_type(address, int)
    memfd.unmap(address, 4096)
    os.close(fd)
    for name in b"it", os.fsencode("it"):
        os.close(memfd.memfd_create(name))


def check_seals() -> None:
    for seal in (
        memfd.Seal.SEAL,
        memfd.Seal.SHRINK,
        memfd.Seal.GROW,
        memfd.Seal.WRITE,
        memfd.Seal.FUTURE_WRITE,
        memfd.Seal.EXEC,
    ):
        assert_type(seal | memfd.Seal.IMMUTABLE, memfd.Seal)
    error = memfd.SealError("text", memfd.Seal.GROW, memfd.Seal(0))
    assert_type(error.missing, memfd.Seal)
    assert_type(error.present, memfd.Seal)
    as_value_error: ValueError = error
    assert as_value_error is error

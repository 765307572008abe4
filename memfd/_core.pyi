import enum
from os import PathLike
from typing import Protocol, SupportsIndex

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

__version__: str
NAME_MAX: int
MFD_CLOEXEC: int
MFD_ALLOW_SEALING: int
MFD_HUGETLB: int
MFD_NOEXEC_SEAL: int
MFD_EXEC: int
MFD_HUGE_SHIFT: int
MFD_HUGE_MASK: int
MFD_HUGE_64KB: int
MFD_HUGE_512KB: int
MFD_HUGE_1MB: int
MFD_HUGE_2MB: int
MFD_HUGE_8MB: int
MFD_HUGE_16MB: int
MFD_HUGE_32MB: int
MFD_HUGE_256MB: int
MFD_HUGE_512MB: int
MFD_HUGE_1GB: int
MFD_HUGE_2GB: int
MFD_HUGE_16GB: int
F_ADD_SEALS: int
F_GET_SEALS: int
F_SEAL_SEAL: int
F_SEAL_SHRINK: int
F_SEAL_GROW: int
F_SEAL_WRITE: int
F_SEAL_FUTURE_WRITE: int
F_SEAL_EXEC: int

class Seal(enum.IntFlag):
    SEAL = 1
    SHRINK = 2
    GROW = 4
    WRITE = 8
    FUTURE_WRITE = 16
    EXEC = 32
    IMMUTABLE = 14

class SealError(ValueError):
    missing: Seal
    present: Seal
    def __init__(self, message: str, missing: Seal, present: Seal) -> None: ...

def memfd_create(
    name: str | bytes | PathLike[str] | PathLike[bytes], flags: SupportsIndex = ...
) -> int: ...
def add_seals(fd: int | _HasFileno, seals: SupportsIndex, /) -> Seal: ...
def get_seals(fd: int | _HasFileno, /) -> Seal: ...
def set_size(fd: int | _HasFileno, size: SupportsIndex, /) -> None: ...
def get_size(fd: int | _HasFileno, /) -> int: ...
def is_hugetlb(fd: int | _HasFileno, /) -> bool: ...
def check_size(value: SupportsIndex, /, argument: str = "size") -> int: ...
def new(
    name: str | bytes | PathLike[str] | PathLike[bytes],
    size: SupportsIndex,
    flags: int,
    mode: int,
    sealable: bool,
    /,
) -> int: ...

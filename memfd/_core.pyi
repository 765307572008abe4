import _thread
import io
from collections.abc import Callable
from typing import SupportsIndex, TypeVar, TypeVarTuple, final

from memfd._seal import Seal
from memfd._types import HasFileno, Name

_File = TypeVar("_File", bound=io.FileIO)
_Arguments = TypeVarTuple("_Arguments")
_Answer = TypeVar("_Answer")

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
IMMUTABLE: int

def memfd_create(name: Name, flags: SupportsIndex = ...) -> int: ...
def add_seals(fd: int | HasFileno, seals: SupportsIndex, /) -> Seal: ...
def get_seals(fd: int | HasFileno, /) -> Seal: ...
def add_seal_bits(fd: int | HasFileno, seals: int, /) -> None: ...
def seal_bits(fd: int | HasFileno, /) -> int: ...
def set_size(fd: int | HasFileno, size: SupportsIndex, /) -> None: ...
def get_size(fd: int | HasFileno, /) -> int: ...
def is_hugetlb(fd: int | HasFileno, /) -> bool: ...
def check_size(value: SupportsIndex, /, argument: str = "size") -> int: ...
def check_requirements(
    require: SupportsIndex | None, max_size: SupportsIndex | None, /
) -> tuple[int | None, int | None]: ...

@final
class Descriptor:
    def fileno(self) -> int: ...

def init_file(file: io.FileIO, fd: int, mode: str, /) -> None: ...
def release(file: io.FileIO, /) -> None: ...
def keep(file: int | HasFileno, /) -> int | HasFileno: ...
def keeping(
    function: Callable[[_File, *_Arguments], _Answer],
    file: _File,
    /,
    *arguments: *_Arguments,
) -> _Answer: ...
def locked(
    lock: _thread.LockType | _thread.RLock,
    function: Callable[[*_Arguments], _Answer],
    /,
    *arguments: *_Arguments,
) -> _Answer: ...
def start_daemon(
    function: Callable[[*_Arguments], object], /, *arguments: *_Arguments
) -> bool: ...
def release_if_owned(lock: _thread.RLock, /) -> None: ...
def new(
    cls: type[_File],
    name: Name,
    size: SupportsIndex,
    flags: int,
    mode: int,
    sealable: bool,
    /,
) -> _File: ...
def look_at(fd: int | HasFileno, /) -> tuple[int, int, int, int, bool]: ...
def has_holes(fd: int | HasFileno, size: int, is_sealed: bool, /) -> bool | None: ...
def glance(
    fd: int, require: int | None, max_size: int | None, /
) -> tuple[int, bool, bool] | None: ...

"""Types that several modules name in annotations; nothing imports it at run time."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal, Protocol, SupportsIndex, TypeAlias

from memfd._fill import Filler

Name: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]
Mode: TypeAlias = Literal["r", "r+", "c"]
Order: TypeAlias = Literal["C", "F"]
Huge: TypeAlias = Literal["auto", "always", "never"]
AnyOrder: TypeAlias = Literal["K", "A", "C", "F"]
Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex]


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class HasClosed(Protocol):
    @property
    def closed(self) -> bool: ...


class HasWrite(Protocol):
    def write(self, filler: Filler, offset: int, begin: int, end: int, /) -> None: ...

"""Types that several modules name in annotations; nothing imports it at run time."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from types import EllipsisType
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias

import numpy as np
from typing_extensions import TypeVar

from memfd._fill import Filler

Name: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]
Mode: TypeAlias = Literal["r", "r+", "c"]
Order: TypeAlias = Literal["C", "F"]
Huge: TypeAlias = Literal["auto", "always", "never"]
AnyOrder: TypeAlias = Literal["K", "A", "C", "F"]
Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex]

# Of an array, as NumPy has them: `Array` alone, without brackets, can be any.
AnyShape: TypeAlias = tuple[Any, ...]
ScalarT = TypeVar("ScalarT", bound=np.generic)
ShapeT = TypeVar("ShapeT", bound=tuple[int, ...])
DTypeT = TypeVar("DTypeT", bound=np.dtype[Any])
ShapeT_co = TypeVar(
    "ShapeT_co", bound=tuple[int, ...], default=AnyShape, covariant=True
)
DTypeT_co = TypeVar(
    "DTypeT_co", bound=np.dtype[Any], default=np.dtype[Any], covariant=True
)

# What says which type the elements have; "f4" and float only do so at run time.
DTypeOf: TypeAlias = type[ScalarT] | np.dtype[ScalarT]

# What an index has that gives a view, but for integers.
Part: TypeAlias = slice | EllipsisType | None


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class HasClosed(Protocol):
    @property
    def closed(self) -> bool: ...


class HasWrite(Protocol):
    def write(self, filler: Filler, offset: int, begin: int, end: int, /) -> None: ...

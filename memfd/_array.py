"""Arrays: `Array` is a NumPy array whose memory is a memfd, and the memfd a .npy file."""

from __future__ import annotations

import itertools
import operator
import os

import numpy as np

from memfd import _block, _descriptors, _file, _mapping, _npy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self, SupportsIndex, overload

    import numpy.typing as npt

    from memfd._file import Memfd
    from memfd._types import (
        AnyShape,
        DTypeT_co,
        Mode,
        Order,
        Part,
        ShapeT_co,
    )

else:
    ShapeT_co, DTypeT_co = tuple, np.dtype


class Array(np.ndarray[ShapeT_co, DTypeT_co]):
    """A NumPy array whose memory is a memfd.

    Made by `share`, `empty`, `zeros`, `full`, `freeze` and `attach`.  Views of it are
    Arrays over the same memory; results of arithmetic and copies are ordinary arrays, or
    have ``memfd`` None.  The array keeps its memory alive, whatever else is closed.

    In multiprocessing an Array, and any view of one, travels as a descriptor: the
    receiver maps the same pages.  Pickled otherwise it becomes an ordinary array.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> a = memfd.share(np.arange(6).reshape(2, 3))
    >>> a[:, 1].memfd is a.memfd
    True
    >>> (a + 1).__class__.__name__
    'ndarray'
    """

    __slots__ = ()

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        raise TypeError("use memfd.share(), empty(), zeros(), full() or attach()")

    @property
    def memfd(self) -> Memfd | None:
        """Memfd or None: The memfd behind this array, which is a .npy file.

        None for a copy, and for an array that was frozen: it goes on with pages of its
        own.
        """
        memory = memory_of(self)
        return None if memory is None else memory.memfd

    if TYPE_CHECKING:

        @overload  # type: ignore[override, unused-ignore]  # a view is an Array, too
        def __getitem__(
            self, key: npt.NDArray[Any], /
        ) -> np.ndarray[AnyShape, DTypeT_co]: ...
        @overload
        def __getitem__(
            self, key: SupportsIndex | tuple[SupportsIndex, ...], /
        ) -> Any: ...
        @overload
        def __getitem__(
            self, key: Part | tuple[Part | SupportsIndex, ...], /
        ) -> Array[AnyShape, DTypeT_co]: ...
        @overload
        def __getitem__(self, key: str | list[str], /) -> Array[ShapeT_co]: ...
        @overload
        def __getitem__(self, key: Any, /) -> np.ndarray[AnyShape, DTypeT_co]: ...
        def __getitem__(self, key: Any, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]:
        # Left alone, CPython looks up and calls __getitem__ by name for each row.
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        rows = itertools.repeat(self), range(len(self))
        return map(operator.getitem, *rows)

    def __array_wrap__(
        self,
        array: npt.NDArray[Any],
        context: Any = None,
        return_scalar: bool | None = None,
    ) -> Any:
        # A result is no memfd, except where this array was given as `out`.
        if array is self:
            return self
        # NumPy's squeeze() comes here with a view, which is no result.
        memory = memory_of(array)
        if memory is not None and memory is memory_of(self):
            return array.view(Array)
        if return_scalar is None:  # NumPy 1
            return_scalar = array.ndim == 0
        return array[()] if return_scalar else array.view(np.ndarray)

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.view(np.ndarray).__reduce__()

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        return self.view(np.ndarray).__reduce_ex__(protocol)


class Memory(_mapping.Mapping):
    """All of a memfd in memory, and the memfd; the end of an Array's ``.base`` chain."""

    __slots__ = ("memfd",)

    memfd: Memfd | None

    def close(self) -> None:
        """Refuse: the arrays over it hold no export that would say so."""
        # guard: memory under arrays -> super().close()
        raise BufferError("the memory of an Array goes with the last array over it")


class PooledMemory(_block.Frame):
    """What a block of a BufferPool holds, in its place in an Array's ``.base`` chain."""

    __slots__ = ()

    @property
    def memfd(self) -> Memfd:
        """Memfd: For reading only, and opened when it is first asked for."""
        memfd = self._kept()
        if memfd is None:
            descriptors = _descriptors.opened(self._path(), os.O_RDONLY)
            opened = descriptors.take(_file.Memfd, "rb")
            del opened.name  # the kernel knows it
            opened._mark = self._mark
            memfd = self._kept(opened)
        return memfd


_MEMORIES = (Memory, PooledMemory)


def memory_of(array: npt.NDArray[Any]) -> Memory | PooledMemory | None:
    """Return the memory of a memfd that `array` lies in, or None."""
    base: Any = array.base
    while base is not None:
        if type(base) is memoryview:
            base = base.obj
        elif type(base) in _MEMORIES:
            return base  # type: ignore[no-any-return]
        else:  # an array, or what as_strided() puts between
            base = getattr(base, "base", None)
    return None


def view(
    memory: Memory | PooledMemory,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    offset: int,
    strides: tuple[int, ...] | None = None,
    order: Order = "C",
) -> Array:
    """Return an Array in `memory`; NumPy checks that it does not reach outside."""
    if strides is not None and 0 in shape:
        strides = None  # of an empty array they mean nothing, and may be refused
    # NumPy keeps a reference to the memory and no export, which is quicker.
    return np.ndarray.__new__(
        Array,
        shape,
        dtype,
        memory,  # type: ignore[arg-type, unused-ignore]  # a buffer since Python 3.12
        offset,
        strides,
        order,
    )


def map_memory(memfd: Memfd, mode: Mode) -> Memory:
    """Map all of `memfd` and remember it."""
    memory = Memory(memfd, mode)
    memory.memfd = memfd
    return memory


def locate(array: npt.NDArray[Any]) -> tuple[Memfd, bytes]:
    """Return the memfd of an Array, and text that says where in it the array lies."""
    memory, memfd, offset = memory_and_place(array)
    if array.nbytes > memory.size:  # guard: repeats what is sent
        raise ValueError(
            f"an array that repeats its {memory.size} bytes until they are "
            f"{array.nbytes} would be refused; send what it was made of"
        )
    return memfd, _npy.view_text(array.dtype, array.shape, array.strides, offset)


def memory_and_place(
    array: npt.NDArray[Any],
) -> tuple[Memory | PooledMemory, Memfd, int]:
    """Return the memory of an Array, its memfd, which is open, and where it lies."""
    memory = memory_of(array) if isinstance(array, np.ndarray) else None
    if memory is None:
        raise ValueError(
            f"{type(array).__name__} has no memfd of its own; memfd.share() copies it "
            "into one"
        )
    memfd = open_memfd_of(memory)
    offset = memory._place(array)  # type: ignore[arg-type,unused-ignore]
    if offset < 0:
        raise ValueError("the array reaches outside the memory of its memfd")
    return memory, memfd, offset


def open_memfd_of(memory: Memory | PooledMemory) -> Memfd:
    """Return the memfd that shows what `memory` does, which is open."""
    memfd = memory.memfd
    if memfd is None:
        raise ValueError(
            "an array that was frozen has no memfd of its own any more; memfd.share() "
            "copies it into one"
        )
    if memory.mode == "c":  # guard: private pages
        raise ValueError(
            "an array of mode 'c' has private pages that its memfd does not have; "
            "memfd.share() copies it into a memfd"
        )
    if memfd.closed:  # guard: memfd of an array was closed
        raise ValueError(
            f"the descriptor of {memfd!r} was closed; memfd.share() copies the "
            "array into a new memfd"
        )
    return memfd

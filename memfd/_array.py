"""Arrays: `Array` is a NumPy array whose memory is a memfd, and the memfd a .npy file."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import os

import numpy as np

from memfd import _block, _core, _descriptors, _file, _fill, _mapping, _npy
from memfd._seal import Seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self, SupportsIndex, TypeVar, overload

    import numpy.typing as npt

    from memfd._file import Memfd
    from memfd._types import (
        AnyOrder,
        AnyShape,
        DTypeOf,
        DTypeT,
        DTypeT_co,
        Mode,
        Name,
        Order,
        Part,
        ScalarT,
        Shape,
        ShapeT,
        ShapeT_co,
    )

    _Function = TypeVar("_Function")
else:
    ShapeT_co, DTypeT_co = tuple, np.dtype

FIXED_SIZE = Seal.SHRINK | Seal.GROW
_MOST = (
    2**63 - 1 - (1 << 16)
)  # bytes of an array, so that its header fits into the file


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


def _typed_as(like: _Function) -> Callable[[object], _Function]:
    """Say that a function is called as another, which has overloads."""
    return lambda function: function  # type: ignore[return-value]


def layout(
    shape: Shape, dtype: npt.DTypeLike | None, order: Order
) -> tuple[np.dtype[Any], tuple[int, ...], bytes, int]:
    """Return type, shape, .npy header and bytes of a new array."""
    if order not in ("C", "F"):
        raise ValueError(f'order must be "C" or "F", got {order!r}')
    dtype = np.dtype(dtype)
    if dtype.subdtype is not None:
        dtype, inner = dtype.subdtype
    else:
        inner = ()
    shape = _shape(shape) + inner
    header = _npy.header(dtype, shape, order == "F" and _npy.has_order(shape))
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > _MOST:  # guard: bytes beyond C
        raise ValueError(f"shape {shape} of {dtype} needs {nbytes} bytes, too many")
    return dtype, shape, header, nbytes


if TYPE_CHECKING:

    @overload
    def empty(
        shape: SupportsIndex,
        dtype: None = ...,
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[tuple[int], np.dtype[np.float64]]: ...
    @overload
    def empty(
        shape: SupportsIndex,
        dtype: DTypeOf[ScalarT],
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[tuple[int], np.dtype[ScalarT]]: ...
    @overload
    def empty(
        shape: ShapeT,
        dtype: None = ...,
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[ShapeT, np.dtype[np.float64]]: ...
    @overload
    def empty(
        shape: ShapeT,
        dtype: DTypeOf[ScalarT],
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[ShapeT, np.dtype[ScalarT]]: ...
    @overload
    def empty(
        shape: Shape,
        dtype: None = ...,
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[AnyShape, np.dtype[np.float64]]: ...
    @overload
    def empty(
        shape: Shape,
        dtype: DTypeOf[ScalarT],
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[AnyShape, np.dtype[ScalarT]]: ...
    @overload
    def empty(
        shape: Shape,
        dtype: npt.DTypeLike | None = ...,
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array: ...


def empty(
    shape: Shape,
    dtype: npt.DTypeLike | None = float,
    order: Order = "C",
    *,
    populate: bool = False,
    name: Name | None = None,
) -> Array:
    """Return a new array in a memfd, writable by all who hold it.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the array.
    dtype : dtype, optional
        Type of its elements.
    order : {"C", "F"}, optional
        Order in memory.
    populate : bool, optional
        Make the pages now, huge where possible, not when they are first touched.
    name : str, bytes or os.PathLike, optional
        Label of the memfd; by default its type and shape.

    Returns
    -------
    Array
        Of zeros.  Its size is sealed: nobody can take memory away under it.

    Raises
    ------
    TypeError
        `dtype` refers to objects, or .npy does not give it back; `shape` is no integers.
    ValueError
        A negative dimension, or more bytes than a file can have.
    OSError
        ``EMFILE``: too many open files.  ``EFBIG``: beyond RLIMIT_FSIZE.
        ``ENOMEM``: no address space.

    See Also
    --------
    freeze : make it immutable when it is filled.

    Notes
    -----
    Since Linux 3.17.  Memory that another process may write is not safe for indexing
    with arrays taken from it: NumPy reads an index twice.  `freeze` it first.

    Examples
    --------
    >>> import memfd
    >>> a = memfd.empty((2, 3))
    >>> a[:] = 7
    >>> a.memfd.name
    'float64[2,3]'
    """
    dtype, shape, header, nbytes = layout(shape, dtype, order)
    size = len(header) + nbytes
    memfd = _file.create(default_name(dtype, shape) if name is None else name, size)
    try:
        _fill.fill(memfd, header)
        _core.add_seal_bits(memfd, FIXED_SIZE)  # guard: fixed size
        memory = map_memory(memfd, "r+")
        if populate:
            memory._populate()
    except BaseException:
        memfd.close()
        raise
    return view(memory, dtype, shape, len(header), order=order)


@_typed_as(empty)
def zeros(
    shape: Shape,
    dtype: npt.DTypeLike | None = float,
    order: Order = "C",
    *,
    populate: bool = False,
    name: Name | None = None,
) -> Array:
    """Return a new array of zeros in a memfd, writable by all who hold it.

    The same as `empty`: new memory of a memfd is zero.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the array.
    dtype : dtype, optional
        Type of its elements.
    order : {"C", "F"}, optional
        Order in memory.
    populate : bool, optional
        Make the pages now, huge where possible, not when they are first touched.
    name : str, bytes or os.PathLike, optional
        Label of the memfd; by default its type and shape.

    Returns
    -------
    Array
        As for `empty`, which see also for the errors.

    Examples
    --------
    >>> import memfd
    >>> memfd.zeros(3, int).tolist()
    [0, 0, 0]
    """
    return empty(shape, dtype, order, populate=populate, name=name)


if TYPE_CHECKING:

    @overload
    def full(
        shape: SupportsIndex,
        fill_value: npt.ArrayLike,
        dtype: DTypeOf[ScalarT],
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[tuple[int], np.dtype[ScalarT]]: ...
    @overload
    def full(
        shape: ShapeT,
        fill_value: npt.ArrayLike,
        dtype: DTypeOf[ScalarT],
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[ShapeT, np.dtype[ScalarT]]: ...
    @overload
    def full(
        shape: Shape,
        fill_value: npt.ArrayLike,
        dtype: DTypeOf[ScalarT],
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[AnyShape, np.dtype[ScalarT]]: ...
    @overload
    def full(
        shape: SupportsIndex,
        fill_value: ScalarT,
        dtype: None = ...,
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[tuple[int], np.dtype[ScalarT]]: ...
    @overload
    def full(
        shape: ShapeT,
        fill_value: ScalarT,
        dtype: None = ...,
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[ShapeT, np.dtype[ScalarT]]: ...
    @overload
    def full(
        shape: Shape,
        fill_value: npt.ArrayLike,
        dtype: npt.DTypeLike | None = ...,
        order: Order = ...,
        *,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array: ...


def full(
    shape: Shape,
    fill_value: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    order: Order = "C",
    *,
    populate: bool = True,
    name: Name | None = None,
) -> Array:
    """Return a new array in a memfd, filled with one value, writable by all who hold it.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the array.
    fill_value : scalar or array_like
        What to fill it with.
    dtype : dtype, optional
        Type of its elements; that of `fill_value` by default.
    order : {"C", "F"}, optional
        Order in memory.
    populate : bool, optional
        Make the pages first, huge where possible; False: while they are filled.
    name : str, bytes or os.PathLike, optional
        Label of the memfd; by default its type and shape.

    Returns
    -------
    Array
        As for `empty`, which see also for the errors.

    Examples
    --------
    >>> import memfd
    >>> memfd.full(3, 1.5).tolist()
    [1.5, 1.5, 1.5]
    """
    if dtype is None:
        dtype = np.asarray(fill_value).dtype
    array = empty(shape, dtype, order, populate=populate, name=name)
    np.copyto(array, fill_value, casting="unsafe")
    return array


if TYPE_CHECKING:

    @overload
    def empty_like(
        prototype: np.ndarray[ShapeT, DTypeT],
        dtype: None = ...,
        order: AnyOrder = ...,
        *,
        shape: None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[ShapeT, DTypeT]: ...
    @overload
    def empty_like(
        prototype: np.ndarray[ShapeT, np.dtype[Any]],
        dtype: DTypeOf[ScalarT],
        order: AnyOrder = ...,
        *,
        shape: None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[ShapeT, np.dtype[ScalarT]]: ...
    @overload
    def empty_like(
        prototype: np.ndarray[Any, DTypeT],
        dtype: None = ...,
        order: AnyOrder = ...,
        *,
        shape: Shape | None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[AnyShape, DTypeT]: ...
    @overload
    def empty_like(
        prototype: npt.ArrayLike,
        dtype: DTypeOf[ScalarT],
        order: AnyOrder = ...,
        *,
        shape: Shape | None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[AnyShape, np.dtype[ScalarT]]: ...
    @overload
    def empty_like(
        prototype: npt.ArrayLike,
        dtype: npt.DTypeLike | None = ...,
        order: AnyOrder = ...,
        *,
        shape: Shape | None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array: ...


def empty_like(
    prototype: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    order: AnyOrder = "K",
    *,
    shape: Shape | None = None,
    populate: bool = False,
    name: Name | None = None,
) -> Array:
    """Return a new array in a memfd, with the shape and type of another.

    Parameters
    ----------
    prototype : array_like
        Gives shape, type and order.
    dtype, order, shape : optional
        Instead of those of `prototype`.
    populate : bool, optional
        Make the pages now, huge where possible, not when they are first touched.
    name : str, bytes or os.PathLike, optional
        Label of the memfd; by default its type and shape.

    Returns
    -------
    Array
        As for `empty`, which see also for the errors.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> memfd.empty_like(np.ones((2, 3), "f4")).memfd.name
    'float32[2,3]'
    """
    shape, dtype, order = _like(prototype, dtype, order, shape)
    return empty(shape, dtype, order, populate=populate, name=name)


@_typed_as(empty_like)
def zeros_like(
    prototype: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    order: AnyOrder = "K",
    *,
    shape: Shape | None = None,
    populate: bool = False,
    name: Name | None = None,
) -> Array:
    """Return a new array of zeros in a memfd, with the shape and type of another.

    Parameters
    ----------
    prototype : array_like
        Gives shape, type and order.
    dtype, order, shape : optional
        Instead of those of `prototype`.
    populate : bool, optional
        Make the pages now, huge where possible, not when they are first touched.
    name : str, bytes or os.PathLike, optional
        Label of the memfd; by default its type and shape.

    Returns
    -------
    Array
        As for `empty`, which see also for the errors.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> memfd.zeros_like(np.ones(2)).tolist()
    [0.0, 0.0]
    """
    shape, dtype, order = _like(prototype, dtype, order, shape)
    return empty(shape, dtype, order, populate=populate, name=name)


if TYPE_CHECKING:

    @overload
    def full_like(
        prototype: np.ndarray[ShapeT, DTypeT],
        fill_value: npt.ArrayLike,
        dtype: None = ...,
        order: AnyOrder = ...,
        *,
        shape: None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[ShapeT, DTypeT]: ...
    @overload
    def full_like(
        prototype: np.ndarray[ShapeT, np.dtype[Any]],
        fill_value: npt.ArrayLike,
        dtype: DTypeOf[ScalarT],
        order: AnyOrder = ...,
        *,
        shape: None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[ShapeT, np.dtype[ScalarT]]: ...
    @overload
    def full_like(
        prototype: np.ndarray[Any, DTypeT],
        fill_value: npt.ArrayLike,
        dtype: None = ...,
        order: AnyOrder = ...,
        *,
        shape: Shape | None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[AnyShape, DTypeT]: ...
    @overload
    def full_like(
        prototype: npt.ArrayLike,
        fill_value: npt.ArrayLike,
        dtype: DTypeOf[ScalarT],
        order: AnyOrder = ...,
        *,
        shape: Shape | None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array[AnyShape, np.dtype[ScalarT]]: ...
    @overload
    def full_like(
        prototype: npt.ArrayLike,
        fill_value: npt.ArrayLike,
        dtype: npt.DTypeLike | None = ...,
        order: AnyOrder = ...,
        *,
        shape: Shape | None = ...,
        populate: bool = ...,
        name: Name | None = ...,
    ) -> Array: ...


def full_like(
    prototype: npt.ArrayLike,
    fill_value: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    order: AnyOrder = "K",
    *,
    shape: Shape | None = None,
    populate: bool = True,
    name: Name | None = None,
) -> Array:
    """Return a new array in a memfd, like another in shape and type, filled.

    Parameters
    ----------
    prototype : array_like
        Gives shape, type and order.
    fill_value : scalar or array_like
        What to fill it with.
    dtype, order, shape : optional
        Instead of those of `prototype`.
    populate : bool, optional
        Make the pages first, huge where possible; False: while they are filled.
    name : str, bytes or os.PathLike, optional
        Label of the memfd; by default its type and shape.

    Returns
    -------
    Array
        As for `empty`, which see also for the errors.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> memfd.full_like(np.ones(2), 3).tolist()
    [3.0, 3.0]
    """
    shape, dtype, order = _like(prototype, dtype, order, shape)
    return full(shape, fill_value, dtype, order, populate=populate, name=name)


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


def _like(
    prototype: npt.ArrayLike,
    dtype: npt.DTypeLike | None,
    order: AnyOrder,
    shape: Shape | None,
) -> tuple[Shape, npt.DTypeLike, Order]:
    if order not in ("K", "A", "C", "F"):
        raise ValueError(f'order must be "K", "A", "C" or "F", got {order!r}')
    if not isinstance(prototype, np.ndarray):
        prototype = np.asarray(prototype)
    if order == "K" or order == "A":
        flags = prototype.flags
        order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    return (
        prototype.shape if shape is None else shape,
        prototype.dtype if dtype is None else dtype,
        order,
    )


def _shape(shape: Shape) -> tuple[int, ...]:
    """Return `shape` as a tuple of ints that are not negative."""
    given = shape if np.iterable(shape) else (shape,)
    try:
        numbers = tuple(map(operator.index, given))
    except TypeError:
        raise TypeError(f"shape must be int or a tuple of int, got {shape!r}") from None
    if any(number < 0 for number in numbers):  # guard: negative shape
        raise ValueError(f"shape must not be negative, got {shape!r}")
    return numbers


@functools.lru_cache(maxsize=256)
def default_name(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    """Return the label of a memfd that holds such an array."""
    name = f"{dtype.name}[{','.join(map(str, shape))}]"
    return name.encode()[: _core.NAME_MAX].decode(errors="ignore")

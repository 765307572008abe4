"""New arrays: `empty`, `zeros`, `full` and those that are like another."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np

from memfd import _core, _file, _fill, _npy
from memfd._array import map_memory, view
from memfd._seal import Seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, SupportsIndex, TypeVar, overload

    import numpy.typing as npt

    from memfd._array import Array
    from memfd._types import (
        AnyOrder,
        AnyShape,
        DTypeOf,
        DTypeT,
        Name,
        Order,
        ScalarT,
        Shape,
        ShapeT,
    )

    _Function = TypeVar("_Function")

FIXED_SIZE = Seal.SHRINK | Seal.GROW
# Bytes of an array, so that its header fits into the file.
_MOST = 2**63 - 1 - (1 << 16)


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

"""Arrays: `Array` is a NumPy array whose memory is a memfd, and the memfd a .npy file."""

from __future__ import annotations

import _thread
import functools
import itertools
import math
import operator
import os

import numpy as np

from memfd import _core, _file, _fill, _foreign, _mapping, _npy, _source
from memfd._seal import Seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal, Self, SupportsIndex

    import numpy.typing as npt

    from memfd._file import Memfd
    from memfd._types import AnyOrder, Huge, Mode, Name, Order, Shape

_FIXED_SIZE = Seal.SHRINK | Seal.GROW
_SEALED = Seal.IMMUTABLE | Seal.SEAL

# Two threads that freeze one memfd would undo each other's steps.
_freezing = _thread.allocate_lock()


# NumPy's types want arguments here before NumPy 2.3.
class Array(np.ndarray):  # type: ignore[type-arg, unused-ignore]
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

    def __iter__(self) -> Iterator[Any]:
        # Left alone, CPython looks up and calls __getitem__ by name for each row.
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        rows = itertools.repeat(self), range(len(self))
        return map(operator.getitem, *rows)  # type: ignore[arg-type]  # overloaded

    def __array_wrap__(
        self,
        array: npt.NDArray[Any],
        context: Any = None,
        return_scalar: bool | None = None,
    ) -> Any:
        # A result is no memfd, except where this array was given as `out`.
        if array is self:
            return self
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
        raise BufferError("the memory of an Array goes with the last array over it")


def memory_of(array: npt.NDArray[Any]) -> Memory | None:
    """Return the Memory that `array` lies in, or None."""
    base: Any = array.base
    while base is not None:
        if type(base) is memoryview:
            base = base.obj
        elif type(base) is Memory:
            return base
        else:  # an array, or what as_strided() puts between
            base = getattr(base, "base", None)
    return None


def view(
    memory: Memory,
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


def share(
    array: npt.ArrayLike,
    *,
    mode: Literal["r", "r+"] = "r",
    dtype: npt.DTypeLike | None = None,
    order: AnyOrder = "K",
    name: Name | None = None,
    huge: Huge = "auto",
    threads: SupportsIndex = 1,
) -> Array:
    """Copy an array into a memfd that other processes can map.

    Parameters
    ----------
    array : array_like
        What to share.  An Array that is immutable already is not copied.
    mode : {"r", "r+"}, optional
        "r": sealed, immutable for everyone, for ever.  "r+": writable by all who hold
        it.
    dtype : dtype, optional
        Convert to this type.
    order : {"K", "A", "C", "F"}, optional
        Order in memory; "K" and "A" keep Fortran order, and give C order otherwise.
    name : str, bytes or os.PathLike, optional
        Label of the memfd; by default its type and shape: ``float32[1080,1920,3]``.
    huge : {"auto", "always", "never"}, optional
        Copy into huge pages: where they are quicker; wherever they can be had, also
        where that takes more time and up to 2 MiB more memory; or not.
    threads : int, optional
        Threads that copy, each at least 16 MiB of a contiguous array.

    Returns
    -------
    Array
        With the same contents, and ``.memfd`` holding them as a .npy file.

    Raises
    ------
    TypeError
        The array would be damaged: objects, masks, labels, sparse matrices, text, or a
        dtype that .npy does not give back.
    ValueError
        `mode`, `order` or `huge` is unknown, or `threads` is below 1.
    OSError
        ``EMFILE``: too many open files.  ``EFBIG``: beyond RLIMIT_FSIZE.

    See Also
    --------
    freeze : make an array immutable without a copy.

    Notes
    -----
    Since Linux 3.17.  Memory that another process may write (mode "r+") is not safe for
    indexing with arrays taken from it: NumPy reads an index twice.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> a = memfd.share(np.arange(4.0))
    >>> a[0] = 1
    Traceback (most recent call last):
    ...
    ValueError: assignment destination is read-only
    >>> float(np.load(a.memfd.path).sum())
    6.0
    """
    if mode not in ("r", "r+"):
        raise ValueError(f'mode must be "r" or "r+", got {mode!r}')
    if order not in ("K", "A", "C", "F"):
        raise ValueError(f'order must be "K", "A", "C" or "F", got {order!r}')
    huge, threads = _fill.check(huge, threads)
    if mode == "r" and isinstance(array, Array) and _is_immutable(array):
        flags = array.flags
        ordered = (
            order in "KA"
            or (order == "C" and flags.c_contiguous)
            or (order == "F" and flags.f_contiguous)
        )
        if ordered and (dtype is None or array.dtype == dtype):
            return array.view()
    source = _source.Source(array, dtype, order)
    header = _npy.header(source.dtype, source.shape, source.fortran)
    memfd = _file.filled(
        _name(name, source.dtype, source.shape),
        lambda memfd, huge: source.fill(memfd, header, huge, threads),
        huge,
        _SEALED if mode == "r" else _FIXED_SIZE,
    )
    try:
        memory = map_memory(memfd, mode)
    except BaseException:
        memfd.close()
        raise
    order = "F" if source.fortran else "C"
    return view(memory, source.dtype, source.shape, len(header), order=order)


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
        `dtype` refers to objects, or .npy does not give it back.
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
    if order not in ("C", "F"):
        raise ValueError(f'order must be "C" or "F", got {order!r}')
    dtype = np.dtype(dtype)
    if dtype.subdtype is not None:
        dtype, inner = dtype.subdtype
    else:
        inner = ()
    shape = _shape(shape) + inner
    header = _npy.header(dtype, shape, order == "F" and _npy.has_order(shape))
    size = len(header) + math.prod(shape) * dtype.itemsize
    if size > 2**63 - 1:
        raise ValueError(f"shape {shape} of {dtype} needs {size} bytes, too many")
    memfd = _file.create(_name(name, dtype, shape), size)
    try:
        _fill.fill(memfd, header)
        _core.add_seal_bits(memfd, _FIXED_SIZE)
        memory = map_memory(memfd, "r+")
        if populate:
            memory._populate()
    except BaseException:
        memfd.close()
        raise
    return view(memory, dtype, shape, len(header), order=order)


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


def attach(
    x: Memfd | SupportsIndex | Name | npt.NDArray[Any],
    mode: Mode = "r",
    *,
    require: Seal | None = Seal.SHRINK,
    max_size: SupportsIndex | None = None,
    dense: bool = False,
) -> Array:
    """Open the array that a memfd holds, without a copy.

    Parameters
    ----------
    x : Memfd, int, path or Array
        A memfd that holds a .npy file.  An int is a descriptor, which is duplicated and
        stays yours; a path is opened; an Array (or a view of one) is mapped once more,
        in another mode.
    mode : {"r", "r+", "c"}, optional
        Read-only; shared and writable; or copy-on-write, which is allowed on sealed
        memfds.
    require : Seal or None, optional
        Seals that must be there.  ``Seal.SHRINK`` keeps others from taking memory away
        under the array; ``Seal.IMMUTABLE`` proves that the data never change.  None: I
        trust whoever holds it.
    max_size, dense : optional
        For an int or a path, as for `Memfd.from_fd`.

    Returns
    -------
    Array
        Over the memory of the memfd.

    Raises
    ------
    SealError
        Seals in `require` are missing.
    ValueError
        No memfd, no .npy file, or a header that lies: a shape beyond the size, objects.
    PermissionError
        "r+" of a memfd that is sealed against writing, or of a read-only descriptor.

    Notes
    -----
    The header is read as hostile input; nothing is unpickled.  Memory that another
    process may write is not safe for indexing with arrays taken from it.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> f = memfd.share(np.arange(3)).memfd
    >>> memfd.attach(f).tolist()
    [0, 1, 2]
    >>> mine = memfd.attach(f, "c")
    >>> mine[:] = 7
    """
    _mapping.check_mode(mode)
    if isinstance(x, np.ndarray):
        _, memfd, offset = _memory_and_place(x)
        _foreign.check_seals(memfd, require)  # guard: attach, array
        memory = map_memory(memfd, mode)
        return view(memory, x.dtype, x.shape, offset, x.strides)
    if isinstance(x, _file.Memfd):
        _foreign.check_seals(x, require)  # guard: attach, Memfd
        return _attach(x, mode)
    if isinstance(x, (str, bytes, os.PathLike)):
        access = os.O_RDWR if mode == "r+" else os.O_RDONLY
        fd = os.open(x, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    elif hasattr(x, "__index__") and not isinstance(x, bool):
        fd = os.dup(x.__index__())
    else:
        raise TypeError(
            "x must be a Memfd, a descriptor, a path or an Array, "
            f"not {type(x).__name__}"
        )
    try:
        memfd = _file.Memfd.from_fd(fd, require=require, max_size=max_size, dense=dense)
    except BaseException:
        os.close(fd)
        raise
    try:
        return _attach(memfd, mode)
    except BaseException:
        memfd.close()
        raise


def freeze(array: npt.NDArray[Any], *, copy: bool = False) -> Array:
    """Make an array immutable for everyone, for ever, without a copy.

    Parameters
    ----------
    array : Array
        A writable array, or a view of one.
    copy : bool, optional
        Share a sealed copy instead; the way out when others still map it writable.

    Returns
    -------
    Array
        Over the same memory, now sealed, at the same place in it.  `array` itself
        becomes read-only; it and all older views keep their contents, on pages of their
        own, without a memfd, like arrays of mode "c".

    Raises
    ------
    ValueError
        `array` is not over a memfd, or was mapped copy-on-write.
    BufferError
        This process maps it writable with something else than arrays.
    OSError
        ``EBUSY``: another process maps it writable; the message names those that can be
        seen.  Nothing has changed, and what was written meanwhile is kept.

    Notes
    -----
    No thread may write while it is frozen.  A child that was forked while the array was
    writable is another process that maps it.

    Examples
    --------
    >>> import memfd
    >>> a = memfd.zeros(3)
    >>> a[1] = 5
    >>> a = memfd.freeze(a)
    >>> a.memfd.seals & memfd.Seal.IMMUTABLE == memfd.Seal.IMMUTABLE
    True
    """
    if copy:
        return share(np.asarray(array))
    memory, memfd, offset = _memory_and_place(array)
    # Mapped before anything is sealed, since mapping can fail; it blocks no seal.
    fresh = map_memory(memfd, "r")
    with _freezing:
        if _core.seal_bits(memfd) & Seal.IMMUTABLE != Seal.IMMUTABLE:
            _seal_under(memfd)
        elif memory.mode == "r":
            fresh = memory
    frozen = view(fresh, array.dtype, array.shape, offset, array.strides)
    array.flags.writeable = False
    return frozen


def _seal_under(memfd: Memfd) -> None:
    """Turn this process's shared mappings of `memfd` private, and seal it."""
    status = os.fstat(memfd.fileno())
    shared = [
        mapping
        for mapping in _mapping.live(status.st_dev, status.st_ino)
        if isinstance(mapping, _mapping.Mapping) and mapping.mode == "r+"
    ]
    private = []
    try:
        for mapping in shared:
            mapping._make_private(memfd.fileno())
            private.append(mapping)
        memfd.seal(_SEALED)
    except BaseException:
        for mapping in private:
            mapping._make_shared(memfd.fileno())
        raise
    for mapping in private:
        if type(mapping) is Memory:
            mapping.memfd = None


def _attach(memfd: Memfd, mode: Mode) -> Array:
    """Map the .npy file in `memfd`, which was checked."""
    dtype, shape, fortran, offset = _npy.read_header(memfd.fileno(), memfd.size)
    memory = map_memory(memfd, mode)
    return view(memory, dtype, shape, offset, order="F" if fortran else "C")


def locate(array: npt.NDArray[Any]) -> tuple[Memfd, bytes]:
    """Return the memfd of an Array, and text that says where in it the array lies."""
    memory, memfd, offset = _memory_and_place(array)
    if array.nbytes > memory.size:
        raise ValueError(
            f"an array that repeats its {memory.size} bytes until they are "
            f"{array.nbytes} would be refused; send what it was made of"
        )
    return memfd, _npy.view_text(array.dtype, array.shape, array.strides, offset)


def open_view(memfd: Memfd, mode: Mode, text: bytes | None) -> Array:
    """Open the view that hostile `text` tells of a memfd that was checked, or all of it."""
    if text is None:
        return _attach(memfd, mode)
    dtype, shape, strides, offset = _npy.read_view(text, memfd.size)
    return view(map_memory(memfd, mode), dtype, shape, offset, strides)


def _memory_and_place(array: npt.NDArray[Any]) -> tuple[Memory, Memfd, int]:
    """Return the Memory of an Array, its memfd, which is open, and where it lies."""
    memory = memory_of(array) if isinstance(array, np.ndarray) else None
    memfd = None if memory is None else memory.memfd
    if memory is None or memfd is None:
        raise ValueError(
            f"{type(array).__name__} has no memfd of its own; memfd.share() copies it "
            "into one"
        )
    if memory.mode == "c":
        raise ValueError(
            "an array of mode 'c' has private pages that its memfd does not have; "
            "memfd.share() copies it into a memfd"
        )
    if memfd.closed:
        raise ValueError(
            f"the descriptor of {memfd!r} was closed; memfd.share() copies the "
            "array into a new memfd"
        )
    offset = memory._place(array)  # type: ignore[arg-type,unused-ignore]
    if offset < 0:
        raise ValueError("the array reaches outside the memory of its memfd")
    return memory, memfd, offset


def _is_immutable(array: npt.NDArray[Any]) -> bool:
    memory = memory_of(array)
    return (
        memory is not None
        and memory.mode == "r"
        and memory.memfd is not None
        and not memory.memfd.closed
        and _core.seal_bits(memory.memfd) & Seal.IMMUTABLE == Seal.IMMUTABLE
        and memory._place(array) >= 0  # type: ignore[arg-type,unused-ignore]
    )


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
    given = (shape,) if hasattr(shape, "__index__") else tuple(shape)
    numbers = tuple(number.__index__() for number in given)
    if any(number < 0 for number in numbers):
        raise ValueError(f"shape must not be negative, got {shape!r}")
    return numbers


def _name(name: Name | None, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Name:
    return _default_name(dtype, shape) if name is None else name


@functools.lru_cache(maxsize=256)
def _default_name(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    name = f"{dtype.name}[{','.join(map(str, shape))}]"
    return name.encode()[: _core.NAME_MAX].decode(errors="ignore")

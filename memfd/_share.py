"""Arrays from elsewhere: copied into a memfd, opened in one, and sealed there."""

from __future__ import annotations

import _thread
import collections.abc
import os

import numpy as np

from memfd import (
    _array,
    _arraydict,
    _core,
    _file,
    _fill,
    _foreign,
    _mapping,
    _npy,
    _objects,
    _safetensors,
    _source,
)
from memfd._array import (
    Array,
    Memory,
    PooledMemory,
    map_memory,
    memory_and_place,
    view,
)
from memfd._arraydict import ArrayDict
from memfd._creation import FIXED_SIZE, default_name
from memfd._seal import Seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal, SupportsIndex, overload

    import numpy.typing as npt

    from memfd._file import Memfd
    from memfd._types import (
        AnyOrder,
        AnyShape,
        DTypeOf,
        DTypeT,
        Huge,
        Mode,
        Name,
        ScalarT,
        ShapeT,
    )

_SEALED = _core.IMMUTABLE | _core.F_SEAL_SEAL

# Two threads that freeze one memfd would undo each other's steps.
_freezing = _thread.allocate_lock()


def _begin_anew() -> None:
    """Make a new lock in a forked child: a thread of the parent may have had it."""
    global _freezing
    _freezing = _thread.allocate_lock()


os.register_at_fork(after_in_child=_begin_anew)


if TYPE_CHECKING:

    @overload
    def share(
        array: Mapping[str, npt.ArrayLike],
        *,
        mode: Literal["r", "r+"] = ...,
        dtype: npt.DTypeLike | None = ...,
        order: AnyOrder = ...,
        name: Name | None = ...,
        huge: Huge = ...,
        threads: SupportsIndex = ...,
    ) -> ArrayDict: ...
    @overload
    def share(
        array: np.ndarray[ShapeT, DTypeT],
        *,
        mode: Literal["r", "r+"] = ...,
        dtype: None = ...,
        order: AnyOrder = ...,
        name: Name | None = ...,
        huge: Huge = ...,
        threads: SupportsIndex = ...,
    ) -> Array[ShapeT, DTypeT]: ...
    @overload
    def share(
        array: np.ndarray[ShapeT, np.dtype[Any]],
        *,
        mode: Literal["r", "r+"] = ...,
        dtype: DTypeOf[ScalarT],
        order: AnyOrder = ...,
        name: Name | None = ...,
        huge: Huge = ...,
        threads: SupportsIndex = ...,
    ) -> Array[ShapeT, np.dtype[ScalarT]]: ...
    @overload
    def share(
        array: ScalarT,
        *,
        mode: Literal["r", "r+"] = ...,
        dtype: None = ...,
        order: AnyOrder = ...,
        name: Name | None = ...,
        huge: Huge = ...,
        threads: SupportsIndex = ...,
    ) -> Array[tuple[()], np.dtype[ScalarT]]: ...
    @overload
    def share(
        array: npt.ArrayLike,
        *,
        mode: Literal["r", "r+"] = ...,
        dtype: DTypeOf[ScalarT],
        order: AnyOrder = ...,
        name: Name | None = ...,
        huge: Huge = ...,
        threads: SupportsIndex = ...,
    ) -> Array[AnyShape, np.dtype[ScalarT]]: ...
    @overload
    def share(
        array: npt.ArrayLike,
        *,
        mode: Literal["r", "r+"] = ...,
        dtype: npt.DTypeLike | None = ...,
        order: AnyOrder = ...,
        name: Name | None = ...,
        huge: Huge = ...,
        threads: SupportsIndex = ...,
    ) -> Array: ...


def share(
    array: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    *,
    mode: Literal["r", "r+"] = "r",
    dtype: npt.DTypeLike | None = None,
    order: AnyOrder = "K",
    name: Name | None = None,
    huge: Huge = "auto",
    threads: SupportsIndex = 1,
) -> Array | ArrayDict:
    """Copy an array, or a dict of them, into a memfd that other processes can map.

    Parameters
    ----------
    array : array_like or mapping of str to array_like
        What to share.  What is immutable already is not copied.  The arrays of a mapping
        share one memfd.
    mode : {"r", "r+"}, optional
        "r": sealed, immutable for everyone, for ever.  "r+": writable by all who hold
        it.
    dtype : dtype, optional
        Convert to this type.
    order : {"K", "A", "C", "F"}, optional
        Order in memory; "K" and "A" keep Fortran order, and give C order otherwise.
        The arrays of a mapping are always in C order.
    name : str, bytes or os.PathLike, optional
        Label of the memfd; by default its type and shape, ``float32[1080,1920,3]``, or
        how many arrays are in it.
    huge : {"auto", "always", "never"}, optional
        Copy into huge pages: where they are quicker; wherever they can be had, also
        where that takes more time and up to 2 MiB more memory; or not.
    threads : int, optional
        Threads that copy, each at least 16 MiB of a contiguous array.

    Returns
    -------
    Array or ArrayDict
        With the same contents, and ``.memfd`` holding them as a .npy file; for a mapping,
        a read-only mapping of Arrays, and a safetensors file.

    Raises
    ------
    TypeError
        The array would be damaged: objects, masks, missing values, labels, sparse
        matrices, text, or a dtype that .npy does not give back.  In a mapping: whatever
        is no bool, integer, float16 to float64 or complex64 in little-endian order,
        which `dump` takes.
    ValueError
        `mode`, `order` or `huge` is unknown, or `threads` is below 1; `order` is "F" for
        a mapping; names and shapes of the arrays take more than 4 MiB.
    OSError
        ``EMFILE``: too many open files.  ``EFBIG``: beyond RLIMIT_FSIZE.

    See Also
    --------
    freeze : make an array immutable without a copy.
    dump : any object, for processes that trust each other.

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
    seals = _SEALED if mode == "r" else FIXED_SIZE
    # An array is asked about first: what an abstract class answers takes long.
    if not isinstance(array, np.ndarray) and isinstance(array, collections.abc.Mapping):
        if order == "F":
            raise ValueError("order must not be 'F' for several arrays in one memfd")
        if isinstance(array, ArrayDict) and dtype is None:
            if mode == "r" and _is_immutable(array):
                return _arraydict.over_same(array, _arraydict.memory_of(array))
            return _arraydict.copy(array, mode, name, huge, threads, seals)
        return _arraydict.share(array, mode, dtype, name, huge, threads, seals)
    if isinstance(array, Array) and mode == "r" and _is_immutable(array):
        flags = array.flags
        ordered = (
            order in "KA"
            or (order == "C" and flags.c_contiguous)
            or (order == "F" and flags.f_contiguous)
        )
        if ordered and (dtype is None or array.dtype == dtype):
            # Equal, but for metadata, of which it may be rid.
            dtype = array.dtype if dtype is None else np.dtype(dtype)
            _npy.header(dtype, (), False)
            return array.view(dtype, Array)
    source = _source.Source(array, dtype, order)
    header = _npy.header(source.dtype, source.shape, source.fortran)
    memfd = _file.filled(
        default_name(source.dtype, source.shape) if name is None else name,
        lambda memfd, huge: source.fill(memfd, header, huge, threads),
        huge,
        seals,
    )
    try:
        memory = map_memory(memfd, mode)
    except BaseException:
        memfd.close()
        raise
    order = "F" if source.fortran else "C"
    return view(memory, source.dtype, source.shape, len(header), order=order)


if TYPE_CHECKING:

    @overload
    def attach(
        x: np.ndarray[ShapeT, DTypeT],
        mode: Mode = ...,
        *,
        require: Seal | None = ...,
        max_size: SupportsIndex | None = ...,
        dense: bool = ...,
    ) -> Array[ShapeT, DTypeT]: ...
    @overload
    def attach(
        x: ArrayDict,
        mode: Mode = ...,
        *,
        require: Seal | None = ...,
        max_size: SupportsIndex | None = ...,
        dense: bool = ...,
    ) -> ArrayDict: ...
    @overload
    def attach(
        x: Memfd | SupportsIndex | Name,
        mode: Mode = ...,
        *,
        require: Seal | None = ...,
        max_size: SupportsIndex | None = ...,
        dense: bool = ...,
    ) -> Any: ...


def attach(
    x: Memfd | SupportsIndex | Name | npt.NDArray[Any] | ArrayDict,
    mode: Mode = "r",
    *,
    require: Seal | None = Seal.SHRINK,
    max_size: SupportsIndex | None = None,
    dense: bool = False,
) -> Any:
    """Open the array, or the arrays, that a memfd holds, without a copy.

    Parameters
    ----------
    x : Memfd, int, path, Array or ArrayDict
        A memfd that holds a .npy or a safetensors file.  An int is a descriptor, which is
        duplicated and stays yours; a path is opened; an Array (or a view of one) and an
        ArrayDict are mapped once more, in another mode.
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
    Array or ArrayDict
        Over the memory of the memfd: ArrayDict for a safetensors file.

    Raises
    ------
    SealError
        Seals in `require` are missing.
    ValueError
        No memfd, no .npy or safetensors file, or a header that lies: a shape beyond the
        size, objects, arrays that overlap.
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
        _, memfd, offset = memory_and_place(x)
        _core.keeping(_foreign.check_seals, memfd, require)  # guard: attach, array
        memory = map_memory(memfd, mode)
        return view(memory, x.dtype, x.shape, offset, x.strides)
    # Last, here and in locate(): with cold caches it takes as long as two system calls to
    # find out that something is no Mapping.
    if not isinstance(x, _file.Memfd) and isinstance(x, ArrayDict):
        memfd = _array.open_memfd_of(_arraydict.memory_of(x))
        _core.keeping(_foreign.check_seals, memfd, require)  # guard: attach, ArrayDict
        return _arraydict.over_same(x, map_memory(memfd, mode))
    memfd = _file.opened(x, mode, require, max_size, dense)
    try:
        return _core.keeping(open_whole, memfd, mode)
    except BaseException:
        if memfd is not x:
            memfd.close()
        raise


if TYPE_CHECKING:

    @overload
    def freeze(array: ArrayDict, *, copy: bool = ...) -> ArrayDict: ...
    @overload
    def freeze(
        array: np.ndarray[ShapeT, DTypeT], *, copy: bool = ...
    ) -> Array[ShapeT, DTypeT]: ...


def freeze(
    array: npt.NDArray[Any] | ArrayDict, *, copy: bool = False
) -> Array | ArrayDict:
    """Make an array immutable for everyone, for ever, without a copy.

    Parameters
    ----------
    array : Array or ArrayDict
        A writable array, or a view of one, or all arrays in one memfd.
    copy : bool, optional
        Share a sealed copy instead; the way out when others still map it writable.

    Returns
    -------
    Array or ArrayDict
        Over the same memory, now sealed, at the same place in it.  An array itself
        becomes read-only; it and all older views keep their contents, on pages of their
        own, without a memfd, like arrays of mode "c".

    Raises
    ------
    ValueError
        `array` is not over a memfd, was mapped copy-on-write, or comes from a `BufferPool`.
    BufferError
        This process maps it writable with something else than arrays and `Mapping`.
    OSError
        ``EBUSY``: another process maps it writable; the message names those that can be
        seen.  Nothing has changed, and what was written meanwhile is kept.

    Notes
    -----
    No thread may write while it is frozen.  A `Mapping` of mode "r+" in this process is
    treated as older views are: what is written through it later stays private.  A child
    that was forked while the array was writable is another process that maps it.

    With ``Seal.FUTURE_WRITE`` a mapping that was made private cannot be shared again.  So
    others are looked for in /proc beforehand; of those that cannot be seen there the
    refusal comes too late, and the array stays private.

    Examples
    --------
    >>> import memfd
    >>> a = memfd.zeros(3)
    >>> a[1] = 5
    >>> a = memfd.freeze(a)
    >>> a.memfd.seals & memfd.Seal.IMMUTABLE == memfd.Seal.IMMUTABLE
    True
    """
    if isinstance(array, ArrayDict):
        if copy:
            return _arraydict.copy(array, "r", None, "auto", 1, _SEALED)
        whole = _arraydict.memory_of(array)
        return _arraydict.over_same(array, _sealed(whole, _array.open_memfd_of(whole)))
    if copy:
        return share(np.asarray(array))
    memory, memfd, offset = memory_and_place(array)
    if isinstance(memory, PooledMemory):  # guard: frozen pool
        raise ValueError(
            "an array of a BufferPool cannot be frozen, as its memory will be used again; "
            "memfd.share() copies it"
        )
    fresh = _sealed(memory, memfd)
    frozen = view(fresh, array.dtype, array.shape, offset, array.strides)
    array.flags.writeable = False  # guard: read-only when frozen
    return frozen


def _sealed(memory: Memory, memfd: Memfd) -> Memory:
    """Seal a memfd and return a mapping of it that stays."""
    # Mapped before anything is sealed, since mapping can fail; it blocks no seal.
    fresh = map_memory(memfd, "r")
    stays = _core.locked(_freezing, _seal_once, memfd, memory)
    return memory if stays else fresh


def _seal_once(memfd: Memfd, memory: Memory) -> bool:
    """Seal a memfd, if it is not; tell whether `memory` is a mapping of it that stays."""
    # Numbers: what is run after so much memory was written comes slowly.
    if _core.seal_bits(memfd) & _core.IMMUTABLE == _core.IMMUTABLE:
        return memory.mode == "r"
    _core.keeping(_seal_under, memfd, memory)
    return False


def _seal_under(memfd: Memfd, memory: Memory) -> None:
    """Turn this process's shared mappings of the memory's memfd private, and seal it."""
    shared = [
        mapping
        for mapping in memory._siblings()
        if isinstance(mapping, _mapping.Mapping) and mapping.mode == "r+"
    ]
    # Who cannot add seals learns it before anything has changed.
    _core.add_seal_bits(memfd, 0)
    if _core.seal_bits(memfd) & _core.F_SEAL_FUTURE_WRITE:
        # What was made private could not be shared again.
        others = _file.sharing_pids(memfd, [mapping.address for mapping in shared])
        if others:  # guard: shared for ever
            raise _file.busy(memfd, others)
    _mapping.while_private(
        shared, memfd.fileno(), lambda: _file.add_seals(memfd, _SEALED), Memory
    )


def locate(item: npt.NDArray[Any] | ArrayDict) -> tuple[Memfd, bytes | None]:
    """Return a memfd, and text that says where in it an array lies if it is not all."""
    if not isinstance(item, np.ndarray) and isinstance(item, ArrayDict):
        return _array.open_memfd_of(_arraydict.memory_of(item)), None
    return _array.locate(item)


def open_whole(memfd: Memfd, mode: Mode) -> Array | ArrayDict:
    """Map the array, or the arrays, in `memfd`, which was checked."""
    fd, size = memfd.fileno(), memfd.size
    start = os.pread(fd, _npy.START, 0)
    if not _npy.looks_like(start):
        if _safetensors.looks_like(start):
            return _arraydict.open_memfd(memfd, mode)
        if _objects.looks_like(start):
            raise ValueError("this memfd holds an object, which memfd.load() opens")
    dtype, shape, fortran, offset = _npy.read_header(fd, size, start)
    memory = map_memory(memfd, mode)
    return view(memory, dtype, shape, offset, order="F" if fortran else "C")


def open_view(memfd: Memfd, mode: Mode, text: bytes | None) -> Array | ArrayDict:
    """Open the view that hostile `text` tells of a memfd that was checked, or all of it."""
    if text is None:
        return open_whole(memfd, mode)
    dtype, shape, strides, offset = _npy.read_view(text, memfd.size)
    return view(map_memory(memfd, mode), dtype, shape, offset, strides)


def _is_immutable(x: npt.NDArray[Any] | ArrayDict) -> bool:
    if isinstance(x, ArrayDict):
        memory: Memory | PooledMemory | None = _arraydict.memory_of(x)
    else:
        memory = _array.memory_of(x)
        if memory is not None and memory._place(x) < 0:  # type: ignore[arg-type,unused-ignore]
            return False
    return (
        memory is not None
        and memory.mode == "r"
        and memory.memfd is not None
        and not memory.memfd.closed
        and _core.seal_bits(memory.memfd) & Seal.IMMUTABLE == Seal.IMMUTABLE
    )

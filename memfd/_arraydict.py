"""Many arrays in one memfd: `ArrayDict`, and the memfd a safetensors file."""

from __future__ import annotations

import collections.abc

import numpy as np

from memfd import _array, _file, _fill, _safetensors, _source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    import numpy.typing as npt

    from memfd._array import Array, Memory
    from memfd._file import Memfd
    from memfd._types import Huge, Mode, Name

# Types of NumPy, little-endian as everything in the format.
_TYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "U32": "<u4",
    "I32": "<i4", "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
    "C64": "<c8",
}  # fmt: skip
_DTYPES = {name: np.dtype(text) for name, text in _TYPES.items()}
_NAMES = {text: name for name, text in _TYPES.items()}


class ArrayDict(collections.abc.Mapping[str, "Array"]):
    """Arrays by name, all in one memfd: a read-only mapping.

    Made by `share` of a dict, and by `attach`.  Each `Array` is made when it is asked for,
    over one mapping of the memfd, which lives as long as the last of them.

    In multiprocessing it travels as one descriptor, and so does each array of it.  Pickled
    otherwise it becomes a dict of ordinary arrays.

    Notes
    -----
    The memfd is a safetensors file, which many languages read:
    https://github.com/huggingface/safetensors.

    Examples
    --------
    >>> import memfd, numpy as np
    >>> d = memfd.share({"x": np.arange(3), "y": np.ones((2, 2), "f4")})
    >>> d["x"].tolist(), list(d)
    ([0, 1, 2], ['x', 'y'])
    >>> float(memfd.attach(d.memfd)["y"].sum())
    4.0
    """

    __slots__ = ("__weakref__", "_memory", "_table")

    _memory: Memory
    _table: _safetensors.Table

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("use memfd.share({...}) or memfd.attach()")

    def __getitem__(self, name: str) -> Array:
        entry = self._table.entries[name]
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise TypeError(f"array {name!r} is {entry['dtype']}, which NumPy lacks")
        offset = self._table.start + entry["data_offsets"][0]
        return _array.view(self._memory, dtype, tuple(entry["shape"]), offset)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.entries)

    def __len__(self) -> int:
        return len(self._table.entries)

    def __contains__(self, name: object) -> bool:
        return name in self._table.entries

    # As for arrays, comparing contents is not one yes or no.
    if TYPE_CHECKING:

        def __eq__(self, other: object, /) -> bool: ...
        def __hash__(self) -> int: ...
    else:
        __eq__ = object.__eq__
        __hash__ = object.__hash__

    def __repr__(self) -> str:
        size = _file.readable(self._memory.size)
        return f"<memfd.ArrayDict of {len(self)} arrays, {size}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ([(name, np.asarray(array)) for name, array in self.items()],)

    @property
    def memfd(self) -> Memfd | None:
        """Memfd or None: The memfd behind all arrays, a safetensors file.

        None after `freeze`: the arrays go on with pages of their own.
        """
        return self._memory.memfd

    @property
    def metadata(self) -> dict[str, str]:
        """dict of str: What the writer noted, a copy; files of this package have none."""
        return dict(self._table.metadata)

    @property
    def nbytes(self) -> int:
        """int: Bytes of all arrays."""
        return self._memory.size - self._table.start


def over(memory: Memory) -> ArrayDict:
    """Return the arrays in a memfd that was mapped, whose header is hostile."""
    fd = memory.memfd.fileno()  # type: ignore[union-attr]
    return _new(memory, _safetensors.read_header(fd, memory.size))


def over_same(arrays: ArrayDict, memory: Memory) -> ArrayDict:
    """Return the arrays of the same file in another mapping of it."""
    return _new(memory, arrays._table)


def memory_of(arrays: ArrayDict) -> Memory:
    """Return the memory in which all arrays lie."""
    return arrays._memory


def open_memfd(memfd: Memfd, mode: Mode) -> ArrayDict:
    """Map the safetensors file in `memfd`, which was checked."""
    table = _safetensors.read_header(memfd.fileno(), memfd.size)
    return _new(_array.map_memory(memfd, mode), table)


def share(
    arrays: Mapping[str, npt.ArrayLike],
    mode: Mode,
    dtype: npt.DTypeLike | None,
    name: Name | None,
    huge: Huge,
    threads: int,
    seals: int,
) -> ArrayDict:
    """Copy arrays into one new memfd; see `memfd.share`."""
    sources = {}
    for key, array in arrays.items():
        if not isinstance(key, str):
            raise TypeError(f"names of arrays must be str, got {key!r}")
        try:
            sources[key] = _source.Source(array, dtype, "C")
            _type_name(sources[key].dtype)
        except TypeError as error:
            raise TypeError(f"array {key!r}: {error}") from None
    header, places, size = _safetensors.layout(
        (key, _type_name(source.dtype), source.shape) for key, source in sources.items()
    )
    pieces: list[tuple[int, int, Any]] = [(0, len(header), header)]
    pieces += sorted(
        ((places[key], source.nbytes, source) for key, source in sources.items()),
        key=lambda piece: piece[0],
    )
    return _filled(
        len(sources),
        lambda memfd, huge: _fill.fill_pieces(memfd, pieces, 0, size, huge, threads),
        mode,
        name,
        huge,
        seals,
    )


def copy(
    arrays: ArrayDict,
    mode: Mode,
    name: Name | None,
    huge: Huge,
    threads: int,
    seals: int,
) -> ArrayDict:
    """Copy arrays, and whatever else is in their file, into one new memfd."""
    memory = memory_of(arrays)
    return _filled(
        len(arrays),
        lambda memfd, huge: _fill.fill(memfd, memory, huge=huge, threads=threads),
        mode,
        name,
        huge,
        seals,
    )


def _filled(
    count: int,
    fill: Callable[[Memfd, Huge], None],
    mode: Mode,
    name: Name | None,
    huge: Huge,
    seals: int,
) -> ArrayDict:
    """Return the arrays in a new memfd that ``fill(memfd, huge)`` filled."""
    name = f"{count} arrays" if name is None else name
    memfd = _file.filled(name, fill, huge, seals)
    try:
        return open_memfd(memfd, mode)
    except BaseException:
        memfd.close()
        raise


def _type_name(dtype: np.dtype[Any]) -> str:
    name = _NAMES.get(dtype.str)
    if name is None or dtype.metadata:
        raise TypeError(
            f"dtype {dtype} is none that several arrays in one memfd can have: share "
            "it alone, convert it, or memfd.dump() the dict for those who trust you"
        )
    return name


def _new(memory: Memory, table: _safetensors.Table) -> ArrayDict:
    arrays = ArrayDict.__new__(ArrayDict)
    arrays._memory, arrays._table = memory, table
    return arrays

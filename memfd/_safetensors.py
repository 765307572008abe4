"""The header of a safetensors file: what makes a memfd many arrays for every language."""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

# Bits of an element.  The shortest are for files of others, as no NumPy has them.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32,
    "U64": 64, "I64": 64, "F16": 16, "F32": 32, "F64": 64, "C64": 64, "BF16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
# The format allows 100 MB; hostile text of that size becomes gigabytes of objects, and
# takes many seconds.  Of this size it is 100 MiB and half a second.
MAX_HEADER = 4 << 20
ALIGNMENT = 64  # bytes, of what follows the header
_MAX_DIMENSIONS = 64  # NumPy's
_MAX_SIZE = 2**63 - 1
_METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")
# What hostile text makes the parser raise; not what a signal handler does.
_HOSTILE = (
    LookupError,  # guard: entry without a key
    MemoryError,
    RecursionError,  # guard: nested lists
    TypeError,  # guard: what has no length
    ValueError,  # guard: no JSON
)


class Table(NamedTuple):
    """What a header says.

    Attributes
    ----------
    entries : dict
        Of each name: ``dtype``, ``shape``, and ``data_offsets``, which begin at `start`.
    metadata : dict of str
        Whatever the writer noted.
    start : int
        Where the data begin, in bytes.
    """

    entries: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    start: int


def layout(
    arrays: Iterable[tuple[str, str, tuple[int, ...]]],
) -> tuple[bytes, dict[str, int], int]:
    """Return a header, where each array begins in the file, and the size of the file.

    Arrays are named, with a type and a shape.  Those with large elements come first, so
    that all are aligned although the format allows no gaps.

    Raises
    ------
    ValueError
        A name that the format cannot hold, or too many of them.
    """
    sizes: dict[str, int] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name, dtype, shape in arrays:
        if name == _METADATA:
            raise ValueError(f"an array cannot be named {name!r}")
        sizes[name] = math.prod(shape) * BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (0, 0)}
    places: dict[str, int] = {}
    end = 0
    for name in sorted(entries, key=lambda name: -BITS[entries[name]["dtype"]]):
        places[name] = end
        end += sizes[name]
        entries[name]["data_offsets"] = places[name], end
    try:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"names of arrays must be text: {error}") from None
    text += b" " * (-(_LENGTH.size + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"{len(entries)} arrays need a header of {len(text)} bytes, more than "
            f"{MAX_HEADER}: share them in several memfds"
        )
    header = _LENGTH.pack(len(text)) + text
    start = len(header)
    return header, {name: start + at for name, at in places.items()}, start + end


def looks_like(begin: bytes) -> bool:
    """Tell whether a file that begins like this can be one of these."""
    # The upper bytes of a length that any reader takes are 0, and text has no such bytes.
    return begin[4 : _LENGTH.size + 1] == b"\0\0\0\0{"


def read_header(fd: int, size: int) -> Table:
    """Return what the header of a file of `size` bytes says; all of it is checked.

    Raises
    ------
    ValueError
        This is no safetensors file, or its header does not fit it.
    """
    begin = os.pread(fd, _LENGTH.size + 1, 0)
    if not looks_like(begin):  # guard: no safetensors
        raise ValueError("this memfd does not hold a safetensors file")
    (length,) = _LENGTH.unpack_from(begin)
    if length > MAX_HEADER:  # guard: long safetensors header
        raise ValueError(
            f"safetensors header of {length} bytes, more than {MAX_HEADER}"
        )
    start = _LENGTH.size + length
    text = os.pread(fd, length, _LENGTH.size)
    if start > size or len(text) < length:  # guard: safetensors header past the end
        raise ValueError(f"safetensors header of {length} bytes reaches past the end")
    try:
        entries = json.loads(
            text.decode(),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
        )
        metadata = entries.pop(_METADATA, {})
        _check_metadata(metadata)
        # Half of a pair, which JSON can say and no text can have.
        "".join(entries).encode()  # guard: names that are no text
        _check_entries(entries, size - start)
    except _HOSTILE as error:
        raise ValueError(
            f"safetensors header is not valid: {str(error)[:200]}"
        ) from None
    return Table(entries, metadata, start)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # guard: duplicate names
        raise ValueError("a name comes twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _check_metadata(metadata: Any) -> None:
    # guard: metadata that are no dict
    if type(metadata) is not dict:
        raise ValueError("metadata that are no object")
    # guard: metadata that are no text
    if any(type(value) is not str for value in metadata.values()):
        raise ValueError("metadata that are not text")
    "".join([*metadata, *metadata.values()]).encode()  # guard: metadata of half a pair


def _check_entries(entries: dict[str, dict[str, Any]], size: int) -> None:
    """Raise unless the arrays follow one another, without gaps, to the end of the data.

    One look at all for each question: ten thousand arrays take some milliseconds.
    """
    every = list(entries.values())
    # guard: entries of other keys
    if any(type(entry) is not dict or len(entry) != 3 for entry in every):
        raise ValueError("an array has not just dtype, shape and data_offsets")
    dtypes = [entry["dtype"] for entry in every]
    unknown = set(dtypes) - BITS.keys()
    if unknown:  # guard: unknown dtypes
        raise ValueError(f"dtype {min(unknown, key=str)!r} is unknown")
    shapes = [entry["shape"] for entry in every]
    spans = [entry["data_offsets"] for entry in every]
    # guard: shapes that are no lists
    if not {*map(type, shapes), *map(type, spans)} <= {list}:
        raise ValueError("shape and data_offsets must be lists")
    numbers = [*itertools.chain(*shapes), *itertools.chain(*spans)]
    # guard: numbers of safetensors
    if not set(map(type, numbers)) <= {int}:
        raise ValueError("shape and data_offsets must be lists of whole numbers")
    # Before anything is multiplied: products of long numbers take for ever.
    # guard: size of numbers
    if not 0 <= min(numbers, default=0) <= max(numbers, default=0) <= _MAX_SIZE:
        raise ValueError("a number is negative or too large")
    # guard: dimensions of safetensors
    if max(map(len, shapes), default=0) > _MAX_DIMENSIONS:
        raise ValueError(f"an array has more than {_MAX_DIMENSIONS} dimensions")
    # guard: two offsets
    if not set(map(len, spans)) <= {2}:
        raise ValueError("data_offsets must be two numbers")
    for dtype, shape, (begin, end) in zip(dtypes, shapes, spans, strict=True):
        bits = math.prod(shape) * BITS[dtype]
        if bits != (end - begin) * 8:  # guard: size of an array
            raise ValueError(f"shape {shape} of {dtype} at {begin} to {end}")
        if not bits:
            # What NumPy does not allow, although nothing is there.
            kept = math.prod(number for number in shape if number)
            if kept * BITS[dtype] // 8 > _MAX_SIZE:  # guard: size of nothing
                raise ValueError(f"shape {shape} of {dtype} is too large")
    spans.sort()
    ends = [0, *(end for _, end in spans)]
    # guard: gaps and overlaps
    if [begin for begin, _ in spans] != ends[:-1]:
        raise ValueError("arrays overlap, or leave gaps")
    if ends[-1] != size:  # guard: end of the arrays
        raise ValueError(f"arrays end at {ends[-1]} of {size} bytes")

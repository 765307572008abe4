"""The header of a .npy file: what makes a memfd an array for every program."""

from __future__ import annotations

import ast
import contextlib
import functools
import math
import operator
import os
import struct

import numpy as np
from numpy.lib import format as npy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from memfd._types import Order

    # dtype, shape, strides and offset
    _View: TypeAlias = tuple[np.dtype[Any], tuple[int, ...], tuple[int, ...], int]

# numpy.load refuses longer headers too: parsing one can exhaust the interpreter.
_MAX_HEADER = 10_000
START = 4096  # bytes to read of a file, which nearly always hold its header
# What hostile text makes the parsers raise; not what a signal handler does.
_HOSTILE = (
    ArithmeticError,  # guard: numbers beyond C
    AttributeError,  # guard: no dict
    LookupError,  # guard: a dtype of too few items
    MemoryError,  # guard: nested text
    RecursionError,  # guard: text deeper than the stack
    SyntaxError,  # guard: no Python
    SystemError,
    TypeError,  # guard: no dtype
    ValueError,  # guard: no literal
    Warning,  # guard: text that warns
)
_PREFIX = len(npy.MAGIC_PREFIX) + 2  # magic string and version
_LENGTH_AND_ENCODING = {
    (1, 0): ("<H", "latin1"),
    (2, 0): ("<I", "latin1"),
    (3, 0): ("<I", "utf8"),
}


def header(dtype: np.dtype[Any], shape: tuple[int, ...], fortran_order: bool) -> bytes:
    """Return the bytes that `numpy.save` writes before the data of such an array.

    Raises
    ------
    TypeError
        .npy cannot give `dtype` back as it was.
    """
    return _header(_bare(dtype), shape, fortran_order)


@functools.lru_cache(maxsize=256)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...], fortran_order: bool) -> bytes:
    if dtype.hasobject:
        raise TypeError(
            f"dtype {dtype} refers to Python objects, which other processes cannot see"
        )
    if not _comes_back(dtype):
        raise TypeError(
            f"dtype {dtype!r} cannot be kept in a .npy file; share a view of another "
            "dtype instead, such as array.view(numpy.uint8)"
        )
    fields = {
        "descr": npy.dtype_to_descr(dtype),
        "fortran_order": fortran_order,
        "shape": shape,
    }
    first = _FirstPiece()
    try:
        npy.write_array_header_1_0(first, fields)
    except UnicodeEncodeError:  # field names beyond Latin-1 need version 3
        order: Order = "F" if fortran_order else "C"
        with contextlib.suppress(_EnoughError):
            npy.write_array(first, np.empty(shape, dtype, order), version=(3, 0))
    except ValueError:
        first.piece = bytes(1 << 16)
    if len(first.piece) > _MAX_HEADER:
        raise TypeError(
            f"dtype with {len(dtype.names or ())} fields needs a header of more than "
            f"{_MAX_HEADER} bytes, which readers of .npy files refuse"
        )
    return first.piece


@functools.lru_cache(maxsize=256)
def with_room(header: bytes, room: int) -> bytes:
    """Return a header with at least so many spaces, 64 at most, before its last byte."""
    if header[-room - 1 : -1].isspace():
        return header
    form, _ = _LENGTH_AND_ENCODING[header[_PREFIX - 2], header[_PREFIX - 1]]
    begin = _PREFIX + struct.calcsize(form)
    text = header[begin:-1] + b" " * 64 + b"\n"
    return header[:_PREFIX] + struct.pack(form, len(text)) + text


def has_order(shape: tuple[int, ...]) -> bool:
    """Tell whether C and Fortran order are not the same thing for this shape."""
    return 0 not in shape and sum(number > 1 for number in shape) > 1


def looks_like(begin: bytes) -> bool:
    """Tell whether a file that begins like this can be one of these."""
    return begin[: len(npy.MAGIC_PREFIX)] == npy.MAGIC_PREFIX


def read_header(
    fd: int, size: int, start: bytes | None = None
) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Return dtype, shape, whether in Fortran order, and offset of the array in `fd`.

    `start` is its first ``START`` bytes, if they were read already.  Everything in the
    file is hostile until it has been checked; nothing is unpickled.

    Raises
    ------
    ValueError
        The file of `size` bytes holds no .npy array, or its header does not fit it.
    """
    if start is None:
        start = os.pread(fd, START, 0)
    if not looks_like(start):  # guard: no .npy
        raise ValueError("this memfd does not hold a .npy array")
    if len(start) < _PREFIX + 4:  # guard: short file
        raise ValueError(f"a memfd of {size} bytes does not hold a .npy array")
    version = start[_PREFIX - 2], start[_PREFIX - 1]
    if version not in _LENGTH_AND_ENCODING:  # guard: version of .npy
        raise ValueError(f".npy version {version} is unknown")
    form, encoding = _LENGTH_AND_ENCODING[version]
    begin = _PREFIX + struct.calcsize(form)
    (length,) = struct.unpack(form, start[_PREFIX:begin])
    if length > _MAX_HEADER:  # guard: long header
        raise ValueError(f".npy header of {length} bytes, more than {_MAX_HEADER}")
    if begin + length > len(start):
        start = os.pread(fd, begin + length, 0)
    if begin + length > min(len(start), size):  # guard: header past the end
        raise ValueError(f".npy header of {length} bytes reaches past the end")
    text = start[begin : begin + length]
    # Who gets one array gets more of its kind.
    dtype, shape, fortran_order = _parse_once(text, encoding)
    # But the receiver can change the dtype of records (its names).
    if dtype.names is not None:  # guard: records
        dtype, shape, fortran_order = _parse(text, encoding)
    offset = begin + length
    needed = math.prod(shape) * dtype.itemsize
    if needed > size - offset:  # guard: array past the end
        raise ValueError(
            f".npy header promises shape {shape} of {dtype}, {needed} bytes; "
            f"the file holds {size - offset}"
        )
    return dtype, shape, fortran_order, offset


def view_text(
    dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> bytes:
    """Return what tells another process where in a memfd an array lies.

    Raises
    ------
    TypeError
        .npy cannot give `dtype` back as it was.
    """
    return _view_text(_bare(dtype), shape, strides, offset)


@functools.lru_cache(maxsize=256)
def _view_text(
    dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> bytes:
    _header(dtype, (), False)
    descr = npy.dtype_to_descr(dtype)
    told = {"descr": descr, "shape": shape, "strides": strides, "offset": offset}
    return repr(told).encode()


def read_view(text: bytes, size: int) -> _View:
    """Return dtype, shape, strides and offset from `view_text`.

    Raises
    ------
    ValueError
        The text is not valid, or the view reaches out of a file of `size` bytes.
    """
    # As for headers: who gets one view gets more of its kind.
    view, low, high, nbytes = _parse_view_once(text)
    if view[0].names is not None:  # guard: view of records
        view, low, high, nbytes = _parse_view(text)
    if low < 0:  # guard: view before the beginning
        raise ValueError(f"the view is not valid: it begins at byte {low}")
    if high > size:  # guard: view past the end
        raise ValueError(
            f"the view is not valid: it reaches to byte {high} of {size} bytes"
        )
    # Steps of 0 would make of a small file an array larger than any memory.
    if nbytes > size:  # guard: view that repeats
        raise ValueError(
            f"the view is not valid: it repeats {size} bytes until they are {nbytes}"
        )
    return view


def _parse_view(text: bytes) -> tuple[_View, int, int, int]:
    """Return what the text of a view says, where that begins and ends, and its bytes.

    ValueError where it says nothing.
    """
    try:
        told = ast.literal_eval(text.decode())
        # guard: keys of a view
        if told.keys() != {"descr", "shape", "strides", "offset"}:
            raise ValueError(f"keys {sorted(told)}")
        shape, strides, offset = told["shape"], told["strides"], told["offset"]
        for numbers in (shape, strides, (offset,)):
            if type(numbers) is not tuple:  # guard: tuples of a view
                raise ValueError(f"not a tuple: {numbers!r}")
            if any(type(n) is not int for n in numbers):  # guard: numbers of a view
                raise ValueError(f"not numbers: {numbers!r}")
        if len(shape) != len(strides):  # guard: dimensions of a view
            raise ValueError(f"shape {shape} and strides {strides}")
        dtype = _dtype_of(told["descr"])
        _check_limits(dtype, shape)  # guard: limits of a view
    except _HOSTILE as error:
        raise ValueError(f"the view is not valid: {str(error)[:200]}") from None
    # Not left to NumPy, whose sums overflow.
    reach = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    low = offset + sum(step for step in reach if step < 0)
    high = offset + sum(step for step in reach if step > 0) + dtype.itemsize
    if 0 in shape:
        low = high = offset
    nbytes = math.prod(shape) * dtype.itemsize
    return (dtype, shape, strides, offset), low, high, nbytes


def _check_limits(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise unless NumPy can have this shape, also where a zero hides the product."""
    # Numbers that are negative or no int are refused here, too.  NumPy 1 counts the
    # dimensions of a new array, but writes those of as_strided() past its own stack.
    none = (0,) * len(shape)
    np.lib.stride_tricks.as_strided(np.empty(none, dtype), shape, none)


def _dtype_of(descr: Any) -> np.dtype[Any]:
    """Return the dtype that hostile `descr` describes, or raise."""
    dtype: np.dtype[Any] = npy.descr_to_dtype(descr)
    if dtype.hasobject:  # guard: objects
        raise ValueError(f"dtype {dtype} refers to Python objects of the sender")
    # A subarray, which would change the shape, does not come back either.
    if not _comes_back(dtype):  # guard: dtype that changes
        raise ValueError(f"dtype {dtype!r} is not what it was")
    return dtype


def _parse(text: bytes, encoding: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Return dtype, shape and order from the text of a header, or raise ValueError."""
    try:
        fields = ast.literal_eval(text.decode(encoding))
        if fields.keys() != npy.EXPECTED_KEYS:  # guard: keys of a header
            raise ValueError(f"keys {sorted(fields)}")
        shape, fortran_order = fields["shape"], fields["fortran_order"]
        if type(shape) is not tuple:  # guard: shape of a header
            raise ValueError(f"shape {shape!r}")
        if type(fortran_order) is not bool:  # guard: order of a header
            raise ValueError(f"fortran_order {fortran_order!r}")
        dtype = _dtype_of(fields["descr"])
        _check_limits(dtype, shape)  # guard: limits of a header
    except _HOSTILE as error:
        raise ValueError(f".npy header is not valid: {str(error)[:200]}") from None
    return dtype, shape, fortran_order


_parse_once = functools.lru_cache(maxsize=256)(_parse)
_parse_view_once = functools.lru_cache(maxsize=256)(_parse_view)


def _bare(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return `dtype`, whose metadata must be none or empty, without metadata.

    Before it is looked up anywhere: with other metadata it is equal.
    """
    if dtype.metadata is None and dtype.fields is None and dtype.subdtype is None:
        return dtype
    if _has_metadata(dtype):
        raise TypeError(
            f"dtype {dtype!r} has metadata, which .npy does not keep; "
            "memfd.share(array, dtype=...) of the same type without it drops it"
        )
    try:
        bare: np.dtype[Any] = npy.drop_metadata(dtype)
    except ValueError:  # of fields with titles
        return dtype
    # Of types that are not NumPy's own it makes others.
    return bare if bare.num == dtype.num else np.dtype(dtype.type)


def _has_metadata(dtype: np.dtype[Any]) -> bool:
    parts = [field[0] for field in (dtype.fields or {}).values()]
    if dtype.subdtype is not None:
        parts.append(dtype.subdtype[0])
    return bool(dtype.metadata) or any(map(_has_metadata, parts))


def _comes_back(dtype: np.dtype[Any]) -> bool:
    """Tell whether .npy gives `dtype` back as it was."""
    try:
        back = npy.descr_to_dtype(npy.dtype_to_descr(dtype))
    except (TypeError, ValueError):  # overlapping or out-of-order fields
        return False
    return dtype.itemsize > 0 and operator.eq(back, dtype)


class _EnoughError(Exception):
    """The header is there; its data need not be written."""


class _FirstPiece:
    """A file that keeps what is written first and refuses the rest."""

    piece = b""

    def write(self, piece: bytes) -> None:
        if self.piece:
            raise _EnoughError
        self.piece = piece

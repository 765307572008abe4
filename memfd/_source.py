"""The source of a copy: what can be shared without being damaged, and its bytes."""

from __future__ import annotations

import numpy as np

from memfd import _fill, _npy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import numpy.typing as npt

    from memfd._block import Frame
    from memfd._file import Memfd
    from memfd._fill import Filler
    from memfd._types import AnyOrder, Huge

_BLOCK = 256 << 10  # bytes; stays in the cache of one core

# What labelled containers have and arrays have not: sharing them would lose the labels.
_LABELLED = ("__dataframe__", "__arrow_c_stream__", "iloc", "coords")
_SPARSE = ("tocsr", "todense", "sp_values")
# What arrays of NumPy's own carry; it says nothing about their values.
_NOTED = {np.memmap: {"_mmap", "filename", "offset", "mode"}, np.matrix: {"_getitem"}}


class Source:
    """An array to copy from, and the type and order that the copy shall have.

    Attributes
    ----------
    dtype : numpy.dtype
        Type of the copy.
    shape : tuple of int
        Shape of both.
    fortran : bool
        Whether the copy is in Fortran order, and not in C order.

    Raises
    ------
    TypeError
        A copy would lose labels, masks, what is missing, attributes or the sparse form.
    """

    __slots__ = ("_is_ready", "_rows", "dtype", "fortran", "shape")

    def __init__(
        self, array: npt.ArrayLike, dtype: npt.DTypeLike | None, order: AnyOrder
    ) -> None:
        if not isinstance(array, np.ndarray):
            _check_not_labelled(array)
            _check_nothing_missing(array)
            array, dtype = np.asarray(array, dtype, order=_order(dtype)), None
        elif type(array) is not np.ndarray:
            _check_no_state(array)
            array = array.view(np.ndarray)
        if dtype is None:
            self.dtype = array.dtype
        elif array.dtype == dtype:  # but for metadata, which are not compared
            self.dtype = np.dtype(dtype)
        else:
            array, self.dtype = _converted(array, dtype)
        self.shape = array.shape
        if order in "KA":
            self.fortran = array.flags.fnc
        else:
            self.fortran = order == "F" and _npy.has_order(self.shape)
        rows = array.T if self.fortran else array
        # NumPy's types say that arrays are buffers from Python 3.12 on only.
        self._rows: Any = rows
        self._is_ready = rows.flags.c_contiguous and rows.dtype == self.dtype

    @property
    def nbytes(self) -> int:
        """int: Bytes of the copy."""
        return int(self._rows.size) * self.dtype.itemsize

    def fill(self, memfd: Memfd, head: bytes, huge: Huge, threads: int) -> None:
        """Write `head` and then the array into a new memfd."""
        if not self._is_ready and self.nbytes <= _BLOCK:
            rows = np.zeros(self._rows.shape, self.dtype)
            np.copyto(rows, self._rows, casting="unsafe")
            self._rows, self._is_ready = rows, True
        if self._is_ready:
            _fill.fill(memfd, self._rows, head=head, huge=huge, threads=threads)
            return
        size = len(head) + self.nbytes
        pieces: list[tuple[int, int, bytes | Source]] = [
            (0, len(head), head),
            (len(head), self.nbytes, self),
        ]
        _fill.fill_pieces(memfd, pieces, 0, size, huge)

    def put(self, frame: Frame, head: bytes) -> None:
        """Write `head` and then the array into memory that was used before."""
        frame._begin(head)
        if self._is_ready:
            frame._write(self._rows, len(head))
            return
        # What lies between the fields of a record is not copied, nor what fills up a long
        # double.
        if self.dtype.names or self.dtype.char in "gG":
            frame._clear(len(head))  # guard: what was between fields -> pass
        target = np.ndarray(self._rows.shape, self.dtype, frame, len(head))
        np.copyto(target, self._rows, casting="unsafe")

    def write(self, filler: Filler, offset: int, begin: int, end: int) -> None:
        """Write bytes `begin` to `end` of the array, which itself begins at `offset`."""
        if self._is_ready:
            filler.write(self._rows, offset + begin, begin, end)
            return
        # Never a second copy of the whole: a block at a time, which stays in the cache.
        # It begins as zeros, here as above: NumPy leaves what lies between the fields of
        # a record as it was, and that should be nothing of ours.
        count = max(_BLOCK // self.dtype.itemsize, 1)
        block: Any = np.zeros(min(count, self._rows.size), self.dtype)
        done = 0
        for part in _parts(self._rows, count):
            size = part.size * self.dtype.itemsize
            first, last = max(begin - done, 0), min(end - done, size)
            if first < last:
                flat = block[: part.size]
                np.copyto(flat.reshape(part.shape), part, casting="unsafe")
                filler.write(flat, offset + done + first, first, last)
            done += size


def _parts(array: npt.NDArray[Any], count: int) -> Iterator[npt.NDArray[Any]]:
    """Cut an array, in C order, into parts of at most `count` elements."""
    if array.size <= count:
        yield array
        return
    axis, inner = array.ndim, 1
    while inner * array.shape[axis - 1] <= count:
        axis -= 1
        inner *= array.shape[axis]
    step = count // inner
    for outer in np.ndindex(array.shape[: axis - 1]):
        rows = array[outer]
        for begin in range(0, len(rows), step):
            yield rows[begin : begin + step]


def _converted(
    array: npt.NDArray[Any], dtype: npt.DTypeLike
) -> tuple[npt.NDArray[Any], np.dtype[Any]]:
    """Return an array and the type to copy it as, which NumPy completes from the array."""
    empty = np.empty(0, array.dtype).astype(dtype)
    # The length of text comes from the data, and a subarray adds dimensions.
    if array.dtype.hasobject or np.dtype(dtype).itemsize == 0 or empty.ndim > 1:
        array = array.astype(dtype, order=_order(dtype))
        return array, array.dtype
    return array, empty.dtype


def _order(dtype: npt.DTypeLike | None) -> AnyOrder:
    """Return the order in which NumPy converts to `dtype` as it should."""
    # Of what a subarray adds it fills only a part, unless all is in C order.
    return "K" if np.dtype(dtype).subdtype is None else "C"


def _check_not_labelled(x: object) -> None:
    kind = type(x)
    if isinstance(x, (str, bytes)):
        raise TypeError(
            f"array must be numbers, not {kind.__name__}; memfd.from_bytes() takes bytes"
        )
    if any(hasattr(kind, name) for name in _SPARSE):
        raise TypeError(
            f"array must be dense, not {kind.__name__}: share its parts (such as .data, "
            ".indices, .indptr), or a dense copy (x.toarray(), x.to_dense())"
        )
    if any(hasattr(kind, name) for name in _LABELLED):
        raise TypeError(
            f"array must not have labels, {kind.__name__} has: share x.to_numpy() or "
            "single columns"
        )


def _check_nothing_missing(x: Any) -> None:
    # What pandas calls NA, and Arrow null; NaN and NaT are values of NumPy, too.
    na = getattr(getattr(x, "dtype", None), "na_value", None)
    if type(na).__name__ == "NAType":
        missing = x.isna().any()
    else:
        missing = getattr(x, "null_count", 0)
    if missing:
        raise TypeError(
            f"array must not have missing values, {type(x).__name__} has: share it "
            "filled (x.fillna(), x.fill_null()) and which they are (x.isna(), x.is_null())"
        )


def _check_no_state(array: npt.NDArray[Any]) -> None:
    kind = type(array)
    if hasattr(kind, "filled"):
        raise TypeError(
            "a masked array would lose its mask: share array.data and .mask"
        )
    noted = _NOTED.get(kind, set())
    lost = [name for name in getattr(array, "__dict__", ()) if name not in noted]
    if lost:
        raise TypeError(
            f"{kind.__name__} carries {', '.join(lost)}, which would be lost: "
            "share numpy.asarray(array)"
        )

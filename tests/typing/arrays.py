"""The types of arrays: what is known of their elements and shape is kept."""

import os
from collections.abc import Mapping
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import memfd

Floats = np.dtype[np.float64]
Shorts = np.dtype[np.int16]
Line = tuple[int]
Table = tuple[int, int]
AnyShape = tuple[Any, ...]

SHAPE: Table = (2, 3)


def table() -> np.ndarray[Table, Floats]:
    return np.ones((2, 3))


def anything() -> npt.NDArray[np.float64]:
    return np.ones((2, 3))


def check_share() -> None:
    assert_type(memfd.share(table()), memfd.Array[Table, Floats])
    assert_type(memfd.share(anything()), memfd.Array[AnyShape, Floats])
    assert_type(memfd.share(table(), dtype=np.int16), memfd.Array[Table, Shorts])
    assert_type(
        memfd.share(table(), dtype=np.dtype(np.int16)), memfd.Array[Table, Shorts]
    )
    assert_type(memfd.share(np.int16(7)), memfd.Array[tuple[()], Shorts])
    assert_type(memfd.share([1, 2], dtype=np.int16), memfd.Array[AnyShape, Shorts])
    assert_type(memfd.share([[1, 2], [3, 4]]), memfd.Array)
    assert_type(memfd.share(table(), dtype="f4"), memfd.Array)
    assert_type(memfd.share(memfd.share(table())), memfd.Array[Table, Floats])
    a = memfd.share(table(), mode="r+", order="F", name="it", huge="never", threads=2)
    assert_type(a, memfd.Array[Table, Floats])


def check_arrays_by_name() -> None:
    arrays = memfd.share({"x": table(), "y": [1, 2]}, mode="r+")
    assert_type(arrays, memfd.ArrayDict)
    assert_type(arrays["x"], memfd.Array)
    assert_type(arrays.memfd, memfd.Memfd | None)
    assert_type(arrays.metadata, dict[str, str])
    assert_type(arrays.nbytes, int)
    for name, array in arrays.items():
        assert_type(name, str)
        assert_type(array, memfd.Array)
    as_mapping: Mapping[str, npt.NDArray[Any]] = arrays
    assert_type(memfd.share(as_mapping), memfd.ArrayDict)
    assert_type(memfd.attach(arrays), memfd.ArrayDict)
    assert_type(memfd.freeze(arrays), memfd.ArrayDict)


def check_new() -> None:
    assert_type(memfd.empty(3), memfd.Array[Line, Floats])
    assert_type(memfd.empty(SHAPE), memfd.Array[Table, Floats])
    assert_type(memfd.empty([2, 3]), memfd.Array[AnyShape, Floats])
    assert_type(memfd.empty(3, np.int16), memfd.Array[Line, Shorts])
    assert_type(memfd.empty(SHAPE, np.int16), memfd.Array[Table, Shorts])
    assert_type(memfd.empty(SHAPE, np.dtype(np.int16)), memfd.Array[Table, Shorts])
    assert_type(memfd.empty([2, 3], np.int16), memfd.Array[AnyShape, Shorts])
    assert_type(memfd.empty(SHAPE, "f4"), memfd.Array)
    assert_type(memfd.empty(SHAPE, int, "F", populate=True, name="it"), memfd.Array)
    assert_type(memfd.zeros(3), memfd.Array[Line, Floats])
    assert_type(memfd.zeros(SHAPE, np.int16), memfd.Array[Table, Shorts])
    assert_type(memfd.zeros(shape=SHAPE, name="it"), memfd.Array[Table, Floats])
    assert_type(memfd.full(3, np.int16(7)), memfd.Array[Line, Shorts])
    assert_type(memfd.full(SHAPE, np.int16(7)), memfd.Array[Table, Shorts])
    assert_type(memfd.full(3, 7, np.int16), memfd.Array[Line, Shorts])
    assert_type(memfd.full(SHAPE, 7, dtype=np.int16), memfd.Array[Table, Shorts])
    assert_type(memfd.full([2, 3], 7, np.int16), memfd.Array[AnyShape, Shorts])
    assert_type(memfd.full(3, 7), memfd.Array)


def check_like() -> None:
    assert_type(memfd.empty_like(table()), memfd.Array[Table, Floats])
    assert_type(memfd.empty_like(table(), np.int16), memfd.Array[Table, Shorts])
    assert_type(memfd.empty_like(table(), shape=3), memfd.Array[AnyShape, Floats])
    assert_type(
        memfd.empty_like(table(), np.int16, shape=3), memfd.Array[AnyShape, Shorts]
    )
    assert_type(memfd.empty_like([1, 2]), memfd.Array)
    assert_type(memfd.zeros_like(table()), memfd.Array[Table, Floats])
    assert_type(memfd.zeros_like(table(), dtype=np.int16), memfd.Array[Table, Shorts])
    assert_type(memfd.full_like(table(), 7), memfd.Array[Table, Floats])
    assert_type(memfd.full_like(table(), 7, np.int16), memfd.Array[Table, Shorts])
    assert_type(memfd.full_like([1, 2], 7), memfd.Array)


def check_attach_and_freeze() -> None:
    a = memfd.zeros(SHAPE)
    f = a.memfd
    assert_type(f, memfd.Memfd | None)
    assert f is not None
    assert_type(memfd.attach(a, "c"), memfd.Array[Table, Floats])
    # What a file holds is known when it is read: whoever knows it before says so.
    known: memfd.Array[Table, Floats] = memfd.attach(f)
    assert known.shape == SHAPE
    by_number: memfd.Array = memfd.attach(f.fileno(), "r+", require=memfd.Seal.SHRINK)
    by_path: memfd.Array = memfd.attach(f.path, max_size=1 << 20, dense=False)
    assert by_number.dtype == by_path.dtype
    assert_type(memfd.freeze(a, copy=True), memfd.Array[Table, Floats])
    assert_type(memfd.freeze(a), memfd.Array[Table, Floats])


def check_views() -> None:
    a = memfd.share(table())
    assert_type(a[0, 0], Any)
    assert_type(a[1:], memfd.Array[AnyShape, Floats])
    assert_type(a[:, 0], memfd.Array[AnyShape, Floats])
    assert_type(a[..., None], memfd.Array[AnyShape, Floats])
    assert_type(a.T, memfd.Array[Table, Floats])
    assert_type(a[1:].memfd, memfd.Memfd | None)
    assert_type(a[[1, 0]], np.ndarray[AnyShape, Floats])
    index: npt.NDArray[np.intp] = np.array([1, 0])
    assert_type(a[index], np.ndarray[AnyShape, Floats])
    as_array: npt.NDArray[np.float64] = a
    as_any: memfd.Array = a
    assert as_array is as_any
    for row in a:
        assert_type(row, Any)


def check_pool() -> None:
    with memfd.BufferPool(
        max_bytes=1 << 20, max_blocks=30, when_full="raise", timeout=None, name="it"
    ) as pool:
        assert_type(pool, memfd.BufferPool)
        assert_type(pool.put(table()), memfd.Array[Table, Floats])
        assert_type(pool.put(table(), dtype=np.int16), memfd.Array[Table, Shorts])
        assert_type(pool.put(np.int16(7)), memfd.Array[tuple[()], Shorts])
        assert_type(pool.put([1, 2], order="C"), memfd.Array)
        assert_type(pool.empty(3), memfd.Array[Line, Floats])
        assert_type(pool.empty(SHAPE, np.int16), memfd.Array[Table, Shorts])
        assert_type(pool.empty(SHAPE, clear=False), memfd.Array[Table, Floats])
        assert_type(pool.empty([2, 3], int), memfd.Array)
        assert_type(pool.reuses, bool)
        assert_type(pool.closed, bool)
        assert_type(pool.trim(), int)
        stats = pool.stats()
        assert_type(stats.in_use, int)
        assert_type(stats.holders.get(os.getpid()), int | None)
        pool.close()

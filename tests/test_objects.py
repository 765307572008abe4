"""dump and load: an object in one memfd."""

import contextlib
import dataclasses
import datetime
import decimal
import functools
import gc
import os
import pickle
import struct
import threading

import pytest

import memfd
from memfd import Seal, SealError, _objects

np = pytest.importorskip("numpy")

HEAD = struct.Struct("<8sQQQQ")


@dataclasses.dataclass
class Model:
    name: str
    weights: object


def buffers(f):
    return _objects.read_layout(f.fileno(), f.size).buffers


def back(obj, mode="r"):
    return memfd.load(memfd.dump(obj), mode)


ARRAYS = {
    "numbers": np.arange(12.0).reshape(3, 4),
    "Fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "slice": np.arange(12.0).reshape(3, 4)[:, ::-2],
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "swapped": np.arange(3, dtype=">i4"),
    "dates": np.array(["2026-01-01", "NaT"], "M8[D]"),
    "text": np.array(["a", "\U0001f600"]),
    "bytes": np.array([b"a", b"bc"]),
    "void": np.zeros(2, "V5"),
    "records": np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
    "records, sliced": np.zeros(4, [("a", "i4"), ("b", "f8")])[::2],
    "0-d": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "empty slice": np.zeros((4, 4))[::2, 4:],
    "broadcast": np.broadcast_to(np.arange(3), (2, 3)),
    "long": np.arange(3, dtype="g"),
    "long, swapped": np.arange(3).astype(np.dtype("g").newbyteorder()),
    "long and complex, swapped": np.arange(3).astype(np.dtype("G").newbyteorder()),
    "read-only": np.frombuffer(bytes(24)),
    "dates, read-only": np.frombuffer(bytes(24), "i8").view("M8[s]"),
    "dates, Fortran": np.zeros((3, 4), "m8[s]", order="F"),
    "dates, sliced": np.zeros((3, 4), "m8[s]")[:, ::2],
    "records of dates": np.zeros(3, [("a", "M8[s]"), ("b", "u1")]),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("mode", ["r", "c"])
def test_arrays(name, mode):
    """Every type, shape and order comes back, as a view of the one mapping of this mode."""
    array = ARRAYS[name]
    f = memfd.dump([array, array])
    one, same = memfd.load(f, mode)

    assert one is same
    assert type(one) is np.ndarray
    assert (one.dtype, one.shape) == (array.dtype, array.shape)
    assert one.tobytes() == array.tobytes()
    assert one.flags.writeable == (mode == "c")
    assert len(buffers(f)) == 1


def test_types_of_other_packages():
    """Arrays of types that NumPy does not know by itself are views, too."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e5m2):
        array = np.arange(6.0).astype(dtype)
        f = memfd.dump([array, array[::2]])
        assert [size for _, size in buffers(f)] == [array.nbytes, array.nbytes // 2]
        for one, wanted in zip(memfd.load(f), (array, array[::2]), strict=True):
            assert one.dtype == dtype
            assert one.tolist() == wanted.tolist()


def test_objects():
    """Containers, numbers, text, classes, and arrays of objects."""
    obj = {
        "list": [1, 2.5, None, True, 1 << 100, "ü", b"b", bytearray(b"c")],
        "tuple": (frozenset({1}), {2}, range(3), datetime.date(2026, 1, 1)),
        "decimal": decimal.Decimal("0.1"),
        "partial": functools.partial(int, base=2),
    }
    assert back(obj)["partial"]("11") == 3
    assert {**back(obj), "partial": 0} == {**obj, "partial": 0}
    objects = back({"x": np.array([None, "a", [1]], object)})["x"]
    assert objects.tolist() == [None, "a", [1]]
    model = back(Model("m", {"w": np.ones(3)}))
    assert (type(model), model.weights["w"].tolist()) == (Model, [1, 1, 1])
    assert back(None) is None


def test_array_of_ours():
    """An Array in an object is copied with it, and comes back as an ordinary array."""
    array = memfd.share(np.arange(12.0))
    f = memfd.dump({"whole": array, "slice": array[::3]})
    assert len(buffers(f)) == 2
    found = memfd.load(f)
    assert type(found["whole"]) is np.ndarray
    assert found["whole"].tolist() == array.tolist()
    assert found["slice"].tolist() == array[::3].tolist()
    assert back(memfd.share({"x": np.ones(2)}))["x"].tolist() == [1, 1]


def test_files_in_memory(tmp_path):
    """A memmap is copied from file to memfd, and comes back as an ordinary array."""
    np.save(tmp_path / "a.npy", np.arange(12.0))
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    f = memfd.dump({"whole": array, "slice": array[::3]})
    assert [size for _, size in buffers(f)] == [96, 32]
    found = memfd.load(f)
    assert type(found["whole"]) is np.ndarray
    assert found["whole"].tolist() == array.tolist()
    assert found["slice"].tolist() == array[::3].tolist()


def test_raw_buffers():
    """Large bytes and bytearrays come back as they are, a PickleBuffer as a view."""
    data = os.urandom(5 << 20)
    found = back([data, bytearray(data), pickle.PickleBuffer(data)])
    assert found[0] == data
    assert found[1] == data
    assert type(found[1]) is bytearray
    assert type(found[2]) is memoryview
    assert found[2] == data
    assert found[2].readonly


def test_masked_and_subclasses():
    """Subclasses of arrays keep what makes them so, as part of the pickle."""
    masked = np.ma.array([1, 2, 3], mask=[0, 1, 0])
    found = back(masked)
    assert type(found) is np.ma.MaskedArray
    assert found.tolist() == [1, None, 3]


def test_frames():
    """Numbers of data frames and series are views, whatever their columns; text comes."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "a": np.arange(1000.0),
            "b": np.arange(1000),
            "c": ["x", None] * 500,
            "d": pd.Series([1, "x"] * 500, dtype=object),
            "e": pd.date_range("2026-01-01", periods=1000, tz="Europe/Vienna"),
            "f": pd.Categorical(["u", "v"] * 500),
        }
    )
    f = memfd.dump(frame)
    found = memfd.load(f)
    pd.testing.assert_frame_equal(found, frame)
    assert not found["a"].to_numpy().flags.writeable
    assert not found["a"].to_numpy().flags.owndata
    pd.testing.assert_frame_equal(back(frame[::3]), frame[::3])
    pd.testing.assert_series_equal(back(frame["a"]), frame["a"])
    pd.testing.assert_index_equal(
        back(frame.set_index("b").index), frame.set_index("b").index
    )
    mine = memfd.load(f, "c")
    mine.loc[0, "a"] = 7.0
    pd.testing.assert_frame_equal(memfd.load(f), frame)
    mine = back(found, "c")
    mine.loc[0, "a"] = 7.0


def test_arrow():
    """The buffers of an Arrow table are where the memfd is mapped."""
    pa = pytest.importorskip("pyarrow", exc_type=ImportError)  # may want NumPy 2
    table = pa.table({"a": np.arange(1000.0), "s": ["x", None] * 500})
    found = back(table)
    assert found.equals(table)
    with open("/proc/self/maps") as file:
        ranges = [line.split()[0] for line in file if "/memfd:" in line]
    bounds = [[int(n, 16) for n in one.split("-")] for one in ranges]
    for column in found.columns:
        for chunk in column.chunks:
            for buffer in filter(None, chunk.buffers()):
                assert any(low <= buffer.address < high for low, high in bounds)
    del found, column, chunk, buffer
    gc.collect()


def test_another_pickler():
    """cloudpickle's takes functions that pickle does not, and buffers as well."""
    cloudpickle = pytest.importorskip("cloudpickle")
    offset = 5
    array = np.arange(30.0)
    obj = {"function": lambda x: x + offset, "array": array, "slice": array[::3]}

    with pytest.raises((pickle.PicklingError, AttributeError)):
        memfd.dump(obj)
    f = memfd.dump(obj, pickler=cloudpickle.Pickler)

    found = memfd.load(f)
    assert found["function"](1) == 6
    assert found["slice"].tolist() == array[::3].tolist()
    assert len(buffers(f)) == 2


def test_a_pickler_that_knows_arrays():
    """What another pickler does with arrays stays as it is."""

    class Own(pickle.Pickler):
        dispatch_table = {np.ndarray: lambda array: (list, (array.tolist(),))}  # noqa: RUF012

    f = memfd.dump({"x": np.arange(3)}, pickler=Own)
    assert memfd.load(f) == {"x": [0, 1, 2]}


def test_what_is_made():
    """Sealed, dense, at offset 0, named after the type; buffers are aligned."""
    obj = {"a": np.ones(3, "u1"), "b": np.arange(100), "c": np.ones((5 << 20) // 8)}
    f = memfd.dump(obj)

    assert f.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
    assert f.seals & Seal.SEAL
    assert (f.tell(), f.name) == (0, "dict")
    assert memfd.dump(obj, name="label").name == "label"
    assert [size for _, size in buffers(f)] == [3, 800, 5 << 20]
    assert all(start % 64 == 0 for start, _ in buffers(f))
    memfd.Memfd.from_fd(os.dup(f.fileno())).close()
    for array in memfd.load(f).values():
        assert array.ctypes.data % 64 == 0


def test_large_buffers_begin_with_a_huge_page():
    """So that one of them is mapped whole, and nothing before it."""
    huge = 2 << 20
    if huge != _objects._mapping.HUGE_PAGE_SIZE:
        pytest.skip("huge pages of ordinary mappings are not of 2 MiB here")
    obj = [np.ones(3), np.ones(4 << 20), np.ones(3), np.ones(5 << 20)]
    for options in ({}, {"huge": "never"}, {"threads": 2}):
        f = memfd.dump(obj, **options)
        starts = [start for start, size in buffers(f) if size > huge]
        assert [start % huge for start in starts] == [0, 0]
        memfd.Memfd.from_fd(os.dup(f.fileno())).close()  # zeros and no holes between
        found = memfd.load(f)
        assert [float(array.sum()) for array in found] == [3, 4 << 20, 3, 5 << 20]
        assert [array.ctypes.data % huge for array in found][1::2] == [0, 0]
        del found


def test_one_mapping_as_long_as_needed(run):
    """Whatever is closed and dropped, the last array keeps the memory; then it goes."""
    run("""
        import os
        import numpy as np, memfd
        def mappings():
            with open("/proc/self/maps") as file:
                return sum("/memfd:" in line for line in file)
        f = memfd.dump([np.full(1000, i) for i in range(1000)])
        found = memfd.load(f)
        assert mappings() == 1
        f.close()
        last = found[-1][10:20]
        del found
        assert last.tolist() == [999] * 10
        assert mappings() == 1
        del last
        assert mappings() == 0
    """)


def test_what_can_be_loaded():
    """A Memfd, a descriptor, which stays the caller's, and a path."""
    f = memfd.dump([np.arange(3)])
    for x in (f, f.fileno(), f.path, f.path.encode()):
        assert memfd.load(x)[0].tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match="not list"):
        memfd.load([])
    with pytest.raises(ValueError, match="mode"):
        memfd.load(f, "r+")


def test_seals_are_required():
    """What could be cut off under the arrays is refused, or trusted on demand."""
    f = memfd.create()
    f.write(memfd.dump([1]).read())
    with pytest.raises(SealError, match="SHRINK"):
        memfd.load(f)
    assert memfd.load(f, require=None) == [1]
    with pytest.raises(SealError, match="WRITE"):
        memfd.load(f.fileno(), require=Seal.IMMUTABLE)


def test_errors_leave_nothing():
    """What cannot be pickled raises as pickle does, and no memfd is left."""
    with pytest.raises(TypeError, match="lock"):
        memfd.dump([np.ones(1 << 20), threading.Lock()])
    with pytest.raises(TypeError, match="Memfd"):
        memfd.dump(memfd.create())
    with pytest.raises(ValueError, match="huge"):
        memfd.dump(1, huge="maybe")
    with pytest.raises(ValueError, match="threads"):
        memfd.dump(1, threads=0)


def test_code_that_is_not_there():
    """What unpickling raises comes through, and the memory goes."""
    stream = b"cno_such_module\nname\n."
    f = made(stream)
    with pytest.raises(ModuleNotFoundError):
        memfd.load(f)


def test_a_buffer_is_held_while_it_is_copied():
    """A bytearray under an array cannot be resized meanwhile, and can afterwards."""
    data = bytearray(8 << 20)
    array = np.frombuffer(data, "u1")
    refused = []

    class Slow:
        def __reduce__(self):
            with contextlib.suppress(BufferError):
                data.clear()
                refused.append(False)
            return int, ()

    f = memfd.dump([array, Slow()])
    assert refused == []
    assert buffers(f)[0][1] == 8 << 20
    del array
    gc.collect()
    data.clear()


def test_private_memory_does_not_grow(run):
    """Neither for whole arrays nor for sliced ones nor for bytes is there a second copy."""
    run("""
        import resource
        import numpy as np, memfd
        whole = np.ones((8 << 20, 2))
        obj = {"whole": whole, "slice": whole[::2, 1], "again": [whole[:, 0]],
               "bytes": whole.tobytes()}
        memfd.dump(np.ones((4, 4))[::2])
        data = next(int(line.split()[1]) for line in open("/proc/self/status")
                    if line.startswith("VmData"))
        limit = (data << 10) + (64 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        f = memfd.dump(obj)
        assert f.size > (128 + 32 + 64 + 128) << 20
    """)


def test_through_a_process(run):
    """The memfd goes to other processes as any, and is loaded there."""
    run(
        """
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        import numpy as np, memfd

        def work(f, i):
            found = memfd.load(f)
            assert not found["x"].flags.writeable
            return float(found["x"][i]) + found["more"]

        f = memfd.dump({"x": np.arange(1e6), "more": 1})
        # The function is in no file that another way of starting could import.
        with ProcessPoolExecutor(2, get_context("fork")) as pool:
            assert list(pool.map(work, [f] * 4, range(4))) == [1, 2, 3, 4]
        """
    )


# --- what is no such object -----------------------------------------------------------


def made(stream=b"N.", *, table=(), version=1, magic=_objects._MAGIC, **head):
    """Return a memfd with this pickle and table of buffers, and a head that may lie."""
    places = b"".join(struct.pack("<QQ", *place) for place in table)
    end = max([64 + len(stream), *(start + size for start, size in table)])
    fields = {"pickled": len(stream), "end": end, "count": len(table)} | head
    data = HEAD.pack(magic, version, *fields.values()).ljust(64, b"\0") + stream
    return memfd.from_bytes(data.ljust(end, b"\0") + places)


def beyond():
    """Return an object with a buffer far past its end."""
    data = bytearray(made(table=[(128, 8)]).read())
    struct.pack_into("<Q", data, len(data) - 16, 1 << 62)
    return memfd.from_bytes(data)


def test_what_the_layout_says():
    """The smallest object, by hand: the layout of the documentation."""
    assert memfd.load(made()) is None
    assert memfd.load(made(pickle.dumps(7))) == 7
    stream = pickle.dumps(pickle.PickleBuffer(b"xy"), 5, buffer_callback=lambda _: None)
    assert bytes(memfd.load(made(stream, table=[(128, 5)]))) == bytes(5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: made(magic=b"\x93\r\nMFDOA"), "does not hold"),
        (lambda: made(version=2), "version 2"),
        (lambda: made(version=1 << 63), "version"),
        (lambda: memfd.from_bytes(made().read()[:63]), "cut off"),
        (lambda: memfd.from_bytes(made().read()[:-1]), "cut off"),
        (lambda: memfd.from_bytes(made().read()[:30]), "cut off"),
        (lambda: memfd.from_bytes(made().read() + b"\0"), "damaged"),
        (lambda: made(count=1), "cut off"),
        (lambda: made(count=(1 << 20) + 1), "too many"),
        (lambda: made(count=1 << 60), "too many"),
        (lambda: made(end=1 << 63), "cut off"),
        (lambda: made(pickled=3), "reaches"),
        (lambda: made(pickled=1 << 63), "reaches"),
        (lambda: made(table=[(0, 8)]), "at 0"),
        (lambda: made(table=[(65, 8)]), "at 65"),
        (lambda: made(table=[(129, 8)]), "at 129"),
        (lambda: made(table=[(128, 100), (192, 8)]), "at 192"),
        (lambda: made(table=[(192, 8), (128, 8)]), "at 128"),
        (lambda: made(table=[(128, 8)], end=128), "cut off|damaged"),
        (lambda: beyond(), "reaches"),
        (lambda: memfd.from_bytes(b""), "does not hold"),
        (lambda: memfd.share(np.ones(3)).memfd, "does not hold"),
    ],
)
def test_damaged_objects(make, words):
    """Cut off, foreign, newer, or with buffers elsewhere: ValueError, before pickle."""
    if words == "does not hold" and make().size == 0:
        words = "does not hold|empty"
    with pytest.raises(ValueError, match=words):
        memfd.load(make())


@pytest.mark.parametrize("less", [1, 8, 16, 24])
def test_an_object_that_shrinks_meanwhile(less):
    """After its size was asked for, whoever can still change it cuts the table off."""
    f = memfd.create()
    f.write(made(table=[(128, 8), (192, 8)]).read())
    size = f.size
    f.truncate(size - less)
    with pytest.raises(ValueError, match="cut off while"):
        _objects.read_layout(f.fileno(), size)


def test_attach_and_load_name_each_other():
    """Who takes the wrong one is told so."""
    with pytest.raises(ValueError, match=r"memfd\.load\(\)"):
        memfd.attach(memfd.dump(1))
    with pytest.raises(ValueError, match=r"memfd\.dump\(\)"):
        memfd.load(memfd.share(np.ones(3)).memfd)
    for x in (memfd.share(1), memfd.share([1]), memfd.share({"x": [1]})):
        with pytest.raises(TypeError, match=r"path, not Array.*; memfd\.attach\(\)"):
            memfd.load(x)
    for x in (np.array(1), np.arange(3)):
        with pytest.raises(TypeError, match=r"path, not ndarray; memfd\.share\(\)"):
            memfd.load(x)


def test_without_numpy(run):
    """Objects without arrays need no NumPy."""
    run("""
        import sys
        sys.modules["numpy"] = None
        import memfd
        assert memfd.load(memfd.dump({"a": b"x", "b": [1]})) == {"a": b"x", "b": [1]}
        assert memfd.describe(memfd.dump(1)).kind == "object"
    """)

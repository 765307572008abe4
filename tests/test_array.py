"""Arrays over a memfd: share, attach, and what an Array is."""

import contextlib
import copy
import gc
import io
import os
import pickle
import socket

import pytest

import memfd
from memfd import Seal, SealError

np = pytest.importorskip("numpy")

STRUCTURED = np.dtype(
    [("a", "i1"), ("b", "f8", (2,)), ("c", [("x", "<u2"), ("y", "S3")])]
)

ARRAYS = {
    "float64": np.arange(24.0).reshape(2, 3, 4),
    "float16": np.linspace(0, 1, 7, dtype="f2"),
    "int8": np.arange(-5, 5, dtype="i1"),
    "bool": np.array([True, False, True]),
    "complex": np.arange(4) * (1 + 2j),
    "longdouble": np.arange(3, dtype=np.longdouble),
    "byte-swapped": np.arange(5, dtype=">i4"),
    "datetime": np.array(["2026-11-23", "NaT"], "M8[ns]"),
    "timedelta": np.arange(3, dtype="m8[s]"),
    "text": np.array(["a", "é", "日本"]),
    "bytes": np.array([b"one", b"three"]),
    "void": np.frombuffer(b"abcdef", "V3"),
    "structured": np.zeros(3, STRUCTURED),
    "aligned": np.ones(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "titles": np.ones(3, np.dtype([(("title", "a"), "i4")])),
    "0-d": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "empty, last": np.zeros((3, 0), "i2"),
    "Fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "slice": np.arange(20).reshape(4, 5)[::2, ::-1],
    "transposed 3-d": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "one row": np.arange(5).reshape(1, 5),
    "broadcast": np.broadcast_to(np.arange(3), (2, 3)),
}
each_array = pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@each_array
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_shared_is_equal_and_is_what_save_writes(array, mode):
    """share keeps everything, and the memfd is byte for byte what numpy.save writes."""
    a = memfd.share(array, mode=mode)

    assert (a.dtype, a.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(a, array)
    assert os.pread(a.memfd.fileno(), 1 << 20, 0) == saved(array)
    loaded = np.load(a.memfd.path, mmap_mode="r") if a.size else np.load(a.memfd.path)
    np.testing.assert_array_equal(loaded, a)
    assert loaded.flags.f_contiguous == a.flags.f_contiguous


@each_array
def test_attached_is_equal(array):
    """attach gives type, shape, order and contents back, from the descriptor alone."""
    a = memfd.share(array)

    for x in (a.memfd, a.memfd.fileno(), a.memfd.path, a):
        b = memfd.attach(x)
        assert (b.dtype, b.shape, b.strides) == (a.dtype, a.shape, a.strides)
        np.testing.assert_array_equal(b, array)


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_field_names_beyond_latin_1():
    """Version 3 of .npy: field names of any script."""
    array = np.zeros(3, [("日本", "f4"), ("b", "i2")])
    array = np.asfortranarray(array.reshape(3, 1).repeat(2, axis=1))
    a = memfd.share(array)

    assert os.pread(a.memfd.fileno(), 1 << 20, 0) == saved(array)
    assert memfd.attach(a.memfd).dtype == array.dtype


def test_lists_and_scalars_are_arrays_too():
    """share takes what numpy.asarray takes."""
    assert memfd.share([1, 2, 3]).tolist() == [1, 2, 3]
    assert memfd.share(2.5).shape == ()
    assert memfd.share(memoryview(b"ab")).dtype == np.uint8


@pytest.mark.parametrize("order", ["K", "A", "C", "F"])
def test_order_and_dtype(order):
    """order is kept or made; dtype converts."""
    source = np.asfortranarray(np.arange(6).reshape(2, 3))
    a = memfd.share(source, order=order, dtype="f4")

    assert a.flags.f_contiguous == (order != "C")
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, source)


def text(words):
    return pytest.param(words, id=str(words)[:20])


class Carrying(np.ndarray):
    """A subclass whose instances carry something."""


def carrying():
    array = np.arange(3).view(Carrying)
    array.unit = "m"
    return array


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda: np.array([None]), "Python objects", id="object"),
        pytest.param(lambda: [1, "a", None], "Python objects", id="mixed list"),
        pytest.param(lambda: np.zeros(2, [("a", "O")]), "Python objects", id="field"),
        pytest.param(lambda: np.ma.array([1, 2], mask=[0, 1]), "mask", id="masked"),
        pytest.param(lambda: "text", "from_bytes", id="str"),
        pytest.param(lambda: b"bytes", "from_bytes", id="bytes"),
        pytest.param(carrying, "carries unit", id="subclass with state"),
        pytest.param(
            lambda: np.zeros(
                2, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}
            ),
            "cannot be kept",
            id="overlapping fields",
        ),
        pytest.param(lambda: np.zeros(2, "S0"), "cannot be kept", id="S0"),
        pytest.param(
            lambda: np.zeros(2, [(f"a_long_name_{i}", "f8") for i in range(500)]),
            "500 fields",
            id="huge header",
        ),
    ],
)
def test_share_refuses_what_it_would_damage(make, words):
    """What .npy cannot give back is a TypeError that says what to do instead."""
    if words == "cannot be kept" and np.zeros(2, "S0").dtype.itemsize:
        with pytest.raises(TypeError, match=words):
            memfd.empty(2, "S0")
        return
    with pytest.raises(TypeError, match=words):
        memfd.share(make())


NOTED = np.dtype("i4", metadata={"unit": "m"})


@pytest.mark.parametrize(
    "dtype",
    [NOTED, [("a", "u1"), ("b", NOTED)], [("a", NOTED, (2,))], [("a", [("b", NOTED)])]],
)
def test_metadata_of_a_dtype_are_not_lost_in_silence(dtype):
    """They are a TypeError, whatever was shared before; dtype= drops them."""
    array = np.zeros(3, dtype)
    plain = np.dtype(np.lib.format.drop_metadata(array.dtype))
    shared = memfd.share(np.zeros(3, plain))

    ours, theirs = socket.socketpair()
    with ours, theirs:
        for call in (
            lambda: memfd.share(array),
            lambda: memfd.share(array.tolist(), dtype=dtype),
            lambda: memfd.empty_like(array),
            lambda: memfd.send(ours, shared.view(array.dtype)),
        ):
            with pytest.raises(TypeError, match="has metadata, .* drops"):
                call()
    for source in (array, shared.view(array.dtype)):
        assert memfd.share(source, dtype=plain).dtype == plain
        assert "metadata" not in repr(memfd.share(source, dtype=plain).dtype)
    assert memfd.share(np.zeros(3, np.dtype("i4", metadata={}))).tolist() == [0, 0, 0]
    # Equal to a dtype that is refused, and no reason to share it.
    with pytest.raises(TypeError, match="has metadata"):
        memfd.share(memfd.share(np.zeros(3, "i4")), dtype=NOTED)


@pytest.mark.parametrize(
    ("metadata", "words"), [({}, "cannot be kept"), ({"a": 1}, "has metadata")]
)
def test_empty_metadata_make_no_other_type(metadata, words):
    """What .npy does not give back is refused with and without them."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(TypeError, match=words):
        memfd.share(np.zeros(3, np.dtype(ml_dtypes.bfloat16, metadata=metadata)))


def test_share_refuses_string_dtype():
    """numpy's variable-width strings point into this process."""
    string = getattr(np.dtypes, "StringDType", None)
    if string is None:
        pytest.skip("this NumPy has no StringDType")
    with pytest.raises(TypeError, match="Python objects"):
        memfd.share(np.array(["a", "b"], string()))


class Frame:
    """Looks like a data frame, of whichever library."""

    def __dataframe__(self):
        raise AssertionError("not asked")


class Sparse:
    """Looks like a matrix of SciPy."""

    def tocsr(self):
        raise AssertionError("not asked")


@pytest.mark.parametrize(("x", "words"), [(Frame(), "labels"), (Sparse(), "dense")])
def test_share_refuses_labelled_and_sparse(x, words):
    """Frames and sparse matrices are recognised without importing their library."""
    with pytest.raises(TypeError, match=words):
        memfd.share(x)


def test_share_of_real_frames_and_matrices():
    """The real pandas and SciPy objects are refused, their arrays shared."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0]})
    for x in (frame, frame["a"]):
        with pytest.raises(TypeError, match="labels"):
            memfd.share(x)
    assert memfd.share(frame["a"].to_numpy()).tolist() == [1, 2]


def test_share_refuses_missing_values():
    """NA of pandas and null of Arrow are refused, arrays that could have them are not."""
    pandas = pytest.importorskip("pandas")
    pa = pytest.importorskip("pyarrow", exc_type=ImportError)  # may want NumPy 2
    big = 2**53 + 1
    for make in (
        lambda values: pandas.array(values, "Int64"),
        lambda values: pandas.array(values, pandas.ArrowDtype(pa.int64())),
        lambda values: pandas.Index(values, dtype="Int64"),
        pa.array,
    ):
        for x in (make([big, None]), {"x": make([big, None])}):
            with pytest.raises(
                TypeError, match="must not have missing values, .* fill"
            ):
                memfd.share(x)
        assert memfd.share(make([big, 2])).tolist() == [big, 2]
    with pytest.raises(TypeError, match=r"dense, not SparseArray: .*x\.to_dense"):
        memfd.share(pandas.arrays.SparseArray([0, 0, 1]))
    times = pandas.array(pandas.to_datetime(["2026-01-01", None]))
    assert np.isnat(memfd.share(times)).tolist() == [False, True]
    assert np.isnan(memfd.share(pandas.Index([1.5, np.nan]))).tolist() == [False, True]


def test_bfloat16_is_refused():
    """A dtype that .npy turns into void is a TypeError."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(TypeError, match="cannot be kept"):
        memfd.share(np.zeros(3, ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    "call",
    [
        lambda: memfd.share(np.arange(3), mode="w"),
        lambda: memfd.share(np.arange(3), mode="c"),
        lambda: memfd.share(np.arange(3), order="X"),
        lambda: memfd.attach(memfd.share([1]), "w"),
    ],
)
def test_nonsense_is_a_value_error(call):
    """Modes and orders that cannot be are refused; nothing is left behind."""
    with pytest.raises(ValueError, match="got|must"):
        call()


def test_nothing_changes_what_was_shared():
    """write, pwrite, truncate, mmap, the flag, a re-open: each refused."""
    a = memfd.share(np.arange(1000))
    f = a.memfd

    for change in (
        lambda: f.write(b"x"),
        lambda: os.pwrite(f.fileno(), b"x", 0),
        lambda: f.truncate(0),
        lambda: memfd.set_size(f, 1 << 20),
        lambda: f.mmap("r+"),
        lambda: memfd.Mapping(f, "r+"),
        lambda: memfd.attach(a, "r+"),
        lambda: open(f.path, "wb"),
        lambda: f.reopen("r+").write(b"x"),
        lambda: np.load(f.path, mmap_mode="r+"),
    ):
        with pytest.raises(PermissionError):
            change()
    for change in (
        lambda: a.__setitem__(0, 1),
        lambda: setattr(a.flags, "writeable", True),
        lambda: a.setflags(write=True),
        lambda: setattr(a[1:].flags, "writeable", True),
        lambda: np.asarray(a).setflags(write=True),
    ):
        with pytest.raises(ValueError, match="read-only|WRITEABLE"):
            change()
    assert f.seals & 0xF == Seal.IMMUTABLE | Seal.SEAL
    np.testing.assert_array_equal(a, np.arange(1000))


def test_writable_arrays_have_a_fixed_size():
    """SHRINK and GROW are there from birth: no holder takes memory away."""
    for a in (memfd.zeros(10), memfd.share(np.ones(3), mode="r+"), memfd.full(3, 7)):
        f = a.memfd
        assert f.seals & Seal.IMMUTABLE == Seal.SHRINK | Seal.GROW
        for change in (
            lambda f=f: os.ftruncate(f.fileno(), 0),
            lambda f=f: os.ftruncate(f.fileno(), 1 << 20),
            lambda f=f: open(f.path, "wb"),
        ):
            with pytest.raises(PermissionError):
                change()
        a[...] = 3
        assert np.load(f.path).tolist() == a.tolist()


def test_names():
    """The default name says what it is; any name can be given."""
    assert memfd.zeros((1080, 1920, 3), "f4").memfd.name == "float32[1080,1920,3]"
    assert memfd.share([1.0], name="mine").memfd.name == "mine"
    deep = np.zeros(1, [("f", "f8", (2,))])
    assert memfd.share(deep).memfd.name == "void128[1]"
    with pytest.raises(ValueError, match="at most 249"):
        memfd.zeros(1, name="n" * 250)


def test_sharing_the_immutable_is_a_view():
    """share of an immutable Array copies nothing; of anything else it does."""
    a = memfd.share(np.arange(12).reshape(3, 4))

    assert memfd.share(a).memfd is a.memfd
    assert np.shares_memory(memfd.share(a[1:, ::-1]), a)
    assert memfd.share(a, dtype=a.dtype).memfd is a.memfd
    assert memfd.share(a, dtype="f4").memfd is not a.memfd
    assert memfd.share(a, mode="r+").memfd is not a.memfd
    w = memfd.zeros(3)
    assert memfd.share(w).memfd is not w.memfd
    assert memfd.share(memfd.attach(a, "c")).memfd is not a.memfd


def test_views_are_arrays_and_results_are_not():
    """Views stay Arrays of the same memfd; what is computed is ordinary."""
    a = memfd.zeros((3, 4))

    for view in (
        a[1], a[:, 1], a.T, a.reshape(4, 3), a.ravel(), a.view("i8"), a[None],
        a.real, a[::-1, ::2], np.lib.stride_tricks.as_strided(a, (2,), (8,), subok=True),
    ):  # fmt: skip
        assert type(view) is memfd.Array
        assert view.memfd is a.memfd
    for result in (
        a + 1,
        a.sum(),
        a.sum(axis=0),
        a.mean(),
        -a,
        a @ a.T,
        a == a,
        a.max(),
    ):
        assert not isinstance(result, memfd.Array)
    for other in (
        a.copy(), a[[0, 1]], a[a > 0], np.sort(a), np.empty_like(a), a.astype("f4"),
        copy.copy(a), copy.deepcopy(a), np.concatenate([a, a]),
    ):  # fmt: skip
        assert getattr(other, "memfd", None) is None
    assert isinstance(a.sum(), float)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1, 1), (1, 1), (1,), (3,), (1, 0)])
def test_squeeze_is_a_view(shape):
    """squeeze() gives a view like any other, of one element, too."""
    a = memfd.zeros(shape)

    for view in (a.squeeze(), np.squeeze(a), a.squeeze(()), memfd.share(a).squeeze()):
        assert type(view) is memfd.Array
        assert view.memfd is not None
    assert a.squeeze().shape == np.zeros(shape).squeeze().shape
    a.squeeze()[...] = 7
    assert (a == 7).all()
    assert memfd.freeze(a.squeeze()).memfd is not None


def test_in_place_operations_stay_arrays():
    """An Array given as out stays what it is."""
    a = memfd.zeros(3)
    b = a
    a += 1
    assert a is b
    assert np.add(a, 1, out=a) is a
    assert a.tolist() == [2, 2, 2]
    assert a.memfd is not None


def test_array_is_not_made_directly():
    """Array() says what to call."""
    with pytest.raises(TypeError, match=r"memfd\.share"):
        memfd.Array((2, 3))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_by_value(protocol):
    """Outside of multiprocessing an Array becomes an ordinary array, by value."""
    a = memfd.share(np.arange(10.0))[::2]

    b = pickle.loads(pickle.dumps(a, protocol))

    assert type(b) is np.ndarray
    np.testing.assert_array_equal(a, b)


def test_pickling_out_of_band():
    """Under protocol 5 the data can travel out of band, without a copy."""
    a = memfd.share(np.arange(1000.0))
    buffers = []

    data = pickle.dumps(a, 5, buffer_callback=buffers.append)

    assert len(data) < 1000
    assert np.shares_memory(pickle.loads(data, buffers=buffers), a)


def test_one_descriptor_an_array():
    """An array with all its views holds one descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    a = memfd.share(np.arange(1000))
    views = [a[i:] for i in range(50)]
    again = memfd.attach(a.memfd), memfd.attach(a, "c")

    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(views) + len(again) == 52


def test_array_outlives_its_descriptor():
    """Closing the memfd takes nothing away from an array."""
    a = memfd.share(np.arange(1000))
    view = a[500:]
    a.memfd.close()
    del a
    gc.collect()

    assert view[0] == 500
    assert view.memfd.closed
    with pytest.raises(ValueError, match="was closed"):
        memfd.attach(view)


# --- attach ------------------------------------------------------------------------


def test_modes_of_attach():
    """r sees later writes, r+ shares, c keeps its own."""
    w = memfd.zeros(4)
    r, rw, c = memfd.attach(w), memfd.attach(w, "r+"), memfd.attach(w, "c")

    rw[0] = 1
    c[1] = 2

    assert w.tolist() == [1, 0, 0, 0]
    assert r.tolist() == [1, 0, 0, 0]
    assert c.tolist()[1] == 2
    assert [x.flags.writeable for x in (r, rw, c)] == [False, True, True]


def test_copy_on_write_of_the_immutable():
    """c is allowed on sealed memfds, and nobody else sees it."""
    a = memfd.share(np.arange(4))
    c = memfd.attach(a, "c")
    c *= 2

    assert c.tolist() == [0, 2, 4, 6]
    assert a.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="mode 'c'"):
        memfd.attach(c)


@pytest.mark.parametrize(
    "view", [np.s_[1:], np.s_[::-1], np.s_[::2, ::-1], np.s_[0, 0, ...]]
)
def test_attach_keeps_the_place_of_a_view(view):
    """A view is attached where it lies in the memory."""
    a = memfd.share(np.arange(12).reshape(3, 4))

    np.testing.assert_array_equal(memfd.attach(a[view], "c"), a[view])


def test_attach_duplicates_a_descriptor():
    """An int stays the caller's."""
    a = memfd.share([1])
    fd = os.dup(a.memfd.fileno())

    b = memfd.attach(fd)
    os.close(fd)

    assert b.tolist() == [1]
    assert b.memfd.fileno() != fd


def test_attach_requires_seals():
    """Without SHRINK an array is refused; with require=None it is trusted."""
    with memfd.create() as f:
        f.write(saved(np.arange(3)))
        with pytest.raises(SealError, match="lacks seals SHRINK"):
            memfd.attach(f)
        with pytest.raises(SealError):
            memfd.attach(f.fileno())
        assert memfd.attach(f, require=None).tolist() == [0, 1, 2]
        f.seal(Seal.SHRINK)
        assert memfd.attach(f).tolist() == [0, 1, 2]
        with pytest.raises(SealError, match=r"GROW\|WRITE"):
            memfd.attach(f, require=Seal.IMMUTABLE)
    with pytest.raises(SealError):
        memfd.attach(memfd.zeros(3), require=Seal.IMMUTABLE)


def test_what_is_refused_is_not_kept():
    """A refused array goes with its last reference, and is in no seal's way."""
    gc.collect()
    gc.disable()
    try:
        a = memfd.zeros(3)
        f = a.memfd
        with contextlib.suppress(SealError):
            memfd.attach(a, require=Seal.IMMUTABLE)
        del a
        assert Seal.WRITE in f.seal()
    finally:
        gc.enable()


@pytest.mark.parametrize("x", [None, 1.5, [1], object(), True])
def test_attach_of_something_else(x):
    """attach says what it takes."""
    with pytest.raises(TypeError, match="x must be a Memfd"):
        memfd.attach(x)


def test_attach_of_files_that_are_no_memfd(tmp_path):
    """A file on disk, or an array in ordinary memory, is a ValueError."""
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match="not a memfd"):
        memfd.attach(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"memfd\.share"):
        memfd.attach(np.arange(3))


def test_without_numpy(run, tmp_path):
    """Without NumPy everything else works, and the error names the extra."""
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('no', name='numpy')")
    run(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import memfd
        assert memfd.from_bytes(b"x").read() == b"x"
        for name in ("share", "Array", "attach", "zeros"):
            try:
                getattr(memfd, name)
            except ImportError as error:
                assert "pip install 'memfd[numpy]'" in str(error)
            else:
                raise SystemExit("no error")
        assert "share" in dir(memfd)
        """,
        str(tmp_path),
    )


def test_memory_of_an_array_cannot_be_closed():
    """The array holds no export, so closing what it lies in is always refused."""
    array = memfd.share(np.arange(3))
    with pytest.raises(BufferError, match="last array"):
        array.base.close()
    assert array.tolist() == [0, 1, 2]

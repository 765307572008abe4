"""Whatever goes into a memfd comes out of it, here and in another process."""

import importlib
import math
import multiprocessing
import pathlib
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memfd

np = pytest.importorskip("numpy")

# Imported from where a spawned process finds it, too.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
module = importlib.import_module("told")
del sys.path[0]
told = module.told

# The same examples each time: a failure is one of the change that was made.
MANY = settings(max_examples=1000, deadline=None, derandomize=True, database=None)
FEWER = settings(MANY, max_examples=250)

# Types of which several arrays in one memfd can be.
TYPES = ["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"]
TYPES += ["<f2", "<f4", "<f8", "<c8"]
OTHERS = ["<c16", "g", "G", ">u2", ">i4", ">i8", ">f2", ">f8", ">c8", "S1", "S3", "V1"]
OTHERS += ["V5", "<U2", ">U2", "M8[ns]", "M8[25s]", "M8", ">M8[D]", "m8[s]", ">m8[us]"]
RECORDS = [
    [("a", "i4"), ("b", ">f8", (2,)), ("c", "M8[s]")],
    [("a", "u1"), ("b", [("c", "<f4"), ("d", "S2")], (2, 1))],
    np.dtype([("a", "u1"), ("b", "f8"), ("c", "u1")], align=True),
    {"names": ["a", "b"], "formats": ["u1", "<i4"], "offsets": [4, 0], "itemsize": 12},
    {"names": ["a", "b"], "formats": ["<u4", "<u2"], "offsets": [0, 1]},
]

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
DTYPES = st.one_of(st.sampled_from(TYPES), st.sampled_from(OTHERS + RECORDS))


def filled(dtype, shape, seed):
    """Return an array of any bytes that its type allows, or of only one."""
    size = math.prod(shape) * dtype.itemsize
    if seed < 2:
        data = bytes([-seed & 255]) * size  # all NaN, of floats
    else:
        data = np.random.default_rng(seed).bytes(size)
    if dtype.kind == "b":
        data = np.frombuffer(data, "u1") & 1
    elif dtype.kind == "U":
        letters = np.frombuffer(data, "u4") % (sys.maxunicode + 1)
        data = letters.astype(f"{dtype.str[0]}u4")
    return np.ndarray(shape, dtype, bytearray(data))


@st.composite
def arrays(draw, dtypes=DTYPES):
    """Arrays of all shapes, with all kinds of gaps, orders and directions."""
    dtype = np.dtype(draw(dtypes))
    array = filled(dtype, draw(SHAPES), draw(st.integers(0, 2**32 - 1)))
    return draw(orders(array))


@st.composite
def orders(draw, array):
    """Put an array into some order in memory, with gaps, or backwards."""
    kind = draw(st.sampled_from(ORDERS))
    if "F" in kind:
        array = np.asfortranarray(array)
    if "transposed" in kind:
        array = array.transpose(draw(st.permutations(range(array.ndim))))
    if "steps" in kind:
        step = st.sampled_from([1, 1, 2, -1, -2])
        array = array[(..., *(slice(None, None, draw(step)) for _ in array.shape))]
    # Several times the same memory, which is read-only or writable.
    if "broadcast" in kind:
        array = np.broadcast_to(array, (3, *array.shape))
    if "repeated" in kind:
        shape, strides = (3, *array.shape), (0, *array.strides)
        array = np.lib.stride_tricks.as_strided(array, shape, strides)
    return array


ORDERS = ["C", "F", "steps", "F steps", "transposed", "transposed steps", "broadcast"]
ORDERS += ["repeated", "F steps repeated"]


@st.composite
def objects(draw):
    """Arrays of objects, and of nothing at all, which become part of the pickle."""
    shape = draw(SHAPES.filter(lambda shape: math.prod(shape) < 9))
    dtype = np.dtype(draw(st.sampled_from(["O", [("a", "O"), ("b", "i4")], []])))
    array = np.zeros(shape, dtype)
    for place in np.ndindex(shape):
        if dtype.names is None:
            array[place] = draw(ATOMS)
        elif dtype.names:
            array[place] = draw(ATOMS), draw(st.integers(0, 9))
    return draw(orders(array))


ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=5),
)
LEAVES = st.one_of(
    ATOMS,
    st.binary(max_size=5).map(bytearray),
    st.frozensets(ATOMS, max_size=3),
    st.sets(ATOMS, max_size=3),
    st.floats(width=32).map(np.float32),
    arrays(),
    arrays(),
    arrays(),
    objects(),
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(ATOMS, inner, max_size=4),
    ),
    max_leaves=10,
)
ODD = [
    "",
    "..",
    "/",
    'a"b\\',
    "'",
    "a\nb\r\t",
    "\0",
    "\x7f",
    "\U0001f600",
    "x" * 100_000,
]
NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.sampled_from(ODD),
).filter(lambda name: name != "__metadata__")
DICTS = st.dictionaries(NAMES, arrays(st.sampled_from(TYPES)), max_size=6)
MODES = st.sampled_from(["r", "c"])


def in_buffers(x):
    """List the arrays in an object whose memory is not part of the pickle."""
    if isinstance(x, np.ndarray):
        return [] if x.dtype.hasobject or x.dtype.itemsize == 0 else [x]
    if isinstance(x, dict):
        x = x.values()
    elif not isinstance(x, (list, tuple)):
        return []
    return [array for one in x for array in in_buffers(one)]


def overwrite(array):
    """Change every byte of an array that has no gaps."""
    rows = array.T if array.flags.fnc else array
    memory = rows.view(np.ndarray).reshape(-1).view("u1")
    assert np.shares_memory(memory, array) or not array.size
    memory ^= 255


@MANY
@given(OBJECTS | arrays())
def test_objects(obj):
    """load() of dump() is what it was; "r" cannot be written, "c" changes nobody else."""
    sources = in_buffers(obj)
    with memfd.dump(obj) as f:
        for mode in ("r", "c", "r"):
            found = memfd.load(f, mode)
            assert told(found) == told(obj)
            for array, source in zip(in_buffers(found), sources, strict=True):
                assert type(array) is np.ndarray
                assert array.flags.writeable == (mode == "c")
                assert array.flags.forc
                assert array.flags.fnc == source.flags.fnc
                assert not np.may_share_memory(array, source)
                if array.flags.writeable:
                    overwrite(array)


@MANY
@given(DICTS)
def test_arrays(wanted):
    """attach() of share() is what it was; "r" cannot be written, "c" is private."""
    shared = memfd.share(wanted)
    with shared.memfd:
        assert told(shared) == told(wanted)
        for mode in ("r", "c", "r"):
            found = memfd.attach(shared.memfd, mode)
            assert told(found) == told(wanted)
            for array in found.values():
                assert array.flags.writeable == (mode == "c")
                if array.flags.writeable:
                    overwrite(array)


@FEWER
@given(DICTS)
def test_arrays_for_others(wanted):
    """The library of the format finds the same in the file."""
    numpy = pytest.importorskip("safetensors.numpy")
    with memfd.share(wanted).memfd as f:
        found = numpy.load(f.read())
    assert found.keys() == wanted.keys()
    assert told({name: found[name] for name in wanted}) == told(wanted)


@pytest.fixture(scope="module")
def other():
    """The connection to a process that was spawned."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=module.answer, args=(there,))
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    process.start()
    del sys.path[0]
    there.close()
    # What is made with the first message stays.
    here.send((memfd.dump(None), "load", "r"))
    here.recv()
    yield here
    here.send(None)
    process.join(30)
    assert process.exitcode == 0
    here.close()


@FEWER
@given(obj=OBJECTS | arrays(), mode=MODES)
def test_objects_in_another_process(other, obj, mode):
    """A spawned process loads what was dumped here."""
    with memfd.dump(obj) as f:
        other.send((f, "load", mode))
        assert other.recv() == told(obj)


@FEWER
@given(wanted=DICTS, mode=MODES)
def test_arrays_in_another_process(other, wanted, mode):
    """A spawned process gets all arrays, the memfd behind them, and one array alone."""
    shared = memfd.share(wanted)
    with shared.memfd:
        for x, opener in ((shared, None), (shared, "attach"), (shared.memfd, "attach")):
            other.send((x, opener, mode))
            assert other.recv() == told(wanted)
        for name in list(wanted)[:1]:
            other.send((shared[name], None, None))
            assert other.recv() == told(wanted[name])

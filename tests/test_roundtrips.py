"""Whatever goes into a memfd comes out of it, here and in another process."""

import importlib
import multiprocessing
import pathlib
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memfd

np = pytest.importorskip("numpy")

# Imported from where a spawned process finds it, too.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
module = importlib.import_module("told")
del sys.path[0]
told = module.told

# The same examples each time: a failure is one of the change that was made.
FEW = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
FEWER = settings(FEW, max_examples=60)

# Types of which several arrays in one memfd can be.
TYPES = ["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"]
TYPES += ["<f2", "<f4", "<f8", "<c8"]

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
DTYPES = st.one_of(
    st.sampled_from([*TYPES, "<c16", ">i4", ">f8", ">c8", "S3", "V5", "g"]),
    st.sampled_from(["M8[ns]", "m8[s]", ">M8[D]", "<U2", ">U2"]),
    st.just([("a", "i4"), ("b", ">f8", (2,)), ("c", "M8[s]")]),
).map(np.dtype)


@st.composite
def arrays(draw, dtypes=DTYPES):
    """Arrays of all shapes, with all kinds of gaps, orders and directions."""
    dtype = draw(dtypes)
    shape = draw(SHAPES)
    size = int(np.prod(shape)) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "U":
        array = np.full(shape, draw(st.text("aß\u20ac", max_size=2)), dtype)
    elif dtype.kind == "b":
        array = (np.frombuffer(data, "u1") & 1).view(dtype).reshape(shape).copy()
    else:
        array = np.frombuffer(data, dtype).reshape(shape).copy()
    if array.ndim and draw(st.booleans()):
        array = np.asfortranarray(array)
    for axis in range(array.ndim):
        step = draw(st.sampled_from([1, 1, 2, -1, -2]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    if draw(st.booleans()):
        array = array.transpose(draw(st.permutations(range(array.ndim))))
    if draw(st.integers(0, 9)) == 0:
        array = np.broadcast_to(array, (3, *array.shape))
    return array


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.binary(max_size=5).map(bytearray),
    st.frozensets(st.integers(), max_size=3),
    arrays(),
    arrays(),
    st.lists(st.integers(), max_size=3).map(lambda x: np.array([*x, None], object)),
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
    ),
    max_leaves=10,
)
NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.sampled_from(["", "..", 'a"b\\', "a\nb", "/", "\0", "x" * 1000, "\U0001f600"]),
).filter(lambda name: name != "__metadata__")
DICTS = st.dictionaries(NAMES, arrays(st.sampled_from(TYPES).map(np.dtype)), max_size=6)


def arrays_in(x):
    if isinstance(x, np.ndarray) and not x.dtype.hasobject:
        yield x
    elif isinstance(x, (list, tuple)):
        for one in x:
            yield from arrays_in(one)
    elif isinstance(x, dict):
        for one in x.values():
            yield from arrays_in(one)


@FEW
@given(OBJECTS)
def test_objects(obj):
    """load() of dump() is what it was; "r" cannot be written, "c" changes nobody else."""
    with memfd.dump(obj) as f:
        found = memfd.load(f)
        assert told(found) == told(obj)
        assert not any(array.flags.writeable for array in arrays_in(found))
        for array in arrays_in(memfd.load(f, "c")):
            if array.flags.writeable:
                array.view(np.ndarray).fill(np.zeros((), array.dtype)[()])
        assert told(memfd.load(f)) == told(obj)


@FEW
@given(DICTS)
def test_arrays(wanted):
    """attach() of share() is what it was."""
    shared = memfd.share(wanted)
    with shared.memfd:
        assert told(shared) == told(wanted)
        assert told(memfd.attach(shared.memfd)) == told(wanted)


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
    here.send(memfd.dump(None))
    here.recv()
    yield here
    here.send(None)
    process.join(30)
    assert process.exitcode == 0
    here.close()


@FEWER
@given(obj=OBJECTS)
def test_objects_in_another_process(other, obj):
    """A spawned process loads what was dumped here."""
    with memfd.dump(obj) as f:
        other.send(f)
        assert other.recv() == told(obj)


@FEWER
@given(wanted=DICTS)
def test_arrays_in_another_process(other, wanted):
    """A spawned process gets all arrays, and one alone."""
    shared = memfd.share(wanted)
    with shared.memfd:
        other.send(shared)
        assert other.recv() == told(wanted)
        for name in list(wanted)[:1]:
            other.send(shared[name])
            assert other.recv() == told(wanted[name])

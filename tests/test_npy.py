"""The header of a .npy file, and what is told of a view: hostile input."""

import inspect
import pickle
import sys

import pytest

import memfd

np = pytest.importorskip("numpy")


def npy(text, version=(1, 0), data=b"", length=None):
    text = text.encode() if isinstance(text, str) else text
    size = len(text) if length is None else length
    width = 2 if version == (1, 0) else 4
    return b"\x93NUMPY" + bytes(version) + size.to_bytes(width, "little") + text + data


def fields(descr="'<f8'", order="False", shape="(2,)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not hold"),
        (b"\x93NUMPY", "does not hold"),
        (b"\x93NUMPY\1\0\1\0{", "does not hold"),
        (b"PK\x03\x04" + bytes(100), "does not hold"),
        (npy(fields(), (9, 9), bytes(16)), r"version \(9, 9\)"),
        (npy(fields(), data=bytes(15)), "promises shape"),
        (npy(fields(shape="(1 << 20,)"), data=bytes(99)), "not valid"),
        (npy(fields(shape="(1000000,)"), data=bytes(99)), "promises shape"),
        (
            npy(fields(shape="(4611686018427387904, 8)"), data=bytes(9)),
            "not valid|prom",
        ),
        (
            npy(fields(shape="(9223372036854775808,)"), data=bytes(9)),
            "not valid|promises",
        ),
        (npy(fields(shape="(0, 99999999999999999999999)")), "not valid"),
        (npy(fields(shape="(-1,)"), data=bytes(99)), "not valid"),
        (npy(fields(shape="(True,)"), data=bytes(99)), "not valid"),
        (npy(fields(shape="(2.0,)"), data=bytes(99)), "not valid"),
        (npy(fields(shape="[2]"), data=bytes(99)), "not valid"),
        (npy(fields(shape=f"({'1,' * 100})"), data=bytes(99)), "not valid"),
        (npy(fields(order="1"), data=bytes(99)), "not valid"),
        (npy(fields("'|O'"), data=bytes(99)), "not valid"),
        (npy(fields("[('a', '|O')]"), data=bytes(99)), "not valid"),
        (npy(fields("('<f8', (2,))"), data=bytes(99)), "not valid"),
        (npy(fields("'nonsense'"), data=bytes(99)), "not valid"),
        (npy(fields("'|S0'"), data=bytes(99)), "not valid"),
        (npy(fields("'|V2147483648'"), data=bytes(99)), "not valid"),
        (npy(fields("7"), data=bytes(99)), "not valid"),
        (npy(fields("('<f8',)"), data=bytes(99)), "not valid"),
        (npy("{'shape': (2,)}", data=bytes(99)), "not valid"),
        (npy(fields()[:-1] + ", 'more': 1}", data=bytes(99)), "not valid"),
        (npy("[1, 2]", data=bytes(99)), "not valid"),
        (npy("__import__('os').abort()", data=bytes(99)), "not valid"),
        (npy("(" * 5000, data=bytes(99)), "not valid"),
        (npy("-" * 9000 + "1", data=bytes(99)), "not valid"),
        (npy("[" * 90 + "]" * 90, data=bytes(99)), "not valid"),
        (npy(b"\xff" * 50, (3, 0), bytes(99)), "not valid"),
        (npy("\0" * 50, data=bytes(99)), "not valid"),
        (npy(fields(), length=60000, data=bytes(70000)), "header of 60000 bytes"),
        (npy(fields(), (2, 0), length=1 << 31, data=bytes(99)), "header of 2147483648"),
        (npy(fields(), length=9000, data=bytes(99)), "past the end"),
        (npy(pickle.dumps(1), data=bytes(99)), "not valid"),
    ],
)
def test_header_that_lies(content, words):
    """A .npy header is hostile input: each lie is a ValueError, nothing is unpickled."""
    f = memfd.from_bytes(content)

    with pytest.raises(ValueError, match=words):
        memfd.attach(f)


def test_header_that_warns():
    """Where warnings are errors, one about a header is a ValueError, too."""
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("this NumPy warns of no dtype")
    f = memfd.from_bytes(npy(fields("'a8'"), data=bytes(16)))

    with pytest.raises(ValueError, match="not valid"):
        memfd.attach(f)


def test_header_that_nests_deeper_than_the_stack():
    """Where the receiver's own stack has no room to read it, it is a ValueError."""
    f = memfd.from_bytes(npy("[" * 90 + "]" * 90, data=bytes(99)))
    depth = len(inspect.stack(0))
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(depth + 60)
        with pytest.raises(ValueError, match="header is not valid: maximum recursion"):
            memfd.attach(f)
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_headers_of_each_version_are_read(version):
    """Versions 1, 2 and 3 are read, also with a long header."""
    content = npy(fields() + " " * 6000, version, np.arange(2.0).tobytes())

    assert memfd.attach(memfd.from_bytes(content)).tolist() == [0, 1]


def test_unaligned_data_is_read():
    """Where a foreign writer put the data at an odd offset, the array is right."""
    content = npy(fields() + " ", data=np.arange(2.0).tobytes())
    a = memfd.attach(memfd.from_bytes(content))

    assert a.tolist() == [0, 1]


def test_a_received_dtype_is_nobody_elses():
    """Who renames the fields of a received array changes no other array."""
    f = memfd.share(np.zeros(3, [("x", "f4"), ("y", "i2")])).memfd

    memfd.attach(f).dtype.names = ("a", "b")
    assert memfd.attach(f).dtype.names == ("x", "y")


@pytest.mark.parametrize(
    "descr",
    [
        "[('x', '<f8'), ('y', '<i4')]",
        "'<f8,<i4'",
        "'2<f8,<i4'",
        "('<f8,<i4', ())",
        "{('x', '<f8'), ('y', '<i4')}",
        "{('x', '<f8'): 1, ('y', '<i4'): 2}",
    ],
)
def test_a_dtype_is_nobody_elses_however_it_is_told(descr):
    """So it is with every text that NumPy takes for records, of arrays and of views."""
    from memfd import _npy

    f = memfd.from_bytes(npy(fields(descr), data=bytes(64)))
    view = f"{{'descr': {descr}, 'shape': (1,), 'strides': (99,), 'offset': 0}}"
    for read in (
        lambda: memfd.attach(f).dtype,
        lambda: _npy.read_view(view.encode(), 64)[0],
    ):
        dtype = read()
        before, dtype.names = dtype.names, ("a", "b")
        assert read().names == before

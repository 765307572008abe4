"""describe: what a memfd holds."""

import pytest

import memfd

np = pytest.importorskip("numpy")


class Bomb:
    """What unpickling it does."""

    def __reduce__(self):
        return print, ("it was unpickled",)


def test_an_array():
    """Its type, shape and place, from a Memfd, an Array, a descriptor and a path."""
    array = memfd.share(np.zeros((2, 3), "f4"))
    f = array.memfd
    for x in (f, array, array[1:], f.fileno(), f.path):
        kind, size, parts = memfd.describe(x)
        assert (kind, size) == ("array", f.size)
        assert parts == [("", "<f4", (2, 3), f.size - 24, 24)]
    records = memfd.share(np.zeros(3, [("a", "i4"), ("b", "M8[s]")]))
    (part,) = memfd.describe(records).parts
    assert part.dtype == "[('a', '<i4'), ('b', '<M8[s]')]"
    assert part.size == 36


def test_many_arrays():
    """The table of contents, types as the format names them, also those NumPy lacks."""
    arrays = memfd.share({"x": np.arange(3), "y": np.zeros((2, 2), "f4")})
    size = arrays.memfd.size
    kind, whole, parts = memfd.describe(arrays)
    assert (kind, whole) == ("arrays", size)
    assert parts == [
        ("x", "I64", (3,), size - 40, 24),
        ("y", "F32", (2, 2), size - 16, 16),
    ]
    data = arrays.memfd.read()
    for part in parts:
        found = data[part.offset : part.offset + part.size]
        assert found == arrays[part.name].tobytes()


def test_an_object(capfd):
    """The pickle and the buffers; nothing is unpickled."""
    f = memfd.dump([Bomb(), np.ones(100)])
    kind, _, (pickled, buffer) = memfd.describe(f)
    assert kind == "object"
    assert pickled[:4] == ("pickle", None, None, 64)
    assert buffer.name == "buffer"
    assert buffer.size == 800
    assert capfd.readouterr().out == ""
    memfd.load(f)
    assert capfd.readouterr().out == "it was unpickled\n"


@pytest.mark.parametrize("data", [b"", b"x", b"text " * 10, bytes(100), b"setting {}"])
def test_anything_else(data):
    """Bytes are bytes; no seals are needed, and the position stays."""
    f = memfd.create()
    f.write(data)
    assert memfd.describe(f) == ("bytes", len(data), [])
    assert f.tell() == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x93NUMPY\x01\x00\x76\x00" + b" " * 118,
        b"\x08" + bytes(7) + b'{"x":1}}',
        b"\x93\r\nMFDOB" + bytes(100),
    ],
)
def test_what_is_damaged(data):
    """What begins like one of the three and is none is a ValueError."""
    with pytest.raises(ValueError, match="valid|version"):
        memfd.describe(memfd.from_bytes(data))


def test_what_is_refused():
    """No memfd, and an array without one."""
    with pytest.raises(ValueError, match="not a memfd"):
        memfd.describe("/dev/null")
    array = memfd.zeros(3)
    memfd.freeze(array)
    with pytest.raises(ValueError, match="without a memfd"):
        memfd.describe(array)
    with pytest.raises(TypeError, match="not list$"):
        memfd.describe([])


def test_integers_are_descriptors_and_arrays_of_them_are_not():
    """Where an array has no memfd the message says so, and no number is tried."""
    f = memfd.share([7]).memfd
    fd = np.int64(f.fileno())
    assert memfd.describe(fd).kind == "array"
    for array in (np.array(fd), np.array([fd]), np.arange(3)):
        with pytest.raises(TypeError, match=r"not ndarray; memfd\.share\(\)"):
            memfd.describe(array)

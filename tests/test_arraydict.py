"""ArrayDict: many arrays in one memfd, which is a safetensors file."""

import contextlib
import gc
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading

import pytest

import memfd
from memfd import Seal, SealError, _safetensors

np = pytest.importorskip("numpy")

TYPES = ["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"]
TYPES += ["<f2", "<f4", "<f8", "<c8"]


def some():
    """Return arrays of all types, shapes and orders that the format can hold."""
    numbers = np.arange(24).reshape(2, 3, 4)
    arrays = {f"type {name}": numbers.astype(name) for name in TYPES}
    return arrays | {
        "0-d": np.array(7.5),
        "empty": np.zeros((0, 3), "i2"),
        "Fortran": np.asfortranarray(numbers),
        "slice": numbers[:, ::-1, 1::2],
        "broadcast": np.broadcast_to(np.float32(3), (5, 5)),
        "list": [1, 2, 3],
        "": np.ones(1, "u1"),
        'na"me\n\\ ü \U0001f600/..': np.ones(3, "i8"),
    }


def assert_same(got, wanted):
    assert list(got) == list(wanted)
    for name, array in got.items():
        expected = np.asarray(wanted[name])
        assert array.dtype == expected.dtype, name
        assert array.shape == expected.shape, name
        assert array.tobytes() == expected.tobytes(), name


def safetensors(header, data=b"", length=None):
    """Return a sealed memfd with this header, an object or text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return memfd.from_bytes(struct.pack("<Q", size) + text + data)


def entry(dtype="F64", shape=(2,), begin=0, end=16, **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def test_share_keeps_all_arrays():
    """Names, their order, types, shapes and contents come back; all is one memfd."""
    wanted = some()
    shared = memfd.share(wanted)

    assert_same(shared, wanted)
    assert_same(memfd.attach(shared.memfd), wanted)
    assert shared.memfd.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
    for name, array in shared.items():
        assert type(array) is memfd.Array
        assert array.memfd is shared.memfd
        assert array.flags.aligned, name
        assert not array.flags.writeable
    assert shared.memfd.name == f"{len(wanted)} arrays"
    assert shared.metadata == {}
    assert shared.nbytes == sum(np.asarray(array).nbytes for array in wanted.values())


def test_it_is_a_mapping():
    """What a read-only dict can do, it can."""
    shared = memfd.share({"x": np.arange(3), "y": np.ones(2)})

    assert "x" in shared
    assert "z" not in shared
    assert 3 not in shared
    assert len(shared) == 2
    assert shared.get("z") is None
    with pytest.raises(KeyError, match="z"):
        shared["z"]
    with pytest.raises(TypeError):
        shared["x"] = 1
    assert repr(shared).startswith("<memfd.ArrayDict of 2 arrays, ")
    assert shared == shared
    assert shared != memfd.attach(shared)
    assert len({shared, shared}) == 1
    with pytest.raises(TypeError, match="memfd.share"):
        memfd.ArrayDict()


def test_no_arrays():
    """An empty dict is shared like any other."""
    shared = memfd.share({})
    assert dict(memfd.attach(shared.memfd)) == {}


def test_an_array_keeps_the_memory():
    """What is left of it is one array, and that is enough."""
    array = memfd.share({"x": np.arange(1000), "y": np.ones(2)})["x"][10:20]
    gc.collect()
    array.memfd.close()
    assert array.tolist() == list(range(10, 20))


def test_sizes_around_huge_pages():
    """Contents are right wherever an array begins and ends, in any number of threads."""
    mib = 1 << 20
    wanted = {
        str(size): np.arange(size, dtype="u4").view("u1")[:size]
        for size in (2 * mib - 1, 2 * mib, 2 * mib + 1, 3, 5 * mib, 0)
    }
    wanted["strided"] = np.arange(9 * mib, dtype="u2")[::3]
    for options in ({}, {"huge": "never"}, {"huge": "always"}, {"threads": 2}):
        shared = memfd.share(wanted | {"big": np.ones(4 * mib)}, **options)
        assert_same(shared, wanted | {"big": np.ones(4 * mib)})
        # Nothing that a receiver would refuse.
        memfd.Memfd.from_fd(os.dup(shared.memfd.fileno())).close()


def test_no_second_copy_in_private_memory(run):
    """Arrays with gaps are copied block by block."""
    run("""
        import resource
        import numpy as np, memfd
        whole = np.ones((16 << 20,), "f8")
        parts = {str(i): whole[i::4] for i in range(4)}
        memfd.share({"warm": np.ones(9)[::2]})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        limit = (96 << 20) + sum(
            int(line.split()[1]) << 10
            for line in open("/proc/self/status") if line.startswith("VmData")
        )
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        shared = memfd.share(parts)
        assert float(shared["3"].sum()) == 4 << 20
    """)


def test_ten_thousand_arrays(run):
    """Opening them takes one descriptor and one mapping."""
    run("""
        import os
        import numpy as np, memfd
        def mappings():
            with open("/proc/self/maps") as file:
                return sum("/memfd:" in line for line in file)
        f = memfd.share({f"layer{i}.weight": np.full(3, i) for i in range(10_000)}).memfd
        descriptors = len(os.listdir("/proc/self/fd"))
        assert mappings() == 0
        arrays = memfd.attach(f.fileno())
        assert arrays["layer7777.weight"].tolist() == [7777] * 3
        assert all(array[0] == i for i, array in enumerate(arrays.values()))
        assert len(os.listdir("/proc/self/fd")) == descriptors + 1
        assert mappings() == 1
    """)


def test_the_library_reads_our_files():
    """The safetensors library opens what share() makes, by its path and as bytes."""
    library = pytest.importorskip("safetensors.numpy")
    wanted = {name: np.asarray(array) for name, array in some().items()}
    del wanted["type <c8"]  # it has complex numbers in PyTorch only
    shared = memfd.share(wanted)

    for found in (
        library.load_file(shared.memfd.path),
        library.load(shared.memfd.read()),
    ):
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype
            assert found[name].tolist() == array.tolist()


def test_we_read_files_of_the_library():
    """attach() opens what the safetensors library writes, metadata included."""
    library = pytest.importorskip("safetensors.numpy")
    wanted = {
        name: np.ascontiguousarray(array)
        for name, array in some().items()
        if np.ndim(array) and np.asarray(array).dtype != "c8"
    }
    found = memfd.attach(memfd.from_bytes(library.save(wanted, {"by": "us"})))

    assert found.keys() == wanted.keys()
    assert found.metadata == {"by": "us"}
    for name, array in found.items():
        assert array.dtype == wanted[name].dtype
        assert array.tolist() == wanted[name].tolist()


def test_types_that_numpy_lacks():
    """They do not keep the other arrays from being used."""
    header = {"a": entry("BF16", (2,), 0, 4), "b": entry("F4", (4,), 4, 6)}
    header["c"] = entry("U8", (2,), 6, 8)
    arrays = memfd.attach(safetensors(header, bytes(range(8))))

    assert arrays["c"].tolist() == [6, 7]
    with pytest.raises(TypeError, match="'a' is BF16"):
        arrays["a"]
    with pytest.raises(TypeError, match="'b' is F4"):
        arrays["b"]


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ({"x": np.zeros(2, ">f4")}, TypeError, "'x': .*>f4.*dump"),
        ({"x": np.zeros(2, "c16")}, TypeError, "complex128.*dump"),
        ({"x": np.zeros(2, "M8[s]")}, TypeError, "dump"),
        ({"x": np.zeros(2, "U3")}, TypeError, "dump"),
        ({"x": np.zeros(2, [("a", "f8")])}, TypeError, "dump"),
        ({"x": np.array([None])}, TypeError, "dump"),
        ({"x": "text"}, TypeError, "'x': .*numbers"),
        ({"x": np.ma.zeros(2)}, TypeError, "'x': .*mask"),
        ({1: np.zeros(2)}, TypeError, "str, got 1"),
        ({"__metadata__": np.zeros(2)}, ValueError, "__metadata__"),
        ({"\ud800": np.zeros(2)}, ValueError, "text"),
        ({"x" * (4 << 20): np.zeros(2)}, ValueError, "several memfds"),
    ],
)
def test_share_refuses(arrays, error, words):
    """What the format cannot hold as it is; the message names the array."""
    with pytest.raises(error, match=words):
        memfd.share(arrays)


def test_share_refuses_fortran_order():
    """The format knows C order only."""
    with pytest.raises(ValueError, match="order"):
        memfd.share({"x": np.zeros((2, 2))}, order="F")


def test_share_converts():
    """dtype= holds for every array."""
    shared = memfd.share({"x": np.arange(3), "y": [1, 2]}, dtype="f4", name="label")
    assert {array.dtype for array in shared.values()} == {np.dtype("f4")}
    assert shared.memfd.name == "label"


def test_share_of_what_is_shared():
    """Immutable arrays are not copied again, others are."""
    shared = memfd.share({"x": np.arange(3)})
    again = memfd.share(shared)
    assert again.memfd is shared.memfd
    assert memfd.share(shared, dtype="f8").memfd is not shared.memfd
    writable = memfd.share(shared, mode="r+")
    assert writable.memfd is not shared.memfd
    assert memfd.share(writable).memfd is not writable.memfd


@pytest.mark.parametrize(
    "copy",
    [
        lambda arrays: memfd.share(arrays, mode="r+"),
        lambda arrays: memfd.share(memfd.attach(arrays, "c")),
        lambda arrays: memfd.freeze(arrays, copy=True),
    ],
)
def test_copies_are_of_the_whole_file(copy):
    """What the writer noted is copied, too, and arrays of types that NumPy lacks."""
    header = {"a": entry("BF16", (2,), 0, 4), "b": entry("U8", (2,), 4, 6)}
    header["__metadata__"] = {"any": "thing"}
    f = safetensors(header, bytes(range(6)))

    copied = copy(memfd.attach(f))

    assert copied.memfd.read() == f.read()
    assert os.fstat(copied.memfd.fileno()).st_ino != os.fstat(f.fileno()).st_ino
    assert copied["b"].tolist() == [4, 5]
    assert copied.memfd.name == "2 arrays"


def test_copies_take_the_options_of_share():
    """name, huge and threads hold for copies of a whole file; private pages are in it."""
    shared = memfd.share({"x": np.arange(5 << 20, dtype="u2"), "y": np.ones(2)})
    mine = memfd.attach(shared, "c")
    mine["y"][:] = 7
    for huge in ("auto", "always", "never"):
        copied = memfd.share(mine, name="label", huge=huge, threads=2)
        assert_same(copied, mine)
        assert copied.memfd.name == "label"
        assert copied.memfd.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
    with pytest.raises(ValueError, match="249"):
        memfd.share(mine, name="n" * 250)


def test_metadata_are_a_copy():
    """Who changes what `metadata` returned changes no other's."""
    arrays = memfd.attach(safetensors({"__metadata__": {"any": "thing"}}))
    arrays.metadata["any"] = "other"
    assert arrays.metadata == memfd.attach(arrays).metadata == {"any": "thing"}


def test_modes():
    """r+ is seen by all who hold it, c by nobody else; the size is sealed."""
    shared = memfd.share({"x": np.arange(3), "y": np.ones(2)}, mode="r+")
    assert shared.memfd.seals & Seal.IMMUTABLE == Seal.SHRINK | Seal.GROW
    mine, other = memfd.attach(shared, "c"), memfd.attach(shared.memfd, "r+")

    other["x"][0] = 5
    mine["y"][:] = 7

    assert shared["x"].tolist() == [5, 1, 2]
    assert shared["y"].tolist() == [1, 1]
    assert mine["y"].tolist() == [7, 7]
    with pytest.raises(SealError, match="WRITE"):
        memfd.attach(shared, require=Seal.IMMUTABLE)


def test_freeze():
    """All arrays at once become immutable; older ones go on, on their own."""
    shared = memfd.share({"x": np.arange(3), "y": np.ones(2)}, mode="r+")
    x = shared["x"]
    x[0] = 5

    frozen = memfd.freeze(shared)

    assert frozen["x"].tolist() == [5, 1, 2]
    assert frozen.memfd.seals & Seal.IMMUTABLE == Seal.IMMUTABLE
    x[0] = 6
    assert frozen["x"][0] == 5
    assert shared.memfd is None
    with pytest.raises(ValueError, match="frozen"):
        memfd.freeze(shared)
    assert memfd.freeze(shared, copy=True)["x"].tolist() == [6, 1, 2]
    assert memfd.freeze(frozen).memfd is frozen.memfd


def test_pickled_by_value():
    """Outside of multiprocessing it becomes a dict of ordinary arrays."""
    wanted = some()
    found = pickle.loads(pickle.dumps(memfd.share(wanted)))
    assert type(found) is dict
    assert_same(found, wanted)
    assert {type(array) for array in found.values()} == {np.ndarray}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_through_a_pipe(tmp_path, method):
    """It travels as one descriptor, and so does an array of it; there and back."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import multiprocessing, os, sys
import numpy as np
import memfd


def worker(connection):
    arrays = connection.recv()
    assert type(arrays) is memfd.ArrayDict, type(arrays)
    assert arrays.memfd.seals & memfd.Seal.IMMUTABLE == memfd.Seal.IMMUTABLE
    inode = os.fstat(arrays.memfd.fileno()).st_ino
    one = connection.recv()
    assert os.fstat(one.memfd.fileno()).st_ino == inode
    connection.send((inode, float(arrays["x"].sum()), one.tolist(), arrays))


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    here, there = context.Pipe()
    process = context.Process(target=worker, args=(there,))
    process.start()
    arrays = memfd.share({"x": np.ones(1000), "y": np.arange(6).reshape(2, 3)})
    here.send(arrays)
    here.send(arrays["y"][:, ::2])
    inode, total, one, back = here.recv()
    assert inode == os.fstat(arrays.memfd.fileno()).st_ino
    assert (total, one) == (1000, [[0, 2], [3, 5]])
    assert back["y"].tolist() == arrays["y"].tolist()
    process.join()
    assert process.exitcode == 0
    assert memfd.pending() == 0
"""
    )
    done = subprocess.run(
        [sys.executable, program, method], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_not_sent():
    """A closed memfd is an error; private pages and frozen-away ones go by value."""
    from multiprocessing import Pipe

    here, there = Pipe()
    with contextlib.closing(here), contextlib.closing(there):
        shared = memfd.share({"x": np.arange(3)})
        private = memfd.attach(shared, "c")
        private["x"][0] = 9
        here.send(private)
        assert type(there.recv()) is dict
        shared.memfd.close()
        with pytest.raises(ValueError, match="cannot be sent"):
            here.send(shared)
        with pytest.raises(ValueError, match="closed"):
            memfd.attach(shared)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_through_a_socket(kind):
    """send() takes it as one item, recv_array() and recv() with attach() give it back."""
    here, there = socket.socketpair(socket.AF_UNIX, kind)
    with here, there:
        shared = memfd.share(some())
        memfd.send(here, shared)
        memfd.send(here, shared["Fortran"][1])
        memfd.send(here, shared)

        assert_same(memfd.recv_array(there), some())
        assert memfd.recv_array(there).tolist() == some()["Fortran"][1].tolist()
        with memfd.recv(there) as f:
            assert_same(memfd.attach(f), some())
        with pytest.raises(TypeError, match=r"not dict: memfd.share\(\)"):
            memfd.send(here, {"x": np.ones(3)})


def test_a_hostile_sender_of_many():
    """A header that lies is refused and what came is closed."""
    here, there = socket.socketpair()
    with here, there:
        memfd.send(here, safetensors({"x": entry(end=17)}, bytes(17)))
        with pytest.raises(ValueError, match="not valid"):
            memfd.recv_array(there)


def test_attach_requires_seals_of_all():
    """A safetensors file that can shrink is refused, and trusted on demand."""
    f = memfd.create()
    f.write(safetensors({"x": entry()}, bytes(16)).read())
    with pytest.raises(SealError, match="SHRINK"):
        memfd.attach(f)
    arrays = memfd.attach(f, require=None)
    assert arrays["x"].tolist() == [0, 0]
    with pytest.raises(SealError, match="SHRINK"):
        memfd.attach(arrays)


def test_valid_headers():
    """Padding, gaps of no bytes, any order of the keys and of the arrays."""
    header = {"b": entry(begin=16, end=32), "e": entry("U8", (0,), 16, 16)}
    header |= {"a": {"data_offsets": [0, 16], "shape": [1, 2], "dtype": "F64"}}
    header["__metadata__"] = {"any": "thing"}
    f = safetensors(json.dumps(header).encode() + b"   ", bytes(32))
    arrays = memfd.attach(f)
    assert list(arrays) == ["b", "e", "a"]
    assert arrays["a"].shape == (1, 2)
    assert arrays.metadata == {"any": "thing"}


DEEP = b"[" * 100_000
LONG = 10**4000


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b"[]", b"", "does not hold"),
        (b"", b"", "does not hold"),
        (b"{", b"", "not valid"),
        (b"{}  x", b"", "not valid"),
        (b'{"x": NaN}', b"", "NaN"),
        (b'{"x": ' + DEEP, b"", "not valid"),
        (b'{"\xff": 1}', b"", "not valid"),
        (b'{"x": 1, "x": 2}', b"", "twice"),
        (b'{"x": {"dtype": "U8", "dtype": "U8"}}', b"", "twice"),
        (b'{"\\ud800": ' + json.dumps(entry()).encode() + b"}", bytes(16), "surrog"),
        ({"__metadata__": []}, b"", "metadata"),
        ({"__metadata__": {"x": 1}}, b"", "metadata"),
        ({"__metadata__": {"x": "\ud800"}}, b"", "surrog"),
        ({"__metadata__": {"\ud800": "x"}}, b"", "surrog"),
        ({"x": []}, b"", "not just"),
        ({"x": entry(more=1)}, bytes(16), "not just"),
        ({"x": {"dtype": "F64", "shape": [2], "offsets": [0, 16]}}, bytes(16), "valid"),
        ({"x": entry("F65")}, bytes(16), "is unknown"),
        ({"x": entry(["F64"])}, bytes(16), "valid"),
        ({"x": entry(shape={"2": 1})}, bytes(16), "lists"),
        ({"x": entry(shape="2")}, bytes(16), "lists"),
        ({"x": {**entry(), "data_offsets": {"0": 1, "16": 1}}}, bytes(16), "lists"),
        ({"x": {**entry(), "data_offsets": 16}}, bytes(16), "lists"),
        ({"x": entry(shape=[2.0])}, bytes(16), "whole"),
        ({"x": entry(shape=[True, 2])}, bytes(16), "whole"),
        ({"x": entry(end=16.0)}, bytes(16), "whole"),
        ({"x": entry(shape=[-2], begin=16, end=0)}, bytes(16), "negative"),
        ({"x": entry(shape=[-1, -2])}, bytes(16), "negative"),
        ({"x": entry(shape=[2**64, 2**64, 0], end=0)}, b"", "large"),
        ({"x": entry(shape=[2**62, 2**62, 0], end=0)}, b"", "large"),
        ({"x": entry(shape=[2] + [1] * 64)}, bytes(16), "dimensions"),
        ({"x": {**entry(), "data_offsets": [0, 16, 32]}}, bytes(32), "two"),
        ({"x": entry(shape=[3])}, bytes(16), "shape"),
        ({"x": entry("F4", [3], 0, 1)}, bytes(1), "shape"),
        ({"x": entry(end=8)}, bytes(16), "shape"),
        ({"x": entry(begin=8, end=24)}, bytes(24), "gaps"),
        ({"x": entry(), "y": entry(begin=8, end=24)}, bytes(24), "overlap"),
        ({"x": entry(), "y": entry()}, bytes(16), "overlap"),
        ({"x": entry(), "y": entry(begin=17, end=33)}, bytes(33), "gaps"),
        ({"x": entry()}, bytes(15), "15 bytes"),
        ({"x": entry()}, bytes(17), "17 bytes"),
        ({}, b"x", "1 bytes"),
        ({"x": entry("U8", [2**61], 0, 2**61)}, bytes(16), "16 bytes"),
    ],
)
def test_headers_that_lie(header, data, words):
    """Each is a ValueError, before anything is mapped."""
    f = safetensors(header, data)
    with pytest.raises(ValueError, match=words):
        memfd.attach(f)


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (2**64 - 1, "does not hold"),
        (2**32, "does not hold"),
        (2**32 - 1, "more than"),
        ((4 << 20) + 1, "more than"),
        (100, "past the end"),
        (3, "not valid"),
    ],
)
def test_lengths_that_lie(length, words):
    """A header that is longer than any, than the limit, than the file, or that is cut."""
    f = safetensors({"x": entry()}, bytes(16), length)
    with pytest.raises(ValueError, match=words):
        memfd.attach(f)


@pytest.mark.parametrize(
    "data", [b"", b"\2", bytes(8), bytes(8) + b"[]", b'config: {"a": 1}']
)
def test_no_header(data):
    """What is too short for one, or begins otherwise."""
    f = memfd.from_bytes(data)
    with pytest.raises(ValueError, match="does not hold a safetensors"):
        _safetensors.read_header(f.fileno(), f.size)


def test_numbers_that_take_for_ever(run):
    """Long numbers are refused before they are multiplied."""
    run(
        """
        import json, signal, struct
        import memfd
        shape = [10**4000] * 1000
        text = json.dumps({"x": {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}})
        data = struct.pack("<Q", len(text)) + text.encode()
        signal.alarm(20)
        try:
            memfd.attach(memfd.from_bytes(data))
        except ValueError as error:
            assert "too large" in str(error), error
        """
    )


def test_a_header_that_changes_meanwhile():
    """What is checked is what is used: a writer that flips it wins nothing."""
    good = safetensors({"x": entry("U8", [16], 0, 16)}, bytes(16)).read()
    evil = good.replace(b"[16]", b"[99]").replace(b"16]", b"99]", 1)
    assert len(evil) == len(good) != len(set(good))
    f = memfd.create()
    f.write(good)
    f.seal(Seal.SHRINK)
    stop = threading.Event()

    def flip():
        while not stop.is_set():
            os.pwrite(f.fileno(), evil, 0)
            os.pwrite(f.fileno(), good, 0)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(2000):
            try:
                array = memfd.attach(f)["x"]
            except ValueError:
                continue
            assert array.shape == (16,)
    finally:
        stop.set()
        thread.join()

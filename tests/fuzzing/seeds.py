"""Write the inputs that the fuzzer begins with, into corpus/TARGET/seed-…:

    python seeds.py

They are what this package, NumPy and safetensors write, and what peers can say.
"""

import io
import pathlib
import random
import struct

import almost
import numpy as np
import safetensors.numpy
import targets

import memfd

FOLDER = pathlib.Path(__file__).resolve().parent / "corpus"


def some_arrays():
    grid = np.arange(6, dtype="f4").reshape(2, 3)
    return [
        np.array(7.0), np.zeros(0), grid, grid.T, grid[:, None], np.ones((2, 1, 3), "?"),
        np.array(["a", "bc"]), np.array([b"x", b"yz"]), np.zeros(2, "V5"),
        np.array(["2026-11-26"], "M8[D]"), np.zeros(2, "m8[25s]"), np.zeros(2, ">c16"),
        np.zeros(2, [("a", "i4"), ("b", "S3")]), np.zeros(1, [("ü", "u1", (2, 2))]),
        np.zeros(2, np.longdouble), np.zeros((0, 2**40), "u1"),
        np.zeros(1, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    ]  # fmt: skip


def saved(array, version):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def npy():
    for array in some_arrays():
        with memfd.share(array).memfd as f:
            yield f.read()
    for version in ((1, 0), (2, 0), (3, 0)):
        yield saved(np.arange(3), version)
    yield saved(np.arange(3), (1, 0)) + b"more"
    yield saved(np.array([None]), (1, 0))
    python2 = saved(np.arange(3), (1, 0)).replace(b"(3,), ", b"(3L,),")
    yield python2


def view():
    whole = memfd.share(np.arange(60, dtype="i2").reshape(3, 4, 5))
    records = memfd.share(np.zeros(9, [("a", "i4"), ("b", "u1")]))
    places = [
        whole[1], whole[::2], whole[::-1, :, ::-2], whole[:0], whole[1, 2, 3, None],
        whole.T, whole.view("u1"), records["b"], records[2:], np.broadcast_to(
            whole[0, 0], (4, 5)),
    ]  # fmt: skip
    for array in places:
        f, text = memfd._share.locate(array)
        yield struct.pack("<H", f.size) + text


def arrays():
    for one in (
        {}, {"x": np.arange(3)}, {"a": np.ones((2, 2), "f4"), "ü": np.zeros(0, "?")},
        {name: np.zeros(2, dtype) for name, dtype in almost.DTYPES.items()},
    ):  # fmt: skip
        with memfd.share(one).memfd as f:
            yield f.read()
        yield safetensors.numpy.save(one, {"format": "np"})
    for number in range(24):
        yield almost.arrays_file(random.Random(number))[0]


def dumped():
    pieces = [memoryview(bytearray(b"abc" * 30)), memoryview(bytearray(b"z" * 65))]
    for one in (
        None, [1, "two", 3.0, b"4", (), {}], np.arange(3), [np.ones(9), np.zeros(0)],
        list(map(memfd_buffer, pieces)), {"x": memfd_buffer(pieces[0])},
    ):  # fmt: skip
        with memfd.dump(one) as f:
            yield f.read()
    for number in range(16):
        yield almost.object_file(random.Random(number))[0]


def memfd_buffer(piece):
    import pickle

    return pickle.PickleBuffer(piece)


def show():
    yield from itertools_every(3, npy(), arrays(), dumped())
    yield from (b"", b"text\n", b"\x93NUMPY", b"\x1b[2J", b"#!/bin/sh\n")
    entry = '{"\x1b[2J\u202e\u0301":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    text = entry.encode()
    yield struct.pack("<Q", len(text)) + text


def itertools_every(step, *sources):
    for source in sources:
        yield from list(source)[::step]


def names():
    for name in (
        "", "float64[2,3]", "a b", "ü", "\u202eevil", "\x1b[31mred", "a\nb", "a\\012b",
        "x (deleted)", "/memfd:x (deleted)", " x ", "\u05d0\u0301", "\r\t",
        "x\n7f0000000000-7f0000001000 rw-s 00000000 00:01 1 /memfd:y (deleted)", "\\",
    ):  # fmt: skip
        yield name.encode()
    yield b"\xff\xfe\xed\xa0\x80"
    yield b"n" * 249


def piece(data, count=1, which=0):
    """Return one write to a socket, as `targets.pieces_of` reads it."""
    long = len(data) > 255
    size = -(-len(data) // 64) if long else len(data)
    head = count | which << 2 | (0x20 if long else 0)
    return bytes([head, size]) + (data.ljust(64 * size) if long else data)


def message():
    _, text = memfd._share.locate(memfd.share(np.arange(8.0))[2:5])
    frame = targets._VIEW + struct.pack("<I", len(text)) + text
    long = targets._VIEW + struct.pack("<I", 180) + text.ljust(180)
    for flags in (0, 1, 2, 4, 5, 6, 8, 12):
        start = bytes([flags])
        yield start + piece(targets._FILE)
        yield start + piece(targets._FILE, which=1) + piece(targets._FILE)
        yield start + piece(frame[:255])
        yield start + piece(long)
        yield start + piece(frame[:3]) + piece(frame[3:12], 0) + piece(frame[12:255], 0)
        yield start + piece(b"x") + piece(b"", 0)
    yield b"\0" + piece(targets._FILE, 2) + piece(b"x", 0)
    yield b"\0" + piece(targets._FILE[:5]) + piece(targets._FILE[5:])
    for which in range(5):
        yield b"\4" + piece(b"x", which=which)
    yield b"\1" + piece(targets._FILE + b"more")
    yield b"\4" + piece(b"\xfe")


def edit(field, kind, value=0):
    """Return one change of a slip, as `targets.slip` reads it."""
    number = targets._FIELDS.index(field)
    return struct.pack("<BBq", number, kind, value)


def slip():
    yield b""
    for field in targets._FIELDS:
        yield edit(field, 4, 1)
        yield edit(field, 3, -1)
    for kind in range(3):
        file = edit("device", kind) + edit("inode", kind) + edit("loan", kind)
        yield file + edit("immutable", 3, 0)
        pipe = edit("pipe_device", kind) + edit("pipe_inode", kind)
        yield pipe + edit("pipe", kind)
    yield b"\0"


def desk():
    yield struct.pack("<4Q", 0, 1, 2, 3)
    yield struct.pack("<2Q", 7, 0)[:-1]


def stranger():
    yield from said_by_peers()


def squatter():
    yield from said_by_peers()


def said_by_peers():
    for texts in (
        [], [b"#CHALLENGE#" + bytes(20)], [b"#CHALLENGE#{sha256}" + bytes(32)],
        [b"#CHALLENGE#" + bytes(20), b"#WELCOME#"], [b"#CHALLENGE#{md4}" + bytes(32)],
        [b"#CHALLENGE#{sha256}" + bytes(32), b"#WELCOME#", b"#CHALLENGE#" + bytes(20)],
        [b"#CHALLENGE#" + bytes(20), b"#FAILURE#"], [b"x" * 300], [bytes(16)],
        [b"{sha256}" + bytes(32)],
    ):  # fmt: skip
        yield b"".join(struct.pack("!i", len(text)) + text for text in texts)


def main():
    for name in targets.ALL:
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed-*"):
            old.unlink()
        for number, data in enumerate(globals()[name]()):
            (folder / f"seed-{number:02}").write_bytes(data)


if __name__ == "__main__":
    main()

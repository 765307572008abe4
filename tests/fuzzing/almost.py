"""For tests/test_fuzz.py: files that are almost right, for one of the two parsers.

    python almost.py arrays|object SEED COUNT FD

FD is a memfd.  It is rewritten with each input, so that the last one is in it, whatever
becomes of this process.

Each input has to be refused with a ValueError, or to be what the parser says it is.  Prints
what was tried and which lines of the parser ran, as one JSON object.
"""

import json
import math
import os
import random
import re
import signal
import struct
import sys
import types

import numpy as np

import memfd
from memfd import _objects, _safetensors

EACH_TRACED = 10  # one of so many
SECONDS = 30  # for one input, some thousand times what it takes

LENGTH = struct.Struct("<Q")
HEAD = struct.Struct("<8sQQQQ")
PLACE = struct.Struct("<QQ")
MAGIC = b"\x93\r\nMFDOB"

# As the formats say it, not as the parsers do.
DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4",
    "I32": "<i4", "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
    "C64": "<c8",
}  # fmt: skip
BITS = {name: 8 * np.dtype(text).itemsize for name, text in DTYPES.items()} | {
    "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
# A file may have 64; of one with more than this NumPy 1 says so when it is looked at.
NUMPY_DIMENSIONS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32


class Object(list):
    """A JSON object, as pairs: names can come twice."""


class Raw(str):
    """JSON as it stands, or what is none."""


NUMBERS = [0, 1, 2, 3, 7, 8, 63, 64, 65, 127, 128, 255, 256, 2**16, 2**24, 2**24 + 1]
NUMBERS += [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**60, 2**61, 2**62, 2**63 - 1]
NUMBERS += [2**63, 2**64 - 64, 2**64 - 16, 2**64 - 8, 2**64 - 1]
TEXTS = [
    "",
    "x",
    "a",
    "b",
    "dtype",
    "shape",
    "data_offsets",
    "__metadata__",
    "..",
    "\0",
]
TEXTS += ["\ud800", "\udc00x", "\U0001f600", 'a"\\\n', "f64", "F65", "F64 ", "x" * 300]
SCALARS = [*NUMBERS, *TEXTS, *BITS, *(-number for number in NUMBERS), 2**64, 10**400]
SCALARS += [True, False, None, 0.0, 1.0, 0.5, 1e300, float("nan"), float("inf")]
TOKENS = [Raw(text) for text in (
    "NaN", "Infinity", "-Infinity", "nan", "-0", "00", "01", "1e3", "1E400", "-1e-400",
    "0x10", "1_0", "+1", "1.", ".5", "-", "1" * 4299, "1" * 5000, "tru", "True", "None",
    "'x'", '"\\ud800"', '"\\udc00\\ud800"', '"\\x"', '"\t"', '"', "{", "}", "[", "]", ",",
    ":", "", "\ufeff", "\0", "//", "/**/", "\ud800", "[]", "{}", "[[]]", "[{}]",
    '{"a":1,"a":1}', " ", "\n", "9" * 30,
)]  # fmt: skip
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+|\s+|"', re.DOTALL)
BYTES = [b"{", b"}", b'"', b"\\", b"\0", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"0"]


# --- files of arrays ------------------------------------------------------------------


def arrays_file(rng):
    """Return a file of arrays, whether it is as it should be, and how long it is said."""
    tree, size = arrays_tree(rng)
    changes = rng.choice((0, 1, 1, 1, 2, 4))
    by_token = rng.random() < 0.3
    if not by_token:
        for _ in range(changes):
            change_tree(rng, tree)
    said = text(tree)
    if by_token and changes:
        said = change_tokens(rng, said)
    if rng.random() < 0.3:
        said += rng.choice((" ", "\n\t ", " " * 50))
    said = said.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        said, changes = change_bytes(rng, said), 1
    length, data = len(said), rng.randbytes(size)
    kind = rng.random()
    if kind < 0.04:
        length = (
            rng.choice((*NUMBERS, length - 1, length + 1, length + size, 0)) % 2**64
        )
        changes = 1
    elif kind < 0.1:
        data, changes = change_size(rng, data), 1
    whole = LENGTH.pack(length) + said + data
    if kind > 0.97:
        whole, changes = change_size(rng, whole), 1
    elif kind > 0.95:
        whole, changes = change_bytes(rng, whole), 1
    return whole, changes == 0


def arrays_tree(rng):
    """Return the header of a good file, and the size of its data."""
    tree, end = Object(), 0
    for number in range(rng.choice((0, 1, 1, 2, 3, 6))):
        name = rng.choice(BITS_OF)
        shape = [rng.randrange(5) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
        if BITS[name] < 8:
            shape.append(4)
        if rng.random() < 0.05:
            shape += [1] * (rng.choice((28, 33, 60)) if rng.random() < 0.5 else 3)
        size = math.prod(shape) * BITS[name] // 8
        entry = [["dtype", name], ["shape", shape], ["data_offsets", [end, end + size]]]
        end += size
        if rng.random() < 0.2:
            rng.shuffle(entry)
        tree.append([f"{rng.choice(NAMES)}{number}", Object(entry)])
    if rng.random() < 0.3:
        rng.shuffle(tree)
    if rng.random() < 0.2:
        metadata = Object([rng.choice(NAMES) + str(n), "x"] for n in range(2))
        tree.insert(rng.randint(0, len(tree)), ["__metadata__", metadata])
    return tree, end


NAMES = ["x", "y", "", "weights.0", "ü", "\U0001f600", 'a"b', "a\n", "../"]
BITS_OF = [*BITS, *DTYPES, *DTYPES]


def text(node):
    """Write a tree as JSON, with all that JSON cannot have."""
    if type(node) is Object:
        return f"{{{','.join(f'{text(name)}:{text(value)}' for name, value in node)}}}"
    if type(node) is list:
        return f"[{','.join(map(text, node))}]"
    return node if type(node) is Raw else json.dumps(node)


def slots(node, found):
    """Collect every place of a tree, as the list that has it and its index there."""
    if isinstance(node, list):
        for i, value in enumerate(node):
            found.append((node, i))
            slots(value, found)
    return found


def anything(rng):
    kind = rng.random()
    if kind < 0.7:
        return rng.choice(SCALARS)
    if kind < 0.9:
        return rng.choice(TOKENS)
    if kind < 0.95:
        return [rng.choice(SCALARS) for _ in range(rng.randrange(4))]
    return Object(
        [rng.choice(TEXTS), rng.choice(SCALARS)] for _ in range(rng.randrange(4))
    )


def nested(rng, inside):
    depth = rng.choice((1, 2, 3, 64, 65, 900, 1000, 1100, 20_000))
    opening, closing = rng.choice(
        (("[", "]"), ('{"a":', "}"), ("[", ""), ('[{"":', "}]"))
    )
    return Raw(opening * depth + inside + closing * depth)


def change_tree(rng, tree):
    """Change something in a tree that need not be what it was any more."""
    entries = [
        {pair[0]: pair for pair in value if type(pair) is list and type(pair[0]) is str}
        for pair in tree
        if type(pair) is list and len(pair) == 2 and type(value := pair[1]) is Object
    ]
    entries = [entry for entry in entries if {*KEYS} <= entry.keys()]
    if entries and rng.random() < 0.6:
        change_entries(rng, tree, entries)
        return
    places = slots(tree, [])
    if not places:
        tree.append([rng.choice(TEXTS), anything(rng)])
        return
    inside, i = rng.choice(places)
    kind = rng.randrange(7)
    if kind == 0:
        del inside[i]
    elif kind == 1:
        inside.insert(i, copied(inside[i]))
    elif kind == 2:
        other, j = rng.choice(places)
        inside[i], other[j] = copied(other[j]), copied(inside[i])
    elif kind == 3 and len(text(inside[i])) < 100:
        inside[i] = nested(rng, text(inside[i]))
    elif kind == 4 and type(inside[i]) in (int, str):
        inside[i] = text(inside[i]) if type(inside[i]) is int else [*inside[i]]
    else:
        inside[i] = anything(rng)
    # What was a pair may be none now.
    repair(tree)


KEYS = ("dtype", "shape", "data_offsets")


def copied(node):
    """Return a tree that nothing else changes with."""
    return type(node)(map(copied, node)) if isinstance(node, list) else node


def repair(node):
    """Make each pair of an object two things again, the first of them a name."""
    if type(node) is Object:
        for i, pair in enumerate(node):
            if type(pair) is not list or len(pair) != 2:
                node[i] = pair = ["x", pair]
            if type(pair[0]) not in (str, Raw):
                pair[0] = Raw(text(pair[0]))
    if isinstance(node, list):
        for value in node:
            repair(value)


def change_entries(rng, tree, entries):
    """Change what arrays say of themselves, so that most of it still fits."""
    entry, other = rng.choice(entries), rng.choice(entries)
    shape, offsets = entry["shape"][1], entry["data_offsets"][1]
    kind = rng.randrange(15)
    if kind == 0:
        entry["dtype"][1] = rng.choice((*BITS, *BITS, *TEXTS, *SCALARS))
    elif kind == 1:
        entry["dtype"][1], other["dtype"][1] = other["dtype"][1], entry["dtype"][1]
    elif kind == 2:
        entry["data_offsets"][1] = copied(other["data_offsets"][1])
    elif kind == 3:
        entry["shape"][1] = copied(other["shape"][1])
    elif kind == 4 and type(offsets) is list:
        rng.shuffle(offsets)
    elif kind == 5 and type(offsets) is list and {*map(type, offsets)} == {int}:
        by = rng.choice((-64, -8, -1, 1, 8, 64))
        which = rng.choice(((0,), (1,), (0, 1)))
        entry["data_offsets"][1] = [
            at + by if i in which else at for i, at in enumerate(offsets)
        ]
    elif kind == 6 and type(offsets) is list and offsets:
        offsets[rng.randrange(len(offsets))] = rng.choice(SCALARS)
    elif kind == 7 and type(shape) is list and shape:
        shape[rng.randrange(len(shape))] = rng.choice(SCALARS)
    elif kind == 8 and type(shape) is list:
        for _ in range(rng.choice((1, 1, 2, 30, 32, 64))):
            shape.insert(rng.randint(0, len(shape)), 1)
    elif kind == 9 and type(shape) is list:
        rng.shuffle(shape)
    elif kind == 10 and type(offsets) is list and offsets:
        # Nothing at all, of an enormous shape.
        shape = [rng.choice((*NUMBERS, 2**20, 3)) for _ in range(rng.randrange(4))]
        shape.insert(rng.randint(0, len(shape)), 0)
        at = rng.choice((offsets[0], offsets[-1]))
        more = [["dtype", rng.choice(BITS_OF)], ["shape", shape]]
        more.append(["data_offsets", [at, at]])
        tree.append([rng.choice((*NAMES, *TEXTS)), Object(more)])
    elif kind == 11:
        pair = rng.choice(tree)
        tree.append([pair[0], anything(rng)] if rng.random() < 0.5 else copied(pair))
    elif kind == 12:
        entry[rng.choice(KEYS)][0] = rng.choice((*KEYS, *TEXTS))
    elif kind == 13:
        entry[rng.choice(KEYS)][1] = anything(rng)
    else:
        pair = [
            rng.choice((*TEXTS, "m")),
            rng.choice((*TEXTS, "m", "m", anything(rng))),
        ]
        tree.append(["__metadata__", Object([pair])])


def change_tokens(rng, said):
    tokens = TOKEN.findall(said)
    for _ in range(rng.choice((1, 1, 2, 5))):
        i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        kind = rng.randrange(7)
        if kind == 0:
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif kind == 1:
            tokens[i:i] = tokens[min(i, j) : max(i, j) + 1]
        elif kind == 2:
            tokens[i] = ""
        elif kind == 3:
            tokens[i] = nested(rng, tokens[i])
        elif kind == 4:
            tokens[i] = text(rng.choice(SCALARS))
        elif kind == 5:
            tokens.insert(i, rng.choice(("", " ", "\n", "\t\r ", "\x0b", "\xa0")))
        else:
            tokens[i] = rng.choice(TOKENS)
    said = "".join(tokens)
    # With anything else in front it would not be read at all.
    return said if said[:1] == "{" or rng.random() < 0.05 else "{" + said


# --- files of an object ---------------------------------------------------------------


def object_file(rng):
    """Return a file with an object in it, and whether it is as it should be."""
    pickled = rng.choice((0, 1, 5, 63, 64, 65, rng.randrange(300)))
    version, end, places = 1, 64 + pickled, []
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        start = -(-end // 64) * 64 + 64 * rng.choice((0, 0, 0, 1, 3))
        size = rng.choice((0, 1, 8, 63, 64, 65, rng.randrange(200)))
        places.append([start, size])
        end = start + size
    end += rng.choice((0, 0, 0, 1, 64))
    body = 64, end
    changes = rng.choice((0, 1, 1, 1, 2, 4))
    for _ in range(changes):
        kind = rng.randrange(12)
        if kind == 0:
            pickled = changed(rng, pickled)
        elif kind == 1:
            end = (
                changed(rng, end) if rng.random() < 0.5 else end + rng.choice((1, -64))
            )
        elif kind == 2 and rng.random() < 0.2:
            version = changed(rng, version)
        elif not places or kind == 3:
            places.insert(
                rng.randint(0, len(places)), [rng.choice(NUMBERS), rng.choice(NUMBERS)]
            )
        elif kind == 4:
            rng.shuffle(places)
        elif kind == 5:
            places.append([*rng.choice(places)])
        elif kind == 6:
            del places[rng.randrange(len(places))]
        elif kind == 7:
            place = rng.choice(places)
            place[0] = place[0] + rng.choice((-128, -64, -1, 1, 64, 128))
        elif kind == 8:
            # So that it ends in the file again, for who counts in 64 bits.
            place = rng.choice(places)
            place[1] = 2**64 - place[0] + rng.choice((0, 64, end))
        elif kind == 9:
            rng.choice(places).reverse()
        else:
            place = rng.choice(places)
            i = rng.randrange(2)
            place[i] = changed(rng, place[i])
    table = b"".join(PLACE.pack(*(at % 2**64 for at in place)) for place in places)
    count, end = len(places), end % 2**64
    # The body grows and shrinks with what the head says, so that the lengths agree.
    begin, size = body[0], end if end < 1 << 16 else body[1]
    if rng.random() < 0.06:
        count, changes = rng.choice((*NUMBERS, count + 1, max(count - 1, 0))), 1
    if rng.random() < 0.03:
        end, changes = changed(rng, end), 1
    head = HEAD.pack(MAGIC, version % 2**64, pickled % 2**64, end, count)
    whole = head.ljust(begin, b"\0") + rng.randbytes(max(size - begin, 0)) + table
    kind = rng.random()
    if kind < 0.05:
        whole, changes = change_bytes(rng, whole), 1
    elif kind < 0.1:
        whole, changes = change_size(rng, whole), 1
    elif kind < 0.15 and table:
        whole, changes = whole[: -len(table)] + change_bytes(rng, table), 1
    return whole, changes == 0


def changed(rng, number):
    if rng.random() < 0.4:
        return rng.choice(NUMBERS)
    return (number + rng.choice((-64, -16, -8, -1, 1, 8, 16, 64))) % 2**64


# --- either ---------------------------------------------------------------------------


def change_bytes(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[at : at + 1] = rng.choice(BYTES)
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at : at + 8] = LENGTH.pack(rng.choice(NUMBERS))[: len(data) - at]
        else:
            data[at : at + 1] = rng.randbytes(1)
    return bytes(data)


def change_size(rng, data):
    """Cut a file off somewhere, or append something; both can be nothing."""
    if rng.random() < 0.5:
        return data[: rng.randrange(len(data) + 1)]
    return data + rng.choice((b"\0", b"\0" * 16, data[-16:], rng.randbytes(64)))


# --- what is right --------------------------------------------------------------------


def arrays_past_lengths(data):
    """Whether only what the header says can be wrong."""
    if data[8:9] != b"{":
        return False
    (length,) = LENGTH.unpack_from(data)
    return length <= min(len(data) - 8, 4 << 20)


def object_past_lengths(data):
    """Whether only the sizes of the pickle and the buffers can be wrong."""
    if len(data) < 64 or data[:8] != MAGIC:
        return False
    _, version, _, end, count = HEAD.unpack_from(data)
    return version == 1 and count <= 1 << 20 and end + 16 * count == len(data)


def once(pairs):
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def check_arrays(data, table, fd):
    """Compare what the parser says with the file; open it, and look at each array."""
    (length,) = LENGTH.unpack_from(data)
    start, room = 8 + length, len(data) - 8 - length
    said = json.loads(data[8:start].decode(), object_pairs_hook=once)
    metadata = said.pop("__metadata__", {})
    assert (table.entries, table.metadata, table.start) == (said, metadata, start)
    for one in (*metadata, *metadata.values(), *said):
        assert type(one) is str
        one.encode()
    spans = []
    for entry in table.entries.values():
        assert entry.keys() == {*KEYS}
        assert type(entry["shape"]) is type(entry["data_offsets"]) is list
        assert len(entry["shape"]) <= 64
        begin, end = entry["data_offsets"]
        for number in (*entry["shape"], begin, end):
            assert type(number) is int
            assert 0 <= number < 2**63
        assert 0 <= begin <= end <= room
        assert math.prod(entry["shape"]) * BITS[entry["dtype"]] == (end - begin) * 8
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        assert begin == at
        at = end
    assert at == room

    arrays = memfd.attach(fd, require=None)
    assert list(arrays) == list(said)
    for name, entry in said.items():
        if len(entry["shape"]) > NUMPY_DIMENSIONS:
            continue
        try:
            array = arrays[name]
        except TypeError:
            assert entry["dtype"] not in DTYPES
            continue
        assert array.dtype == np.dtype(DTYPES[entry["dtype"]])
        assert array.shape == (*entry["shape"],)
        begin, end = entry["data_offsets"]
        assert array.tobytes() == data[start + begin : start + end]


def check_object(data, layout, fd):
    """Compare what the parser says with the file; map it, and look at each buffer."""
    _, _, pickled, end, count = HEAD.unpack_from(data)
    places = [*PLACE.iter_unpack(data[end:])]
    assert len(places) == count
    assert layout == ((64, pickled), places)
    at = 64 + pickled
    for start, size in places:
        assert start % 64 == 0
        assert at <= start
        at = start + size
    assert at <= end <= len(data)

    memory = memoryview(memfd.Mapping(fd))
    for start, size in (layout.pickle, *layout.buffers):
        assert memory[start : start + size] == data[start : start + size]


# --- the lines of a parser ------------------------------------------------------------


def codes(module, name, found):
    """Collect the code of a function, and of all that it uses of its own module."""
    function = vars(module).get(name)
    if not isinstance(function, types.FunctionType) or function.__code__ in found:
        return found
    if function.__module__ == module.__name__:
        for code in with_inner(function.__code__):
            found.add(code)
            for used in code.co_names:
                codes(module, used, found)
    return found


def with_inner(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from with_inner(constant)


def lines_of(codes):
    return {
        (code, line)
        for code in codes
        for _, _, line in code.co_lines()
        if line is not None
    }


# --- all of it ------------------------------------------------------------------------

PARSERS = {
    "arrays": (
        arrays_file, arrays_past_lengths, _safetensors, "read_header", check_arrays
    ),
    "object": (
        object_file, object_past_lengths, _objects, "read_layout", check_object
    ),
}  # fmt: skip


class TooLongError(BaseException):
    """Nothing that a parser could take for its own."""


def too_long(*_):
    raise TooLongError


def left_over():
    with open("/proc/self/maps") as file:
        mapped = sum("/memfd:" in line for line in file)
    return len(os.listdir("/proc/self/fd")), mapped


def main():
    kind, seed, count, fd = sys.argv[1], *map(int, sys.argv[2:])
    make, is_past_lengths, module, name, check = PARSERS[kind]
    parse = getattr(module, name)
    parts = codes(module, name, set())
    ran = set()

    def trace(frame, event, argument):
        if frame.f_code not in parts:
            return None
        ran.add((frame.f_code, frame.f_lineno))
        return trace

    signal.signal(signal.SIGALRM, too_long)
    before = left_over()
    past = accepted = traced = 0
    for number in range(count):
        data, is_good = make(random.Random(seed << 32 | number))
        os.ftruncate(fd, len(data))
        os.pwrite(fd, data, 0)
        past += is_past_lengths(data)
        is_traced = number % EACH_TRACED == 0
        traced += is_traced
        signal.alarm(SECONDS)
        try:
            if is_traced:
                sys.settrace(trace)
            try:
                found = parse(fd, len(data))
            except ValueError:
                assert not is_good
                found = None
            finally:
                sys.settrace(None)
            if found is not None:
                accepted += 1
                assert is_past_lengths(data)
                check(data, found, fd)
            described = "arrays" if kind == "arrays" else "object"
            try:
                is_found = memfd.describe(fd).kind == described
            except ValueError:
                is_found = False
            assert is_found == (found is not None)
        except BaseException:
            print(f"seed {seed}, input {number}: {data.hex()}", file=sys.stderr)
            raise
        signal.alarm(0)
    assert left_over() == before, (before, left_over())

    lines = lines_of(parts)
    missed = sorted((code.co_name, line) for code, line in lines - ran)
    print(
        json.dumps(
            {
                "inputs": count,
                "past lengths": past,
                "accepted": accepted,
                "traced": traced,
                "lines": len(lines),
                "missed": missed,
            }
        )
    )


if __name__ == "__main__":
    main()

"""The targets of the fuzzer: all that reads what a peer can send.

Each hands its input to one parser, as a peer would, and knows by another way what is right:
from NumPy, from the package of safetensors, or from what the format says.
"""

import array
import ast
import atexit
import contextlib
import fcntl
import functools
import io
import itertools
import json
import math
import os
import pickletools
import queue
import re
import socket
import struct
import tempfile
import termios
import threading
import unicodedata
import warnings

import almost
import numpy as np
from harness import hostile

import memfd
from memfd import (
    _loan,
    _npy,
    _objects,
    _proc,
    _safetensors,
    _share,
    _shell,
    _table,
    _ticket,
)

try:
    import safetensors
except ImportError:
    safetensors = None

ALL = {}  # name -> target
WORDS = {}  # name -> what its inputs are made of, for the dictionary of the fuzzer
MENDERS = {}  # name -> what makes an input agree with the lengths in it


def target(*words, mend=None):
    """Register a target by its name."""

    def register(function):
        name = function.__name__
        ALL[name], WORDS[name] = function, words
        if mend is not None:
            MENDERS[name] = mend
        return function

    return register


def dictionary(name):
    """Return the words of a target, as libFuzzer reads them."""
    words = {
        word if isinstance(word, bytes) else word.encode("utf-8", "surrogatepass")
        for word in WORDS[name]
    }
    quoted = ["".join(f"\\x{byte:02x}" for byte in word) for word in sorted(words)]
    return "\n".join(f'"{word}"' for word in quoted)


def kept(file):
    """Keep a file until the end of the process."""
    atexit.register(file.close)
    return file


@contextlib.contextmanager
def quiet():
    """Let what is right warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_described(f, kind):
    """Tell whether `describe` finds this, with or without warnings."""
    try:
        return memfd.describe(f).kind == kind
    except ValueError:
        return False


# --- files of one array ---------------------------------------------------------------

_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
_NUMBERS = [str(number) for number in almost.NUMBERS]
_DESCRS = (
    "'<f8'", "'>i4'", "'|O'", "'|V8'", "'|S0'", "'<U3'", "'|b1'", "'<M8[ns]'", "'<m8'",
    "'<M8[25s]'", "[('a', '<i4'), ('b', '|u1')]", "('<f4', (2,))", "'<c16'", "'<g'",
    "[('a', '|V4'), ('', '|V4')]", "[(('t', 'n'), '<f4')]", "'<f8,<f8'", "'3i4'",
)  # fmt: skip
_LITERALS = (
    "(", ")", ",", "{", "}", "'", '"', "\\", "\\N{DASH}", "\\d", "True", "False", "None",
    "-1", "1j", "1e9", "10L", "0x7", "...", "b''", "set()", "()", "(0,)", "{}", "1_0",
    "'descr': ", "'fortran_order': ", "'shape': ", "'strides': ", "'offset': ",
)  # fmt: skip


def mend_npy(data):
    """Say how long the header is: to its last newline, or to the end."""
    if len(data) < 12 or data[6] not in _LENGTHS:
        return data
    form = _LENGTHS[data[6]]
    begin = 8 + struct.calcsize(form)
    end = data.rfind(b"\n", begin) + 1 or len(data)
    length = struct.pack(form, min(end - begin, 0xFFFF))
    return data[:8] + length + data[begin:]


@target(
    b"\x93NUMPY\1\0", b"\x93NUMPY\3\0", *_DESCRS, *_LITERALS, *_NUMBERS, mend=mend_npy
)
def npy(data):
    """A .npy file: what is accepted, NumPy reads as the same array."""
    if not data.startswith(b"\x93NUMPY"):
        with hostile(data) as f:
            assert not is_described(f, "array")
        return
    with hostile(data) as f:
        try:
            found = memfd.attach(f.fileno())
        except ValueError as error:
            assert not is_described(f, "array")
            check_refused(data, str(error))
            return
        with quiet():
            right = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        same_array(found, right)
        (part,) = memfd.describe(f).parts
        # What lies between the fields of records, NumPy does not read.
        content = data[part.offset : part.offset + part.size]
        assert found.tobytes("A") == content
        text = right.dtype.str if right.dtype.names is None else str(right.dtype)
        assert part[1:3] == (text, right.shape)
        assert part.size == right.nbytes
        # It can be written again.
        copy = memfd.share(found, mode="r+")
        again = memfd.attach(copy.memfd)
        same_array(again, right)
        assert again.tobytes("A") == content
        copy.memfd.close()
        found.memfd.close()


def same_array(found, right):
    assert found.dtype == right.dtype
    assert found.dtype.str == right.dtype.str
    assert found.shape == right.shape
    if right.size:
        assert found.flags.c_contiguous == right.flags.c_contiguous
        assert found.flags.f_contiguous == right.flags.f_contiguous


def check_refused(data, why):
    """What NumPy takes is refused for one of the reasons that are deliberate."""
    file = io.BytesIO(data)
    try:
        with quiet():
            version = np.lib.format.read_magic(file)
            if version == (3, 0):  # has no public function of its own
                return
            read = getattr(
                np.lib.format, f"read_array_header_{version[0]}_{version[1]}"
            )
            shape, _, dtype = read(file)
    except Exception:
        return
    length = file.tell()
    text = data[8 + struct.calcsize(_LENGTHS[data[6]]) : length].decode("latin1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            header = ast.literal_eval(text)
            np.lib.format.descr_to_dtype(header["descr"])
    except (SyntaxError, ValueError, Warning):
        return  # of Python 2, which NumPy repairs; or one of them warns
    if dtype.hasobject or dtype.subdtype is not None or dtype.itemsize == 0:
        return
    try:
        with quiet():
            descr = np.lib.format.dtype_to_descr(dtype)
            if np.lib.format.descr_to_dtype(descr) != dtype:
                return
            np.lib.stride_tricks.as_strided(
                np.empty((), dtype), shape, (0,) * len(shape)
            )
    except (ArithmeticError, TypeError, ValueError):
        return  # a type or a shape that no array has
    if len(shape) > almost.NUMPY_DIMENSIONS or any(number < 0 for number in shape):
        return
    assert math.prod(shape) * dtype.itemsize > len(data) - length, why


# --- views ----------------------------------------------------------------------------


@target(*_DESCRS, *_LITERALS, *_NUMBERS)
def view(data):
    """What a message says of a view: what is accepted lies in the memfd, as it says."""
    size = int.from_bytes(data[:2], "little") % 4097
    text = data[2:]
    content = bytes(i * 7 % 251 for i in range(size))
    with hostile(content) as f:
        try:
            found = _share.open_view(f, "r", text)
        except ValueError:
            return
        with quiet():
            told = ast.literal_eval(text.decode())
            dtype = np.lib.format.descr_to_dtype(told["descr"])
        shape, strides, offset = told["shape"], told["strides"], told["offset"]
        assert told.keys() == {"descr", "shape", "strides", "offset"}
        assert (found.dtype, found.shape) == (dtype, shape)
        assert not dtype.hasobject
        assert len(shape) == len(strides)
        assert 0 <= offset <= size
        assert found.nbytes <= size
        if 0 in shape:
            return
        assert found.strides == strides
        # Element by element, as the numbers say it: all of a small one, else the corners.
        small = found.size <= 64
        ranges = [range(n) if small else {0, n - 1} for n in shape]
        places = itertools.islice(itertools.product(*ranges), 64)
        for place in places:
            at = offset + sum(i * step for i, step in zip(place, strides, strict=True))
            assert 0 <= at <= size - dtype.itemsize
            element = found[place] if shape else found
            if dtype.itemsize == np.asarray(element).dtype.itemsize:
                one = np.lib.stride_tricks.as_strided(found[(*place, ...)], (1,), (0,))
                assert one.tobytes() == content[at : at + dtype.itemsize]
        again = _npy.view_text(found.dtype, found.shape, found.strides, offset)
        assert _npy.read_view(again, size) == (dtype, shape, strides, offset)


# --- files of many arrays -------------------------------------------------------------


def mend_arrays(data):
    """Say how long the header is, and have as many bytes after it as it says."""
    end = data.rfind(b"}") + 1
    if end < 9:
        return data
    text = data[8:end] + b" " * (-end % 8)
    said = data[8:end].replace(b"[", b" ").replace(b"]", b" ").replace(b",", b" ")
    numbers = [int(word) for word in said.split() if word.isdigit() and len(word) < 5]
    size = max(numbers, default=0)
    rest = (data[end:] + bytes(size))[:size]
    return struct.pack("<Q", len(text)) + text + rest


@target(
    *(f'"{name}"' for name in almost.BITS),
    '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',
    '"dtype":', '"shape":', '"data_offsets":', '"__metadata__":', '{"a":"b"}', "[]", "[0]",
    '"\\ud800"', "\\u0000", "1.0", "-1", "1e3", "NaN", "null", "true", "[[0]]",
    *_NUMBERS, mend=mend_arrays,
)  # fmt: skip
def arrays(data):
    """A safetensors file: what is accepted, the package of that name reads the same."""
    with hostile(data) as f:
        fd = f.fileno()
        try:
            table = _safetensors.read_header(fd, len(data))
        except ValueError as error:
            assert not is_described(f, "arrays")
            check_arrays_refused(data, str(error))
            return
        assert is_described(f, "arrays")
        almost.check_arrays(data, table, fd)
        if safetensors is None:
            return
        try:
            right = dict(safetensors.deserialize(data))
        except safetensors.SafetensorError as error:
            raise AssertionError(f"{error}: {table}") from error
        assert right.keys() == table.entries.keys()
        for name, entry in table.entries.items():
            begin, end = entry["data_offsets"]
            assert right[name]["shape"] == entry["shape"]
            assert right[name]["dtype"] == entry["dtype"]
            assert right[name]["data"] == data[table.start + begin : table.start + end]


def check_arrays_refused(data, why):
    """What the package of that name takes is refused for a reason that is deliberate."""
    if safetensors is None:
        return
    try:
        right = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return
    if data[8:9] != b"{":  # blanks, which the format does not allow
        return
    repeated = []

    def noted(pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            repeated.append(pairs)
        return found

    (length,) = struct.unpack_from("<Q", data)
    text = data[8 : 8 + length].decode()
    said = json.loads(text, object_pairs_hook=noted)
    metadata = said.pop("__metadata__", {})
    # It takes the last of several, more than there is to say, and null for nothing.
    if repeated or metadata is None:
        return
    if any(
        type(one) is not dict or one.keys() != {*almost.KEYS} for one in said.values()
    ):
        return
    # What NumPy does not allow.
    for _, entry in right:
        number = math.prod(number for number in entry["shape"] if number)
        size = number * almost.BITS[entry["dtype"]] // 8
        if len(entry["shape"]) > 64 or max(size, *entry["shape"], 0) > 2**63 - 1:
            return
    raise AssertionError(f"it is a safetensors file: {why}: {text}")


# --- files of an object ---------------------------------------------------------------

_PLAIN = {
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "APPEND", "APPENDS", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS", "MEMOIZE", "BINGET", "LONG_BINGET",
    "BINPUT", "LONG_BINPUT", "SHORT_BINBYTES", "SHORT_BINUNICODE", "BINUNICODE", "BINBYTES",
    "BINFLOAT", "NEXT_BUFFER", "READONLY_BUFFER", "POP", "DUP", "POP_MARK",
}  # fmt: skip


def mend_object(data):
    """Say where the table is: so many places from the end."""
    if len(data) < 64:
        return data
    magic, version, pickled, _, count = almost.HEAD.unpack_from(data)
    count = min(count, (len(data) - 64) // 16)
    end = len(data) - 16 * count
    pickled = min(pickled, end - 64)
    return almost.HEAD.pack(magic, version, pickled, end, count) + data[40:]


@target(
    b"\x93\r\nMFDOB",
    *(op.code.encode("latin1") for op in pickletools.opcodes if op.name in _PLAIN),
    *(struct.pack("<Q", number % 2**64)for number in almost.NUMBERS),
    mend=mend_object,
)  # fmt: skip
def dumped(data):
    """A dumped object: the layout; and a pickle in it that runs nothing."""
    with hostile(data) as f:
        fd = f.fileno()
        try:
            layout = _objects.read_layout(fd, len(data))
        except ValueError:
            assert not is_described(f, "object")
            return
        assert is_described(f, "object")
        almost.check_object(data, layout, fd)
        # A hostile pickle may do anything, which is documented; these cannot.
        if not is_plain(data[64 : 64 + layout.pickle[1]]):
            return
        try:
            found = memfd.load(fd)
        except Exception:
            return
        for buffer in buffers_in(found, 3):
            assert buffer.readonly
            size = buffer.nbytes
            assert any(
                size == length and buffer.tobytes() == data[start : start + length]
                for start, length in layout.buffers
            )


def is_plain(pickled):
    """Tell whether a pickle neither imports nor calls anything."""
    try:
        return all(op.name in _PLAIN for op, _, _ in pickletools.genops(pickled))
    except Exception:
        return False


def buffers_in(found, depth):
    if isinstance(found, memoryview):
        yield found
    elif isinstance(found, (list, tuple)) and depth:
        for one in found[:100]:
            yield from buffers_in(one, depth - 1)


# --- what a terminal shows ------------------------------------------------------------


@target(*WORDS["npy"], *WORDS["arrays"], b"\x93\r\nMFDOB", "\x1b[2J", "\u202e", b"\x9b")
def show(data):
    """Any file: what is said of it does nothing to a terminal, and is what attach says."""
    with hostile(data) as f:
        lines = list(_shell._contents(f.fileno()))
        for line in lines:
            assert line.isprintable(), line
        first = lines[0]
        # As it was just parsed, whether or not that warned.
        with quiet():
            try:
                kind = memfd.describe(f).kind
            except ValueError:
                kind = "damaged"
        beginnings = {
            "array": ".npy array of ", "arrays": "safetensors file, arrays: ",
            "object": "Python object: a pickle of ", "bytes": "bytes",
            "damaged": "damaged: ",
        }  # fmt: skip
        assert first.startswith(beginnings[kind])
        count = min(len(data), 100)
        dump = list(_shell._hexdump(f.fileno(), count))
        assert (
            b"".join(bytes.fromhex(line[10:58]) for line in dump[:-1]) == data[:count]
        )
        assert all(line.isascii() and line.isprintable() for line in dump)


@target(
    "\\012", "\n", "\r", " (deleted)", "/memfd:", "\\x1b", "\x1b[31m", "\x7f", "\u202e",
    "\ud800", "\u0301", "\u05d0", "7f0000000000-7f0000001000 rw-s 00000000 00:01 1 ", "\\",
)  # fmt: skip
def names(data):
    """The name of a memfd: the kernel's lists give it back, and escaped it is harmless."""
    name = data.replace(b"\0", b"")[:249]
    with memfd.create(name, 4096) as f:
        text = os.fsdecode(name)
        assert f.name == text
        status = os.fstat(f.fileno())
        place = status.st_dev, status.st_ino
        homes = _proc._homes()
        found = {}
        _proc._read_descriptors(
            found, os.getpid(), "/proc/self", [str(f.fileno())], homes
        )
        assert found.keys() == {place}
        assert found[place].name == text
        with memfd.Mapping(f) as mapping:
            with open("/proc/self/maps", "rb") as file:
                lines = file.read()
            found = {}
            _proc._read_mappings(found, os.getpid(), lines, homes)
            (holder,) = found[place].holders.values()
            (region,) = holder.regions
            assert (region.start, region.size) == (mapping.address, 4096)
            # Only what a privilege shows tells the two apart.
            assert found[place].name in (text, text.replace("\\012", "\n"))
    shown = _table.escaped(text)
    assert shown.isprintable()
    assert not any(unicodedata.category(c).startswith("M") for c in shown)
    assert unescaped(shown) == text
    assert len(_table.cut(shown, 20)) <= 20
    assert "\n" not in _table.word(text)


def unescaped(shown):
    """Return the text that was escaped."""

    def one(found):
        kind, digits = found[1][0], found[1][1:]
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        number = int(digits, 16)
        return chr(number + 0xDC00 if kind == "x" and number >= 0x80 else number)

    return _ESCAPED.sub(one, shown)


_ESCAPES = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = re.compile(r"\\(\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


# --- messages through sockets ---------------------------------------------------------

_KINDS = socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM
_FRAME = struct.Struct("<4sBBHI")  # as docs/sockets.md says it
_FILE = b"\xfeMFD\1\0\0\0\0\0\0\0"
_VIEW = b"\xfeMFD\1\1\0\0"
_MESSAGES = 4  # that one input is read as, at most


@functools.cache
def things():
    """Return what travels: a good array, good arrays, no seals, holes, no memfd."""
    unsealed = memfd.create("unsealed", 4096)
    sparse = memfd.create("sparse", 1 << 20)
    sparse.seal()
    array = memfd.share(np.arange(8.0)).memfd
    arrays = memfd.share({"x": np.arange(3), "y": np.zeros(2, "f4")}).memfd
    other = socket.socket(socket.AF_UNIX)
    return tuple(map(kept, (array, arrays, unsealed, sparse, other)))


def pieces_of(data):
    """Read an input as writes to a socket: each descriptors, and bytes."""
    at = 1
    while at < len(data) and at < 1 << 15:
        head = data[at]
        count, which, size = head & 3, head >> 2 & 7, data[at + 1 : at + 2]
        length = (size or b"\0")[0]
        # Most are short; a view can have ten thousand bytes.
        length = length * 64 if head & 0x20 else length
        piece = data[at + 2 : at + 2 + length]
        yield [things()[which % 5].fileno()] * (64 * (head >> 6) + count), piece
        at += 2 + length


@target(
    _FILE, _VIEW, b"\xfe", "x", "\1\x0c", "\5\x0c",
    "\0", "\2", "\x10\x27\0\0", *_DESCRS, *_LITERALS,
)  # fmt: skip
def message(data):
    """Writes to a socket: what is received was sent as docs/sockets.md says."""
    things()
    flags = data[0] if data else 0
    kind = _KINDS[flags % 3]
    receive = memfd.recv if flags & 4 else memfd.recv_array
    pieces = []
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        for fds, piece in itertools.islice(pieces_of(data), 16):
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            try:
                theirs.sendmsg([piece], [rights] if fds else [])
            except OSError:  # full, or too many descriptors
                break
            pieces.append((fds, piece))
        if flags & 8:
            theirs.shutdown(socket.SHUT_WR)
        good = good_messages(kind, pieces)
        for number in range(_MESSAGES):
            before = unread(ours)
            try:
                found = receive(ours)
            except (ValueError, EOFError, BlockingIOError) as error:
                if number < len(good) and (flags & 4 or good[number] == _FILE):
                    raise AssertionError(f"{good[number]!r} was refused") from error
                break
            f = found if flags & 4 else found.memfd
            with f:
                is_known = [same_file(f, thing) for thing in things()]
                # Sealed, dense, and an array where one was asked for.
                assert any(is_known[:2])
                assert f.seals & memfd.Seal.IMMUTABLE == memfd.Seal.IMMUTABLE
                assert not os.get_inheritable(f.fileno())
            if kind == socket.SOCK_STREAM:
                whole = b"".join(piece for _, piece in pieces)
                begin, end = len(whole) - before, len(whole) - unread(ours)
                assert is_frame(whole[begin:end])
                assert rights_between(pieces, begin, end) == 1
            elif number < len(pieces):
                assert is_frame(pieces[number][1])
                assert len(pieces[number][0]) == 1
            del found, f


def rights_between(pieces, begin, end):
    """Return how many descriptors came with these bytes of a stream."""
    found = at = 0
    for fds, piece in pieces:
        if at < end and at + len(piece) > max(begin, at):
            found += len(fds)
        at += len(piece)
    return found


def good_messages(kind, pieces):
    """Return the messages at the beginning that nobody could refuse as such."""
    good = []
    for fds, piece in pieces[:_MESSAGES]:
        if len(fds) != 1 or not any(fds[0] == one.fileno() for one in things()[:2]):
            break
        if not is_frame(piece):
            break
        good.append(piece)
    return good


def is_frame(data):
    """Tell whether these bytes are one message."""
    if len(data) == 1:
        return data != b"\xfe"
    if data[:8] == _FILE[:8]:
        return data == _FILE
    if data[:8] != _VIEW or len(data) < 12:
        return False
    (size,) = struct.unpack_from("<I", data, 8)
    return size == len(data) - 12 <= 10_000


def same_file(one, other):
    return os.path.sameopenfile(one.fileno(), other.fileno())


def unread(sock):
    """Return how many bytes wait in a socket."""
    number = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, number)
    return number[0]


# --- handing over ---------------------------------------------------------------------

_SLIP = struct.Struct("=16s5Q2q6i")  # as _loan.pyx has it
_FIELDS = (
    "boot", "number", "pipe_device", "pipe_inode", "device", "inode", "size", "modified",
    "pid", "pipe", "loan", "original", "access", "immutable",
)  # fmt: skip


class Bystanders:
    """A process that lends a memfd, and has what a slip must not lead to."""

    def __init__(self):
        self.lent = kept(memfd.from_bytes(b"lent" * 100, "lent"))
        self.other = kept(memfd.create("other"))
        self.other.write(b"other" * 100)
        self.named = kept(tempfile.TemporaryFile())
        self.named.write(b"named" * 100)
        self.named.flush()
        self.desk = _loan.Desk()
        self.loan = _loan.Loan(self.lent)
        self.loan_of_other = _loan.Loan(self.other)

    def slips(self):
        """Return an honest slip, and the fields of one for each other file."""
        _, honest = self.desk.write(self.loan, self.lent)
        _, other = self.desk.write(self.loan_of_other, self.other)
        fields = dict(zip(_FIELDS, _SLIP.unpack(honest), strict=True))
        others = dict(zip(_FIELDS, _SLIP.unpack(other), strict=True))
        status = os.fstat(self.named.fileno())
        named = (
            fields
            | dict.fromkeys(("device", "pipe_device"), status.st_dev)
            | dict.fromkeys(("inode", "pipe_inode"), status.st_ino)
        )
        named |= dict.fromkeys(("loan", "original", "pipe"), self.named.fileno())
        as_pipe = others | {
            "pipe_device": others["device"], "pipe_inode": others["inode"],
            "pipe": others["loan"],
        }  # fmt: skip
        return fields, (others, named, as_pipe)

    def contents(self):
        return [os.pread(file.fileno(), 4096, 0) for file in
                (self.lent, self.other, self.named)]  # fmt: skip


@functools.cache
def bystanders():
    return Bystanders()


@target(*(bytes([field, kind]) for field in range(14) for kind in range(5)))
def slip(data):
    """A slip, forged: it leads to the file that it names or to none, and changes none."""
    here = bystanders()
    here.desk.read({})
    fields, others = here.slips()
    before = here.contents()
    at = 0
    # The number of a field, what happens to it, and eight bytes for that.
    while at + 10 <= len(data):
        name = _FIELDS[data[at] % 14]
        kind = data[at + 1] % 5
        value = int.from_bytes(data[at + 2 : at + 10], "little", signed=True)
        at += 10
        if kind < 3:
            fields[name] = others[kind][name]
        elif name == "boot":
            fields[name] = (data[at - 8 : at] * 2)[:16]
        else:
            fields[name] = value if kind == 3 else fields[name] ^ value
    wide = {name: number for name, number in fields.items() if name != "boot"}
    for name, number in wide.items():
        bits = 32 if name in _FIELDS[8:] else 64
        number %= 1 << bits
        signed = name in _FIELDS[6:] and number >= 1 << bits - 1
        fields[name] = number - (1 << bits) if signed else number
    forged = _SLIP.pack(*fields.values())
    if at < len(data):
        forged = forged[: data[at]]
    is_whole = len(forged) == _SLIP.size

    said = _loan.file_of(forged)
    assert said is None or said == (
        fields["device"], fields["inode"], fields["immutable"] != 0
    )  # fmt: skip
    for file in (here.lent, here.other, here.named):
        status = os.fstat(file.fileno())
        is_meant = (status.st_dev, status.st_ino) == (fields["device"], fields["inode"])
        assert _loan.is_numbered(forged, file) == (is_whole and is_meant)
        assert is_meant or not _loan.is_of(forged, file)
    found = _loan.fetch(memfd.Memfd, forged)
    if found is not None:
        with found:
            status = os.fstat(found.fileno())
            assert (status.st_dev, status.st_ino) == said[:2]
            assert not os.get_inheritable(found.fileno())
    is_told = _loan.give_back(forged)
    assert is_whole or not (said or found or is_told)
    assert here.contents() == before
    numbers = {fields["number"]: "this"}
    got = here.desk.read(numbers)
    if is_told and fields["pipe_inode"] == os.fstat(here.desk.fileno()).st_ino:
        assert got == ["this"]
    # It is forgotten which pipe was written to last.
    honest, _ = here.slips()
    assert _loan.give_back(_SLIP.pack(*honest.values()))


@target(*(struct.pack("<Q", number) for number in range(4)))
def desk(data):
    """Numbers in the pipe of what was given back: only what they name is forgotten."""
    here = bystanders()
    fields, _ = here.slips()
    here.desk.read({})
    data = data[:4096]
    os.write(fields["pipe"], data)
    pending = {number: str(number) for number in range(4)}
    left = dict(pending)
    numbers = [number for (number,) in struct.iter_unpack("=Q", data[: len(data) & ~7])]
    assert here.desk.read(left) == [pending.pop(number, None) for number in numbers]
    assert left == pending


_SAID = (
    "#CHALLENGE#", "#WELCOME#", "#FAILURE#", "{sha256}", "{md5}", "\0\0\0\x14",
    "\0\0\1\0", "\0\0\0\x1f#CHALLENGE#{sha256}", "\0\0\0\x09#WELCOME#", "\0\0\0\x34",
    b"\xff\xff\xff\xff", b"\x80\0\0\0", "\0\0\0\x10",
)  # fmt: skip


@functools.cache
def sharer():
    """Return a sharer that answers only when it is told to, with one ticket."""

    class Sharer(_ticket.Sharer):
        def _serve(self):
            pass

    made = Sharer()
    here = bystanders()
    made.sent = []
    ticket = made.register(
        lambda connection, pid: made.sent.append(here.lent.fileno()), lambda: None
    )
    kept(made.listener)
    return made, ticket


@target(*_SAID)
def stranger(data):
    """Who asks the resource sharer without its key gets nothing, and takes nothing."""
    server, (address, number) = sharer()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        client.settimeout(60)
        client.sendall(data[:4096])
        client.shutdown(socket.SHUT_WR)
        try:
            server.answer()
        except Exception:  # which `_serve` passes over
            is_answered = False
        else:
            is_answered = True
        assert not is_answered
        with contextlib.suppress(ConnectionResetError):
            while True:
                said, rights, _, _ = client.recvmsg(4096, 4096)
                assert not rights
                if not said:
                    break
    assert not server.sent
    assert number in server._cache


@functools.cache
def squatted():
    """Return an address where somebody else listens now, and what he says."""
    listener = kept(socket.socket(socket.AF_UNIX))
    listener.bind(b"\0memfd-fuzzing-" + os.urandom(8).hex().encode())
    listener.listen()
    said, accepted = [], queue.SimpleQueue()

    def serve():
        while True:
            client, _ = listener.accept()
            # Who has heard enough may have hung up.
            with contextlib.suppress(OSError):
                client.sendall(said[0])
                client.shutdown(socket.SHUT_WR)
            accepted.put(client)

    threading.Thread(target=serve, daemon=True).start()
    return listener, said, accepted


@target(*_SAID)
def squatter(data):
    """Who took the address of a sender that is gone makes no other error than that."""
    listener, said, accepted = squatted()
    said[:] = [data[:4096]]
    ticket = listener.getsockname(), 1
    try:
        _ticket.redeem(ticket, "name")
    except ConnectionError:
        is_redeemed = False
    else:
        is_redeemed = True
    accepted.get().close()
    assert not is_redeemed

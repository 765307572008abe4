"""The operations of this package, each as a small program that can be done twice."""

import asyncio
import hashlib
import multiprocessing
import os
import pickle
import socket
import time
from multiprocessing import reduction
from types import SimpleNamespace

import numpy as np

import memfd
from memfd import _file, _handover, _proc, aio  # what is loaded late is loaded before

HUGE = 2 << 20
SEALED = memfd.Seal.IMMUTABLE | memfd.Seal.SEAL

OPERATIONS = {}


class Operation:
    """One operation: what it is given, what it does, and what is right.

    Attributes
    ----------
    covers : tuple of str
        The public names that it is about.
    given : callable
        Returns a namespace, made before anything fails.
    do : callable
        ``do(given)``: the operation.
    right : callable
        ``right(given, result)`` raises AssertionError where the result is wrong.
    repeat : callable
        Makes what `do` needs each time, such as a message to be received.
    may_leave : callable
        ``may_leave(before, after, now)``: whether a failure may leave this, besides
        what was and what should be.
    interrupted : callable
        ``interrupted(before, now)``: whether a signal handler that raises may leave this,
        for good.
    documented : list of tuple
        ``(call, exception)``, or the name of an errno: what may come of a failed call that
        is no OSError with its errno; "*" is any call.
    prepare, finish : callable
        What is kept for the whole process is made before the first look, and given back.
    threads : bool
        It starts threads, for which the C library keeps stacks.
    lasting : bool
        What it opens is for the whole process; memfds are not.
    unmaps : bool
        It is about munmap(2).
    hugetlb : bool
        It takes a page of 2 MiB from the pool.
    forked : tuple of str
        Exceptions that are right while another thread forks.
    """

    def __init__(
        self,
        name,
        do,
        covers,
        given=SimpleNamespace,
        right=lambda given, result: None,
        repeat=lambda given: None,
        may_leave=lambda before, after, now: False,
        interrupted=lambda before, now: False,
        documented=(),
        prepare=lambda: None,
        finish=lambda: None,
        threads=False,
        lasting=False,
        unmaps=False,
        hugetlb=False,
        forked=(),
    ):
        self.name, self.do, self.covers = name, do, covers
        self.given, self.right, self.repeat = given, right, repeat
        self.may_leave, self.interrupted = may_leave, interrupted
        self.documented = documented
        self.prepare, self.finish = prepare, finish
        self.threads, self.unmaps, self.forked = threads, unmaps, forked
        self.lasting, self.hugetlb = lasting, hugetlb


def operation(name, *covers, **how):
    """Enter a function into the table of operations."""

    def enter(do):
        assert name not in OPERATIONS
        OPERATIONS[name] = Operation(name, do, covers, **how)
        return do

    return enter


def warm():
    """Do all once, so that nothing has to be loaded any more."""
    for one in OPERATIONS.values():
        if one.hugetlb:
            continue  # maybe there is no page
        one.prepare()
        given = one.given()
        one.right(given, one.do(given))
        one.finish()
    f = file()
    with memfd.Mapping(f, "r+"):
        str(_file.busy(f))
    _proc.sharing_pids(0, 0)


def look(given):
    """Return what can be seen of what an operation was given, as JSON has it."""
    return {name: _look(value) for name, value in sorted(vars(given).items())}


def _look(x):
    if isinstance(x, memfd.Memfd):
        if x.closed:
            return ["Memfd", "closed"]
        with open(f"/proc/self/fd/{x.fileno()}", "rb", buffering=0) as own:
            hugetlb = os.fstat(own.fileno()).st_blksize > 4096
            contents = "" if hugetlb and not x.size else _hash(own.read())
        # What came reads from 0, and does not know yet from which position.
        place = 0 if x._foreign is True else x.tell()
        return ["Memfd", x.size, int(x.seals), contents, place]
    if isinstance(x, np.ndarray):
        memory = getattr(x, "memfd", None)
        return [
            type(x).__name__, _hash(x.tobytes()), x.flags.writeable,
            None if memory is None else _look_at_seals(memory),
        ]  # fmt: skip
    if isinstance(x, memfd.ArrayDict):
        return [
            {name: _look(array) for name, array in x.items()},
            None if x.memfd is None else _look_at_seals(x.memfd),
        ]
    if isinstance(x, memfd.Mapping):
        return ["Mapping", x.closed, x.mode, "" if x.closed else _hash(x)]
    if isinstance(x, memfd.BufferPool):
        return ["BufferPool", x.closed]
    return None


def _look_at_seals(f):
    return "closed" if f.closed else int(f.seals)


def _hash(data):
    return hashlib.sha256(data).hexdigest()[:16]


def file(size=8192, seals=0):
    """Return a memfd with a few bytes in it."""
    f = memfd.create("given", size)
    f.write(b"given")
    f.seek(0)
    if seals:
        f.seal(seals)
    return f


def numbers(count=1000):
    return np.arange(count, dtype=np.int32)


# --- the system call, as it is --------------------------------------------------------


def _right_descriptor(given, fd):
    assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:raw (deleted)"
    assert not os.get_inheritable(fd)
    os.close(fd)


@operation("memfd_create()", "memfd_create", right=_right_descriptor)
def _(given):
    return memfd.memfd_create("raw")


def _sealed_right(given, seals):
    assert seals & memfd.Seal.IMMUTABLE == memfd.Seal.IMMUTABLE


@operation(
    "add_seals()",
    "add_seals",
    given=lambda: SimpleNamespace(f=file()),
    right=_sealed_right,
)
def _(given):
    return memfd.add_seals(given.f, memfd.Seal.IMMUTABLE)


@operation(
    "get_seals()",
    "get_seals",
    given=lambda: SimpleNamespace(f=file(seals=SEALED)),
    right=_sealed_right,
)
def _(given):
    return memfd.get_seals(given.f)


@operation("set_size()", "set_size", given=lambda: SimpleNamespace(f=file()))
def _(given):
    memfd.set_size(given.f, 12288)


@operation(
    "get_size()",
    "get_size",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, size: _equal(size, 8192),
)
def _(given):
    return memfd.get_size(given.f)


def _equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


# --- the file -------------------------------------------------------------------------


def _created(size, seals=0, mode=0o644):
    def right(given, f):
        with f:
            assert f.size == size
            assert f.seals & 1 == seals
            assert os.fstat(f.fileno()).st_mode & 0o777 == mode
            assert f.name == "new"

    return right


@operation("create()", "create", right=_created(0))
def _(given):
    return memfd.create("new")


@operation("create(size=…)", "create", right=_created(8192))
def _(given):
    return memfd.create("new", 8192)


@operation("create(sealable=False)", "create", right=_created(5, 1))
def _(given):
    return memfd.create("new", 5, sealable=False)


@operation("create(executable=True)", "create", right=_created(0, mode=0o755))
def _(given):
    return memfd.create("new", executable=True)


@operation("create(inheritable=True)", "create", right=_created(0))
def _(given):
    return memfd.create("new", inheritable=True)


@operation("create(hugetlb=True)", "create", right=_created(HUGE))
def _(given):
    return memfd.create("new", HUGE, hugetlb=HUGE)


def _holds(data, seals=SEALED):
    def right(given, f):
        with f:
            assert f.seals & seals == seals
            assert f.tell() == 0
            assert f.read() == data

    return right


@operation("from_bytes()", "from_bytes", right=_holds(b"data"))
def _(given):
    return memfd.from_bytes(b"data", "bytes")


LARGE = bytes(range(256)) * (HUGE // 256) + b"rest"


@operation("from_bytes(), 2 MiB", "from_bytes", right=_holds(LARGE))
def _(given):
    return memfd.from_bytes(LARGE)


@operation('from_bytes(huge="always")', "from_bytes", right=_holds(LARGE))
def _(given):
    return memfd.from_bytes(LARGE, huge="always")


@operation('from_bytes(huge="never")', "from_bytes", right=_holds(LARGE))
def _(given):
    return memfd.from_bytes(LARGE, huge="never")


PARTS = LARGE * 17


@operation(
    "from_bytes(threads=2)", "from_bytes", right=_holds(PARTS), threads=True,
    documented=[("mmap of addresses", "RuntimeError")],
)  # fmt: skip
def _(given):
    return memfd.from_bytes(PARTS, threads=2)


@operation(
    "Memfd.seal()",
    "Memfd.seal",
    given=lambda: SimpleNamespace(f=file()),
    right=_sealed_right,
)
def _(given):
    return given.f.seal()


def _mapped_elsewhere():
    """A memfd that another process maps, too."""
    f = file()
    mapped = f.mmap("r+")
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    mapped.close()
    return SimpleNamespace(f=f, other=_Process(pid))


class _Process:
    def __init__(self, pid):
        self.pid = pid

    def __del__(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def _seal_refused(given):
    """Return who is in the way."""
    try:
        given.f.seal()
    except OSError as error:
        if error.errno == 16:
            return str(error)
        raise


def _right_refusal(given, text):
    assert text.startswith("[Errno 16]")
    assert str(given.other.pid) in text or "cannot be seen" in text


@operation(
    "Memfd.seal(), mapped elsewhere",
    "Memfd.seal",
    given=_mapped_elsewhere,
    right=_right_refusal,
)
def _(given):
    return _seal_refused(given)


@operation(
    "Memfd.seals, .size, .name",
    "Memfd.seals",
    "Memfd.size",
    "Memfd.name",
    given=lambda: SimpleNamespace(f=file(seals=SEALED)),
    right=lambda given, told: _equal(told, (memfd.Seal(15 | 32), 8192, "given")),
)
def _(given):
    return given.f.seals, given.f.size, given.f.name


def _unnamed():
    with file(seals=SEALED) as f:
        came = memfd.Memfd.from_fd(os.dup(f.fileno()), dense=False)
    return SimpleNamespace(f=came)


@operation(
    "Memfd.name, of what came",
    "Memfd.name",
    given=_unnamed,
    right=lambda given, name: _equal(name in ("given", ""), True),
)
def _(given):
    return given.f.name


@operation(
    "Memfd.truncate(), larger",
    "Memfd.truncate",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, size: _equal(size, 12288),
)
def _(given):
    return given.f.truncate(12288)


@operation(
    "Memfd.truncate(), smaller",
    "Memfd.truncate",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, size: _equal(size, 3),
)
def _(given):
    return given.f.truncate(3)


def _read_given():
    f = file(seals=SEALED)
    return SimpleNamespace(f=f)


def _again_from_0(given):
    given.f.seek(0)


@operation(
    "Memfd.read()",
    "Memfd.read",
    "Memfd.readall",
    given=_read_given,
    repeat=_again_from_0,
    right=lambda given, data: _equal(data, b"given" + bytes(8187)),
    # What was read before is lost with the exception, as with any file.
    may_leave=lambda before, after, now: now["f"][:4] == before["f"][:4],
)
def _(given):
    return given.f.read()


@operation(
    "Memfd.read(), of what came",
    "Memfd.read",
    "Memfd.readall",
    given=_unnamed,
    repeat=_again_from_0,
    right=lambda given, data: _equal(data, b"given" + bytes(8187)),
    may_leave=lambda before, after, now: now["f"][:4] == before["f"][:4],
)
def _(given):
    return given.f.read()


@operation(
    "Memfd.readinto(), of what came",
    "Memfd.readinto",
    given=_unnamed,
    repeat=_again_from_0,
    right=lambda given, data: _equal(data, b"giv"),
)
def _(given):
    buffer = bytearray(3)
    given.f.readinto(buffer)
    return bytes(buffer)


@operation(
    "Memfd.readline(), .readlines()",
    "Memfd.readline",
    "Memfd.readlines",
    given=_read_given,
    repeat=_again_from_0,
    right=lambda given, line: _equal(line, b"giv"),
    may_leave=lambda before, after, now: now["f"][:4] == before["f"][:4],
)
def _(given):
    return given.f.readline(3)


@operation(
    "Memfd.seek(), .tell()",
    "Memfd.seek",
    "Memfd.seekable",
    "Memfd.tell",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, place: _equal(place, (5, 5)),
)
def _(given):
    return given.f.seek(5), given.f.tell()


@operation(
    "Memfd.seek(), of what came",
    "Memfd.seek",
    "Memfd.tell",
    given=_unnamed,
    right=lambda given, place: _equal(place, (8190, 8190)),
)
def _(given):
    return given.f.seek(-2, os.SEEK_END), given.f.tell()


def _partly_written(before, after, now):
    """Some of what fits may be written, and the position is behind it."""
    return now["f"][0] == "Memfd" and before["f"][1] <= now["f"][1] <= after["f"][1]


@operation(
    "Memfd.write()",
    "Memfd.write",
    "Memfd.writelines",
    given=lambda: SimpleNamespace(f=file()),
    repeat=_again_from_0,
    right=lambda given, size: _equal(size, 4),
)
def _(given):
    return given.f.write(b"data")


@operation(
    "Memfd.write(), 2 MiB",
    "Memfd.write",
    given=lambda: SimpleNamespace(f=memfd.create("given")),
    repeat=_again_from_0,
    right=lambda given, size: _equal(size, len(LARGE)),
    may_leave=_partly_written,
)
def _(given):
    return given.f.write(LARGE)


def _came_writable():
    with file() as f:
        came = memfd.Memfd.from_fd(os.dup(f.fileno()), require=None)
    return SimpleNamespace(f=came)


@operation(
    "Memfd.write(), of what came",
    "Memfd.write",
    given=_came_writable,
    repeat=_again_from_0,
    right=lambda given, size: _equal(size, 4),
)
def _(given):
    return given.f.write(b"data")


@operation(
    "Memfd.reopen()",
    "Memfd.reopen",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, f: _right_reopened(f),
)
def _(given):
    return given.f.reopen("r+")


def _right_reopened(f):
    with f:
        assert f.read(5) == b"given"
        assert f.writable()
        assert f.name == "given"


@operation(
    "Memfd.close()",
    "Memfd.close",
    given=lambda: SimpleNamespace(f=file()),
)
def _(given):
    given.f.close()


@operation(
    "Memfd.info()",
    "Memfd.info",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, info: _equal(tuple(info)[:2], (8192, 4096)),
)
def _(given):
    return given.f.info()


@operation(
    "Memfd.info(), 2 MiB",
    "Memfd.info",
    given=lambda: SimpleNamespace(f=memfd.from_bytes(LARGE, huge="always")),
    right=lambda given, info: _equal(info[0], len(LARGE)),
)
def _(given):
    return given.f.info()


@operation("repr()", given=lambda: SimpleNamespace(f=file()))
def _(given):
    return repr(given.f)


# --- what comes from elsewhere --------------------------------------------------------


def _right_adopted(given, f):
    with f:
        assert f.read(4) == b"\0\1\2\3"
        assert f.name in ("sent", "")  # /proc may hide it
        assert not os.get_inheritable(f.fileno())


class _Fd:
    """A descriptor that is still the caller's until it is adopted."""

    def __init__(self, fd):
        self.fd = fd

    def __del__(self):
        if self.fd is not None:
            os.close(self.fd)


def _came_unowned(make):
    def given():
        f = make()
        return SimpleNamespace(f=f, own=_Fd(os.dup(f.fileno())))

    return given


def _adopt(given, **how):
    f = memfd.Memfd.from_fd(given.own.fd, **how)
    given.own.fd = None
    return f


def _sent():
    return memfd.from_bytes(bytes(range(256)) * 16, "sent")


# It cannot be told whether it has holes.
MAYBE_HOLES = [("openat", "ValueError"), ("lseek", "ValueError")]


@operation(
    "Memfd.from_fd()",
    "Memfd.from_fd",
    given=_came_unowned(_sent),
    right=_right_adopted,
    documented=[*MAYBE_HOLES, ("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return _adopt(given)


@operation(
    "Memfd.from_fd(require=None)",
    "Memfd.from_fd",
    given=_came_unowned(_sent),
    right=_right_adopted,
    documented=[("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return _adopt(given, require=None)


def _unsealed():
    f = memfd.create("sent")
    f.write(bytes(range(256)) * 16)
    return f


@operation(
    "Memfd.from_fd(copy=True)",
    "Memfd.from_fd",
    given=_came_unowned(_unsealed),
    right=_right_adopted,
    documented=[*MAYBE_HOLES, ("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return _adopt(given, copy=True, dense=False)


# --- memory ---------------------------------------------------------------------------


def _right_mapping(given, mapping):
    with mapping:
        assert bytes(memoryview(mapping)[:5]) == b"given"


def _mapping(mode, size, seals=0):
    @operation(
        f'Mapping(mode="{mode}"), {size} bytes',
        "Mapping",
        given=lambda: SimpleNamespace(f=file(size, seals)),
        right=_right_mapping,
    )
    def _(given):
        return memfd.Mapping(given.f, mode)


for _mode in ("r", "r+", "c"):
    for _size in (8192, 2 * HUGE + 4096):
        _mapping(_mode, _size)


def _hugetlb():
    f = memfd.create("given", HUGE, hugetlb=HUGE)
    with memfd.Mapping(f, "r+") as mapping:
        memoryview(mapping)[:5] = b"given"
    f.seal()
    return SimpleNamespace(f=f)


@operation(
    "Mapping(), hugetlb",
    "Mapping",
    given=_hugetlb,
    right=_right_mapping,
    hugetlb=True,
    # The other way takes pages of the pool, and there is only one.
    documented=[("*", "ENOMEM")],
)
def _(given):
    return memfd.Mapping(given.f)


@operation(
    "Mapping.close()",
    "Mapping.close",
    given=lambda: SimpleNamespace(mapping=memfd.Mapping(file(), "r+")),
)
def _(given):
    given.mapping.close()


@operation(
    "Memfd.mmap()",
    "Memfd.mmap",
    given=lambda: SimpleNamespace(f=file()),
    right=_right_mapping,
)
def _(given):
    return given.f.mmap("r+")


@operation(
    "map()",
    "map",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, address: memfd.unmap(address, 8192),
)
def _(given):
    return memfd.map(given.f, 8192)


class _Mapped:
    def __init__(self):
        self.address = memfd.map(file(), 8192)

    def unmap(self):
        memfd.unmap(self.address, 8192)
        self.address = None

    def __del__(self):
        if self.address is not None:
            self.unmap()


def _map_anew(given):
    if given.mapped.address is None:
        given.mapped = _Mapped()


@operation(
    "unmap()",
    "unmap",
    given=lambda: SimpleNamespace(mapped=_Mapped()),
    repeat=_map_anew,
    unmaps=True,
)
def _(given):
    given.mapped.unmap()


# --- arrays ---------------------------------------------------------------------------


def _right_array(wanted, seals=SEALED):
    def right(given, array):
        assert type(array) is memfd.Array
        assert np.array_equal(array, wanted)
        assert array.memfd.seals & seals == seals

    return right


@operation("share()", "share", right=_right_array(numbers()))
def _(given):
    return memfd.share(numbers())


@operation('share(mode="r+")', "share", right=_right_array(numbers(), 6))
def _(given):
    return memfd.share(numbers(), mode="r+")


BIG = numbers(HUGE // 4 + 5)


@operation("share(), 2 MiB", "share", right=_right_array(BIG))
def _(given):
    return memfd.share(BIG)


@operation('share(huge="always")', "share", right=_right_array(BIG))
def _(given):
    return memfd.share(BIG, huge="always")


@operation("share(), strided, 2 MiB", "share", right=_right_array(BIG[::2]))
def _(given):
    return memfd.share(BIG[::2])


MANY = {"x": numbers(), "y": BIG}


def _right_arrays(given, arrays):
    assert type(arrays) is memfd.ArrayDict
    for name, array in MANY.items():
        assert np.array_equal(arrays[name], array)
    assert arrays.memfd.seals & 6


@operation("share() of a dict", "share", "ArrayDict", right=_right_arrays)
def _(given):
    return memfd.share(MANY)


@operation(
    'share(mode="r+") of an ArrayDict',
    "share",
    "ArrayDict",
    given=lambda: SimpleNamespace(arrays=memfd.share(MANY)),
    right=_right_arrays,
)
def _(given):
    return memfd.share(given.arrays, mode="r+")


@operation(
    "share() of what is immutable",
    "share",
    given=lambda: SimpleNamespace(array=memfd.share(numbers())),
    right=_right_array(numbers()),
)
def _(given):
    return memfd.share(given.array)


ZEROS = np.zeros(1000)


@operation("empty()", "empty", "zeros", right=_right_array(ZEROS, 6))
def _(given):
    return memfd.empty(1000)


@operation(
    "empty(populate=True), 2 MiB",
    "empty",
    "zeros",
    "empty_like",
    "zeros_like",
    right=_right_array(np.zeros(BIG.shape), 6),
)
def _(given):
    return memfd.empty_like(BIG, float, populate=True)


@operation("full()", "full", "full_like", right=_right_array(np.full(1000, 7.0), 6))
def _(given):
    return memfd.full(1000, 7.0)


def _attaching(mode, size):
    @operation(
        f'attach(mode="{mode}"), {size} bytes',
        "attach",
        given=lambda: SimpleNamespace(
            f=memfd.share(numbers(size // 4), mode="r+").memfd
        ),
        right=_right_array(numbers(size // 4), 6),
    )
    def _(given):
        return memfd.attach(given.f, mode)


for _mode in ("r", "r+", "c"):
    _attaching(_mode, 4000)
_attaching("r", HUGE)


@operation(
    "attach() of a descriptor",
    "attach",
    given=lambda: SimpleNamespace(f=memfd.share(numbers()).memfd),
    right=_right_array(numbers()),
    documented=[("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return memfd.attach(given.f.fileno())


@operation(
    "attach() of a path",
    "attach",
    given=lambda: SimpleNamespace(f=memfd.share(numbers()).memfd),
    right=_right_array(numbers()),
    documented=[("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return memfd.attach(given.f.path)


@operation(
    "attach() of an Array",
    "attach",
    given=lambda: SimpleNamespace(array=memfd.share(numbers())),
    right=_right_array(numbers()),
)
def _(given):
    return memfd.attach(given.array, "c")


@operation(
    "attach() of an ArrayDict",
    "attach",
    "ArrayDict",
    given=lambda: SimpleNamespace(f=memfd.share(MANY).memfd),
    right=_right_arrays,
)
def _(given):
    return memfd.attach(given.f)


def _writable(array):
    def given():
        a = memfd.share(array, mode="r+")
        return SimpleNamespace(a=a)

    return given


def _frozen(before, now):
    """Sealed already: the array goes on alone, as those do that were frozen."""
    if isinstance(now["a"][0], dict):
        return now["a"][1] is None
    return now["a"][:2] == before["a"][:2] and now["a"][3] is None


# A child has what was writable while it was forked, until it ends.
FORKED = ("OSError", "BufferError")


@operation(
    "freeze()",
    "freeze",
    given=_writable(numbers()),
    right=_right_array(numbers()),
    forked=FORKED,
    interrupted=_frozen,
)
def _(given):
    return memfd.freeze(given.a)


@operation(
    "freeze(), 2 MiB",
    "freeze",
    given=_writable(BIG),
    right=_right_array(BIG),
    forked=FORKED,
    interrupted=_frozen,
)
def _(given):
    return memfd.freeze(given.a)


@operation(
    "freeze() of an ArrayDict",
    "freeze",
    "ArrayDict",
    given=_writable(MANY),
    right=_right_arrays,
    forked=FORKED,
    interrupted=_frozen,
)
def _(given):
    return memfd.freeze(given.a)


@operation(
    "freeze(copy=True)",
    "freeze",
    given=_writable(numbers()),
    right=_right_array(numbers()),
)
def _(given):
    return memfd.freeze(given.a, copy=True)


# --- objects --------------------------------------------------------------------------

THING = {"numbers": numbers(), "text": "text"}


def _right_thing(given, thing):
    assert thing["text"] == "text"
    assert np.array_equal(thing["numbers"], numbers())


def _right_dump(given, f):
    with f:
        _right_thing(given, memfd.load(f))


@operation("dump()", "dump", right=_right_dump)
def _(given):
    return memfd.dump(THING)


def _right_large(given, f):
    with f:
        assert np.array_equal(memfd.load(f), BIG)


@operation("dump(), 2 MiB", "dump", right=_right_large)
def _(given):
    return memfd.dump(BIG)


@operation(
    "load()",
    "load",
    given=lambda: SimpleNamespace(f=memfd.dump(THING)),
    right=_right_thing,
)
def _(given):
    return memfd.load(given.f)


@operation(
    "load() of a descriptor",
    "load",
    given=lambda: SimpleNamespace(f=memfd.dump(THING)),
    right=_right_thing,
    documented=[("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return memfd.load(given.f.fileno())


@operation(
    "describe()",
    "describe",
    given=lambda: SimpleNamespace(f=memfd.share(MANY).memfd),
    right=lambda given, found: _equal(found.kind, "arrays"),
)
def _(given):
    return memfd.describe(given.f)


# --- sockets --------------------------------------------------------------------------


class _Ends:
    """Two sockets, with a deadline; one message is on its way, or none."""

    def __init__(self, kind=socket.SOCK_STREAM):
        self.kind = kind
        self.open()

    def open(self):
        self.here, self.there = socket.socketpair(socket.AF_UNIX, self.kind)
        self.here.settimeout(10)
        self.there.settimeout(10)

    def __del__(self):
        self.here.close()
        self.there.close()


def _ends(item, is_sent, kind=socket.SOCK_STREAM):
    def given():
        ends = _Ends(kind)
        made = item()
        if is_sent:
            memfd.send(ends.here, made)
        return SimpleNamespace(item=made, ends=ends)

    return given


def _send_again(given):
    # After an error the rest of a stream means nothing.
    given.ends = _Ends(given.ends.kind)
    memfd.send(given.ends.here, given.item)


def _right_received(given, f):
    with f:
        assert f.read(4) == b"\0\1\2\3"
        assert not os.get_inheritable(f.fileno())


def _right_sent(given, result):
    _right_received(given, memfd.recv(given.ends.there))


RECEIVED = [("fcntl F_GET_SEALS", "ValueError"), *MAYBE_HOLES]


@operation("send()", "send", given=_ends(_sent, False), right=_right_sent)
def _(given):
    memfd.send(given.ends.here, given.item)


def _right_view_sent(given, result):
    assert np.array_equal(memfd.recv_array(given.ends.there), numbers()[::3])


def _view():
    return memfd.share(numbers())[::3]


@operation(
    "send() of a view", "send", given=_ends(_view, False), right=_right_view_sent
)
def _(given):
    memfd.send(given.ends.here, given.item)


@operation(
    "recv()",
    "recv",
    given=_ends(_sent, True),
    repeat=_send_again,
    right=_right_received,
    documented=RECEIVED,
)
def _(given):
    return memfd.recv(given.ends.there)


@operation(
    "recv(), seqpacket",
    "recv",
    given=_ends(_sent, True, socket.SOCK_SEQPACKET),
    repeat=_send_again,
    right=_right_received,
    documented=RECEIVED,
)
def _(given):
    return memfd.recv(given.ends.there)


@operation(
    "recv(copy=True)",
    "recv",
    given=_ends(_unsealed, True),
    repeat=_send_again,
    right=_right_received,
    documented=RECEIVED,
)
def _(given):
    return memfd.recv(given.ends.there, copy=True, dense=False)


@operation(
    "recv() of a socket, refused",
    "recv",
    given=lambda: _ends_with_a_socket(),
    repeat=lambda given: _send_socket(given),
    right=lambda given, text: _equal("is not a memfd" in text, True),
    threads=True,
)
def _(given):
    try:
        memfd.recv(given.ends.there)
    except ValueError as error:
        return str(error)


def _ends_with_a_socket():
    given = SimpleNamespace(ends=_Ends())
    _send_socket(given)
    return given


def _send_socket(given):
    given.ends = _Ends()
    with socket.socket(socket.AF_UNIX) as one:
        socket.send_fds(given.ends.here, [b"x"], [one.fileno()])


@operation(
    "recv_array()",
    "recv_array",
    given=_ends(_view, True),
    repeat=_send_again,
    right=lambda given, array: _right_array(numbers()[::3])(given, array),
    documented=RECEIVED,
)
def _(given):
    return memfd.recv_array(given.ends.there)


class _Loop:
    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.run(asyncio.sleep(0))

    def run(self, steps):
        return self.loop.run_until_complete(steps)

    def __del__(self):
        self.loop.close()


def _with_loop(given):
    def make():
        made = given()
        made.loop = _Loop()
        made.ends.here.settimeout(0)
        made.ends.there.settimeout(0)
        return made

    return make


def _send_to_loop(given):
    _send_again(given)
    given.loop = _Loop()
    given.ends.here.settimeout(0)
    given.ends.there.settimeout(0)


def _right_sent_at_once(given, result):
    given.ends.there.settimeout(10)
    _right_sent(given, result)


def _fresh_loop(given):
    given.loop = _Loop()


@operation(
    "aio.send()",
    "aio.send",
    given=_with_loop(_ends(_sent, False)),
    repeat=_fresh_loop,
    right=_right_sent_at_once,
)
def _(given):
    given.loop.run(aio.send(given.ends.here, given.item))


@operation(
    "aio.recv()",
    "aio.recv",
    given=_with_loop(_ends(_sent, True)),
    repeat=_send_to_loop,
    right=_right_received,
    documented=RECEIVED,
)
def _(given):
    return given.loop.run(aio.recv(given.ends.there))


@operation(
    "aio.recv_array()",
    "aio.recv_array",
    given=_with_loop(_ends(_view, True)),
    repeat=_send_to_loop,
    right=lambda given, array: _right_array(numbers()[::3])(given, array),
    documented=RECEIVED,
)
def _(given):
    return given.loop.run(aio.recv_array(given.ends.there))


# --- reuse ----------------------------------------------------------------------------


@operation(
    "BufferPool()",
    "BufferPool",
    right=lambda given, pool: pool.close(),
)
def _(given):
    return memfd.BufferPool()


def _pool(filled=0):
    def given():
        pool = memfd.BufferPool()
        for _ in range(filled):
            pool.put(numbers())
        return SimpleNamespace(pool=pool)

    return given


def _right_pooled(wanted):
    def right(given, array):
        assert np.array_equal(array, wanted)
        assert given.pool.put(wanted) is not array

    return right


# Without memory EFAULT or ENOMEM comes, and ENOMEM is what is told.
POOL = [("madvise MADV_POPULATE_WRITE", "ENOMEM")]


@operation(
    "BufferPool.put(), the first",
    "BufferPool.put",
    given=_pool(),
    documented=POOL,
    right=_right_pooled(numbers()),
)
def _(given):
    return given.pool.put(numbers())


@operation(
    "BufferPool.put(), a block again",
    "BufferPool.put",
    given=_pool(1),
    right=_right_pooled(numbers()),
)
def _(given):
    return given.pool.put(numbers())


@operation(
    "BufferPool.put(), 2 MiB",
    "BufferPool.put",
    given=_pool(),
    documented=POOL,
    right=_right_pooled(BIG),
)
def _(given):
    return given.pool.put(BIG)


@operation(
    "BufferPool.empty()",
    "BufferPool.empty",
    given=_pool(),
    documented=POOL,
    right=_right_pooled(ZEROS),
)
def _(given):
    return given.pool.empty(1000)


def _full_pool():
    pool = memfd.BufferPool(max_blocks=1, when_full="wait", timeout=0.01)
    return SimpleNamespace(pool=pool, array=pool.put(numbers()))


def _right_timeout(given, what):
    _equal(what, "TimeoutError")


@operation(
    'BufferPool(when_full="wait").put()',
    "BufferPool.put",
    given=_full_pool,
    right=_right_timeout,
)
def _(given):
    try:
        given.pool.put(numbers())
    except TimeoutError as error:
        if "was full" in str(error):
            return "TimeoutError"
        raise


@operation(
    "BufferPool.trim()",
    "BufferPool.trim",
    given=_pool(1),
    right=lambda given, size: _equal(size in (0, 4000), True),
)
def _(given):
    return given.pool.trim()


@operation(
    "BufferPool.stats()",
    "BufferPool.stats",
    given=_pool(1),
    right=lambda given, stats: _equal(tuple(stats)[:2], (1, 4000)),
)
def _(given):
    return given.pool.stats()


@operation("BufferPool.close()", "BufferPool.close", given=_pool(1))
def _(given):
    given.pool.close()


def _pooled():
    pool = memfd.BufferPool()
    return SimpleNamespace(pool=pool, kept=SimpleNamespace(array=pool.put(numbers())))


@operation(
    "Array.memfd, in a pool",
    "Array.memfd",
    given=_pooled,
    right=lambda given, f: _equal(f.name, "int32[1000]"),
)
def _(given):
    return given.kept.array.memfd


# --- multiprocessing ------------------------------------------------------------------


def _open_desk():
    """Have what a process needs that has sent something."""
    here, there = multiprocessing.Pipe()
    with here, there:
        here.send(memfd.from_bytes(b"warm"))
        there.recv().close()
    memfd.pending()


def _forget_sent():
    for number in list(_handover._pending):
        _handover._forget(number)


def _forget_all():
    _forget_sent()
    # A receiver keeps the pipe of the sender that was read last.
    _open_desk()


def _pickled(item):
    def given():
        made = item()
        return SimpleNamespace(
            item=made, kept=SimpleNamespace(data=reduction.ForkingPickler.dumps(made))
        )

    return given


def _pickle_again(given):
    given.kept.data = reduction.ForkingPickler.dumps(given.item)


HANDOVER = {"prepare": _open_desk, "finish": _forget_all, "threads": True}


@operation(
    "pickling a Memfd for a process",
    "pending",
    given=lambda: SimpleNamespace(item=_sent()),
    right=lambda given, data: _right_received(given, pickle.loads(data)),
    **HANDOVER,
)
def _(given):
    return reduction.ForkingPickler.dumps(given.item)


@operation(
    "pickling an Array for a process",
    "pending",
    given=lambda: SimpleNamespace(item=_view()),
    right=lambda given, data: _equal(
        np.array_equal(pickle.loads(data), numbers()[::3]), True
    ),
    **HANDOVER,
)
def _(given):
    return reduction.ForkingPickler.dumps(given.item)


@operation(
    "unpickling a Memfd in a process",
    "pending",
    given=_pickled(_sent),
    repeat=_pickle_again,
    right=_right_received,
    **HANDOVER,
)
def _(given):
    return pickle.loads(given.kept.data)


@operation(
    "unpickling an Array in a process",
    "pending",
    given=_pickled(lambda: memfd.share(numbers(), mode="r+")),
    repeat=_pickle_again,
    right=_right_array(numbers(), 6),
    **HANDOVER,
)
def _(given):
    return pickle.loads(given.kept.data)


@operation(
    "unpickling an ArrayDict in a process",
    "pending",
    given=_pickled(lambda: memfd.share(MANY, mode="r+")),
    repeat=_pickle_again,
    right=_right_arrays,
    **HANDOVER,
)
def _(given):
    return pickle.loads(given.kept.data)


@operation(
    "the first message of a process",
    "pending",
    given=lambda: SimpleNamespace(item=_sent()),
    right=lambda given, data: _right_received(given, pickle.loads(data)),
    finish=lambda: _forget_sent(),
    threads=True,
    lasting=True,
)
def _(given):
    return reduction.ForkingPickler.dumps(given.item)


@operation(
    "pending()",
    "pending",
    given=_pickled(_sent),
    right=lambda given, count: _equal(count, 1),
    **HANDOVER,
)
def _(given):
    return memfd.pending()


# --- the machine ----------------------------------------------------------------------


def _right_listing(given, listing):
    assert isinstance(listing["memfds"], list)


@operation(
    "ls()",
    "ls",
    given=lambda: SimpleNamespace(f=file()),
    right=_right_listing,
    # Where /proc names nobody, there is nobody.
    documented=[("getdents64", "ProcessLookupError")],
)
def _(given):
    return memfd.ls([os.getpid()])


# --- no system call -------------------------------------------------------------------

# Public names that make none, and how each is used.
NO_CALLS = {
    "Array": lambda given: memfd.Array,
    "Memfd": lambda given: memfd.Memfd,
    "Seal": lambda given: memfd.Seal.WRITE | memfd.Seal.GROW,
    "SealError": lambda given: memfd.SealError("text", memfd.Seal(1), memfd.Seal(0)),
    "__version__": lambda given: memfd.__version__,
    "get_include": lambda given: memfd.get_include(),
    "Memfd.closed": lambda given: given.f.closed,
    "Memfd.closefd": lambda given: given.f.closefd,
    "Memfd.fileno": lambda given: given.f.fileno(),
    "Memfd.flush": lambda given: given.f.flush(),
    "Memfd.isatty": lambda given: given.f.isatty(),  # ioctl(2), which is not ours
    "Memfd.mode": lambda given: given.f.mode,
    "Memfd.path": lambda given: given.f.path,
    "Memfd.readable": lambda given: given.f.readable(),
    "Memfd.writable": lambda given: given.f.writable(),
    "Mapping.address": lambda given: given.mapping.address,
    "Mapping.closed": lambda given: given.mapping.closed,
    "Mapping.mode": lambda given: given.mapping.mode,
    "Mapping.offset": lambda given: given.mapping.offset,
    "Mapping.size": lambda given: given.mapping.size,
    "ArrayDict.get": lambda given: given.arrays.get("x"),
    "ArrayDict.items": lambda given: list(given.arrays.items()),
    "ArrayDict.keys": lambda given: list(given.arrays.keys()),
    "ArrayDict.memfd": lambda given: given.arrays.memfd,
    "ArrayDict.metadata": lambda given: given.arrays.metadata,
    "ArrayDict.nbytes": lambda given: given.arrays.nbytes,
    "ArrayDict.values": lambda given: list(given.arrays.values()),
    "BufferPool.closed": lambda given: given.pool.closed,
    "BufferPool.reuses": lambda given: given.pool.reuses,
}


@operation(
    "names that make no system call",
    *NO_CALLS,
    given=lambda: SimpleNamespace(
        f=file(),
        mapping=memfd.Mapping(file()),
        arrays=memfd.share(MANY),
        pool=memfd.BufferPool(),
    ),
)
def _(given):
    for use in NO_CALLS.values():
        use(given)

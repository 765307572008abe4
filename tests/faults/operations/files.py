"""The file: memfds that are made, written, sealed and read."""

import os
import time
from types import SimpleNamespace

import memfd

from .operation import HUGE, SEALED, equal, file, operation
from .system_calls import sealed_right


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
    right=sealed_right,
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
    right=lambda given, told: equal(told, (memfd.Seal(15 | 32), 8192, "given")),
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
    right=lambda given, name: equal(name in ("given", ""), True),
)
def _(given):
    return given.f.name


@operation(
    "Memfd.truncate(), larger",
    "Memfd.truncate",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, size: equal(size, 12288),
)
def _(given):
    return given.f.truncate(12288)


@operation(
    "Memfd.truncate(), smaller",
    "Memfd.truncate",
    given=lambda: SimpleNamespace(f=file()),
    right=lambda given, size: equal(size, 3),
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
    right=lambda given, data: equal(data, b"given" + bytes(8187)),
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
    right=lambda given, data: equal(data, b"given" + bytes(8187)),
    may_leave=lambda before, after, now: now["f"][:4] == before["f"][:4],
)
def _(given):
    return given.f.read()


@operation(
    "Memfd.readinto(), of what came",
    "Memfd.readinto",
    given=_unnamed,
    repeat=_again_from_0,
    right=lambda given, data: equal(data, b"giv"),
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
    right=lambda given, line: equal(line, b"giv"),
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
    right=lambda given, place: equal(place, (5, 5)),
)
def _(given):
    return given.f.seek(5), given.f.tell()


@operation(
    "Memfd.seek(), of what came",
    "Memfd.seek",
    "Memfd.tell",
    given=_unnamed,
    right=lambda given, place: equal(place, (8190, 8190)),
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
    right=lambda given, size: equal(size, 4),
)
def _(given):
    return given.f.write(b"data")


@operation(
    "Memfd.write(), 2 MiB",
    "Memfd.write",
    given=lambda: SimpleNamespace(f=memfd.create("given")),
    repeat=_again_from_0,
    right=lambda given, size: equal(size, len(LARGE)),
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
    right=lambda given, size: equal(size, 4),
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
    right=lambda given, info: equal(tuple(info)[:2], (8192, 4096)),
)
def _(given):
    return given.f.info()


@operation(
    "Memfd.info(), 2 MiB",
    "Memfd.info",
    given=lambda: SimpleNamespace(f=memfd.from_bytes(LARGE, huge="always")),
    right=lambda given, info: equal(info[0], len(LARGE)),
)
def _(given):
    return given.f.info()


@operation("repr()", given=lambda: SimpleNamespace(f=file()))
def _(given):
    return repr(given.f)

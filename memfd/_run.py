"""What `memfd run` does: give a program files that exist in memory only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import resource
import select
import shutil
import signal
import stat
import sys

from memfd import _core, _file, _limits
from memfd._table import escaped

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

    from memfd._file import Memfd

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as of shells
_STEP = 1 << 20
_PLACE = re.compile(r"\{\{(\d*)\}\}|\{(\d*)\}")
# Above those that scripts use for their own files.
_NUMBERS = 100, 10, 3
# Bits of /proc/self/coredump_filter: mappings that are shared, and private ones of files.
_MAPPED = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 8
_IGNORED = signal.SIGPIPE, signal.SIGXFSZ
_SECRET_CORE = 1  # bytes; 0 would still be piped to a program that collects cores


class CommandError(Exception):
    """The command cannot be executed: an exit status, and why."""


def run(arguments: argparse.Namespace) -> NoReturn:
    """Run `memfd run`: become the command.

    Raises
    ------
    ValueError
        A place in the command for which there is no input.
    OSError
        An input cannot be read, or memory does not suffice for it.
    CommandError
        There is no such command, or it cannot be executed.
    """
    sources = arguments.sources or [("input", "-")]
    command = arguments.command
    check(command, sources)
    _look_for(command[0])
    if arguments.secret:
        _stay_out_of_cores()
    files = []
    for kind, source in sources:
        name = arguments.name if arguments.name is not None else _name(kind, source)
        files.append(_filled(kind, source, name, arguments))
    paths = [_handed_down(file) for file in files]
    command = [placed(argument, paths) for argument in command]
    _restore_environment()
    # Python ignores these, and what is ignored stays so in the command.
    for number in _IGNORED:  # guard: signals -> for number in ():
        signal.signal(number, signal.SIG_DFL)
    _execute(command)


def check(command: list[str], sources: list[tuple[str, str]]) -> None:
    """Check that there is an input for each place in the command."""
    if not command:
        raise ValueError("no command; for example: memfd run -- unzip -l {}")
    if sources.count(("input", "-")) > 1:
        raise ValueError("standard input can be read only once")
    for part in command:
        for found in _PLACE.finditer(part):
            if found[2] == "" and len(sources) > 1:
                raise ValueError(
                    "{} could be any of several inputs: write {0}, {1} and so on"
                )
            if found[2] and int(found[2]) >= len(sources):
                raise ValueError(f"there is no input for {found[0]}: 0 is the first")


def placed(argument: str, paths: list[str]) -> str:
    """Return an argument with a path at each ``{}`` and ``{N}``; ``{{}}`` stands for {}."""

    def one(found: re.Match[str]) -> str:
        if found[2] is None:
            return f"{{{found[1]}}}"
        return paths[int(found[2] or 0)]

    return _PLACE.sub(one, argument)


def _name(kind: str, source: str) -> str:
    if kind == "input" and source == "-":
        return "stdin"
    return os.path.basename(source) if kind == "input" else source


def _filled(kind: str, source: str, name: str, arguments: argparse.Namespace) -> Memfd:
    """Return a memfd that holds what a source gives."""
    encoded = os.fsencode(name)
    if arguments.name is None:
        encoded = encoded[: _core.NAME_MAX]
    f = _file.create(encoded)
    try:
        os.fchmod(f.fileno(), stat.S_IRUSR | stat.S_IWUSR)  # guard: mode
        if kind == "env":
            _take_variable(f, source, arguments.secret)
        else:
            _read_all(f, source, arguments.secret)
        f.seek(0)
        if not arguments.writable:
            f.seal()  # guard: sealed input -> pass
    except BaseException:
        f.close()
        raise
    return f


def _take_variable(f: Memfd, name: str, secret: bool) -> None:
    """Write the value of an environment variable, and take it out of the environment."""
    value = os.environb.pop(os.fsencode(name), None)
    if value is None:
        raise OSError(errno.ENOENT, f"there is no environment variable {escaped(name)}")
    f.write(value)
    if secret:
        with contextlib.suppress(OSError, ValueError):  # /proc is not there
            _overwrite_environment(os.fsencode(name))


def _overwrite_environment(name: bytes) -> None:
    """Overwrite a value where the kernel put it, and /proc/self/environ shows it."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    begin, end = int(fields[47]), int(fields[48])  # env_start and env_end, proc(5)
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        text = b"\0" + memory.read(end - begin)
        # Whoever started this may have given it twice.
        for found in re.finditer(b"\0" + re.escape(name) + b"=([^\0]*)", text):
            memory.seek(begin + found.start(1) - 1)
            memory.write(b"*" * len(found[1]))  # guard: secret in the environment


def _read_all(f: Memfd, source: str, secret: bool) -> None:
    """Write what a file or standard input gives, to its end."""
    if source == "-":
        if sys.stdin is None:  # and 0 may be a file of ours by now
            raise OSError(errno.EBADF, "standard input is closed")
        opened = 0
    else:
        try:
            opened = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            raise OSError(error.errno, f"{escaped(source)}: {error.strerror}") from None
    try:
        _copy(f, opened, source, secret)
    finally:
        if opened:
            os.close(opened)


def _copy(f: Memfd, source: int, name: str, secret: bool) -> None:
    what = "standard input" if name == "-" else escaped(name)
    # Before the last of it is gone somebody would be killed for it.
    limit = _limits.memory_left() * 9 // 10
    # A mapping, since what is freed of another kind may be kept, and stay as it is.
    buffer = mmap.mmap(-1, _STEP)
    if secret:
        buffer.madvise(mmap.MADV_DONTDUMP)
    done = 0
    try:
        size = _size_of(source)
        while got := _read(source, buffer):
            done += got
            if max(done, size) > limit:
                raise OSError(
                    errno.ENOMEM,
                    f"it is larger than {_file.readable(limit)}, which is what may be "
                    "taken of memory",
                )
            with memoryview(buffer) as view, view[:got] as piece:
                f.write(piece)
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror}") from None
    finally:
        if secret:
            buffer[:] = bytes(_STEP)  # guard: secret in memory -> pass


def _size_of(source: int) -> int:
    """Return how many bytes are still to come, as far as that is known."""
    try:
        return os.fstat(source).st_size - os.lseek(source, 0, os.SEEK_CUR)
    except OSError:  # a pipe
        return 0


def _read(source: int, buffer: mmap.mmap) -> int:
    while True:
        try:
            return os.readv(source, [buffer])
        except BlockingIOError:  # somebody who shares it does not want to wait
            select.select([source], [], [])


def _stay_out_of_cores() -> None:
    """Have neither this process nor the command write a core with the secret in it."""
    with contextlib.suppress(OSError, ValueError):  # it is 0, and may not be raised
        resource.setrlimit(resource.RLIMIT_CORE, (_SECRET_CORE, _SECRET_CORE))
    # As far as the command raises its limit, which root may.
    path = "/proc/self/coredump_filter"
    with contextlib.suppress(OSError), open(path, "r+") as file:
        bits = int(file.read(), 16)
        file.seek(0)
        file.write(hex(bits & ~_MAPPED))


def _handed_down(f: Memfd) -> str:
    """Have the command inherit a memfd, and return its path, for grandchildren, too."""
    for least in _NUMBERS:
        try:
            number = fcntl.fcntl(f.fileno(), fcntl.F_DUPFD, least)
        except OSError as error:
            if least == _NUMBERS[-1] or error.errno not in (errno.EINVAL, errno.EMFILE):
                raise
        else:
            break
    f.close()
    try:
        # As /proc has it, which may be that of another pid namespace.
        path = f"/proc/{os.readlink('/proc/self')}/fd/{number}"
        is_there = os.path.samestat(os.stat(path), os.fstat(number))
    except OSError:
        is_there = False
    if not is_there:
        raise OSError(errno.ENOENT, "/proc is not there, or not that of this process")
    return path


def _restore_environment() -> None:
    """Take away what Python itself has set where the locale was C (PEP 538)."""
    with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as file:
        if not (b"\0" + file.read()).count(b"\0LC_CTYPE="):
            os.environ.pop("LC_CTYPE", None)


def _look_for(program: str) -> None:
    """Refuse a program that cannot be executed, before the input is read."""
    if _PLACE.search(program):
        return
    paths = [program]
    if "/" not in program:
        paths = [os.path.join(folder, program) for folder in os.get_exec_path()]
    codes = list(map(_obstacle, paths))
    if 0 not in codes:
        others = [code for code in codes if code not in (errno.ENOENT, errno.ENOTDIR)]
        if "/" in program:
            others = codes
        _refuse(program, others[0] if others else errno.ENOENT)


def _obstacle(path: str) -> int:
    """Return the errno that executing a file will give, as far as can be told."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.errno or errno.ENOENT
    return 0 if stat.S_ISREG(mode) and os.access(path, os.X_OK) else errno.EACCES


def _execute(command: list[str]) -> NoReturn:
    """Become the command, as execvp(3) does it, scripts without a first line included."""
    try:
        os.execvp(command[0], command)
    except OSError as error:
        code = error.errno
    if code == errno.ENOEXEC:
        path = shutil.which(command[0]) or command[0]
        try:
            os.execv("/bin/sh", ["sh", path, *command[1:]])
        except OSError as error:
            code = error.errno
    _refuse(command[0], code)


def _refuse(program: str, code: int | None) -> NoReturn:
    """End as shells do when a program cannot be executed."""
    is_missing = code == errno.ENOENT
    reason = os.strerror(code or 0)
    if is_missing:
        exists = "/" in program and os.path.exists(program)
        reason = "its interpreter is missing" if exists else "command not found"
    raise CommandError(
        NOT_FOUND if is_missing else NOT_EXECUTABLE, f"{escaped(program)}: {reason}"
    )

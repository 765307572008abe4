"""The work of `memfd demo`: one array, three ways to give it to worker processes.

Each way runs in a process of its own, which starts the workers: what kills a peer, as a
small /dev/shm does, ends that process only, and its exit code tells.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import re
import resource
import secrets
import signal
import stat
import sys
import tempfile
import time
import traceback
import typing
import zlib
from multiprocessing import resource_tracker, shared_memory

import numpy as np
from numpy.lib import format as npy

from memfd import _npy, share
from memfd._file import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from typing import IO, Any, TypeAlias

    import numpy.typing as npt

    Results: TypeAlias = dict[str, "Cost | str"]
    Pipe: TypeAlias = Connection[Any, Any]
    Worker: TypeAlias = tuple[BaseProcess, Pipe]

WAYS = ("memfd", "pickle", "shared_memory")
_LABELS = (
    "copy in",
    "hand over + checksum",
    "total",
    "memory in all processes",
    "checksums equal",
)
_COLUMNS = 80

_spawn = multiprocessing.get_context("spawn")


class Cost(typing.NamedTuple):
    """What one way took, and how many workers saw the right data."""

    copy_in: float | None  # seconds; None: there is no such step
    hand_over: float
    memory: int | None  # bytes; None: /proc does not show it
    equal: int
    workers: int

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return (self.copy_in or 0) + self.hand_over


def run(file: str | None, size: int, workers: int) -> int:
    """Compare the ways with the array in `file`, or one of `size` bytes; print a table."""
    try:
        dtype, shape = (
            (np.dtype(float), (size // 8,)) if file is None else describe(file)
        )
    except Exception as error:  # whatever a broken header makes the parsers raise
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        print(f"memfd demo: {file}: {reason}", file=sys.stderr)
        return 2
    # It tries the folder with a file of its own, which an interrupt could leave there.
    tempfile.gettempdir()
    print(
        f"{readable(math.prod(shape) * dtype.itemsize)}, "
        f"{dtype.name}[{','.join(map(str, shape))}], workers: {workers} (spawn), "
        f"cores: {len(os.sched_getaffinity(0))}\n",
        flush=True,
    )
    source = size if file is None else file
    results, errors = {}, {}
    for way in WAYS:
        results[way], errors[way] = _run_alone(way, source, workers)
    print(table(results))
    if isinstance(results["memfd"], str):
        print(errors["memfd"], end="", file=sys.stderr)
    for way in WAYS:
        if _is_wrong(results[way]):
            print(f"memfd demo: wrong checksum: {way}", file=sys.stderr)
    return exit_code(results)


def describe(file: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return dtype and shape of a .npy file that memfd.share() takes, or raise."""
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    with open(file, "rb") as opened:
        if opened.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
            raise ValueError("not a .npy file")
        opened.seek(0)
        # NumPy's reader knows object arrays, so that share()'s own words refuse them;
        # ours then finds everything else that is wrong, such as missing data.
        old = npy.read_magic(opened) == (1, 0)
        read = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
        shape, fortran_order, dtype = read(opened)
        _npy.header(dtype, shape, fortran_order)
        dtype, shape, *_ = _npy.read_header(opened.fileno(), status.st_size)
    return dtype, shape


def checksum(array: npt.NDArray[Any]) -> int:
    """Return the CRC-32 of a contiguous array of any type, in its order in memory."""
    if not (array.dtype.isnative or array.dtype.names):
        # NumPy unpickles such an array in native byte order: the same, in other bytes.
        array = array.astype(array.dtype.newbyteorder("="))
    return zlib.crc32(_bytes(array))


def _bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the memory of a contiguous array of any type as bytes, without a copy."""
    return array.ravel(order="K").view(np.uint8)


def exit_code(results: Results) -> int:
    """Return 1 where the memfd way failed or any way gave other data, else 0."""
    failed = isinstance(results["memfd"], str)
    return int(failed or any(_is_wrong(result) for result in results.values()))


def table(results: Results) -> str:
    """Return the lines to print, of costs and of what went wrong."""
    width = max(map(len, _LABELS))
    columns = [[label.ljust(width) for label in ("", *_LABELS)]]
    for way, result in results.items():
        column = [way, *_cells(result)]
        columns.append([cell.rjust(max(map(len, column))) for cell in column])
    lines = ["  ".join(row) for row in zip(*columns, strict=True)]
    for way, result in results.items():
        if isinstance(result, str):
            line = f"{way.ljust(width)}  {result}"
            lines.append(
                line if len(line) <= _COLUMNS else line[: _COLUMNS - 3] + "..."
            )
    return "\n".join([*lines, *_comparison(results["memfd"], results["pickle"])])


def _is_wrong(result: Cost | str) -> bool:
    """Tell whether some worker saw other data than the source has."""
    return not isinstance(result, str) and result.equal != result.workers


def _cells(result: Cost | str) -> list[str]:
    """Return the cells of one way, in the order of the labels."""
    if isinstance(result, str):
        return ["-"] * len(_LABELS)
    return [
        "-" if result.copy_in is None else _seconds(result.copy_in),
        _seconds(result.hand_over),
        _seconds(result.total),
        "unreadable" if result.memory is None else readable(result.memory),
        f"{result.equal} of {result.workers}",
    ]


def _seconds(seconds: float) -> str:
    """Return a duration as a person would write it."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _comparison(ours: Cost | str, theirs: Cost | str) -> list[str]:
    """Return the last lines: how many times faster and smaller, as far as measured."""
    if isinstance(ours, str) or isinstance(theirs, str):
        return []
    ratio = theirs.total / ours.total
    word = "faster" if ratio >= 1 else "slower"
    line = f"memfd is {max(ratio, 1 / ratio):.1f} times {word} than pickle"
    if ours.memory and theirs.memory:
        ratio = theirs.memory / ours.memory
        word = "less" if ratio >= 1 else "more"
        line += f" and takes {max(ratio, 1 / ratio):.1f} times {word} memory"
    return ["", line]


def _run_alone(way: str, source: str | int, workers: int) -> tuple[Cost | str, str]:
    """Run one way in a child; return its Cost or how it died, and what it said."""
    name = f"memfd-demo-{secrets.token_hex(8)}"
    result = None
    with tempfile.TemporaryFile() as errors:
        receiver, sender = _spawn.Pipe(duplex=False)
        child = _spawn.Process(target=_child, args=(way, source, workers, name, sender))
        try:
            with _stderr_to(errors):
                child.start()
            sender.close()
            with contextlib.suppress(EOFError):  # it died, and its exit code says how
                result = receiver.recv()
            child.join()
            if child.exitcode or result is None:
                result = _death(way, child.exitcode or 0)
        finally:
            sender.close()
            receiver.close()
            if child.is_alive():  # interrupted; its workers end with it
                child.terminate()
                child.join(5)
                child.kill()
                child.join()
            with contextlib.suppress(FileNotFoundError):  # else it died before it could
                os.unlink(f"/dev/shm/{name}")
                resource_tracker.unregister(f"/{name}", "shared_memory")
        errors.seek(0)
        return result, errors.read().decode(errors="replace")


@contextlib.contextmanager
def _stderr_to(file: IO[bytes]) -> Iterator[None]:
    """Let processes that are started here, and multiprocessing's tracker, write there."""
    saved = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _death(way: str | None, code: int) -> str:
    """Say how a process died."""
    if code >= 0:
        return f"ended with exit code {code}"
    death = f"killed by {signal.Signals(-code).name}"
    if way == "shared_memory" and -code == signal.SIGBUS:
        status = os.statvfs("/dev/shm")
        death += f": /dev/shm is {readable(status.f_frsize * status.f_blocks)}"
    return death


def _child(way: str, source: str | int, workers: int, name: str, sender: Pipe) -> None:
    """Send the Cost of one way, or why there is none; the child begins here."""
    # Ctrl-C reaches all processes of a terminal: the parent decides, with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A peer that dies as expected should not fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sender.send(_measure(way, source, workers, name))
    except Exception as error:
        traceback.print_exc()
        sender.send(" ".join(f"{type(error).__name__}: {error}".split()))


def _measure(way: str, source: str | int, workers: int, name: str) -> Cost:
    """Hand the array to all workers and return the Cost."""
    team = [_start() for _ in range(workers)]
    _ask(team, "ready?")
    before = _memory(team)
    if isinstance(source, int):
        array = np.random.default_rng(0).random(source // 8)
    else:
        array = np.load(source, allow_pickle=False)
    expected = checksum(array)
    block = None
    item: Any
    try:
        start = time.perf_counter()
        if way == "memfd":
            item = share(array)
        elif way == "pickle":
            item = array
        else:
            block = shared_memory.SharedMemory(name, True, max(array.nbytes, 1))
            memory: Any = block.buf
            np.copyto(np.frombuffer(memory, np.uint8, array.nbytes), _bytes(array))
            order = "C" if array.flags.c_contiguous else "F"
            item = block, array.dtype, array.shape, order
        copy_in = None if way == "pickle" else time.perf_counter() - start
        del array
        start = time.perf_counter()
        answers = _ask(team, item)
        hand_over = time.perf_counter() - start
        after = _memory(team)
        for _, pipe in team:
            pipe.close()
        for worker, _ in team:
            worker.join()
    finally:
        if block is not None:
            block.close()
            block.unlink()
    taken = None if before is None or after is None else max(after - before, 0)
    return Cost(copy_in, hand_over, taken, answers.count(expected), workers)


def _start() -> Worker:
    """Start one worker; return it and the pipe to it."""
    pipe, theirs = _spawn.Pipe()
    # A daemon ends with its parent; where that is killed, the pipe's end ends it.
    worker = _spawn.Process(target=_work, args=(theirs,), daemon=True)
    worker.start()
    theirs.close()
    return worker, pipe


def _ask(team: list[Worker], item: Any) -> list[Any]:
    """Send something to all workers and return their answers."""
    try:
        for _, pipe in team:
            pipe.send(item)
        return [pipe.recv() for _, pipe in team]
    except (EOFError, BrokenPipeError, ConnectionResetError):
        for _, pipe in team:
            pipe.close()
        for worker, _ in team:
            worker.join()
        code = next((worker.exitcode for worker, _ in team if worker.exitcode), 0)
        raise RuntimeError(f"worker {_death(None, code)}") from None


def _work(pipe: Pipe) -> None:
    """Compute the checksum of one array and keep it until the pipe is closed."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(pipe.recv())  # ready: all is imported
        item = pipe.recv()
        array, block = item, None
        if isinstance(item, tuple):
            block, dtype, shape, order = item
            array = np.ndarray(shape, dtype, block.buf, order=order)
        pipe.send(checksum(array))
        with contextlib.suppress(EOFError):
            pipe.recv()
        del array
        if block is not None:
            block.close()


def _memory(team: list[Worker]) -> int | None:
    """Return the PSS of this process and the workers, or None where /proc hides it.

    Of data alone: what each takes of the libraries depends on who else has them open.
    """
    total = 0
    for pid in (os.getpid(), *(worker.pid for worker, _ in team)):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                kinds = re.findall(
                    r"^Pss_(?:Anon|Shmem): +(\d+) kB$", file.read(), re.M
                )
        except OSError:
            return None
        if not kinds:  # Linux before 5.4
            return None
        total += sum(map(int, kinds))
    return total * 1024

"""Pool: memory that is used again, against new memory and against a plain copy."""

import contextlib
import functools
import time

import numpy as np
from report import bytes_of
from rounds import batched
from workers import PATIENCE, read, spawn, telling_death

import memfd


def serve(pipe):
    """Read every byte of each array, drop it and say so; the main of a reader."""
    with contextlib.suppress(EOFError):
        while True:
            array = pipe.recv()
            read(array)
            del array
            pipe.send(None)


class Readers:
    """Processes that run, and read what they are given."""

    def __init__(self, count):
        self._members = []
        for _ in range(count):
            pipe, theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, pipe))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, pipe in self._members:
            pipe.close()
            process.join(5)
            process.kill()
            process.join()

    def show(self, array):
        """Return when all have read the array and dropped it."""
        for process, pipe in self._members:
            with telling_death(process):
                pipe.send(array)
        for process, pipe in self._members:
            if not pipe.poll(PATIENCE):
                raise TimeoutError(f"a reader did not answer for {PATIENCE} s")
            with telling_death(process):
                pipe.recv()


def pool(run):
    """Put an array into a BufferPool, whose memory was used before"""
    size = (16 if run.quick else 256) << 20
    array = run.array(size)
    target = np.ones_like(array)
    with Readers(2) as readers, memfd.BufferPool() as buffers:

        def way(put):
            start = time.perf_counter()
            put_array = put(array)
            seconds = time.perf_counter() - start
            readers.show(put_array)
            return seconds

        ways = {
            "memfd.BufferPool": functools.partial(way, buffers.put),
            "memfd.share": functools.partial(way, memfd.share),
            "limit: np.copyto": batched(lambda: np.copyto(target, array)),
        }
        base, group = "memfd.share", f"{bytes_of(size)}, two readers"
        run.measure("pool", group, ways, base, size=size, budget=60)
    with memfd.BufferPool() as buffers:
        for size in (1 << 20, 64 << 10):
            array = run.array(size)
            ways = {
                "memfd.BufferPool": batched(functools.partial(buffers.put, array)),
                "memfd.share": batched(functools.partial(memfd.share, array)),
                "limit: np.copyto": batched(
                    functools.partial(np.copyto, target[: size // 8], array)
                ),
            }
            run.measure("pool", bytes_of(size), ways, base, size=size, budget=10)

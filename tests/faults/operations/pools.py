"""Memory that is used again."""

from types import SimpleNamespace

import numpy as np

import memfd

from .arrays import BIG, ZEROS
from .operation import equal, numbers, operation


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
    equal(what, "TimeoutError")


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
    right=lambda given, size: equal(size in (0, 4000), True),
)
def _(given):
    return given.pool.trim()


@operation(
    "BufferPool.stats()",
    "BufferPool.stats",
    given=_pool(1),
    right=lambda given, stats: equal(tuple(stats)[:2], (1, 4000)),
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
    right=lambda given, f: equal(f.name, "int32[1000]"),
)
def _(given):
    return given.kept.array.memfd

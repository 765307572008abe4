"""Objects in one memfd."""

from types import SimpleNamespace

import numpy as np

import memfd

from .arrays import BIG, MANY
from .operation import equal, numbers, operation

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
    right=lambda given, found: equal(found.kind, "arrays"),
)
def _(given):
    return memfd.describe(given.f)

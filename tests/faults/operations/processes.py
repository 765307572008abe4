"""What multiprocessing passes on."""

import multiprocessing
import pickle
from multiprocessing import reduction
from types import SimpleNamespace

import numpy as np

import memfd
from memfd import _handover

from .adopted import sent
from .arrays import MANY, right_array, right_arrays
from .operation import equal, numbers, operation
from .sockets import right_received, view


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
    given=lambda: SimpleNamespace(item=sent()),
    right=lambda given, data: right_received(given, pickle.loads(data)),
    **HANDOVER,
)
def _(given):
    return reduction.ForkingPickler.dumps(given.item)


@operation(
    "pickling an Array for a process",
    "pending",
    given=lambda: SimpleNamespace(item=view()),
    right=lambda given, data: equal(
        np.array_equal(pickle.loads(data), numbers()[::3]), True
    ),
    **HANDOVER,
)
def _(given):
    return reduction.ForkingPickler.dumps(given.item)


@operation(
    "unpickling a Memfd in a process",
    "pending",
    given=_pickled(sent),
    repeat=_pickle_again,
    right=right_received,
    **HANDOVER,
)
def _(given):
    return pickle.loads(given.kept.data)


@operation(
    "unpickling an Array in a process",
    "pending",
    given=_pickled(lambda: memfd.share(numbers(), mode="r+")),
    repeat=_pickle_again,
    right=right_array(numbers(), 6),
    **HANDOVER,
)
def _(given):
    return pickle.loads(given.kept.data)


@operation(
    "unpickling an ArrayDict in a process",
    "pending",
    given=_pickled(lambda: memfd.share(MANY, mode="r+")),
    repeat=_pickle_again,
    right=right_arrays,
    **HANDOVER,
)
def _(given):
    return pickle.loads(given.kept.data)


@operation(
    "the first message of a process",
    "pending",
    given=lambda: SimpleNamespace(item=sent()),
    right=lambda given, data: right_received(given, pickle.loads(data)),
    finish=lambda: _forget_sent(),
    threads=True,
    lasting=True,
)
def _(given):
    return reduction.ForkingPickler.dumps(given.item)


@operation(
    "pending()",
    "pending",
    given=_pickled(sent),
    right=lambda given, count: equal(count, 1),
    **HANDOVER,
)
def _(given):
    return memfd.pending()

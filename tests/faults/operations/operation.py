"""What an operation is, and what can be seen of what it was given."""

import hashlib
import os
from types import SimpleNamespace

import numpy as np

import memfd
from memfd import _file, _proc

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


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"

"""A program for test_reduction.py: one start method, one import order, all channels.

    python transport.py START_METHOD memfd|multiprocessing proc|ticket

With ``ticket`` no process can open what another has: all goes through tickets.

It sends each kind of object to another process and back through each channel, and prints
one JSON object: "channel kind" -> "ok" or what went wrong.
"""

import sys

if sys.argv[2] == "memfd":
    import memfd

    import multiprocessing  # isort: skip
else:
    import multiprocessing
    import multiprocessing.reduction

    import memfd

import json
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from memfd import _loan

if sys.argv[3] == "ticket":
    _loan.fetch = lambda cls, slip: None

KINDS = ("array", "view", "r+ array", "ArrayDict", "Memfd")
CHANNELS = (
    "Process argument", "Queue", "SimpleQueue", "Pipe", "Pool", "ProcessPoolExecutor",
)  # fmt: skip


def make(kind):
    if kind == "array":
        return memfd.share(np.arange(1000.0).reshape(10, 100))
    if kind == "view":
        return memfd.share(np.arange(1000.0).reshape(10, 100))[::-2, 3::7]
    if kind == "r+ array":
        a = memfd.zeros((10, 100))
        a[:] = 5
        return a
    if kind == "ArrayDict":
        return memfd.share({"x": np.arange(6.0).reshape(2, 3), "y": np.ones(9, "i2")})
    return memfd.from_bytes(b"contents", "sent")


def answer(x):
    """Run in the other process: say what arrived, and send it back."""
    if isinstance(x, memfd.Memfd):
        what = (x.name, x.read(), x.fileno() > 2, os.get_inheritable(x.fileno()))
    elif isinstance(x, memfd.ArrayDict):
        what = {name: array.tolist() for name, array in x.items()}
    else:
        same_file = np.load(x.memfd.path, mmap_mode="r").nbytes
        what = (type(x).__name__, x.tolist(), x.strides, x.flags.writeable, same_file)
        if x.flags.writeable:
            x[0, 0] = 77
    return os.getpid(), what, x


def compare(kind, sent, other, what, back):
    assert other != os.getpid()
    assert os.fstat(fileno(back)).st_ino == os.fstat(fileno(sent)).st_ino
    if kind == "Memfd":
        assert what == ("sent", b"contents", True, False), what
        assert back.read() == b"contents"
        return
    expected = make(kind)
    if kind == "ArrayDict":
        assert what == {name: array.tolist() for name, array in expected.items()}
        assert np.shares_memory(sent["x"], back["x"])
        return
    assert what[:4] == (
        "Array", expected.tolist(), sent.strides, sent.flags.writeable
    ), what  # fmt: skip
    if kind == "r+ array":
        assert sent[0, 0] == back[0, 0] == 77
    # The memory that is mapped here already is not mapped again.
    assert np.shares_memory(sent, back)
    np.testing.assert_array_equal(sent, back)


def fileno(x):
    return x.fileno() if isinstance(x, memfd.Memfd) else x.memfd.fileno()


def serve(receive, send):
    while (x := receive()) is not None:
        send(answer(x))


def serve_queue(inbox, outbox):
    serve(inbox.get, outbox.put)


def serve_pipe(connection):
    serve(connection.recv, connection.send)


def serve_arguments(inbox, outbox, objects, more):
    for x in objects:
        outbox.put(answer(x))
    outbox.put(answer(more["last"]))
    inbox.get()  # a sender has to live until its messages are read


def through_arguments(context, objects):
    inbox, outbox = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(
        target=serve_arguments,
        args=(inbox, outbox, objects[:-1], {"last": objects[-1]}),
    )
    process.start()
    yield from (outbox.get() for _ in objects)
    inbox.put(None)
    process.join()


def through_queue(context, objects, kind):
    inbox, outbox = getattr(context, kind)(), getattr(context, kind)()
    process = context.Process(target=serve_queue, args=(inbox, outbox))
    process.start()
    for x in objects:
        inbox.put(x)
        yield outbox.get()
    inbox.put(None)
    process.join()


def through_pipe(context, objects):
    here, there = context.Pipe()
    process = context.Process(target=serve_pipe, args=(there,))
    process.start()
    for x in objects:
        here.send(x)
        yield here.recv()
    here.send(None)
    process.join()


def through_pool(context, objects):
    with context.Pool(1) as pool:
        yield from pool.map(answer, objects, chunksize=1)


def through_executor(context, objects):
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        yield from pool.map(answer, objects)


def through(channel, context, objects):
    if channel == "Process argument":
        return through_arguments(context, objects)
    if channel in ("Queue", "SimpleQueue"):
        return through_queue(context, objects, channel)
    if channel == "Pipe":
        return through_pipe(context, objects)
    return (through_pool if channel == "Pool" else through_executor)(context, objects)


def main():
    context = multiprocessing.get_context(sys.argv[1])
    outcomes = {}
    for channel in CHANNELS:
        objects = [make(kind) for kind in KINDS]
        answers = through(channel, context, objects)
        for kind, sent in zip(KINDS, objects, strict=True):
            try:
                compare(kind, sent, *next(answers))
                outcome = "ok"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            outcomes[f"{channel} {kind}"] = outcome
        for _ in answers:
            pass
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()

"""Objects: a data frame that is dumped, loaded and sent, and many arrays in one memfd."""

import multiprocessing
import os
import pathlib
import pickle
import time

import numpy as np

import memfd

spawn = multiprocessing.get_context("spawn")

COLUMNS = 100  # of floats
COUNT = 10_000  # of arrays
PATIENCE = 120  # seconds that a worker may take to answer

# Groups of ways to treat a frame; the last of each is what the others are compared with.
ALONE = "objects alone"
DUMP = "memfd.dump", f"pickle.dumps, {ALONE}", "memfd.share, no objects"
GROWTH = "memfd.dump", "pickle.dumps"
LOAD = "memfd.load", "memfd.load, no objects", f"pickle.loads, {ALONE}"
SEND = "memfd.dump", "limit: C, huge", "pickle"


def missing():
    """Return why there are no data frames here, or None."""
    try:
        import pandas  # noqa: F401
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def rows_of(size):
    return size // 8 // COLUMNS


def frame_of(data):
    """Return a frame of float columns over an array, without copying it."""
    import pandas

    rows = rows_of(data.nbytes)
    block = data[: rows * COLUMNS].reshape(COLUMNS, rows)
    names = [f"float {i}" for i in range(COLUMNS)]
    return pandas.DataFrame(block.T, columns=names, copy=False)


def objects_of(rows):
    """Return a column of objects, none of them twice: short strings and ints."""
    objects = np.empty(rows, object)
    objects[::2] = [f"item {i}" for i in range(0, rows, 2)]
    objects[1::2] = range(1, rows, 2)
    return objects


def with_objects(frame, objects):
    frame = frame.copy(deep=False)
    frame["objects"] = objects
    return frame


def first_values(frame):
    """Read one value of each column of floats."""
    return [frame.iat[0, i] for i in range(COLUMNS)]


class Frame:
    """A frame of `data` with a column of objects, and its parts alone."""

    def __init__(self, data):
        self.floats = frame_of(data)
        self.block = data[: self.floats.size]
        self.objects = objects_of(len(self.floats))
        self.frame = with_objects(self.floats, self.objects)

    def dump(self):
        memfd.dump(self.frame).close()

    def share(self):
        """Copy as many bytes, and no objects."""
        memfd.share(self.block)

    def pickle(self):
        """Pickle the objects, and nothing else."""
        pickle.dumps(self.objects, protocol=5)


class Dumped:
    """What a `Frame` was dumped to."""

    def __init__(self, frame):
        self._frame = memfd.dump(frame.frame)
        self._floats = memfd.dump(frame.floats)
        self._objects = pickle.dumps(frame.objects, protocol=5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._frame.close()
        self._floats.close()

    def load(self):
        first_values(memfd.load(self._frame))

    def load_floats(self):
        first_values(memfd.load(self._floats))

    def unpickle(self):
        """Unpickle the objects, and nothing else."""
        pickle.loads(self._objects)


def make(size):
    """Return what is done with a frame in a `Child`."""
    frame = Frame(np.ones(size // 8))
    # What is imported when it is first needed is no part of the growth.
    memfd.dump(frame.frame[:1]).close()
    return {
        GROWTH[0]: frame.dump,
        GROWTH[1]: lambda: pickle.dumps(frame.frame, protocol=5),
    }


class Workers:
    """Processes that run before anything is measured, with two queues each."""

    def __init__(self, count):
        self._queues = [(spawn.Queue(), spawn.Queue()) for _ in range(count)]
        self._processes = [
            spawn.Process(target=work, args=queues, daemon=True)
            for queues in self._queues
        ]
        for process in self._processes:
            process.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for inbox, _ in self._queues:
            inbox.put(None)
        for process in self._processes:
            process.join(5)
            process.kill()
            process.join()

    def dump(self, frame):
        """Return what it takes until all have read the frame and it was dropped here."""
        start = time.perf_counter()
        with memfd.dump(frame) as file:
            errors = self._send(file)
        return self._dropped(start, errors)

    def pickle(self, frame):
        """Return what it takes to send the frame itself."""
        start = time.perf_counter()
        return self._dropped(start, self._send(frame))

    def _send(self, message):
        for inbox, _ in self._queues:
            inbox.put(message)
        return self._answers()

    def _dropped(self, start, errors):
        seconds = time.perf_counter() - start
        self._answers()  # they dropped it too
        for error in filter(None, errors):
            raise RuntimeError(f"in a worker: {error}")
        return seconds

    def _answers(self):
        return [outbox.get(timeout=PATIENCE) for _, outbox in self._queues]


def work(inbox, outbox):
    """Read each frame that comes; the main of a worker."""
    while (message := inbox.get()) is not None:
        error = frame = None
        try:
            frame = memfd.load(message) if hasattr(message, "fileno") else message
            first_values(frame)
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        outbox.put(error)
        del frame, message
        outbox.put(None)


class Arrays:
    """Many arrays of 4 KiB in one memfd."""

    def __init__(self):
        self._arrays = memfd.share(
            {f"array {i}": np.full(512, i) for i in range(COUNT)}
        )
        self.nbytes = self._arrays.nbytes
        self._path = f"/proc/self/fd/{self._arrays.memfd.fileno()}"
        # A copy of the arrays, to be unpickled.
        self._pickle = pickle.dumps(
            {name: np.array(array) for name, array in self._arrays.items()}, protocol=5
        )

    def check(self):
        """Attaching takes one descriptor and one mapping, or it raises RuntimeError."""
        before = held()
        arrays = memfd.attach(self._path)
        array = arrays[f"array {COUNT - 1}"]
        if array[0] != COUNT - 1 or len(arrays) != COUNT:
            raise RuntimeError("what was attached is not what was shared")
        grown = tuple(b - a for a, b in zip(before, held(), strict=True))
        if grown != (1, 1):
            raise RuntimeError(
                "attaching took {} descriptors, {} mappings".format(*grown)
            )

    def attach(self):
        memfd.attach(self._path)["array 0"].sum()

    def unpickle(self):
        pickle.loads(self._pickle)["array 0"].sum()


def held():
    """Return how many descriptors, and mappings of memfds, this process has."""
    maps = pathlib.Path("/proc/self/maps").read_text().splitlines()
    return len(os.listdir("/proc/self/fd")), sum("/memfd:" in line for line in maps)

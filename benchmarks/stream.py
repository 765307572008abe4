"""Stream: one process sends frames, two look at each of them, in every way alike.

At most `ahead` frames are on their way, that is, were put and not dropped by both: the
producer waits before it puts another one.  Each frame says its number at both ends.
"""

import array
import collections
import contextlib
import functools
import itertools
import os
import pathlib
import re
import socket
import time

import numpy as np
from peers import AHEAD, STREAMS
from workers import LOOKS, PATIENCE, spawn

SHAPE = 1080, 1920, 3
SIZE = 1080 * 1920 * 3
CONSUMERS = 2
WARM = 0.5  # seconds that do not count
EVERY = 0.1  # seconds between two looks at the memory
LIMIT = "limit: np.copyto and the looks"
KINDS = {kind.name: kind for kind in STREAMS}
# A frame is there, and copied by who puts it; or it is filmed: a camera writes it where it
# is told to, straight into shared memory if the way has such memory to give.
GROUPS = {
    "touch": ("touch", False),
    "read": ("read", False),
    "filmed, touch": ("touch", True),
    "filmed, read": ("read", True),
}


def look_at(frame, number, start, look):
    """Look at a frame, and return how long ago it was put."""
    LOOKS[look](frame)
    words = frame.reshape(-1).view(np.uint64)
    if not words[0] == words[-1] == number:
        raise RuntimeError(f"frame {number} says {words[0]} and {words[-1]}")
    return time.perf_counter() - start


def consume(name, inbox, outbox, connection):
    """Look at frames, and say of each how old it was; the main of a consumer."""
    try:
        peer = KINDS[name]()
    except Exception:
        return  # the producer fails alike, and says why
    for number, start, look, tickets in iter(inbox.get, None):
        try:
            frame, keeper = peer.receive(tickets.pop(), connection)
            answer = look_at(frame, number, start, look)
            del frame
            peer.leave(keeper)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        outbox.send(answer)


class Channels:
    """The consumers, as the producer sees them."""

    def __init__(self, inboxes, outboxes, connections):
        self._inboxes, self._outboxes = inboxes, outboxes
        self._connections = connections

    def pids(self):
        return []

    def send(self, peer, handle, *message):
        for inbox, connection in zip(self._inboxes, self._connections, strict=True):
            inbox.put((*message, [peer.send(handle, connection)]))

    def receive(self):
        """Return how old the frame was that was sent the longest time ago."""
        answers = [outbox.recv() for outbox in self._outboxes]
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(f"in a consumer: {answer}")
        return answers

    def close(self):
        for inbox in self._inboxes:
            inbox.put(None)


class Actor:
    def pid(self):
        return os.getpid()

    def look_at(self, frame, number, start, look):
        return look_at(frame, number, start, look)


class Actors:
    """The same as actors of Ray."""

    def __init__(self, peer):
        peer.start()
        self._library = peer.library
        actor = self._library.remote(num_cpus=0)(Actor)
        self._members = [actor.remote() for _ in range(CONSUMERS)]
        self._asked = collections.deque()

    def pids(self):
        return self._library.get([actor.pid.remote() for actor in self._members])

    def send(self, peer, handle, *message):
        self._asked.append(
            [actor.look_at.remote(handle, *message) for actor in self._members]
        )

    def receive(self):
        return self._library.get(self._asked.popleft(), timeout=PATIENCE)

    def close(self):
        self._members.clear()


def produce(name, pipe, inboxes, *others):
    """Send frames for as long as is asked for each time; the main of the producer."""
    peer = channels = None
    try:
        peer = KINDS[name]()
        is_ray = name == "Ray"
        channels = Actors(peer) if is_ray else Channels(inboxes, *others)
        # None is written again while it is on its way.
        data = np.random.default_rng(0).integers(0, 256, (AHEAD + 1, *SHAPE), np.uint8)
        pipe.send([os.getpid(), *channels.pids()])
        while command := pipe.recv():
            pipe.send(send(peer, channels, data, *command))
    except EOFError:
        pass
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
    finally:
        if channels is not None:
            channels.close()
        if peer is not None:
            peer.stop()


def send(peer, channels, frames, seconds, look, is_filmed):
    """Return seconds for each frame, and the median and 99th percentile of their age."""
    # Compact, as memory is looked at meanwhile.
    waiting, ages, ends = collections.deque(), array.array("d"), array.array("d")

    def receive():
        answer = channels.receive()
        peer.drop(waiting.popleft())
        ends.append(time.perf_counter())
        ages.extend(answer)

    begin = time.perf_counter() + min(WARM, seconds / 3)
    for number in itertools.count():
        frame = frames[number % len(frames)]
        words = frame.reshape(-1).view(np.uint64)
        words[0] = words[-1] = number
        start = time.perf_counter()
        if start > begin + seconds:
            break
        waiting.append(peer.film(frame) if is_filmed else peer.put(frame))
        channels.send(peer, waiting[-1], number, start, look)
        if len(waiting) == peer.ahead:
            receive()
    while waiting:
        receive()
    first = next(index for index, end in enumerate(ends) if end >= begin)
    each = (ends[-1] - ends[first]) / (len(ends) - 1 - first)
    return each, *np.percentile(ages[first * CONSUMERS :], (50, 99)).tolist()


class Stream:
    """A producer and its consumers, in one of the ways; all run until this is closed."""

    def __init__(self, name):
        queue = getattr(spawn, KINDS[name].queue)
        self._pipe, theirs = spawn.Pipe()
        # Kept: what belongs to a queue goes with it, before a process has started.
        self._inboxes = inboxes = [queue() for _ in range(CONSUMERS * (name != "Ray"))]
        pipes = [spawn.Pipe(duplex=False) for _ in inboxes]
        sockets = [socket.socketpair() for _ in inboxes]
        answers, connections = [pipe[0] for pipe in pipes], [one for one, _ in sockets]
        mains = [(produce, (name, theirs, inboxes, answers, connections))]
        mains += [
            (consume, (name, inbox, pipe[1], connection))
            for inbox, pipe, (_, connection) in zip(
                inboxes, pipes, sockets, strict=True
            )
        ]
        self._processes = [
            spawn.Process(target=main, args=arguments, daemon=True)
            for main, arguments in mains
        ]
        for process in self._processes:
            process.start()
        theirs.close()
        for end in itertools.chain(*pipes, *sockets):
            end.close()
        try:
            consumers = [process.pid for process in self._processes[1:]]
            self._pids = [*self._answer(PATIENCE), *consumers]
        except BaseException:
            self.close()
            raise

    def run(self, seconds, look, is_filmed):
        """Return seconds for each frame, and the median and 99th percentile of ages."""
        self._pipe.send((seconds, look, is_filmed))
        return self._answer(seconds + 2 * PATIENCE)

    def memory(self, count, look):
        """Return by how many bytes memory grew, several times while frames are sent.

        Memory is what the processes have for themselves, and what is shared on this
        machine: frames also wait where no process maps them.
        """
        before = self._memory()
        self._pipe.send((count * EVERY, look, True))
        samples, begin = [], time.perf_counter()
        for number in range(count):
            time.sleep(max(0, begin + (number + 1) * EVERY - time.perf_counter()))
            samples.append(self._memory() - before)
        self._answer(2 * PATIENCE)
        return samples

    def _memory(self):
        private = (kilobytes(f"/proc/{pid}/status", "RssAnon") for pid in self._pids)
        return (sum(private) + kilobytes("/proc/meminfo", "Shmem")) << 10

    def _answer(self, seconds):
        if not self._pipe.poll(seconds):
            raise TimeoutError(f"the producer did not answer for {seconds} s")
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def close(self):
        self._pipe.close()
        self._processes[0].join(20)  # it tells the others
        for process in self._processes:
            process.join(2)
            process.terminate()
            process.join(5)
            process.kill()
            process.join()


def least(look, seconds):
    """Return how long a frame takes if all but the copy and the looks took no time.

    The looks go to other processors as far as there are any.
    """
    source = np.random.default_rng(0).integers(0, 256, (AHEAD, *SHAPE), np.uint8)
    target = np.empty_like(source)
    spent, count, begin = np.zeros(2), 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        index = count % AHEAD
        times = [time.perf_counter()]
        np.copyto(target[index], source[index])
        times.append(time.perf_counter())
        LOOKS[look](target[index])
        times.append(time.perf_counter())
        spent += np.diff(times)
        count += 1
    copy, looked = spent / count
    return max(copy, (copy + CONSUMERS * looked) / os.cpu_count())


def kilobytes(path, name):
    """Return what a file in /proc says under a name."""
    text = pathlib.Path(path).read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1])


def stream(run):
    """Stream frames of 1920x1080x3 bytes to two processes"""
    count, seconds, rounds = (5, 0.3, 1) if run.quick else (100, 3, 3)
    rounds = min(rounds, run.rounds)
    measure = functools.partial(
        run.measure, "stream", size=SIZE, budget=6000, warm=0, again=False
    )
    streams, missing, growth = {}, {}, {}
    with contextlib.ExitStack() as stack:
        for name in KINDS:
            try:
                new = stack.enter_context(contextlib.closing(Stream(name)))
                growth[name] = new.memory(count, "touch")
                streams[name] = new
            except Exception as error:
                missing[name] = str(error) or type(error).__name__
        ways = told(growth) | missing
        group = f"memory over {count * EVERY:g} s"
        measure(group, ways, None, unit="B", rounds=count)
        for group, (look, is_filmed) in GROUPS.items():
            ages = {name: [] for name in streams}

            def way(name, streams=streams, look=look, ages=ages, is_filmed=is_filmed):
                each, *age = streams[name].run(seconds, look, is_filmed)
                ages[name].append(age)
                return each

            ways = {name: functools.partial(way, name) for name in streams}
            base = "SharedMemory"
            limit = {LIMIT: functools.partial(least, look, seconds)}
            measure(group, ways | missing | limit, base, unit="s/frame", rounds=rounds)
            missing = run.cases["stream"][group]["missing"]
            streams = {name: streams[name] for name in streams if name not in missing}
            for index, which in enumerate(("p50", "p99")):
                ways = told(
                    {name: [age[index] for age in ages[name]] for name in streams}
                )
                measure(
                    f"{group}, latency {which}", ways | missing, base, rounds=rounds
                )


def told(series):
    """Return ways that give what was measured before, one value in each round."""
    return {
        name: functools.partial(next, iter(values)) for name, values in series.items()
    }

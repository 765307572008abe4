"""Compare memfd with its peers and with what the kernel allows, all in one run.

    python benchmarks/compare.py [--quick] [--only CASE ...] [--rounds N] [--output FOLDER]

Needs the installed package (never an editable install), NumPy, a C compiler, and as many
of the peers as shall be compared: see README.md.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import native
import numpy as np
import objects as things
import passing
import peers
import report
import small
import strided
from child import Child
from pool import pool
from rounds import batch, batched, interleave
from stream import stream
from workers import RayTeam, Team

import memfd

HERE = pathlib.Path(__file__).parent
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
READERS = 8


class Run:
    """What the cases need: the peers, the data, and where samples go."""

    def __init__(self, arguments, folder):
        self.quick = arguments.quick
        self.rounds = arguments.rounds or (3 if self.quick else 30)
        self.cases, self.titles, self.failures = {}, {}, {}
        self.native = native.Native(folder)
        self.teams = {}
        self.peers, self.missing = {}, {}
        for kind in peers.PEERS:
            try:
                self.peers[kind.name] = kind()
            except Exception as error:
                self.missing[kind.name] = f"{type(error).__name__}: {error}"

    @functools.cached_property
    def data(self):
        """Random bytes, in memory that was touched."""
        count = (64 * MIB if self.quick else GIB) // 8
        return np.random.default_rng(0).integers(0, 2**63, count).view(np.float64)

    def array(self, size):
        return self.data[: size // 8]

    def team_of(self, peer):
        """Return the workers that can read what a peer puts."""
        name = "Ray" if isinstance(peer, peers.Ray) else "pipes"
        if name not in self.teams:
            new = RayTeam(READERS, peer) if name == "Ray" else Team(READERS)
            self.teams[name] = new
        return self.teams[name]

    def measure(
        self, case, group, ways, base, *, size, budget, unit="s", rounds=None, **options
    ):
        """Let the ways take turns, and keep and print what they took."""
        # A tenth is enough to see that everything works.
        budget = budget / 10 if self.quick else budget
        samples, missing = interleave(ways, rounds or self.rounds, budget, **options)
        result = {
            "size": size,
            "unit": unit,
            "base": base,
            "samples": samples,
            "missing": missing,
        }
        self.cases.setdefault(case, {})[group] = result
        print(report.group(case, group, result), flush=True)

    def peer_ways(self, size, make):
        """Return a way for each peer, or why there is none: `make` makes it."""
        ways = {}
        for kind in peers.PEERS:
            peer = self.peers.get(kind.name)
            if peer is None:
                ways[kind.name] = self.missing[kind.name]
                continue
            try:
                ways[kind.name] = no_room(peer, size) or make(peer)
            except Exception as error:
                ways[kind.name] = f"{type(error).__name__}: {error}"
        return ways

    def guarded(self, peer, function):
        """Return a way that starts workers anew after it has failed."""

        def way():
            try:
                return function()
            except BaseException:
                self.team_of(peer).close()
                raise

        return way

    def close(self):
        for team in self.teams.values():
            team.close()
        if "Ray" in self.peers:
            self.peers["Ray"].stop()


def no_room(peer, size):
    """Return why an array of this size would kill this process, or None."""
    if isinstance(peer, peers.Ray):
        peer.start()
        if size > 0.75 * peer.store:
            return f"its store has {report.bytes_of(peer.store)}"
    elif peer.in_shm:
        status = os.statvfs(peers.SHM)
        free = status.f_bavail * status.f_frsize
        if free < size + MIB:
            return f"/dev/shm has {report.bytes_of(free)} left"
    return None


def memory(run):
    """PSS of an array in its sender and 8 readers that touched every page"""
    size = (16 if run.quick else 256) * MIB
    odd = 7 * MIB // 4
    ours = run.peers["memfd"]

    def growth(peer):
        return run.guarded(peer, lambda: held(run, peer, run.array(size))[0])

    ways = run.peer_ways(size, growth)
    ways["memfd, its mappings"] = lambda: held(run, ours, run.array(size))[1]
    group, once = name_of(size), {"unit": "B", "budget": 1, "rounds": 1}
    once |= {"warm": 0, "again": False}
    run.measure("memory", group, ways, "SharedMemory", size=size, **once)
    ways = {"memfd, its mappings": lambda: held(run, ours, run.array(odd))[1]}
    run.measure("memory", name_of(odd), ways, None, size=odd, **once)


def held(run, peer, array):
    """Return by how much PSS grew while all held the array, and PSS of memfds then."""
    team = run.team_of(peer)
    handle = peer.put(array[:8192])
    with team.holding(peer, handle, READERS):
        pass  # now all is imported
    peer.drop(handle)
    del handle
    pids = [os.getpid(), *team.pids()]
    before = sum(map(pss, pids))
    handle = peer.put(array)
    with team.holding(peer, handle, READERS):
        after, exact = sum(map(pss, pids)), sum(map(pss_of_memfds, pids))
    peer.drop(handle)
    return after - before, exact


def pss(pid):
    """Return the proportional set size of a process in bytes."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+)", text, re.MULTILINE)[1]) * KIB


def pss_of_memfds(pid):
    """Return that of the mappings of memfds alone."""
    total, counts = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-", line):
            counts = "/memfd:" in line
        elif counts and line.startswith("Pss:"):
            total += int(line.split()[1]) * KIB
    return total


def fill(run):
    """Put an array where another process can get it, and drop it again"""
    sizes = [4 * KIB, 64 * KIB, MIB, 7 * MIB // 4, 2 * MIB, 3 * MIB, 16 * MIB]
    sizes += [64 * MIB] + [256 * MIB, GIB] * (not run.quick)
    target = np.ones_like(run.data)
    for size in sizes:
        array = run.array(size)

        def way(peer, array=array):
            return batched(lambda: peer.fill(array))

        def limit(kind, threads=1, array=array):
            count = 1

            def way():
                nonlocal count
                seconds = run.native.fill(kind, array, count, threads)
                count = batch(seconds)
                return seconds

            return way

        copy = functools.partial(np.copyto, target[: size // 8], array)
        ways = run.peer_ways(size, way) | {
            "limit: np.copyto": batched(copy),
            "limit: C, map": limit(native.MAP),
            "limit: C, write": limit(native.WRITE),
            "limit: C, huge": limit(native.HUGE),
            "limit: C, huge, 2 threads": limit(native.HUGE, 2),
        }
        budget = 4 + 60 * min(size / (256 * MIB), 1.3)
        group = name_of(size)
        run.measure("fill", group, ways, "SharedMemory", size=size, budget=budget)


def attach(run):
    """Get an array in a second process, look at it, and drop it there"""
    for size in (MIB, 16 * MIB) if run.quick else (MIB, 16 * MIB, 256 * MIB):
        for look in ("touch", "read"):
            handles = []

            def way(peer, size=size, look=look, handles=handles):
                if peer.no_ticket:
                    return peer.no_ticket
                for _ in range(4):  # into memory that was just used, as all else
                    peer.drop(peer.put(run.array(size)))
                team, handle = run.team_of(peer), peer.put(run.array(size))
                handles.append((peer, handle))
                return run.guarded(peer, lambda: team.time(peer, handle, look))

            def limit(kind, size=size, look=look):
                return lambda: run.native.look(kind, run.array(size), look == "read")

            ways = run.peer_ways(size, way) | {
                "limit: C, write": limit(native.WRITE),
                "limit: C, huge": limit(native.HUGE),
            }
            group = f"{name_of(size)}, {look}"
            budget = 4 + 10 * size / (256 * MIB)
            try:
                run.measure(
                    "attach", group, ways, "SharedMemory", size=size, budget=budget
                )
            finally:
                del ways
                while handles:
                    peer, handle = handles.pop()
                    with contextlib.suppress(OSError):
                        peer.drop(handle)


def workers(run):
    """Share with workers that already run, until all have looked and the sender forgot"""
    for size in (16 * MIB,) if run.quick else (16 * MIB, 256 * MIB):
        array = run.array(size)
        for look in ("touch", "read"):
            for count in (1, 4) if run.quick else (1, 2, 4, 8):

                def way(peer, array=array, look=look, count=count):
                    team = run.team_of(peer)
                    share = functools.partial(team.share, peer, array, look, count)
                    return run.guarded(peer, share)

                group = f"{name_of(size)}, {count} workers, {look}"
                ways = run.peer_ways(size, way)
                if look == "touch":
                    ways |= {
                        f"limit: C, huge{text}": functools.partial(
                            run.native.share, native.HUGE, array, count, threads
                        )
                        for threads, text in {1: "", 2: ", 2 threads"}.items()
                    }
                budget = 4 + (40 if count == 4 else 16) * size / (256 * MIB)
                run.measure(
                    "workers", group, ways, "SharedMemory", size=size, budget=budget
                )


def little(run):
    """Create, size, map, touch and close 4 KiB"""
    array = np.zeros(512)
    ways = run.peer_ways(4 * KIB, lambda peer: batched(lambda: peer.fill(array)))
    ways = {f"{name}, an array": way for name, way in ways.items()} | {
        "C": lambda: run.native.small(100),
        "raw functions": batched(small.small_raw),
        "os and mmap": batched(small.small_stdlib),
        "Memfd + Mapping, dropped": batched(small.small_mapping),
        "Memfd + Mapping, with": batched(small.small_mapping_closed),
        "memfd.empty": batched(lambda: memfd.empty(512).fill(1)),
        "SharedMemory": batched(small.small_shared_memory),
    }
    run.measure("little", "4 KiB", ways, "C", size=4 * KIB, budget=10)


def freeze(run):
    """Freeze an array; the call alone"""
    for size in [16 * MIB, 64 * MIB] + [256 * MIB, GIB] * (not run.quick):

        def frozen(populate, size=size):
            array = memfd.empty(size // 8, populate=populate)
            array[:: 1 if populate else 512] = 1
            start = time.perf_counter()
            kept = memfd.freeze(array)
            seconds = time.perf_counter() - start
            del kept
            return seconds

        ways = {
            "populate=True": functools.partial(frozen, True),
            "ordinary pages": functools.partial(frozen, False),
            "limit: C, munmap": functools.partial(run.native.give_up, size),
            "limit: C, ordinary pages": functools.partial(
                run.native.give_up, size, True
            ),
            "limit: C, huge pages": functools.partial(
                run.native.give_up, size, True, True
            ),
        }
        group, budget = name_of(size), 4 + 16 * size / GIB
        run.measure("freeze", group, ways, "limit: C, munmap", size=size, budget=budget)


def noncontiguous(run):
    """Share a[::2, :, ::-1], against making it contiguous first"""
    shape = (32 if run.quick else 256, 512, 512)
    size = np.prod(shape).item() * 8 // 2
    with Child(strided.make, shape) as child:
        ways = {way: functools.partial(child.time, way) for way in strided.WAYS}
        base, group = strided.WAYS[1], name_of(size)
        run.measure("noncontiguous", group, ways, base, size=size, budget=15)
        ways = {way: functools.partial(child.growth, way) for way in strided.WAYS}
        run.measure(
            "noncontiguous", f"{group}, growth of private memory", ways, base, size=size,
            budget=5, unit="B",
        )  # fmt: skip


def delayed(run):
    """Share while every madvise of the process takes longer"""
    size = (16 if run.quick else 256) * MIB
    for microseconds in (1000,) if run.quick else (1000, 5000, 20000):
        group = f"{name_of(size)}, {microseconds} us"
        rounds = 2 if run.quick else 5
        ways = under_strace(microseconds, size, rounds)
        # They took their turns in the child.
        ways = {
            name: way if isinstance(way, str) else functools.partial(next, iter(way))
            for name, way in ways.items()
        }
        run.measure(
            "delayed", group, ways, 'huge="never"', size=size, budget=600,
            rounds=rounds, warm=0, again=False,
        )  # fmt: skip


def under_strace(microseconds, size, rounds):
    """Return name -> samples of delayed.py, or why there are none."""
    names = 'huge="auto"', 'huge="never"'
    if shutil.which("strace") is None:
        return dict.fromkeys(names, "there is no strace")
    try:
        memfd.share(np.zeros(1), huge="never")
    except TypeError:
        return dict.fromkeys(names, "memfd.share has no keyword huge yet")
    inject = f"inject=madvise:delay_exit={microseconds}"
    strace = f"strace -f -qq -o /dev/null -e trace=madvise -e {inject}".split()
    child = [sys.executable, HERE / "delayed.py", str(size), str(rounds)]
    try:
        out = subprocess.run(
            [*strace, *child], capture_output=True, text=True, timeout=300, check=True
        )
    except subprocess.TimeoutExpired as error:
        return dict.fromkeys(names, str(error))
    except subprocess.CalledProcessError as error:
        return dict.fromkeys(names, f"{error} {' '.join(error.stderr.split())[-200:]}")
    return json.loads(out.stdout)


def overhead(run):
    """What Python adds to sharing 4 KiB"""
    array = run.array(4 * KIB)
    ways = {
        "memfd.share": batched(lambda: memfd.share(array)),
        "limit: C, write": lambda: run.native.fill(native.WRITE, array, 200),
    }
    run.measure(
        "overhead", "4 KiB", ways, "limit: C, write", size=4 * KIB, budget=10,
        rounds=run.rounds * 4,
    )  # fmt: skip


def handing(run):
    """Pass 4 KiB: through a Unix socket, and through a queue until an answer came"""
    with passing.Sockets() as sockets:
        ways = {
            "memfd.send, recv": batched(sockets.file),
            "send_fds, recv_fds, close": batched(sockets.descriptor),
        }
        base = "send_fds, recv_fds, close"
        measure = functools.partial(run.measure, "handing", size=4 * KIB, budget=10)
        measure("socket, a memfd", ways, base)
        ways = {
            "memfd.send, recv_array": batched(sockets.array),
            "send_fds, recv_fds, numpy.load": batched(sockets.load),
        }
        measure("socket, an array", ways, "send_fds, recv_fds, numpy.load")
    with passing.Queues() as queues:
        ways = {
            "100 bytes": queues.message,
            "a new array": queues.new,
            "the same array again": queues.same,
            "DupFd": queues.dupfd,
        }
        measure("queue", ways, "100 bytes")
    with passing.Pool() as pool:
        count = 500 if run.quick else passing.ARRAYS
        ways = {
            "most at a time": functools.partial(pool.most, count),
            "left at the end": pool.left,
        }
        run.measure(
            "handing", "descriptors, arrays through a Pool", ways, None, size=4 * KIB,
            budget=60, unit="", rounds=1, warm=0, again=False,
        )  # fmt: skip


def objects(run):
    """Dump, load and send a data frame, and attach many arrays that share one memfd"""
    frames(run)
    arrays = things.Arrays()
    arrays.check()
    ways = {
        "memfd.attach": batched(arrays.attach),
        "pickle.loads": batched(arrays.unpickle),
    }
    run.measure(
        "objects", "10,000 arrays", ways, "pickle.loads", size=arrays.nbytes, budget=5
    )


def frames(run):
    """Do what of `objects` needs data frames, or say why there are none."""
    size, sent = (64 * MIB, 16 * MIB) if run.quick else (GIB, 256 * MIB)
    missing = things.missing()

    def measure(group, names, functions=None, size=size, budget=0, **options):
        if missing:
            functions = [missing] * len(names)
        ways = dict(zip(names, functions, strict=True))
        run.measure(
            "objects", f"{name_of(size)}, {group}", ways, names[-1], size=size,
            budget=budget, **options,
        )  # fmt: skip

    dump = functools.partial(measure, "dump", things.DUMP)
    grow = functools.partial(measure, "dump, growth of private memory", things.GROWTH)
    load = functools.partial(measure, "load", things.LOAD)
    send = functools.partial(measure, "4 workers", things.SEND, size=sent)
    if missing:
        for group in (dump, grow, load, send):
            group()
        return

    def growth(way):
        # In a process that has done nothing else: it has no memory left from before.
        with Child(things.make, size) as child:
            return child.growth(way)

    frame = things.Frame(run.array(size))
    dump(map(batched, (frame.dump, frame.pickle, frame.share)), budget=60)
    grow(
        [functools.partial(growth, way) for way in things.GROWTH],
        budget=60, unit="B", rounds=3, warm=0, again=False,
    )  # fmt: skip
    with things.Dumped(frame) as dumped:
        functions = dumped.load, dumped.load_floats, dumped.unpickle
        load(map(batched, functions), budget=20)
    floats = things.frame_of(run.array(sent))
    with things.Workers(4) as workers:
        ours, theirs = (
            functools.partial(way, floats) for way in (workers.dump, workers.pickle)
        )
        # The bytes alone, of which a worker looks at as many.
        limit = functools.partial(
            run.native.share,
            native.HUGE,
            run.array(sent),
            4,
            step=sent // things.COLUMNS,
        )
        send([ours, limit, theirs], budget=120)


# Ray, which never sits quite still, is started when a case first needs it; and memory is
# the first of those, since Ray keeps the pages that it once used.  The stream has a Ray of
# its own, and ends it.
CASES = (
    overhead, handing, objects, freeze, noncontiguous, delayed, pool, stream, memory,
    little, fill, attach, workers,
)  # fmt: skip


def name_of(size):
    return report.bytes_of(size)


def main():
    names = {case.__name__: case for case in CASES}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, and few rounds")
    parser.add_argument("--only", nargs="+", choices=names, metavar="CASE",
                        help=f"of {', '.join(names)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="at most so many of each")
    parser.add_argument("--output", default="results", type=pathlib.Path)
    arguments = parser.parse_args()
    # Whatever ends this ends it by an exception: nothing may stay in /dev/shm.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments.output.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(peers.clean)
        run = Run(arguments, folder)
        stack.callback(run.close)
        for name in names:
            if name not in (arguments.only or names):
                continue
            run.titles[name] = names[name].__doc__
            try:
                names[name](run)
            except Exception as error:
                run.failures[name] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
    results = report.results(run, time.perf_counter() - begin)
    text = report.markdown(results)
    (arguments.output / "results.md").write_text(text)
    (arguments.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(report.targets_table(results))
    try:
        import pictures
    except ImportError as error:
        print(f"no pictures: {error}")
    else:
        pictures.draw(results, arguments.output)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())

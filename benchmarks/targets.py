"""Targets: what memfd is meant to reach, and how far it is."""

import operator
import typing

from rounds import ratio, summary

SPEED = ">=", operator.ge
COST = "<=", operator.le


NEAR = 1.2  # times the time of C: as near to the limit as is asked for
C_FILL = "limit: C, write", "limit: C, huge"
STREAM = "limit: np.copyto and the looks"
# Of a stream, each as its documentation does it.
PEERS = "SharedMemory", "pyshmem", "Ray", "pickle"


class Target(typing.NamedTuple):
    """The ratio `over` / `under` of two ways in one group of a case, and its bound.

    Ours is `under` where the ratio is a speed, and `over` where it is a cost; `limits`
    are the ways in C, the best of which stands beside it.  The time of `less` is taken
    off that of `over`.
    """

    text: str
    case: str
    group: str
    over: str
    under: str
    sign: tuple
    bound: float
    limits: tuple = ()
    less: str | None = None

    def row(self, cases):
        group = cases.get(self.case, {}).get(self.group)
        samples = {} if group is None else group["samples"]
        row = self._asdict() | {"sign": self.sign[0]}
        needed = [way for way in (self.under, self.over, self.less) if way]
        if not all(samples.get(way) for way in needed):
            missing = {} if group is None else group["missing"]
            reason = next((missing[way] for way in needed if way in missing), None)
            return row | {"verdict": "not measured", "reason": reason}
        over, under = samples[self.over], samples[self.under]
        reached, of_minima = ratio(over, under)
        if self.less:
            reached = ratio(beyond(over, samples[self.less]), under)[0]
            least = [summary(way)[0] for way in (over, samples[self.less], under)]
            of_minima = (least[0] - least[1]) / least[2]
        row |= {"reached": reached, "of_minima": of_minima}
        ours, other = (
            (self.under, self.over) if self.sign is SPEED else (self.over, self.under)
        )
        row |= beside_c(samples, ours, self.limits)
        if "c" in row:
            pair = samples[row["c"]], samples[other]
            row["limit"] = ratio(*(pair if self.sign is COST else pair[::-1]))[0]
        return row | {"verdict": verdict(self.sign, row, self.bound)}


def beyond(values, less):
    """Return by how much values exceed those of another way, in each round."""
    pairs = zip(values, less, strict=True)
    return [None if None in pair else pair[0] - pair[1] for pair in pairs]


def beside_c(samples, ours, limits):
    """Return the quickest way in C, and how many times its time ours takes."""
    found = [name for name in limits if samples.get(name)]
    if not found:
        return {}
    quickest = min(found, key=lambda name: summary(samples[name])[1])
    times, of_minima = ratio(samples[ours], samples[quickest])
    return {"c": quickest, "times_c": times, "times_c_of_minima": of_minima}


def verdict(sign, row, bound):
    if sign[1](row["reached"], bound):
        return "met"
    best = min(row.get("times_c", NEAR + 1), row.get("times_c_of_minima", NEAR + 1))
    return f"missed, within {NEAR} of C" if best <= NEAR else "missed"


def fixed():
    """Return the targets that are ratios of two ways."""
    yield Target(
        "share 256 MiB, of the speed of a warm np.copyto",
        "fill", "256 MiB", "limit: np.copyto", "memfd", SPEED, 0.45, C_FILL,
    )  # fmt: skip
    sizes = {"256 MiB": 6, "16 MiB": 7, "3 MiB": 4, "2 MiB": 7, "1.75 MiB": 4}
    sizes |= {"1 MiB": 1.6, "64 KiB": 1.8, "4 KiB": 1.4}
    for size, bound in sizes.items():
        text = f"share {size} and drop it, times faster than SharedMemory"
        yield Target(text, "fill", size, "SharedMemory", "memfd", SPEED, bound, C_FILL)
    for look, bound in {"touch": 25, "read": 2.5}.items():
        what = "touch every page" if look == "touch" else "read every byte"
        text = f"attach 256 MiB and {what}, times faster than SharedMemory"
        group = f"256 MiB, {look}"
        yield Target(
            text, "attach", group, "SharedMemory", "memfd", SPEED, bound, C_FILL
        )
    for peer, bound in {"SharedMemory": 6, "pickle": 100}.items():
        text = f"share 256 MiB with 4 workers that touch it, times faster than {peer}"
        group = "256 MiB, 4 workers, touch"
        yield Target(text, "workers", group, peer, "memfd", SPEED, bound, C_FILL)
    yield Target(
        "share(a[::2, :, ::-1]), times as long as with ascontiguousarray",
        "noncontiguous", "256 MiB", "share(view)", "share(ascontiguousarray(view))",
        COST, 1.0,
    )  # fmt: skip
    yield Target(
        "freeze 256 MiB of ordinary pages, times as long as munmap",
        "freeze", "256 MiB", "ordinary pages", "limit: C, munmap", COST, 1.2,
        ("limit: C, ordinary pages",),
    )  # fmt: skip
    yield Target(
        "memfd.send and recv of 4 KiB, times as long as send_fds, recv_fds and close",
        "handing", "socket, a memfd", "memfd.send, recv", "send_fds, recv_fds, close",
        COST, 1.5,
    )  # fmt: skip
    yield Target(
        "memfd.send and recv_array of 4 KiB, times as long as with numpy.load",
        "handing", "socket, an array", "memfd.send, recv_array",
        "send_fds, recv_fds, numpy.load", COST, 1.0,
    )  # fmt: skip
    for way, bound in {"a new array": 3.0, "the same array again": 2.0}.items():
        text = f"{way} through a SimpleQueue and an answer, times as long as 100 bytes"
        yield Target(text, "handing", "queue", way, "100 bytes", COST, bound)
    yield Target(
        "dump a frame of 1 GiB, less pickling its objects, times as long as share",
        "objects", "1 GiB, dump", "memfd.dump", "memfd.share, no objects", COST, 1.15,
        less="pickle.dumps, objects alone",
    )  # fmt: skip
    yield Target(
        "dump a frame of 256 MiB for 4 workers that read it, times faster than pickle",
        "objects", "256 MiB, 4 workers", "pickle", "memfd.dump", SPEED, 50, C_FILL,
    )  # fmt: skip
    for microseconds in (1000, 5000, 20000):
        text = f"share 256 MiB with madvise delayed by {microseconds} us"
        yield Target(
            f'{text}, times as long as huge="never"', "delayed",
            f"256 MiB, {microseconds} us", 'huge="auto"', 'huge="never"', COST, 1.3,
        )  # fmt: skip


def pools(cases):
    """Yield the targets of a pool: of `put`, and of a stream beside its best peers."""
    ours, new = "memfd.BufferPool", "memfd.share"
    yield Target(
        "put 256 MiB into a pool, between two readers, of the speed of a warm np.copyto",
        "pool", "256 MiB, two readers", "limit: np.copyto", ours, SPEED, 0.85,
    )  # fmt: skip
    for size, bound in {"1 MiB": 4, "64 KiB": 1.5}.items():
        text = f"put {size} into a pool and drop it, times faster than share"
        yield Target(text, "pool", size, new, ours, SPEED, bound)
    for look in ("touch", "read", "filmed, touch", "filmed, read"):
        ages = f"{look}, latency p99"
        for way, ahead in ((ours, ""), (f"{ours}, 2 ahead", ", 2 ahead")):
            for peers in (PEERS, ["pyshmem, a ring"]):
                peer = best(cases, look, peers)
                text = f"stream, {look}{ahead}: frames a second, times those of {peer}"
                yield Target(text, "stream", look, peer, way, SPEED, 2, (STREAM,))
                peer = best(cases, ages, peers)
                text = (
                    f"stream, {look}{ahead}: p99 of the latency, times that of {peer}"
                )
                yield Target(text, "stream", ages, way, peer, COST, 1.0)


def best(cases, group, peers):
    """Return the peer that is best in a group of the stream."""
    samples = cases.get("stream", {}).get(group, {}).get("samples", {})
    found = [peer for peer in peers if samples.get(peer)]
    return min(found, key=lambda peer: summary(samples[peer])[1], default=peers[0])


def absolute(cases):
    """Yield rows of what is no ratio: text, unit, case, group, way, bound, scale.

    At the end there may be a way in C: whose time is taken off, or which is beside it.
    """
    for size in ("16 MiB", "64 MiB", "256 MiB", "1 GiB"):
        text, ours = f"freeze {size} made with populate=True", "populate=True"
        limit = "limit: C, huge pages"
        yield text, "ms", "freeze", size, ours, 0.6, 1e-3, None, limit
    text = "Python on top of the C sequence, share 4 KiB"
    limit = "limit: C, write"
    yield text, "us", "overhead", "4 KiB", "memfd.share", 12, 1e-6, limit, None
    text = "load a frame of 1 GiB and read each float column"
    group, ours, less = "1 GiB, load", "memfd.load", "pickle.loads, objects alone"
    text_less = f"{text}, less unpickling its objects"
    yield text_less, "ms", "objects", group, ours, 2, 1e-3, less, None
    text, ours = f"{text}, no objects in it", "memfd.load, no objects"
    yield text, "ms", "objects", group, ours, 2, 1e-3, None, None
    text, ours = "attach 10,000 shared arrays and use one", "memfd.attach"
    yield text, "ms", "objects", "10,000 arrays", ours, 30, 1e-3, None, None
    text, group = "10,000 arrays through a Pool", "descriptors, arrays through a Pool"
    for what, ours, bound in (
        ("most descriptors, 64 alive", "most at a time", 199),
        ("descriptors left", "left at the end", 0),
    ):
        yield f"{text}, {what}", "", "handing", group, ours, bound, 1, None, None
    mib, growth = 1 << 20, "256 MiB, growth of private memory"
    text = "private memory grows by, share(a[::2, :, ::-1]) of 256 MiB"
    yield text, "MiB", "noncontiguous", growth, "share(view)", 128, mib, None, None
    text, growth = (
        "private memory grows by, dump of a frame of 1 GiB",
        "1 GiB, dump, growth of private memory",
    )
    yield text, "MiB", "objects", growth, "memfd.dump", 64, mib, None, None
    for size, number in {"1.75 MiB": 1.75, "256 MiB": 256}.items():
        text, ours = f"memory in a sender and 8 readers, {size}", "memfd, its mappings"
        yield text, "MiB", "memory", size, ours, number * 1.01 + 2, mib, None, None


def rows(cases):
    """Return a dictionary for each target."""
    targets = *fixed(), *pools(cases)
    result = [target.row(cases) for target in targets]
    for text, unit, case, group, way, bound, scale, less, limit in absolute(cases):
        row = {"text": text, "unit": unit, "sign": COST[0], "bound": bound}
        samples = cases.get(case, {}).get(group, {}).get("samples", {})
        if samples.get(way):
            values = samples[way]
            if less:
                reached = summary(beyond(values, samples[less]))[1] / scale
                of_minima = (summary(values)[0] - summary(samples[less])[0]) / scale
            else:
                of_minima, reached, _ = (value / scale for value in summary(values))
            row |= {"reached": reached, "of_minima": of_minima}
            if samples.get(limit):
                row |= beside_c(samples, way, (limit,))
                row["limit"] = summary(samples[limit])[1] / scale
            row["verdict"] = verdict(COST, row, bound)
        else:
            row["verdict"] = "not measured"
            found = cases.get(case, {}).get(group, {})
            row["reason"] = found.get("missing", {}).get(way)
        result.append(row)
    return result

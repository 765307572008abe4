"""Targets: what memfd is meant to reach, and how far it is."""

import operator
import typing

from rounds import ratio, summary

SPEED = ">=", operator.ge
COST = "<=", operator.le


class Target(typing.NamedTuple):
    """The ratio `over` / `under` of two ways in one group of a case, and its bound."""

    text: str
    case: str
    group: str
    over: str
    under: str
    sign: tuple
    bound: float

    def row(self, cases):
        group = cases.get(self.case, {}).get(self.group)
        samples = {} if group is None else group["samples"]
        row = self._asdict() | {"sign": self.sign[0]}
        if not samples.get(self.over) or not samples.get(self.under):
            missing = {} if group is None else group["missing"]
            reason = missing.get(self.under) or missing.get(self.over)
            return row | {"verdict": "not measured", "reason": reason}
        reached, of_minima = ratio(samples[self.over], samples[self.under])
        row |= {"reached": reached, "of_minima": of_minima}
        limits = [
            ratio(samples[self.over], samples[name])[0]
            for name in ("limit: C, write", "limit: C, huge")
            if name in samples and self.case in ("fill", "attach")
        ]
        if limits:
            row |= {"limit": max(limits), "of_limit": reached / max(limits)}
        return row | {"verdict": verdict(self.sign, reached, self.bound)}


def verdict(sign, reached, bound):
    return "met" if sign[1](reached, bound) else "missed"


def fixed():
    """Return the targets that are ratios of two ways."""
    yield Target(
        "share 256 MiB, of the speed of a warm np.copyto",
        "fill", "256 MiB", "limit: np.copyto", "memfd", SPEED, 0.45,
    )  # fmt: skip
    sizes = {"256 MiB": 6, "16 MiB": 7, "3 MiB": 4, "2 MiB": 7, "1.75 MiB": 4}
    sizes |= {"1 MiB": 1.6, "64 KiB": 1.8, "4 KiB": 1.4}
    for size, bound in sizes.items():
        text = f"share {size} and drop it, times faster than SharedMemory"
        yield Target(text, "fill", size, "SharedMemory", "memfd", SPEED, bound)
    for look, bound in {"touch": 25, "read": 2.5}.items():
        what = "touch every page" if look == "touch" else "read every byte"
        text = f"attach 256 MiB and {what}, times faster than SharedMemory"
        group = f"256 MiB, {look}"
        yield Target(text, "attach", group, "SharedMemory", "memfd", SPEED, bound)
    for peer, bound in {"SharedMemory": 6, "pickle": 100}.items():
        text = f"share 256 MiB with 4 workers that touch it, times faster than {peer}"
        group = "256 MiB, 4 workers, touch"
        yield Target(text, "workers", group, peer, "memfd", SPEED, bound)
    yield Target(
        "share(a[::2, :, ::-1]), times as long as with ascontiguousarray",
        "noncontiguous", "256 MiB", "share(view)", "share(ascontiguousarray(view))",
        COST, 1.0,
    )  # fmt: skip
    yield Target(
        "freeze 256 MiB of ordinary pages, times as long as munmap",
        "freeze", "256 MiB", "ordinary pages", "limit: C, munmap", COST, 1.2,
    )  # fmt: skip
    for microseconds in (1000, 5000, 20000):
        text = f"share 256 MiB with madvise delayed by {microseconds} us"
        yield Target(
            f'{text}, times as long as huge="never"', "delayed",
            f"256 MiB, {microseconds} us", 'huge="auto"', 'huge="never"', COST, 1.3,
        )  # fmt: skip


def absolute(cases):
    """Yield rows of what is no ratio: text, unit, case, group, way, and its bound."""
    for size in ("16 MiB", "64 MiB", "256 MiB", "1 GiB"):
        text = f"freeze {size} made with populate=True"
        yield text, "ms", "freeze", size, "populate=True", 0.6, 1e-3, 0
    text = "Python on top of the C sequence, share 4 KiB"
    yield text, "us", "overhead", "4 KiB", "memfd.share", 12, 1e-6, "limit: C, write"
    mib, growth = 1 << 20, "256 MiB, growth of private memory"
    text = "private memory grows by, share(a[::2, :, ::-1]) of 256 MiB"
    yield text, "MiB", "noncontiguous", growth, "share(view)", 128, mib, 0
    for size, number in {"1.75 MiB": 1.75, "256 MiB": 256}.items():
        text = f"memory in a sender and 8 readers, {size}"
        bound = number * 1.01 + 2
        yield text, "MiB", "memory", size, "memfd, its mappings", bound, mib, 0


def rows(cases):
    """Return a dictionary for each target."""
    result = [target.row(cases) for target in fixed()]
    for text, unit, case, group, way, bound, scale, less in absolute(cases):
        row = {"text": text, "unit": unit, "sign": COST[0], "bound": bound}
        samples = cases.get(case, {}).get(group, {}).get("samples", {})
        if samples.get(way):
            values = samples[way]
            if less:
                pairs = zip(values, samples[less], strict=True)
                difference = [a - b for a, b in pairs if None not in (a, b)]
                reached = summary(difference)[1] / scale
                of_minima = (summary(values)[0] - summary(samples[less])[0]) / scale
            else:
                of_minima, reached, _ = (value / scale for value in summary(values))
            row |= {"reached": reached, "of_minima": of_minima}
            row["verdict"] = verdict(COST, reached, bound)
        else:
            row["verdict"] = "not measured"
        result.append(row)
    return result

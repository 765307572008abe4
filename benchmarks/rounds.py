"""Rounds: all ways take turns, so that what else the machine does hits them alike."""

import gc
import statistics
import time

LEAST = 3  # rounds, whatever they take
WARM = 1  # rounds that are thrown away
TURN = 4  # how often a way runs in its turn, the last counts ...
DEAR = 0.6  # ... or until it has taken so many seconds, and been done twice ...
DEAREST = 2  # ... unless once takes so many
BATCH = 5e-3  # seconds; what is shorter is measured up to 200 times at once


def interleave(ways, rounds, budget, warm=WARM, again=True):
    """Return name -> samples, one a round, and name -> why there are none.

    Parameters
    ----------
    ways : dict
        Name to a function that returns what it measured, or to why there is none.
    rounds : int
        How many.
    budget : float
        Seconds after which no round begins.  A way that alone takes a quarter of them
        sits out, once it has two samples: its sample is then None.
    warm : int, optional
        How many rounds come before, and do not count.
    again : bool, optional
        Do each thing several times in its turn; the last counts.  A hypervisor may take
        back memory that was free for some seconds, and its next use is slow, whose ever
        turn it is: here all get memory that they have just used.
    """
    missing = {name: way for name, way in ways.items() if isinstance(way, str)}
    live = {name: way for name, way in ways.items() if name not in missing}
    samples = {name: [] for name in live}
    spent = dict.fromkeys(live, 0.0)
    gc.collect()
    gc.disable()
    begin = time.perf_counter()
    for number in range(-warm, rounds):
        names = list(live)
        if not names or (number >= LEAST and time.perf_counter() - begin > budget):
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if number >= 2 and spent[name] > budget / 4:
                samples[name].append(None)
                continue
            start = time.perf_counter()
            try:
                sample = live[name]()
                for done in range(1, TURN if again else 1):
                    # What is done for the first time may be slow for want of warm memory.
                    if time.perf_counter() - start > (DEAREST if done == 1 else DEAR):
                        break
                    sample = live[name]()
            except Exception as error:
                missing[name] = " ".join(f"{type(error).__name__}: {error}".split())
                del live[name], samples[name]
                continue
            spent[name] += time.perf_counter() - start
            if number >= 0:
                samples[name].append(sample)
    gc.enable()
    return samples, missing


def batched(function):
    """Return a way that measures `function` as often as fits into a batch."""
    count = 1

    def way():
        nonlocal count
        start = time.perf_counter()
        for _ in range(count):
            function()
        seconds = (time.perf_counter() - start) / count
        count = batch(seconds)
        return seconds

    return way


def batch(seconds):
    """Return how often something is done at once that takes so long."""
    return max(1, min(200, int(BATCH / seconds)))


def summary(samples):
    """Return minimum, median and 95th percentile."""
    values = sorted(value for value in samples if value is not None)
    return values[0], statistics.median(values), values[int(0.95 * len(values))]


def ratio(over, under):
    """Return the median of the ratios of each round, and the ratio of the minima."""
    pairs = [
        (a, b) for a, b in zip(over, under, strict=True) if None not in (a, b) and b
    ]
    if not pairs:
        return None, None
    least = [min(value for value in way if value is not None) for way in (over, under)]
    return statistics.median(a / b for a, b in pairs), least[0] / (least[1] or 1)

"""How much memory this process may have."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ALL = 1 << 62
_VERSION_1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.memsw.usage_in_bytes",
)
_VERSION_2 = (
    "memory.max",
    "memory.current",
    "memory.swap.max",
    "memory.swap.current",
)


def memory() -> int:
    """Return the bytes of memory that this process can hope for."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder, most, *_ in _cgroups():
        limit = min(limit, _number(f"{folder}/{most}", limit))
    return limit


def memory_left() -> int:
    """Return the bytes of memory that are left, or could be had from caches or by swapping.

    More than all there is where none of that can be told.
    """
    try:
        with open("/proc/meminfo") as file:
            sizes = dict(line.split(":") for line in file)
        free, swap = (
            int(sizes[key].split()[0]) << 10 for key in ("MemAvailable", "SwapFree")
        )
    except (OSError, KeyError):
        free, swap = _ALL, 0
    left = free + swap
    for folder, most, used, swap_most, swap_used in _cgroups():
        limit = _number(f"{folder}/{most}", _ALL)
        if limit < _ALL:
            taken = _number(f"{folder}/{used}", 0) - _cached(folder)
            swapped = _number(f"{folder}/{swap_used}", 0)
            more = _number(f"{folder}/{swap_most}", _ALL) - swapped
            if swap_most.startswith("memory.memsw"):  # of both together
                more -= limit - _number(f"{folder}/{used}", 0)
            left = min(left, max(0, limit - taken) + min(swap, max(0, more)))
    return left


def _cached(folder: str) -> int:
    """Return how much of the memory of a cgroup holds pages of files, which can go."""
    try:
        with open(f"{folder}/memory.stat") as file:
            sizes = dict(line.split() for line in file)
        return int(sizes["inactive_file"]) + int(sizes["active_file"])
    except (OSError, KeyError):
        return 0


def _number(path: str, otherwise: int) -> int:
    """Return the number in a file."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):  # "max", or no such controller
        return otherwise


def _cgroups() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the cgroups of this process: folder, and files of limit and use.

    Those of memory come first, then those of swap space.
    """
    try:
        with open("/proc/self/cgroup", "rb") as file:
            text = os.fsdecode(file.read())
    except OSError:
        return
    # A name may have any byte but this one, also what others take for the end of a line.
    for line in filter(None, text.split("\n")):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = "/sys/fs/cgroup", _VERSION_2
        elif "memory" in controllers.split(","):
            root, names = "/sys/fs/cgroup/memory", _VERSION_1
        else:
            continue
        # A container may see its own group at the root of the hierarchy.
        while path not in ("", "/"):
            yield f"{root}{path}", *names
            path = os.path.dirname(path)
        yield root, *names

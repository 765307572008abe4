"""The conformance table: each test is a row, by number, and the table says how it went.

pytest tests/conformance --table docs/conformance.md
"""

import contextlib
import json
import os
import platform
import re

import pytest

# What old kernels lack, as reasons say it: the rows that are skipped for want of it, in
# whole or in part, and the Linux that brought it, on which they fail if they are skipped.
LACKS = {
    "no pidfd_open": ({109, 110, 111}, "5.3"),
    "no pidfd_getfd": ({109, 110, 111}, "5.6"),
    "flags 0x[0-9a-f]+ of Linux 6.3": ({8, 18, 19, 20}, "6.3"),
    "no vm.memfd_noexec before Linux 6.3": ({21, 22, 23}, "6.3"),
    "this kernel has no F_SEAL_EXEC": ({71, 72, 102}, "6.3"),
    "no memfd_secret": ({35}, "6.5"),  # off before, unless asked for at boot
    "no shared mapping by a writable descriptor": ({53}, "6.1"),
}
# What may be missing on any kernel, and the rows that may be skipped for want of it.  A
# row that is skipped for anything else fails.
SKIPS = {
    "vm.memfd_noexec is [12] here": {16, 18, 20, 21, 22, 23},
    "no namespaces here": {21, 22, 23, 47},
    "strace cannot trace here": {15, 16, 17, 84, 93},
    "no hugetlb in this kernel": {10},
    "no huge pages of 2 MiB": {87, 88, 89, 106},
    "the pool is empty and cannot be filled": {87, 88, 89, 106},
    "no file in /dev/shm": {34},
    "no memfd_secret": {35},  # not built in
    "no file system in user space": {47},
    # Before Linux 6.7, and the stable kernels that got it later: 6.1.176 has it.
    "no shared mapping by a writable descriptor": {53},
    r"\[Errno 13\]": {71, 72, 102},  # vm.memfd_noexec is 2
    "this kernel reports seals of a program that do not hold": {102},
    "no unnamed file in /dev/shm": {101},
    r"no pidfd_(open|getfd): \[Errno 1\]": {109, 110, 111},  # a filter of system calls
    "not allowed here": {109, 110, 111},
    "needs root to become another user": {103, 110, 112},
}

_RESULTS = pytest.StashKey()


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "row(number, case, expected): the row of the conformance table that this tests",
    )
    config.stash[_RESULTS] = {}
    config.memfd_tables.append(lambda: table(config.stash[_RESULTS]))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    marker = item.get_closest_marker("row")
    if marker is None:
        return
    report = outcome.get_result()
    number, case, expected = marker.args
    results = item.config.stash[_RESULTS].setdefault((number, case, expected), set())
    if report.skipped:
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(
            number in rows and re.match(why, reason)
            for why, rows in [*lacking(platform.release()), *SKIPS.items()]
        ):
            report.outcome = "failed"
            report.longrepr = f"row {number} may not be skipped: {reason}"
        results.add(f"not tried: {reason}")
    elif report.failed:
        results.add("failed")
    elif report.when == "call":
        results.add("passed")


def lacking(release):
    """Return what a kernel lacks by its age: how reasons begin, and their rows."""
    return [
        (why, rows)
        for why, (rows, since) in LACKS.items()
        if _numbers(release) < _numbers(since)
    ]


def _numbers(release):
    return [int(number) for number in re.match(r"[\d.]+\d", release)[0].split(".")]


def pytest_sessionfinish(session):
    rows = session.config.stash[_RESULTS]
    path = session.config.getoption("--results")
    if path is not None:
        found = {
            "lacks": sorted(set().union(*(r for _, r in lacking(platform.release())))),
            "rows": [[*row, sorted(results)] for row, results in sorted(rows.items())],
        }
        with open(path, "w") as file:
            json.dump(found, file, indent=1)


def table(rows):
    """Return the page of the table, or None where nothing was tried."""
    if not rows:
        return None
    kernel = re.match(r"[\d.]+", platform.release())[0]
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    lines = [
        "# Conformance",
        "",
        "What the kernel promises about memfds, and this package about itself.",
        "Each row is a test in `tests/conformance` that carries its number; what is about "
        "the kernel is tried through the raw calls, too.",
        "The table is written by `pytest tests/conformance --table docs/conformance.md`, "
        f"here on Linux {kernel}, {platform.machine()}, as {user}.",
        "",
        "| # | case | expected | result |",
        "|---:|---|---|---|",
    ]
    for (number, *row), results in sorted(rows.items()):
        cells = [re.sub(r"([|*`<\\])", r"\\\1", cell) for cell in row]
        result = "; ".join(sorted(results, reverse=True))
        lines.append(f"| {number} | {' | '.join(cells)} | {result} |")
    return "\n".join([*lines, ""])


@pytest.fixture
def rows(request):
    """Return the rows of all tests that were collected: number, case, expected."""
    markers = (item.get_closest_marker("row") for item in request.session.items)
    return {marker.args for marker in markers if marker is not None}


@pytest.fixture
def lacks():
    """Return the rows that are not tried on a kernel, by its release."""
    return lambda release: set().union(*(rows for _, rows in lacking(release)))


@pytest.fixture
def owned():
    """Close descriptors at the end of the test."""
    with contextlib.ExitStack() as stack:

        def owned(fd):
            stack.callback(os.close, fd)
            return fd

        yield owned

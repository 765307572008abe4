"""Report: tables of what was measured, for people, and JSON, for programs."""

import datetime
import os
import pathlib
import platform

import peers
import targets
from rounds import ratio, summary

TRANSPARENT = pathlib.Path("/sys/kernel/mm/transparent_hugepage")


def bytes_of(size):
    """Write a size as a person would."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(size) >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size:.0f} B"


def seconds_of(seconds):
    for unit, factor in (("s", 1), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def rate_of(seconds):
    """Write how long each of many things takes, and how many of them a second has."""
    return f"{seconds_of(seconds)}, {1 / seconds:.0f}/s"


def results(run, seconds):
    """Return all that was measured and where, as it goes into the JSON."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds),
        "quick": run.quick,
        "machine": machine(),
        "titles": run.titles,
        "failures": run.failures,
        "cases": run.cases,
        "targets": targets.rows(run.cases),
    }


def machine():
    """Return what the numbers depend on."""
    fields = dict(
        line.split(":", 1)
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if ":" in line
    )
    names = {name.strip(): value.strip() for name, value in fields.items()}
    # A peer without one is in the standard library; pandas is no peer.
    kinds = *peers.PEERS, *peers.STREAMS
    distributions = [kind.distribution for kind in kinds if kind.distribution]
    versions = {name: peers.version(name) for name in [*distributions, "pandas"]}
    return {
        "processor": names.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: found for name, found in versions.items() if found},
        "transparent_hugepage": setting("enabled"),
        "shmem_enabled": setting("shmem_enabled"),
        "page_reporting": pathlib.Path("/sys/module/page_reporting").exists(),
    }


def setting(name):
    """Return which of the words in a file of the kernel is chosen."""
    try:
        return (TRANSPARENT / name).read_text().split("[")[1].split("]")[0]
    except (OSError, IndexError):
        return "unknown"


def group(case, name, result):
    """Return a table of Markdown for one size of a case."""
    writers = {"s": seconds_of, "s/frame": rate_of, "B": bytes_of, "": "{:.0f}".format}
    write = writers[result["unit"]]
    base, samples = result["base"], result["samples"]
    table = [
        ["", "minimum", "median", "p95", "rounds", f"times {base}" if base else ""]
    ]
    for way, values in samples.items():
        times = ratio(samples[base], values)[0] if base in samples else None
        count = sum(value is not None for value in values)
        row = [way, *map(write, summary(values)), str(count)]
        table.append([*row, "-" if times is None else f"{times:.3g}"])
    # What is named last was not dropped silently.
    reasons = [f"- {way}: missing: {why}" for way, why in result["missing"].items()]
    lines = [f"### {case}: {name}", "", *aligned(table), ""]
    return "\n".join([*lines, *reasons, ""] if reasons else lines)


def aligned(table):
    """Return the lines of a table whose columns have one width each."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        f"| {row[0].ljust(widths[0])} | "
        + " | ".join(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))
        + " |"
        for row in (table[0], rule, *table[1:])
    ]


def targets_table(results):
    """Return the table of targets in Markdown."""
    table = [["target", "bound", "reached", "of minima", "C", "time / C", "verdict"]]
    for row in results["targets"]:
        numbers = [
            f"{row[key]:.3g}" if row.get(key) is not None else "-"
            for key in ("reached", "of_minima", "limit", "times_c")
        ]
        unit = f" {row['unit']}" if row.get("unit") else ""
        bound = f"{row['sign']} {row['bound']:.4g}{unit}"
        verdict = row["verdict"]
        if row.get("reason"):
            verdict += f": {row['reason']}"
        table.append([row["text"], bound, *numbers, verdict])
    return "\n".join(["## Targets", "", *aligned(table), ""])


def where(results):
    """Return the lines that say on what machine this was."""
    here = results["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in here["versions"].items())
    return [
        f"{here['processor']}, {here['cores']} cores, {bytes_of(here['memory'])}, "
        f"Linux {here['kernel']}, Python {here['python']}.",
        f"transparent_hugepage: enabled is `{here['transparent_hugepage']}`, "
        f"shmem_enabled is `{here['shmem_enabled']}`; free pages "
        + ("may go back to a hypervisor." if here["page_reporting"] else "stay here."),
        f"{versions}.",
        f"{results['date']}, {results['seconds']} s"
        + (", --quick: not for comparison." if results["quick"] else "."),
    ]


def markdown(results):
    """Return the whole report."""
    lines = ["# Results", "", *where(results), "", targets_table(results)]
    for case, why in results["failures"].items():
        lines += [f"The case {case} failed: {why}", ""]
    for case, groups in results["cases"].items():
        lines += [f"## {results['titles'][case]}", ""]
        lines += [group(case, name, result) for name, result in groups.items()]
    return "\n".join(lines)

"""Pictures of the results, drawn from their JSON alone.

python benchmarks/pictures.py results/results.json
"""

import json
import pathlib
import statistics
import sys
import textwrap

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
import report

mpl.rcParams |= {
    "svg.fonttype": "none",
    "svg.hashsalt": "memfd",  # the same picture from the same numbers
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
THEMES = {
    "light": {
        "back": "#ffffff",
        "text": "#1f2328",
        "grid": "#d8dee4",
        "peer": "#8c959f",
    },
    "dark": {
        "back": "#0d1117",
        "text": "#e6edf3",
        "grid": "#30363d",
        "peer": "#7d8590",
    },
}
# Orange and blue are told apart by everyone; peers are muted, and have markers too.
OURS = {"light": "#d55e00", "dark": "#ff8c42"}
LIMIT = {"light": "#0072b2", "dark": "#56b4e9"}
PEERS = [
    *("#8a8f98", "#7b6fb5", "#44aa99", "#b8a038", "#c06c84", "#5c9bd1"),
    *("#8f8f3a", "#a3669f", "#6e8f4e", "#b07a4f", "#5f7a8c"),
]
MARKERS = "osD^vP*Xh<>"
WIDTH = 700 / 72  # inches: 700 units


def draw(results, folder):
    """Write all pictures that there are numbers for."""
    for theme, colours in THEMES.items():
        plt.rcParams |= {
            "figure.facecolor": colours["back"],
            "axes.facecolor": colours["back"],
            "savefig.facecolor": colours["back"],
            "text.color": colours["text"],
            "axes.labelcolor": colours["text"],
            "axes.edgecolor": colours["grid"],
            "grid.color": colours["grid"],
            "xtick.color": colours["text"],
            "ytick.color": colours["text"],
        }
        for picture in (headline, fill, attach, workers, memory, stream):
            case = "workers" if picture is headline else picture.__name__
            if case not in results["cases"]:
                continue
            figure = picture(results["cases"][case], theme)
            if picture is not headline:  # which is small, and has no room for it
                figure.text(
                    0.01, 0.012, footer(results), size=8.4, va="bottom", linespacing=1.4
                )
            path = pathlib.Path(folder) / f"{picture.__name__}-{theme}.svg"
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)


def footer(results):
    """Say what the numbers depend on, in a few lines."""
    here = results["machine"]
    versions = " · ".join(f"{name} {found}" for name, found in here["versions"].items())
    quick = " · --quick, not for comparison" if results["quick"] else ""
    return (
        f"{here['processor']} · {here['cores']} cores · Linux {here['kernel']} · "
        f"shmem_enabled={here['shmem_enabled']} · Python {here['python']}{quick}\n"
        + textwrap.fill(f"medians · {versions}", 130)
    ).replace("$", r"\$")


def canvas(title, height=430):
    figure, axes = plt.subplots(figsize=(WIDTH, height / 72))
    figure.subplots_adjust(left=0.1, right=0.97, top=0.9, bottom=0.2)
    figure.text(0.01, 0.965, title, size=13.5, weight="bold", va="center")
    return figure, axes


def medians(group):
    """Return name -> median of one group."""
    return {
        name: statistics.median(value for value in samples if value is not None)
        for name, samples in group["samples"].items()
    }


def largest(case, ending=""):
    """Return the largest group whose name ends so."""
    names = [name for name in case if name.endswith(ending)]
    return max(names, key=lambda name: case[name]["size"]) if names else None


def colour(name, theme):
    if name.startswith("memfd"):
        return OURS[theme]
    return LIMIT[theme] if name.startswith("limit") else THEMES[theme]["peer"]


def lines(axes, points, theme):
    """Draw a line for each name -> [(x, y), ...]; ours is thick, and on top."""
    peers = [n for n in points if not n.startswith(("memfd", "limit"))]
    for name, line in points.items():
        ours, limit = name.startswith("memfd"), name.startswith("limit")
        number = None if ours or limit else peers.index(name)
        marker = "" if limit else "o" if ours else MARKERS[number]
        thick = ours and name != "memfd.share"  # whose memory goes up and down
        dashed = name.endswith(("memcpy", "threads", "share"))
        dashes = "--" if dashed else ":" if limit else "-"
        axes.plot(
            *zip(*line, strict=True), dashes, label=name, marker=marker,
            color=colour(name, theme) if number is None else PEERS[number],
            markersize=6 if thick else 4.5, zorder=4 if thick else 2,
            linewidth=3 if thick else 2 if limit else 1.1,
        )  # fmt: skip
    axes.figure.subplots_adjust(right=0.715)
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.03), fontsize=10, handlelength=2.4,
        labelspacing=0.65,
    )  # fmt: skip


def fill(case, theme):
    """Speed over size."""
    figure, axes = canvas("Copy an array in, and drop it: GB/s, more is better")
    points = {}
    # Of the C program, the one that is best at most sizes says what is possible.
    wanted = {"limit: np.copyto": "limit: warm memcpy", "limit: C, huge": "limit: C"}
    for group in sorted(case.values(), key=lambda group: group["size"]):
        for name, seconds in medians(group).items():
            if not name.startswith("limit") or name in wanted:
                point = group["size"], group["size"] / seconds / 1e9
                points.setdefault(wanted.get(name, name), []).append(point)
    lines(axes, points, theme)
    sizes = sorted(group["size"] for group in case.values())
    shown = [sizes[0]]
    for size in sizes[1:]:
        if size >= 16 * shown[-1]:
            shown.append(size)
    axes.set(xscale="log", yscale="log", xlabel="size of the array")
    axes.set_xticks(shown, [report.bytes_of(size) for size in shown])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    return figure


def bars(axes, values, write, theme):
    """Draw a bar for each name, the best on top."""
    names = sorted(values, key=values.get, reverse=True)
    drawn = axes.barh(
        names,
        [values[name] for name in names],
        color=[colour(name, theme) for name in names],
        height=0.68,
    )
    axes.bar_label(drawn, [write(values[name]) for name in names], padding=4, size=10)
    for tick in axes.get_yticklabels():
        if tick.get_text().startswith("memfd"):
            tick.set(weight="bold", color=OURS[theme])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.14)
    axes.figure.subplots_adjust(left=0.23)


def attach(case, theme):
    """First touch by a second process."""
    name = largest(case, "touch")
    size = name.split(",")[0]
    figure, axes = canvas(f"A second process maps {size}, touches every page, drops it")
    milliseconds = {n: value * 1e3 for n, value in medians(case[name]).items()}
    bars(axes, milliseconds, lambda value: f"{value:.3g} ms", theme)
    axes.set_xlabel("milliseconds, less is better")
    return figure


def workers(case, theme):
    """Time over the number of workers."""
    size = largest(case, "touch").split(",")[0]
    figure, axes = canvas(
        f"Share {size} until each of the workers has touched every page"
    )
    points = {}
    for count in (1, 2, 4, 8):
        group = case.get(f"{size}, {count} workers, touch", {"samples": {}})
        for name, seconds in medians(group).items():
            points.setdefault(name, []).append((count, seconds * 1e3))
    lines(axes, points, theme)
    axes.set(
        xscale="log", yscale="log", xlabel="workers",
        ylabel="milliseconds, less is better",
    )  # fmt: skip
    axes.set_xticks((1, 2, 4, 8), ("1", "2", "4", "8"))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return figure


def headline(case, theme):
    """The picture to begin with: small, so that it can be read on a telephone."""
    size, count = largest(case, "touch").split(",")[0], 4
    seconds = medians(case[f"{size}, {count} workers, touch"])
    milliseconds = {
        name: value * 1e3
        for name, value in seconds.items()
        if not name.startswith("limit")
    }
    figure, axes = plt.subplots(figsize=(460 / 72, 420 / 72))
    title = f"Share {size} with {count} running processes"
    figure.text(0.01, 0.96, title, size=14, weight="bold", va="center")
    bars(axes, milliseconds, lambda value: f"{value:,.0f} ms", theme)
    figure.subplots_adjust(left=0.38, right=0.97, top=0.91, bottom=0.13)
    axes.tick_params(axis="y", labelsize=12.5)
    axes.set_xlabel("milliseconds, less is better")
    # A bar that would make all others unreadable ends at the edge, with its number.
    edge = 1.35 * milliseconds["SharedMemory"]
    axes.set_xlim(0, edge)
    plt.setp(axes.texts, size=12)
    for place, name in enumerate(sorted(milliseconds, key=milliseconds.get)[::-1]):
        if milliseconds[name] > edge:
            number = f"{milliseconds[name]:,.0f} ms, beyond the edge"
            axes.text(
                0.95 * edge, place, number, ha="right", va="center", size=12,
                bbox={"facecolor": THEMES[theme]["back"], "lw": 0, "pad": 1.5},
            )  # fmt: skip
    return figure


def memory(case, theme):
    """Proportional set size."""
    size = largest(case)
    figure, axes = canvas(f"Memory of {size} in its sender and 8 readers")
    mebibytes = {
        name: value / (1 << 20)
        for name, value in medians(case[size]).items()
        if name != "memfd, its mappings"
    }
    bars(axes, mebibytes, lambda value: f"{value:,.1f} MiB", theme)
    axes.set_xlabel("MiB, proportional set size, less is better")
    return figure


def stream(case, theme):
    """Frames a second, and memory over time."""
    figure, (above, below) = plt.subplots(
        nrows=2, figsize=(WIDTH, 680 / 72), height_ratios=(5, 6)
    )
    figure.subplots_adjust(top=0.93, bottom=0.14, hspace=0.28)
    title = "Frames of 6 MB from one process to two, which touch every page"
    figure.text(0.01, 0.975, title, size=13.5, weight="bold", va="center")
    rates = {name: 1 / seconds for name, seconds in medians(case["touch"]).items()}
    bars(above, rates, "{:,.0f}".format, theme)
    above.invert_yaxis()  # here more is better
    above.set_xlabel("frames a second")
    group = next(name for name in case if name.startswith("memory"))
    seconds, points = float(group.split()[2]), {}
    for name, samples in case[group]["samples"].items():
        step = seconds / len(samples)
        points[name] = [
            (step * number, value / (1 << 20))
            for number, value in enumerate(samples, 1)
        ]
    lines(below, points, theme)
    for line in below.lines:
        line.set_markevery(max(1, len(line.get_xdata()) // 10))
    below.set(
        yscale="log", xlabel="seconds since the first frame",
        ylabel="MiB more than before",
    )  # fmt: skip
    below.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    below.yaxis.set_major_formatter("{x:,g}")
    below.minorticks_off()
    return figure


if __name__ == "__main__":
    source = pathlib.Path(sys.argv[1])
    draw(json.loads(source.read_text()), source.parent)

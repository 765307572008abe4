"""Small things, in one run: what a memfd costs against C, the standard library and itself.

    python benchmarks/small.py [ROUNDS]

Needs the installed package (never an editable install, which pays at every import), NumPy
and a C compiler.  All ways take turns, so that what else the machine does hits them alike;
read the ratios.  The C program runs twice: alone, and called inside this process.
"""

import ctypes
import importlib.metadata
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import timeit
from multiprocessing.shared_memory import SharedMemory

import numpy as np

import memfd

HERE = pathlib.Path(__file__).parent
BATCH = 200
memset = ctypes.memset


def pair_os():
    os.close(os.memfd_create("small"))


def pair_raw():
    os.close(memfd.memfd_create("small"))


def pair_fileio():
    import io

    io.FileIO(os.memfd_create("small"), "r+b").close()


def pair_create():
    memfd.create("small").close()


def small_raw():
    fd = memfd.memfd_create("small")
    memfd.set_size(fd, 4096)
    address = memfd.map(fd, 4096, True)
    memset(address, 1, 1)
    memfd.unmap(address, 4096)
    os.close(fd)


def small_stdlib():
    import mmap

    fd = os.memfd_create("small")
    os.ftruncate(fd, 4096)
    mapped = mmap.mmap(fd, 4096)
    mapped[0] = 1
    mapped.close()
    os.close(fd)


def small_mapping():
    f = memfd.create("small", 4096)
    mapping = memfd.Mapping(f, "r+")
    memset(mapping.address, 1, 1)
    del mapping
    f.close()


def small_mapping_closed():
    with memfd.create("small", 4096) as f, memfd.Mapping(f, "r+") as mapping:
        memset(mapping.address, 1, 1)


def small_shared_memory():
    block = SharedMemory(create=True, size=4096)
    block.buf[0] = 1
    block.close()
    block.unlink()


def interleaved(ways, rounds):
    """Return name -> microseconds of each round, the ways taking turns."""
    samples = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            samples[name].append(way())
    return samples


def timed(function, number=BATCH):
    return lambda: timeit.timeit(function, number=number) / number * 1e6


def table(title, samples, base, targets=()):
    print(
        f"\n{title}\n{'':34}{'min us':>9}{'ratio':>7}{'median':>9}{'ratio':>7}  target"
    )
    lowest, middle = min(samples[base]), statistics.median(samples[base])
    for name, values in samples.items():
        least, median = min(values), statistics.median(values)
        print(
            f"{name:34}{least:9.2f}{least / lowest:7.2f}{median:9.2f}"
            f"{median / middle:7.2f}  {dict(targets).get(name, '')}"
        )


def c_program(folder, *flags):
    made = pathlib.Path(folder) / f"small{len(flags)}"
    subprocess.run(["cc", "-O2", *flags, "-o", made, HERE / "small.c"], check=True)
    return made


def startup(code):
    """Return a function that measures one fresh interpreter that runs `code`."""
    command = [sys.executable, "-I", "-c", code]
    return lambda: (
        timeit.timeit(lambda: subprocess.run(command, check=True), number=1) * 1e6
    )


def main():
    if importlib.metadata.files("memfd") is None or not any(
        str(path).endswith(".so") for path in importlib.metadata.files("memfd")
    ):
        raise SystemExit("an editable install is not what users run: pip install .")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    print(
        f"memfd {memfd.__version__}, Python {platform.python_version()}, NumPy "
        f"{np.__version__}, Linux {platform.release()} {platform.machine()}, "
        f"{os.cpu_count()} CPUs, {rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as folder:
        program = c_program(folder)
        library = ctypes.CDLL(str(c_program(folder, "-shared", "-fPIC")))
        answer = (ctypes.c_double * 2)()

        def alone(which):
            out = subprocess.run([program, str(BATCH)], capture_output=True, check=True)
            return float(out.stdout.split()[which])

        def inside(which):
            library.measure(BATCH, answer)
            return answer[which]

        pairs = {
            "os.memfd_create + os.close": timed(pair_os),
            "memfd.memfd_create + os.close": timed(pair_raw),
            "io.FileIO(os.memfd_create)": timed(pair_fileio),
            "memfd.create + close": timed(pair_create),
            "C": lambda: alone(0),
        }
        table(
            "create and close",
            interleaved(pairs, rounds),
            "os.memfd_create + os.close",
            {"memfd.memfd_create + os.close": "1.10", "memfd.create + close": "1.60"},
        )
        smalls = {
            "C program": lambda: alone(1),
            "C in this process": lambda: inside(1),
            "raw functions": timed(small_raw),
            "os and mmap": timed(small_stdlib),
            "Memfd + Mapping, dropped": timed(small_mapping),
            "Memfd + Mapping, with": timed(small_mapping_closed),
            "SharedMemory": timed(small_shared_memory),
        }
        samples = interleaved(smalls, rounds)
        table(
            "create, size, map, touch, close 4 KiB",
            samples,
            "C program",
            {"raw functions": "1.25", "Memfd + Mapping, dropped": "1.60"},
        )
        ratio = statistics.median(samples["SharedMemory"]) / statistics.median(
            samples["Memfd + Mapping, with"]
        )
        print(
            f"SharedMemory takes {ratio:.2f} times as long as Memfd + Mapping (target 1.3)"
        )
    array = memfd.share(np.zeros((1000, 100)))
    plain = np.zeros((1000, 100))
    rows = {
        "rows of an ndarray": timed(lambda: [None for _ in plain], 5),
        "rows of an Array": timed(lambda: [None for _ in array], 5),
    }
    table(
        "iterate over 1000 rows", interleaved(rows, rounds), "rows of an ndarray",
        {"rows of an Array": "2.50"},
    )  # fmt: skip
    imports = {
        "python -c pass": startup("pass"),
        "python -c 'import memfd'": startup("import memfd"),
    }
    samples = interleaved(imports, max(rounds // 3, 10))
    table("start an interpreter", samples, "python -c pass")
    more = [b - a for a, b in zip(*samples.values(), strict=True)]
    print(f"import memfd: {statistics.median(more) / 1000:.2f} ms more (target 5)")


if __name__ == "__main__":
    main()

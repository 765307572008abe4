"""Whatever is closed, deleted or truncated, in whatever order: never a signal."""

import importlib.util
import mmap
import signal
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("numpy")

# Runs every order of eight steps on a fresh array each, with something else over the
# same memory alive, and then uses all that is left.  Where it has come to, it notes in a
# mapped file, so that a signal can be traced to the order that raised it.
PROGRAM = """
    import contextlib, gc, itertools, mmap, sys
    import numpy as np
    import memfd

    kind, holder, progress = sys.argv[1:]
    with open(progress, "r+b") as file:
        at = mmap.mmap(file.fileno(), 0)
    if holder == "torch":
        import torch

    def mapping_of(array):
        base = array
        while not isinstance(base, memfd.Mapping):
            base = base.obj if isinstance(base, memoryview) else base.base
        return base

    def delete_array(have): have.pop("a")
    def delete_view(have): have.pop("v")
    def close_memfd(have): have["f"].close()
    def close_mapping(have): have["m"].close()
    def collect(have): gc.collect()
    def truncate(have): have["f"].truncate(0)
    def open_path(have): open(have["f"].path, "wb").close()
    def freeze(have): have["z"] = memfd.freeze(have["a"])

    steps = (delete_array, delete_view, close_memfd, close_mapping, collect, truncate,
             open_path, freeze)
    expected = KeyError, ValueError, BufferError, OSError

    def use(have):
        total = 0
        for name in ("a", "v", "z", "array"):
            if name in have:
                array = have[name]
                total += int(array[0]) + int(array[-1])
                if array.flags.writeable:
                    array[:] = 1
        if "view" in have:
            total += have["view"][0] + have["view"][-1]
        if "tensor" in have:
            total += int(have["tensor"].mul_(2)[0])
        return total

    gc.collect()
    gc.freeze()
    for number, order in enumerate(itertools.permutations(steps)):
        at[:8] = number.to_bytes(8, "little")
        if kind == "r+":
            a = memfd.zeros(600)
            a[:] = 7
        else:
            a = memfd.share(np.full(600, 7.0))
        have = {"a": a, "v": a[1:], "f": a.memfd, "m": mapping_of(a)}
        del a
        if holder == "memoryview":
            have["view"] = memoryview(have["m"])
        elif holder == "ndarray":
            have["array"] = np.ndarray(4000, np.uint8, buffer=have["m"])
        elif holder == "torch":
            have["tensor"] = torch.from_numpy(have["v"])
        for step in order:
            with contextlib.suppress(*expected):
                step(have)
        for name in ("a", "v", "z"):
            assert (have[name] == 7).all() if name in have else True, order
        use(have)
        del have
"""


@pytest.mark.parametrize("kind", ["r+", "r"])
@pytest.mark.parametrize("holder", ["none", "memoryview", "ndarray", "torch"])
def test_every_order_of_closing(tmp_path, kind, holder):
    """All 40,320 orders of eight ways to take things away end without a signal."""
    if holder == "torch" and not importlib.util.find_spec("torch"):
        pytest.skip("torch is not installed")
    progress = tmp_path / "progress"
    progress.write_bytes(bytes(mmap.PAGESIZE))

    finished = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            textwrap.dedent(PROGRAM),
            kind,
            holder,
            str(progress),
        ],
        capture_output=True,
        text=True,
        cwd="/",
    )

    number = int.from_bytes(progress.read_bytes()[:8], "little")
    if finished.returncode < 0:
        died = signal.Signals(-finished.returncode).name
        pytest.fail(f"{died} in order number {number}")
    assert finished.returncode == 0, finished.stderr
    assert number == 40_319

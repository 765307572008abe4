"""Arrays and memfds on their way through loky and joblib, and by value through others."""

import pickle
import subprocess
import sys

import pytest

import memfd

np = pytest.importorskip("numpy")

PROGRAM = """
import os, sys
if {first!r} == "memfd":
    import memfd
{load}
import memfd
import numpy as np

def look(x):
    if isinstance(x, memfd.Memfd):
        return os.getpid(), os.fstat(x.fileno()).st_ino, x.read(), x
    return os.getpid(), os.fstat(x.memfd.fileno()).st_ino, x.sum(), x

array = memfd.share(np.arange(400_000.0))  # joblib copies what has more than 1 MiB
view, memory = array[::-7], memfd.from_bytes(b"contents")
inode = os.fstat(array.memfd.fileno()).st_ino
run = {run}

for _ in range(2):
    answers = run(look, [array, view, memory, array])
    assert os.getpid() not in [pid for pid, *_ in answers]
    assert [inode for _, inode, *_ in answers] == [
        inode, inode, os.fstat(memory.fileno()).st_ino, inode
    ]
    assert [what for _, _, what, _ in answers] == [
        array.sum(), view.sum(), b"contents", array.sum()
    ]
    backs = [back for *_, back in answers]
    assert all(np.shares_memory(back, array) for back in (backs[0], backs[1], backs[3]))
    assert backs[1].strides == view.strides
del answers, backs
assert not any("joblib_memmapping" in line for line in open("/proc/self/maps"))
assert memfd.pending() == 0
"""

WAYS = {
    "loky": (
        "import loky",
        "lambda f, xs: list(loky.get_reusable_executor(max_workers=2).map(f, xs))",
    ),
    "joblib": (
        "from joblib import Parallel, delayed",
        "lambda f, xs: Parallel(n_jobs=4)(delayed(f)(x) for x in xs)",
    ),
}


@pytest.mark.parametrize("first", ["memfd", "the other"])
@pytest.mark.parametrize("way", WAYS)
def test_descriptors_travel(tmp_path, way, first):
    """The same memory arrives and comes back, whatever was imported first; no copy."""
    pytest.importorskip(way)
    load, call = WAYS[way]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(first=first, load=load, run=call))
    subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", program],
        check=True,
        timeout=100,
        cwd="/",
    )


@pytest.mark.parametrize("module", ["loky", "joblib.externals.loky"])
def test_both_copies_of_loky_know_our_types(run, module):
    """Also when they are imported before arrays are."""
    pytest.importorskip(module)
    run(f"""
        import importlib
        import memfd
        reduction = importlib.import_module("{module}.backend.reduction")
        assert memfd.Memfd in reduction._dispatch_table
        assert memfd.Array in reduction._dispatch_table
        assert "memfd" not in type(reduction.__loader__).__module__
    """)


def test_cloudpickle_sends_the_data_once():
    """Elsewhere an ordinary array arrives, with its data beside the stream, once."""
    cloudpickle = pytest.importorskip("cloudpickle")
    array = memfd.share(np.arange(100_000.0))
    for sent in (array, array.reshape(10, -1).T):
        buffers = []
        stream = cloudpickle.dumps(
            {"array": sent, "again": sent}, protocol=5, buffer_callback=buffers.append
        )
        assert len(stream) < 2000
        assert [buffer.raw().nbytes for buffer in buffers] == [array.nbytes]
        got = pickle.loads(stream, buffers=buffers)
        assert type(got["array"]) is np.ndarray
        assert got["array"] is got["again"]
        np.testing.assert_array_equal(got["array"], sent)
    with pytest.raises(TypeError, match="on its way to another process"):
        cloudpickle.dumps(array.memfd)


def test_cloudpickle_without_buffers():
    """In one stream, and for what is not contiguous, the contents are right."""
    cloudpickle = pytest.importorskip("cloudpickle")
    array = memfd.share(np.arange(1000.0))
    for sent in (array, array[::-3], array[:0]):
        got = pickle.loads(cloudpickle.dumps(sent))
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, sent)

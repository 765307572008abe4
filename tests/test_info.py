"""Memfd.info(): what the kernel says about the memory of a memfd."""

import mmap
import os

import numpy as np
import pytest

import memfd
from memfd import Seal, _mapping

PAGE = mmap.PAGESIZE
HUGE = _mapping.HUGE_PAGE_SIZE or 2 << 20


def tells():
    """Tell whether the kernel maps pages where it is asked to (Linux 5.14)."""
    with mmap.mmap(-1, PAGE) as memory:
        try:
            memory.madvise(22)  # MADV_POPULATE_READ
        except OSError:
            return False
    return True


def test_holes_take_no_memory():
    """Only pages that were touched are resident."""
    with memfd.create(size=8 * PAGE) as f:
        assert f.info() == (8 * PAGE, 0, 0)
        f.write(b"x" * PAGE)
        f.seek(5 * PAGE)
        f.write(b"x")
        info = f.info()
        assert (info.size, info.resident, info.huge) == (8 * PAGE, 2 * PAGE, 0)
        assert f.tell() == 5 * PAGE + 1
    with memfd.create() as f:
        assert f.info() == (0, 0, 0)


def test_asking_makes_no_pages():
    """A file with holes has as many after it was asked."""
    with memfd.create(size=9 * HUGE) as f:
        f.seek(3 * HUGE + 1)
        f.write(bytes(HUGE + 5))
        before = os.fstat(f.fileno()).st_blocks
        assert (f.info().huge is not None) == tells()
        assert os.fstat(f.fileno()).st_blocks == before


def test_every_kind_of_memfd_can_be_asked():
    """Sealed, unsealable, read-only and received ones answer alike."""
    data = bytes(3 * HUGE)
    with memfd.from_bytes(data, huge="never") as sealed:
        assert sealed.info() == (len(data), len(data), 0 if tells() else None)
        with sealed.reopen() as reader:
            assert reader.info() == sealed.info()
        with memfd.Memfd.from_fd(os.dup(sealed.fileno())) as received:
            assert received.info() == sealed.info()
    with pytest.raises(ValueError, match="closed"):
        sealed.info()
    with memfd.create(sealable=False) as f:
        f.write(data)
        assert f.info().resident == len(data)
    with memfd.create(size=4 * HUGE) as f:
        f.seal(Seal.FUTURE_WRITE | Seal.SHRINK)
        assert f.info() == (4 * HUGE, 0, 0)


def test_without_proc(run, namespace):
    """Where /proc is not mounted, what it would tell is None."""
    out = run(
        """
        import memfd
        f = memfd.from_bytes(bytes(8 << 20))
        print(f.info())
        """,
        wrapper=[*namespace("--mount"), "sh", "-c", 'umount -l /proc && "$@"', "sh"],
    )
    assert out == f"Info(size={8 << 20}, resident={8 << 20}, huge=None)\n"


def test_populated_array():
    """populate=True makes all pages, huge ones where the kernel can."""
    a = memfd.empty(9 << 20, "u1", populate=True)
    info = a.memfd.info()

    if info.resident < a.nbytes:
        pytest.skip("this kernel has no MADV_POPULATE_WRITE (Linux 5.14)")
    assert info.resident <= a.nbytes * 5 / 4
    a[:] = 7
    assert a.memfd.info().resident == info.resident
    assert (np.asarray(memfd.freeze(a)) == 7).all()
    if info.huge == 0:
        pytest.skip("this kernel makes no huge pages of it")
    assert info.huge >= HUGE


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_received_array_gets_no_pages(mode):
    """Attaching makes no page: that would be at the reader's cost."""
    a = memfd.empty(16 << 20, "u1")
    before = a.memfd.info().resident

    b = memfd.attach(a.memfd.fileno(), mode)
    assert b.memfd.info().resident == before
    assert memfd.attach(a.memfd.path, mode).memfd.info().resident == before
    assert before <= 2 * PAGE

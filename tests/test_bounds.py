"""Copies end where they should: pages beside the memory that nobody may touch.

What a sanitizer sees is memory of malloc.  Ours is mapped, so it lies between guards here.
"""

import pytest

HELPERS = """
    import ctypes, mmap, os, random
    import memfd
    from memfd import _block, _fill, _mapping

    PAGE = mmap.PAGESIZE
    HUGE = _mapping.HUGE_PAGE_SIZE
    MIB = 1 << 20
    NOREPLACE = 0x100000
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [
        ctypes.c_long
    ]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    bytes_of = random.Random(0).randbytes

    def guard(at=None):
        "Map a page that nobody may touch, unless something is there."
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (NOREPLACE if at else 0)
        libc.mmap(at, PAGE, 0, flags, -1, 0)

    def is_guard(at):
        "Tell whether the page at an address is one of those."
        with open("/proc/self/maps") as file:
            for line in file:
                start, end = (int(n, 16) for n in line.split()[0].split("-"))
                if start <= at < end:
                    return line.split()[1].startswith("---")
        return False

    def is_guarded(start, end):
        return is_guard(start - PAGE) and is_guard(end)

    def mapping_of(f):
        "Return where the only mapping of a file starts and ends."
        inode = str(os.fstat(f.fileno()).st_ino)
        with open("/proc/self/maps") as file:
            found = [line.split() for line in file]
        (line,) = [words[0] for words in found if words[4] == inode and "memfd" in words[5]]
        return tuple(int(n, 16) for n in line.split("-"))

    class Guarded:
        "Memory with a guard before it and one after it."

        def __init__(self, size):
            self.size = size
            length = -(-size // PAGE) * PAGE
            self.whole = mmap.mmap(-1, length + 2 * PAGE)
            view = memoryview(self.whole)
            address = ctypes.addressof(ctypes.c_char.from_buffer(self.whole))
            for at in address, address + PAGE + length:
                assert libc.mprotect(at, PAGE, 0) == 0
            assert is_guarded(address + PAGE, address + PAGE + length)
            self.first = view[PAGE : PAGE + size]
            self.last = view[PAGE + length - size : PAGE + length]

        def both(self, data):
            "The data right after the first guard, then right before the last one."
            self.first[:] = data
            yield self.first
            self.last[:] = data
            yield self.last
"""

SIZES = "[1, 63, 4095, 4096, 4097, 65537, MIB - 1, MIB + 1]"


@pytest.mark.parametrize("huge", ["auto", "always", "never"])
def test_sources_are_read_to_their_end(run, huge):
    """Copying in reads no byte before the source and none after it."""
    run(
        HELPERS
        + f"""
    huge, sizes = {huge!r}, {SIZES}
    for size in sizes:
        data = bytes_of(size)
        for offset in 0, 4095:
            for source in Guarded(size).both(data):
                with memfd.create() as f:
                    _fill.fill(f, source, offset, huge=huge)
                    assert os.pread(f.fileno(), size + 1, offset) == data
                with memfd.create() as f:
                    head = Guarded(129)
                    for first in head.both(data[:129].ljust(129)):
                        _fill.fill(f, source, offset, head=first, huge=huge)
                        there = os.pread(f.fileno(), size + 130, offset)
                        assert there == bytes(first) + data
        """
    )


def test_what_is_copied_from_memory_is_read_to_its_end(run):
    """Every public way in stays within the buffer that it was given."""
    pytest.importorskip("numpy")
    run(
        HELPERS
        + f"""
    import numpy as np
    pool = memfd.BufferPool()
    for size in {SIZES}:
        data = bytes_of(size)
        for source in Guarded(size).both(data):
            with memfd.from_bytes(source) as f:
                assert f.read() == data
            with memfd.create(size=size + 8) as f:
                f.seek(3)
                assert f.write(source) == size
                assert os.pread(f.fileno(), size + 9, 0) == bytes(3) + data + bytes(5)
            array = np.frombuffer(source, np.uint8)
            for order in array, array[::-1]:
                assert memfd.share(order).tobytes() == order.tobytes()
                assert memfd.share(order, huge="always").tobytes() == order.tobytes()
                assert pool.put(order).tobytes() == order.tobytes()
            assert memfd.share({{"a": array, "b": array}})["b"].tobytes() == data
            with memfd.dump(array) as f:
                assert memfd.load(f).tobytes() == data
        """
    )


def test_blocks_are_written_to_their_end(run):
    """A frame is written, cleared and marked up to the last byte of its block."""
    run(
        HELPERS
        + """
    kept = []

    def guarded_block(size):
        # One below the other: where a gap is used up, the next three pages are neighbours.
        for _ in range(10_000):
            guard()
            with memfd.create(size=size) as f:
                kept.append(_block.Block(f, huge="never"))
                start, end = mapping_of(f)
            guard()
            if is_guarded(start, end):
                return kept.pop(), start, end
        raise AssertionError("no place for a guard")

    for size in PAGE, 3 * PAGE, MIB, MIB + PAGE - 61, 17 * PAGE - 1:
        block, start, end = guarded_block(size)
        frame = _block.claim_new(block, _block.Frame)
        for length in 1, 61, PAGE - 1, PAGE, size - 1, size:
            data = bytes_of(length)
            for source in Guarded(length).both(data):
                for at in {0, size - length, (size - length) // 2 | 1}:
                    if at + length > size:
                        continue
                    frame._write(source, at)
                    assert ctypes.string_at(start + at, length) == data
        for room in _block.MARK_SIZE + 1, _block.MARK_SIZE + 2, size:
            frame._begin(bytes(room))
        frame._show(True)
        del frame
        frame = _block.claim([block], size, _block.Frame)
        memoryview(frame)[:] = b"x" * size
        for at in size, size - 1, size // 2 | 1, 1:
            frame._clear(at)
            assert ctypes.string_at(start + at, size - at) == bytes(size - at)
            assert ctypes.string_at(start, at) == b"x" * at
        # The rest of the last page is nobody's.
        assert not any(ctypes.string_at(start + size, end - start - size))
        """
    )


def test_huge_pages_are_filled_to_their_end(run):
    """What is copied through a mapping reaches no byte beside it."""
    run(
        HELPERS
        + """
    if not HUGE:
        raise SystemExit(0)
    def guarded_filler(begin, end, kept):
        # It lies at a huge page, and what was reserved around it has been given back.
        for _ in range(100):
            f = memfd.create(size=end)
            kept.append((f, _fill.Filler(f, begin, end, "always")))
            first, last = mapping_of(f)
            guard(first - PAGE)
            guard(last)
            if is_guarded(first, last):
                return kept[-1]
        raise AssertionError("no place for a guard")

    for size in HUGE, 2 * HUGE - 1, 2 * HUGE + 4097:
        data = bytes_of(size)
        memory = Guarded(size)
        for begin, step in (0, size), (1, 65521), (HUGE - 1, HUGE):
            kept = []
            f, filler = guarded_filler(begin, begin + size, kept)
            for source in memory.both(data):
                for at in range(0, size, step):
                    filler.write(source, begin + at, at, min(at + step, size))
            assert os.pread(f.fileno(), begin + size + 1, 0) == bytes(begin) + data
            for f, filler in kept:
                filler.close()
                f.close()
        """
    )

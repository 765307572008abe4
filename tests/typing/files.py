"""The types of files, mappings, objects, and what is said about them."""

import io
import mmap
import os
import pickle
from typing import assert_type

import memfd


def check_files() -> None:
    with memfd.create("it", size=10, sealable=True, hugetlb=None) as f:
        assert_type(f, memfd.Memfd)
        assert_type(f.fileno(), int)
        assert_type(f.name, str)
        assert_type(f.path, str)
        assert_type(f.size, int)
        assert_type(f.seals, memfd.Seal)
        assert_type(f.closed, bool)
        assert_type(f.write(b"data"), int)
        assert_type(f.seek(0), int)
        assert_type(f.tell(), int)
        assert_type(f.read(2), bytes)
        assert_type(f.readall(), bytes)
        assert_type(f.readinto(bytearray(2)), int)
        assert_type(f.truncate(20), int)
        assert_type(f.info().resident, int)
        assert_type(f.info().huge, int | None)
        with f.reopen("r+") as again:
            assert_type(again, memfd.Memfd)
        with f.mmap("c", size=20) as standard:
            assert_type(standard, mmap.mmap)
        assert_type(f.seal(), memfd.Seal)
        as_raw: io.RawIOBase = f
        assert as_raw is f


def check_contents() -> None:
    with memfd.from_bytes(memoryview(b"data"), b"it", huge="never", threads=1) as f:
        assert_type(f, memfd.Memfd)
        fd = os.dup(f.fileno())
    adopted = memfd.Memfd.from_fd(
        fd, require=memfd.Seal.IMMUTABLE, max_size=1 << 20, dense=True, copy=False
    )
    assert_type(adopted, memfd.Memfd)
    adopted.close()


def check_mappings() -> None:
    with memfd.create(size=4096) as f, memfd.Mapping(f, "r+") as mapping:
        assert_type(mapping, memfd.Mapping)
        assert_type(mapping.address, int)
        assert_type(mapping.offset, int)
        assert_type(mapping.size, int)
        assert_type(len(mapping), int)
        assert_type(mapping.closed, bool)
        mode: str = mapping.mode
        assert mode == "r+"
        memoryview(mapping).release()
        mapping.close()


def check_objects() -> None:
    with memfd.dump({"a": [1, 2]}, name="it", pickler=pickle.Pickler) as f:
        assert_type(f, memfd.Memfd)
        loaded: dict[str, list[int]] = memfd.load(f, "r")
        assert loaded["a"] == [1, 2]
        description = memfd.describe(f)
        assert_type(description.size, int)
        for part in description.parts:
            assert_type(part.name, str)
            assert_type(part.dtype, str | None)
            assert_type(part.offset, int)


def check_listing() -> None:
    with memfd.create("it"):
        listing = memfd.ls()
        for row in listing["memfds"]:
            assert_type(row["name"], str)
            assert_type(row["size"], int | None)
            for holder in row["holders"]:
                assert_type(holder["pid"], int)
    assert_type(memfd.pending(), int)

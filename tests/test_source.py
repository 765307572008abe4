"""The source of a copy: whatever its layout, the copy is what NumPy would make."""

import sys

import numpy as np
import pytest

import memfd

BLOCK = 256 << 10

base = np.arange(3 * 80 * 90 * 41, dtype="f8").reshape(3, 80, 90, 41)
records = np.zeros(60_000, np.dtype([("a", "u1"), ("b", "f8")], align=True))
records["a"], records["b"] = np.arange(60_000) % 251, np.arange(60_000)

SOURCES = {
    "steps": base[::2, :, ::-1],
    "reversed": base[::-1, ::-1, ::-1, ::-1],
    "inner steps": base[..., ::3],
    "transposed": base.T,
    "axes moved": base.transpose(2, 0, 3, 1),
    "fortran": np.asfortranarray(base),
    "fortran, cut": np.asfortranarray(base)[:, 1:],
    "byte-swapped": base.astype(">f8")[:, ::2],
    "broadcast": np.broadcast_to(np.arange(70_000.0), (3, 70_000)),
    "one column": np.ones((90_000, 3))[:, 1],
    "records": records[::-1],
    "field": records["b"],
    "datetimes": np.arange(80_000).astype("M8[s]")[::2],
    "text": np.array(["a", "bcd"] * 30_000)[::2],
    "bools": (base > 7)[::-1],
    "large items": np.zeros((4, 3), "V200000")[:, ::2],
    "new axis": base[:, None, :, ::2],
    "in the small": base[0, 0, ::2, ::2],
}


@pytest.mark.parametrize("order", "KACF")
@pytest.mark.parametrize("name", SOURCES)
def test_layouts(name, order):
    """Views of every layout arrive with their values, dtype, shape and order."""
    source = SOURCES[name]
    expected = source.copy(order="A" if order == "K" else order)

    for huge in ("auto", "never"):
        a = memfd.share(source, order=order, huge=huge)
        assert a.dtype == source.dtype
        assert a.shape == source.shape
        assert a.flags.c_contiguous == expected.flags.c_contiguous
        assert a.flags.f_contiguous == expected.flags.f_contiguous
        assert (a == source).all()
        np.testing.assert_array_equal(np.load(a.memfd.path), source)


@pytest.mark.parametrize("order", "KCF")
@pytest.mark.parametrize("to", ["f4", ">f8", "i8", "c16", "U8", "S", "f8", bool, float])
def test_conversion(to, order):
    """`dtype` gives what astype gives."""
    for source in (base[0, ::2], base[0].T, base[:, 0]):
        expected = source.astype(to)
        a = memfd.share(source, dtype=to, order=order)
        assert a.dtype == expected.dtype
        assert (a == expected).all()


def test_conversion_completes_a_type_from_the_data():
    """A unit, a length or a subarray that `dtype` leaves open is NumPy's to find."""
    times = np.arange(80_000).astype("M8[ms]")[::2]
    assert memfd.share(times, dtype="M8").dtype == times.astype("M8").dtype
    words = np.array(["a", "bcd"] * 30_000)[::2]
    assert memfd.share(words, dtype="S").dtype == "S3"
    assert memfd.share([1, 2], dtype="f4").dtype == "f4"
    objects = np.array([1, 2, 3], object)
    assert memfd.share(objects, dtype="i8").tolist() == [1, 2, 3]


@pytest.mark.parametrize("order", "KCF")
def test_a_subarray_adds_dimensions(order):
    """Each element fills one, whatever the order of the source; in lists, too."""
    part = base[0, :3, :4, 0]
    for source in (part, part.T, memoryview(part.copy("F")), [[1, 2, 3]], np.ones(9)):
        elements = np.asarray(source)
        a = memfd.share(source, dtype="(2,)i4", order=order)
        assert (a.dtype, a.shape) == (np.dtype("i4"), (*elements.shape, 2))
        assert (a[..., 0] == elements).all()
        assert (a[..., 1] == elements).all()


def test_a_conversion_that_loses_warns_as_numpy_does():
    """A lost imaginary part is not lost in silence, in blocks neither."""
    source = np.ones((300, 300), "c16")[:, ::-1]

    with pytest.warns(np.exceptions.ComplexWarning):
        memfd.share(source, dtype="f8")


@pytest.mark.parametrize("count", [1000, 60_000])
def test_padding_holds_nothing_of_ours(count):
    """What lies between the fields of a copied record is the source's, or zero."""
    source = records[:count].copy()
    source.view(np.uint8).reshape(count, -1)[:, 1:8] = 0xAB
    junk = [np.full(1 << n, 0xCD, np.uint8) for n in range(10, 20)]
    del junk  # the allocator hands this out again

    a = memfd.share(source[::-1])
    padding = np.frombuffer(a.memfd.read()[-a.nbytes :], np.uint8).reshape(count, -1)
    assert set(padding[:, 1:8].ravel().tolist()) <= {0, 0xAB}


def test_a_source_that_is_no_array():
    """Lists, scalars and buffers are taken as NumPy takes them."""
    assert memfd.share([[1, 2], [3, 4]], order="F").flags.f_contiguous
    assert memfd.share(7).shape == ()
    assert memfd.share(memoryview(b"abc")).tolist() == [97, 98, 99]
    big = list(range(100_000))
    assert memfd.share(big, dtype=">i4").tolist() == big


def test_files_in_memory_and_matrices(tmp_path):
    """memmap and matrix are arrays: what they note says nothing about their values."""
    np.save(tmp_path / "a.npy", np.arange(12.0).reshape(3, 4))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for source in (mapped, mapped[1:, ::2], np.arange(6).reshape(2, 3).view(np.matrix)):
        for a in (memfd.share(source), memfd.share({"x": source})["x"]):
            assert type(a) is memfd.Array
            np.testing.assert_array_equal(a, np.asarray(source))
    mapped.unit = "m"
    with pytest.raises(TypeError, match="carries unit, which"):
        memfd.share(mapped)


def test_no_second_copy_in_memory(run):
    """A view that is not contiguous is shared where there is no room for a second copy."""
    run(
        """
        import resource
        import numpy as np, memfd

        source = np.ones((16, 1 << 20))[:, ::2]  # 64 MiB in 128
        source[3, 5] = 7
        def limit(room):
            with open("/proc/self/status") as file:
                data = next(int(x.split()[1]) for x in file if x.startswith("VmData"))
            soft = (data << 10) + room if room else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_DATA, (soft, resource.RLIM_INFINITY))

        limit(16 << 20)
        try:
            np.ascontiguousarray(source)
        except MemoryError:
            limit(None)
        else:
            raise AssertionError("the limit allows a copy")
        for options in {}, {"dtype": ">f8"}, {"dtype": "f4"}, {"order": "F"}:
            limit(16 << 20)
            a = memfd.share(source, **options)
            limit(None)
            assert (a == source).all(), options
            del a
        """
    )


@pytest.mark.skipif(sys.maxsize < 2**32, reason="needs 64-bit addresses")
def test_many_dimensions():
    """As many dimensions as NumPy allows are cut into blocks."""
    a = np.arange(2**17, dtype="f8").reshape((2,) * 17 + (1,) * 10)[::-1]

    assert (memfd.share(a.T) == a.T).all()
    assert a.nbytes > BLOCK

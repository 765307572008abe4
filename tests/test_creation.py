"""New arrays: empty, zeros, full, and those like another."""

import io
import os

import pytest

import memfd

np = pytest.importorskip("numpy")

RECORD = np.dtype([("a", "i1"), ("b", "f8", (2,)), ("c", [("x", "<u2"), ("y", "S3")])])


@pytest.mark.parametrize(
    "call",
    [
        lambda: memfd.empty(3, order="X"),
        lambda: memfd.empty(-1),
        lambda: memfd.empty((2, -3)),
        lambda: memfd.empty((1 << 40, 1 << 40)),
        lambda: memfd.empty_like(np.arange(3), order="X"),
    ],
)
def test_nonsense_is_a_value_error(call):
    """Orders and shapes that cannot be are refused; nothing is left behind."""
    with pytest.raises(ValueError, match="got|must|many"):
        call()


@pytest.mark.parametrize(
    "shape", [3, [2, 3], np.int8(3), np.array(3), np.array([2, 3])]
)
def test_what_a_shape_can_be(shape):
    """An integer, or several in whatever holds them."""
    assert memfd.zeros(shape).shape == np.zeros(shape).shape


@pytest.mark.parametrize(
    "shape", [3.0, (3.0, 2), "3", ("3",), None, (2, None), [[2, 3]]]
)
def test_what_no_shape_can_be(shape):
    """The error names the shape."""
    with pytest.raises(TypeError, match="shape must be int or a tuple of int, got"):
        memfd.zeros(shape)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", "i2", RECORD, "M8[s]", ">f4"])
@pytest.mark.parametrize("shape", [(), 3, (2, 3), (0, 2), (3, 1)])
def test_empty_zeros_full(shape, dtype, order):
    """Each makes an array like NumPy's, writable, and a .npy file that says the same."""
    like = np.zeros(shape, dtype, order)

    for make in (memfd.empty, memfd.zeros):
        a = make(shape, dtype, order)
        assert (a.shape, a.dtype) == (like.shape, like.dtype)
        assert a.size == 0 or a.strides == like.strides
        assert a.flags.writeable
        saved = io.BytesIO()
        np.save(saved, like)
        assert os.pread(a.memfd.fileno(), 1 << 20, 0) == saved.getvalue()
    a = memfd.full(shape, np.ones((), dtype), order=order)
    np.testing.assert_array_equal(a, np.full(shape, np.ones((), dtype)))


def test_like_forms_follow_their_prototype():
    """Shape, type and order come from the prototype, or from the arguments."""
    prototype = np.asfortranarray(np.ones((2, 3), "f4"))

    for a in (
        memfd.empty_like(prototype),
        memfd.zeros_like(prototype),
        memfd.full_like(prototype, 0),
    ):
        assert (a.shape, a.dtype, a.flags.f_contiguous) == ((2, 3), np.float32, True)
        assert not a.any()
    a = memfd.zeros_like(prototype, dtype=int, order="C", shape=5)
    assert (a.shape, a.dtype.kind) == ((5,), "i")
    assert memfd.full_like([1, 2], 1.5, dtype=float).tolist() == [1.5, 1.5]


def test_populate_makes_the_pages():
    """populate=True takes the memory at once; the default does not."""
    lazy, eager = memfd.empty(1 << 18), memfd.empty(1 << 18, populate=True)

    assert os.fstat(lazy.memfd.fileno()).st_blocks * 512 < 1 << 16
    if os.fstat(eager.memfd.fileno()).st_blocks * 512 < eager.nbytes:
        pytest.skip("this kernel has no MADV_POPULATE_WRITE (Linux 5.14)")

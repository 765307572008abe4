"""Arrays, one or many in one memfd."""

from types import SimpleNamespace

import numpy as np

import memfd

from .operation import HUGE, SEALED, numbers, operation


def right_array(wanted, seals=SEALED):
    def right(given, array):
        assert type(array) is memfd.Array
        assert np.array_equal(array, wanted)
        assert array.memfd.seals & seals == seals

    return right


@operation("share()", "share", right=right_array(numbers()))
def _(given):
    return memfd.share(numbers())


@operation('share(mode="r+")', "share", right=right_array(numbers(), 6))
def _(given):
    return memfd.share(numbers(), mode="r+")


BIG = numbers(HUGE // 4 + 5)


@operation("share(), 2 MiB", "share", right=right_array(BIG))
def _(given):
    return memfd.share(BIG)


@operation('share(huge="always")', "share", right=right_array(BIG))
def _(given):
    return memfd.share(BIG, huge="always")


@operation("share(), strided, 2 MiB", "share", right=right_array(BIG[::2]))
def _(given):
    return memfd.share(BIG[::2])


MANY = {"x": numbers(), "y": BIG}


def right_arrays(given, arrays):
    assert type(arrays) is memfd.ArrayDict
    for name, array in MANY.items():
        assert np.array_equal(arrays[name], array)
    assert arrays.memfd.seals & 6


@operation("share() of a dict", "share", "ArrayDict", right=right_arrays)
def _(given):
    return memfd.share(MANY)


@operation(
    'share(mode="r+") of an ArrayDict',
    "share",
    "ArrayDict",
    given=lambda: SimpleNamespace(arrays=memfd.share(MANY)),
    right=right_arrays,
)
def _(given):
    return memfd.share(given.arrays, mode="r+")


@operation(
    "share() of what is immutable",
    "share",
    given=lambda: SimpleNamespace(array=memfd.share(numbers())),
    right=right_array(numbers()),
)
def _(given):
    return memfd.share(given.array)


ZEROS = np.zeros(1000)


@operation("empty()", "empty", "zeros", right=right_array(ZEROS, 6))
def _(given):
    return memfd.empty(1000)


@operation(
    "empty(populate=True), 2 MiB",
    "empty",
    "zeros",
    "empty_like",
    "zeros_like",
    right=right_array(np.zeros(BIG.shape), 6),
)
def _(given):
    return memfd.empty_like(BIG, float, populate=True)


@operation("full()", "full", "full_like", right=right_array(np.full(1000, 7.0), 6))
def _(given):
    return memfd.full(1000, 7.0)


def _attaching(mode, size):
    @operation(
        f'attach(mode="{mode}"), {size} bytes',
        "attach",
        given=lambda: SimpleNamespace(
            f=memfd.share(numbers(size // 4), mode="r+").memfd
        ),
        right=right_array(numbers(size // 4), 6),
    )
    def _(given):
        return memfd.attach(given.f, mode)


for _mode in ("r", "r+", "c"):
    _attaching(_mode, 4000)
_attaching("r", HUGE)


@operation(
    "attach() of a descriptor",
    "attach",
    given=lambda: SimpleNamespace(f=memfd.share(numbers()).memfd),
    right=right_array(numbers()),
    documented=[("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return memfd.attach(given.f.fileno())


@operation(
    "attach() of a path",
    "attach",
    given=lambda: SimpleNamespace(f=memfd.share(numbers()).memfd),
    right=right_array(numbers()),
    documented=[("fcntl F_GET_SEALS", "ValueError")],
)
def _(given):
    return memfd.attach(given.f.path)


@operation(
    "attach() of an Array",
    "attach",
    given=lambda: SimpleNamespace(array=memfd.share(numbers())),
    right=right_array(numbers()),
)
def _(given):
    return memfd.attach(given.array, "c")


@operation(
    "attach() of an ArrayDict",
    "attach",
    "ArrayDict",
    given=lambda: SimpleNamespace(f=memfd.share(MANY).memfd),
    right=right_arrays,
)
def _(given):
    return memfd.attach(given.f)


def _writable(array):
    def given():
        a = memfd.share(array, mode="r+")
        return SimpleNamespace(a=a)

    return given


def _frozen(before, now):
    """Sealed already: the array goes on alone, as those do that were frozen."""
    if isinstance(now["a"][0], dict):
        return now["a"][1] is None
    return now["a"][:2] == before["a"][:2] and now["a"][3] is None


# A child has what was writable while it was forked, until it ends.
FORKED = ("OSError", "BufferError")


@operation(
    "freeze()",
    "freeze",
    given=_writable(numbers()),
    right=right_array(numbers()),
    forked=FORKED,
    interrupted=_frozen,
)
def _(given):
    return memfd.freeze(given.a)


@operation(
    "freeze(), 2 MiB",
    "freeze",
    given=_writable(BIG),
    right=right_array(BIG),
    forked=FORKED,
    interrupted=_frozen,
)
def _(given):
    return memfd.freeze(given.a)


@operation(
    "freeze() of an ArrayDict",
    "freeze",
    "ArrayDict",
    given=_writable(MANY),
    right=right_arrays,
    forked=FORKED,
    interrupted=_frozen,
)
def _(given):
    return memfd.freeze(given.a)


@operation(
    "freeze(copy=True)",
    "freeze",
    given=_writable(numbers()),
    right=right_array(numbers()),
)
def _(given):
    return memfd.freeze(given.a, copy=True)

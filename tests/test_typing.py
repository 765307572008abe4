"""What tests/typing says of types is true when it runs, and leaves no public name out.

Type checkers read the same files (``bash .ci/run types``): what holds there and here is
what users can rely on.
"""

import ast
import pathlib
import runpy
import types
import typing

import pytest

import memfd
import memfd.aio

FOLDER = pathlib.Path(__file__).with_name("typing")
PROGRAMS = ("arrays", "files", "passing", "system")


def check(value, kind):
    """Stand in for assert_type(): the value is of this type, also where it runs."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return
    if origin is None or isinstance(kind, types.UnionType):
        assert isinstance(value, kind), (value, kind)
        return
    assert isinstance(value, origin), (value, kind)
    if hasattr(value, "dtype"):
        shape, dtype = arguments
        if ... not in typing.get_args(shape):
            assert value.ndim == len(typing.get_args(shape)), (value, kind)
        assert typing.get_args(dtype) == (value.dtype.type,), (value, kind)


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_said_of_types_is_true(name, monkeypatch):
    """Each assert_type() holds for the value that is there."""
    pytest.importorskip("numpy")
    checked = []

    def assert_type(value, kind):
        check(value, kind)
        checked.append(kind)
        return value

    monkeypatch.setattr(typing, "assert_type", assert_type)
    program = runpy.run_path(str(FOLDER / f"{name}.py"))
    for label, function in program.items():
        if label.startswith("check_"):
            before = len(checked)
            function()
            assert len(checked) > before, label

    assert checked


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, str),
        (None, int | str),
        ([1], dict[str, str]),
        ("vector", "Array[tuple[int, int], np.dtype[np.float64]]"),
        ("vector", "Array[tuple[int], np.dtype[np.int16]]"),
    ],
)
def test_what_is_not_true_is_noticed(value, kind):
    """The stand-in for assert_type() refuses other types, elements and shapes."""
    if value == "vector":
        np = pytest.importorskip("numpy")
        value, kind = memfd.zeros(3), eval(kind, {"np": np, "Array": memfd.Array})
    with pytest.raises(AssertionError):
        check(value, kind)


def test_every_public_name_is_used():
    """The names of the package, and the methods of its classes, all have their types."""
    pytest.importorskip("numpy")
    used, attributes = set(), set()
    for name in PROGRAMS:
        for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
            if isinstance(node, ast.Attribute):
                attributes.add(node.attr)
                used.add(ast.unparse(node))

    names = {f"memfd.{name}" for name in (*memfd.__all__, "map")}
    names |= {f"memfd.aio.{name}" for name in memfd.aio.__all__}
    assert names - used == set()
    for name in memfd.__all__:
        public = getattr(memfd, name)
        if isinstance(public, type):
            methods = {name for name in vars(public) if name[0] != "_"}
            assert methods - attributes == set(), name

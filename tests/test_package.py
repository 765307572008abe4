"""The package as a whole: names, installed files, examples, and the leak check itself."""

import doctest
import importlib
import importlib.metadata
import inspect
import pathlib
import subprocess
import sys
import textwrap

import pytest

import memfd

ROOT = pathlib.Path(__file__).parents[1]
MODULES = (
    "memfd",
    "_core",
    "_mapping",
    "_foreign",
    "_file",
    "_npy",
    "_objects",
    "_array",
    "_arraydict",
    "_share",
    "_describe",
    "_listing",
    "_reduction",
    "_socket",
    "aio",
)
PAGES = [path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))]


def test_every_public_name_exists_and_is_documented():
    """__all__ is what there is; what can carry a docstring has one with an example."""
    for name in memfd.__all__:
        public = getattr(memfd, name)
        assert name in dir(memfd)
        if inspect.isroutine(public):
            assert "Examples" in public.__doc__, name
            assert "Returns" in public.__doc__ or "Raises" in public.__doc__, name
        elif inspect.isclass(public) and name != "SealError":
            assert "Examples" in public.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        memfd.nonsense  # noqa: B018


def test_star_import_takes_no_builtin_away():
    """from memfd import * shadows nothing."""
    import builtins

    assert not set(memfd.__all__) & set(vars(builtins))
    assert callable(memfd.map)


def test_version_is_written_once():
    """The version of the module is that of the installed package."""
    assert memfd.__version__ == importlib.metadata.version("memfd")


def test_installed_files():
    """The package holds what Python, Cython and type checkers need, and no sources."""
    if not importlib.metadata.files("memfd"):
        pytest.skip("no list of installed files")
    files = {
        path.name
        for path in importlib.metadata.files("memfd")
        if path.parts[0] == "memfd" and path.suffix not in (".pyc",)
    }
    if not files:
        pytest.skip("an editable install lists no files")
    elsewhere = {str(path) for path in importlib.metadata.files("memfd")}
    for page in (
        "man/man1/memfd.1",
        "bash-completion/completions/memfd",
        "zsh/site-functions/_memfd",
        "fish/vendor_completions.d/memfd.fish",
    ):
        assert any(path.endswith(f"/share/{page}") for path in elsewhere), page
    compiled = {name for name in files if name.endswith(".so")}
    assert {name.partition(".")[0] for name in compiled} == {
        "_block",
        "_core",
        "_descriptors",
        "_fill",
        "_loan",
        "_mapping",
        "_message",
    }
    assert files - compiled >= {
        "__init__.py", "__init__.pxd", "_linux.pxd", "_core.pxd", "_core.pyi",
        "_mapping.pxd", "_mapping.pyi", "py.typed",
    }  # fmt: skip
    assert not {name for name in files if name.endswith((".pyx", ".c", ".build"))}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    """Every example in a docstring runs and answers what it says."""
    pytest.importorskip("numpy")
    module = importlib.import_module(name if name == "memfd" else f"memfd.{name}")
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=flags)
    tests = finder.find(module, module.__name__, module=module)
    for member in vars(
        module
    ).values():  # compiled functions are not found by themselves
        if getattr(member, "__module__", None) == module.__name__ and (
            not inspect.isclass(member) and not inspect.isfunction(member)
        ):
            tests += finder.find(member, member.__name__, globs=dict(vars(module)))

    for test in {test.name: test for test in tests}.values():
        runner.run(test, clear_globs=True)

    assert runner.failures == 0
    if name in ("_core", "_mapping", "_file", "_array"):
        assert runner.tries >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_examples_of_the_pages(page, tmp_path):
    """Every >>> example of README and docs runs and answers what it says."""
    pytest.importorskip("numpy")
    options = ["-o", "ELLIPSIS", "-o", "IGNORE_EXCEPTION_DETAIL", "-v"]
    finished = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-m", "doctest", *options, str(page)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )

    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr
    if page.name in ("README.md", "tutorial.md", "sharing.md", "seals.md"):
        assert "Test passed" in finished.stdout
        assert finished.stdout.count("Trying:") > 5


def test_readme_commands_are_the_documented_ones():
    """The two commands for a clone stand in the README as they are."""
    if not PAGES[0].exists():
        pytest.skip("no README beside the tests")
    text = PAGES[0].read_text()
    venv = "python3 -m venv .venv && .venv/bin/pip install"
    assert f"{venv} '.[numpy]' && .venv/bin/memfd demo\n" in text
    assert f"{venv} '.[test]' && .venv/bin/pytest\n" in text


@pytest.mark.parametrize(
    ("leak", "outcome"),
    [
        ("memfd.memfd_create('left open')", "leaked descriptors"),
        ("KEPT.append(memfd.Mapping(memfd.from_bytes(b'x')))", "and mappings"),
        ("memfd.create().close()", None),
    ],
)
def test_leaks_are_seen(tmp_path, leak, outcome):
    """The fixture that watches every test fails one that leaks, and only that."""
    conftest = pathlib.Path(__file__).with_name("conftest.py")
    (tmp_path / "conftest.py").write_text(conftest.read_text())
    (tmp_path / "test_leak.py").write_text(
        textwrap.dedent(f"""
            import memfd

            KEPT = []


            def test_leak():
                {leak}
        """)
    )
    finished = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            tmp_path,
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    if outcome is None:
        assert finished.returncode == 0, finished.stdout
    else:
        assert finished.returncode == 1
        assert outcome in finished.stdout
        assert "memfd:" in finished.stdout


def test_subinterpreters():
    """Both compiled modules load in a subinterpreter with a GIL of its own."""
    if sys.version_info < (3, 14):
        pytest.skip("concurrent.interpreters is there from Python 3.14")
    from concurrent import interpreters

    interpreter = interpreters.create()
    interpreter.exec("import memfd; assert memfd.from_bytes(b'x').read() == b'x'")
    interpreter.close()


def test_import_while_garbage_is_collected(run):
    """The collector may run at any time, and sees no type that is not ready."""
    run("""
        import gc, os
        for allocations in range(1, 100):
            pid = os.fork()
            if pid == 0:
                gc.set_threshold(allocations)
                import memfd, memfd._message
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0, allocations
    """)

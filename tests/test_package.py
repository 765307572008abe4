"""The package as a whole: names, installed files, examples, and the leak check itself."""

import doctest
import importlib
import importlib.metadata
import inspect
import pathlib
import re
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

# In a process of its own, as some examples start threads and processes.
ALONE = """
import doctest, inspect, operator, sys
import memfd, memfd.aio

parser = doctest.DocTestParser()
flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
runner = doctest.DocTestRunner(optionflags=flags)
names = [*memfd.__all__, *(f"aio.{name}" for name in memfd.aio.__all__)]
for name in memfd.__all__:
    if inspect.isclass(getattr(memfd, name)):
        names += [f"{name}.{member}" for member in vars(getattr(memfd, name))]
for name in names:
    text = inspect.getdoc(operator.attrgetter(name)(memfd)) or ""
    runner.run(parser.get_doctest(text, {}, name, name, 0))
print(runner.tries)
sys.exit(bool(runner.failures))
"""


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
    """The package holds what installed.txt lists: all that is needed, and no sources."""
    installed = {str(path) for path in importlib.metadata.files("memfd") or ()}
    if not any(path.startswith("memfd/") for path in installed):
        pytest.skip("an editable install lists no files")
    # What an installer writes for itself, and what CPython does.
    own = re.compile(r"(INSTALLER|REQUESTED|direct_url\.json|uv_\w+\.json)$|\.pyc$")
    found = set()
    for path in installed:
        if not own.search(path):
            path = re.sub(r"^(\.\./)+", "", path)  # from the root of the environment
            path = re.sub(r"^memfd-[\d.]+\.dist-info", "dist-info", path)
            found.add(re.sub(r"\.(cpython-\w+-[\w-]+|abi3)\.so$", ".so", path))

    assert found == set(
        pathlib.Path(__file__).with_name("installed.txt").read_text().split()
    )


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
    if name in ("_core", "_mapping", "_file", "_creation"):
        assert runner.tries >= 6


def test_docstring_examples_stand_alone(run):
    """Whoever pastes the example of a public name needs nothing that is not in it."""
    pytest.importorskip("numpy")
    printed = run(ALONE)

    assert int(printed.split()[-1]) > 200, printed


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


@pytest.fixture
def in_interpreters(run):
    """Run a program in a child whose Python has several interpreters to offer."""
    if sys.version_info < (3, 14):
        pytest.skip("concurrent.interpreters is there from Python 3.14")

    def in_interpreters(program):
        begin = "import gc, os\nfrom concurrent import interpreters\n"
        return run(begin + program)

    return in_interpreters


def test_subinterpreters(in_interpreters):
    """Whatever needs no NumPy works in interpreters with a GIL of their own, at once."""
    in_interpreters("""
from concurrent.futures import InterpreterPoolExecutor


def use(number):
    import gc, io, os, socket
    import memfd, memfd.aio

    here, there = socket.socketpair()
    with here, there:
        for i in range(30):
            data = b"%d" % (number + i) * 100
            with memfd.from_bytes(data, "it") as f, memfd.Mapping(f) as mapping:
                assert isinstance(f, io.FileIO) and bytes(mapping) == f.read() == data
                memfd.send(here, f)
                with memfd.recv(there) as g, g.reopen() as h:
                    assert g.read() == h.read() == data
                assert memfd.load(memfd.dump([data, i])) == [data, i]
            if not i % 10:
                gc.collect()
    return number


with InterpreterPoolExecutor(4) as pool:
    assert list(pool.map(use, range(12))) == list(range(12))
use(1)
    """)


def test_what_an_interpreter_leaves_behind_is_used_by_no_other(in_interpreters):
    """Nothing that the modules keep is of an interpreter that has ended."""
    in_interpreters("""
import memfd

use = '''
import os, socket, memfd, memfd._block
sent = memfd.from_bytes(b"data")
here, there = socket.socketpair()
with here, there:
    for _ in range(20):
        memfd.Memfd.from_fd(os.dup(sent.fileno())).close()
        sent.reopen().close()
        memfd.send(here, sent)
        assert memfd.recv(there).read() == b"data"
block = memfd._block.Block(memfd.create(size=4096))
'''
exec(use)
for _ in range(5):
    interpreter = interpreters.create()
    interpreter.exec(use)
    interpreter.close()
    gc.collect()
    exec(use)
    # What is done before and after a fork is in C, and for all interpreters.
    pid = os.fork()
    if pid == 0:
        os._exit(memfd.from_bytes(b"x").read() != b"x")
    assert os.waitpid(pid, 0)[1] == 0
    """)


def test_interpreters_share_a_memfd_by_its_descriptor(in_interpreters):
    """One sees what another writes, and what it has mapped counts as foreign."""
    in_interpreters("""
import memfd

f = memfd.create(size=4096)
other = interpreters.create()
other.prepare_main(fd=f.fileno())
other.exec('''
import os, memfd
f = memfd.Memfd.from_fd(os.dup(fd), require=None)
mapping = memfd.Mapping(f, "r+")
memoryview(mapping)[:4] = b"here"
''')
assert f.read(4) == b"here"
try:
    f.seal()
except BufferError as error:
    assert "not ours" in str(error)
else:
    raise AssertionError
other.close()
gc.collect()
assert f.seal() & memfd.Seal.IMMUTABLE == memfd.Seal.IMMUTABLE
    """)


def test_no_object_is_one_for_all_interpreters():
    """No C variable at the level of a module holds a Python object: it is static."""
    sources = sorted(ROOT.glob("memfd/*.p[yx][xd]"))
    if not sources:
        pytest.skip("no sources beside the tests")
    variable = re.compile(
        r"cdef\s+(object|bytes|str|list|dict|set|tuple|[A-Z]\w*)\s+\w+\s*([=,].*)?$"
    )
    found = [
        f"{path.name}:{number}: {line}"
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if variable.match(line)
    ]
    assert found == []


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

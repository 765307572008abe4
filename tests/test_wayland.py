"""The client in docs/wayland.md, against a compositor: a small one of ours, and weston."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "wayland.md"
COMPOSITOR = pathlib.Path(__file__).parent / "compositor.py"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="no docs beside the tests")


@pytest.fixture
def environment():
    """A folder for the socket, with a path short enough for one."""
    pytest.importorskip("numpy")
    with tempfile.TemporaryDirectory() as folder:
        yield {**os.environ, "XDG_RUNTIME_DIR": folder, "WAYLAND_DISPLAY": "w"}


def show(environment):
    """Run the client of the page."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def is_listening(process, environment):
    """Wait until the socket is there, or the process has ended."""
    folder = environment["XDG_RUNTIME_DIR"]
    while process.poll() is None:
        if os.path.exists(os.path.join(folder, environment["WAYLAND_DISPLAY"])):
            return True
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    return False


def test_the_picture_is_what_the_array_was(environment):
    """The compositor sees the pixels of the array, in a file that cannot shrink."""
    command = [sys.executable, "-P", COMPOSITOR, "w"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert is_listening(process, environment)
            for _ in range(2):
                shown = show(environment)
                assert (shown.returncode, shown.stdout) == (0, "shown\n"), shown.stderr
                size, *corners = process.stdout.readline().split()
                assert size == "320x240"
                # Blue, green, red, alpha: left above, right above, left and right below.
                assert corners == ["000000ff", "ff0000ff", "0000ffff", "ff00ffff"]
        finally:
            process.terminate()


def test_weston_shows_it(environment):
    """A real compositor takes the buffer and says that it was shown."""
    if shutil.which("weston") is None:
        pytest.skip("no weston")
    command = ["weston", "--backend=headless-backend.so", "--socket=w", "--idle-time=0"]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert is_listening(process, environment), process.stderr.read()
            shown = show(environment)
            assert (shown.returncode, shown.stdout) == (0, "shown\n"), shown.stderr
        finally:
            process.terminate()
            process.communicate(timeout=60)

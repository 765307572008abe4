"""Random sharing among processes that die, for some seconds."""

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("numpy")

PROGRAM = pathlib.Path(__file__).with_name("soak.py")


def test_nothing_is_wrong_and_nothing_is_left(tmp_path):
    """No wrong byte in ten seconds, and in the end all is as it was at the start."""
    output = tmp_path / "output"
    with open(output, "w") as file:
        child = subprocess.Popen(
            [sys.executable, PROGRAM, "10", "--shared"],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        try:
            code = child.wait(600)
        except subprocess.TimeoutExpired:
            code = "no end within ten minutes"
        finally:
            child.kill()
            child.wait()
    print(output.read_text())
    assert code == 0, output.read_text()
    assert "0 wrong bytes" in output.read_text()

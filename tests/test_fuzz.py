"""The two parsers of what others send: files that are almost right."""

import json
import pathlib

import pytest

import memfd

pytest.importorskip("numpy")

PROGRAM = pathlib.Path(__file__).with_name("fuzzing") / "almost.py"
SEED = 20260707
COUNT = 50_000  # for each parser


@pytest.mark.parametrize("parser", ["arrays", "object"])
def test_files_that_are_almost_right(run, parser):
    """Each is refused with a ValueError, or is what the parser says; all lines ran."""
    with memfd.create("input") as f:
        arguments = parser, str(SEED), str(COUNT), str(f.fileno())
        program = PROGRAM.read_text()
        try:
            output = run(program, *arguments, pass_fds=[f.fileno()], timeout=600)
        except BaseException:  # a failed test is no Exception
            print(f"seed {SEED}, the last input: {f.read().hex()}")
            raise
    print(output)
    said = json.loads(output)
    assert said["inputs"] == COUNT
    assert said["past lengths"] >= COUNT / 2
    # Not all for the same reason, and what is checked of a result was checked.
    assert COUNT / 20 <= said["accepted"] <= said["past lengths"]
    assert said["traced"] >= 5000
    assert len(said["missed"]) <= 0.05 * said["lines"], said["missed"]

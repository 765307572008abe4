"""What reads the bytes of others: files that are almost right, and inputs that were kept.

`.ci/fuzz` looks for more of those.
"""

import importlib.util
import json
import pathlib

import pytest

import memfd

pytest.importorskip("numpy")

FOLDER = pathlib.Path(__file__).with_name("fuzzing")
SEED = 20260707
COUNT = 50_000  # for each parser
# As `python tests/fuzzing/replay.py` does, with the package that is tested.
REPLAY = "import sys; sys.path.insert(0, sys.argv[1]); del sys.argv[1]\n"
REPLAY += "import replay; replay.main()"
TARGETS = sorted(path.name for path in (FOLDER / "corpus").iterdir())


@pytest.mark.parametrize("parser", ["arrays", "object"])
def test_files_that_are_almost_right(run, parser):
    """Each is refused with a ValueError, or is what the parser says; all lines ran."""
    with memfd.create("input") as f:
        arguments = parser, str(SEED), str(COUNT), str(f.fileno())
        program = (FOLDER / "almost.py").read_text()
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


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_were_kept(run, target):
    """Each ends as the target knows it has to, and leaves nothing behind."""
    output = run(REPLAY, str(FOLDER), target, timeout=600)
    files = [*(FOLDER / "corpus" / target).iterdir()]
    if (FOLDER / "found" / target).exists():
        files += (FOLDER / "found" / target).iterdir()
    assert json.loads(output) == {target: len(files)}
    assert files
    if target == "arrays" and importlib.util.find_spec("safetensors") is None:
        pytest.skip("passed, but nothing was compared: safetensors is not installed")


def test_each_target_has_inputs(run):
    """None is left out of what is given to all of them."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); import targets\n"
    output = run(program + "print(*sorted(targets.ALL))", str(FOLDER))
    assert output.split() == TARGETS

"""Everything with everything, step by step, against a model: two thousand steps."""

import os
import pathlib
import subprocess

import pytest

pytest.importorskip("numpy")
pytest.importorskip("hypothesis")

FOLDER = pathlib.Path(__file__).with_name("machine")
# As `python tests/machine` does, with the package that is tested.
PROGRAM = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
SEED = 20261126
STEPS = 2000


def test_two_thousand_steps(run, tmp_path):
    """Each step returns, raises and leaves behind what the model says."""
    arguments = str(FOLDER), "--steps", str(STEPS), "--seed", str(SEED)
    environment = os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)}
    print(f"seed {SEED}")
    try:
        output = run(PROGRAM, *arguments, timeout=600, env=environment)
    except subprocess.TimeoutExpired as expired:
        # The steps of the last example, as those after a signal.
        output = (expired.stdout or b"").decode(errors="replace")
        pytest.fail(f"hangs\n{output[output.rfind('--- example') :]}")
    said = output.splitlines()[-1]
    print(said)
    assert int(said.split()[0]) >= STEPS

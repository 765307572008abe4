"""Install what the tests use beyond pytest, as far as there are wheels for this Python.

    python .ci/extras.py

A new Python, or one of another kind, has none of some; the tests that need these are
skipped, and say so.  Nothing is compiled: that takes long, and needs what is not there.
"""

import pathlib
import subprocess
import sys
import tomllib

PROJECT = pathlib.Path(__file__).parents[1] / "pyproject.toml"


def main():
    """Install one after the other."""
    with open(PROJECT, "rb") as file:
        names = tomllib.load(file)["project"]["optional-dependencies"]["test"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:"]
    for name in names:
        done = subprocess.run([*pip, name], capture_output=True, text=True)
        if done.returncode:
            reason = next(
                (line for line in done.stderr.splitlines() if "ERROR" in line), "?"
            )
            print(f"no wheel of {name}: {reason}", flush=True)


if __name__ == "__main__":
    main()

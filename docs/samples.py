"""Run the commands of a page and put what they print below them.

    python docs/samples.py docs/shell.md            writes the page anew
    python docs/samples.py --check docs/shell.md    says where it is not what is printed

Of each block of "console", the lines that begin with "$ " are run by bash, in one folder,
beside a process "camera" that has some memfds; $PID is its process id.  To compare,
numbers are taken as equal: they are other ones each time.
"""

import argparse
import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CAMERA = """
import os, sys, memfd, numpy as np
open("/proc/self/comm", "w").write("camera")
frame = memfd.share(np.ones((1080, 1920, 3), np.uint8), name="frame")
frame.sum()
camera = memfd.share({"matrix": np.eye(3), "distortion": np.zeros(5)}, name="calibration")
settings = memfd.dump({"exposure": 0.01, "dark": np.zeros((64, 64))}, name="settings")
log = memfd.create("log", size=4096)
log.write(b"started\\n")
print(frame.memfd.fileno(), camera.memfd.fileno(), log.fileno(), flush=True)
sys.stdin.read()
"""


def outputs(commands, environment, folder):
    """Yield each command with what it prints."""
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=folder,
        )
        lines = done.stdout.splitlines(keepends=True)
        # Not every machine has processes that nobody may read.
        kept = [line for line in lines if not line.startswith("processes read:")]
        yield f"$ {command}\n{''.join(kept)}"


def rewritten(text):
    """Return a page with what its commands print today."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-c", _CAMERA],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        ) as camera,
    ):
        frame, calibration, log = camera.stdout.readline().split()
        scripts = os.path.dirname(sys.executable)
        environment = os.environ | {
            "PID": str(camera.pid),
            "FRAME": frame,
            "CALIBRATION": calibration,
            "LOG": log,
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        }

        def block(found):
            commands = re.findall(r"^\$ (.*)$", found[1], re.MULTILINE)
            return f"```console\n{''.join(outputs(commands, environment, folder))}```"

        return _BLOCK.sub(block, text)


def leveled(text):
    """Return a page without what differs from run to run: sizes, numbers, widths."""
    text = re.sub(r"[\d.]+ [KMG]?i?B\b( \(\d+ bytes\))?", "0 B", text)
    text = re.sub(r"\d+(\.\d+)?", "0", text)
    return re.sub(r" {2,}", "  ", text).splitlines(keepends=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("page", type=pathlib.Path)
    arguments = parser.parse_args()
    before = arguments.page.read_text()
    after = rewritten(before)
    if not arguments.check:
        arguments.page.write_text(after)
        return 0
    difference = list(difflib.unified_diff(leveled(before), leveled(after), n=0))
    sys.stdout.writelines(difference)
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())

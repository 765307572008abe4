"""Faults on demand: every system call of every operation fails, and what comes of it.

pytest tests/faults --faults all --table docs/faults.md
"""

import errno
import json
import pathlib
import platform
import re
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent

_RESULTS = pytest.StashKey()

AS_EVER = "works all the same"


def pytest_configure(config):
    config.stash[_RESULTS] = {}
    config.memfd_tables.append(lambda: table(config.stash[_RESULTS]))


class Template:
    """The process of template.py, which does each trial in a child."""

    def __init__(self, errors):
        self.errors, self.known = errors, {}
        self.process = subprocess.Popen(
            [sys.executable, FOLDER / "template.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd="/",
        )

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait() == 0, self.said()

    def said(self):
        """Return what was written to standard error since it was last asked for."""
        return self.errors.read()

    def usual(self, operation):
        """Return what an operation does where nothing fails; it is done once."""
        if operation not in self.known:
            answer = self.trial(operation)
            assert answer["ended"] == "told", answer["ended"] + self.said()
            assert answer["child"]["raised"] is None, answer["child"]["trace"]
            assert not answer["child"]["problems"]
            self.known[operation] = answer
        return self.known[operation]

    def trial(self, operation, fault=None, usual=None, **how):
        """Do an operation in a child, with a fault; see template.py."""
        request = {"operation": operation, "fault": fault, "usual": usual, **how}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.said()
        answer = json.loads(answer)
        if answer["unavailable"]:
            pytest.skip(answer["unavailable"])
        return answer


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A process in which all is loaded, and whose children are asked to fail."""
    path = tmp_path_factory.mktemp("faults") / "stderr"
    with open(path, "w") as errors, open(path) as said:
        one = Template(errors)
        one.errors = said
        yield one
        one.close()


@pytest.fixture
def record(request):
    """Note what came of a fault, for the table."""
    results = request.config.stash[_RESULTS]

    def record(operation, call, error, outcome):
        results.setdefault((operation, call), {}).setdefault(error, set()).add(outcome)

    return record


@pytest.fixture
def thorough(request):
    """Tell whether all is to be tried."""
    return request.config.getoption("--faults") == "all"


def table(results):
    """Return the page of the table, or None where nothing was tried."""
    if not results:
        return None
    kernel = re.match(r"[\d.]+", platform.release())[0]
    lines = [
        "# When a system call fails",
        "",
        "Every system call of every operation was made to fail, with the errors that can "
        "occur.",
        "None of these leaks a descriptor, a mapping, a block of memory or a thread, and "
        "none leaves anything half done: what was there is as it was before, or as it is "
        "when all went well, and the operation works as soon as the fault is gone.",
        "A `write` may have written a part, as its documentation says.",
        "",
        "“Works all the same” is a fallback with the right result; every other word is "
        "the exception, which has the number of that error if it is an `OSError`.",
        "`EINTR` is a call that a signal has interrupted.",
        "",
        "An operation can make a call several times, and each of them fails once; of more "
        "than 48, 48 do.",
        "The first error of a row is tried at all of them, the others at the first four.",
        "While another thread forks all the time, the first call of each row was tried.",
        "",
        "The table is written by `pytest tests/faults --faults all --table "
        f"docs/faults.md`, here on Linux {kernel}, {platform.machine()}, with Python "
        f"{platform.python_version_tuple()[0]}.{platform.python_version_tuple()[1]}.",
        "Other kernels, C libraries and versions of Python make other calls.",
        "",
        "| operation | system call | error: what comes of it |",
        "|---|---|---|",
    ]
    last = None
    for (operation, call), errors in results.items():
        outcomes = {}
        for error, found in errors.items():
            outcomes.setdefault(" or ".join(sorted(found)), []).append(error)
        cell = "; ".join(
            f"{', '.join(names)}: {what}" for what, names in outcomes.items()
        )
        first = "" if operation == last else f"`{operation}`"
        lines.append(f"| {first} | `{call}` | {cell} |")
        last = operation
    return "\n".join([*lines, ""])


def judge(operation, call, error, answer, usual, forks=False):
    """Return what came of a fault, and what is wrong with that, or None."""
    child = answer["child"]
    if child is None:
        return answer["ended"], f"the child {answer['ended']}"
    if child["problems"]:
        return "wrong", "; ".join(child["problems"])
    # What is opened once for the whole process is left when all went well, too; but for
    # a thread that could not be started.
    left = dict(child["left"])
    wanted = dict(usual["child"]["left"]) if operation.lasting else {}
    if call.startswith("clone"):
        left.pop("thread", None), wanted.pop("thread", None)
    if left != wanted:
        return "leak", f"leaked {left}, usual is {wanted}"
    kinds = child["raised"]
    if kinds is None:
        return AS_EVER, None
    kind = kinds[0]
    if not child["text"]:
        return kind, f"{kind} without a word"
    if forks and any(one in kinds for one in operation.forked):
        return kind, None
    told = errno.errorcode.get(child["errno"])
    for where, one in operation.documented:
        if where in (call, "*") and one in kinds:
            return f"`{kind}`", None
        if where in (call, "*") and one == told != error:
            return f"`{kind}` ({told})", None
    if "OSError" in kinds and told == error:
        # Python tries again what a signal has interrupted (PEP 475), and so do we.
        return f"`{kind}`", "a signal ended it" if error == "EINTR" else None
    return kind, f"raised {kind}: {child['text']}\n{child['trace']}"


@pytest.fixture(name="judge")
def _judge():
    return judge

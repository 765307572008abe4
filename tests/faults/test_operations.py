"""Each system call of each operation fails, at each position."""

import importlib
import pathlib
import sys

import pytest

import memfd

pytest.importorskip("numpy")

sys.path.insert(0, str(pathlib.Path(__file__).parent))
calls = importlib.import_module("calls")
operations = importlib.import_module("operations")
del sys.path[0]

OPERATIONS = operations.OPERATIONS

# An operation that makes a call more often than that has it fail at so many positions: the
# first ones, and others over its whole length.
MOST, MOST_OF_ALL = 12, 48

# An error differs from others where it is looked at: all are tried at so many positions.
OTHERS, OTHERS_OF_ALL = 1, 4


@pytest.fixture(params=OPERATIONS)
def operation(request):
    """Each operation; where it takes a page of the hugetlb pool, there is one."""
    found = OPERATIONS[request.param]
    if found.hugetlb:
        request.getfixturevalue("huge_page")
    return found


@pytest.fixture
def usual(template, operation):
    """What the operation does where nothing fails."""
    return template.usual(operation.name)


def positions(count, most):
    """Return each position, or so many of them, the first ones and others."""
    if count <= most:
        return list(range(1, count + 1))
    first = most // 2
    step = (count - first) / (most - first)
    rest = {first + round(step * i) for i in range(1, most - first + 1)}
    return [*range(1, first + 1), *sorted(rest)]


def faults(usual, thorough):
    """Return each call, position and error that is to be tried."""
    made = usual["calls"]
    for call in dict.fromkeys(made):
        first, *others = calls.ERRORS[call].split()
        for position in positions(made.count(call), MOST_OF_ALL if thorough else MOST):
            yield call, position, first
            for error in others:
                most = OTHERS_OF_ALL if thorough else OTHERS
                if position <= most or error == "EINTR":
                    yield call, position, error


def test_every_name_is_here():
    """Each public name is one of an operation, or known to make no system call."""
    names = {name for name in [*memfd.__all__, "map"] if not name[:2].isupper()}
    names |= {f"aio.{name}" for name in ("send", "recv", "recv_array")}
    names |= {"Array.memfd"}
    for kind in ("Memfd", "Mapping", "ArrayDict", "BufferPool"):
        public = [name for name in dir(getattr(memfd, kind)) if name[0] != "_"]
        names |= {f"{kind}.{name}" for name in public}
    covered = {name for one in OPERATIONS.values() for name in one.covers}
    assert covered == names


def test_no_calls(template):
    """What is said to make no system call makes none."""
    assert template.usual("names that make no system call")["calls"] == []


def test_every_call_is_known(usual):
    """What can fail is in the list of errors; a new call has to be entered there."""
    assert set(usual["calls"]) <= set(calls.ERRORS)


def test_each_call_fails(template, operation, usual, thorough, record, judge):
    """What is documented comes of it, nothing is leaked, and nothing is half done."""
    wrong, fired = [], set()
    for fault in faults(usual, thorough):
        answer = template.trial(operation.name, fault, usual["child"])
        if not answer["fired"]:
            continue
        call, position, error = fault
        fired.add(call)
        outcome, problem = judge(operation, call, error, answer, usual)
        record(operation.name, call, error, outcome)
        if problem is not None:
            wrong.append(f"{call} {position} {error}: {problem}")
    assert not wrong, "\n".join([*wrong, template.said()])
    # When the threads that go on make theirs is not known.
    assert fired >= set(usual["own" if operation.lasting else "calls"])


def test_while_another_thread_forks(template, operation, usual, thorough, judge):
    """The same, and children never keep what they should not have."""
    chosen = [fault for fault in faults(usual, False) if fault[1] == 1]
    if not thorough:
        chosen = chosen[:1]
    wrong = []
    for fault in [None, *chosen]:
        answer = template.trial(operation.name, fault, usual["child"], forks=True)
        call, _, error = fault or ("", 0, "")
        _, problem = judge(operation, call, error, answer, usual, forks=True)
        if problem is not None:
            wrong.append(f"{fault}: {problem}")
    assert not wrong, "\n".join([*wrong, template.said()])

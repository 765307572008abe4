"""Operations of a process that is short of something, forbidden something, interrupted."""

import errno
import fcntl
import importlib
import pathlib
import sys

import pytest

pytest.importorskip("numpy")

sys.path.insert(0, str(pathlib.Path(__file__).parent))
OPERATIONS = importlib.import_module("operations").OPERATIONS
del sys.path[0]

# A thread that cannot be given any memory never tells that it has begun, and Python's
# Thread.start() waits for that.
WITHOUT_THREADS = [name for name, one in OPERATIONS.items() if not one.threads]

# What returns a number has nobody who gives it back when a signal handler raises; and
# whether Memfd.from_fd() has taken over a descriptor is not seen then.
NUMBERS = ("memfd_create()", "map()", "Memfd.from_fd")

# A handler that raises can end Thread.start() half-way, with a KeyError or with a thread
# that runs, and make an event loop of asyncio wait for ever.
NOT_OURS = ("from_bytes(threads=2)", "the first message of a process", "aio.")


@pytest.fixture
def attempt(template):
    """Do an operation under a condition, and see that nothing is wrong with the outcome.

    Returns what was raised, or None; it has to be one of `expected`: a class, or the name
    of an errno.
    """

    def attempt(name, condition, *expected):
        operation = OPERATIONS[name]
        usual = template.usual(name)
        answer = template.trial(name, usual=usual["child"], condition=condition)
        child = answer["child"]
        assert child is not None, f"the child {answer['ended']}\n{template.said()}"
        assert not child["problems"], f"{child['problems']}\n{child.get('trace')}"
        left = child["left"]
        if operation.lasting:
            left = {
                what: count
                for what, count in left.items()
                if count > usual["child"]["left"].get(what, 0)
            }
        assert not left
        if child["raised"] is None:
            return None
        known = [*child["raised"], errno.errorcode.get(child["errno"])]
        assert set(known) & set(expected), child["trace"]
        return child["raised"][0]

    return attempt


@pytest.fixture(params=[name for name, one in OPERATIONS.items() if not one.hugetlb])
def name(request):
    """The name of each operation."""
    return request.param


def test_descriptors(attempt, name):
    """With 0, 1, 2 … descriptors left it says so, until there are enough."""
    for count in range(20):
        if attempt(name, ["few descriptors", count], "EMFILE") is None:
            return
    pytest.fail("20 descriptors are not enough")


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("small files", 0),
        ("small files", 100),
        ("small files", 4096),
        ("small files", (1 << 20) + 5),
        ("small files and a handler", 4096),
    ],
)
def test_sizes(attempt, kind, size):
    """Beyond RLIMIT_FSIZE it is EFBIG, and SIGXFSZ ends nobody."""
    refused = set()
    for name in WITHOUT_THREADS:
        if OPERATIONS[name].hugetlb:
            continue
        if attempt(name, [kind, size], "EFBIG") is not None:
            refused.add(name)
    assert "share(), 2 MiB" in refused
    assert "Memfd.seal()" not in refused


@pytest.mark.parametrize("size", [0, 64 << 10, 1100 << 10, 3 << 20, 5 << 20])
def test_addresses(attempt, size):
    """Beyond RLIMIT_AS it is ENOMEM or a MemoryError, and no mapping is left."""
    refused = set()
    for name in WITHOUT_THREADS:
        if OPERATIONS[name].hugetlb:
            continue
        if attempt(name, ["few addresses", size], "ENOMEM", "MemoryError") is not None:
            refused.add(name)
    assert 'Mapping(mode="r"), 4198400 bytes' in refused or size == 5 << 20
    assert "create()" not in refused


def test_no_huge_pages(attempt, name):
    """A process that shall have no huge pages does all with ordinary ones."""
    assert attempt(name, ["no huge pages", None]) is None


def test_without_proc(attempt, name):
    """Where /proc is not mounted, what needs it says so, and all else works."""
    raised = attempt(name, ["no /proc", None], "ENOENT", "ProcessLookupError")
    needs = (
        "reopen",
        "of a path",
        "BufferPool.put(), ",
        "BufferPool.empty",
        "Array.memfd",
    )
    if name == "ls()":
        assert raised == "ProcessLookupError"
    else:
        expected = "the first" in name or "2 MiB" in name or "put" not in name
        assert (raised is not None) == (expected and any(one in name for one in needs))


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize(
    "call",
    [
        "memfd_create",
        "fchmod",
        "madvise",
        "mremap",
        "cachestat",
        "pidfd_getfd",
        "inotify_init1",
        "pwritev",
        "dup3",
        "sendmsg",
        "recvmsg",
        "fcntl:F_ADD_SEALS",
        "fcntl:F_GET_SEALS",
        "fcntl:F_SETLEASE",
    ],
)
def test_filters(template, attempt, call, error):
    """What a seccomp filter forbids is an exception of its own, or has another way."""
    name, _, command = call.partition(":")
    rule = [name, getattr(fcntl, command), error] if command else [name, error]
    tried = 0
    for one, operation in OPERATIONS.items():
        if operation.hugetlb:
            continue
        made = [made for made in template.usual(one)["calls"] if made.startswith(name)]
        if not any(command in call for call in made):
            continue
        others = {kind for where, kind in operation.documented if where in made}
        attempt(one, ["denied", [rule]], error, *others)
        tried += 1
    if not tried:
        pytest.skip(f"no operation makes {call} here")


# Those with another way need the call for nothing.
@pytest.mark.parametrize("call", ["madvise", "cachestat", "pidfd_getfd", "dup3"])
def test_filters_that_do_no_harm(attempt, call):
    """Without these calls all arrays are shared and received as ever."""
    for name in ("share(), 2 MiB", "recv()", "ls()", "Memfd.read(), of what came"):
        if (name, call) != ("Memfd.read(), of what came", "dup3"):
            assert attempt(name, ["denied", [[call, "EPERM"]]]) is None


@pytest.mark.parametrize("restarts", [True, False])
def test_alarms(attempt, name, restarts):
    """Signals every 200 microseconds change nothing, whether or not calls restart."""
    for first in (30, 200, 500):
        condition = ["alarms", [first, 200, restarts, False]]
        assert attempt(name, condition) is None


def test_handlers_that_raise(attempt, name, thorough):
    """What a signal handler raises comes through, and leaves nothing, whenever it comes."""
    if name.startswith(NUMBERS):
        pytest.skip("what it returns is a number, or takes one over: it has no owner")
    if name.startswith(NOT_OURS):
        pytest.skip("threads and event loops of the standard library do not survive it")
    for first in range(100, 2000, 20) if thorough else (100, 150, 230, 350, 700):
        condition = ["alarms", [first, 0, False, True]]
        attempt(name, condition, "Interrupted")

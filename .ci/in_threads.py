"""A plugin of pytest for .ci/parallel: what a test needs to run in many threads at once.

Which tests cannot, and why, is said here and nowhere else.
"""

import collections
import contextlib
import functools
import inspect
import re
import socket

import memfd

# Fixtures that stand for something of the process or of the machine, or start a child: a
# test of these is run in one thread by the ordinary run, and left out here.
FIXTURES = {
    "what it tests is done in a child, which has the process for itself": [
        "as_nobody", "attempt", "command", "holder", "in_interpreters", "namespace",
        "other", "pip", "play", "program", "python", "race", "run", "server", "shell",
        "start", "strace", "stranger", "template", "usual",
    ],
    "all threads would have the same object of a fixture, and change it": [
        "alone", "closed", "compiled", "example", "executable", "fd", "foreign", "getfd",
        "given", "leased", "owned", "packets", "pool", "sealed",
    ],
    "it changes names or limits of the whole process": [
        "capfd", "capsys", "monkeypatch", "recwarn",
    ],
    "it changes what the machine has": [
        "huge_page", "huge_pages", "no_policy", "small_group", "small_shm",
    ],
}  # fmt: skip

# What a test says in its own text, or in a function of its module that it calls.
TEXTS = {
    "it counts the descriptors or mappings of the process": (
        r"open_descriptors|memfd_mappings|/proc/self/(fd\W|maps|smaps)|pending\(\)"
    ),
    "it looks at what the process has, and other threads have the same": (
        r"\.(holders|in_use|stats)\b|_live\b|live\(|memfd\.ls\(|_proc\."
    ),
    "it changes a limit, a signal or the folder of the process": (
        r"setrlimit|signal\.(signal|setitimer|alarm|pthread_kill|raise_signal)|os\.kill"
        r"|chdir|umask|os\.environ|sys\.(modules|path|settrace|setprofile|stdin)"
        r"|setswitchinterval|gc\.(disable|freeze|set)|interrupt|RLIMIT"
    ),
    "it forks or starts processes, or is the only one that may": (
        r"fork\(|subprocess|multiprocessing|get_context|Process(PoolExecutor)?\(|Popen"
        r"|runpy|main\(|loky|joblib|run_in_child|get_reusable_executor"
    ),
    "it closes or looks at a number that another thread may have by then": (
        r"os\.close\(\w+\.fileno\(\)\)|os\.dup2|Bad file|from_fd\(number\)"
    ),
    "it has to be alone: what it awaits is the next thing that is allocated": (
        r"weakref|gc\.(get_objects|collect)|tracemalloc"
    ),
    "a loop of asyncio is that of the main thread here": r"add_signal_handler",
}

# The rest, by what their names match.
NAMES = {
    "it runs a test or a page of examples, which prints": (
        r"test_package.*(doc|examples|leaks|readme|version)|test_blocks"
    ),
    "what the kernel grants at once it may grant later when many ask": (
        r"test_large_blocks_are_huge_pages|test_waits_for_an_array_here"
    ),
}

# Fixtures of which each thread and each iteration gets one of its own.
MADE = {
    "f": lambda given: memfd.create("f", size=8192),
    "stream": lambda given: pair(socket.SOCK_STREAM),
    "pair": lambda given: pair(given[0].type),
}


left_out = []  # tests, each with the reason


@contextlib.contextmanager
def pair(kind):
    ends = socket.socketpair(socket.AF_UNIX, kind)
    with ends[0], ends[1]:
        for end in ends:
            end.settimeout(60)
        yield ends


def with_its_own(test):
    """Return the test, with fixtures that were made in the thread that runs it."""

    @functools.wraps(test)
    def inner(*args, **kwargs):
        with contextlib.ExitStack() as stack:
            for name in MADE.keys() & kwargs.keys():
                kwargs[name] = stack.enter_context(MADE[name](kwargs[name]))
            return test(*args, **kwargs)

    return inner


def reason_of(item):
    """Return why a test has to run alone, or None."""
    for reason, names in FIXTURES.items():
        if set(names) & set(item.fixturenames):
            return reason
    for reason, pattern in NAMES.items():
        if re.search(pattern, item.nodeid):
            return reason
    text = source_of(item.function, item.module)
    for reason, pattern in TEXTS.items():
        if re.search(pattern, text):
            return reason
    return None


@functools.cache
def source_of(function, module):
    """Return the text of a test, with that of the functions of its module that it uses."""
    text, seen, names = "", set(), {function.__name__}
    while names:
        name = names.pop()
        seen.add(name)
        one = function if len(seen) == 1 else getattr(module, name)
        with contextlib.suppress(OSError):  # what no file holds
            text += inspect.getsource(inspect.unwrap(one))
        for word in set(re.findall(r"\w+", text)) - seen:
            known = getattr(module, word, None)
            if inspect.isfunction(known) and known.__module__ == module.__name__:
                names.add(word)
    return text


def pytest_collection_modifyitems(config, items):
    for item in items:
        reason = reason_of(item)
        if reason is not None:
            left_out.append((item, reason))
        elif MADE.keys() & set(item.fixturenames):
            item.obj = with_its_own(item.obj)
    alone = [item for item, _ in left_out]
    items[:] = [item for item in items if item not in set(alone)]
    config.hook.pytest_deselected(items=alone)


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section("left to the ordinary run, which has one thread")
    counts = collections.Counter(reason for _, reason in left_out)
    for reason, count in counts.most_common():
        terminalreporter.line(f"{count:5} {reason}")
        for item, its in left_out:
            if its == reason and config.option.verbose > 0:
                terminalreporter.line(f"      {item.nodeid}")

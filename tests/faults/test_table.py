"""The page in the documentation has all operations, and nothing that went wrong."""

import importlib
import pathlib
import re
import sys

import pytest

pytest.importorskip("numpy")

sys.path.insert(0, str(pathlib.Path(__file__).parent))
calls = importlib.import_module("calls")
OPERATIONS = importlib.import_module("operations").OPERATIONS
del sys.path[0]

PAGE = pathlib.Path(__file__).parents[2] / "docs/faults.md"


def test_the_page_is_of_today():
    """Each operation that makes a system call is there, and each call is a known one."""
    rows = re.findall(r"^\| (.*) \| `(.*)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    found = {first.strip("`") for first, _, _ in rows} - {""}
    quiet = {"names that make no system call", "BufferPool.close()"}
    assert found == set(OPERATIONS) - quiet
    assert {call for _, call, _ in rows} <= set(calls.ERRORS)
    for _, call, text in rows:
        for words in text.split("; "):
            names, outcome = words.split(": ")
            assert set(names.split(", ")) <= set(calls.ERRORS[call].split())
            assert re.fullmatch(
                r"(`\w+Error`( \(\w+\))?|works all the same|( or ))+", outcome
            )

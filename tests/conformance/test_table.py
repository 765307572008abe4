"""The table itself: no row is missing, and the page in the documentation has them all."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs/conformance.md"


def test_no_row_is_missing(rows):
    """Each number is there, and means one thing."""
    numbers = sorted(number for number, *_ in rows)
    if numbers[:1] != [1] or len(numbers) < 100:
        pytest.skip("only some of the rows were collected")
    assert numbers == list(range(1, 116))


def test_what_old_kernels_lack(lacks):
    """The age of a kernel excuses what came later, and nothing on a new one."""
    assert lacks("5.10.0-32-cloud-amd64") >= {8, 21, 35, 53, 102}
    assert 109 not in lacks("5.10.0-32-cloud-amd64")
    assert lacks("6.3") == {35}
    assert lacks("6.12.117+deb13-cloud-amd64") == lacks("10.0-rc1") == set()


def test_the_page_is_of_today(rows):
    """The page in the documentation has the rows that there are, word for word."""
    if len(rows) < 100:
        pytest.skip("only some of the rows were collected")
    text = PAGE.read_text()
    found = {
        tuple(re.sub(r"\\(.)", r"\1", cell) for cell in line.split(" | ")[:3])
        for line in re.findall(r"^\| (\d+ \| .*) \|$", text, re.MULTILINE)
    }
    assert found == {(str(number), *texts) for number, *texts in rows}
    assert "failed" not in text

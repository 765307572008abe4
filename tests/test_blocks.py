"""The program that runs the blocks of the documentation: what it has to notice."""

import importlib.util
import os
import pathlib
import select
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parents[1] / "docs" / "blocks.py"

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason="needs the documentation beside the tests"
)


@pytest.fixture(scope="module")
def blocks():
    """The program as a module."""
    spec = importlib.util.spec_from_file_location("blocks", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks itself up there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "blocks", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def follow(blocks, tmp_path):
    """Follow a page with this text; return what happened to each of its blocks."""
    environment = os.environ | {
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    }

    def follow(text, quick=False):
        page = tmp_path / "page.md"
        page.write_text(text)
        found, complaints = blocks.blocks_of(page)
        assert complaints == []
        return [
            (block.kind, word, wrong)
            for block, word, wrong in blocks.follow(page, found, environment, quick)
        ]

    return follow


GOOD = """
# A page

<!-- sh
mkdir made
-->

```sh
cd made
echo 1 >number
```

```{note}
What is in it is read as well.
```

```python
import pathlib
print(pathlib.Path("number").read_text())  # 1
print([0.5, 7])  # [0.5, ...]
```

<!-- python
number = 40
-->

```python
number += 2
print(number)  # 42
```

- In a list:

  ```pycon
  >>> number
  42

  ```

<!-- file: two.c -->

```c
int main(void) { return 2; }
```

```sh
cc -o two ../two.c
! ./two
```

```text
no code
```
"""

BAD = {
    "answer": ("```pycon\n>>> 1 + 1\n3\n\n```", "Expected:"),
    "program": ("```python\nimport sys\nsys.exit('ended')\n```", "ended"),
    "printed": ("```python\nimport sys\nprint(1)  # 2\n```", "printed nowhere: 2"),
    "order": (
        "```python\nimport sys\nprint(1)  # 2\nprint(2)  # 1\n```",
        "printed nowhere: 1",
    ),
    "exception": ("```python\nmissing\n```", "NameError"),
    "exit": ("```python\nraise SystemExit\n```", "SystemExit"),
    "death": ("```pycon\n>>> import os\n>>> os._exit(3)\n\n```", "ended with 3"),
    "command": ("```sh\nls /nowhere\ntrue\n```", "/nowhere"),
    "pipe": ("```sh\nls /nowhere | cat\n```", "/nowhere"),
    "shell": ("```sh\nexit 0\n```", ""),
    "language": ("```cython\ncdef int x\n```", "nothing here runs cython"),
    "file": ("<!-- file: a.c -->\n```c\nint x;\n```", "no command uses it"),
}


def test_a_page_is_followed(follow):
    """The folder, the shell and the prompt go on from block to block."""
    done = follow(GOOD)

    kinds = ["sh", "sh", "program", "more", "more", "prompt", "file", "sh"]
    assert [kind for kind, _, _ in done] == kinds
    assert [wrong for _, _, wrong in done] == [None] * len(kinds)


def test_what_a_page_starts_ends_with_it(follow, tmp_path):
    """A server in the background does not outlive its page."""
    told = tmp_path / "process"
    follow(f"```sh\nsleep 600 &\necho $! >{told}\n```")

    try:
        process = os.pidfd_open(int(told.read_text()))
    except ProcessLookupError:
        return
    ended, _, _ = select.select([process], [], [], 60)
    os.close(process)
    assert ended


@pytest.mark.parametrize("name", BAD)
def test_what_goes_wrong_is_seen(follow, name):
    """A block that fails, or says what is not so, is an error, with its output."""
    text, says = BAD[name]

    ((_, _, wrong),) = follow(f"# Heading\n\n{text}\n")

    assert wrong is not None
    assert says in wrong


def test_quick_leaves_out_what_needs_packages(follow):
    """What needs packages is left out, and said to be: of a page, or of a section."""
    block = "```python\n1 / 0\n```\n"
    here = f"# One\n\n<!-- needs: a b -->\n\n{block}\n## Two\n\n```python\n1\n```\n"
    everywhere = f"<!-- needs: a -->\n\n# One\n\n## Two\n\n{block}"

    assert follow(here, quick=True) == [
        ("more", "left", "needs a b"),
        ("more", 1, None),
    ]
    assert follow(everywhere, quick=True) == [("more", "left", "needs a")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```\nsome words\n```\n", "says no language"),
        ("```fortran\nend\n```\n", "says fortran"),
        ("```sh\ntrue\n", "has no end"),
        ("<!-- sh\ntrue\n", "has no end"),
        ("<!-- file: a.c -->\n", "has no block for a.c"),
    ],
)
def test_pages_that_say_too_little(blocks, tmp_path, text, says):
    """Each block says what it is and where it ends, so that none is passed over."""
    page = tmp_path / "page.md"
    page.write_text(f"# Heading\n\n{text}")

    _, (complaint,) = blocks.blocks_of(page)

    assert says in complaint


def test_the_list_of_what_is_not_run(blocks, tmp_path, monkeypatch):
    """What is listed has to be there, and there is room for three."""
    page = tmp_path / "page.md"
    page.write_text("# One\n\n```sh\nreboot\n```\n")
    pages = {page: blocks.blocks_of(page)}

    monkeypatch.setattr(blocks, "LEFT_OUT", {("page.md", "One", "reboot"): "not now"})
    assert blocks.complaints_about(pages) == []
    assert blocks.left_out(pages[page][0][0]) == "not now"
    monkeypatch.setattr(blocks, "LEFT_OUT", {("page.md", "Two", "reboot"): "not now"})
    assert "listed, and not there" in blocks.complaints_about(pages)[0]
    four = {("page.md", "One", "reboot"[:length]): "not now" for length in range(4)}
    monkeypatch.setattr(blocks, "LEFT_OUT", four)
    assert blocks.complaints_about(pages) == ["more than three blocks are not run"]

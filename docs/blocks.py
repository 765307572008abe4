"""Run every block of code in the documentation, from the wheel, in fresh environments.

    python docs/blocks.py                      README.md and all pages
    python docs/blocks.py docs/sharing.md      some of them
    python docs/blocks.py --quick              without what needs further packages
    python docs/blocks.py --wheel X.whl        with a wheel that is there already

A page is followed as a reader would: in a folder of its own, from top to bottom, in one
terminal and at one prompt of Python, whose `python` and `pip` are those of a new virtual
environment, with the wheel of this tree and NumPy in it.

- `>>>` is typed at the prompt, and has to answer what stands there; `...` is anything.
- A `python` block that begins with imports, or its docstring, is a program in a file of its
  own; one without goes on at the prompt.  What stands behind `print(...)  # ` is printed.
- A `sh` block is pasted into the terminal, and no command in it may fail.
- `console` blocks are compared by samples.py.
- Any other code needs `<!-- file: NAME -->` before it: it is written into that file, which
  a later `sh` block has to use.  `text`, `toml` and the like are no code.

Comments say what the reader does not see:

    <!-- needs: pandas joblib -->   packages: for the whole page if it stands before its
                                    heading, else up to the next heading
    <!-- sh                         commands, or `python` for the prompt: what a reader
    mkdir data                      has at this point and the page does not show
    -->

$SOURCE is a copy of the tree, and `pip install memfd` installs the wheel.
"""

import argparse
import contextlib
import dataclasses
import doctest
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds for one block, which may build or install something

# Page and heading of a block that is not run, how it begins, and why.  At most three.
LEFT_OUT = {
    (
        "README.md",
        "From a clone",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]'",
    ): ("it is the whole suite, which `.ci/run test` starts with this very line"),
}
CODE = ("python", "pycon", "sh", "console", "c", "cython", "meson", "bash", "shell")
NO_CODE = ("text", "toml", "ini", "json", "yaml", "diff")

_FENCE = re.compile(r"^( *)(`{3,}|:{3,}) *(\S*) *(.*)$")
_COMMENT = re.compile(r"^<!-- *(needs:|file:|sh$|python$)(.*?)(-->)?$")
_SHOWN = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)


@dataclasses.dataclass
class Block:
    """Some code of a page, and what has been said about it."""

    page: pathlib.Path
    line: int
    heading: str
    language: str
    text: str
    hidden: bool = False
    file: str | None = None
    needs: tuple[str, ...] = ()

    @property
    def kind(self):
        """Say what is done with it."""
        first = self.text.lstrip()
        if self.file:
            return "file"
        if self.language == "python" and not first.startswith(">>>"):
            begins = ("import ", "from ", '"""')
            return "program" if first.startswith(begins) and not self.hidden else "more"
        if self.language in ("python", "pycon"):
            return "prompt"
        return self.language

    def __str__(self):
        return f"{name_of(self.page)}:{self.line} ({self.heading}) {self.kind}"


def name_of(page):
    """Return a page as it is named in LEFT_OUT."""
    return str(page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name)


def blocks_of(page):
    """Return the blocks of a page, and complaints about those that say too little."""
    blocks, complaints = [], []
    heading, needs, page_needs, file = "", (), (), None
    notes = []  # the fences of directives that we are in: notes, pictures
    lines = iter(enumerate(page.read_text().splitlines(), 1))

    def body(end, indent=""):
        """Take the lines before this one."""
        taken = []
        for _, line in lines:
            if line == end:
                return "\n".join([*taken, ""])
            taken.append(line.removeprefix(indent))
        complaints.append(f"{name_of(page)}:{number} ({heading}) has no end")
        return ""

    for number, line in lines:
        if found := re.match(r"#+ +(.*)", line):
            heading, needs = found[1], page_needs
        elif found := _COMMENT.match(line):
            kind, words = found[1], found[2].split()
            if kind == "needs:":
                needs = (*needs, *words)
                page_needs = page_needs if heading else needs
            elif kind == "file:":
                (file,) = words
            else:
                text = body("-->")
                blocks.append(
                    Block(page, number, heading, kind, text, True, None, needs)
                )
        elif notes and line == notes[-1]:
            notes.pop()
        elif found := _FENCE.match(line):
            indent, fence, language, argument = found.groups()
            if language in ("{code-block}", "{code}"):
                language = argument
            if language in ("{raw}", "{eval-rst}", "{literalinclude}"):
                body(indent + fence)
            elif language.startswith("{"):
                notes.append(indent + fence)
            elif language in CODE or file:
                text = body(indent + fence, indent)
                blocks.append(
                    Block(page, number, heading, language, text, False, file, needs)
                )
                file = None
            else:
                body(indent + fence)
                if language not in NO_CODE:
                    said = language or "no language"
                    complaints.append(
                        f"{name_of(page)}:{number} ({heading}) says {said}"
                    )
    if file:
        complaints.append(f"{name_of(page)} has no block for {file}")
    return blocks, complaints


# What stands at the prompt's place: it reads blocks from one pipe and answers on another,
# with everything that it is asked in __main__, as what is typed would be.
PROMPT = r"""
def _prompt():
    import contextlib, doctest, io, json, os, sys, traceback

    questions, answers = os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w")
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    names = vars(sys.modules["__main__"])
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=flags)
    for question in questions:
        page, line, kind, text = json.loads(question)
        said = io.StringIO()
        if kind == "prompt":
            test = parser.get_doctest(text, {}, page, page, line)
            test.globs = names
            done = runner.run(test, out=said.write, clear_globs=False)
            result = done.failed, len(test.examples)
        else:
            result = 0, 1
            with contextlib.redirect_stdout(said):
                try:
                    exec(compile("\n" * line + text, page, "exec"), names)
                except BaseException:
                    result = 1, 1
                    traceback.print_exc(file=said)
        json.dump([*result, said.getvalue()], answers)
        print(file=answers, flush=True)

_prompt()
"""


class Terminal:
    """A shell that is typed into, and the Python that it starts."""

    def __init__(self, folder, environment):
        self.folder = folder
        self.environment = environment
        self.heard, told = os.pipe()
        self.shell = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            bufsize=0,
            cwd=folder,
            env=environment,
            pass_fds=[told],
            start_new_session=True,
        )
        os.close(told)
        self.python = "python"
        self.prompt = None
        # Other programs that it starts do not have the pipe: its end is the shell's end.
        self.ask = f'{told}>&-; printf "%s %s\\n" $? "$(command -v python)" >&{told}'
        self.type("set -euo pipefail")

    def type(self, commands):
        """Paste commands; return whether all went well, and what they printed."""
        with (
            tempfile.NamedTemporaryFile("w", suffix=".sh") as script,
            tempfile.NamedTemporaryFile("r", errors="replace") as printed,
        ):
            script.write(commands)
            script.flush()
            line = f". {script.name} </dev/null >{printed.name} 2>&1 {self.ask}\n"
            with contextlib.suppress(BrokenPipeError):
                self.shell.stdin.write(line.encode())
            answer = b""
            while not answer.endswith(b"\n"):
                if not select.select([self.heard], [], [], PATIENCE)[0]:
                    return False, f"{printed.read()}\nno end after {PATIENCE} s"
                if not (part := os.read(self.heard, 4096)):
                    break
                answer += part
            if answer:
                self.python = answer.decode().split(maxsplit=1)[1].strip()
            return answer.startswith(b"0 "), printed.read()

    def say(self, block):
        """Type at the prompt; return whether all went well, examples, and the output."""
        if self.prompt is None:
            questions, self.to_prompt = os.pipe()
            self.from_prompt, answers = os.pipe()
            self.prompt = subprocess.Popen(
                [
                    self.python,
                    "-W",
                    "ignore",
                    "-c",
                    PROMPT,
                    str(questions),
                    str(answers),
                ],
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=self.environment,
                pass_fds=[questions, answers],
                start_new_session=True,
            )
            os.close(questions)
            os.close(answers)
        question = [name_of(block.page), block.line, block.kind, block.text]
        with contextlib.suppress(BrokenPipeError):
            os.write(self.to_prompt, json.dumps(question).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            if not select.select([self.from_prompt], [], [], PATIENCE)[0]:
                return False, 0, f"no end after {PATIENCE} s"
            if not (part := os.read(self.from_prompt, 1 << 16)):
                return False, 0, f"Python ended with {self.prompt.wait()}"
            answer += part
        failed, examples, said = json.loads(answer)
        return not failed, examples, said

    def close(self):
        """Hang up: whatever was started here and still runs ends."""
        for process in (self.shell, self.prompt):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.shell.stdin.close()
        os.close(self.heard)
        if self.prompt is not None:
            os.close(self.to_prompt)
            os.close(self.from_prompt)


def unshown(block, output):
    """Return a comment of the kind ``print(...)  # 3`` that is not what was printed."""
    same, lines = doctest.OutputChecker().check_output, iter(output.splitlines())
    for shown in _SHOWN.findall(block.text):
        if not any(same(f"{shown}\n", f"{line}\n", doctest.ELLIPSIS) for line in lines):
            return f"{output}\nprinted nowhere: {shown}"
    return None


def follow(page, blocks, environment, quick):
    """Do what a page says; yield each block with a word for it and what went wrong."""
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.closing(Terminal(name, environment)) as terminal,
    ):
        folder, compared = pathlib.Path(name), None
        for number, block in enumerate(blocks):
            if quick and block.needs:
                yield block, "left", f"needs {' '.join(block.needs)}"
            elif reason := left_out(block):
                yield block, "left", reason
            elif block.kind == "file":
                (folder / block.file).write_text(block.text)
                later = [b.text for b in blocks[number + 1 :] if b.kind == "sh"]
                used = any(block.file in text for text in later)
                yield block, "ok", None if used else "no command uses it"
            elif block.kind == "program":
                file = folder / f"{page.stem}_{block.line}.py"
                file.write_text(block.text)
                well, output = terminal.type(f"python {file}")
                yield block, "ok", unshown(block, output) if well else output
            elif block.kind in ("prompt", "more"):
                well, examples, output = terminal.say(block)
                wrong = (
                    unshown(block, output) if well and block.kind == "more" else None
                )
                yield block, examples, wrong if well else output
            elif block.kind in ("sh", "bash", "shell"):
                well, output = terminal.type(block.text)
                yield block, "ok", None if well else output
            elif block.kind == "console":
                if compared is None:
                    samples = ROOT / "docs/samples.py"
                    compared = terminal.type(f"python -P {samples} --check {page}")
                well, output = compared
                yield block, "ok", None if well else output
            else:
                yield block, "ok", f"nothing here runs {block.language}: give it a file"


def left_out(block):
    """Return why a block is not run, if it is listed."""
    for (page, heading, begin), reason in LEFT_OUT.items():
        here = name_of(block.page), block.heading
        if here == (page, heading) and block.text.startswith(begin):
            return reason
    return None


def complaints_about(pages):
    """Return what is wrong with pages, and with the list of what is not run."""
    complaints = [words for _, said in pages.values() for words in said]
    if len(LEFT_OUT) > 3:
        complaints.append("more than three blocks are not run")
    found = {left_out(block) for blocks, _ in pages.values() for block in blocks}
    for (page, heading, _), reason in LEFT_OUT.items():
        if reason not in found:
            complaints.append(f"{page} ({heading}) is listed, and not there")
    return complaints


def made(folder, wheel, needs):
    """Return the environment variables of a new virtual environment with our wheel."""
    place = folder / "-".join(["venv", *(re.sub(r"\W+", "", n) for n in needs)])
    venv.create(place, with_pip=True)
    scripts = place / "bin"
    constraints = folder / "constraints.txt"
    constraints.write_text(f"memfd=={wheel.name.split('-')[1]}\n")
    links = os.environ.get("PIP_FIND_LINKS", "")
    here = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH"}
    environment = {
        name: value for name, value in os.environ.items() if name not in here
    }
    environment |= {
        "VIRTUAL_ENV": str(place),
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        # So `pip install memfd` takes this wheel, as files come before the index.
        "PIP_CONSTRAINT": str(constraints),
        "PIP_FIND_LINKS": f"{wheel.parent} {links}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "SOURCE": str(folder / "source"),
    }
    command = [
        scripts / "python",
        "-m",
        "pip",
        "install",
        "-q",
        f"{wheel}[numpy]",
        *needs,
    ]
    subprocess.run(command, check=True, env=environment, cwd=folder)
    return environment


def built(folder, wheel):
    """Return our wheel, and leave a copy of the tree beside it."""
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "build", "dist", "_build", "*.so"
    )
    source = shutil.copytree(ROOT, folder / "source", ignore=ignored)
    if wheel is None:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
        subprocess.run([*command, "-w", folder, source], check=True)
        (wheel,) = folder.glob("memfd-*.whl")
    return wheel.resolve()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="no further packages")
    parser.add_argument("--wheel", type=pathlib.Path)
    parser.add_argument("pages", type=pathlib.Path, nargs="*")
    arguments = parser.parse_args()
    everything = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    pages = {page: blocks_of(page) for page in everything}
    failures = complaints_about(pages)

    count, examples, left = 0, 0, []
    with tempfile.TemporaryDirectory(prefix="memfd-blocks-") as name:
        folder = pathlib.Path(name)
        wheel = built(folder, arguments.wheel)
        environments = {}
        for page in [page.resolve() for page in arguments.pages] or everything:
            blocks = pages[page][0] if page in pages else blocks_of(page)[0]
            needs = (
                ()
                if arguments.quick
                else tuple(sorted({n for b in blocks for n in b.needs}))
            )
            if blocks and needs not in environments:
                environments[needs] = made(folder, wheel, needs)
            if blocks:
                print(f"{name_of(page)}: {len(blocks)} blocks", *needs, flush=True)
            for block, word, wrong in follow(
                page, blocks, environments.get(needs), arguments.quick
            ):
                if word == "left":
                    left.append(f"{block}: {wrong}")
                    continue
                count += 1
                examples += word if isinstance(word, int) else 0
                if wrong is not None:
                    failures.append(f"{block}\n{wrong.rstrip()}")
                    print(f"FAILED {failures[-1]}", flush=True)
    print(
        f"{count} blocks ran from {wheel.name}, with {examples} answers at the prompt"
    )
    for line in left:
        print(f"not run: {line}")
    for failure in failures:
        print(f"FAILED {failure.splitlines()[0]}")
    return 1 if failures else 0


if __name__ == "__main__":
    # Who ends it ends what it has started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())

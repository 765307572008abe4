"""The `memfd` command."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import signal
import sys

import memfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, TypeAlias

    _Verbs: TypeAlias = argparse._SubParsersAction["_Parser"]

_SIZE = re.compile(r"(\d+)(?:([KMGT])(?:iB)?|B)?", re.IGNORECASE)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_INTERRUPTED = 128 + signal.SIGINT
_USAGE = 2
# Of `memfd run`: those below are the command's own.
_RUN_FAILED = 125
# What completes a file name in each shell, for shtab, which writes the completions.
_FILES = {
    "bash": "_shtab_compgen_files",
    "zsh": "_files",
    "fish": "__fish_complete_path",
}
_SORTS = "memory", "size", "huge", "holders", "name", "user", "inode"


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:  # else the parser of all verbs would say so, without the verb
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        code = _RUN_FAILED if self.prog.endswith(" run") else _USAGE
        self.exit(code, f"{self.prog}: error: {message} ({self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0, or 1 where something failed, 2 where the input is wrong, 130 after Ctrl-C; 125
        where `memfd run` failed, 126 or 127 where its command cannot be executed or found.
    """
    try:
        if hasattr(sys.stdout, "reconfigure"):  # whatever a name has in it
            sys.stdout.reconfigure(errors="backslashreplace")
        return _run(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    """Run a verb; what it refuses is one line on standard error."""
    name, failed = "memfd", 1
    try:
        try:
            arguments = parser().parse_args(argv)
            name = f"memfd {arguments.verb}"
            if arguments.verb == "run":
                failed = _RUN_FAILED
            elif sys.stdout is None:
                raise OSError(errno.EBADF, "standard output is closed")
            code: int = arguments.run(arguments)
        except SystemExit as end:  # of argparse, maybe after --help
            code = end.code  # type: ignore[assignment]  # never None, never text
        _flush()
        return code
    except BrokenPipeError:  # as of `memfd demo | head -1`
        text = None
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
    except MemoryError:
        text = "there is not enough memory"
    with contextlib.suppress(OSError):
        _flush()
    if text is not None:
        _complain(f"{name}: {text}")
    return failed


def _flush() -> None:
    """Write out what was printed; what cannot be written is forgotten."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        # Else it would fail once more when the interpreter ends.
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
        raise


def _complain(text: str) -> None:
    if sys.stderr is not None:  # else print would take standard output
        print(text, file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all arguments."""
    whole = _Parser(
        prog="memfd",
        description="Anonymous memory files on Linux: see them, and give them to programs.",
    )
    whole.add_argument(
        "--version", action="version", version=f"memfd {memfd.__version__}"
    )
    verbs = whole.add_subparsers(
        title="commands", dest="verb", required=True, metavar="COMMAND"
    )
    _add_ls(verbs)
    _add_show(verbs)
    _add_run(verbs)
    _add_demo(verbs)
    return whole


def _add(
    verbs: _Verbs,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a verb, and return its parser."""
    verb = verbs.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=run)
    return verb


def _add_ls(verbs: _Verbs) -> None:
    verb = _add(
        verbs,
        "ls",
        _ls,
        "list the memfds of this machine, and who has them",
        """\
List the memfds of this machine, each once, and the processes that have them.

Of processes of other users only root sees them.  SEALS has a letter for each: shrink,
grow, write, future write (f), executable bits (x), further seals (S).  HUGE is as far as
processes map it in huge pages.  A name is shown with escapes where it is not printable.
Sealing the memfds of others is not what this is for: that is up to who made them.""",
        "  memfd ls                     the largest first\n"
        "  memfd ls --long 1234         those of process 1234, in full\n"
        "  memfd ls --json | jq '.totals.memory'\n",
    )
    verb.add_argument(
        "pids", nargs="*", type=_pid, metavar="PID", help="only those of this process"
    )
    verb.add_argument(
        "-s",
        "--sort",
        choices=_SORTS,
        default="memory",
        metavar="KEY",
        help=f"by {', '.join(_SORTS[:-1])} or {_SORTS[-1]} (default: %(default)s)",
    )
    verb.add_argument(
        "-r", "--reverse", action="store_true", help="sort the other way round"
    )
    verb.add_argument("-u", "--user", help="only those of this user, a name or number")
    verb.add_argument(
        "-n", "--name", metavar="PATTERN", help="only those of such a name: 'frame*'"
    )
    verb.add_argument(
        "-l", "--long", action="store_true", help="all holders, and seals in words"
    )
    verb.add_argument(
        "-b", "--bytes", action="store_true", help="sizes as numbers of bytes"
    )
    verb.add_argument(
        "-j", "--json", action="store_true", help="as JSON, which memfd.ls() describes"
    )
    verb.add_argument(
        "-w", "--watch", action="store_true", help="again and again, until Ctrl-C"
    )
    verb.add_argument(
        "-i",
        "--interval",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="between two times of --watch (default: 2)",
    )


def _add_show(verbs: _Verbs) -> None:
    verb = _add(
        verbs,
        "show",
        _show,
        "show one memfd in full, and what it holds",
        """\
Show one memfd in full, and what it holds: of a .npy file dtype and shape, of several
arrays or a dumped object the table of contents.  Nothing is mapped or unpickled.

The bytes themselves: cat /proc/PID/fd/FD""",
        "  memfd show 1234:5            descriptor 5 of process 1234\n"
        "  memfd show 4711              the inode that memfd ls shows\n"
        "  memfd show --hexdump --count 64 /proc/1234/fd/5\n",
    )
    verb.add_argument(
        "memfd", metavar="PATH|PID:FD|INODE", help="which one"
    ).complete = _FILES  # type: ignore[attr-defined]  # of shtab
    verb.add_argument(
        "-x", "--hexdump", action="store_true", help="and its first bytes"
    )
    verb.add_argument(
        "-c",
        "--count",
        type=_size,
        default=256,
        metavar="BYTES",
        help="how many bytes --hexdump shows (default: %(default)s)",
    )


def _add_run(verbs: _Verbs) -> None:
    verb = _add(
        verbs,
        "run",
        _run_command,
        "give a command a file that exists in memory only",
        """\
Read standard input, or a file or an environment variable, into a sealed memfd, and
execute COMMAND with {} replaced by its path, /proc/PID/fd/N.  That is a file that can be
seeked, is not on any disk, and is gone with its last user.  Of several inputs the first
is {0}, the next {1}, and so on; {{}} stands for {} itself.

The memfd is immutable, of mode 0600, and cannot be executed.  The path holds for
children, too, as long as COMMAND runs and does not close what it inherits (as ssh and
sudo do).  Its exit status is the command's; 125 if an input fails, 126 if the command
cannot be executed, 127 if it cannot be found.

--secret keeps the memfd out of core dumps of the command (RLIMIT_CORE, and the
mappings that coredump_filter lets out), and overwrites what was read and what
/proc/PID/environ would show.  It does not protect from root, from other processes of the
same user, which can open the path, nor from swap space; and who gave the secret, such as
the shell whose variable it was, still has it.""",
        "  curl -s https://example.org/a.zip | memfd run -- unzip -l {}\n"
        "  memfd run --secret --env KEY -- ssh-keygen -y -f {}\n"
        "  memfd run --input a --input b -- diff {0} {1}\n",
    )
    verb.add_argument("--name", metavar="N", help="what memfd ls shows of it")
    verb.add_argument(
        "--input",
        action=_Source,
        dest="sources",
        metavar="FILE",
        help="read this file, - for standard input; may be given again",
    ).complete = _FILES  # type: ignore[attr-defined]  # of shtab
    verb.add_argument(
        "--env",
        action=_Source,
        dest="sources",
        metavar="VAR",
        help="take this variable, which the command does not get; may be given again",
    )
    verb.add_argument(
        "--writable",
        action="store_true",
        help="an unsealed memfd, for COMMAND to write",
    )
    verb.add_argument(
        "--secret", action="store_true", help="keep it out of core dumps: see above"
    )
    verb.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND ... {} ..."
    )


class _Source(argparse.Action):
    """Collect inputs of all kinds, in their order."""

    def __call__(
        self, parser: object, namespace: object, value: Any, option: Any = None
    ) -> None:
        sources = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*sources, (option.removeprefix("--"), value)])


def _add_demo(verbs: _Verbs) -> None:
    demo = _add(
        verbs,
        "demo",
        _demo,
        "share an array with worker processes, and measure it",
        """\
Share an array with worker processes: as a memfd, by pickling, and with
multiprocessing.shared_memory.  Prints what each way takes.""",
        "  memfd demo --size 64M --workers 2\n",
    )
    source = demo.add_mutually_exclusive_group()
    source.add_argument(
        "file", nargs="?", metavar="FILE.npy", help="the array to share"
    ).complete = _FILES  # type: ignore[attr-defined]  # of shtab
    source.add_argument(
        "--size",
        type=_size,
        default="256MiB",
        help="make an array of this size instead, such as 64M, 1GiB or plain bytes "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--workers",
        type=_workers,
        default=4,
        metavar="N",
        help="number of worker processes (default: %(default)s)",
    )


def _ls(arguments: argparse.Namespace) -> int:
    from memfd import _shell

    return _shell.ls(arguments)


def _show(arguments: argparse.Namespace) -> int:
    from memfd import _shell

    return _shell.show(arguments)


def _run_command(arguments: argparse.Namespace) -> int:
    from memfd import _run

    # Python versions differ in what they do to the first one.
    if arguments.command[:1] == ["--"]:
        del arguments.command[0]
    try:
        return _run.run(arguments)
    except _run.CommandError as error:
        code: int
        code, text = error.args
        _complain(f"memfd run: {text}")
        return code


def _demo(arguments: argparse.Namespace) -> int:
    """Run `memfd demo`."""
    try:
        from memfd import _demo
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        print(
            "memfd demo: NumPy is missing: pip install 'memfd[numpy]'", file=sys.stderr
        )
        return 2
    return _demo.run(arguments.file, arguments.size, arguments.workers)


def _size(text: str) -> int:
    """Return the bytes that an argument such as 64M or 1GiB means."""
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size such as 256MiB, 1G or 4096"
        )
    return int(match[1]) * _UNITS.get((match[2] or "").upper(), 1)


def _pid(text: str) -> int:
    """Return the process that an argument names."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id")
    return int(text)


def _seconds(text: str) -> float:
    """Return the time that an argument gives."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 0.1 to 86400 seconds")
    return seconds


def _workers(text: str) -> int:
    """Return the number of workers that an argument asks for."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 upwards")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

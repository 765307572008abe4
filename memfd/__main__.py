"""The `memfd` command."""

import argparse
import os
import re
import sys

import memfd

_SIZE = re.compile(r"(\d+)(?:([KMGT])(?:iB)?|B)?", re.IGNORECASE)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def main(argv=None):
    """Run the command and return its exit code.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0, or 1 where a result is wrong, 2 where the input is, 130 after Ctrl-C.
    """
    try:
        arguments = _parser().parse_args(argv)
        code = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as of `memfd demo | head -1`
        # What is still in the buffer would fail once more when the interpreter ends.
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
        return 1
    return code


def _parser():
    """Return the parser of all arguments."""
    parser = argparse.ArgumentParser(
        prog="memfd", description="Anonymous memory files on Linux."
    )
    parser.add_argument(
        "--version", action="version", version=f"memfd {memfd.__version__}"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="share an array with worker processes, and measure it",
        description="Share an array with worker processes: as a memfd, by pickling, and "
        "with multiprocessing.shared_memory.  Prints what each way takes.",
    )
    source = demo.add_mutually_exclusive_group()
    source.add_argument(
        "file", nargs="?", metavar="FILE.npy", help="the array to share"
    )
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
    demo.set_defaults(run=_demo)
    return parser


def _demo(arguments):
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


def _size(text):
    """Return the bytes that an argument such as 64M or 1GiB means."""
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size such as 256MiB, 1G or 4096"
        )
    return int(match[1]) * _UNITS.get((match[2] or "").upper(), 1)


def _workers(text):
    """Return the number of workers that an argument asks for."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 upwards")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

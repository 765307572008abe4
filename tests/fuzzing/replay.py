"""A program for tests/test_fuzz.py: give inputs that are kept to their targets.

    python replay.py [TARGET [FILE ...]]

Without a file all that are in corpus/TARGET and found/TARGET, without a target those of
each.  Prints how many there were of each, as one JSON object; fails at the first that is
not as it should be, and says which.
"""

import json
import pathlib
import sys
import warnings

FOLDER = pathlib.Path(__file__).resolve().parent


def kept(name):
    """Return the inputs of a target: those for coverage, and those that found something."""
    folders = FOLDER / "corpus" / name, FOLDER / "found" / name
    return sorted(path for folder in folders for path in folder.glob("*"))


def main():
    sys.path.insert(0, str(FOLDER))
    import harness
    import targets

    name, *files = sys.argv[1:] or [None]
    unknown = {name} - {None, *targets.ALL}
    if unknown:
        sys.exit(f"no target {name!r}; there are {', '.join(targets.ALL)}")
    warnings.simplefilter("error")
    counts = {}
    for one in targets.ALL if name is None else [name]:
        watch = harness.Watch(targets.ALL[one])
        paths = [pathlib.Path(file) for file in files] or kept(one)
        for path in paths:
            try:
                watch(path.read_bytes())
            except BaseException:
                print(f"target {one}, input {path}", file=sys.stderr)
                raise
        watch.look()
        counts[one] = len(paths)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""A program for .ci/fuzz: look for inputs of one target with atheris.

fuzz.py TARGET [what libFuzzer takes ...]
"""

import pathlib
import random
import sys
import warnings
from multiprocessing import connection

import atheris
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent


def main():
    # It stays there for libFuzzer, which runs this again to merge, and passes it over.
    (name,) = [word[9:] for word in sys.argv if word.startswith("--target=")]
    sys.path.insert(0, str(FOLDER))
    # What reads bytes of others: ours, and what it rests on, of packages that take long.
    for function in (
        np.lib.format.descr_to_dtype,
        np.lib.format.dtype_to_descr,
        connection.answer_challenge,
        connection.deliver_challenge,
        connection.Connection._recv_bytes,
    ):
        atheris.instrument_func(function)
    # And what a target asks: of what is compiled nothing else tells how far an input gets.
    with atheris.instrument_imports(include=["memfd", "targets"]):
        import harness
        import targets

    warnings.simplefilter("error")
    watch = harness.Watch(targets.ALL[name])

    def one(data):
        try:
            watch(data)
        except BaseException:
            print(f"target {name}, input {data.hex()}", file=sys.stderr)
            raise

    mend = targets.MENDERS.get(name)

    def mutate(data, size, seed):
        data = atheris.Mutate(data, size)
        # One in four stays with lengths that lie.
        if random.Random(seed).random() < 0.75:
            data = mend(data)[:size]
        return data

    options = {} if mend is None else {"custom_mutator": mutate}
    atheris.Setup(sys.argv, one, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

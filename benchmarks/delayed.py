"""Share with and without huge pages, in turn: compare.py runs this under strace, which
makes every madvise(2) take longer.

    python benchmarks/delayed.py SIZE ROUNDS

Prints JSON: name to seconds, one a round.
"""

import json
import sys
import time

import numpy as np

import memfd


def main():
    size, rounds = map(int, sys.argv[1:])
    array = np.ones(size // 8)
    samples = {'huge="auto"': [], 'huge="never"': []}
    for number in range(-1, rounds):
        for name, values in samples.items():
            for _ in range(3):  # as in the rounds of the others, the last counts
                start = time.perf_counter()
                memfd.share(array, huge=name.split('"')[1])
                seconds = time.perf_counter() - start
            if number >= 0:
                values.append(seconds)
    print(json.dumps(samples))


if __name__ == "__main__":
    main()

"""Everything with everything, step by step, against a model:

    python tests/machine [--steps N] [--seed S]

Hypothesis chooses the steps: files are made, written, resized, sealed, mapped, exported,
sent, shared, frozen and closed, here and in children that were forked in between.  A small
model of the kernel's rules, docs/seals.md and docs/sharing.md in code, says beforehand what
each step returns or which exception it raises, and afterwards what every object in every
process shows.  Of each example nothing is left: no descriptor and no mapping.

Prints every step before it is taken, so that after a signal the last line says which one.
A run is repeated by its seed.  The long mode is --steps 200000; a thousand take seconds.
Left out: shrinking a memfd under the mapping of another process.  It is a SIGBUS, as the
pages say, and SHRINK is there to forbid it.
"""

import argparse
import sys
import warnings

import hypothesis
from hypothesis.stateful import run_state_machine_as_test
from leftovers import UNRAISABLE
from machine import Machine

LENGTH = 40  # steps of an example


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--shrink", action="store_true", help="search for fewer steps")
    options = parser.parse_args()
    warnings.simplefilter("error")
    sys.unraisablehook = lambda what: UNRAISABLE.append(repr(what.exc_value))
    seed = options.seed
    while Machine.steps < options.steps:
        print(f"seed {seed}", flush=True)
        settings = hypothesis.settings(
            max_examples=min(50, (options.steps - Machine.steps) // LENGTH + 1),
            stateful_step_count=LENGTH,
            database=None,
            deadline=None,
            print_blob=False,
            report_multiple_bugs=False,
            phases=[hypothesis.Phase.generate]
            + [hypothesis.Phase.shrink] * options.shrink,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        run_state_machine_as_test(hypothesis.seed(seed)(Machine), settings=settings)
        seed += 1
    print(f"{Machine.steps} steps in {Machine.examples} examples", flush=True)


if __name__ == "__main__":
    main()

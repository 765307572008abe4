"""An array that is not contiguous, shared by a child."""

import numpy as np

import memfd

WAYS = "share(view)", "share(ascontiguousarray(view))"


def make(shape):
    """Return the ways to copy it; in the child."""
    view = np.random.default_rng(0).random(shape)[::2, :, ::-1]
    return {
        WAYS[0]: lambda: memfd.share(view),
        WAYS[1]: lambda: memfd.share(np.ascontiguousarray(view)),
    }

"""Ending a long pass over data between two shards, because somebody wants the run to end."""

from collections.abc import Callable

import numpy as np

from calmgrad.backend import to_numpy
from calmgrad.kernels.protocol import Array
from calmgrad.worker import Keep


class Interrupted(Exception):
    """A pass over data has ended early; what it had found so far is lost."""


def asking(should_stop: Callable[[], bool] | None) -> Keep | None:
    """What to keep of a shard for `Runner.run`: a copy on the host, unless the pass is to end.

    Args:
        should_stop: asked after each shard, by the thread that has worked on it; None: nobody is.

    Raises:
        Interrupted: (what is returned, when called) `should_stop` has said so.
    """
    if should_stop is None:
        return None

    def keep(output: Array, _: Array | None, i: int) -> Array:
        if should_stop():
            raise Interrupted
        return np.array(to_numpy(output))

    return keep

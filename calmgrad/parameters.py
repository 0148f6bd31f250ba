"""Parameters of a network of one's own, in one flat buffer: what optimisers work on."""

import math

from calmgrad.kernels.protocol import Array
from calmgrad.tape import Tape, Tensor


def flat_parameters(
    tape: Tape, **shapes: tuple[int, ...]
) -> tuple[dict[str, Tensor], Array, Array]:
    """A parameter of the tape for each name and shape, and the buffers they are views into.

    Returns:
        Name -> parameter, the flat weights (all 0, to be filled), and the flat gradients, which
        each backward pass overwrites; in the order given.
    """
    xp = tape.backend.xp
    size = sum(math.prod(shape) for shape in shapes.values())
    weights, grads = xp.zeros(size, tape.dtype), xp.zeros(size, tape.dtype)
    parameters, start = {}, 0
    for name, shape in shapes.items():
        part = slice(start, start + math.prod(shape))
        parameters[name] = tape.parameter(weights[part].reshape(shape), grads[part].reshape(shape))
        start = part.stop
    return parameters, weights, grads

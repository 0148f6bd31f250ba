"""Elastic weight consolidation: a spring at each weight, as stiff as the weight mattered.

With Fisher diagonal F, anchor θ* and strength λ (FORMATS §7)::

    penalty  = λ / 2 * sum F (θ - θ*)²
    gradient = λ F (θ - θ*)
"""

from calmgrad.backend import Backend
from calmgrad.kernels.protocol import Array


def add_penalty_gradient(
    backend: Backend, g: Array, p: Array, fisher: Array, anchor: Array, strength: float
) -> None:
    """Add the gradient of the penalty to the flat gradient `g`."""
    backend.kernels.ewc_gradient(g, p, fisher, anchor, strength)


def penalty(p: Array, fisher: Array, anchor: Array, strength: float) -> float:
    """The penalty itself, summed in float64."""
    moved = p.astype("float64") - anchor
    return 0.5 * strength * float((fisher * moved * moved).sum())

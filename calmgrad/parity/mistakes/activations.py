"""What may be wrong with SiLU, GELU and softplus."""

import math
from collections.abc import Iterator

import numpy as np

from calmgrad.parity import local
from calmgrad.parity.graph import Node
from calmgrad.parity.local import Array, Backward, Context, Forward, Values, sigmoid
from calmgrad.parity.mistakes.means import BackEntry, Entry, bell, elementwise, erf, times


def _silus() -> Iterator[Entry]:
    yield "is GELU, not SiLU", local.gelu, local.gelu_back
    yield "is the sigmoid alone, without the factor x", *elementwise(
        sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x)))  # fmt: skip
    yield "is left out: it gives its input", *elementwise(lambda x: x, np.ones_like)
    yield "is ReLU", *elementwise(lambda x: np.maximum(x, 0), lambda x: x > 0)
    yield "is tanh", *elementwise(np.tanh, lambda x: 1 - np.tanh(x) ** 2)
    yield "is softplus", local.softplus, local.softplus_back
    yield "is x sigmoid(-x)", *elementwise(lambda x: x * sigmoid(-x), lambda x: sigmoid(-x) * (
        1 - x * sigmoid(x)))  # fmt: skip
    yield "is GELU with erf, not SiLU", *_erf_gelu()
    yield "is hard-swish", *elementwise(lambda x: x * np.clip(x / 6 + 0.5, 0, 1), np.ones_like)


def _erf_gelu() -> tuple[Forward, Backward]:
    return elementwise(
        lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
        lambda x: 0.5 * (1 + erf(x / math.sqrt(2))) + x * bell(x),
    )


def _gelus() -> Iterator[Entry]:
    yield "is GELU with erf: the tanh form is expected", *_erf_gelu()
    k = 1.702
    yield (
        "is x sigmoid(1.702 x): the tanh form is expected",
        *elementwise(
            lambda x: x * sigmoid(k * x),
            lambda x: sigmoid(k * x) * (1 + k * x * (1 - sigmoid(k * x))),
        ),
    )
    yield "is SiLU", local.silu, local.silu_back
    yield "is ReLU", *elementwise(lambda x: np.maximum(x, 0), lambda x: x > 0)
    yield "is left out: it gives its input", *elementwise(lambda x: x, np.ones_like)
    yield "is squared ReLU", *elementwise(
        lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0))  # fmt: skip

    def tanh_form(scale: float, cubic: float) -> tuple[Forward, Backward]:
        def slope(x: Array) -> Array:
            t = np.tanh(scale * (x + cubic * x**3))
            return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * cubic * x * x)

        return elementwise(
            lambda x: 0.5 * x * (1 + np.tanh(scale * (x + cubic * x**3))), slope)  # fmt: skip

    right = math.sqrt(2 / math.pi)
    yield "lacks the cubic term", *tanh_form(right, 0.0)
    for cubic in (0.44715, 0.0044715, 0.04715, 0.044175):
        yield f"has the constant {cubic} in place of 0.044715", *tanh_form(right, cubic)
    yield "lacks the factor sqrt(2/pi)", *tanh_form(1.0, 0.044715)
    yield "has sqrt(pi/2) in place of sqrt(2/pi)", *tanh_form(1 / right, 0.044715)
    yield "has sqrt(2)/pi in place of sqrt(2/pi)", *tanh_form(math.sqrt(2) / math.pi, 0.044715)
    yield "has 2/pi in place of its root", *tanh_form(2 / math.pi, 0.044715)


def _softpluses() -> Iterator[Entry]:
    for threshold in (10.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.0):
        yield (
            f"gives x itself above the threshold {threshold:g}: it is 20",
            *elementwise(
                lambda x, at=threshold: np.where(x > at, x, np.logaddexp(0, x)),  # type: ignore[misc]
                lambda x, at=threshold: np.where(x > at, 1.0, sigmoid(x)),  # type: ignore[misc]
            ),
        )
    yield "is exp", *elementwise(np.exp, np.exp)
    yield "is ReLU", *elementwise(lambda x: np.maximum(x, 0), lambda x: x > 0)
    yield "is left out: dt is taken as projected", *elementwise(lambda x: x, np.ones_like)
    yield "is the sigmoid", *elementwise(sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x)))
    yield "has log2 in place of ln", *elementwise(
        lambda x: np.logaddexp(0, x) / math.log(2), lambda x: sigmoid(x) / math.log(2))  # fmt: skip
    yield "is log(1 + x)", *elementwise(lambda x: np.log1p(np.abs(x)), np.ones_like)
    yield "is applied twice", *elementwise(
        lambda x: np.logaddexp(0, np.logaddexp(0, x)),
        lambda x: sigmoid(x) * sigmoid(np.logaddexp(0, x)))  # fmt: skip


def clamped(node: Node, got: Array) -> Iterator[tuple[str, Forward]]:
    """dt held between limits; they can be seen in what came out, if anything was cut."""
    if node.kind != "softplus" or got.size == 0 or not np.isfinite(got).all():
        return

    def passing(v: Values, c: Context) -> Values:
        same = v["x"][got == v["x"]]
        above = v["x"] >= (same.min() if same.size else np.inf)
        return {"y": np.where(above, v["x"], np.logaddexp(0, v["x"]))}

    yield "gives x itself above a threshold that is too low: it is 20", passing
    low, high = float(got.min()), float(got.max())
    for text, least, most in (
        (f"is cut to at least {low:.6g}", low, np.inf),
        (f"is cut to at most {high:.6g}", -np.inf, high),
        (f"is cut to {low:.6g} to {high:.6g}", low, high),
    ):
        if int((got == low).sum()) > 1 or int((got == high).sum()) > 1:
            yield text, lambda v, c, a=least, b=most: {  # type: ignore[misc]
                "y": np.clip(np.logaddexp(0, v["x"]), a, b)}  # fmt: skip


def _silus_back() -> Iterator[BackEntry]:
    yield "leaves out its derivative", times(np.ones_like)
    yield "has the derivative sigmoid(x), without its second term", times(sigmoid)
    yield "has the derivative of the sigmoid: the factor x is forgotten", times(
        lambda x: sigmoid(x) * (1 - sigmoid(x)))  # fmt: skip
    yield "has the derivative x s (1 - s), without its first term", times(
        lambda x: x * sigmoid(x) * (1 - sigmoid(x)))  # fmt: skip
    yield "takes its derivative at y, not at x", times(
        lambda x: local.silu_slope(x * sigmoid(x)))  # fmt: skip
    yield "has (1 - x (1 - s)) in its derivative: a wrong sign", times(
        lambda x: sigmoid(x) * (1 - x * (1 - sigmoid(x))))  # fmt: skip
    yield "has the derivative of ReLU", times(lambda x: (x > 0).astype(float))


def _softpluses_back() -> Iterator[BackEntry]:
    yield "leaves out its derivative", times(np.ones_like)
    yield "takes the sigmoid of dt, not of what softplus read", times(
        lambda x: sigmoid(np.logaddexp(0, x)))  # fmt: skip
    yield "has the derivative exp(-dt), not 1 - exp(-dt)", times(
        lambda x: np.exp(-np.logaddexp(0, x)))  # fmt: skip
    yield "has the derivative of the sigmoid, s (1 - s)", times(
        lambda x: sigmoid(x) * (1 - sigmoid(x)))  # fmt: skip
    yield "has the derivative dt", times(lambda x: np.logaddexp(0, x))
    yield "has the derivative of ReLU", times(lambda x: (x > 0).astype(float))
    yield "has the derivative tanh", times(np.tanh)


def _gelus_back() -> Iterator[BackEntry]:
    scale = math.sqrt(2 / math.pi)

    def tanh(x: Array) -> Array:
        return np.tanh(scale * (x + 0.044715 * x**3))

    def inner(x: Array, three: float = 3.0) -> Array:
        return scale * (1 + three * 0.044715 * x * x)

    def erf_slope(x: Array) -> Array:
        erf = np.vectorize(math.erf, otypes=[float])
        return 0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)

    yield "leaves out its derivative", times(np.ones_like)
    yield "has the derivative of GELU with erf", times(erf_slope)
    yield "lacks the second term of its derivative", times(lambda x: 0.5 * (1 + tanh(x)))
    yield "lacks the first term of its derivative", times(
        lambda x: 0.5 * x * (1 - tanh(x) ** 2) * inner(x))  # fmt: skip
    yield "lacks the 3 in the derivative of the cubic term", times(
        lambda x: 0.5 * (1 + tanh(x)) + 0.5 * x * (1 - tanh(x) ** 2) * inner(x, 1.0))  # fmt: skip
    yield "lacks the inner derivative of the cubic term", times(
        lambda x: 0.5 * (1 + tanh(x)) + 0.5 * x * (1 - tanh(x) ** 2) * scale)  # fmt: skip
    yield "has 1 - tanh in its derivative, not 1 - tanh²", times(
        lambda x: 0.5 * (1 + tanh(x)) + 0.5 * x * (1 - tanh(x)) * inner(x))  # fmt: skip
    yield "has the derivative of SiLU", times(local.silu_slope)
    yield "has the derivative of ReLU", times(lambda x: (x > 0).astype(float))


FORWARD: dict[str, list[Entry]] = {
    "silu": list(_silus()),
    "softplus": list(_softpluses()),
    "gelu": list(_gelus()),
}
BACKWARD: dict[str, list[BackEntry]] = {
    "silu": list(_silus_back()),
    "softplus": list(_softpluses_back()),
    "gelu": list(_gelus_back()),
}

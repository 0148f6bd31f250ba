"""AdamW and SGD over the flat buffers (FORMATS §7)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from calmgrad.backend import Backend
from calmgrad.config import ModelConfig
from calmgrad.kernels.protocol import Array
from calmgrad.layout import segments

Segment = tuple[int, int, bool]


class Optimizer(Protocol):
    """Something that updates the flat parameters `p` from the flat gradient `g`.

    Attributes:
        step: updates done.
    """

    step: int

    def update(self, p: Array, g: Array, scale: float, lr: float) -> None:
        """One update with the gradient `scale * g` and learning rate `lr`."""
        ...

    def update_on_device(self, p: Array, g: Array, control: Array, max_norm: float) -> None:
        """One update, clipped to `max_norm`, by the control numbers (kernels/cuda/control.py).

        `step` is left to the caller.
        """
        ...

    def buffers(self) -> dict[str, Array]:
        """Name -> flat buffer of what it remembers besides `step`."""
        ...


@dataclass(slots=True)
class AdamW:
    """Adam with decoupled weight decay on everything but A_log and D.

    With bias-corrected moments m̂ and v̂ of the gradient::

        p = p - lr * weight_decay * p - lr * m̂ / (sqrt(v̂) + eps)

    Attributes:
        segments: `(start, stop, decay)` of each run of the flat buffer, as layout.segments gives
            them for a model; of other networks `[(0, size, True)]`.
        m, v: flat moments in buffer order.
        step: updates done.
    """

    backend: Backend
    segments: Sequence[Segment]
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    m: Array = field(init=False)
    v: Array = field(init=False)
    step: int = 0

    def __post_init__(self) -> None:
        xp, size = self.backend.xp, self.segments[-1][1]
        self.m = xp.zeros(size, "float32")
        self.v = xp.zeros(size, "float32")

    def update(self, p: Array, g: Array, scale: float, lr: float) -> None:
        self.step += 1
        for start, stop, decays in self.segments:
            part = slice(start, stop)
            self.backend.kernels.adamw(
                p[part], self.m[part], self.v[part], g[part],
                scale, lr, self.weight_decay if decays else 0.0,
                self.beta1, self.beta2, self.eps, self.step,
            )  # fmt: skip

    def update_on_device(self, p: Array, g: Array, control: Array, max_norm: float) -> None:
        kernels: Any = self.backend.kernels
        kernels.judge(control, g, max_norm, self.beta1, self.beta2)
        for start, stop, decays in self.segments:
            part = slice(start, stop)
            kernels.adamw_step(
                p[part], self.m[part], self.v[part], g[part], control,
                self.weight_decay if decays else 0.0, self.beta1, self.beta2, self.eps,
            )  # fmt: skip

    def buffers(self) -> dict[str, Array]:
        return {"adam_m": self.m, "adam_v": self.v}


@dataclass(slots=True)
class SGD:
    """Plain gradient descent with decoupled weight decay on everything but A_log and D.

    ::

        p = p - lr * weight_decay * p - lr * g
    """

    backend: Backend
    segments: Sequence[Segment]
    weight_decay: float = 0.01
    step: int = 0

    def update(self, p: Array, g: Array, scale: float, lr: float) -> None:
        self.step += 1
        for start, stop, decays in self.segments:
            part = slice(start, stop)
            decay = self.weight_decay if decays else 0.0
            self.backend.kernels.sgd(p[part], g[part], scale, lr, decay)

    def update_on_device(self, p: Array, g: Array, control: Array, max_norm: float) -> None:
        kernels: Any = self.backend.kernels
        kernels.judge(control, g, max_norm, 0.0, 0.0)
        for start, stop, decays in self.segments:
            part = slice(start, stop)
            kernels.sgd_step(p[part], g[part], control, self.weight_decay if decays else 0.0)

    def buffers(self) -> dict[str, Array]:
        return {}


OPTIMIZERS = ("adam", "sgd")


def make_optimizer(
    name: str,
    backend: Backend,
    config: ModelConfig,
    weight_decay: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> Optimizer:
    """The optimizer "adam" or "sgd".

    Raises:
        ValueError: another name.
    """
    if name == "adam":
        return AdamW(backend, segments(config), weight_decay, beta1, beta2, eps)
    if name == "sgd":
        return SGD(backend, segments(config), weight_decay)
    raise ValueError(f"optimizer {name!r}: expected {' or '.join(OPTIMIZERS)}")


def clip_scale(norm: float, max_norm: float) -> float:
    """min(1, max_norm / (norm + 1e-6)); 1 when max_norm is 0 (FORMATS §7)."""
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm > 0 else 1.0

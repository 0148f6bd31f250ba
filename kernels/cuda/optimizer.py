"""Updates over flat buffers on the GPU: with the host's numbers, or with the control vector's."""

from typing import Any

import numpy as np

from calmgrad.kernels.cuda.device import Device
from calmgrad.kernels.cuda.launcher import WARP, Launcher, blocks, flat
from calmgrad.kernels.protocol import Array

THREADS = 256  # as in optimizer.cu
MOST_THREADS = 1024
PARTS = 512  # blocks that add up squares


class Optimizer(Launcher):
    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._partials = device.xp.empty(PARTS, "float64")
        self._sum = device.xp.empty(1, "float64")

    def squared_norm(self, x: Array) -> float:
        parts = self._sum_squares(x)
        arguments = (self._sum, self._partials, parts)
        self._one_block("sum_of_squares", THREADS, x.dtype, *arguments)
        return float(self._sum[0])

    def adamw(
        self,
        p: Array,
        m: Array,
        v: Array,
        g: Array,
        scale: float,
        lr: float,
        decay: float,
        beta1: float,
        beta2: float,
        eps: float,
        step: int,
    ) -> None:
        rate, correction = lr / (1 - beta1**step), 1 / (1 - beta2**step)
        betas = (beta1, 1 - beta1, beta2, 1 - beta2, eps)
        self._elements("adamw", (p, m, v, g), scale, *betas, rate, correction, lr * decay)

    def sgd(self, p: Array, g: Array, scale: float, lr: float, decay: float) -> None:
        self._elements("sgd", (p, g), lr * scale, lr * decay)

    def ewc_gradient(
        self, g: Array, p: Array, fisher: Array, anchor: Array, strength: float
    ) -> None:
        self._elements("ewc_gradient", (g, p, fisher, anchor), strength)

    # What a step does that leaves its numbers on the device (control.py).

    def begin_step(self, control: Array) -> None:
        """LOSS = 0."""
        self._one_block("begin_step", WARP, np.dtype("float32"), control)

    def sum_losses(self, control: Array, nll: Array, weights: Array) -> None:
        """LOSS += the sum of nll times weights."""
        if nll.size:
            self._one_block(
                "sum_losses", MOST_THREADS, nll.dtype, control, flat(nll), flat(weights), nll.size
            )

    def judge(self, control: Array, g: Array, grad_clip: float, beta1: float, beta2: float) -> None:
        """NORM, SCALE, HEALTHY; and STEP and the corrections of the update that follows."""
        parts = self._sum_squares(g)
        numbers = (grad_clip, beta1, beta2)
        self._one_block("judge", THREADS, g.dtype, control, self._partials, parts, *numbers)

    def adamw_step(
        self,
        p: Array,
        m: Array,
        v: Array,
        g: Array,
        control: Array,
        decay: float,
        beta1: float,
        beta2: float,
        eps: float,
    ) -> None:
        """As `adamw`, with SCALE, LR and the corrections; nothing unless HEALTHY."""
        betas = (beta1, 1 - beta1, beta2, 1 - beta2, eps)
        self._elements("adamw_step", (p, m, v, g), control, *betas, decay)

    def sgd_step(self, p: Array, g: Array, control: Array, decay: float) -> None:
        """As `sgd`, with SCALE and LR; nothing unless HEALTHY."""
        self._elements("sgd_step", (p, g), control, decay)

    def _sum_squares(self, x: Array) -> int:
        """Leave partial sums of squares; how many."""
        parts = max(1, min(PARTS, blocks(x.size, THREADS)))
        self.launch(
            "optimizer", "sum_squares", (parts, 1, 1), (THREADS, 1, 1), x.dtype,
            self._partials, flat(x), x.size,
        )  # fmt: skip
        return parts

    def _elements(self, entry: str, buffers: tuple[Array, ...], *numbers: Any) -> None:
        size = buffers[0].size
        self.launch(
            "optimizer", entry, (blocks(size, THREADS), 1, 1), (THREADS, 1, 1), buffers[0].dtype,
            *map(flat, buffers), size, *numbers,
        )  # fmt: skip

    def _one_block(self, entry: str, threads: int, dtype: Any, *arguments: Any) -> None:
        self.launch("optimizer", entry, (1, 1, 1), (threads, 1, 1), dtype, *arguments)

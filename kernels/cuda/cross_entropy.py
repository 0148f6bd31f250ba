"""Softmax cross-entropy on the GPU."""

from calmgrad.kernels.cuda.launcher import Launcher, row
from calmgrad.kernels.protocol import Array


class CrossEntropy(Launcher):
    def cross_entropy_forward(self, nll: Array, lse: Array, logits: Array, targets: Array) -> None:
        self.launch_rows(
            "cross_entropy", "cross_entropy_forward", targets.size, logits.dtype,
            nll, lse, logits, row(logits), targets, *logits.shape,
        )  # fmt: skip

    def cross_entropy_backward(
        self, dlogits: Array, dnll: Array, lse: Array, logits: Array, targets: Array
    ) -> None:
        self.launch_rows(
            "cross_entropy", "cross_entropy_backward", targets.size, logits.dtype,
            dlogits, row(dlogits), dnll, lse, logits, row(logits), targets, *logits.shape,
        )  # fmt: skip

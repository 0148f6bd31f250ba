"""The learning rate of each update."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Flat; or, with `warmup` > 0, a linear rise and then half a cosine down to `min_lr`.

    With s the number of the update, from `first_step` on (FORMATS §7)::

        s < warmup:   lr * s / warmup
        otherwise:    min_lr + (lr - min_lr) * (1 + cos(pi * p)) / 2
                      p = min(1, (s - warmup) / max(total - warmup, 1))
    """

    lr: float
    warmup: int = 0
    total: int = 0
    min_lr: float = 1e-6
    first_step: int = 1

    def at(self, update: int) -> float:
        """Learning rate of update 0, 1, 2, …"""
        if self.warmup <= 0:
            return self.lr
        s = update + self.first_step
        if s < self.warmup:
            return self.lr * s / self.warmup
        progress = min(1.0, (s - self.warmup) / max(self.total - self.warmup, 1))
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress))

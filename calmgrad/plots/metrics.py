"""The curves of a run, read from its metrics."""

import json
import math
from dataclasses import dataclass, field
from io import BytesIO
from itertools import accumulate

from calmgrad.errors import FileError
from calmgrad.formats.files import AnyPath, display, read_file

LARGEST_LOSS = 1e30  # what is beyond it is no number to draw
LARGEST_STEP = 2**53
LONGEST_LINE = 1 << 16  # bytes; one of ours has about 200, and a million zeros take 8 MB to read


@dataclass(frozen=True, slots=True)
class Curves:
    """Losses in nats of one run, in the order of their steps.

    Attributes:
        steps, losses: of training.
        val_steps, val_losses: of the evaluations.
        left_out: losses that are not finite (or beyond 1e30).
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    val_steps: list[int] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    left_out: int = 0

    def best_validation(self) -> tuple[int, float] | None:
        """Step and loss of the best evaluation; None without one."""
        pairs = zip(self.val_steps, self.val_losses, strict=True)
        return min(pairs, key=lambda pair: pair[1], default=None)

    def summary(self) -> str:
        """The run in half a sentence."""
        parts = []
        if self.steps:
            first, last, step = self.losses[0], self.smoothed()[-1], self.steps[-1]
            parts.append(f"training loss from {first:.3f} to {last:.3f} at step {step:,}")
        best = self.best_validation()
        if best is not None:
            parts.append(f"best validation loss {best[1]:.3f} at step {best[0]:,}")
        return ", ".join(parts) or "no loss"

    def smoothed(self) -> list[float]:
        """The training losses, each averaged with its neighbours: 1/50 of the run on each side.

        At the start the stretch is as long on both sides, so that the curve starts at the first
        loss; at the end it is what there is.
        """
        count = len(self.losses)
        sums = [0.0, *accumulate(self.losses)]
        out = []
        for i in range(count):
            side = min(count // 50, i)
            first, stop = i - side, min(i + side + 1, count)
            out.append((sums[stop] - sums[first]) / (stop - first))
        return out


def read_metrics(path: AnyPath) -> Curves:
    """The curves in a metrics.jsonl; where a step occurs twice, the later line counts.

    A broken last line is ignored: it is being written, or a crash has cut it.

    Raises:
        FileError: the file is missing, or another line is broken.
    """
    content = read_file(path).rstrip()
    last = content.count(b"\n") + 1
    found: dict[str, dict[int, float]] = {"loss": {}, "val_loss": {}}
    left_out = 0
    for number, line in enumerate(BytesIO(content), 1):
        try:
            step, losses = _parse(line)
        except ValueError as error:
            if number == last:
                break
            raise FileError(f"{display(path)}: line {number}: {error}") from error
        for kind, loss in losses.items():
            if abs(loss) < LARGEST_LOSS:  # so not NaN either
                found[kind][step] = loss
            else:
                left_out += 1
    train, val = sorted(found["loss"].items()), sorted(found["val_loss"].items())
    return Curves(
        [step for step, _ in train],
        [loss for _, loss in train],
        [step for step, _ in val],
        [loss for _, loss in val],
        left_out,
    )


def _parse(line: bytes) -> tuple[int, dict[str, float]]:
    """The step of a line, and its losses by kind."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"{len(line)} bytes: expected at most {LONGEST_LINE}")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON: expected one object") from None
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    losses = {kind: values[kind] for kind in ("loss", "val_loss") if kind in values}
    for kind, loss in losses.items():
        if isinstance(loss, bool) or not isinstance(loss, int | float):
            raise ValueError(f"{kind}: expected a number")
        losses[kind] = loss if abs(loss) < LARGEST_LOSS else math.nan
    step = values.get("step")
    if not losses:  # a line of another kind
        return 0, losses
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < LARGEST_STEP:
        raise ValueError("step: expected a whole number, 0 or more and below 2^53")
    return step, losses

"""What an index into a value or parameter means: which layer, token, channel, state."""

from collections.abc import Mapping

import numpy as np

from calmgrad.config import ModelConfig
from calmgrad.layout import layout
from calmgrad.tokenizer import decode
from calmgrad.trace import Batch

# The axes of each parameter, by the last part of its name; "in" and "out" of a matrix else.
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "token_emb.weight": ("token of the vocabulary", "channel"),
    "conv1d_weight": ("channel", "tap"),
    "x_proj.weight": ("input", "column"),
    "dt_proj.weight": ("rank", "channel"),
    "A_log": ("channel", "state"),
}
# Buffers of all parameters, one after the other.
FLAT = (
    "weights", "grads", "fisher", "anchor", "ewc_grads", "clipped_grads", "adam_m_before",
    "adam_v_before", "adam_m", "adam_v", "new_weights", "new_fisher",
)  # fmt: skip
_VALUES: Mapping[str, tuple[str, ...]] = {
    "B": ("state",),
    "C": ("state",),
    "dt_raw": ("rank",),
    "h": ("channel", "state"),
    "logits": ("logit of",),
}


def meaning(name: str, index: tuple[int, ...], config: ModelConfig, batch: Batch) -> str:
    """The element `index` of a value, parameter or flat buffer, in words."""
    if len(index) == 1 and name in FLAT:
        return _flat_meaning(index[0], config, batch)
    parts = name.split(".")
    words = [f"layer {parts[1]}"] if parts[0] == "blocks" else []
    if any(entry.name == name for entry in layout(config)):
        short = name if name == "token_emb.weight" else ".".join(parts[-2:])
        axes = _PARAMETERS.get(parts[-1], _PARAMETERS.get(short, ()))
        axes = axes or (("input", "output") if len(index) == 2 else ("channel",))
        words += [_axis(axis, i) for axis, i in zip(axes, index, strict=False)]
    elif index:
        words += [token_words(index[0], batch)] if len(batch.tokens) > index[0] else []
        axes = _VALUES.get(parts[-1], ("channel",))
        words += [_axis(axis, i) for axis, i in zip(axes, index[1:], strict=False)]
    return ", ".join(words)


def token_words(row: int, batch: Batch) -> str:
    """Which token of which sequence a row belongs to."""
    offsets = batch.packing.offsets
    sequence = int((offsets[1:] <= row).sum())
    text = decode([int(batch.tokens[row])], special=True)
    return f"sequence {sequence}, token {row - int(offsets[sequence])} ({text!r})"


def _flat_meaning(index: int, config: ModelConfig, batch: Batch) -> str:
    """An element of a flat buffer: of which parameter, and where in it."""
    entry = next(e for e in layout(config) if index < e.stop)
    inside = tuple(int(i) for i in np.unravel_index(index - entry.start, entry.shape))
    words = meaning(entry.name, inside, config, batch)
    return f"{entry.name}{list(inside)}: {words}"


def _axis(axis: str, i: int) -> str:
    if axis in ("logit of", "token of the vocabulary"):
        text = decode([i], special=True) if i < 278 else f"<:{i}:>"
        return f"{axis} {text!r}" if axis == "logit of" else f"token {i} ({text!r})"
    return f"{axis} {i}"

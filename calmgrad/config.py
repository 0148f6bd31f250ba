"""Model sizes, their presets, and the two sets of training rules."""

from dataclasses import dataclass, replace
from typing import Literal

VOCAB = 320
LAYER_NORM_EPS = 1e-5
INITIALIZER_RANGE = 0.02


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes of a CALM network (FORMATS §1); `dt_rank=0` becomes ceil(d_model / 16).

    Raises:
        ValueError: a size that the CWGT header cannot hold (FORMATS §2).
    """

    d_model: int = 64
    n_layers: int = 3
    ffn_expand: int = 2
    expand: int = 2
    d_state: int = 16
    d_conv: int = 4
    dt_rank: int = 0
    l_max: int = 768
    vocab: int = VOCAB

    def __post_init__(self) -> None:
        if self.dt_rank == 0:
            object.__setattr__(self, "dt_rank", -(-self.d_model // 16))
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name}: expected a whole number, got {value!r}")
            if not low <= value <= high:
                raise ValueError(f"{name} = {value}: expected {low} to {high}")

    @property
    def d_inner(self) -> int:
        """Channels of the mixer."""
        return self.d_model * self.expand

    @property
    def d_ffn(self) -> int:
        """Width of the feed-forward network."""
        return self.d_model * self.ffn_expand

    @property
    def param_count(self) -> int:
        """Number of weights, by the formula of FORMATS §1."""
        d, di, r, n = self.d_model, self.d_inner, self.dt_rank, self.d_state
        mixer = (
            d * 2 * di + di * self.d_conv + di * (r + 2 * n) + r * di + di + di * n + di + di * d
        )
        return self.vocab * d + self.n_layers * (4 * d + mixer + 2 * d * self.d_ffn) + 2 * d


# Smallest and largest value of each size: what fits its header field, and at most 16 layers.
LIMITS = {
    "d_model": (1, 4080),  # dt_rank = ceil(d_model / 16) must fit one byte
    "n_layers": (1, 16),
    "ffn_expand": (1, 255),
    "expand": (1, 255),
    "d_state": (1, 255),
    "d_conv": (1, 255),
    "dt_rank": (1, 255),
    "l_max": (1, 65535),
    "vocab": (1, 65535),
}


@dataclass(frozen=True, slots=True)
class Preset:
    """A named model size and how a new model of it is trained (FORMATS §9)."""

    model: ModelConfig
    batch_size: int
    lr: float
    warmup_steps: int
    epochs: int = 10


PRESETS = {
    "nano": Preset(ModelConfig(64, 3, 2, 2), batch_size=32, lr=1e-3, warmup_steps=100),
    "micro": Preset(ModelConfig(96, 5, 3, 2), batch_size=16, lr=5e-4, warmup_steps=200),
    "mini": Preset(ModelConfig(128, 6, 4, 3), batch_size=16, lr=3e-4, warmup_steps=200),
    "small": Preset(ModelConfig(192, 8, 4, 4), batch_size=8, lr=3e-4, warmup_steps=200),
}


def resolve(preset: str | None, sizes: dict[str, int | None]) -> ModelConfig:
    """Sizes of a preset (nano when None), with the given ones in their place.

    Without a preset, `expand` is 2 as everywhere else (FORMATS §1).

    Raises:
        ValueError: an unknown preset, or a size out of its range.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"unknown model size {preset!r}: expected one of {', '.join(PRESETS)}")
    base = PRESETS[preset or "nano"].model
    given = {name: value for name, value in sizes.items() if value is not None}
    if "d_model" in given and "dt_rank" not in given:
        given["dt_rank"] = 0
    return replace(base, **given)


@dataclass(frozen=True, slots=True)
class Rules:
    """One answer to each point on which the two existing trainers differ (FORMATS §7).

    Attributes:
        reduction: mean over the sequences' mean losses, or over all targets of the batch.
        first_step: number of the first update in the learning-rate schedule.
        floor_total: the schedule's length counts whole batches only.
        equal_parts: accumulated gradients count alike, however many targets are behind each.
        batch_fisher: the Fisher diagonal squares the gradient of a batch's full-sequence loss,
            not those of single sequences from their ATN on.
    """

    name: str
    reduction: Literal["sequence", "token"]
    first_step: int
    floor_total: bool
    equal_parts: bool
    batch_fisher: bool


RULES = {
    "c-engine": Rules("c-engine", "sequence", 1, False, False, False),
    "calm-mamba": Rules("calm-mamba", "token", 0, True, True, True),
}


def rules_named(name: str) -> Rules:
    """The rules of this name.

    Raises:
        ValueError: there are none.
    """
    if name not in RULES:
        raise ValueError(f"rules {name!r}: expected {' or '.join(RULES)}")
    return RULES[name]

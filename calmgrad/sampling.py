"""How a model is sampled: what the caller says, else the model's file, else calm-inference."""

import math
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

from calmgrad.formats.cwgt import SamplerDefaults

LEAST_TEMPERATURE = 1e-3  # the smallest that a file can hold


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn, and how many (FORMATS §8).

    Attributes:
        temperature: 0: always the most likely token, whatever the filters.
        top_k: keep the k most likely tokens, and those as likely as the last; 0: all.
        top_p: keep the most likely tokens until they hold this much probability; 0: all.
        min_p: keep tokens at least this much as likely as the most likely one; 0: all. With
            no filter at all the most likely token is taken.
        max_tokens: longest completion.
        candidates: how many completions.

    Raises:
        ValueError: a value outside its range.
    """

    temperature: float = 0.8
    top_k: int = 5
    top_p: float = 0.0
    min_p: float = 0.0
    max_tokens: int = 256
    candidates: int = 1

    def __post_init__(self) -> None:
        for name, (kind, low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                whole = "a whole number " if kind is Integral else ""
                limit = f"from {low} on" if high == math.inf else f"from {low} to {high}"
                raise ValueError(f"{name} = {value!r}: expected {whole}{limit}")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"temperature = {self.temperature!r}: expected 0 or at least {LEAST_TEMPERATURE}"
            )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0 or not (self.top_k or self.top_p or self.min_p)


_RANGES: dict[str, tuple[type[Any], float, float]] = {
    "temperature": (Real, 0, 1000),
    "top_k": (Integral, 0, math.inf),
    "top_p": (Real, 0, 1),
    "min_p": (Real, 0, 1),
    "max_tokens": (Integral, 1, math.inf),
    "candidates": (Integral, 1, math.inf),
}
GREEDY = Sampling(temperature=0.0)


def resolve(file: SamplerDefaults | None, given: dict[str, float | None]) -> Sampling:
    """The given values; in place of None the file's; where that has none, calm-inference's.

    The filters of a file belong together: if it sets one, those it leaves out are off. And its
    number of candidates is for sampling: greedy ones would all be the same.

    Raises:
        ValueError: a value outside its range.
    """
    file = file or SamplerDefaults()
    values: dict[str, Any] = {
        "temperature": file.temperature or None,
        "max_tokens": file.max_tokens or None,
        "candidates": file.num_candidates or None,
    }
    if file.top_k or file.top_p or file.min_p:
        values |= {name: getattr(file, name) or 0 for name in ("top_k", "top_p", "min_p")}
    values |= {name: value for name, value in given.items() if value is not None}
    sampling = Sampling(**{name: value for name, value in values.items() if value is not None})
    if sampling.greedy and given.get("candidates") is None:
        return replace(sampling, candidates=1)
    return sampling

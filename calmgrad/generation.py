"""Completions of a prompt: tokens one after the other until a stop (FORMATS §8)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad.decoder import Decoder, Integers
from calmgrad.formats.cwgt import Metadata
from calmgrad.prompt import prompt as typed_prompt
from calmgrad.sampling import Sampling
from calmgrad.template import build_sequence
from calmgrad.tokenizer import EOS, PAD, decode

OnToken = Callable[[int], object]
Fields = Mapping[str, Any]  # of a template: name -> value

PATIENCE = 16  # draws in a row that only repeat completions, after which there are no more


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model has written.

    Attributes:
        tokens: without the prompt, and without what ended it.
        text: the bytes among them.
        score: sum of the log probabilities, at the sampling temperature and before filters, of
            all that was chosen: the ending token and bytes taken back count too.
        ended: by "end" (EOS or PAD), "stop" (a stop pattern), "max_tokens", or "l_max" (the
            longest sequence of the model).
    """

    tokens: list[int]
    text: str
    score: float
    ended: str


class Stops:
    """When a completion ends: at EOS and PAD, and when its last bytes are one of some patterns."""

    def __init__(self, patterns: Sequence[bytes], vocab: int) -> None:
        if b"" in patterns:
            raise ValueError("stop: an empty pattern")
        self.patterns = [list(pattern) for pattern in patterns]
        self.pauses = np.zeros(vocab, np.bool_)  # tokens after which there may be an end
        for token in (PAD, EOS, *(pattern[-1] for pattern in self.patterns)):
            if token < vocab:
                self.pauses[token] = True

    def found(self, tokens: Sequence[int]) -> tuple[str, int] | None:
        """How the tokens end and how many of the last ones go with it; None: they do not.

        The first pattern given counts, so `|` comes before any `||`.
        """
        if tokens[-1] in (PAD, EOS):
            return "end", 1
        for pattern in self.patterns:
            if list(tokens[-len(pattern) :]) == pattern:
                return "stop", len(pattern)
        return None

    def held(self, tokens: Sequence[int]) -> int:
        """How many of the last tokens may yet turn out to be the beginning of a pattern."""
        lengths = [
            n
            for pattern in self.patterns
            for n in range(1, min(len(pattern), len(tokens) + 1))
            if list(tokens[-n:]) == pattern[:n]
        ]
        return max(lengths, default=0)


def prompt_tokens(metadata: Metadata, text: str | Fields, l_max: int, max_tokens: int) -> list[int]:
    """The tokens of typed text or of fields, by a model's template.

    Repeated fields are cut, the oldest items first, to leave room for `max_tokens`; that is half
    of l_max at most.

    Raises:
        ValueError: as `build_sequence`; the message names entry or field.
    """
    budget = l_max - min(max_tokens, l_max // 2)
    if isinstance(text, str):
        return typed_prompt(metadata.template, text, budget)
    return build_sequence(metadata.template, text, budget)


def generate(
    decoder: Decoder,
    prompt: Sequence[int] | Integers,
    sampling: Sampling,
    stops: Stops,
    seed: int,
    on_token: OnToken | None = None,
    distinct: bool = True,
) -> list[Completion]:
    """As many completions as `sampling` says; the i-th draw depends on the seed and i alone.

    Args:
        on_token: called with each token as soon as no stop pattern can take it back.
        distinct: a completion whose text came before is drawn again, with other dice; after
            `PATIENCE` such draws in a row (greedy: at once) there are fewer than asked for.

    Raises:
        ValueError: the prompt is empty, or so long that the model has no room for a token; the
            seed is negative; or the model's output is not finite.
    """
    if seed < 0:
        raise ValueError(f"seed = {seed}: expected 0 or more")
    tokens = np.asarray(prompt, np.int64)
    room = decoder.config.l_max - tokens.size
    if tokens.size == 0:
        raise ValueError("prompt: no tokens, nothing to go on from")
    if room < 1:
        raise ValueError(
            f"prompt: {tokens.size} tokens leave no room for a completion;"
            f" with it, the model takes l_max = {decoder.config.l_max}"
        )
    limit = min(sampling.max_tokens, room)
    wanted = 1 if distinct and sampling.greedy else sampling.candidates
    decoder.start(tokens[:-1])
    state = decoder.state() if wanted > 1 else None
    completions: list[Completion] = []
    texts: set[str] = set()
    draw = repeats = 0
    while len(completions) < wanted and repeats < PATIENCE:
        if draw and state is not None:
            decoder.restore(state)
        dice = np.random.default_rng([seed, draw]).random(limit)
        found = _complete(decoder, tokens[-1:], sampling, stops, dice, on_token)
        draw += 1
        if distinct and found.text in texts:
            repeats += 1
            continue
        repeats = 0
        texts.add(found.text)
        completions.append(found)
    return completions


def _complete(
    decoder: Decoder,
    last: Integers,
    sampling: Sampling,
    stops: Stops,
    draws: NDArray[np.float64],
    on_token: OnToken | None,
) -> Completion:
    """One completion after the prompt's last token; at most one token for each draw.

    The kernel runs until a token after which there may be an end; with `on_token`, for one
    token at a time.
    """
    limit = draws.size
    chosen, log_probs = np.empty(limit, np.int64), np.zeros(limit)
    tokens: list[int] = []
    done = shown = 0
    end: tuple[str, int] | None = None
    while done < limit and end is None:
        part = slice(done, limit if on_token is None else done + 1)
        count = decoder.write(
            last, chosen[part], log_probs[part], stops.pauses, draws[part], sampling
        )
        last = chosen[done + count - 1 : done + count]
        tokens += chosen[done : done + count].tolist()
        done += count
        end = stops.found(tokens)
        if on_token is not None and end is None:
            shown = _show(tokens, shown, len(tokens) - stops.held(tokens), on_token)
    score = float(log_probs[:done].sum())
    if not math.isfinite(score):
        raise ValueError("the model's output is not finite")
    ended, taken_back = end or ("l_max" if limit < sampling.max_tokens else "max_tokens", 0)
    del tokens[len(tokens) - taken_back :]
    if on_token is not None:
        _show(tokens, shown, len(tokens), on_token)
    return Completion(tokens, decode(tokens), score, ended)


def _show(tokens: list[int], start: int, stop: int, on_token: OnToken) -> int:
    for token in tokens[start:stop]:
        on_token(token)
    return max(start, stop)

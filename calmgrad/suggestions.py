"""How much typing a model's completions save, on commands that were really typed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calmgrad.data import Dataset
from calmgrad.model import Model
from calmgrad.prompt import stop_patterns
from calmgrad.sampling import resolve
from calmgrad.sequences import Tokens
from calmgrad.tokenizer import PAD

TYPED, FIRST, COMMANDS = 3, 5, 1000  # what is measured unless told otherwise


@dataclass(frozen=True, slots=True)
class Suggestions:
    """How right greedy completions are, and how fast.

    Attributes:
        typed: characters of a command that are there when its completion is judged.
        exact_match: share of the commands that the completion makes whole, no more and no less.
        first: how many characters of a completion `first_accuracy` looks at.
        first_accuracy: share of the completions that begin with what was typed next.
        keystrokes_saved: share of all characters that need not be typed, if one accepts, with
            one key, the first completion that makes the command whole.
        commands: how many were judged.
        left_out: how many have no more than `typed` characters, or no room for another token.
        suggestions: how many completions were made; the rest went on with the one before.
        latency_ms_p50, latency_ms_p99: milliseconds for one, prompt included.
    """

    typed: int
    exact_match: float
    first: int
    first_accuracy: float
    keystrokes_saved: float
    commands: int
    left_out: int
    suggestions: int
    latency_ms_p50: float
    latency_ms_p99: float


def score(
    model: Model,
    dataset: Dataset,
    typed: int = TYPED,
    first: int = FIRST,
    commands: int = COMMANDS,
) -> Suggestions:
    """Type the commands of a data set, and look at the completion after each character.

    Args:
        typed, first: as in `Suggestions`.
        commands: at most so many sequences, evenly spread over the file; 0: all.

    Raises:
        ValueError: no command has more than `typed` characters.
    """
    count = len(dataset.rows)
    wanted = min(commands or count, count)
    suggester = _Suggester(model)
    exact = begun = saved = characters = judged = 0
    for i in range(wanted):
        tokens, position = dataset[i * count // wanted]
        context, command = split(tokens, position)
        text = _text(command)
        if len(text) <= typed or len(context) + len(command) >= model.config.l_max:
            continue
        judged += 1
        characters += len(text)
        whole: int | None = None  # characters typed when the completion first was all the rest
        for n in range(len(text)):
            completion = suggester.after(context, text, n)
            if whole is None and completion == text[n:]:
                whole = n
            if n == typed:
                exact += completion == text[n:]
                begun += completion[:first] == text[n:][:first]
            if n >= typed and whole is not None:
                break
        if whole is not None:
            saved += len(text) - whole - 1
    if not judged:
        raise ValueError(f"nothing to complete: no command has more than {typed} characters")
    p50, p99 = np.percentile(suggester.milliseconds, [50, 99])
    return Suggestions(
        typed=typed,
        exact_match=exact / judged,
        first=first,
        first_accuracy=begun / judged,
        keystrokes_saved=saved / characters,
        commands=judged,
        left_out=wanted - judged,
        suggestions=len(suggester.milliseconds),
        latency_ms_p50=float(p50),
        latency_ms_p99=float(p99),
    )


def split(tokens: Tokens, position: int) -> tuple[list[int], list[int]]:
    """The context of a sequence, up to the token that begins the command, and its bytes.

    The command are the first bytes after ATN, or after BOS where `position` is 0.
    """
    start = position + 1
    while start < len(tokens) and tokens[start] >= PAD:
        start += 1
    stop = start
    while stop < len(tokens) and tokens[stop] < PAD:
        stop += 1
    return [int(t) for t in tokens[:start]], [int(t) for t in tokens[start:stop]]


def _text(tokens: Sequence[int]) -> str:
    """Bytes as characters, in such a way that they can become the same bytes again."""
    return bytes(tokens).decode("utf-8", "surrogateescape")


class _Suggester:
    """Greedy completions while somebody types; `milliseconds` tells how long each took."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.stop = stop_patterns(model.metadata.stop_conditions)
        self.longest = resolve(model.sampler, {}).max_tokens
        self.milliseconds: list[float] = []
        self._last = ""
        self._cut = True  # whether the last one might go on
        model.generate([0], temperature=0, max_tokens=1)  # the kernels are loaded now
        model.generate([0] * 40, temperature=0, max_tokens=1)

    def after(self, context: list[int], text: str, n: int) -> str:
        """The completion of text[:n]: the rest of the last one, if that said text[n-1]."""
        if n > 0 and not self._cut and self._last[:1] == text[n - 1]:
            self._last = self._last[1:]
            return self._last
        prompt = context + list(text[:n].encode("utf-8", "surrogateescape"))
        began = time.perf_counter()
        completion = self.model.generate(
            prompt, temperature=0, stop=self.stop, max_tokens=self.longest
        )[0]
        self.milliseconds.append(1e3 * (time.perf_counter() - began))
        tokens = completion.tokens
        end = next((i for i, token in enumerate(tokens) if token >= PAD), len(tokens))
        self._cut = end == len(tokens) and completion.ended in ("max_tokens", "l_max")
        self._last = _text(tokens[:end])
        return self._last

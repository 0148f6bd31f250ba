"""Completions: against calm-mamba's, against the full forward pass, and where they end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import calmgrad
from calmgrad import ATN, BOS, CMD, EOS, PAD
from calmgrad import backend as backends
from calmgrad.generation import Stops, generate
from calmgrad.model import Model
from calmgrad.prompt import stop_patterns
from calmgrad.sampling import Sampling
from tests.test_decoder import model_of, tokens_of

GOLDEN = Path(__file__).parent / "golden"

# --- the same as others -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "odd", "nano"])
def test_token_for_token_as_calm_mamba(name: str, request: pytest.FixtureRequest) -> None:
    """Written by calm-inference 0.1.4 on the golden models; top_k 1 has a score, but no dice."""
    folder = request.getfixturevalue("shared") / "golden" if name == "nano" else GOLDEN
    model = calmgrad.load_model(folder / f"{name}.cwgt")
    for row in json.loads((GOLDEN / "completions.json").read_text())[name]:
        (found,) = model.generate(
            row["prompt"],
            temperature=row["temperature"],
            top_k=row["top_k"],
            max_tokens=24,
            stop=[bytes(pattern) for pattern in row["stop"]],
        )
        assert found.tokens == row["tokens"]
        # float32: each logit carries a rounding error in proportion to its size.
        assert found.score == pytest.approx(row["score"], rel=1e-6, abs=5e-6)


def by_full_forward(
    model: Model, prompt: list[int], sampling: Sampling, stops: Stops, seed: int
) -> tuple[list[int], float, str]:
    """A completion by running the whole sequence again for each token, in plain words."""
    limit = min(sampling.max_tokens, model.config.l_max - len(prompt))
    draws = np.random.default_rng([seed, 0]).random(limit)
    choose = backends.load("reference").kernels.choose
    written: list[int] = []
    score = 0.0
    for draw in draws:
        logits = model.logits(prompt + written)[-1]
        token, log_prob = choose(
            logits, logits, draw,
            sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p,
        )  # fmt: skip
        score += log_prob
        if token in (PAD, EOS):
            return written, score, "end"
        written.append(token)
        for pattern in stops.patterns:
            if written[-len(pattern) :] == pattern:
                return written[: -len(pattern)], score, "stop"
    return written, score, "max_tokens" if limit == sampling.max_tokens else "l_max"


@given(
    seed=st.integers(0, 10**6),
    length=st.sampled_from([1, 2, 7, 33, 60]),
    sampling=st.sampled_from(
        [
            Sampling(0, max_tokens=30),
            Sampling(0.8, 5, max_tokens=30),
            Sampling(1.3, 0, 0.8, 0.05, max_tokens=30),
        ]
    ),
)
def test_the_same_as_the_full_forward(seed: int, length: int, sampling: Sampling) -> None:
    model, prompt = model_of(seed, l_max=70), tokens_of(length, seed).tolist()
    stops = Stops([bytes([b]) for b in range(0, 30, 3)] + [bytes([40, 41])], 320)
    (found,) = model.generate(
        prompt,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        max_tokens=30,
        stop=[bytes(p) for p in stops.patterns],
        seed=seed,
    )
    tokens, score, ended = by_full_forward(model, prompt, sampling, stops, seed)
    assert (found.tokens, found.ended) == (tokens, ended)
    assert found.score == pytest.approx(score, abs=1e-3)


# --- dice -------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_completions_again_and_each_its_own() -> None:
    model = model_of()
    three = model.generate([1, 2], candidates=3, max_tokens=10, seed=5)
    assert model.generate([1, 2], candidates=3, max_tokens=10, seed=5) == three
    assert model.generate([1, 2], candidates=1, max_tokens=10, seed=5) == three[:1]
    assert three[0] != three[1] != three[2]
    assert model.generate([1, 2], max_tokens=10, seed=6) != three[:1]
    assert model.generate([1, 2], max_tokens=10) != model.generate([1, 2], max_tokens=10)


def test_the_first_token_is_drawn_as_often_as_it_should() -> None:
    """Within five standard deviations, with a fixed seed."""
    model, count = model_of(), 3000
    p = np.exp(model.logits([1, 2])[-1].astype(np.float64) / 2)
    p[p < np.sort(p)[-5]] = 0
    p /= p.sum()
    found = model.generate(
        [1, 2], temperature=2, top_k=5, max_tokens=1, candidates=count, seed=0, distinct=False
    )
    tokens = [c.tokens[0] if c.tokens else EOS for c in found]
    counts = np.bincount(tokens, minlength=320)
    assert (np.abs(counts - count * p) <= 5 * np.sqrt(count * p * (1 - p))).all()


def test_no_text_comes_twice() -> None:
    """Among few tokens most draws repeat; the completions are the first of each text."""
    model = model_of()
    options: dict[str, Any] = dict(temperature=1, top_k=3, max_tokens=1, seed=3)
    every = [c.text for c in model.generate([1, 2], candidates=60, distinct=False, **options)]
    firsts = list(dict.fromkeys(every))
    assert len(firsts) < len(every)
    for count in (1, 2, 3):
        found = model.generate([1, 2], candidates=count, **options)
        assert [c.text for c in found] == firsts[:count]
    # Three likeliest tokens have no ten texts; a greedy choice has one.
    assert len(model.generate([1, 2], candidates=10, **options)) == len(firsts)
    assert len(model.generate([1, 2], candidates=10, max_tokens=5, temperature=0)) == 1


# --- ends -------------------------------------------------------------------------------------


class Script:
    """Stands for a decoder: writes these tokens, whatever it reads."""

    def __init__(self, tokens: list[int], l_max: int = 768) -> None:
        self.tokens, self.config, self.next = tokens, calmgrad.new_model(l_max=l_max).config, 0

    def start(self, tokens: Any) -> None:
        self.next = 0

    def write(
        self, tokens: Any, chosen: Any, log_probs: Any, pauses: Any, draws: Any, sampling: Any
    ) -> int:
        for i in range(chosen.size):
            chosen[i], log_probs[i] = self.tokens[self.next], -1.0
            self.next += 1
            if pauses[chosen[i]]:
                return i + 1
        return int(chosen.size)


def written(
    text: str | list[int], patterns: list[bytes], max_tokens: int = 100
) -> tuple[bytes, float, str]:
    """What is left of a text that a model wants to write, by both ways: in one go and shown."""
    script = list(text.encode()) if isinstance(text, str) else text
    script = [*script, *[ord("~")] * 100]
    sampling, stops = Sampling(0, max_tokens=max_tokens), Stops(patterns, 320)
    shown: list[int] = []
    (streamed,) = generate(Script(script), [BOS], sampling, stops, 0, shown.append)  # type: ignore[arg-type]
    (found,) = generate(Script(script), [BOS], sampling, stops, 0)  # type: ignore[arg-type]
    assert found == streamed
    assert shown == found.tokens
    return bytes(t for t in found.tokens if t < 256), found.score, found.ended


def test_stop_patterns() -> None:
    shell = stop_patterns("| ; && ||")
    assert written("ls | wc", shell) == (b"ls ", -4, "stop")
    assert written("make && ./a", shell) == (b"make ", -7, "stop")  # both bytes count
    assert written("a & b; c", shell) == (b"a & b", -6, "stop")
    assert written("a || b", shell) == (b"a ", -3, "stop")  # `|` comes before `||`
    assert written("&&", shell) == (b"", -2, "stop")
    assert written("aab", [b"ab"]) == (b"a", -3, "stop")
    assert written("xab", [b"b", b"ab"]) == (b"xa", -3, "stop")  # the first pattern counts
    assert written("xab", [b"ab", b"b"]) == (b"x", -3, "stop")
    assert written("abcabd", [b"abd"]) == (b"abc", -6, "stop")
    assert written("ünd", [b"\xbc"]) == (b"\xc3", -2, "stop")
    assert written("für", ["ü".encode()]) == (b"f", -3, "stop")
    assert written("ûü", ["ü".encode()]) == ("û".encode(), -4, "stop")  # they share a byte


def test_one_pattern_may_be_given_alone() -> None:
    model = model_of()
    for pattern in ("ab", b"ab"):
        found = model.generate([1], stop=pattern, seed=1, max_tokens=50)
        assert found == model.generate([1], stop=["ab"], seed=1, max_tokens=50)
    assert model.generate([1], stop="ab", seed=1) != model.generate([1], stop=["a", "b"], seed=1)


def test_tokens_that_are_not_bytes() -> None:
    assert written([97, EOS, 98], []) == (b"a", -2, "end")
    assert written([97, PAD, 98], []) == (b"a", -2, "end")
    # A special token is part of a completion, and no pattern goes across it.
    assert written([38, CMD, 38, 97, EOS], [b"&&"]) == (b"&&a", -5, "end")


def test_longest_completion() -> None:
    assert written("abcdef", [], max_tokens=3) == (b"abc", -3, "max_tokens")
    # Bytes that might have begun a pattern stay.
    assert written("abc&&", [b"&&"], max_tokens=4) == (b"abc&", -4, "max_tokens")


@given(
    text=st.text("ab", max_size=12),
    patterns=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_what_is_shown_is_never_taken_back(text: str, patterns: list[str]) -> None:
    written(text, [p.encode() for p in patterns])


def test_l_max_ends_a_completion_and_a_full_prompt_is_an_error() -> None:
    model = model_of(l_max=20)
    (last,) = model.generate([5] * 19, temperature=0)
    assert (len(last.tokens), last.ended) in (((1, "l_max")), (0, "end"))
    for length in (20, 21, 500):
        with pytest.raises(ValueError, match=f"{length} tokens leave no room .* l_max = 20"):
            model.generate([5] * length)
    script = Script([97] * 99, l_max=20)
    (found,) = generate(script, [BOS] * 15, Sampling(0), Stops([], 320), 0)  # type: ignore[arg-type]
    assert (len(found.tokens), found.ended) == (5, "l_max")


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, r"prompt: shape \(0,\)"),
        ([320], {}, "prompt: token 320 at position 0"),
        ([1.5], {}, "prompt: dtype float64"),
        ([1], {"seed": -1}, "seed = -1: expected 0 or more"),
        ([1], {"stop": [""]}, "stop: an empty pattern"),
        ([1], {"top_k": -1}, "top_k = -1"),
        ({"nofield": "x"}, {}, "no field 'nofield' in the template"),
    ],
)
def test_bad_calls(prompt: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calmgrad.new_model("nano", domain="shell").generate(prompt, **options)


def test_weights_that_are_not_finite() -> None:
    model = model_of()
    model.parameters["ln_f.bias"][3] = np.nan
    for temperature in (0, 1):
        with pytest.raises(ValueError, match="output is not finite"):
            model.generate([1], temperature=temperature)


# --- text -------------------------------------------------------------------------------------


def test_text_goes_through_template_stops_and_sampler_of_the_file() -> None:
    model = model_of(domain="shell")
    found = model.generate("git c", seed=1)
    assert len(found) == 3
    assert all(len(c.tokens) <= 32 for c in found)
    prompt = [BOS, ATN, CMD, *b"git c"]
    patterns = ["|", ";", "&&", "||"]
    options = dict(temperature=0.6, top_k=5, max_tokens=32, candidates=3)
    assert model.generate(prompt, stop=patterns, seed=1, **options) == found  # type: ignore[arg-type]
    assert model.generate({"input": "git c"}, seed=1) == found
    # Tokens are taken as they are, and nothing comes from the file.
    assert len(model.generate(prompt, seed=1, max_tokens=5)) == 1
    assert model.generate("git c", seed=1, stop=[], temperature=0.7) != found


def test_a_long_history_leaves_room() -> None:
    model = model_of(domain="shell", l_max=100)
    history = [("ls -l /a/long/path", 0)] * 30
    (found,) = model.generate({"history": history, "input": "git c"}, temperature=0)
    assert len(found.tokens) == 32 or found.ended in ("end", "stop")


def test_prose_goes_on_after_the_text_and_ends_with_the_paragraph() -> None:
    """A model that has learnt one text by heart writes it to the end of the paragraph."""
    text = "the cat sat.\n\nThe dog"
    model = calmgrad.new_model(d_model=32, n_layers=1, domain="prose")
    tokens = [BOS, ATN, *text.encode(), EOS]
    with calmgrad.Trainer(model, lr=1e-2) as trainer:
        for _ in range(60):
            trainer.step([tokens], [1])
    (found,) = model.generate("the c", temperature=0)
    assert (found.text, found.ended) == ("at sat.", "stop")
    # Stop conditions as calm-mamba's own prose models hold them.
    assert stop_patterns("\n\n") == stop_patterns(r"\n\n") == [b"\n\n"]

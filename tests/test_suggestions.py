"""Keystrokes saved: a model that says what it is told to, and commands with known answers."""

from pathlib import Path
from typing import Any

import pytest

import calmgrad
from calmgrad import ATN, BOS, CMD, CWD, END, EOS
from calmgrad.config import ModelConfig
from calmgrad.formats.cwgt import Metadata, SamplerDefaults
from calmgrad.generation import Completion
from calmgrad.suggestions import score, split


class Parrot:
    """Stands for a model: after these bytes, it writes these."""

    metadata = Metadata("shell", "", "| ;")
    sampler = SamplerDefaults(max_tokens=20)

    def __init__(self, answers: dict[str, str], l_max: int = 768, ended: str = "end") -> None:
        self.config = ModelConfig(l_max=l_max)
        self.answers, self.ended = answers, ended
        self.asked: list[str] = []
        self.options: dict[str, Any] = {}

    def generate(self, prompt: list[int], **options: Any) -> list[Completion]:
        if CMD not in prompt:
            return []  # warming up
        self.options = options
        typed = bytes(prompt[prompt.index(CMD) + 1 :]).decode("utf-8", "surrogateescape")
        self.asked.append(typed)
        answer = self.answers.get(typed, "?").encode("utf-8", "surrogateescape")
        return [Completion(list(answer), "", 0.0, self.ended)]


def dataset_of(tmp_path: Path, *commands: bytes) -> calmgrad.Dataset:
    head = [BOS, CWD, 126, END, ATN, CMD]
    path = tmp_path / "commands.ctds"
    calmgrad.write_dataset(path, [[*head, *c, EOS] for c in commands], [4] * len(commands))
    return calmgrad.load_dataset(path)


def test_one_command_typed_to_its_end(tmp_path: Path) -> None:
    # "git add x": wrong at "", right beginning at "g", wrong at "git a", whole at "git ad".
    parrot = Parrot({"": "ls", "g": "it commit", "git a": "m", "git ad": "d x"})
    found = score(parrot, dataset_of(tmp_path, b"git add x"), typed=3, first=3)  # type: ignore[arg-type]
    assert parrot.asked == ["", "g", "git a", "git ad"]
    assert (found.commands, found.suggestions, found.left_out) == (1, 4, 0)
    assert found.exact_match == 0  # after "git" it is " commit"
    assert found.first_accuracy == 0  # " co" for " ad"
    assert found.keystrokes_saved == (3 - 1) / 9  # "d x", less the key that accepts
    assert 0 < found.latency_ms_p50 <= found.latency_ms_p99
    assert parrot.options == {"temperature": 0, "stop": [b"|", b";"], "max_tokens": 20}


def test_exact_and_first_characters(tmp_path: Path) -> None:
    parrot = Parrot({"": "make test", "l": "s -l"})
    commands = (b"make test", b"make tidy", b"ls -la")
    found = score(parrot, dataset_of(tmp_path, *commands), typed=2, first=4)  # type: ignore[arg-type]
    assert found.exact_match == 1 / 3
    assert found.first_accuracy == 2 / 3  # "ke t" twice; " -l" is short of " -la"
    assert found.keystrokes_saved == (9 - 1) / (9 + 9 + 6)


def test_a_whole_suggestion_is_accepted_at_once_but_judged_after_k(tmp_path: Path) -> None:
    """After `typed` characters the suggestion may be another than the one accepted before."""
    parrot = Parrot({"": "abcdef"})
    found = score(parrot, dataset_of(tmp_path, b"abcdef"), typed=3)  # type: ignore[arg-type]
    assert (found.exact_match, found.keystrokes_saved, found.suggestions) == (1, 5 / 6, 1)


def test_a_suggestion_cut_off_is_made_anew(tmp_path: Path) -> None:
    parrot = Parrot({"": "ab", "a": "bcd"}, ended="max_tokens")
    score(parrot, dataset_of(tmp_path, b"abcd"), typed=1)  # type: ignore[arg-type]
    assert parrot.asked == ["", "a"]


def test_characters_are_not_bytes(tmp_path: Path) -> None:
    parrot = Parrot({"": "größe", "x": "\udcffy"})
    found = score(parrot, dataset_of(tmp_path, "größe".encode(), b"x\xffy"), typed=2, first=1)  # type: ignore[arg-type]
    assert (found.exact_match, found.keystrokes_saved) == (1, (4 + 1) / (5 + 3))


def test_short_commands_are_left_out(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, b"ls", b"cat", b"make")
    found = score(Parrot({}), dataset, typed=3)  # type: ignore[arg-type]
    assert (found.commands, found.left_out) == (1, 2)
    assert score(Parrot({}, l_max=9), dataset, typed=1).left_out == 2  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no command has more than 4 characters"):
        score(Parrot({}), dataset, typed=4)  # type: ignore[arg-type]


def test_some_commands_spread_over_the_file(tmp_path: Path) -> None:
    parrot = Parrot({})
    score(parrot, dataset_of(tmp_path, *(b"%d?" % i for i in range(10))), typed=0, commands=2)  # type: ignore[arg-type]
    assert parrot.asked == ["", "0", "", "5"]


def test_where_the_command_is() -> None:
    assert split([BOS, 65, ATN, CMD, 97, 98, EOS], 2) == ([BOS, 65, ATN, CMD], [97, 98])
    assert split([BOS, 97, 98, EOS], 0) == ([BOS], [97, 98])
    assert split([BOS, ATN], 1) == ([BOS, ATN], [])

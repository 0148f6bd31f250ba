"""A project that the demo's invented users work on, and the dice that all is drawn with.

Only `Random.random()` is used: its stream is the same on every Python.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from calmgrad.demo import vocabulary
from calmgrad.demo.vocabulary import Language

T = TypeVar("T")


class Dice:
    """Draws that are the same on every Python version."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed).random

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random() < probability

    def below(self, stop: int) -> int:
        """A whole number from 0 to `stop` - 1."""
        return int(self._random() * stop)

    def one(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(self._random() * len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items (all, where there are fewer), in the order given."""
        chosen: list[T] = []
        for position, item in enumerate(items):
            if self._random() * (len(items) - position) < count - len(chosen):
                chosen.append(item)
        return chosen


class Project:
    """A folder under git: its files, how one works in it, and where its branch stands."""

    def __init__(self, dice: Dice) -> None:
        self.language: Language = dice.one(vocabulary.LANGUAGES)
        self.name = dice.one(vocabulary.PROJECTS)
        self.root = f"{dice.one(vocabulary.PROJECT_HOMES)}/{self.name}"
        self.port = dice.one(vocabulary.PORTS)
        self.stems = dice.some(vocabulary.STEMS, 4 + dice.below(5))
        source, test = dice.one(self.language.sources)
        self.suffix = source.rpartition(".")[2]
        self.source_of = {stem: self.fill(source, stem) for stem in self.stems}
        self.test_of = {stem: self.fill(test, stem) for stem in self.stems}
        self.extras = [self.fill(path) for path in self.language.extras]
        self.files = sorted([*self.source_of.values(), *self.test_of.values(), *self.extras])
        self.folders = sorted({path.split("/")[0] for path in self.files if "/" in path})
        self.test_command = dice.one(self.language.tests)
        self.changes = dice.one((vocabulary.CHANGES, vocabulary.TOPIC_CHANGES))
        self.main = dice.one(("main", "main", "main", "master"))
        self.branch = self.main
        self.branches = [self.main]
        self.published = True  # the branch is known to the remote
        self.unpushed = False
        self.edited: list[str] = []  # paths from the root
        self.staged: list[str] = []
        self.version = [dice.below(3), dice.below(10), dice.below(6)]

    def fill(self, pattern: str, stem: str = "", test: str = "") -> str:
        """The pattern with this project's words in their places."""
        words = {"project": self.name, "port": self.port, "stem": stem, "test": test}
        return pattern.format(Stem=stem.title(), **words)

    @property
    def git(self) -> str:
        """The git state as the prompt shows it."""
        marks = ("*", bool(self.edited)), ("+", bool(self.staged)), ("^", self.unpushed)
        return self.branch + "".join(mark for mark, shown in marks if shown)

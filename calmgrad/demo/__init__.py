"""Data for the built-in demo: shell sessions of invented users, as one would want to complete.

A small simulation types the commands. A user sits in a folder of a project, edits a file, runs
the tests, edits again when they fail, adds that file, commits, pushes; now and then they look
around, mistype, or tend a server. So what comes next follows from the folder, the state of git
and the last commands, which is what a model is to learn. Each command becomes one sequence of
the shell template (FORMATS §5):

    BOS CWD folder END [GIT state END] {HIST command EXIT code END} {ENV name=value END}
        [COMP candidate {NEXT candidate} END] ATN CMD command EOS

The git state is the branch, then `*` for edited files, `+` for staged ones and `^` for commits
not yet pushed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calmgrad.demo.project import Dice
from calmgrad.demo.session import Session
from calmgrad.demo.terminal import Context

Sequences = tuple[list[list[int]], list[int]]


def _stream(seed: str) -> Iterator[tuple[list[int], int]]:
    """Sequences of one session after the other, without end."""
    dice = Dice(seed)
    while True:
        yield from Session(dice).play()


def sessions(count: int, seed: int) -> Sequences:
    """Sequences of simulated shell sessions, in the order in which they were typed.

    Args:
        count: how many sequences, 0 or more.
        seed: the same seed gives the same sequences, on every Python and machine.

    Returns:
        The token sequences, and the position of ATN in each.
    """
    return _take(count, _stream(f"calmgrad demo {seed}"), set())


def demo_data(
    seed: int = 0, train: int = 20_000, validation: int = 500
) -> tuple[Sequences, Sequences]:
    """Training and validation data of the demo, from different users and projects.

    Args:
        seed: the same seed gives the same data.
        train: number of training sequences.
        validation: number of validation sequences; none of them is a training sequence too.

    Returns:
        For training and for validation: the token sequences, and the position of ATN in each.
    """
    training = sessions(train, seed)
    unseen = _stream(f"calmgrad demo {seed} validation")
    return training, _take(validation, unseen, {tuple(tokens) for tokens in training[0]})


def _take(
    count: int, stream: Iterator[tuple[list[int], int]], excluded: set[tuple[int, ...]]
) -> Sequences:
    """The first `count` sequences of the stream that are not excluded."""
    sequences: list[list[int]] = []
    positions: list[int] = []
    while len(sequences) < count:
        tokens, position = next(stream)
        if not excluded or tuple(tokens) not in excluded:
            sequences.append(tokens)
            positions.append(position)
    return sequences, positions


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to show what a model has learned: the story so far, and what has been typed."""

    description: str
    typed: str
    tokens: list[int]


def _prompt(
    description: str, cwd: str, git: str, history: Sequence[tuple[str, int]], typed: str
) -> Prompt:
    return Prompt(description, typed, Context(cwd, git, history).prompt(typed))


PROMPTS = (
    _prompt(
        "src/parser.py was edited and tested, and is staged now",
        "~/src/orbit",
        "main+",
        [("vim src/parser.py", 0), ("python -m pytest", 0), ("git add src/parser.py", 0)],
        "git c",
    ),
    _prompt(
        "make test has failed after an edit of src/router.c",
        "~/code/beacon",
        "main*",
        [("cd ~/code/beacon", 0), ("vim src/router.c", 0), ("make test", 2)],
        "vi",
    ),
    _prompt(
        "the tests of a Rust project pass after an edit of src/cache.rs",
        "~/work/heron",
        "main*",
        [("vim src/cache.rs", 0), ("cargo test", 0)],
        "git a",
    ),
    _prompt(
        "a commit has been made and is not pushed yet",
        "~/src/lantern",
        "main^",
        [("git add lib/layout.js", 0), ('git commit -m "simplify layout"', 0)],
        "git p",
    ),
    _prompt(
        "the same, but the push was refused: someone else was faster",
        "~/src/lantern",
        "main^",
        [('git commit -m "simplify layout"', 0), ("git push", 1)],
        "git p",
    ),
)

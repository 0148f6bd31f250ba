"""A terminal of the demo: what is typed in it becomes sequences."""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field

from calmgrad.demo import vocabulary
from calmgrad.demo.project import Dice, Project
from calmgrad.tokenizer import ATN, BOS, CMD, COMP, CWD, END, ENV, EOS, EXIT, GIT, HIST, NEXT

HISTORY_LENGTHS = (0, 1, 2, 2, 2, 3, 3, 4)  # how many past commands a sequence shows
INTERRUPTION = 0.06  # chance that something unrelated comes before a command
SHOWN_ENVIRONMENT = 0.15  # chance that a sequence tells variables
SHOWN_CANDIDATES = 0.3  # chance that a sequence tells what completion offers, if it does


@dataclass(slots=True)
class Context:
    """All that stands before the command in one sequence."""

    cwd: str
    git: str = ""
    history: Sequence[tuple[str, int]] = ()
    environment: Sequence[str] = ()
    candidates: Sequence[str] = ()

    def prompt(self, typed: str = "") -> list[int]:
        """Tokens from BOS to what has been typed after CMD."""
        tokens = [BOS, CWD, *self.cwd.encode("ascii"), END]
        if self.git:
            tokens += [GIT, *self.git.encode("ascii"), END]
        for command, status in self.history:
            tokens += [HIST, *command.encode("ascii"), EXIT, *str(status).encode("ascii"), END]
        for variable in self.environment:
            tokens += [ENV, *variable.encode("ascii"), END]
        for position, candidate in enumerate(self.candidates):
            tokens += [NEXT if position else COMP, *candidate.encode("ascii")]
        if self.candidates:
            tokens.append(END)
        return [*tokens, ATN, CMD, *typed.encode("ascii")]

    def sequence(self, command: str) -> tuple[list[int], int]:
        """Tokens of a finished sequence, and the position of its ATN."""
        start = self.prompt()
        return [*start, *command.encode("ascii"), EOS], len(start) - 2


@dataclass
class Terminal:
    """Where a user is and what they typed; `run` itself understands `cd`."""

    dice: Dice
    cwd: str = "~"
    history: list[tuple[str, int]] = field(default_factory=list)
    records: list[tuple[list[int], int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.project = Project(self.dice)
        self.editor = self.dice.one(vocabulary.EDITORS)
        self.variables = [f"EDITOR={self.editor}"]
        self.variables += [self.project.fill(v) for v in self.project.language.environment]

    def run(self, command: str, status: int = 0) -> None:
        """Type a command that ends with exit code `status`, perhaps after an interruption."""
        if self.dice.chance(INTERRUPTION):
            looks = vocabulary.LOOKS + (vocabulary.GIT_LOOKS if self.in_project else ())
            slips = vocabulary.GIT_SLIPS if self.in_project else vocabulary.SLIPS
            if self.dice.chance(0.85):
                self.record(self.dice.one(looks))
            else:
                wrong, right = self.dice.one(slips)
                self.record(wrong, 127)
                self.record(right)
        self.record(command, status)
        if command.startswith("cd ") and status == 0:
            target = command[3:]
            absolute = target.startswith(("~", "/"))
            self.cwd = target if absolute else posixpath.normpath(f"{self.cwd}/{target}")

    def run_one(self, *patterns: str) -> None:
        """Type one of several commands."""
        self.run(self.project.fill(self.dice.one(patterns)))

    def record(self, command: str, status: int = 0) -> None:
        """Keep the command with what is known before it, and add it to the history."""
        dice, known = self.dice, len(self.history)
        shown = min(dice.one(HISTORY_LENGTHS), known)
        context = Context(self.cwd, history=self.history[known - shown :])
        if self.in_project:
            context.git = self.project.git
        if dice.chance(SHOWN_ENVIRONMENT):
            context.environment = dice.some(self.variables, 1 + dice.below(2))
        if dice.chance(SHOWN_CANDIDATES):
            context.candidates = self.offer(command)
        self.records.append(context.sequence(command))
        self.history.append((command, status))

    def offer(self, command: str) -> list[str]:
        """What completion would offer for the last word: up to four things, it among them."""
        verb, _, meant = command.rpartition(" ")
        project = self.project
        if verb == "cd":
            known = project.folders if self.in_project else list(vocabulary.PLACES)
        elif verb == self.editor or verb == "git add":
            known = [self.here(path) for path in project.files]
        elif verb in ("git switch", "git checkout", "git merge", "git branch -d"):
            known = project.branches
        elif verb in ("systemctl status", "sudo systemctl restart", "journalctl -u"):
            known = vocabulary.SERVICES
        elif verb in ("ssh", "ping -c 3", "dig"):
            known = vocabulary.HOSTS
        else:
            known = []
        if meant not in known or len(known) < 2:
            return []
        return sorted([meant, *self.dice.some([item for item in known if item != meant], 3)])

    @property
    def in_project(self) -> bool:
        """Whether the current folder lies in the project."""
        return f"{self.cwd}/".startswith(f"{self.project.root}/")

    def here(self, path: str) -> str:
        """A project path as typed from the current folder."""
        if self.cwd == self.project.root:
            return path
        return posixpath.relpath(f"{self.project.root}/{path}", self.cwd)

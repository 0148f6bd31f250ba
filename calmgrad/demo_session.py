"""The simulation behind the demo's data: users who sit in projects and type commands.

Only `Random.random()` is used: its stream is the same on every Python.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from calmgrad import demo_vocabulary as vocabulary
from calmgrad.demo_vocabulary import Language, Routine
from calmgrad.tokenizer import ATN, BOS, CMD, COMP, CWD, END, ENV, EOS, EXIT, GIT, HIST, NEXT

T = TypeVar("T")

HISTORY_LENGTHS = (0, 1, 2, 2, 2, 3, 3, 4)  # how many past commands a sequence shows
INTERRUPTION = 0.06  # chance that something unrelated comes before a command
SHOWN_ENVIRONMENT = 0.15  # chance that a sequence tells variables
SHOWN_CANDIDATES = 0.3  # chance that a sequence tells what completion offers, if it does


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
class Session:
    """One user at one terminal: where they are, what they typed, what they do next.

    A method that stands for a task types its commands through `run` and changes the state of git
    the way they would; `run` itself understands `cd`.
    """

    dice: Dice
    cwd: str = "~"
    history: list[tuple[str, int]] = field(default_factory=list)
    records: list[tuple[list[int], int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.project = Project(self.dice)
        self.editor = self.dice.one(vocabulary.EDITORS)
        self.host = self.dice.one(vocabulary.HOSTS)
        self.namespace = self.dice.one(vocabulary.NAMESPACES)
        self.stem = self.dice.one(self.project.stems)  # what they are working on
        self.variables = [f"EDITOR={self.editor}"]
        self.variables += [self.project.fill(v) for v in self.project.language.environment]

    def play(self) -> list[tuple[list[int], int]]:
        """The sequences of the whole sitting."""
        if self.dice.chance(0.15):
            tasks = [self.tend_server, self.tend_server, self.visit_place]
        else:
            self.enter_project()
            tasks = [self.develop] * 8 + [self.try_something] * 5
            tasks += [self.branch_off, self.update, self.set_aside, self.add_package, self.release]
            tasks += [self.leave_and_return]
        for _ in range(3 + self.dice.below(5)):
            self.dice.one(tasks)()
        return self.records

    # Typing

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

    # Working on code

    def enter_project(self) -> None:
        """Get into the project's folder, and often see how things stand."""
        project, dice = self.project, self.dice
        self.cwd = posixpath.dirname(project.root)
        if dice.chance(0.12):
            self.run(f"git clone https://{self.host}/{project.name}.git")
            self.run(f"cd {project.name}")
            self.run_one(*project.language.installs)
        elif dice.chance(0.3):
            if dice.chance(0.3):
                self.run(f"cd {project.name[:-1]}", 1)
            self.run("ls")
            self.run(f"cd {project.name}")
        else:
            self.cwd = "~"
            self.run(f"cd {project.root}")
        if dice.chance(0.3):
            self.run_one("git pull", "git pull", "git fetch", "git status")

    def develop(self) -> None:
        """Edit a file until its tests pass, then commit it."""
        project, dice = self.project, self.dice
        if dice.chance(0.35):
            self.stem = dice.one(project.stems)
        stem, path = self.stem, project.source_of[self.stem]
        folder = posixpath.dirname(path)
        if dice.chance(0.2):
            self.search(stem)
        if folder and dice.chance(0.12):
            self.run(f"cd {folder}")
            self.edit(path)
            self.run(f"cd {project.root}")
        else:
            self.edit(path)
        self.test_and_repair(stem)
        if dice.chance(0.2):
            self.edit(project.test_of[stem])
            self.run(self.focused_test(stem))
        elif dice.chance(0.2):
            self.run_one(*project.language.checks)
        self.commit(stem)

    def edit(self, path: str) -> None:
        """Change a file of the project."""
        self.run(f"{self.editor} {self.here(path)}")
        if path not in self.project.edited:
            self.project.edited.append(path)

    def focused_test(self, stem: str) -> str:
        """A command that tests what belongs to this stem."""
        project = self.project
        pattern = self.dice.one(project.language.focused)
        return project.fill(pattern, stem, project.test_of[stem])

    def test_and_repair(self, stem: str) -> None:
        """Run the tests and edit the source again until they pass."""
        project, dice = self.project, self.dice
        while True:
            command = self.focused_test(stem) if dice.chance(0.4) else project.test_command
            passed = dice.chance(0.65)
            self.run(command, 0 if passed else project.language.failure)
            if passed:
                return
            if dice.chance(0.1):
                self.run(f"git diff {project.source_of[stem]}")
            self.edit(project.source_of[stem])

    def search(self, stem: str) -> None:
        """Look for the place to change."""
        dice = self.dice
        word = stem if dice.chance(0.6) else dice.one(vocabulary.SEARCHED)
        pattern, folder = dice.one(vocabulary.SEARCHES), dice.one(self.project.folders)
        suffix = self.project.suffix
        self.run(pattern.format(word=word, stem=stem, folder=folder, suffix=suffix))

    def commit(self, stem: str) -> None:
        """Stage what was edited, commit it, often push it."""
        project, dice = self.project, self.dice
        if dice.chance(0.4):
            differences = f"git diff {project.edited[0]}"
            self.run_one("git status", "git diff", "git diff --stat", differences, differences)
        message = dice.one(project.changes).format(stem=stem)
        if dice.chance(0.15):
            self.run(f'git commit -am "{message}"')
        else:
            if len(project.edited) > 1 and dice.chance(0.4):
                self.run_one("git add -A", "git add .", "git add -u")
            else:
                self.run(f"git add {' '.join(project.edited)}")
            project.staged, project.edited = project.edited, []
            if dice.chance(0.1):
                self.run_one("git diff --cached", "git status")
            if dice.chance(0.05):  # a hook reformats the files
                self.run(f'git commit -m "{message}"', 1)
                self.run("git add -A")
            self.run(f'git commit -m "{message}"')
        project.edited, project.staged, project.unpushed = [], [], True
        if dice.chance(0.65):
            self.push()

    def push(self) -> None:
        """Publish the commits; now and then someone else was faster."""
        project = self.project
        if not project.published:
            self.run(f"git push -u origin {project.branch}")
            project.published = True
        elif self.dice.chance(0.1):
            self.run("git push", 1)
            self.run("git pull --rebase")
            self.run("git push")
        else:
            self.run("git push")
        project.unpushed = False

    def branch_off(self) -> None:
        """A change on a branch of its own, merged at the end."""
        project, dice = self.project, self.dice
        if project.unpushed:
            self.push()
        self.stem = dice.one(project.stems)
        name = dice.one(vocabulary.BRANCHES).format(stem=self.stem)
        create, switch = dice.one(
            (("git switch -c", "git switch"), ("git checkout -b", "git checkout"))
        )
        self.run(f"{create} {name}")
        project.branches.append(name)
        project.branch, project.published = name, False
        self.develop()
        if project.unpushed:
            self.push()
        self.run(f"{switch} {project.main}")
        project.branch, project.published = project.main, True
        if dice.chance(0.5):
            self.run("git pull")
        else:
            self.run(f"git merge {name}")
            project.unpushed = True
            self.push()
        self.run(f"git branch -d {name}")
        project.branches.remove(name)

    def update(self) -> None:
        """Fetch the work of others, and set up and test again."""
        if self.project.unpushed:
            self.push()
        self.run_one("git pull", "git pull --rebase", "git fetch --prune")
        if self.dice.chance(0.5):
            self.run_one(*self.project.language.installs)
            self.run(self.project.test_command)

    def set_aside(self) -> None:
        """Stash a half-done change that is in the way of a pull, and finish it after."""
        project, stem = self.project, self.stem
        self.edit(project.source_of[stem])
        self.run("git pull", 1)
        self.run("git stash")
        project.edited = []
        self.run("git pull")
        self.run("git stash pop")
        project.edited = [project.source_of[stem]]
        self.test_and_repair(stem)
        self.commit(stem)

    def add_package(self) -> None:
        """Take in a dependency and commit the file that lists it."""
        language = self.project.language
        if language.packages:
            package = self.dice.one(language.packages)
            self.run(language.add_package.format(package=package))
            self.edit(self.project.extras[0])
            self.commit(package)

    def release(self) -> None:
        """Raise the version, tag it, publish it."""
        project = self.project
        if project.unpushed:
            self.push()
        part = self.dice.one((1, 2, 2))
        project.version = [*project.version[:part], project.version[part] + 1, 0][:3]
        version = ".".join(map(str, project.version))
        self.run("git tag | tail -n 3")
        self.run(f"git tag v{version}")
        self.run(f"git push origin v{version}")

    # Routines

    def words(self, place: str, file: str) -> dict[str, object]:
        """What the patterns of a routine are filled with; drawn anew for each routine."""
        project, dice = self.project, self.dice
        folder = dice.one(project.folders)
        fill, language = project.fill, project.language
        serving = [run for run in language.runs if "{port}" in run]
        in_folder = [path for path in project.files if path.startswith(f"{folder}/")]
        return {
            "project": project.name,
            "port": project.port,
            "suffix": project.suffix,
            "folder": folder,
            "file": file or dice.one(in_folder)[len(folder) + 1 :],
            "name": file.split(".")[0],
            "place": place,
            "check": fill(dice.one(language.checks)),
            "run": fill(dice.one(language.runs)),
            "serve": fill(dice.one(serving or language.runs)),
            "cleanup": fill(dice.one(language.cleanups)),
            "page": dice.one(("health", "status", *project.stems)),
            "editor": self.editor,
            "reader": dice.one(("cat", "less", "bat", "head -n 20", "wc -l")),
            "image": f"{project.name}:{dice.one(('dev', 'latest', 'test'))}",
            "base_image": dice.one(vocabulary.IMAGES),
            "namespace": self.namespace,
            "host": self.host,
            "service": dice.one(vocabulary.SERVICES),
            "table": dice.one(vocabulary.TABLES),
            "number": 1 + dice.below(6),
            "lines": dice.one((20, 50, 100, 200)),
        }

    def follow(self, routine: Routine, place: str = "", file: str = "") -> None:
        """Type the steps of a routine."""
        words = self.words(place, file)
        for step in routine:
            pattern = step if isinstance(step, str) else self.dice.one(step)
            if pattern:
                command, _, status = pattern.format(**words).partition(" -> ")
                self.run(command, int(status or 0))

    def try_something(self) -> None:
        """Run, read, package or deploy the project."""
        self.follow(self.dice.one(vocabulary.PROJECT_ROUTINES))

    def tend_server(self) -> None:
        """Look after services, disks and the net."""
        self.follow(self.dice.one(vocabulary.SERVER_ROUTINES), self.dice.one(vocabulary.PLACES))

    def visit_place(self) -> None:
        """Go to some folder and do what one does with its files."""
        dice, routines = self.dice, vocabulary.PLACE_ROUTINES
        place = dice.one(vocabulary.PLACES)
        file = dice.one(vocabulary.PLACE_FILES[place])
        self.run(f"cd {place}")
        if dice.chance(0.5):
            self.run_one("ls", "ls -l", "ls -lt", "ls -a")
        kind = place if place in routines else next(end for end in routines if file.endswith(end))
        self.follow(dice.one(routines[kind]), place, file)

    def leave_and_return(self) -> None:
        """Do something elsewhere and come back."""
        if self.project.unpushed:
            self.push()
        self.visit_place()
        self.run(f"cd {self.project.root}")

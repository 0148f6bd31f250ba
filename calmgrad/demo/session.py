"""The simulation behind the demo's data: users who sit in projects and type commands."""

import posixpath

from calmgrad.demo import vocabulary
from calmgrad.demo.terminal import Terminal
from calmgrad.demo.vocabulary import Routine


class Session(Terminal):
    """One user at one terminal: where they are, what they typed, what they do next.

    A method that stands for a task types its commands through `run` and changes the state of git
    the way they would.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.host = self.dice.one(vocabulary.HOSTS)
        self.namespace = self.dice.one(vocabulary.NAMESPACES)
        self.stem = self.dice.one(self.project.stems)  # what they are working on

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

"""The demo's data: the same everywhere, well formed, and telling enough to learn from."""

import hashlib
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from calmgrad import demo
from calmgrad.demo.vocabulary import EDITORS, LANGUAGES
from calmgrad.tokenizer import ATN, BOS, CMD, COMP, CWD, END, ENV, EOS, EXIT, GIT, HIST, NEXT

# Changes only when the generator or its words do; the demo then trains on other data.
GOLDEN = "a6631d84d2d15ac64e40348861fe61a295fc50f93a34aeae2b5c989c4246ee5d"


@dataclass
class Parsed:
    """A sequence taken apart."""

    cwd: str
    git: str
    history: list[tuple[str, int]]
    environment: list[str]
    candidates: list[str]
    command: str
    position: int
    closed: bool  # EOS follows the command
    edits: list[str] = field(init=False)  # paths opened in an editor in the history

    def __post_init__(self) -> None:
        self.edits = []
        for command, _ in self.history:
            editor, _, path = command.partition(" ")
            if editor in EDITORS:
                self.edits.append(path)


def parse(tokens: list[int]) -> Parsed:
    """Take a sequence apart by the shell template, independently of how it was made."""
    at = 0

    def accept(token: int) -> bool:
        nonlocal at
        found = at < len(tokens) and tokens[at] == token
        at += found
        return found

    def expect(token: int) -> None:
        assert accept(token), f"token {token} expected at {at} of {tokens}"

    def text() -> str:
        nonlocal at
        start = at
        while at < len(tokens) and tokens[at] < 256:
            at += 1
        assert at > start, f"text expected at {at} of {tokens}"
        return bytes(tokens[start:at]).decode("ascii")

    expect(BOS)
    expect(CWD)
    cwd, git = text(), ""
    expect(END)
    if accept(GIT):
        git = text()
        expect(END)
    history = []
    while accept(HIST):
        command = text()
        expect(EXIT)
        history.append((command, int(text())))
        expect(END)
    environment = []
    while accept(ENV):
        environment.append(text())
        expect(END)
    candidates = []
    if accept(COMP):
        candidates.append(text())
        while accept(NEXT):
            candidates.append(text())
        expect(END)
    position = at
    expect(ATN)
    expect(CMD)
    command, closed = text(), accept(EOS)
    assert at == len(tokens), f"nothing expected at {at} of {tokens}"
    return Parsed(cwd, git, history, environment, candidates, command, position, closed)


@pytest.fixture(scope="module")
def many() -> demo.Sequences:
    """As many sequences as the demo trains on."""
    return demo.sessions(20_000, seed=0)


@pytest.fixture(scope="module")
def parsed(many: demo.Sequences) -> list[Parsed]:
    """The same, taken apart."""
    return [parse(tokens) for tokens in many[0]]


def digest(data: demo.Sequences) -> str:
    """A checksum that does not depend on how lists are kept or printed."""
    text = "\n".join(
        f"{position}:{','.join(map(str, tokens))}" for tokens, position in zip(*data, strict=True)
    )
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_seed_gives_the_same_data_everywhere() -> None:
    assert digest(demo.sessions(2000, seed=7)) == GOLDEN
    assert digest(demo.sessions(2000, seed=8)) != GOLDEN


@pytest.mark.parametrize("count", [0, 1, 777])
def test_as_many_as_asked_for_from_one_stream(count: int) -> None:
    sequences, positions = demo.sessions(count, seed=3)
    assert len(sequences) == len(positions) == count
    longer = demo.sessions(1000, seed=3)
    assert (longer[0][:count], longer[1][:count]) == (sequences, positions)


def test_every_sequence_follows_the_template(many: demo.Sequences, parsed: list[Parsed]) -> None:
    assert [one.position for one in parsed] == many[1]
    for one in parsed:
        assert one.closed
        assert len(one.history) <= 4
        assert len(one.candidates) <= 15
        assert one.command == one.command.strip()
        assert all(re.fullmatch(r"[A-Z_]+=\S+", variable) for variable in one.environment)
        assert all(0 <= status <= 255 for _, status in one.history)


def test_every_part_of_the_template_is_used(parsed: list[Parsed]) -> None:
    parts: dict[str, Callable[[Parsed], object]] = {
        "git": lambda one: one.git,
        "history": lambda one: one.history,
        "four past commands": lambda one: len(one.history) == 4,
        "failure": lambda one: any(status for _, status in one.history),
        "environment": lambda one: one.environment,
        "candidates": lambda one: one.candidates,
    }
    for name, part in parts.items():
        used = sum(bool(part(one)) for one in parsed) / len(parsed)
        assert 0.02 < used < 0.98, f"{name}: {used}"


def test_text_is_printable_ascii(many: demo.Sequences) -> None:
    seen = {token for tokens in many[0] for token in tokens}
    assert {token for token in seen if token < 256} <= set(range(32, 127))


def test_commands_are_many_and_sequences_short(many: demo.Sequences, parsed: list[Parsed]) -> None:
    assert len({one.command for one in parsed}) >= 3000
    lengths = [len(tokens) for tokens in many[0]]
    assert 60 <= sum(lengths) / len(lengths) <= 130
    assert max(lengths) < 512


def test_all_kinds_of_projects_occur(parsed: list[Parsed]) -> None:
    commands = {one.command for one in parsed}
    for language in LANGUAGES:
        assert commands.intersection(language.tests), language.name


def test_machines_are_reserved_ones(parsed: list[Parsed]) -> None:
    names = set()
    for one in parsed:
        names.update(re.findall(r"https?://([^/:]+)", one.command))
        names.update(re.findall(r"[\w.-]+\.(?:org|internal|com|net)\b", one.command))
        names.update(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", one.command))
    reserved = r"localhost|example\.org|[\w.-]+\.(example\.org|internal)|192\.0\.2\.\d+"
    assert len(names) > 5
    assert [name for name in names if not re.fullmatch(reserved, name)] == []


def test_validation_is_new() -> None:
    training, validation = demo.demo_data(seed=1, train=8000, validation=4000)
    assert len(training[0]) == len(training[1]) == 8000
    assert len(validation[0]) == len(validation[1]) == 4000
    assert training == demo.sessions(8000, seed=1)
    seen = {tuple(tokens) for tokens in training[0]}
    assert seen.isdisjoint(tuple(tokens) for tokens in validation[0])


def test_validation_leaves_out_what_training_has() -> None:
    """The sequence that such a stream yields first is gone once it was trained on."""
    _, (plain, _) = demo.demo_data(seed=2, train=0, validation=3000)
    (trained, _), (kept, _) = demo.demo_data(seed=2, train=20_000, validation=3000)
    known = {tuple(tokens) for tokens in trained}
    assert any(tuple(tokens) in known for tokens in plain)
    remaining = [tokens for tokens in plain if tuple(tokens) not in known]
    assert kept[: len(remaining)] == remaining


# What there is to learn.


def share(
    parsed: list[Parsed], given: Callable[[Parsed], object], so: Callable[[Parsed], object]
) -> float:
    """How often `so` holds where `given` does."""
    relevant = [one for one in parsed if given(one)]
    assert len(relevant) >= 50
    return sum(bool(so(one)) for one in relevant) / len(relevant)


def last(one: Parsed) -> tuple[str, int]:
    """The last command and its exit code."""
    return one.history[-1] if one.history else ("", 0)


def test_added_files_were_edited(parsed: list[Parsed]) -> None:
    def adds_a_file(one: Parsed) -> bool:
        return re.fullmatch(r"git add [^-. ]\S*", one.command) is not None

    def was_edited(one: Parsed) -> bool:
        path = one.command.removeprefix("git add ")
        return any(posixpath.basename(path) == posixpath.basename(edit) for edit in one.edits)

    assert share(parsed, lambda one: adds_a_file(one) and one.edits, was_edited) >= 0.8


def test_commits_follow_what_is_staged(parsed: list[Parsed]) -> None:
    def commits(one: Parsed) -> bool:
        return one.command.startswith("git commit -m ")

    def staged(one: Parsed) -> bool:
        return one.git.rstrip("^").endswith("+")

    assert share(parsed, lambda one: last(one)[0].startswith("git add"), commits) >= 0.7
    assert share(parsed, staged, commits) >= 0.7
    assert share(parsed, commits, staged) == 1


def test_commit_messages_name_the_file(parsed: list[Parsed]) -> None:
    def added(one: Parsed) -> str:
        path = re.fullmatch(r"git add (src|lib)/(\w+)\.\w+", last(one)[0])
        return path[2] if path else ""

    named = share(
        parsed,
        lambda one: added(one) and one.command.startswith("git commit -m "),
        lambda one: added(one) in one.command,
    )
    assert named >= 0.9


def test_failed_tests_are_followed_by_an_edit_of_that_file(parsed: list[Parsed]) -> None:
    tests = {command for language in LANGUAGES for command in language.tests}

    def failed(one: Parsed) -> bool:
        return last(one)[0] in tests and last(one)[1] != 0 and one.edits != []

    def edits_again(one: Parsed) -> bool:
        editor, _, path = one.command.partition(" ")
        names = [posixpath.basename(edit) for edit in one.edits]
        return editor in EDITORS and posixpath.basename(path) in names

    assert share(parsed, failed, edits_again) >= 0.7


def test_only_what_is_unpushed_is_pushed(parsed: list[Parsed]) -> None:
    assert share(parsed, lambda one: one.command == "git push", lambda one: "^" in one.git) == 1
    pushed = ("git push", 0)
    assert share(parsed, lambda one: last(one) == pushed, lambda one: "^" not in one.git) == 1


def test_folders_are_where_cd_leads(parsed: list[Parsed]) -> None:
    def went(one: Parsed) -> bool:
        command, status = last(one)
        return re.match(r"cd [~/]", command) is not None and status == 0

    assert share(parsed, went, lambda one: last(one)[0] == f"cd {one.cwd}") == 1
    assert share(parsed, lambda one: one.git, lambda one: one.cwd.startswith("~/")) == 1


def test_candidates_contain_what_is_typed(parsed: list[Parsed]) -> None:
    found = share(
        parsed,
        lambda one: one.candidates,
        lambda one: one.command.split()[-1] in one.candidates,
    )
    assert found == 1
    assert all(len(set(one.candidates)) == len(one.candidates) for one in parsed)


# The prompts.


@pytest.mark.parametrize("prompt", demo.PROMPTS, ids=lambda prompt: prompt.description)
def test_prompts_are_sequences_cut_short(prompt: demo.Prompt) -> None:
    one = parse(prompt.tokens)
    assert one.command == prompt.typed
    assert not one.closed
    assert one.history
    assert prompt.description


def test_prompts_ask_what_the_data_answer(parsed: list[Parsed]) -> None:
    """After the same kind of command, what was typed is mostly completed as one would expect."""

    def follows(previous: str, failed: bool, typed: str, expected: str) -> float:
        def given(one: Parsed) -> bool:
            command, status = last(one)
            fits = command.startswith(previous) and (status != 0) == failed
            return fits and one.command.startswith(typed)

        return share(parsed, given, lambda one: one.command.startswith(expected))

    assert follows("git add", False, "git c", "git commit -m ") >= 0.9
    assert follows("cargo test", False, "git a", "git add ") >= 0.9
    assert follows("git commit", False, "git p", "git push") >= 0.7
    assert follows("git push", True, "git p", "git pull --rebase") == 1

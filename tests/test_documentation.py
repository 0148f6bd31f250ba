"""What README.md and docs/ tell: commands are run, code is executed, links, flags and files exist.

Commands run here, in this process, in a folder with the files that the documents speak of; what
would take long is cut short. A command that cannot run stands in NOT_RUN with the reason; one
that nobody has thought of fails.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

import calmgrad
from calmgrad import settings
from calmgrad.cli.demo import STEPS
from calmgrad.cli.main import COMMANDS, cli
from calmgrad.formats import tensors
from calmgrad.formats.dump import write as write_dump
from calmgrad.parity.runs import pass_dump
from calmgrad.search import Index
from docs import draw

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "docs" / "_build"
PAGES = [ROOT / "README.md"]
PAGES += sorted(page for page in (ROOT / "docs").rglob("*.md") if BUILT not in page.parents)
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGES.md"]
COMMAND_PAGE = ROOT / "docs" / "commands.md"
TRAIN_PAGES = [ROOT / "docs" / "training.md", ROOT / "docs" / "configuration.md"]

# Beginnings of commands that are not run here -> why.
NOT_RUN = {
    "./dev": "sets up an environment of its own: .ci/run does",
    "git clone URL": "stands for the place the project is published at",
    "cd ": "goes with git clone",
    "python -m benchmarks": "needs calm-mamba, or takes long: tests/test_benchmarks.py",
    "calmgrad verify-resume": "runs seven processes: tests/cli/test_verify_resume.py does",
    "calmgrad parity --peer": "needs calm-mamba: tests/cli/test_parity.py has a stand-in",
    "calmgrad tr<TAB>": "keys to press: tests/cli/test_completion.py presses them",
}
# What makes a command short; click takes the last value of an option.
SHORT = {
    "train": ["--max-steps", "2"],
    "contrastive": ["--max-steps", "2"],
    "demo": ["--steps", "1"],
    "benchmark": ["-s", "nano", "--seconds", "0.01"],
    "gradcheck": ["--op", "gelu", "--tokens", "24"],
}
# Where a text stands, how it begins, and the files it is.
TEXTS = {
    ("data.md", "<CWD>"): ["shell.txt", "commands.train.txt", "commands.val.txt"],
    ("data.md", "It rained"): ["book.txt"],
    ("data.md", "<WORD>"): ["words.txt"],
    ("data.md", "<QUERY>"): ["pair.txt"],
    ("dictionary.md", "<WORD>"): ["entries.train.txt", "entries.val.txt"],
    ("prose.md", "<ATN>"): ["paragraphs.train.txt", "paragraphs.val.txt"],
}
# Pages whose code is one story; a block that begins with the name of a file becomes that file.
STORIES = ["write-an-op.md"]
RECIPES = ("shell", "dictionary", "prose", "netref")
HISTORY = """\
#1700000000
cd ~/orbit
#1700000007
make
#1700000060
export API_TOKEN=4f9a1c77
#1700000064
git push
"""
LANGUAGES = {"c", "sh", "console", "text", "python", "toml", "yaml", "math"}
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")  # as in `calmgrad COMMAND --help`
FLAG = re.compile(r"(?<![\w-])(?:--[a-z][a-z0-9-]*|-[a-zA-Z])(?![\w-])")
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
REPOSITORY_PATH = re.compile(r"(?:calmgrad|kernels|cli|tests|docs|benchmarks)/[\w./-]*")


class Block(NamedTuple):
    """A fenced block: the page it is on, its first line there, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


class Command(NamedTuple):
    """Something to type, and where it says so."""

    place: str
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    begun: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            inside.append(line)
        elif begun is None:
            begun, inside = (number + 1, line[3:].strip()), []
        else:
            yield Block(page, *begun, "\n".join(inside) + "\n")
            begun = None
    assert begun is None, f"{page.name}:{begun}: a block that does not end"


def prose_of(page: Path) -> list[tuple[int, str]]:
    """The lines outside of fenced blocks, with their numbers."""
    lines, fenced = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            lines.append((number, line))
    return lines


def typed_in(block: Block) -> Iterator[Command]:
    """The commands of a block: all lines of a script, those after a prompt of a session."""
    for number, line in enumerate(block.text.splitlines(), block.line):
        if block.language == "sh" or (block.language == "text" and line.startswith("calmgrad ")):
            text = line
        elif block.language in ("console", "text") and line.startswith("$ "):
            text = line[2:]
        else:
            continue
        for part in without_comment(text).split(" && "):
            if part:
                yield Command(f"{block.page.name}:{number}", part)


def without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)#\s.*", "", line).strip()


def in_prose(page: Path) -> Iterator[Command]:
    """Whole commands in code spans of the text."""
    for number, line in prose_of(page):
        for span in SPAN.findall(line):
            if span.startswith("calmgrad "):
                yield Command(f"{page.name}:{number}", span)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
TYPED = [command for block in BLOCKS for command in typed_in(block)]
SPOKEN = [command for page in PAGES for command in in_prose(page)]


def reason_not_to_run(text: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if text.startswith(start)), None)


def runnable() -> list[Any]:
    """Each different command once."""
    found: dict[str, Any] = {}
    for place, text in [*TYPED, *(c for c in SPOKEN if not PLACEHOLDER.search(c.text))]:
        if reason_not_to_run(text) is None:
            found.setdefault(text, pytest.param(text, id=f"{place} {text}"))
    return list(found.values())


PYTHON = [b for b in BLOCKS if b.language == "python" and b.page.name not in STORIES]
WITH_PYTHON = list(dict.fromkeys(block.page for block in PYTHON))


def blocks(language: str) -> list[Any]:
    return [pytest.param(b, id=b.name) for b in BLOCKS if b.language == language]


# --- the folder the documents speak of ------------------------------------------------------------


def some_sequences() -> tuple[list[list[int]], list[int]]:
    """Two dozen short commands."""
    lines = [f"{verb} {name}" for verb in ("ls", "vim", "git add") for name in "abcdefgh"]
    start = [calmgrad.BOS, calmgrad.ATN, calmgrad.CMD]
    return [[*start, *line.encode(), calmgrad.EOS] for line in lines], [1] * len(lines)


def write_texts(folder: Path, model: calmgrad.Model) -> None:
    """Lines, pairs of texts, and what embedding them needs and gives."""
    words = [f"word{number}" for number in range(12)]
    (folder / "notes.txt").write_text("the key is under the mat\n\nmilk, bread\n")
    pairs = "\n".join(f"<QUERY>what is {w}\n<ATN>\n<REF>{w} is the name of a word\n" for w in words)
    for name in ("pairs.txt", "test_pairs.txt", "netref.train.txt", "netref.val.txt"):
        (folder / name).write_text(pairs)
    model.save(folder / "embed.cwgt")
    for name in ("notes.index", "docs.index", "netref.index"):
        Index.build(model, ["a text"], model_path="embed.cwgt").save(folder / name)
    (folder / "docs").mkdir()
    for name in ("training.md", "engine.md"):
        shutil.copy(ROOT / "docs" / name, folder / "docs")


def write_dumps(folder: Path, model: calmgrad.Model, sequence: list[int]) -> None:
    """What an engine without mistakes has to say of one sequence."""
    shutil.copy(folder / "model.cwgt", folder / "trained.cwgt")
    calmgrad.write_dataset(folder / "one.ctds", [sequence], [1])
    told = pass_dump(model, [sequence], [1])
    for name in ("theirs.dump", "ours.dump"):
        write_dump(folder / name, told, raw=True)
    told.arrays["grads"].astype("<f4").tofile(folder / "grads.f32")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that a documented command reads, small."""
    folder = tmp_path_factory.mktemp("documented")
    sequences, positions = some_sequences()
    user = folder / "share" / "lilush" / "calm"
    user.mkdir(parents=True)
    for name in ("history.txt", ".bash_history"):
        (folder / name).write_text(HISTORY, encoding="utf-8")
    recipes = [name for recipe in RECIPES for name in (recipe, f"{recipe}_val")]
    for name in ("train", "train_val", "test", "more", "new", "words", "book", "history", *recipes):
        calmgrad.write_dataset(folder / f"{name}.ctds", sequences, positions)
    for path, part in (("part.ctds", slice(0, 12)), ("part_val.ctds", slice(12, 24))):
        calmgrad.write_dataset(folder / path, sequences[part], positions[part])
    shutil.copy(folder / "train.ctds", user)
    model = calmgrad.new_model(d_model=16, n_layers=1)
    model.save(folder / "model.cwgt")
    write_texts(folder, model)
    dump = pass_dump(model, sequences[:3], positions[:3])
    write_dump(folder / "engine.dump", dump, raw=True)
    dump.arrays["grads"].tofile(folder / "grads.bin")
    tensors.write(folder / "model.safetensors", model.data())
    with calmgrad.Trainer(model) as trainer:
        trainer.compute_fisher(sequences, positions)
        trainer.save(folder / "base.cwgt")
    shutil.copy(folder / "base.cwgt", folder / "tuned.cwgt")
    write_dumps(folder, model, sequences[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sizes: dict[str, Any] = dict(model="new", d_model=16, n_layers=1)
        calmgrad.train(dataset="train.ctds", max_steps=2, save_dir="runs/nano-1", **sizes)
    for name in ("mini", "demo-1", "history", "lm", *RECIPES):
        shutil.copytree(folder / "runs" / "nano-1", folder / "runs" / name)
    validation = folder / "runs" / "demo-1" / "validation.ctds"
    calmgrad.write_dataset(validation, sequences * 2, positions * 2)
    for block in BLOCKS:
        for (page, tag), names in TEXTS.items():
            if block.page.name == page and block.text.startswith(tag):
                for name in names:
                    (folder / name).write_text(block.text, encoding="utf-8")
        if block.language in ("toml", "yaml"):
            (folder / f"settings.{block.language}").write_text(block.text, encoding="utf-8")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these files as the current folder, and a home without a user model."""
    copy = tmp_path / "here"
    shutil.copytree(prepared, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(copy))
    monkeypatch.setenv("XDG_DATA_HOME", str(copy / "share"))
    for name in settings.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return copy


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", runnable())
def test_commands_run(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [os.path.expanduser(word) for word in shlex.split(text)]
    assert words[0] == "calmgrad", f"{text}: run it here, or give a reason in NOT_RUN"
    if ">" in words:
        words = words[: words.index(">")]
    if "--save-dir" in words:  # where it stands, this run is not made yet
        shutil.rmtree(words[words.index("--save-dir") + 1], ignore_errors=True)
    cli.main(words[1:] + SHORT.get(words[1], []), prog_name="calmgrad", standalone_mode=False)
    for flag in ("-o", "--output"):
        if flag in words:
            assert Path(words[words.index(flag) + 1]).stat().st_size > 0
    if words[1] not in SHORT:
        assert capsys.readouterr().out


def test_every_reason_not_to_run_is_needed() -> None:
    for start in NOT_RUN:
        assert any(command.text.startswith(start) for command in TYPED), start


def test_every_block_names_its_language() -> None:
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{block.name}: {block.language or 'none'}"


# --- code and settings ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_runs(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of a page one after the other: later ones may use what earlier ones made."""
    sequences, positions = some_sequences()
    given = {
        "model": calmgrad.load_model("model.cwgt"),
        "sequences": sequences,
        "cmd_positions": positions,
    }
    for block in PYTHON:
        if block.page == page:
            # With the line numbers of the page, for tracebacks.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            exec(code, given)
            assert bool(capsys.readouterr().out) == ("print(" in block.text), block.name


@pytest.mark.parametrize("page", STORIES)
def test_stories_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace; files of tests by pytest, other files as scripts."""
    monkeypatch.syspath_prepend(tmp_path)
    told: dict[str, Any] = {}
    for block in [b for b in BLOCKS if b.page.name == page and b.language == "python"]:
        named = re.match(r"# (\w+\.py)\n", block.text)
        if named is None:
            exec(compile("\n" * (block.line - 1) + block.text, str(block.page), "exec"), told)
            continue
        path = tmp_path / named[1]
        path.write_text(block.text, encoding="utf-8")
        if path.name.startswith("test_"):
            run_python(tmp_path, "-m", "pytest", "-q", "-p", "pytest_calmgrad", path.name)
        else:
            run_python(tmp_path, path.name)


def run_python(folder: Path, *args: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", [*blocks("toml"), *blocks("yaml")])
def test_settings_are_understood(block: Block, tmp_path: Path) -> None:
    path = tmp_path / f"settings.{block.language}"
    path.write_text(block.text, encoding="utf-8")
    config, notes = settings.read_config(path)
    assert config != settings.TrainConfig()
    assert notes == []


# --- links and files ------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """What a link may name in a page: its headings, as GitHub writes them."""
    headings = [line.lstrip("#").strip() for _, line in prose_of(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_section_stands_twice(page: Path) -> None:
    headings = [line for _, line in prose_of(page) if line.startswith("## ")]
    assert len(headings) == len(set(headings)), headings


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for number, line in prose_of(page):
        for target in LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name) if name else page
            assert path.exists(), f"{page.name}:{number}: {target}"
            if anchor:
                assert anchor in anchors_of(path), f"{page.name}:{number}: {target}"


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_files_of_the_project_exist(page: Path) -> None:
    for number, line in prose_of(page):
        for span in SPAN.findall(line):
            if REPOSITORY_PATH.fullmatch(span) and not span.startswith("docs/_build"):
                assert (ROOT / span).exists(), f"{page.name}:{number}: {span}"


# --- flags ----------------------------------------------------------------------------------------


def command_named(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def leaves_of(command: click.Command) -> list[click.Command]:
    """The command, or those of a group."""
    if not isinstance(command, click.Group):
        return [command]
    with click.Context(command) as context:
        found = [command.get_command(context, name) for name in command.list_commands(context)]
    return [leaf for leaf in found if leaf is not None]


def flags_of(name: str) -> set[str]:
    """Every flag that a command's help shows."""
    flags = {"-h", "--help"}
    for leaf in leaves_of(command_named(name)):
        with click.Context(leaf, info_name=name) as context:
            flags |= set(FLAG.findall(leaf.get_help(context)))
    return flags


ALL_FLAGS = {name: flags_of(name) for name in COMMANDS}


def sections_of(page: Path) -> dict[str, str]:
    """Heading of the second level -> the text below it."""
    parts = re.split(r"^## (.*)\n", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def mentions(page: Path) -> Iterator[tuple[str, str, set[str]]]:
    """Code with flags: where it stands, its text, the flags it may have."""
    of_page = ALL_FLAGS["train"] if page in TRAIN_PAGES else set().union(*ALL_FLAGS.values())
    of_section = of_page
    spans = [
        (number, span)
        for number, line in prose_of(page)
        for span in ([line] if line.startswith("## ") else SPAN.findall(line))
    ]
    typed = [
        (int(c.place.rpartition(":")[2]), c.text) for b in blocks_of(page) for c in typed_in(b)
    ]
    for number, text in sorted(spans + typed):
        if text.startswith("## "):
            of_section = ALL_FLAGS.get(text[3:], of_page)
        elif text.startswith("calmgrad "):
            yield f"{page.name}:{number}", text, ALL_FLAGS.get(text.split()[1], of_page)
        elif text.startswith("-"):
            yield f"{page.name}:{number}", text, of_section


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_exist(page: Path) -> None:
    for place, text, known in mentions(page):
        unknown = (
            set(FLAG.findall(without_comment(text))) - known - {"--version", "-v", "--verbose"}
        )
        assert not unknown, f"{place}: {text}: {unknown}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_told(name: str) -> None:
    text = sections_of(COMMAND_PAGE)[name]
    text += COMMAND_PAGE.read_text(encoding="utf-8").partition("\n## ")[0]  # what all have
    if name == "train":
        text += "".join(page.read_text(encoding="utf-8") for page in TRAIN_PAGES)
    told = set(FLAG.findall(text))
    for parameter in [p for leaf in leaves_of(command_named(name)) for p in leaf.params]:
        if isinstance(parameter, click.Option):
            names = {*parameter.opts, *parameter.secondary_opts}
            untold = names - told
            if name != "train" and untold != names:  # one of -o and --output is enough
                continue
            assert not untold, f"{name}: {untold}"


def test_the_readme_shows_every_command() -> None:
    shown = {c.text.split()[1] for c in TYPED if c.place.startswith("README.md") if " " in c.text}
    assert set(COMMANDS) <= shown


# --- the recording of the demo --------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def last_frame() -> list[str]:
    """The lines that the recording ends with."""
    root = ET.parse(ROOT / "docs" / "demo.svg").getroot()
    group = next(g for g in root.iter(f"{SVG}g") if g.get("id") == "last")
    rows: dict[str, str] = {}
    for text in group.iter(f"{SVG}text"):
        column = round((float(text.get("x", "")) - 14) / 8.4)
        row = text.get("y", "")
        rows[row] = rows.get(row, "").ljust(column) + (text.text or "")
    return list(rows.values())


@pytest.mark.parametrize("name", ["demo.svg", "loss.svg"])
def test_pictures_stand_alone(name: str) -> None:
    content = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert len(content.encode()) < 150_000
    assert not re.search(r"<script|<image|<foreignObject|url\(|href|/tmp/|/home/", content)
    assert ET.fromstring(content).tag == f"{SVG}svg"


def test_the_readme_shows_the_recorded_demo() -> None:
    """Else: run docs/record.py, and copy the text of the last frame."""
    tour = next(b for b in BLOCKS if b.page.name == "README.md" and "$ ./dev run" in b.text)
    shown = [line for line in tour.text.splitlines() if line]
    begin = next(i for i, line in enumerate(shown) if line.startswith("trained "))
    assert shown[begin:] == last_frame()
    assert shown[begin].startswith(f"trained {STEPS:,} steps in ")
    assert f"in {STEPS:,} steps" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{STEPS:,} if not given" in sections_of(COMMAND_PAGE)["demo"]


# --- contents, pictures, links --------------------------------------------------------------------


def test_every_page_is_in_the_contents() -> None:
    index = ROOT / "docs" / "index.md"
    named = {
        target.partition("#")[0] for _, line in prose_of(index) for target in LINK.findall(line)
    }
    found = [*PAGES[1:], *(ROOT / "docs" / "notebooks").glob("*.ipynb")]
    pages = {page.relative_to(index.parent).as_posix() for page in found} - {"index.md"}
    assert not pages - named


def test_the_engine_has_as_many_lines_as_told() -> None:
    page = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    told = re.search(r"the engine, ([\d,]+) lines", page)
    read = [ROOT / "calmgrad" / "tape.py", ROOT / "calmgrad" / "network.py"]
    read += (ROOT / "calmgrad" / "ops").glob("*.py")
    read += (ROOT / "kernels" / "reference").glob("*.py")
    others = {"__init__", "basic", "decode", "optimizer", "sampling"}
    lines = sum(
        len(path.read_text(encoding="utf-8").splitlines())
        for path in read
        if path.stem not in others
    )
    assert told is not None
    assert round(lines, -2) == int(told[1].replace(",", ""))


def test_every_operation_is_derived() -> None:
    for path in (ROOT / "calmgrad" / "ops").glob("[a-z]*.py"):
        page = ROOT / "docs" / "ops" / f"{path.stem}.md"
        assert page.exists(), f"derive its backward formula in {page}"
        for name in re.findall(r"^def ([a-z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert name in page.read_text(encoding="utf-8")
        assert page in WITH_PYTHON, f"{page}: check the formula"


@pytest.mark.parametrize("name", draw.PICTURES)
def test_the_pictures_are_those_of_the_source(name: str) -> None:
    """Else: run `python docs/draw.py`."""
    content = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert content == draw.PICTURES[name]()


def test_links_out_of_the_project_are_known() -> None:
    """They are not followed here: whoever adds one has looked at it."""
    found = set()
    for page in LINKED:
        for _, line in prose_of(page):
            found |= {t for t in LINK.findall(line) if re.match(r"[a-z]+:", t)}
    assert {
        re.sub(r"^https://arxiv\.org/abs/\d{4}\.\d{4,5}$", "arxiv", link) for link in found
    } <= {"arxiv"}

"""Each module imports only what stands below it, without circles; the command line starts light.

Found by reading the source (`ast`), so imports inside functions and under TYPE_CHECKING count too.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"calmgrad": "calmgrad", "kernels": "calmgrad.kernels", "cli": "calmgrad.cli"}

# From the bottom up. A module may import from the lines above its own and, without a circle,
# from its own line. A package stands for everything in it.
LAYERS = [
    "errors config layout tokenizer blas nvidia",
    "kernels",
    "arena shapes packing devices backend sequences staging mirror replay",
    "tape",
    "ops",
    "network parameters memory cutting buckets",
    "shards worker nan_search interrupting",
    "formats domains template prompt",
    "decoder sampling generation",
    "model",
    "optim schedule ewc update device_update fisher pair_loss",
    "trainer trainer_state",
    "settings settings_schema settings_yaml",
    "data demo history evaluation loop parity explain"
    " gradient_check differences op_cases model_check planted_errors testing"
    " plots continual rundir starting training conversion dataset_statistics dataset_editing"
    " redaction retrieval contrastive texts search suggestions ceilings op_profile events run"
    " secret_patterns device_ceilings run_state resume running saving telling trace model_diff",
    "calmgrad",  # calmgrad/__init__.py: the public names
    "cli",
]
LEVEL = {name: level for level, line in enumerate(LAYERS) for name in line.split()}

# What `calmgrad --help` must not wait for.
HEAVY = {"numpy", "numba", "cupy", "rich", "safetensors", "yaml", "matplotlib", "tensorboardX"}


@dataclass(frozen=True)
class Import:
    """One imported name, as written: `calmgrad.ops.gelu` for `from calmgrad.ops import gelu`."""

    name: str
    line: int
    at_start: bool  # runs when the module is imported


class Tree:
    """The modules of the package, by the names they are installed under, and their imports."""

    def __init__(self, root: Path) -> None:
        self.imports: dict[str, list[Import]] = {}
        for folder, installed in FOLDERS.items():
            for path in sorted((root / folder).glob("**/*.py")):  # does not follow links
                parts = path.relative_to(root / folder).with_suffix("").parts
                name = ".".join((installed, *parts)).removesuffix(".__init__")
                source = path.read_text(encoding="utf-8")
                self.imports[name] = list(find_imports(ast.parse(source, str(path))))

    def module_of(self, name: str) -> str | None:
        """The module that provides `calmgrad.a.b.name`; None for other people's libraries."""
        if name.split(".")[0] != "calmgrad":
            return None
        while name not in self.imports:
            name, _, tail = name.rpartition(".")
            if not name:
                return None
            if name == "calmgrad" and tail == "__version__":
                return None  # a literal, free to all
        return name

    def edges(self, module: str) -> Iterator[tuple[str, Import]]:
        for found in self.imports[module]:
            target = self.module_of(found.name)
            if target is not None and target != module:
                yield target, found


def find_imports(tree: ast.Module) -> Iterator[Import]:
    def visit(node: ast.AST, at_start: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, node.lineno, at_start)
            case ast.ImportFrom(module=module, names=names, level=level):
                for alias in names:
                    name = f"{module}.{alias.name}" if module else alias.name
                    yield Import("." * level + name, node.lineno, at_start)
            case ast.Call(func=function, args=[argument, *_]) if "import" in ast.unparse(function):
                name = leading_text(argument)  # import_module("a.b"), import_module(f"a.b.{c}")
                if name:
                    yield Import(name.rstrip("."), node.lineno, at_start)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_start and not inside and not typing)

    yield from visit(tree, True)


def leading_text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return text
    return ""


Rule = Callable[[Tree], list[str]]  # what is broken, one line each


def room(module: str) -> str:
    """The name by which the table knows a module."""
    return module.split(".")[1] if "." in module else module


def unplaced(tree: Tree) -> list[str]:
    return [
        f"{module}: name its layer, in LAYERS of this test and in the design"
        for module in tree.imports
        if room(module) not in LEVEL
    ]


def upward(tree: Tree) -> list[str]:
    """Imports from a higher layer, out of kernels, or from one op to another."""
    wrong = []
    for module in tree.imports:
        here = room(module)
        for target, found in tree.edges(module):
            there = room(target)
            if here not in LEVEL or there not in LEVEL:
                continue  # told by `unplaced`
            where = f"{module}, line {found.line}: imports {target}"
            if LEVEL[there] > LEVEL[here]:
                wrong.append(f"{where}, which stands above it ({there} over {here})")
            elif here == "kernels" != there:
                wrong.append(f"{where}; kernels know arrays and nothing else")
            elif here == there == "ops" and module != "calmgrad.ops":
                wrong.append(f"{where}; an op imports no other op")
        wrong.extend(
            f"{module}, line {found.line}: relative import of {found.name}; write it in full"
            for found in tree.imports[module]
            if found.name.startswith(".")
        )
    return wrong


def circles(tree: Tree) -> list[str]:
    """Each circle of imports once, as `a -> b -> a`."""
    wrong: list[str] = []
    finished: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            wrong.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in finished:
            for target in sorted({target for target, _ in tree.edges(module)}):
                walk(target, [*path, module])
            finished.add(module)

    for module in tree.imports:
        walk(module, [])
    return wrong


def heavy_at_start(tree: Tree) -> list[str]:
    """How importing a cli module ends up loading a heavy library, as `a -> b -> numpy`."""
    wrong = []
    for start in tree.imports:
        if room(start) != "cli":
            continue
        queue, seen = [[start]], {start}
        while queue:
            path = queue.pop(0)
            for found in tree.imports[path[-1]]:
                library = found.name.split(".")[0]
                if found.at_start and library in HEAVY:
                    wrong.append(" -> ".join([*path, library]) + ": import it inside the command")
            targets = [target for target, found in tree.edges(path[-1]) if found.at_start]
            # Importing a.b.c runs a and a.b first.
            parts = path[-1].split(".")
            targets += [".".join(parts[:end]) for end in range(1, len(parts))]
            for target in targets:
                if target not in seen and target in tree.imports:
                    seen.add(target)
                    queue.append([*path, target])
    return wrong


@pytest.fixture(scope="module")
def calmgrad_tree() -> Tree:
    return Tree(ROOT)


@pytest.mark.parametrize("rule", [unplaced, upward, circles, heavy_at_start])
def test_the_layers_are_kept(rule: Rule, calmgrad_tree: Tree) -> None:
    broken = rule(calmgrad_tree)
    assert not broken, "\n" + "\n".join(broken)


def test_the_whole_package_was_read(calmgrad_tree: Tree) -> None:
    assert {"calmgrad", "calmgrad.errors", "calmgrad.kernels"} <= set(calmgrad_tree.imports)


@pytest.mark.parametrize(
    ("rule", "files", "message"),
    [
        (unplaced, {"calmgrad/novelty.py": ""}, "calmgrad.novelty: name its layer"),
        (
            upward,
            {"calmgrad/tape.py": "import calmgrad.trainer", "calmgrad/trainer.py": ""},
            "calmgrad.tape, line 1: imports calmgrad.trainer, which stands above it",
        ),
        (
            upward,
            {"calmgrad/model.py": "def f():\n from calmgrad import data", "calmgrad/data.py": ""},
            "calmgrad.model, line 2: imports calmgrad.data",
        ),
        (
            upward,
            {"calmgrad/trainer.py": "from calmgrad import new_model", "calmgrad/__init__.py": ""},
            "imports calmgrad, which stands above it",
        ),
        (
            upward,
            {"calmgrad/explain.py": "from calmgrad.cli.main import main", "cli/main.py": ""},
            "(cli over explain)",
        ),
        (
            upward,
            {"kernels/cpu/gelu.py": "from calmgrad.errors import E", "calmgrad/errors.py": ""},
            "kernels know arrays and nothing else",
        ),
        (
            upward,
            {
                "calmgrad/tape.py": "import_module(f'calmgrad.ops.{name}')",
                "calmgrad/ops/__init__.py": "",
            },
            "calmgrad.tape, line 1: imports calmgrad.ops",
        ),
        (
            upward,
            {"calmgrad/ops/gelu.py": "from calmgrad.ops.pool import f", "calmgrad/ops/pool.py": ""},
            "an op imports no other op",
        ),
        (upward, {"calmgrad/tape.py": "from .arena import Arena"}, "relative import of .arena"),
        (
            circles,
            {
                "calmgrad/arena.py": "from calmgrad.shapes import x",
                "calmgrad/shapes.py": "from calmgrad.packing import y",
                "calmgrad/packing.py": "def f(): import calmgrad.arena",
            },
            "calmgrad.arena -> calmgrad.shapes -> calmgrad.packing -> calmgrad.arena",
        ),
        (heavy_at_start, {"cli/main.py": "import numpy as np"}, "calmgrad.cli.main -> numpy"),
        (
            heavy_at_start,
            {
                "cli/main.py": "from calmgrad.formats.ctds import read",
                "calmgrad/formats/__init__.py": "import numpy",
                "calmgrad/formats/ctds.py": "",
            },
            "calmgrad.cli.main -> calmgrad.formats.ctds -> calmgrad.formats -> numpy",
        ),
    ],
)
def test_a_broken_rule_is_found(
    rule: Rule, files: dict[str, str], message: str, tmp_path: Path
) -> None:
    assert any(message in line for line in rule(write_tree(tmp_path, files)))


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    tree = write_tree(
        tmp_path,
        {
            "calmgrad/__init__.py": "__version__ = '1'\ndef f(): from calmgrad import trainer",
            "calmgrad/errors.py": "import numpy",
            "calmgrad/trainer.py": "from calmgrad import __version__, errors\nimport numpy",
            "cli/__init__.py": "",
            "cli/main.py": (
                "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING: import numpy\n"
                "def f(): import rich, calmgrad.trainer"
            ),
        },
    )
    for rule in (unplaced, upward, circles, heavy_at_start):
        assert rule(tree) == []


def write_tree(root: Path, files: dict[str, str]) -> Tree:
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
    return Tree(root)

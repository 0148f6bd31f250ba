"""What an installed calmgrad consists of: packages, data files, the command, a light start."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"calmgrad": "calmgrad", "kernels": "calmgrad.kernels", "cli": "calmgrad.cli"}
COMPILED = {".pyc", ".nbi", ".nbc"}


def source_files() -> Iterator[tuple[Path, str]]:
    """Each file of the package, and the installed name of the package it lies in."""
    for folder, installed in FOLDERS.items():
        for path in (ROOT / folder).glob("**/*"):  # does not follow the links in calmgrad/
            if path.is_file() and path.suffix not in COMPILED:
                inner = path.parent.relative_to(ROOT / folder).parts
                yield path, ".".join((installed, *inner))


@pytest.fixture(scope="module")
def setup_cfg() -> ConfigParser:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def test_every_package_is_listed_once(setup_cfg: ConfigParser) -> None:
    """setup.cfg lists them by hand; a forgotten one would silently miss from the wheel."""
    found = [package for path, package in source_files() if path.name == "__init__.py"]
    assert sorted(setup_cfg["options"]["packages"].split()) == sorted(found)


def test_every_module_lies_in_a_listed_package(setup_cfg: ConfigParser) -> None:
    listed = setup_cfg["options"]["packages"].split()
    strays = [
        str(path.relative_to(ROOT))
        for path, package in source_files()
        if path.suffix == ".py" and package not in listed
    ]
    assert not strays, f"would miss from the wheel, for want of an __init__.py: {strays}"


def test_every_data_file_matches_a_pattern(setup_cfg: ConfigParser) -> None:
    patterns = setup_cfg["options.package_data"]
    for path, package in source_files():
        if path.suffix != ".py":
            globs = patterns.get(package, "").replace(",", " ").split()
            assert any(path.match(glob) for glob in globs), (
                f"{path.relative_to(ROOT)} would miss from the wheel: "
                f"no pattern for it under {package} in [options.package_data]"
            )


@pytest.mark.parametrize("folder", ["kernels", "cli"])
def test_the_links_are_links(folder: str) -> None:
    """A checkout without symbolic links (git's core.symlinks = false) cannot work."""
    link = ROOT / "calmgrad" / folder
    assert link.is_symlink(), f"{link} should be a symbolic link to ../{folder}"
    assert link.resolve() == (ROOT / folder).resolve()


def test_the_version_is_a_literal() -> None:
    """The build reads it without importing calmgrad: NumPy is not there yet."""
    tree = ast.parse((ROOT / "calmgrad" / "__init__.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    )
    assert isinstance(value, ast.Constant), ast.unparse(value)


def test_the_command_imports() -> None:
    (script,) = (s for s in entry_points(group="console_scripts") if s.name == "calmgrad")
    assert callable(script.load())


def test_help_loads_no_heavy_library() -> None:
    heavy = ["numpy", "numba", "rich", "safetensors", "yaml", "cupy", "matplotlib"]
    code = (
        "import sys; from calmgrad.cli.main import main\n"
        "sys.argv = ['calmgrad', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print(*(name for name in {heavy} if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert not done.stderr.strip(), f"calmgrad --help loads {done.stderr}"

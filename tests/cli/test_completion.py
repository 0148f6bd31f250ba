"""calmgrad completion"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calmgrad.cli.main import COMMANDS
from tests.cli.conftest import Run, environment


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert done.stderr == ""
    assert f"_CALMGRAD_COMPLETE={shell}_complete" in done.stdout
    assert json.loads(run("completion", shell, "--json").stdout) == {
        "shell": shell, "script": done.stdout.removesuffix("\n")}  # fmt: skip


def test_an_unknown_shell(run: Run) -> None:
    assert "'csh' is not one of" in run("completion", "csh", code=2).stderr


def completed(folder: Path, words: str) -> list[str]:
    """What bash is told when the cursor stands at the end of these words."""
    given = {
        "_CALMGRAD_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - (not words.endswith(" "))),
    }
    done = subprocess.run(
        [sys.executable, "-m", "calmgrad.cli"],
        cwd=folder, env=environment(folder) | given, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_commands_options_and_values(tmp_path: Path) -> None:
    assert completed(tmp_path, "calmgrad tr") == ["plain,train"]
    assert completed(tmp_path, "calmgrad ") == [f"plain,{name}" for name in COMMANDS]
    assert {"plain,--seed", "plain,--lr"} <= set(completed(tmp_path, "calmgrad train --"))
    assert completed(tmp_path, "calmgrad completion z") == ["plain,zsh"]
    assert completed(tmp_path, "calmgrad plot ") == ["file,"]
    assert completed(tmp_path, "calmgrad evaluate -m ") == ["file,"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_in_bash(run: Run, tmp_path: Path) -> None:
    """The function that the script defines, called as bash calls it."""
    (tmp_path / "script").write_text(run("completion", "bash").stdout)
    program = tmp_path / "bin" / "calmgrad"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m calmgrad.cli "$@"\n')
    program.chmod(0o755)
    env = environment(tmp_path)
    env["PATH"] = os.pathsep.join([str(program.parent), env["PATH"]])
    ask = """
        . ./script
        complete -p calmgrad
        COMP_WORDS=(calmgrad train --see) COMP_CWORD=2
        _calmgrad_completion calmgrad --see train
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", ask], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stderr == ""
    registered, reply = done.stdout.splitlines()
    assert registered.endswith("-F _calmgrad_completion calmgrad")
    assert reply == "--seed"

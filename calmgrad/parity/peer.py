"""calmgrad's peer calm-mamba, run in its own Python with hooks that write a dump.

Nothing of it is imported here: a script (`peer_script.py`, which needs PyTorch, NumPy and
calm-mamba alone) is run by the interpreter that has it.
"""

import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

from calmgrad.errors import UsageError
from calmgrad.formats import dump
from calmgrad.formats.dump import Dump
from calmgrad.model import Model
from calmgrad.trace import Batch

SECONDS = 600


def peer_dump(python: str, model: Model, batch: Batch) -> Dump:
    """What calm-mamba makes of a batch: values, gradients of values and of parameters.

    Args:
        python: the interpreter that has calm-mamba.

    Raises:
        UsageError: there is no such interpreter, it has no calm-mamba, or the run fails.
    """
    with tempfile.TemporaryDirectory(prefix="calmgrad-") as folder:
        place = Path(folder)
        model.save(place / "model.cwgt")
        np.savez(
            place / "batch.npz", tokens=batch.tokens, offsets=batch.packing.offsets,
            targets=batch.targets, shares=batch.shares,
        )  # fmt: skip
        script = resources.files("calmgrad.parity").joinpath("peer_script.py").read_text("utf-8")
        command = [python, "-c", script, folder]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            raise UsageError(f"--peer {python}: cannot be run: {error}") from error
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise UsageError(f"--peer {python}: {last[0][:200]}")
        return dump.read(place / "dump.npz")

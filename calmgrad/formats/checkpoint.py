"""A checkpoint: a folder with all that training is at one step (docs/reliability.md).

    model.cwgt             sizes, metadata, weights and EWC data, as in any model's file
    training.safetensors   flat float32 buffers: Adam's moments, the best weights so far
    state.json             everything else: `State`
    SHA256SUMS             of these three, as `sha256sum --check` reads it

No part of it is ever run as code. The folder appears all at once or not at all; a part that does
not match its sum is refused.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from msgspec import Meta
from numpy.typing import NDArray

from calmgrad import __version__
from calmgrad.errors import DivergedError, FileError
from calmgrad.formats import cwgt
from calmgrad.formats.files import Chunk, display, read_file
from calmgrad.formats.folders import OLD, write_folder

FORMAT = 1
MODEL, TENSORS, STATE, SUMS = "model.cwgt", "training.safetensors", "state.json", "SHA256SUMS"
BUFFERS = ("adam_m", "adam_v", "grads", "best_weights")  # what TENSORS may hold
LIMIT = 1 << 20  # bytes of the state, and of what is not buffers in TENSORS

_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S+)\n")
_NAME = re.compile(r"step-(\d{6,18})")

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a Trainer is, besides its buffers.

    Attributes:
        updates: made so far, Adam's step.
        lr: of the last update.
        gathered: sequences or targets whose gradients wait in `grads` for an update.
        options: what it was made with, and what its numbers depend on.
        device: where it computed: "cpu", "cuda", or "cuda tf32" for other products.
    """

    updates: Count
    lr: Annotated[float, Meta(ge=0)]
    gathered: Annotated[float, Meta(ge=0)]
    options: dict[str, str | float]
    device: str = "cpu"


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`state.json`.

    Attributes:
        format: 1.
        calmgrad: the version that wrote it.
        training: of the trainer.
        run: of the whole run, if there is one (calmgrad/run_state.py).
        extra: what a script has added.
    """

    format: int
    calmgrad: str
    training: Training
    run: dict[str, Any] | None = None
    extra: Any = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        model: its model.
        buffers: name -> (param_count,) float32; names as in BUFFERS.
        state: the rest.
    """

    model: cwgt.Weights
    buffers: Mapping[str, NDArray[np.float32]]
    state: State


def new_state(training: Training, run: dict[str, Any] | None = None, extra: Any = None) -> State:
    """A state of this version."""
    return State(FORMAT, __version__, training, run, extra)


def write(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint at `path`, whole or not at all; one that is there is replaced.

    Raises:
        DivergedError: a weight is not finite: it would be of no use.
        DiskError: as `write_folder`.
        TypeError: `extra` holds what JSON cannot.
    """
    if not np.isfinite(checkpoint.model.weights).all():
        raise DivergedError(
            f"{display(path)} not written: the last update left weights that are not finite"
            " (a smaller learning rate may help)"
        )
    files: dict[str, list[Chunk]] = {
        MODEL: cwgt.to_bytes(checkpoint.model),
        TENSORS: [safetensors.numpy.save(dict(checkpoint.buffers))],
        STATE: [msgspec.json.format(msgspec.json.encode(checkpoint.state)), b"\n"],
    }
    sums = "".join(f"{_sha256(chunks)}  {name}\n" for name, chunks in files.items())
    write_folder(path, {**files, SUMS: [sums.encode()]})


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint; `PATH.old` in place of one that was being replaced.

    Raises:
        FileError: there is none, a part does not match its sum, or holds what it should not.
        OutOfMemoryError: it does not fit.
    """
    folder = _standing(path)
    sums = _read_sums(folder)
    _check(folder / MODEL, sums[MODEL], None)
    model = cwgt.read(folder / MODEL)
    model.check_finite(folder / MODEL)
    state = _read_state(folder / STATE, sums[STATE])
    size = model.config.param_count
    content = _check(folder / TENSORS, sums[TENSORS], len(BUFFERS) * 4 * size + LIMIT)
    return Checkpoint(model, _buffers(folder / TENSORS, content, size), state)


def read_state(path: str | os.PathLike[str]) -> State:
    """The state of a checkpoint alone; FileError as `read`."""
    folder = _standing(path)
    return _read_state(folder / STATE, _read_sums(folder)[STATE])


def step_name(step: int) -> str:
    """The name of the checkpoint after so many updates: step-000500."""
    return f"step-{step:06d}"


def steps_in(folder: Path) -> dict[int, Path]:
    """Step -> checkpoint in a folder of them, the newest first; whether they can be read or not."""
    found: dict[int, Path] = {}
    for path in folder.glob("step-*"):
        match = _NAME.fullmatch(path.name.removesuffix(OLD))
        if match is not None:
            found[int(match[1])] = folder / match[0]
    return dict(sorted(found.items(), reverse=True))


# --- the parts ------------------------------------------------------------------------------------


def _standing(path: str | os.PathLike[str]) -> Path:
    """The folder at `path`, or the one that was being replaced."""
    for folder in (Path(path), Path(f"{os.fspath(path)}{OLD}")):
        if folder.is_dir():
            return folder
    raise FileError(f"{display(path)}: no such checkpoint: expected a folder")


def _sha256(chunks: list[Chunk]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    text = read_file(path, 4096).decode("ascii", "replace")
    lines = [_SUM_LINE.fullmatch(line) for line in text.splitlines(keepends=True)]
    sums = {line[2]: line[1] for line in lines if line is not None}
    if len(lines) != 3 or set(sums) != {MODEL, TENSORS, STATE}:
        expected = f"the SHA-256 of {MODEL}, {TENSORS} and {STATE}"
        raise FileError(f"{display(path)}: is damaged: expected {expected}")
    return sums


def _check(path: Path, expected: str, limit: int | None) -> bytes:
    """The bytes of a part that is what it was when it was written."""
    content = read_file(path, limit)
    if _sha256([content]) != expected:
        raise FileError(f"{display(path)}: is damaged: its SHA-256 is not the one in {SUMS}")
    return content


def _read_state(path: Path, expected: str) -> State:
    content = _check(path, expected, LIMIT)
    name = display(path)
    try:
        number = msgspec.json.decode(content, type=_Format).format
        if number != FORMAT:
            raise FileError(f"{name}: checkpoint format {number}: this version reads {FORMAT}")
        return msgspec.json.decode(content, type=State)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(f"{name}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What a library says is wrong, on one short line: it may quote the file at length."""
    text = str(error)
    return display(text if len(text) < 200 else text[:200] + "…")


class _Format(msgspec.Struct):
    format: int


def _buffers(path: Path, content: bytes, size: int) -> dict[str, NDArray[np.float32]]:
    name = display(path)
    try:
        buffers: dict[str, NDArray[np.float32]] = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise FileError(f"{name}: {reason(error)}") from error
    for key, flat in buffers.items():
        if key not in BUFFERS:
            raise FileError(f"{name}: {key[:40]!r}: expected one of {', '.join(BUFFERS)}")
        if flat.dtype != np.float32 or flat.shape != (size,):
            raise FileError(f"{name}: {key}: {flat.dtype} {flat.shape}: expected float32 ({size},)")
    return {key: np.array(flat) for key, flat in buffers.items()}  # not views of read-only bytes

"""A model as safetensors: this engine's own, which lose nothing, and calm-mamba's, to be read.

Own files hold each parameter by its name, as [in, out]; EWC data as ewc.fisher.NAME and
ewc.anchor.NAME; sizes, metadata and sampler defaults as text. calm-mamba's hold PyTorch's
matrices, [out, in], often behind the prefix model/, and the tied head a second time.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from calmgrad.config import VOCAB, ModelConfig
from calmgrad.errors import FileError
from calmgrad.formats import cwgt
from calmgrad.formats.cwgt import Metadata, SamplerDefaults, Weights
from calmgrad.formats.files import AnyPath, Chunk, display, read_file, write_atomic
from calmgrad.layout import layout, views

MARK = "calmgrad-1"  # metadata "format" of own files
FISHER, ANCHOR = "ewc.fisher.", "ewc.anchor."
SETTINGS_LIMIT = 1 << 20  # bytes of calm-mamba's metadata.json
L_MAX = 768

_PREFIX = re.compile(r"^(model/|model\.|_orig_mod\.|module\.)")

Tensors = dict[str, NDArray[Any]]


def write(path: AnyPath, model: Weights) -> None:
    """Write a model as safetensors, whole or not at all."""
    tensors: Tensors = dict(views(model.config, model.weights))
    for prefix, flat in ((FISHER, model.fisher), (ANCHOR, model.anchor)):
        if flat is not None:
            tensors |= {f"{prefix}{name}": part for name, part in views(model.config, flat).items()}
    metadata = {
        "format": MARK,
        "sizes": json.dumps(asdict(model.config)),
        "metadata": json.dumps(asdict(model.metadata)),
        "sampler": json.dumps(asdict(model.sampler)),
    }
    ordered = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    chunks: list[Chunk] = [safetensors.numpy.save(ordered, metadata)]
    write_atomic(path, chunks)


def read(path: AnyPath, l_max: int | None = None) -> Weights:
    """Read a model from safetensors, this engine's or calm-mamba's.

    Args:
        path: a file, or a checkpoint folder of calm-train's.
        l_max: where the file does not tell; 768 otherwise.

    Raises:
        FileError: it is no such file, or its tensors make no CALM model.
    """
    place = Path(str(path))
    told: dict[str, Any] = {}
    if place.is_dir():
        told = _peer_settings(place / "metadata.json")
        place = place / "weights.safetensors"
    elif (place.parent / "metadata.json").is_file() and place.name == "weights.safetensors":
        told = _peer_settings(place.parent / "metadata.json")
    name = display(place)
    content = read_file(place)
    try:
        tensors: Tensors = safetensors.numpy.load(content)
        metadata = _metadata(content)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        reason = display(str(error)[:200])
        raise FileError(f"{name}: is no safetensors file that can be read: {reason}") from error
    if metadata.get("format") == MARK:
        return _own(name, tensors, metadata)
    model = told.get("model", told) if isinstance(told, dict) else {}
    length = l_max or (model.get("l_max") if isinstance(model, dict) else None) or L_MAX
    return _peers(name, tensors, length)


def _metadata(content: bytes) -> dict[str, str]:
    """The text of the header; the library's reader for NumPy does not give it."""
    size = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    return found if isinstance(found, dict) else {}


def _own(name: str, tensors: Tensors, metadata: Mapping[str, str]) -> Weights:
    try:
        config = ModelConfig(**json.loads(metadata["sizes"]))
        lines = Metadata(**json.loads(metadata["metadata"]))
        sampler = SamplerDefaults(**json.loads(metadata["sampler"]))
    except (KeyError, ValueError, TypeError) as error:
        raise FileError(f"{name}: metadata: {str(error)[:200]}") from error
    named = {e.name for e in layout(config)}
    known = {f"{prefix}{each}" for prefix in ("", FISHER, ANCHOR) for each in named}
    if unknown := sorted(set(tensors) - known):
        raise FileError(f"{name}: {display(unknown[0])[:80]}: no parameter of this model")
    fisher = anchor = None
    if any(each.startswith(("ewc.",)) for each in tensors):
        fisher = _flat(name, config, tensors, FISHER)
        anchor = _flat(name, config, tensors, ANCHOR)
    return Weights(config, _flat(name, config, tensors, ""), fisher, anchor, lines, sampler)


def _peers(name: str, tensors: Tensors, l_max: int) -> Weights:
    bare = {_PREFIX.sub("", key): array for key, array in tensors.items() if key[:3] != "ewc"}
    config = _sizes(name, bare, l_max)
    head = bare.pop("lm_head.weight", None)
    table = bare["token_emb.weight"]
    if head is not None and not np.array_equal(head, table, equal_nan=True):
        raise FileError(f"{name}: lm_head.weight is not token_emb.weight: CWGT holds tied models")
    turned: Tensors = {}
    for entry in layout(config):
        array = bare.pop(entry.name, None)
        if array is None:
            raise FileError(f"{name}: lacks {entry.name}")
        matrix = entry.name.endswith(".weight") and array.ndim == 2
        matrix &= entry.name != "token_emb.weight"
        turned[entry.name] = array.T if matrix else array
    if bare:
        raise FileError(f"{name}: {display(min(bare))[:80]}: no parameter of a CALM model")
    return Weights(config, _flat(name, config, turned, ""))


def _sizes(name: str, tensors: Tensors, l_max: int) -> ModelConfig:
    """A CALM model's sizes, by the shapes of its tensors."""
    mixer = "blocks.0.mixer"
    needed = ("token_emb.weight", f"{mixer}.conv1d_weight", f"{mixer}.A_log",
              f"{mixer}.dt_proj.weight", "blocks.0.ffn_fc1.weight")  # fmt: skip
    for key in needed:
        if key not in tensors or tensors[key].ndim != 2:
            raise FileError(f"{name}: has no matrix {key}: expected a model of calm-mamba's")
    vocab, d_model = tensors["token_emb.weight"].shape
    if vocab != VOCAB:
        raise FileError(f"{name}: {vocab} tokens: a CALM model has {VOCAB}")
    blocks = {m[1] for key in tensors if (m := re.match(r"blocks\.(\d+)\.", key))}
    inner, d_conv = tensors[f"{mixer}.conv1d_weight"].shape
    try:
        return ModelConfig(
            d_model=d_model, n_layers=len(blocks), expand=inner // max(d_model, 1),
            ffn_expand=tensors["blocks.0.ffn_fc1.weight"].shape[0] // max(d_model, 1),
            d_state=tensors[f"{mixer}.A_log"].shape[1], d_conv=d_conv,
            dt_rank=tensors[f"{mixer}.dt_proj.weight"].shape[1], l_max=l_max,
        )  # fmt: skip
    except ValueError as error:
        raise FileError(f"{name}: {error}") from error


def _flat(name: str, config: ModelConfig, tensors: Tensors, prefix: str) -> NDArray[np.float32]:
    flat = np.empty(config.param_count, np.float32)
    for entry in layout(config):
        array = tensors.get(f"{prefix}{entry.name}")
        if array is None:
            raise FileError(f"{name}: lacks {prefix}{entry.name}")
        if array.shape != entry.shape or array.dtype.kind != "f":
            raise FileError(
                f"{name}: {prefix}{entry.name}: {array.dtype} {array.shape},"
                f" expected float32 {entry.shape}"
            )
        flat[entry.start : entry.stop] = array.ravel()
    return flat


def _peer_settings(path: Path) -> dict[str, Any]:
    """The config of a calm-mamba checkpoint."""
    content = read_file(path, SETTINGS_LIMIT)
    try:
        found = json.loads(content).get("config", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise FileError(f"{display(path)}: {str(error)[:100]}: expected JSON") from error
    return found if isinstance(found, dict) else {}


def convert(source: AnyPath, target: AnyPath, l_max: int | None = None) -> tuple[str, Weights]:
    """CWGT to safetensors, or safetensors (or a calm-train checkpoint) to CWGT.

    Returns:
        What was written, "safetensors" or "CWGT", and the model.

    Raises:
        FileError: the source is none of these.
        ValueError: the name of the target says the other format.
    """
    if not Path(str(source)).is_dir() and _begins_with(source, cwgt.MAGIC):
        _check_name(target, "safetensors", ".cwgt")
        model = cwgt.read(source)
        write(target, model)
        return "safetensors", model
    model = read(source, l_max)
    _check_name(target, "CWGT", ".safetensors")
    cwgt.write(target, model)
    return "CWGT", model


def _check_name(target: AnyPath, form: str, other: str) -> None:
    if Path(os.fsdecode(target)).suffix.lower() == other:
        raise ValueError(f"{display(target)}: would be {form}: expected a name without {other}")


def _begins_with(path: AnyPath, magic: bytes) -> bool:
    from calmgrad.formats.files import open_source

    with open_source(path) as source:
        return source.size >= len(magic) and source.read(len(magic)) == magic

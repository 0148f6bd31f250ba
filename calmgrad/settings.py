"""Everything a training run is told: by flags, the environment, a file, or defaults, in that order.

A `TrainConfig` holds what one of these says; `merge` puts them on top of each other, `resolve`
fills in the defaults. docs/configuration.md lists the keys.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from calmgrad.config import PRESETS
from calmgrad.config import resolve as resolve_sizes
from calmgrad.errors import FileError, UsageError
from calmgrad.settings_schema import SIZES, Continual, TrainConfig, convert, printable, shown

__all__ = [
    "SIZES", "Continual", "TrainConfig", "data_folder", "defaults_for", "environment",
    "from_mapping", "merge", "read_config", "resolve", "to_dict", "to_toml", "users_file",
]  # fmt: skip

MAX_FILE = 1 << 16  # bytes
MAX_DOTS = 8  # of a dotted key; tomllib takes 23 s and 4 GB for one of 32,000

# What stands between a TOML file's dots that are none of its keys', line ends to count by, and
# dots. Every string is matched, also one without an end, so that the search is linear.
_TOML_TOKENS = re.compile(
    r""""{3}(?:[^\\]|\\.)*?(?:"{3,5}|\Z)|'{3}.*?(?:'{3,5}|\Z)"""
    r"""|"(?:[^"\\\n]|\\[^\n])*"|'[^'\n]*'|\#[^\n]*|\n|\.""",
    re.DOTALL,
)
ENVIRONMENT = {"CALMGRAD_NUM_THREADS": "threads", "CALMGRAD_DEVICE": "device"}

# --- defaults (FORMATS §9) ------------------------------------------------------------------------

DEFAULTS = TrainConfig(
    force=False, export="best", accumulation=1, min_lr=1e-6, optimizer="adam", beta1=0.9,
    beta2=0.999, eps=1e-8, weight_decay=0.01, grad_clip=1.0, ewc_lambda=0.0, rules="c-engine",
    shuffle=True, seed=0,
    device="auto", matmul_precision="float32", shard_tokens=512, report_to=[],
)  # fmt: skip
FINE_TUNING = TrainConfig(epochs=3, batch_size=8, lr=5e-5, warmup_steps=0)
PATIENCE = 5  # evaluations, of a new model


def users_file(name: str) -> Path:
    """The shell's own model (user.cwgt) or data set (train.ctds), where none is given.

    Raises:
        FileError: there is none.
    """
    path = data_folder() / name
    if not path.exists():
        what = "model given (-m)" if name == "user.cwgt" else "data set given (-d)"
        raise FileError(f"no {what}, and none at {path}")
    return path


def data_folder() -> Path:
    """Where the shell keeps its models and data: $XDG_DATA_HOME/lilush/calm."""
    root = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(root).expanduser() / "lilush" / "calm"


def defaults_for(config: TrainConfig, new_model: bool) -> TrainConfig:
    """What holds where `config` says nothing: its size's preset, or `calm train`'s fine-tuning.

    Raises:
        UsageError: the sizes do not go together.
    """
    dataset = str(data_folder() / "train.ctds")
    if not new_model:
        user = str(data_folder() / "user.cwgt")
        return _filled(TrainConfig(model=user, dataset=dataset), FINE_TUNING, DEFAULTS)
    given = {key: getattr(config, key) for key in SIZES}
    try:
        sizes = resolve_sizes(config.size, given)
    except ValueError as error:
        raise UsageError(str(error)) from error
    preset = PRESETS[config.size or "nano"]
    own = TrainConfig(
        model="new",
        size="nano" if all(value is None for value in given.values()) else None,
        **{key: getattr(sizes, key) for key in SIZES},
        domain="shell",
        dataset=dataset,
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        lr=preset.lr,
        warmup_steps=preset.warmup_steps,
        patience=PATIENCE if config.val_dataset is not None else None,
    )
    return _filled(own, DEFAULTS)


def resolve(*configs: TrainConfig, new_model: bool) -> TrainConfig:
    """The settings of a run: `configs`, the first of them first, over the defaults.

    Every key that has a default gets a value. None stays where it means something: no bound, one
    thread a core, an evaluation each epoch, the domain's own text.

    Raises:
        UsageError: a value out of its range, or values that do not go together.
    """
    given = merge(*(from_mapping(to_dict(config)) for config in configs))
    resolved = _filled(given, defaults_for(given, new_model))
    c = resolved.continual
    if c is not None and c.fisher_batches is not None and c.buffer_batches is not None:
        if c.fisher_batches > c.buffer_batches:
            raise UsageError(
                f"continual.fisher_batches: expected at most buffer_batches ="
                f" {c.buffer_batches}, got {c.fisher_batches}"
            )
    return resolved


def merge(*configs: TrainConfig) -> TrainConfig:
    """What is given by the first that gives it; the keys of `continual` likewise.

    A value that stands for others goes before these in later configs: a size, or a model file,
    before single sizes; d_model before a dt_rank; batch_size before batch_tokens.
    """
    values: dict[str, Any] = {}
    for config in configs:
        hidden = _hidden_by(values)
        new = {key: value for key, value in _given(config).items() if key not in hidden}
        if "continual" in new and "continual" in values:
            both = _given(new["continual"]) | _given(values["continual"])
            values["continual"] = Continual(**both)
        values = new | values
    return TrainConfig(**values)


def _filled(config: TrainConfig, *defaults: TrainConfig) -> TrainConfig:
    """`config`, with the first default where it says nothing."""
    values: dict[str, Any] = {}
    for layer in (config, *defaults):
        values = _given(layer) | values
    return TrainConfig(**values)


def _given(config: TrainConfig | Continual) -> dict[str, Any]:
    return {key: v for key, v in msgspec.structs.asdict(config).items() if v is not None}


def _hidden_by(values: Mapping[str, Any]) -> set[str]:
    hidden: set[str] = set()
    if "size" in values:
        hidden.update(SIZES)
    if values.get("model", "new") != "new":
        hidden.update(SIZES, ["size"])
    if "d_model" in values:
        hidden.add("dt_rank")
    if "batch_size" in values:
        hidden.add("batch_tokens")
    return hidden


# --- sources --------------------------------------------------------------------------------------


def from_mapping(values: Mapping[str, Any], flags: bool = False) -> TrainConfig:
    """The settings in a mapping of our keys; None: not given. Paths may be Path objects.

    Args:
        flags: of a command: messages name them, and an empty tuple is one not given.

    Raises:
        UsageError: an unknown key, or a value that does not fit.
    """
    plain: dict[str, Any] = {}
    for key, value in values.items():
        if not flags or value != ():
            plain[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
    names = {key: "--" + key.replace("_", "-") for key in plain} if flags else {}
    return convert(TrainConfig, plain, names=names)


def environment() -> TrainConfig:
    """What the environment says; an empty variable says nothing.

    Raises:
        UsageError: a variable with a value that does not fit.
    """
    values: dict[str, Any] = {}
    for name, key in ENVIRONMENT.items():
        text = os.environ.get(name)
        values[key] = int(text) if text and re.fullmatch("[0-9]{1,18}", text) else text or None
    return convert(TrainConfig, values, names={key: name for name, key in ENVIRONMENT.items()})


def read_config(path: str | os.PathLike[str]) -> tuple[TrainConfig, list[str]]:
    """The settings in a TOML file with our keys, or in a YAML file with calm-train's.

    Returns:
        The settings, and a line for each key that has no effect here.

    Raises:
        FileError: the file cannot be read, or is not TOML or YAML.
        UsageError: an unknown key, or a value that does not fit.
    """
    from calmgrad.formats.files import display, read_file  # loads NumPy

    name, suffix = display(path), Path(path).suffix.lower()
    if suffix not in (".toml", ".yaml", ".yml"):
        raise UsageError(f"{name}: expected a .toml, .yaml or .yml file")
    content = read_file(path, MAX_FILE)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{name}: line {line}: is not UTF-8 text") from error
    if suffix == ".toml":
        return convert(TrainConfig, _parse_toml(text, name), f"{name}: "), []
    from calmgrad.settings_yaml import read_sections  # loads PyYAML

    values, names, notes = read_sections(text, name)
    config = convert(TrainConfig, values, f"{name}: ", names)
    if any(getattr(config, key) is not None for key in SIZES):
        config = msgspec.structs.replace(config, model="new")
    return config, notes


def _check_depth(text: str, name: str) -> None:
    """Refuse long dotted keys, which take time and memory of the square of their length."""
    line, dots = 1, 0
    for match in _TOML_TOKENS.finditer(text):
        token = match[0]
        if token == ".":
            dots += 1
            if dots > MAX_DOTS:
                raise FileError(f"{name}: line {line}: is nested too deeply")
        elif "\n" in token:
            line += token.count("\n")
            dots = 0


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    _check_depth(text, name)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.fullmatch(r"(.+) \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        if match is None:
            raise FileError(f"{name}: {error}") from error
        line = match[2] or len(text.splitlines())
        raise FileError(f"{name}: line {line}: {match[1][0].lower()}{match[1][1:]}") from error
    except RecursionError:
        raise FileError(f"{name}: is nested too deeply") from None
    except ValueError as error:  # a number of 5000 digits
        raise FileError(f"{name}: a value that cannot be read: {error}") from error
    for key, value in values.items():
        if isinstance(value, dict) and key != "continual":
            raise UsageError(f"{name}: [{printable(key)}]: expected no table but [continual]")
    return values


# --- out ------------------------------------------------------------------------------------------


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The keys that are given, with their values, as in a TOML file."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return values


def to_toml(config: TrainConfig) -> str:
    """A TOML file of the keys that are given, from which `read_config` gives `config` back.

    Raises:
        UsageError: a text that is not Unicode, such as a file name of other bytes.
    """
    lines = []
    values = to_dict(config)
    table = values.pop("continual", None)
    lines = [f"{key} = {_toml(key, value)}" for key, value in values.items()]
    if table is not None:
        lines += ["", "[continual]"]
        lines += [f"{key} = {_toml(f'continual.{key}', v)}" for key, v in table.items()]
    return "".join(line + "\n" for line in lines)


def _toml(key: str, value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(key, item) for item in value)}]"
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise UsageError(
            f"{key}: {shown(value)} cannot stand in a TOML file: expected Unicode text"
        )
    # JSON's escapes are TOML's, which has DEL besides.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

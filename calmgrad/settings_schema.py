"""The keys of a training run's settings, and how their values are checked.

docs/configuration.md says what each key means.
"""

import difflib
import reprlib
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, field

from calmgrad.config import LIMITS
from calmgrad.errors import UsageError

_INT, _FLOAT = 2**63 - 1, sys.float_info.max
Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1, le=_INT)]
CountOrZero = Annotated[int, Meta(ge=0, le=_INT)]
Positive = Annotated[float, Meta(gt=0, le=_FLOAT)]
NotNegative = Annotated[float, Meta(ge=0, le=_FLOAT)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]


def _limits(size: str) -> Meta:
    low, high = LIMITS[size]
    return Meta(ge=low, le=high)


class Continual(
    msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """EWC while training: the Fisher diagonal and the anchor follow the data (FORMATS §7)."""

    method: Literal["online_ewc"] | None = None
    strength: NotNegative | None = field(default=None, name="lambda")
    decay: Fraction | None = None
    fisher_update_interval_steps: Count | None = None
    fisher_batches: Count | None = None
    buffer_batches: Count | None = None


class TrainConfig(
    msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Settings of a training run; None: not given (docs/configuration.md says what each means)."""

    # The model: "new", or a file to go on from; None: the user model.
    model: Text | None = None
    size: Literal["nano", "micro", "mini", "small"] | None = None
    d_model: Annotated[int, _limits("d_model")] | None = None
    n_layers: Annotated[int, _limits("n_layers")] | None = None
    ffn_expand: Annotated[int, _limits("ffn_expand")] | None = None
    expand: Annotated[int, _limits("expand")] | None = None
    d_state: Annotated[int, _limits("d_state")] | None = None
    d_conv: Annotated[int, _limits("d_conv")] | None = None
    dt_rank: Annotated[int, _limits("dt_rank")] | None = None
    l_max: Annotated[int, _limits("l_max")] | None = None
    domain: str | None = None
    template: str | None = None
    stop_conditions: str | None = None
    # Files.
    dataset: Text | None = None
    val_dataset: Text | None = None
    output: Text | None = None
    save_dir: Text | None = None
    force: bool | None = None
    resume: Text | None = None
    checkpoint_every: Count | None = None
    export: Literal["best", "last"] | None = None
    # The updates.
    epochs: Count | None = None
    batch_size: Count | None = None
    batch_tokens: Count | None = None
    accumulation: Count | None = None
    max_steps: Count | None = None
    lr: NotNegative | None = None
    warmup_steps: CountOrZero | None = None
    min_lr: NotNegative | None = None
    optimizer: Literal["adam", "sgd"] | None = None
    beta1: Fraction | None = None
    beta2: Fraction | None = None
    eps: Positive | None = None
    weight_decay: NotNegative | None = None
    grad_clip: NotNegative | None = None
    ewc_lambda: NotNegative | None = None
    rules: Literal["c-engine", "calm-mamba"] | None = None
    shuffle: bool | None = None
    seed: CountOrZero | None = None
    # The machine.
    threads: Count | None = None
    device: Annotated[str, Meta(pattern="^(auto|cpu|cuda(:[0-9]{1,3})?)$")] | None = None
    matmul_precision: Literal["float32", "tf32", "bf16"] | None = None
    shard_tokens: Count | None = None
    # Watching it.
    eval_every: Count | None = None
    patience: CountOrZero | None = None
    log_every: Count | None = None
    debug_nan: bool | None = None
    report_to: list[Literal["tensorboard"]] | None = None
    continual: Continual | None = None


SIZES = ("d_model", "n_layers", "ffn_expand", "expand", "d_state", "d_conv", "dt_rank", "l_max")

# calm-train's keys -> ours.
YAML_KEYS = {
    **{f"model.{key}": key for key in ("d_model", "n_layers", "l_max", "ffn_expand")},
    **{f"model.mamba_{key}": key for key in ("expand", "d_state", "d_conv")},
    **{f"training.{key}": key for key in ("epochs", "batch_size", "warmup_steps", "min_lr")},
    **{f"training.{key}": key for key in ("patience", "weight_decay", "shuffle")},
    "training.learning_rate": "lr",
    "training.clip_grad_norm": "grad_clip",
    "training.gradient_accumulation_steps": "accumulation",
    "training.log_interval_steps": "log_every",
}

S = TypeVar("S", TrainConfig, Continual)


def convert(
    kind: type[S],
    values: Mapping[Any, Any],
    prefix: str = "",
    names: Mapping[str, str] | None = None,
    table: str = "",
) -> S:
    """A struct from `values`, each checked.

    Args:
        prefix: of messages: the file.
        names: what messages call a key, where it is not its own name.
        table: what stands before the keys: "continual.".
    """
    fields = {info.encode_name: info for info in msgspec.structs.fields(kind)}
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise UsageError(prefix + unknown_key(f"{table}{key}", [table + k for k in fields]))
        if value is None:
            continue
        info = fields[key]
        where = prefix + (names or {}).get(key, table + key)
        if key == "continual":
            if isinstance(value, Continual):
                value = msgspec.to_builtins(value)
            if not isinstance(value, dict):
                raise UsageError(f"{where}: expected a table of keys, got {shown(value)}")
            converted[key] = convert(Continual, value, prefix, table="continual.")
            continue
        try:
            converted[info.name] = msgspec.convert(value, info.type)
        except msgspec.ValidationError as error:
            expected = _expected(msgspec.inspect.type_info(info.type), value)
            raise UsageError(f"{where}: expected {expected}, got {shown(value)}") from error
    return kind(**converted)


def _expected(kind: msgspec.inspect.Type, value: object) -> str:
    """What a field of this type takes, said so that it shows what is wrong with `value`."""
    match kind:
        case msgspec.inspect.UnionType(types=(inner, *_)):
            return _expected(inner, value)
        case msgspec.inspect.LiteralType(values=choices):
            return " or ".join(str(choice) for choice in choices)
        case msgspec.inspect.ListType(item_type=item):
            return f"list of {_expected(item, None)}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.StrType(pattern=str()):
            return "auto or cpu or cuda or cuda:1"
        case msgspec.inspect.StrType():
            return "text" if value != "" else "a name"
        case msgspec.inspect.IntType() if not isinstance(value, int) or isinstance(value, bool):
            return "whole number"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            if isinstance(value, bool) or not isinstance(value, int | float):
                return "number"
            if kind.ge is not None and value < kind.ge:
                return f"at least {kind.ge:g}"
            if kind.gt is not None and value <= kind.gt:
                return f"above {kind.gt:g}"
            if kind.lt is not None and value >= kind.lt:
                return f"below {kind.lt:g}"
            return "finite number" if isinstance(value, float) else f"at most {kind.le}"
    raise AssertionError(kind)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """`key` is not one of `known`: which may be meant."""
    known = list(known)
    leaf = key.rpartition(".")[2]
    leaves = {name.rpartition(".")[2]: name for name in known}
    near = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, 1, 0.7)]
    for theirs, ours in YAML_KEYS.items():  # what the other kind of file calls it
        if leaf in (theirs.partition(".")[2], ours):
            near = [other for other in (ours, theirs) if other in known] or near
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{printable(key)}: unknown key{hint}"


def printable(key: object) -> str:
    """A key as it stands in a message: short, and on one line."""
    text = str(key)
    return text if text.isprintable() and 0 < len(text) < 60 else reprlib.repr(text)


def shown(value: object) -> str:
    """A value as it stands in a message: short, and on one line."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print a whole number of more than 4300 digits
        return "a very large number"

"""Settings: sources on top of each other, two kinds of files, messages that name the key."""

import math
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calmgrad.config import PRESETS, RULES
from calmgrad.cutting import SHARD_TOKENS
from calmgrad.errors import CalmgradError, FileError, UsageError
from calmgrad.settings import (
    DEFAULTS,
    ENVIRONMENT,
    Continual,
    TrainConfig,
    data_folder,
    defaults_for,
    environment,
    from_mapping,
    merge,
    read_config,
    resolve,
    to_dict,
    to_toml,
)
from calmgrad.settings_schema import SIZES, YAML_KEYS

DOCS = Path(__file__).parents[1] / "docs" / "configuration.md"
Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the current folder, so that messages show its bare name."""
    monkeypatch.chdir(tmp_path)

    def written(name: str, content: str | bytes) -> Path:
        data = content if isinstance(content, bytes) else content.encode()
        Path(name).write_bytes(data)
        return Path(name)

    return written


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


# --- any configuration ----------------------------------------------------------------------------


def values_of(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Values that a field of this type takes."""
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([values_of(t) for t in types])
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.LiteralType(values=choices):
            return st.sampled_from(choices)
        case msgspec.inspect.ListType(item_type=item):
            return st.lists(values_of(item), max_size=3)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern, fullmatch=True).filter(lambda x: "\n" not in x)
        case msgspec.inspect.StrType(min_length=shortest):
            return st.text(min_size=shortest or 0)
        case msgspec.inspect.IntType(ge=low, le=high):
            return st.integers(low, high)
        case msgspec.inspect.FloatType(ge=ge, gt=gt, lt=lt, le=le):
            least, most = (gt if ge is None else ge), (lt if le is None else le)
            return st.floats(least, most, exclude_min=gt is not None, exclude_max=lt is not None)
        case msgspec.inspect.StructType():
            return structs(Continual)
    raise AssertionError(kind)


def structs(kind: type[Any]) -> st.SearchStrategy[Any]:
    fields = msgspec.structs.fields(kind)
    values = {f.name: values_of(msgspec.inspect.type_info(f.type)) for f in fields}
    return st.builds(kind, **values)


configs: st.SearchStrategy[TrainConfig] = structs(TrainConfig)


@given(configs)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_toml_gives_the_same_config_back(tmp_path: Path, config: TrainConfig) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(to_toml(config).encode())
    assert read_config(path) == (config, [])


@given(configs)
@settings(deadline=None)
def test_mapping_gives_the_same_config_back(config: TrainConfig) -> None:
    assert from_mapping(to_dict(config)) == config
    assert None not in to_dict(config).values()


@given(configs, configs)
@settings(deadline=None)
def test_merge_takes_the_first_value_given(first: TrainConfig, second: TrainConfig) -> None:
    merged = merge(first, second)
    for key in TrainConfig.__struct_fields__:
        a, b, value = (getattr(c, key) for c in (first, second, merged))
        if key == "continual" and a is not None and b is not None:
            for inner in Continual.__struct_fields__:
                x, y, z = (getattr(c, inner) for c in (a, b, value))
                assert z == (y if x is None else x)
        elif a is not None:
            assert value == a
        else:
            assert value in (b, None)
    assert merge(first, TrainConfig()) == merge(TrainConfig(), first) == first


@given(configs, st.booleans())
@settings(deadline=None)
def test_resolving_twice_changes_nothing(config: TrainConfig, new_model: bool) -> None:
    config = msgspec.structs.replace(config, continual=None)
    once = resolve(config, new_model=new_model)
    assert resolve(once, new_model=new_model) == once
    for key, value in to_dict(config).items():
        assert to_dict(once)[key] == value


# --- precedence -----------------------------------------------------------------------------------


def test_flags_before_environment_before_file_before_defaults(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALMGRAD_NUM_THREADS", "2")
    monkeypatch.setenv("CALMGRAD_DEVICE", "cpu")
    file, _ = read_config(write("run.toml", 'threads = 3\ndevice = "auto"\nlr = 0.5\nseed = 9\n'))
    flags = from_mapping({"threads": 1, "seed": 8, "epochs": None}, flags=True)
    resolved = resolve(flags, environment(), file, new_model=False)
    assert (resolved.threads, resolved.device) == (1, "cpu")
    assert (resolved.seed, resolved.lr, resolved.epochs) == (8, 0.5, 3)


@pytest.mark.parametrize(
    ("first", "later", "left"),
    [
        ({"size": "mini"}, {"size": "nano", "d_model": 8, "l_max": 9}, {"size": "mini"}),
        ({"model": "a"}, {"model": "new", "size": "nano", "d_model": 8}, {"model": "a"}),
        ({"model": "new"}, {"d_model": 8}, {"model": "new", "d_model": 8}),
        ({"d_model": 64}, {"d_model": 8, "dt_rank": 1}, {"d_model": 64}),
        ({"batch_size": 4}, {"batch_tokens": 8}, {"batch_size": 4}),
        ({"batch_tokens": 8}, {"batch_size": 4}, {"batch_tokens": 8, "batch_size": 4}),
        ({"lr": 1.0}, {"size": "nano", "d_model": 8}, {"lr": 1.0, "size": "nano", "d_model": 8}),
    ],
)  # fmt: skip
def test_what_stands_for_others_goes_before_them(
    first: dict[str, Any], later: dict[str, Any], left: dict[str, Any]
) -> None:
    assert merge(from_mapping(first), from_mapping(later)) == from_mapping(left)


def test_parts_of_continual_come_from_different_places() -> None:
    merged = merge(
        TrainConfig(continual=Continual(decay=0.5)),
        TrainConfig(continual=Continual(decay=0.9, strength=3.0)),
    )
    assert merged.continual == Continual(decay=0.5, strength=3.0)


# --- defaults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "batch_size", "lr", "warmup_steps", "d_model"),
    [
        (None, 32, 1e-3, 100, 64),
        ("nano", 32, 1e-3, 100, 64),
        ("micro", 16, 5e-4, 200, 96),
        ("mini", 16, 3e-4, 200, 128),
        ("small", 8, 3e-4, 200, 192),
    ],
)
def test_a_new_model_takes_its_presets_values(
    size: Any, batch_size: int, lr: float, warmup_steps: int, d_model: int
) -> None:
    c = resolve(TrainConfig(size=size), new_model=True)
    assert (c.epochs, c.batch_size, c.lr, c.warmup_steps) == (10, batch_size, lr, warmup_steps)
    assert (c.model, c.size, c.d_model, c.domain) == ("new", size or "nano", d_model, "shell")
    assert (c.d_state, c.d_conv, c.dt_rank, c.l_max) == (16, 4, d_model // 16, 768)


def test_an_existing_model_is_fine_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    c = resolve(new_model=False)
    assert (c.epochs, c.batch_size, c.lr, c.warmup_steps) == (3, 8, 5e-5, 0)
    assert c.model == "/data/lilush/calm/user.cwgt"
    assert c.dataset == "/data/lilush/calm/train.ctds"
    assert (c.domain, c.size, c.patience) == (None, None, None)
    assert [getattr(c, key) for key in SIZES] == [None] * len(SIZES)


def test_the_rest_is_as_documented() -> None:
    c = resolve(new_model=False)
    assert (c.optimizer, c.beta1, c.beta2, c.eps) == ("adam", 0.9, 0.999, 1e-8)
    assert (c.weight_decay, c.grad_clip, c.ewc_lambda, c.min_lr) == (0.01, 1.0, 0.0, 1e-6)
    assert (c.shuffle, c.seed, c.rules, c.device) == (True, 0, "c-engine", "auto")
    assert (c.accumulation, c.report_to, c.force) == (1, [], False)
    assert c.shard_tokens == SHARD_TOKENS
    assert (c.threads, c.max_steps, c.eval_every, c.log_every) == (None, None, None, None)


def test_patience_needs_something_to_evaluate_on() -> None:
    assert resolve(new_model=True).patience is None
    assert resolve(TrainConfig(val_dataset="v.ctds"), new_model=True).patience == 5
    assert resolve(TrainConfig(val_dataset="v.ctds"), new_model=False).patience is None
    assert resolve(TrainConfig(val_dataset="v", patience=0), new_model=True).patience == 0
    assert resolve(TrainConfig(patience=2), new_model=False).patience == 2


def test_single_sizes_over_a_preset() -> None:
    c = resolve(TrainConfig(size="mini", d_model=40), new_model=True)
    assert (c.size, c.d_model, c.dt_rank, c.n_layers, c.expand, c.lr) == ("mini", 40, 3, 6, 3, 3e-4)
    alone = resolve(TrainConfig(d_model=40), new_model=True)
    assert (alone.size, alone.d_model, alone.expand) == (None, 40, 2)
    assert defaults_for(TrainConfig(d_model=40), new_model=True).d_model == 40


def test_choices_are_those_of_the_code() -> None:
    fields = {f.name: get_args(f.type)[0] for f in msgspec.structs.fields(TrainConfig)}
    assert get_args(fields["size"]) == tuple(PRESETS)
    assert get_args(fields["rules"]) == tuple(RULES)


def test_resolve_checks_what_was_built_by_hand() -> None:
    with pytest.raises(UsageError, match=r"^lr: expected at least 0, got -1\.0$"):
        resolve(TrainConfig(lr=-1.0), new_model=True)
    too_many = Continual(fisher_batches=5, buffer_batches=4)
    with pytest.raises(UsageError, match=r"^continual\.fisher_batches: expected at most buffer"):
        resolve(TrainConfig(continual=too_many), new_model=True)


# --- calm-train's YAML ----------------------------------------------------------------------------

PRESET_FILE = """\
# a comment
training: {{epochs: 10, batch_size: {batch}, learning_rate: {lr}, warmup_steps: {warmup},
           clip_grad_norm: 1.0, patience: 5}}
model:
    mamba_d_conv: 4
    mamba_d_state: 16
    mamba_expand: {expand}
    ffn_expand: {ffn}
    l_max: 768
    n_layers: {layers}
    d_model: {d}
"""


@pytest.mark.parametrize("lr_form", ["{:f}", "{:.0e}", "{:.1e}"])
@pytest.mark.parametrize(
    ("size", "d", "layers", "ffn", "expand", "batch", "lr", "warmup"),
    [
        ("nano", 64, 3, 2, 2, 32, 1e-3, 100),
        ("micro", 96, 5, 3, 2, 16, 5e-4, 200),
        ("mini", 128, 6, 4, 3, 16, 3e-4, 200),
        ("small", 192, 8, 4, 4, 8, 3e-4, 200),
    ],
)
def test_a_presets_yaml_is_that_preset(
    size: Any, d: int, layers: int, ffn: int, expand: int, batch: int, lr: float, warmup: int,
    lr_form: str, write: Write,
) -> None:  # fmt: skip
    text = PRESET_FILE.format(
        d=d, layers=layers, ffn=ffn, expand=expand, batch=batch, warmup=warmup,
        lr=lr_form.format(lr),
    )  # fmt: skip
    config, notes = read_config(write("calm.yaml", text))
    assert notes == []
    validated = TrainConfig(val_dataset="v.ctds")
    by_file = resolve(config, validated, new_model=True)
    by_name = resolve(TrainConfig(size=size), validated, new_model=True)
    assert to_dict(by_file) | {"size": size} == to_dict(by_name)


def test_every_key_of_yaml(write: Write) -> None:
    text = """
model: {d_model: 48, n_layers: 2, l_max: 99, ffn_expand: 3, mamba_expand: 4, mamba_d_state: 5,
        mamba_d_conv: 6}
training:
  epochs: 7
  batch_size: 8
  learning_rate: 1e-3
  warmup_steps: 9
  min_lr: 0
  clip_grad_norm: 2
  patience: null
  weight_decay: 1.5E+1
  gradient_accumulation_steps: 10
  log_interval_steps: 11
  shuffle: no
  amp: true
  gradient_checkpointing: on
continual: {method: online_ewc, lambda: .5e2, decay: 0.99, fisher_update_interval_steps: 1000,
            fisher_batches: 16, buffer_batches: 1024}
"""
    config, notes = read_config(write("run.YML", text))
    assert config == TrainConfig(
        model="new", d_model=48, n_layers=2, l_max=99, ffn_expand=3, expand=4, d_state=5, d_conv=6,
        epochs=7, batch_size=8, lr=1e-3, warmup_steps=9, min_lr=0.0, grad_clip=2.0,
        weight_decay=15.0, accumulation=10, log_every=11, shuffle=False,
        continual=Continual(
            method="online_ewc", strength=50.0, decay=0.99, fisher_update_interval_steps=1000,
            fisher_batches=16, buffer_batches=1024,
        ),
    )  # fmt: skip
    assert notes == [
        "training.amp: has no effect on the CPU",
        "training.gradient_checkpointing: has no effect on the CPU",
    ]


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.e-3", "1.0e-3", ".1e-2", "+1e-3", "0.001"])
def test_numbers_with_an_exponent(number: str, write: Write) -> None:
    config, _ = read_config(write("run.yaml", f"training: {{learning_rate: {number}}}"))
    assert config.lr == 1e-3
    assert config.model is None  # no sizes: any model


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n", "model:\ntraining:\ncontinual:\n",
                                  "training: {amp: false}\n"])  # fmt: skip
def test_yaml_that_says_nothing(text: str, write: Write) -> None:
    assert read_config(write("run.yaml", text)) == (TrainConfig(), [])


def test_a_byte_order_mark_and_line_ends_of_windows(write: Write) -> None:
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}"
    for name, text in (("a.toml", "epochs = 2\r\n"), ("a.yaml", "training:\r\n  epochs: 2\r\n")):
        assert read_config(write(name, mark + text))[0] == TrainConfig(epochs=2)
    assert read_config(write("empty.toml", ""))[0] == TrainConfig()


# --- what is refused ------------------------------------------------------------------------------

LARGE = 1 << 16
REFUSED: list[tuple[str, str, type[CalmgradError], str]] = [
    ("a.yaml", "training:\n  epochs: ten", UsageError,
     "a.yaml: training.epochs: expected whole number, got 'ten'"),
    ("a.yaml", "training: {epochs: 2.0}", UsageError,
     "a.yaml: training.epochs: expected whole number, got 2.0"),
    ("a.yaml", "training: {epochs: yes}", UsageError,
     "a.yaml: training.epochs: expected whole number, got True"),
    ("a.yaml", "training: {epochs: 0}", UsageError,
     "a.yaml: training.epochs: expected at least 1, got 0"),
    ("a.yaml", "training: {learning_rate: fast}", UsageError,
     "a.yaml: training.learning_rate: expected number, got 'fast'"),
    ("a.yaml", "training: {learning_rate: .inf}", UsageError,
     "a.yaml: training.learning_rate: expected finite number, got inf"),
    ("a.yaml", "training: {learning_rate: .nan}", UsageError,
     "a.yaml: training.learning_rate: expected finite number, got nan"),
    ("a.yaml", "training: {shuffle: 1}", UsageError,
     "a.yaml: training.shuffle: expected true or false, got 1"),
    ("a.yaml", "training: {patience: 2024-01-01}", UsageError,
     "a.yaml: training.patience: expected whole number, got datetime.date(2024, 1, 1)"),
    ("a.yaml", "model: {n_layers: 17}", UsageError,
     "a.yaml: model.n_layers: expected at most 16, got 17"),
    ("a.yaml", "training: {epoch: 3}", UsageError,
     "a.yaml: training.epoch: unknown key; did you mean training.epochs?"),
    ("a.yaml", "training: {lr: 3}", UsageError,
     "a.yaml: training.lr: unknown key; did you mean training.learning_rate?"),
    ("a.yaml", "training: {d_model: 3}", UsageError,
     "a.yaml: training.d_model: unknown key; did you mean model.d_model?"),
    ("a.yaml", "epochs: 3", UsageError,
     "a.yaml: epochs: unknown key; did you mean training.epochs?"),
    ("a.yaml", "1: 3", UsageError, "a.yaml: 1: unknown key"),
    ("a.yaml", "trainings: {}", UsageError,
     "a.yaml: trainings: unknown key; did you mean training?"),
    ("a.yaml", "training: [1, 2]", UsageError,
     "a.yaml: training: expected keys with values, got [1, 2]"),
    ("a.yaml", "- training\n- model", UsageError,
     "a.yaml: expected keys with values, got ['training', 'model']"),
    ("a.yaml", "epochs", UsageError, "a.yaml: expected keys with values, got 'epochs'"),
    ("a.yaml", "continual: {lamda: 3}", UsageError,
     "a.yaml: continual.lamda: unknown key; did you mean continual.lambda?"),
    ("a.yaml", "continual: {method: replay}", UsageError,
     "a.yaml: continual.method: expected online_ewc, got 'replay'"),
    ("a.yaml", "continual: {decay: 1}", UsageError,
     "a.yaml: continual.decay: expected below 1, got 1"),
    ("a.yaml", "continual: 3", UsageError,
     "a.yaml: continual: expected keys with values, got 3"),
    ("a.yaml", "training:\n  epochs: 1\n  lr: 2\n  epochs: 3", FileError,
     "a.yaml: line 4: key 'epochs' is given twice"),
    ("a.yaml", "model: {}\nmodel: {}", FileError, "a.yaml: line 2: key 'model' is given twice"),
    ("a.yaml", "training:\n  epochs: &a 1", FileError,
     "a.yaml: line 2: anchors (&) and aliases (*) are not supported"),
    ("a.yaml", "training:\n  epochs: *a", FileError,
     "a.yaml: line 2: anchors (&) and aliases (*) are not supported"),
    ("a.yaml", "training:\n  <<: {epochs: 1}", FileError,
     "a.yaml: line 2: expected a name before the colon"),
    ("a.yaml", "? [training]\n: 3", FileError, "a.yaml: line 1: expected a name before the colon"),
    ("a.yaml", "training: !!python/object:os.system {}", FileError,
     "a.yaml: line 1: tags (!) are not supported"),
    ("a.yaml", "model: {}\n---\nmodel: {}", FileError,
     "a.yaml: line 2: expected a single document in the stream, but found another document"),
    ("a.yaml", "model: {}\ntraining: {epochs: 1\n", FileError,
     "a.yaml: line 3: while parsing a flow mapping, expected ',' or '}', but got '<stream end>'"),
    ("a.yaml", "model: {}\n\ttraining: 3\n", FileError,
     "a.yaml: line 2: while scanning for the next token,"
     " found character '\\t' that cannot start any token"),
    ("a.yaml", "model: {}\n# \a\n", FileError,
     "a.yaml: line 2: special characters are not allowed"),
    ("a.yaml", "[" * 1500, FileError, "a.yaml: line 1: is nested too deeply"),
    ("a.yaml", "[" + "a," * 3000 + "]", FileError,
     "a.yaml: line 1: more than 2000 keys and values"),
    ("a.yaml", "model: {d_model: 2024-99-99}", FileError,
     "a.yaml: a value that cannot be read: month must be in 1..12"),
    ("a.yaml", "#" * (LARGE + 1), FileError, "a.yaml: 65537 bytes: expected at most 65536"),
    ("a.toml", 'epochs = "ten"', UsageError, "a.toml: epochs: expected whole number, got 'ten'"),
    ("a.toml", "seed = -1", UsageError, "a.toml: seed: expected at least 0, got -1"),
    ("a.toml", "seed = 9223372036854775808", UsageError,
     "a.toml: seed: expected at most 9223372036854775807, got 9223372036854775808"),
    ("a.toml", "seed = 0x" + "f" * 9000, UsageError,
     "a.toml: seed: expected at most 9223372036854775807, got a very large number"),
    ("a.toml", "lr = 0x" + "f" * 9000, UsageError,
     "a.toml: lr: expected at most 1.7976931348623157e+308, got a very large number"),
    ("a.toml", "eps = 0", UsageError, "a.toml: eps: expected above 0, got 0"),
    ("a.toml", "beta1 = 1.5", UsageError, "a.toml: beta1: expected below 1, got 1.5"),
    ("a.toml", "beta1 = true", UsageError, "a.toml: beta1: expected number, got True"),
    ("a.toml", 'optimizer = "adamw"', UsageError,
     "a.toml: optimizer: expected adam or sgd, got 'adamw'"),
    ("a.toml", 'report_to = "tensorboard"', UsageError,
     "a.toml: report_to: expected list of tensorboard, got 'tensorboard'"),
    ("a.toml", 'report_to = ["wandb"]', UsageError,
     "a.toml: report_to: expected list of tensorboard, got ['wandb']"),
    ("a.toml", "dataset = 3", UsageError, "a.toml: dataset: expected text, got 3"),
    ("a.toml", 'dataset = ""', UsageError, "a.toml: dataset: expected a name, got ''"),
    ("a.toml", "continual = 3", UsageError, "a.toml: continual: expected a table of keys, got 3"),
    ("a.toml", "[continual]\nstrength = 3", UsageError, "a.toml: continual.strength: unknown key"),
    ("a.toml", "[continual]\nlambda = -1", UsageError,
     "a.toml: continual.lambda: expected at least 0, got -1"),
    ("a.toml", "batchsize = 3", UsageError,
     "a.toml: batchsize: unknown key; did you mean batch_size?"),
    ("a.toml", "learning_rate = 3", UsageError,
     "a.toml: learning_rate: unknown key; did you mean lr?"),
    ("a.toml", "[training]\nepochs = 3", UsageError,
     "a.toml: [training]: expected no table but [continual]"),
    ("a.toml", '"a\\nb" = 3', UsageError, "a.toml: 'a\\nb': unknown key"),
    ("a.toml", "zzz" * 100 + " = 3", UsageError,
     "a.toml: 'zzzzzzzzzzzz...zzzzzzzzzzzzz': unknown key"),
    ("a.toml", "epochs = 1\nepochs = 2", FileError, "a.toml: line 2: cannot overwrite a value"),
    ("a.toml", "epochs = 1\nlr 2", FileError,
     "a.toml: line 2: expected '=' after a key in a key/value pair"),
    ("a.toml", "epochs = 1\nlr = ", FileError, "a.toml: line 2: invalid value"),
    ("a.toml", "a = " + "[" * 5000, FileError, "a.toml: is nested too deeply"),
    ("a.json", "{}", UsageError, "a.json: expected a .toml, .yaml or .yml file"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "kind", "message"), REFUSED, ids=[message[:70] for *_, message in REFUSED]
)
def test_refused_with_this_message(
    name: str, text: str, kind: type[CalmgradError], message: str, write: Write
) -> None:
    with pytest.raises(kind) as caught:
        read_config(write(name, text))
    assert str(caught.value) == message
    assert type(caught.value) is kind


@pytest.mark.parametrize("name", ["a.toml", "a.yaml"])
def test_files_that_cannot_be_read(name: str, write: Write, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=f"^{name}: no such file$"):
        read_config(name)
    with pytest.raises(FileError, match=f"^{name}: line 2: is not UTF-8 text$"):
        read_config(write(name, b"# one\n# \xff\n"))
    folder = tmp_path / f"folder-{name}"
    folder.mkdir()
    with pytest.raises(FileError, match="is a directory"):
        read_config(folder)


def test_a_bomb_of_aliases_is_refused_at_once(write: Write) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi")]  # noqa: B905
    with pytest.raises(FileError, match="anchors"):
        read_config(write("bomb.yaml", "\n".join(lines)))


@given(st.one_of(st.binary(max_size=200), st.text().map(str.encode),
                 st.text(alphabet="abe1.-+:_ \n#[]{},&*!|>'\"=~0xofny?%@").map(str.encode)),
       st.sampled_from(["a.toml", "a.yaml"]))  # fmt: skip
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=500
)
def test_any_file_is_read_or_refused_in_one_line(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    message = f"{path}: read"
    try:
        read_config(path)
    except (UsageError, FileError) as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


# --- other sources --------------------------------------------------------------------------------


def test_flags_are_called_by_their_names() -> None:
    values = {"batch_size": 0, "report_to": ()}
    with pytest.raises(UsageError, match=r"^--batch-size: expected at least 1, got 0$"):
        from_mapping(values, flags=True)
    assert from_mapping({"report_to": (), "epochs": None}, flags=True) == TrainConfig()
    assert from_mapping({"report_to": ("tensorboard",)}).report_to == ["tensorboard"]


def test_a_mapping_from_python() -> None:
    given = {"dataset": Path("a") / "b", "continual": Continual(strength=2.0)}
    assert to_dict(from_mapping(given)) == {"dataset": "a/b", "continual": {"lambda": 2.0}}
    with pytest.raises(UsageError, match=r"^epoch: unknown key; did you mean epochs\?$"):
        from_mapping({"epoch": 3})
    with pytest.raises(UsageError, match=r"^lr: expected finite number, got nan$"):
        from_mapping({"lr": math.nan})


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment() == TrainConfig()
    monkeypatch.setenv("CALMGRAD_NUM_THREADS", "")
    assert environment() == TrainConfig()
    monkeypatch.setenv("CALMGRAD_NUM_THREADS", "3")
    monkeypatch.setenv("CALMGRAD_DEVICE", "cpu")
    assert environment() == TrainConfig(threads=3, device="cpu")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CALMGRAD_NUM_THREADS", "many", "expected whole number, got 'many'"),
        ("CALMGRAD_NUM_THREADS", "2.0", "expected whole number, got '2.0'"),
        ("CALMGRAD_NUM_THREADS", "0", "expected at least 1, got 0"),
        ("CALMGRAD_NUM_THREADS", "-1", "expected whole number, got '-1'"),
        ("CALMGRAD_DEVICE", "tpu", "expected auto or cpu or cuda or cuda:1, got 'tpu'"),
    ],
)
def test_a_bad_variable_is_named(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        environment()
    assert str(caught.value) == f"{name}: {message}"


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert data_folder() == Path("/data/lilush/calm")
    monkeypatch.setenv("XDG_DATA_HOME", "")
    assert data_folder() == Path.home() / ".local/share/lilush/calm"


# --- out ------------------------------------------------------------------------------------------


def test_toml_as_written() -> None:
    config = TrainConfig(
        dataset='a "b" \\ \n\t\x00\x7fé\N{LINE SEPARATOR}', lr=5e-5, epochs=3, shuffle=False,
        report_to=["tensorboard"], continual=Continual(strength=1e300),
    )  # fmt: skip
    assert to_toml(config) == (
        'dataset = "a \\"b\\" \\\\ \\n\\t\\u0000\\u007fé\N{LINE SEPARATOR}"\n'
        "epochs = 3\nlr = 5e-05\nshuffle = false\n"
        'report_to = ["tensorboard"]\n\n[continual]\nlambda = 1e+300\n'
    )
    assert to_toml(TrainConfig()) == ""
    assert tomllib.loads(to_toml(config)) == to_dict(config)


def test_a_name_that_toml_cannot_hold() -> None:
    with pytest.raises(UsageError, match=r"^dataset: '\\udcff' cannot stand in a TOML file"):
        to_toml(TrainConfig(dataset="\udcff"))


def test_importing_settings_loads_nothing_heavy() -> None:
    code = (
        "import sys, calmgrad.settings as s; s.resolve(s.environment(), new_model=True)\n"
        "print([m for m in ('numpy', 'numba', 'yaml') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# --- the page -------------------------------------------------------------------------------------


def rows_of_the_page() -> dict[str, list[str]]:
    """Key -> flag, YAML key, default, meaning."""
    table = DOCS.read_text(encoding="utf-8").partition("## Keys")[2].partition("## Env")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_page_lists_every_key() -> None:
    keys = [f.encode_name for f in msgspec.structs.fields(TrainConfig)]
    keys.remove("continual")
    keys += [f"continual.{f.encode_name}" for f in msgspec.structs.fields(Continual)]
    rows = rows_of_the_page()
    assert list(rows) == keys
    yaml_keys = {ours: theirs for theirs, ours in YAML_KEYS.items()}
    for key, (flag, yaml_key, default, _) in rows.items():
        if key.startswith("continual."):
            assert (flag, yaml_key) == ("", f"`{key}`")
            continue
        assert f"`--{key.replace('_', '-')}`" in flag
        assert yaml_key.strip("`") == yaml_keys.get(key, "")
        if getattr(DEFAULTS, key) is not None:
            assert tomllib.loads(f"x = {default.strip('`')}")["x"] == getattr(DEFAULTS, key)


def test_the_page_lists_the_environment() -> None:
    text = DOCS.read_text(encoding="utf-8").partition("## Environment")[2]
    for name, key in ENVIRONMENT.items():
        assert f"| `{name}` | `{key}` |" in text


def test_the_pages_examples_are_read(write: Write) -> None:
    text = DOCS.read_text(encoding="utf-8")
    for kind in ("toml", "yaml"):
        example = text.partition(f"```{kind}\n")[2].partition("```")[0]
        config, notes = read_config(write(f"a.{kind}", example))
        assert config.epochs == 20
        assert notes == []
        assert resolve(config, new_model=True).model == "new"

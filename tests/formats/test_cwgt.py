"""CWGT files as FORMATS §2 describes them; every other file is refused in one line."""

import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calmgrad.config import PRESETS, ModelConfig
from calmgrad.errors import CalmgradError, FileError
from calmgrad.formats import cwgt
from calmgrad.formats.cwgt import Metadata, SamplerDefaults, Weights
from calmgrad.layout import layout

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = ModelConfig(d_model=2, n_layers=1, ffn_expand=1, expand=1, d_state=1, d_conv=1, l_max=9)
DT_RANK = 38  # byte of the header
LINES = b"shell\nBOS;CMD:input\n| ;\n"


def model(config: ModelConfig = SMALL, ewc: bool = False, seed: int = 0) -> Weights:
    """A model with any bits at all as weights."""
    rng = np.random.default_rng(seed)
    buffers = rng.integers(0, 1 << 32, (3, config.param_count), np.uint32).view(np.float32)
    fisher, anchor = (buffers[0], buffers[1]) if ewc else (None, None)
    sampler = SamplerDefaults(temperature=0.8, top_k=5, num_candidates=3)
    metadata = Metadata(*LINES.decode().splitlines())
    return Weights(config, buffers[2], fisher, anchor, metadata, sampler)


def file_bytes(weights: Weights) -> bytes:
    return b"".join(cwgt.to_bytes(weights))


def patched(data: bytes, offset: int, code: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<" + code, changed, offset, value)
    return bytes(changed)


def with_metadata(blob: bytes) -> bytes:
    data = file_bytes(model())
    return patched(data[:48], 34, "I", len(blob)) + blob + data[48 + len(LINES) :]


def load(path: Path, data: bytes) -> Weights:
    path.unlink(missing_ok=True)  # some file systems flush a file that is overwritten
    path.write_bytes(data)
    return cwgt.read(path)


def refuse(path: Path, data: bytes, *words: str) -> None:
    with pytest.raises(FileError) as caught:
        load(path, data)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    for word in words:
        assert word in message


def attempt(path: Path, data: bytes) -> Weights | str:
    """What reading gives, or the one kind of error it may raise."""
    try:
        return load(path, data)
    except CalmgradError as error:
        return str(error)


# What is accepted


@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_golden_files(name: str, tmp_path: Path) -> None:
    data = (GOLDEN / f"{name}.cwgt").read_bytes()
    dump = np.load(GOLDEN / f"{name}.npz")
    weights = cwgt.read(GOLDEN / f"{name}.cwgt")
    assert weights.metadata.domain == "shell"
    assert weights.metadata.template == "BOS;CWD:cwd;ATN;CMD:input"
    assert weights.metadata.stop_conditions == "| ; && ||"
    assert weights.sampler == SamplerDefaults(0.8, 5, max_tokens=20, num_candidates=3)
    assert weights.weights.tobytes() == data[48 + 42 :]
    assert [e.name for e in layout(weights.config)] == dump["param_names"].tolist()
    # The dump's weights are five small steps away.
    assert np.abs(weights.weights - dump["adamw_params_after_5"]).max() < 0.01
    cwgt.write(tmp_path / "again", weights)
    assert (tmp_path / "again").read_bytes() == data
    weights.check_finite(name)


def test_the_header_byte_by_byte() -> None:
    config = ModelConfig(16, 2, 3, 4, 5, 6, 7, 260)
    sampler = SamplerDefaults(0.8, 258, 0.95, 0.05, 1024, 9)
    weights = Weights(config, np.zeros(config.param_count, np.float32), sampler=sampler)
    expected = struct.pack(
        *("<4s4H4BHI5H2BIB", b"CWGT", 5, 1, 320, 16, 2, 3, 4, 5, 260, config.param_count),
        *(800, 258, 950, 50, 1024, 9, 6, 0, 7),
    )
    header = cwgt.to_bytes(weights)[0]
    assert header == expected + bytes(9)
    assert len(header) == 48


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_documented_number_of_weights(name: str) -> None:
    documented = {"nano": 168064, "micro": 649152, "mini": 1876736, "small": 6445440}
    assert PRESETS[name].model.param_count == documented[name]


sizes = st.integers(1, 5)
configs = st.builds(
    ModelConfig, sizes, sizes, sizes, sizes, sizes, sizes, st.integers(0, 5), st.integers(1, 65535)
)
lines = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20)
thousandths = st.integers(0, 65535).map(lambda stored: stored / 1000 or None)
words = st.integers(0, 65535).map(lambda stored: stored or None)
samplers = st.builds(
    *(SamplerDefaults, thousandths, words, thousandths, thousandths, words),
    st.integers(1, 255),
)


@settings(max_examples=60, deadline=None)
@given(configs, st.builds(Metadata, lines, lines, lines), samplers, st.booleans(), st.integers(0))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    config: ModelConfig,
    metadata: Metadata,
    sampler: SamplerDefaults,
    ewc: bool,
    seed: int,
) -> None:
    written = model(config, ewc, seed)
    written.metadata, written.sampler = metadata, sampler
    path = tmp_path_factory.getbasetemp() / "property.cwgt"
    cwgt.write(path, written)
    again = cwgt.read(path)
    assert (again.config, again.metadata, again.sampler) == (config, metadata, sampler)
    assert list(again.buffers()) == (["fisher", "anchor"] if ewc else []) + ["weights"]
    for name, flat in written.buffers().items():
        assert again.buffers()[name].tobytes() == flat.tobytes()
        assert again.buffers()[name].dtype == np.float32
        assert again.buffers()[name].flags.writeable
    assert file_bytes(again) == path.read_bytes()


def test_every_stored_thousandth_comes_back() -> None:
    for stored in range(65536):
        sampler = SamplerDefaults(temperature=stored / 1000)
        assert sampler.stored()["temperature"] == stored


def test_dt_rank_0_is_written_resolved(tmp_path: Path) -> None:
    data = file_bytes(model())
    assert data[DT_RANK] == 1
    weights = load(tmp_path / "m", patched(data, DT_RANK, "B", 0))
    assert weights.config == SMALL
    assert file_bytes(weights) == data


def test_prose_metadata_of_calm_mamba_is_kept(tmp_path: Path) -> None:
    """Its stop pattern of two newlines makes five lines of three."""
    data = with_metadata(b"prose\nBOS;ATN\n\n\n\n")
    weights = load(tmp_path / "m", data)
    assert weights.metadata == Metadata("prose", "BOS;ATN", "\n\n")
    assert file_bytes(weights) == data


def test_big_metadata_is_read(tmp_path: Path) -> None:
    blob = b"x" * 4093 + b"\n\n\n"
    assert file_bytes(load(tmp_path / "m", with_metadata(blob))) == with_metadata(blob)


def test_noncontiguous_buffers_are_written(tmp_path: Path) -> None:
    weights = model()
    expected = file_bytes(weights)
    weights.weights = np.repeat(weights.weights, 2)[::2]
    assert not weights.weights.flags.c_contiguous
    assert file_bytes(weights) == expected


# What is refused

BAD_FIELDS = [
    *[("magic", 0, "I", value, "b'CWGT'") for value in (0, 1, 0xFFFFFFFF)],
    *[("arch", 4, "H", value, "expected 5") for value in (0, 1, 2, 4, 6, 0x0500, 65535)],
    *[("flags", 6, "H", value, "tied") for value in (0, 2, 4, 5, 7, 0x0100, 0xFFFF)],
    *[("vocab", 8, "H", value, "expected 320") for value in (0, 1, 319, 321, 65535)],
    *[("d_model", 10, "H", value, "expected 1 to 4080") for value in (0, 4081, 65535)],
    *[("n_layers", 12, "B", value, "expected 1 to 16") for value in (0, 17, 255)],
    ("ffn_expand", 13, "B", 0, "expected 1 to 255"),
    ("expand", 14, "B", 0, "expected 1 to 255"),
    ("d_state", 15, "B", 0, "expected 1 to 255"),
    ("l_max", 16, "H", 0, "expected 1 to 65535"),
    *[("param_count", 18, "I", v, f"expected {SMALL.param_count}") for v in (0, 1, 0xFFFFFFFF)],
    ("d_conv", 33, "B", 0, "expected 1 to 255"),
    *[("meta_size", 34, "I", value, "expected at most 4096") for value in (4097, 0xFFFFFFFF)],
    *[("reserved", 39 + i, "B", 1, "expected zeros") for i in range(9)],
]
BAD_SIZES = [  # the field is legal by itself, but then the number of weights is not
    *[("d_model", 10, "H", value) for value in (1, 4080)],
    *[("n_layers", 12, "B", value) for value in (2, 16)],
    *[("ffn_expand", 13, "B", 255), ("expand", 14, "B", 255), ("d_state", 15, "B", 255)],
    *[("d_conv", 33, "B", 255), ("dt_rank", DT_RANK, "B", 255)],
]


@pytest.mark.parametrize(("field", "offset", "code", "value", "expected"), BAD_FIELDS)
def test_bad_field(
    tmp_path: Path, field: str, offset: int, code: str, value: int, expected: str
) -> None:
    data = patched(file_bytes(model()), offset, code, value)
    where = f"{field} (byte {39 if field == 'reserved' else offset}) is "
    refuse(tmp_path / "m", data, where, expected)


@pytest.mark.parametrize(("field", "offset", "code", "value"), BAD_SIZES)
def test_sizes_that_ask_for_another_number_of_weights(
    tmp_path: Path, field: str, offset: int, code: str, value: int
) -> None:
    data = patched(file_bytes(model()), offset, code, value)
    refuse(tmp_path / "m", data, f"param_count (byte 18) is {SMALL.param_count}: expected")


@pytest.mark.parametrize("value", [1, 65535])
@pytest.mark.parametrize("offset", [16, 22, 24, 26, 28, 30])
def test_fields_that_may_hold_anything(tmp_path: Path, offset: int, value: int) -> None:
    data = patched(file_bytes(model()), offset, "H", value)
    assert file_bytes(load(tmp_path / "m", data)) == data


def test_truncated_anywhere(tmp_path: Path) -> None:
    data = file_bytes(model())
    for size in range(len(data)):
        words = ("expected a CWGT header of 48",) if size < 48 else ("truncated", f"{len(data)} by")
        refuse(tmp_path / "m", data[:size], f"{size} bytes", *words)


def test_trailing_bytes(tmp_path: Path) -> None:
    for extra in (b"\0", bytes(4), file_bytes(model())):
        refuse(tmp_path / "m", file_bytes(model()) + extra, "bytes after the last weight")


def test_ewc_flag_without_its_data_and_the_reverse(tmp_path: Path) -> None:
    plain, ewc = file_bytes(model()), file_bytes(model(ewc=True))
    refuse(tmp_path / "m", patched(plain, 6, "H", 3), "truncated")
    refuse(tmp_path / "m", patched(ewc, 6, "H", 1), "bytes after the last weight")


@pytest.mark.parametrize(
    "blob",
    [b"\n", b"a\n\n", b"a\nb\nc", b"a\nb\nc\nd\n", b"a\n\n\nb\n\n", b"\n\n\n", b"a\nb\n\nc\n"],
)
def test_metadata_that_is_not_three_lines(tmp_path: Path, blob: bytes) -> None:
    refuse(tmp_path / "m", with_metadata(blob), "metadata (byte 48)", "expected three lines")


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80"])
def test_metadata_that_is_not_utf8(tmp_path: Path, bad: bytes) -> None:
    refuse(tmp_path / "m", with_metadata(b"ab\nc" + bad + b"\n\n"), "metadata (byte 52)", "UTF-8")


def test_sizes_are_held_against_the_file_before_memory_is_taken(tmp_path: Path) -> None:
    big = ModelConfig(1024, 16, 8, 4)  # 1.4 GB of weights in 48 bytes
    assert big.param_count > 300_000_000
    header = struct.pack(
        *("<4s4H4BHI5H2BIB9x", b"CWGT", 5, 3, 320, 1024, 16, 8, 4, 16, 768, big.param_count),
        *(0, 0, 0, 0, 0, 0, 4, 0, 64),
    )
    tracemalloc.start()
    refuse(tmp_path / "m", header, "truncated: 48 bytes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_mutations(tmp_path: Path) -> None:
    """Whatever a file turns into: refused in one line, or saved again as it was."""
    rng = random.Random(0)
    seeds = [file_bytes(model()), file_bytes(model(ewc=True)), with_metadata(b"")]
    path = tmp_path / "m"
    accepted = 0
    for _ in range(3000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([1, 1, 2, 3])):
            at = rng.randrange(rng.choice([48, 80, len(data)])) % max(len(data), 1)
            match rng.randrange(5):
                case 0 | 1:
                    data[at : at + 1] = rng.choice([b"\0", b"\1", b"\xff", rng.randbytes(1)])
                case 2:
                    data[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), rng.randbytes(4)])
                case 3:
                    del data[at : at + rng.choice([1, 4, 1000])]
                case 4:
                    data[at:at] = rng.randbytes(rng.choice([1, 4]))
        outcome = attempt(path, bytes(data))
        if isinstance(outcome, Weights):
            accepted += 1
            data[DT_RANK] = data[DT_RANK] or outcome.config.dt_rank
            assert file_bytes(outcome) == data
        else:
            assert outcome.startswith(f"{path}: ")
            assert outcome.isprintable()
    assert accepted > 100  # else the mutations show nothing about what passes


# Values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("buffer", ["fisher", "anchor", "weights"])
def test_not_finite_is_read_but_told(tmp_path: Path, buffer: str, value: float) -> None:
    written = model(ewc=True)
    for flat in written.buffers().values():
        flat[:] = 0
    entry = next(e for e in layout(SMALL) if e.name == "blocks.0.mixer.in_proj.weight")
    flat = written.buffers()[buffer]
    flat[entry.start + 5] = flat[-1] = value  # row 1, column 1 of (2, 4)
    path = tmp_path / "m"
    weights = load(path, file_bytes(written))
    with pytest.raises(FileError) as caught:
        weights.check_finite(path)
    last = weights.buffers()[buffer]
    last[:-1] = 0
    with pytest.raises(FileError, match=rf"ln_f.bias\[1\] is {value}"):
        weights.check_finite(path)
    assert str(caught.value) == (
        f"{path}: blocks.0.mixer.in_proj.weight[1, 1] is {value} ({buffer}, value"
        f" {entry.start + 5}): expected finite numbers"
    )


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
@pytest.mark.parametrize("value", [-0.1, 65.5355, np.nan, np.inf, 0.0004, "0.8"])
def test_sampler_numbers_that_do_not_fit(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} = .*: expected 0 or 0.001 to 65.535"):
        SamplerDefaults(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 65536), ("max_tokens", -1), ("num_candidates", 256), ("top_k", 2.5)],
)
def test_sampler_counts_that_do_not_fit(name: str, value: float) -> None:
    largest = 255 if name == "num_candidates" else 65535
    message = rf"{name} = {value}: expected a whole number from 0 to {largest}"
    with pytest.raises(ValueError, match=message):
        SamplerDefaults(**{name: value})  # type: ignore[arg-type]


def test_sampler_rounds_to_the_nearest_thousandth() -> None:
    stored = SamplerDefaults(0.0005, 1, 0.9994, 0.9996, 0, None).stored()
    assert list(stored.values()) == [1, 1, 999, 1000, 0, 0]


@pytest.mark.parametrize("line", ["domain", "template", "stop_conditions"])
def test_metadata_that_the_file_cannot_hold(line: str) -> None:
    with pytest.raises(ValueError, match=rf"{line} 'a\\nb': expected one line"):
        Metadata(**{line: "a\nb"})
    assert len(Metadata(**{line: "é" * 2046}).to_bytes()) == 4095
    with pytest.raises(ValueError, match="4097 bytes together, expected at most 4096"):
        Metadata(**{line: "é" * 2047})


def test_buffers_that_do_not_fit(tmp_path: Path) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"weights": np.zeros(SMALL.param_count)}, "weights: float64"),
        ({"weights": np.zeros(3, np.float32)}, r"weights: float32 \(3,\)"),
        ({"fisher": np.zeros(SMALL.param_count, np.float32)}, "both or neither"),
        ({"config": ModelConfig(vocab=300)}, "vocab = 300"),
    ]
    for change, message in changes:
        weights = model()
        for name, value in change.items():
            setattr(weights, name, value)
        with pytest.raises(ValueError, match=message):
            cwgt.write(tmp_path / "m", weights)
        assert not (tmp_path / "m").exists()

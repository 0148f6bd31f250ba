"""CWGT v5: the weights of a model, with metadata and EWC data (FORMATS §2).

A file that is read is exactly its header, metadata and float32 buffers; everything else is
refused, so loading and saving gives the same bytes. One exception: a `dt_rank` of 0 in the
header is written as the rank it stands for.
"""

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calmgrad.config import LIMITS, VOCAB, ModelConfig
from calmgrad.errors import FileError
from calmgrad.formats.files import AnyPath, Chunk, Source, display, open_source, write_atomic
from calmgrad.layout import layout

MAGIC = b"CWGT"
ARCH = 5
TIED, EWC = 1, 2  # flag bits
META_LIMIT = 4096  # bytes


class Header(NamedTuple):
    """The header, field by field, as stored."""

    magic: bytes
    arch: int
    flags: int
    vocab: int
    d_model: int
    n_layers: int
    ffn_expand: int
    expand: int
    d_state: int
    l_max: int
    param_count: int
    temperature: int
    top_k: int
    top_p: int
    min_p: int
    max_tokens: int
    num_candidates: int
    d_conv: int
    meta_size: int
    dt_rank: int
    reserved: bytes


_CODES = "4s H H H H B B B B H I H H H H H B B I B 9s".split()
_STRUCT = struct.Struct("<" + "".join(_CODES))
# Field name -> byte where it begins.
OFFSETS = {n: struct.calcsize("<" + "".join(_CODES[:i])) for i, n in enumerate(Header._fields)}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a model is for: three lines of text, at most 4096 bytes of UTF-8 together.

    A newline is refused, but for stop conditions that are nothing else: calm-mamba's prose
    models hold such a pattern, and it is kept as it stands.

    Raises:
        ValueError: a line that the file cannot hold.
    """

    domain: str = ""
    template: str = ""
    stop_conditions: str = ""

    def __post_init__(self) -> None:
        for line in ("domain", "template", "stop_conditions"):
            text = getattr(self, line)
            if "\n" in text and (line != "stop_conditions" or text.strip("\n")):
                raise ValueError(f"{line} {text!r}: expected one line")
        if (size := len(self.to_bytes())) > META_LIMIT:
            names = "domain, template and stop_conditions"
            raise ValueError(f"{names}: {size} bytes together, expected at most {META_LIMIT}")

    def to_bytes(self) -> bytes:
        """The lines as stored; nothing when all three are empty."""
        text = f"{self.domain}\n{self.template}\n{self.stop_conditions}\n"
        return text.encode() if text != "\n\n\n" else b""


_SAMPLER_FIELDS = ("temperature", "top_k", "top_p", "min_p", "max_tokens", "num_candidates")
_THOUSANDTHS = ("temperature", "top_p", "min_p")


@dataclass(frozen=True, slots=True)
class SamplerDefaults:
    """How the model wants to be sampled; None or 0 = not set.

    `temperature`, `top_p` and `min_p` are stored in thousandths, rounded to the nearest.

    Raises:
        ValueError: a value that its header field cannot hold.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    num_candidates: int | None = None

    def __post_init__(self) -> None:
        self.stored()

    def stored(self) -> dict[str, int]:
        """Header field -> number in it, 0 where nothing is set."""
        return {name: _stored(name, getattr(self, name) or 0) for name in _SAMPLER_FIELDS}


def _stored(name: str, value: Any) -> int:
    real = name in _THOUSANDTHS
    kind: type[Any] = Real if real else Integral
    largest = 255 if name == "num_candidates" else 65535
    if isinstance(value, kind):
        scaled = value * 1000 + 0.5 if real else value
        # What rounds to 0 would read as not set; NaN fails too.
        if value == 0 or 1 <= scaled < largest + 1:
            return int(scaled)
    limits = "0 or 0.001 to 65.535" if real else f"a whole number from 0 to {largest}"
    raise ValueError(f"{name} = {value!r}: expected {limits}")


@dataclass(slots=True, eq=False)
class Weights:
    """What a CWGT file holds.

    Attributes:
        config: the sizes.
        weights: (param_count,) float32 in the order of `layout`.
        fisher, anchor: EWC data of the same shape and order; both or neither.
        metadata, sampler: what the model is for and how to sample it.
    """

    config: ModelConfig
    weights: NDArray[np.float32]
    fisher: NDArray[np.float32] | None = None
    anchor: NDArray[np.float32] | None = None
    metadata: Metadata = field(default_factory=Metadata)
    sampler: SamplerDefaults = field(default_factory=SamplerDefaults)

    def buffers(self) -> dict[str, NDArray[np.float32]]:
        """Name -> flat buffer, in the order of the file; EWC data only where there is some."""
        present = {"fisher": self.fisher, "anchor": self.anchor, "weights": self.weights}
        return {name: flat for name, flat in present.items() if flat is not None}

    def check_finite(self, path: AnyPath) -> None:
        """Refuse weights and EWC data that cannot be trained or run.

        Raises:
            FileError: naming the first parameter that is NaN or infinite, and where in it.
        """
        for buffer, flat in self.buffers().items():
            finite = np.isfinite(flat)
            if not finite.all():
                at = int(np.argmin(finite))
                entry = next(e for e in layout(self.config) if at < e.stop)
                index = [int(i) for i in np.unravel_index(at - entry.start, entry.shape)]
                raise FileError(
                    f"{display(path)}: {entry.name}{index} is {flat[at]} ({buffer}, value {at}):"
                    " expected finite numbers"
                )


def read(path: AnyPath) -> Weights:
    """Read a model and hold it against every rule of FORMATS §2; NaN and Inf pass.

    Raises:
        FileError: the file breaks a rule; the message names field, offset and expectation.
        OutOfMemoryError: the weights do not fit.
    """
    with open_source(path) as source:
        header = _read_header(source)
        config = _config(source, header)
        _check_size(source, header, config)
        metadata = _metadata(source, header.meta_size)
        sampler = _sampler(header)
        fisher = anchor = None
        if header.flags & EWC:
            fisher = source.read_array("f4", config.param_count)
            anchor = source.read_array("f4", config.param_count)
        weights = source.read_array("f4", config.param_count)
    return Weights(config, weights, fisher, anchor, metadata, sampler)


def _wrong(source: Source, header: Header, name: str, expected: object) -> FileError:
    value = getattr(header, name)
    return source.error(f"{name} (byte {OFFSETS[name]}) is {value!r}: expected {expected}")


def _read_header(source: Source) -> Header:
    if source.size < _STRUCT.size:
        raise source.error(f"{source.size} bytes: expected a CWGT header of {_STRUCT.size}")
    header = Header(*_STRUCT.unpack(source.read(_STRUCT.size)))
    if header.magic != MAGIC:
        raise _wrong(source, header, "magic", MAGIC)
    if header.arch != ARCH:
        raise _wrong(source, header, "arch", ARCH)
    if header.flags not in (TIED, TIED | EWC):
        raise _wrong(source, header, "flags", f"{TIED} (tied) or {TIED | EWC} (tied, EWC data)")
    if header.vocab != VOCAB:
        raise _wrong(source, header, "vocab", VOCAB)
    if header.meta_size > META_LIMIT:
        raise _wrong(source, header, "meta_size", f"at most {META_LIMIT}")
    if any(header.reserved):
        raise _wrong(source, header, "reserved", "zeros")
    return header


def _config(source: Source, header: Header) -> ModelConfig:
    sizes = {name: getattr(header, name) for name in LIMITS}
    for name, (low, high) in LIMITS.items():
        if not low <= sizes[name] <= high and (name, sizes[name]) != ("dt_rank", 0):
            raise _wrong(source, header, name, f"{low} to {high}")
    config = ModelConfig(**sizes)
    if header.param_count != config.param_count:
        raise _wrong(source, header, "param_count", f"{config.param_count} by the sizes")
    return config


def _check_size(source: Source, header: Header, config: ModelConfig) -> None:
    buffers = 3 if header.flags & EWC else 1
    end = _STRUCT.size + header.meta_size + 4 * config.param_count * buffers
    if source.size != end:
        state = "truncated" if source.size < end else "bytes after the last weight"
        raise source.error(f"{state}: {source.size} bytes, expected {end} by its header")


def _metadata(source: Source, size: int) -> Metadata:
    if size == 0:
        return Metadata()
    blob = source.read(size)
    try:
        text = blob.decode()
    except UnicodeDecodeError as error:
        byte = _STRUCT.size + error.start
        raise source.error(f"metadata (byte {byte}): {error.reason}: expected UTF-8") from error
    domain, _, rest = text.partition("\n")
    template, _, stop_conditions = rest.partition("\n")
    with suppress(ValueError):
        metadata = Metadata(domain, template, stop_conditions.removesuffix("\n"))
        if metadata.to_bytes() == blob:
            return metadata
    expected = "three lines, not all empty, each with a newline"
    raise source.error(f"metadata (byte {_STRUCT.size}): expected {expected}")


def _sampler(header: Header) -> SamplerDefaults:
    values: dict[str, Any] = {name: getattr(header, name) or None for name in _SAMPLER_FIELDS}
    for name in _THOUSANDTHS:
        if values[name]:
            values[name] /= 1000
    return SamplerDefaults(**values)


def to_bytes(model: Weights) -> list[Chunk]:
    """The file as chunks: header, metadata, then Fisher and anchor if any, then weights.

    The chunks of the buffers are views where the machine is little-endian.

    Raises:
        ValueError: a buffer that is not (param_count,) float32, EWC data incomplete, or a
            vocabulary other than CALM's.
    """
    config, buffers = model.config, model.buffers()
    if config.vocab != VOCAB:
        raise ValueError(f"vocab = {config.vocab}: CWGT holds models of {VOCAB} tokens")
    if (model.fisher is None) != (model.anchor is None):
        raise ValueError("fisher and anchor: expected both or neither")
    for name, flat in buffers.items():
        if flat.shape != (config.param_count,) or flat.dtype != np.float32:
            expected = f"float32 ({config.param_count},)"
            raise ValueError(f"{name}: {flat.dtype} {flat.shape}: expected {expected}")
    metadata = model.metadata.to_bytes()
    header = Header(
        magic=MAGIC,
        arch=ARCH,
        flags=TIED | (EWC if model.fisher is not None else 0),
        param_count=config.param_count,
        meta_size=len(metadata),
        reserved=bytes(9),
        **{name: getattr(config, name) for name in LIMITS},
        **model.sampler.stored(),
    )
    stored = [np.ascontiguousarray(flat, "<f4").view(np.uint8).data for flat in buffers.values()]
    return [_STRUCT.pack(*header), metadata, *stored]


def write(path: AnyPath, model: Weights) -> None:
    """Write a model all at once; ValueError as in `to_bytes`, DiskError as in `write_atomic`."""
    write_atomic(path, to_bytes(model))

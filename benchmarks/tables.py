"""The columns of each part's table, and the table as text or Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A heading, where its value lies in a row ("calm-mamba.ms_best"), and its format."""

    heading: str
    path: str
    form: str = ""

    def of(self, row: dict[str, Any]) -> str:
        value: Any = row
        for key in self.path.split("."):
            if not isinstance(value, dict) or key not in value:
                return "-"
            value = value[key]
        if self.form.endswith("x") and not isinstance(value, str):  # a ratio
            return f"{value:{self.form[:-1]}}x"
        return format(value, self.form) if not isinstance(value, str) else value


BATCH = [Column("size", "size"), Column("batch", "shape"), Column("threads", "threads")]
STEP = [
    Column("ms, best", "calmgrad.ms_best", ",.1f"),
    Column("median", "calmgrad.ms_median", ",.1f"),
    Column("tokens/s", "tokens_per_second", ",.0f"),
]
PEER = [
    Column("calm-mamba, ms", "calm-mamba.ms_best", ",.0f"),
    Column("faster", "ratio_best", ".1fx"),
    Column("by medians", "ratio_median", ".1fx"),
    Column("MB", "calmgrad.peak_mb", ",.0f"),
    Column("calm-mamba, MB", "calm-mamba.peak_mb", ",.0f"),
    Column("smaller", "ratio_memory", ".1fx"),
]
TABLES: dict[str, list[Column]] = {
    "train": [
        *BATCH,
        *STEP,
        Column("over floor", "over_floor", ".2f"),
        *PEER,
    ],
    "floor": [
        *BATCH,
        *STEP,
        Column("products, ms", "floor.ms_best", ",.1f"),
        Column("over floor", "over_floor", ".2f"),
    ],
    "ops": [
        Column("size", "size"),
        Column("op", "op"),
        Column("calls", "calls"),
        Column("forward, ms", "forward_ms", ".2f"),
        Column("backward, ms", "backward_ms", ".2f"),
        Column("share", "share", ".1%"),
        Column("rate", "rate", ".1f"),
        Column("", "unit"),
        Column("of the best", "of_ceiling", ".0%"),
    ],
    "scan": [
        Column("size", "size"),
        Column("exp + 2 FMA, ns", "least_ns", ".3f"),
        Column("forward, ns", "forward_ns", ".3f"),
        Column("over", "forward_over_least", ".1fx"),
        Column("backward, ns", "backward_ns", ".3f"),
        Column("over", "backward_over_least", ".1fx"),
        Column("share of the step", "share", ".0%"),
    ],
    "evaluate": [*BATCH, *STEP, *PEER],
    "embed": [*BATCH, *STEP, *PEER],
    "generate": [
        Column("size", "size"),
        Column("prompt + completion", "shape"),
        Column("tokens/s", "tokens_per_second", ",.0f"),
        Column("calm-mamba, tokens/s", "peer_tokens_per_second", ",.0f"),
        Column("faster", "ratio_best", ".1fx"),
        Column("by medians", "ratio_median", ".1fx"),
        Column("ms, p50", "p50_ms", ",.2f"),
        Column("p99", "p99_ms", ",.2f"),
        Column("same tokens", "same_tokens"),
    ],
    "alternatives": [
        *BATCH,
        Column("ms, best", "calmgrad.ms_best", ",.1f"),
        *[
            Column(heading, path, form)
            for name, title in (("stack", "list"), ("pscan", "pscan"), ("jax", "JAX"))
            for heading, path, form in (
                (f"{title}, ms", f"{name}.ms_best", ",.0f"),
                ("slower", f"faster_than.{name}", ".1fx"),
            )
        ],
        Column("JAX's first, s", "jax.first_call_s", ".0f"),
    ],
    "cold-start": [
        Column("until", "what"),
        Column("s, best", "calmgrad.s_best", ".2f"),
        Column("median", "calmgrad.s_median", ".2f"),
        Column("calm-mamba, s", "calm-mamba.s_best", ".2f"),
        Column("faster", "ratio_best", ".1fx"),
    ],
    "memory": [
        *BATCH,
        Column("shard tokens", "shard_tokens", ","),
        Column("before, MB", "before_mb", ",.0f"),
        Column("forecast", "forecast_mb", ",.0f"),
        Column("used", "used_mb", ",.0f"),
        Column("peak, MB", "peak_mb", ",.0f"),
        Column("forecast of the peak off by", "off", "+.0%"),
    ],
    "scaling": [
        Column("axis", "axis"),
        *BATCH,
        Column("ms, best", "ms_best", ",.1f"),
        Column("tokens/s", "tokens_per_second", ",.0f"),
        Column("calculated", "calculated", ",.0f"),
        Column("serial, ms", "serial_ms", ".2f"),
        Column("a shard, ms", "shard_ms", ".2f"),
        Column("adding, ms", "add_ms", ".3f"),
    ],
}


TABLES["threads"] = TABLES["scaling"][1:]


def text_table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """Right-aligned columns, two spaces between them."""
    cells = _cells(part, rows)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(lines)


def markdown_table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """A table for docs; words to the left, numbers to the right."""
    head, *body = _cells(part, rows)
    words = [all(not line[i][:1].isdigit() for line in body) for i in range(len(head))]
    rule = "|".join("---" if word else "---:" for word in words)
    lines = [" | ".join(line) for line in (head, *body)]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def _cells(part: str, rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    columns = TABLES[part]
    return [[c.heading for c in columns]] + [[c.of(row) for c in columns] for row in rows]

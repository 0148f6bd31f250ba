"""Writes the tables and charts of docs/performance.md from benchmarks/results/cpu.json.

    python -m benchmarks --peer PYTHON --jax PYTHON      # measures; about 20 minutes
    python -m benchmarks.page                            # then this

The text between `<!-- NAME -->` and `<!-- end -->` is replaced; nothing else is.
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.charts import bar_chart, line_chart
from benchmarks.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULT = ROOT / "benchmarks" / "results" / "cpu.json"
Rows = list[dict[str, Any]]


def main() -> None:
    for path, content in files(json.loads(RESULT.read_text(encoding="utf-8"))).items():
        path.write_text(content, encoding="utf-8")
        print(path.relative_to(ROOT))


def files(result: dict[str, Any]) -> dict[Path, str]:
    """The page and its charts, as they should be."""
    rows = {part: found["rows"] for part, found in result.items()}
    blocks = {part: markdown_table(part, found) for part, found in rows.items()}
    blocks["machine"] = machine(result)
    if "ops" in rows:
        blocks["ops"] = markdown_table("ops", [r for r in rows["ops"] if r["size"] == "nano"])
    written: dict[Path, str] = {}
    for name, chart in charts(rows).items():
        written[ROOT / "docs" / f"performance-{name}.svg"] = chart
    if "scaling" in rows:
        blocks["scaling"] = markdown_table("threads", threads_of(rows["scaling"]))
    page = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- ([a-z-]+) -->", page):
        if name != "end":
            page = filled(page, name, blocks.get(name, "Not measured."))
    return {PAGE: page, **written}


def filled(page: str, name: str, content: str) -> str:
    """The page with another content in one of its blocks."""
    begin, end = f"<!-- {name} -->\n", "<!-- end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}{content}\n{end}{after}"


def machine(result: dict[str, Any]) -> str:
    """What was measured on, and with what; told apart where parts differ."""
    lines = []
    for part, found in result.items():
        about, versions = found["machine"], found["versions"]
        told = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        lines.append(
            f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']:.0f} GB;"
            f" Python {about['python']}, {told}; commit {found['commit']}"
            f"{', a quick run' if found['quick'] else ''} | {part}"
        )
    grouped: dict[str, list[str]] = {}
    for line in lines:
        what, _, part = line.rpartition(" | ")
        grouped.setdefault(what, []).append(part)
    return "\n".join(f"* {', '.join(parts)}: {what}" for what, parts in grouped.items())


def threads_of(rows: Rows) -> Rows:
    """Rows of speed against threads."""
    return [row for row in rows if row["axis"] == "threads"]


def charts(rows: dict[str, Rows]) -> dict[str, str]:
    """Name -> SVG."""
    drawn: dict[str, str] = {}
    if "ops" in rows:
        shares: dict[str, dict[str, float]] = {}
        for row in rows["ops"]:
            shares.setdefault(row["size"], {})[row["op"]] = row["share"]
        order = list(next(iter(shares.values())))  # the same in all bars, to compare them
        same = {size: {op: own.get(op, 0.0) for op in order} for size, own in shares.items()}
        drawn["ops"] = bar_chart("Where a step's time goes", same)
    for axis, label in (("batch", "sequences of 256 tokens"), ("length", "tokens a sequence")):
        points: dict[str, list[tuple[float, float]]] = {}
        for row in rows.get("scaling", []):
            if row["axis"] == axis:
                count, length = map(int, row["shape"].split("x"))
                at = count if axis == "batch" else length
                points.setdefault(row["size"], []).append((at, row["tokens_per_second"]))
        for name, found in points.items():
            best = max(speed for _, speed in found)
            points[name] = [(at, 100 * speed / best) for at, speed in found]
        if points:
            title = f"Training speed against {axis}"
            drawn[axis] = line_chart(title, label, "% of the best", points)
    threads = threads_of(rows.get("scaling", []))
    if threads:
        drawn["threads"] = speed_up(threads)
    return drawn


def speed_up(rows: Rows) -> str:
    """Measured and calculated, both as multiples of one measured thread."""
    series: dict[str, list[tuple[float, float]]] = {}
    calculated = []
    for size in dict.fromkeys(row["size"] for row in rows):
        own = [row for row in rows if row["size"] == size]
        one = next((r["tokens_per_second"] for r in own if r["threads"] == 1), own[0]["calculated"])
        name = f"{size} calculated"
        calculated.append(name)
        series[name] = [(r["threads"], r["calculated"] / own[0]["calculated"]) for r in own]
        measured = [r for r in own if "tokens_per_second" in r]
        series[size] = [(r["threads"], r["tokens_per_second"] / one) for r in measured]
    return line_chart(
        "Training speed against threads", "threads (lines: calculated, dots: measured)",
        "times one thread", {k: v for k, v in series.items() if v}, calculated,
    )  # fmt: skip


if __name__ == "__main__":
    main()

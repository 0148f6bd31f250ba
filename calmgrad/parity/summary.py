"""The rows of a report gathered by op, for a table."""

from dataclasses import dataclass, field

from calmgrad.parity.compare import BACKWARD, Row, role_of
from calmgrad.parity.report import Report


@dataclass
class Line:
    """One op, all blocks together.

    Attributes:
        op: its name; of an op of blocks, without their number.
        forward, backward: the largest distance from what it should have made.
        run, ulps: the largest distance of its values from those of the other run.
        wrong: the blocks where it differs, or the op itself.
    """

    op: str
    forward: float | None = None
    backward: float | None = None
    run: float | None = None
    ulps: float | None = None
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether it is right in all blocks."""
        return not self.wrong

    def cells(self) -> list[str]:
        """As text."""
        where = "" if self.good else "yes"
        if self.wrong and self.wrong != [self.op]:
            where = f"blocks {', '.join(self.wrong)}"
        return [
            self.op, _shown(self.forward), _shown(self.backward), _shown(self.run),
            "-" if self.ulps is None else f"{self.ulps:.3g}", where,
        ]  # fmt: skip


def lines(report: Report) -> list[Line]:
    """A line for each op that was compared, in the order of execution."""
    found: dict[str, Line] = {}
    for row in report.rows:
        _add(found.setdefault(role_of(row.op), Line(role_of(row.op))), row)
    for finding in report.findings:
        line = found.setdefault(role_of(finding.op), Line(role_of(finding.op)))
        name = finding.op
        block = name.split(".")[1] if name.startswith("blocks.") else name
        if block not in line.wrong:
            line.wrong.append(block)
    for line in found.values():
        line.wrong.sort(key=lambda block: (len(block), block))
    return sorted(found.values(), key=lambda line: _place(line.op, report.order))


def _place(op: str, order: list[str]) -> int:
    return order.index(op) if op in order else -1  # inputs come first


def _add(line: Line, row: Row) -> None:
    if row.direction == BACKWARD:
        line.backward = max(line.backward or 0.0, row.local.relative)
    else:
        line.forward = max(line.forward or 0.0, row.local.relative)
        if row.run is not None and row.run.relative >= (line.run or 0.0):
            line.run, line.ulps = row.run.relative, row.run.ulps


def _shown(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"

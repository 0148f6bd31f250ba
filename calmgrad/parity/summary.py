"""The rows of a report gathered by op, for a table."""

from dataclasses import dataclass, field

from calmgrad.parity.finding import BACKWARD, Row, role_of
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
        where = self.where()
        return [
            self.op, _shown(self.forward), _shown(self.backward), _shown(self.run),
            "-" if self.ulps is None else f"{self.ulps:.3g}",
            f"blocks {where}" if where not in ("", "yes") else where,
        ]  # fmt: skip

    def few_cells(self) -> list[str]:
        """As text for a narrow screen: op, forward, backward, where it differs."""
        return [self.op, _shown(self.forward, 0), _shown(self.backward, 0), self.where()]

    def where(self) -> str:
        """The blocks where it differs, "0-2, 5"; "yes" of an op outside of them."""
        if self.good or self.wrong == [self.op]:
            return "" if self.good else "yes"
        numbers = sorted(int(block) for block in self.wrong)
        first = [n for n in numbers if n - 1 not in numbers]
        last = [n for n in numbers if n + 1 not in numbers]
        pairs = zip(first, last, strict=True)
        return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in pairs)


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


def _shown(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.{digits}e}"

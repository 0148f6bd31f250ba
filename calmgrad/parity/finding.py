"""What a comparison finds: a row for each thing compared, a finding for each step that is wrong."""

from dataclasses import dataclass

from calmgrad.parity.difference import Difference

FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was compared.

    Attributes:
        name: of the value, or of the value or parameter whose gradient it is.
        direction: "forward" or "backward".
        op: the step that made it.
        run: a value's distance from the other run; None without one.
        local: its distance from what the step should have made of what it read.
        allowed: the largest relative difference of `local` that is rounding.
    """

    name: str
    direction: str
    op: str
    run: Difference | None
    local: Difference
    allowed: float

    @property
    def good(self) -> bool:
        """Whether the step did what it should."""
        return self.local.relative <= self.allowed


@dataclass(frozen=True, slots=True)
class Finding:
    """A step that did something else.

    Attributes:
        op: its name; the likeliest, where others are candidates too.
        direction: "forward", "backward", "update", or "input" for tokens, weights, settings.
        name: the value or gradient by which it was noticed.
        difference: how far that is from what was expected.
        meaning: of the worst index.
        candidates: all steps that may be to blame, `op` among them.
        likely: what the step seems to do instead, if a known mistake gives its very numbers.
    """

    op: str
    direction: str
    name: str
    difference: Difference
    meaning: str
    candidates: tuple[str, ...]
    likely: str | None = None


def role_of(name: str) -> str:
    """A name without the block's number."""
    return ".".join(name.split(".")[2:]) if name.startswith("blocks.") else name

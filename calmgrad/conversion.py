"""A text file into CTDS files, with a summary of what was left out and why."""

import os
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calmgrad.errors import FileError
from calmgrad.formats.blocks import Block
from calmgrad.formats.ctds import MAX_U16
from calmgrad.formats.ctds_writer import Writer
from calmgrad.formats.dictionary import NO_DEFINITION
from calmgrad.formats.files import AnyPath, display
from calmgrad.formats.lines import Finding, open_text, read_lines
from calmgrad.formats.prose import PROSE, SHORTEST, read_prose
from calmgrad.formats.text import DICTIONARY, read_blocks


@dataclass
class Part:
    """What became of the blocks of one output file."""

    path: str
    sequences: int = 0
    tokens: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass
class Summary:
    """What became of a text.

    Attributes:
        format: "generic", "dictionary" or "prose".
        blocks: how many the text has.
        train, validation: the outputs; validation is None without a split.
        findings: kind -> how often.
    """

    format: str
    blocks: int
    train: Part
    validation: Part | None
    findings: Counter[str]


def convert_text(
    text: AnyPath,
    output: AnyPath,
    l_max: int = 768,
    val_split: float = 0.0,
    val_output: AnyPath | None = None,
    strict: bool = False,
    report: Callable[[Finding], None] = lambda finding: None,
    prose: bool = False,
) -> Summary:
    """Make CTDS files of a text in the generic or the dictionary format (FORMATS §6), or of prose.

    Args:
        text: a UTF-8 file; "-" is standard input.
        output: the CTDS file to write; with a split, the training part.
        l_max: largest number of tokens of a sequence; longer ones are left out.
        val_split: share of the blocks that goes into validation, chosen by their content.
        val_output: default `<stem of output>_val.ctds`.
        strict: the first finding is an error.
        report: called with each finding.
        prose: the text has no tags: each of its paragraphs becomes a sequence.

    Raises:
        ValueError: l_max or val_split is out of range, or both outputs are one file.
        FileError: the text cannot be read, nothing is left to write, or `strict`.
        DiskError: an output cannot be written; both are as they were before.
    """
    if not 1 <= l_max <= MAX_U16:
        raise ValueError(f"l_max is {l_max}: expected 1 to {MAX_U16}")
    if prose and l_max < SHORTEST:
        raise ValueError(f"l_max is {l_max}: expected {SHORTEST} or more for prose")
    if not 0 <= val_split <= 1:
        raise ValueError(f"val_split is {val_split}: expected 0 to 1")
    paths = _output_paths(text, output, val_split, val_output)
    name = "standard input" if text == "-" else display(text)
    findings: Counter[str] = Counter()

    def note(finding: Finding) -> None:
        if strict:
            raise FileError(f"{name}:{finding.line}: {finding.message}")
        findings[finding.kind] += 1
        report(finding)

    with open_text(text) as file, ExitStack() as stack:
        if prose:
            form, blocks = PROSE, read_prose(read_lines(file, note), l_max)
        else:
            form, blocks = read_blocks(file, l_max, note)
        grouped = form == DICTIONARY and val_split > 0
        outputs = [stack.enter_context(_Output(path, grouped)) for path in paths]
        count = 0
        for block in blocks:
            count += 1
            outputs[val_split > 0 and block.is_validation(val_split)].add(block)
        parts = [output.part for output in outputs]
        for part in parts:
            if not part.sequences and (strict or not any(p.sequences for p in parts)):
                where = "" if len(parts) == 1 else f" to {part.path}"
                raise FileError(f"{name}: nothing to write{where}: {_why_nothing(part)}")
        for finished in outputs:
            finished.finish()
    return Summary(form, count, parts[0], parts[1] if val_split else None, findings)


def _output_paths(
    text: AnyPath, output: AnyPath, val_split: float, val_output: AnyPath | None
) -> list[AnyPath]:
    """The training file and, with a split, the validation file; never one file for two things."""
    paths = [output]
    if val_split:
        path = Path(os.fsdecode(output))
        paths.append(path.with_name(f"{path.stem}_val.ctds") if val_output is None else val_output)
    elif val_output is not None:
        raise ValueError("val_output is given without val_split")
    taken = {os.path.realpath(os.fsdecode(text)): "the text"}
    for written in paths:
        real = os.path.realpath(os.fsdecode(written))
        if real in taken:
            raise ValueError(f"{display(written)} is {taken[real]} already: name another file")
        taken[real] = "the training data"
    return paths


def _why_nothing(part: Part) -> str:
    reasons = [f"{count} {reason}" for reason, count in part.left_out.items()]
    if not reasons:
        return "there are no blocks"
    return f"all blocks are left out ({', '.join(reasons)}; empty lines separate blocks)"


class _Output:
    """One CTDS file; `grouped` puts entries with the same digest together (FORMATS §6)."""

    def __init__(self, path: AnyPath, grouped: bool) -> None:
        self.part = Part(display(path))
        self.writer = Writer(path)
        self.grouped = grouped
        # Of every entry, also of one that is left out. Half a digest each: that two of 10 million
        # headwords share it is a chance of one in 400,000, and would only move an entry.
        self.groups = array("Q")
        self.kept = bytearray()

    def add(self, block: Block) -> None:
        """Take in a block of the text, or count why not."""
        if block.left_out:
            self.part.left_out[block.left_out] += 1
        else:
            self.writer.add(block.data, block.atn)
            self.part.sequences += 1
            self.part.tokens += len(block.tokens)
        if self.grouped and block.left_out != NO_DEFINITION:
            self.groups.append(int.from_bytes(block.digest[:8], "little"))
            self.kept.append(not block.left_out)

    def finish(self) -> None:
        """Write the file; without sequences there is none, and an older one stays."""
        if self.part.sequences:
            self.writer.finish(self._order() if self.grouped else None)

    def _order(self) -> NDArray[np.uint32]:
        """Numbers of the sequences, the groups in order of first appearance."""
        groups = np.frombuffer(self.groups, np.uint64)
        # A stable sort brings each group together with its first entry in front.
        together = np.argsort(groups, kind="stable").astype(np.uint32)
        begins = np.flatnonzero(np.diff(groups[together], prepend=~groups[together[:1]]))
        first = np.repeat(together[begins], np.diff(begins, append=len(together)))
        entries = together[np.argsort(first, kind="stable")]
        kept = np.frombuffer(self.kept, np.bool_)
        numbers = np.cumsum(kept, dtype=np.uint32) - np.uint32(1)  # of an entry's sequence
        return numbers[entries[kept[entries]]]

    def __enter__(self) -> Self:
        self.writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.writer.__exit__(*error)

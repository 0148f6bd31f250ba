"""Dictionary entries as token sequences (FORMATS §6)."""

from collections.abc import Iterable, Iterator

from calmgrad.formats.blocks import TAG, Block, Draft, as_bytes, new_digest, report_tags
from calmgrad.formats.lines import Finding, Line, Report, excerpt
from calmgrad.tokenizer import ATN, BOS, BY, DEF, END, EOS, IPA, NAMES, NOTE, POS, QUOTE, WORD

NO_DEFINITION = "no <DEF>"


def read_dictionary(lines: Iterable[Line], l_max: int, report: Report) -> Iterator[Block]:
    """The entries as they are read; arguments as in `read_blocks`."""
    entry: _Entry | None = None
    skipping = False  # inside a block that is no entry
    for line in lines:
        if not line.text and not line.cut:  # only an empty line ends an entry
            if entry:
                yield entry.block()
            entry, skipping = None, False
        elif entry:
            entry.add_line(line)
        elif skipping or not (line.text.strip() or line.cut):
            continue
        elif line.text.lstrip().startswith("<WORD>"):
            entry = _Entry(line, l_max, report)
        else:
            skipping = True
            message = f"a block without <WORD> in a dictionary is lost: {excerpt(line.text)}"
            report(Finding("mixed blocks", line.number, message))
    if entry:
        yield entry.block()


class _Entry(Draft):
    """BOS WORD head ATN [POS p] [NOTE n] [IPA i] END {DEF text END {QUOTE …}} EOS."""

    def __init__(self, line: Line, l_max: int, report: Report) -> None:
        super().__init__(line.number, l_max)
        self.report = report
        self.too_long_line = line.cut
        self.has_definition = False
        self.after_blanks = False
        values = self.head(line.text.lstrip())
        self.word = values["<WORD>"]
        self.add(f"{chr(BOS)}{chr(WORD)}{as_bytes(self.word)}{chr(ATN)}")
        for token in (POS, NOTE, IPA):
            if value := values.get(f"<{NAMES[token]}>"):
                self.add(chr(token) + as_bytes(value))
        self.add(chr(END))

    def head(self, line: str) -> dict[str, str]:
        """The values of the head line: each tag's first place counts, up to the next such tag."""
        places = [(line.find(tag), tag) for tag in ("<WORD>", "<ATN>", "<POS>", "<NOTE>", "<IPA>")]
        found = sorted(place for place in places if place[0] >= 0)
        ends = [*(start for start, _ in found[1:]), len(line)]
        values = {}
        for (start, tag), end in zip(found, ends, strict=True):
            values[tag] = line[start + len(tag) : end].strip()
            if tag != "<ATN>":
                report_tags(values[tag], self.line, self.report)
        if values.get("<ATN>"):
            message = f"text after <ATN> is lost: {excerpt(values['<ATN>'])}"
            self.report(Finding("text after a lone tag", self.line, message))
        return values

    def add_line(self, line: Line) -> None:
        text = line.text.strip()
        self.too_long_line = self.too_long_line or line.cut
        if not text:
            self.after_blanks = True
        elif text.startswith("<DEF>"):
            self.has_definition = True
            report_tags(text[5:], line.number, self.report)
            self.add(f"{chr(DEF)}{as_bytes(text[5:])}{chr(END)}")
        elif text.startswith("<QUOTE>") and self.has_definition:
            quote, _, author = text[7:].partition("<BY>")
            report_tags(quote + author, line.number, self.report)
            by = chr(BY) + as_bytes(author) if author else ""
            self.add(f"{chr(QUOTE)}{as_bytes(quote)}{by}{chr(END)}")
        else:
            self.lost(line.number, text)

    def lost(self, number: int, text: str) -> None:
        """Report a line that nothing is made of."""
        if text.startswith("<WORD>") and self.after_blanks:
            kind = "merged entries"
            message = "a line of blanks ends no entry: what follows joins the one of line"
            message = f"{message} {self.line}, and this head line is lost: {excerpt(text)}"
        elif text.startswith("<WORD>"):
            kind, message = "second head line", f"a second head line is lost: {excerpt(text)}"
        elif text.startswith("<QUOTE>"):
            kind, message = "early quote", f"a quote before any <DEF> is lost: {excerpt(text)}"
        elif match := TAG.match(text):
            kind = "unknown tag"
            message = f"{match[0]} means nothing here, the line is lost: {excerpt(text)}"
        else:
            kind = "continuation line"
            message = f"a line without a tag is lost: {excerpt(text)}"
        self.report(Finding(kind, number, message))

    def block(self) -> Block:
        key = new_digest()
        key.update(self.word.lower().encode("utf-8", "surrogateescape"))
        if not self.has_definition:
            return Block(self.line, "", 0, key.digest(), NO_DEFINITION)
        return self.finish("".join([*self.parts, chr(EOS)]), 4, key.digest())

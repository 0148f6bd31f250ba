"""calmgrad generate"""

import codecs
import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import json_option, load_finite, model_option, say, size_name, users_file
from calmgrad.errors import UsageError, usage_errors

if TYPE_CHECKING:
    from calmgrad.generation import Completion
    from calmgrad.model import Model

SHOWN_CONTROLS = "\n\t"  # the control characters that a terminal gets as they are


@click.command("generate")
@model_option
@click.option("-i", "--input", "text", help="Text to complete, or field:value text.  [stdin]")
@click.option("-r", "--raw", help="Tokens to complete: <NAME> and <:ID:> in it, no template.")
@click.option("-k", "--top-k", type=click.IntRange(0), help="Draw from the K likeliest; 0: off.")
@click.option(
    "-p", "--top-p", type=click.FloatRange(0, 1), help="Draw from the likeliest with P; 0: off."
)
@click.option(
    "--min-p",
    type=click.FloatRange(0, 1),
    help="Draw from those P times as likely as the likeliest; 0: off.",
)
@click.option("-t", "--temperature", type=click.FloatRange(0), help="0: the likeliest each time.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest completion.")
@click.option("-n", "--candidates", type=click.IntRange(1), help="How many different completions.")
@click.option(
    "--stop",
    multiple=True,
    metavar="TEXT",
    help="End before TEXT, as often as needed; '': nowhere.  [default: as the model says]",
)
@click.option("--seed", type=click.IntRange(0), help="Of the dice.  [default: a new one]")
@click.option("-q", "--quiet", is_flag=True, help="The text alone.")
@click.option("--full", is_flag=True, help="The prompt before each completion.")
@click.option("-s", "--special-tokens", "special", is_flag=True, help="Show <EOS> and the like.")
@click.option("--show-fields", is_flag=True, help="The fields of the model's template.")
@json_option
def command(
    model_path: str | None,
    text: str | None,
    raw: str | None,
    stop: tuple[str, ...],
    seed: int | None,
    quiet: bool,
    full: bool,
    special: bool,
    show_fields: bool,
    as_json: bool,
    **given: float | None,
) -> None:
    """Complete a text, in as many ways as asked for.

    The text (from -i, or from a pipe) goes into the model's template, and what is not given
    comes from the model's file: temperature, top-k, stop conditions and the like. With -r the
    tokens are taken as they are, and nothing comes from the file.

    A line is number, score and text; the score is the logarithm of the probability. On a
    terminal a single completion appears while it is made.
    """
    if text is not None and raw is not None:
        raise UsageError("-i and -r exclude each other")
    model = load_finite(model_path or users_file("user.cwgt"))
    if not quiet:
        say(f"model    {size_name(model.config)}, {model.config.param_count:,} parameters")
    if show_fields:
        print_fields(model, as_json)
        return
    from calmgrad.prompt import unescaped
    from calmgrad.starting import kernels_are_compiled

    seed = secrets.randbits(32) if seed is None else seed
    stream = None
    with usage_errors():
        prompt, options = prepare(model, text, raw, given)
        if stop:
            options["stop"] = [unescaped(pattern) for pattern in stop if pattern]
        if not kernels_are_compiled("decode_tokens"):
            say("kernels  compiling for this CPU, once (about 5 s)")
        # The first call compiles or loads the kernels, and is not to be timed.
        model.generate(prompt, max_tokens=1, candidates=1)
        before = shown(prompt, special) if full else ""
        if options["candidates"] == 1 and sys.stdout.isatty() and not as_json:
            stream = Stream(special)
            stream.write(before)
        began = time.perf_counter()
        completions = model.generate(
            prompt, seed=seed, on_token=stream.token if stream else None, **options
        )
        seconds = time.perf_counter() - began
    count = sum(len(c.tokens) for c in completions)
    texts = [before + shown(c.tokens, special) for c in completions]
    if as_json:
        numbers = {"seed": seed, "prompt_tokens": len(prompt), "tokens": count}
        speed = {"seconds": seconds, "tokens_per_second": count / seconds}
        rows = [asdict(c) | {"text": t} for c, t in zip(completions, texts, strict=True)]
        print(json.dumps({**numbers, **speed, "completions": rows}))
        return
    if stream:
        stream.end()
    else:
        print_lines(completions, texts, quiet)
    if not quiet:
        if len(completions) < options["candidates"]:
            say(fewer(len(completions), options))
        ended = f", score {completions[0].score:.4f}" if stream else ""
        say(
            f"done     {count:,} token(s) in {seconds:.3f} s, {count / seconds:,.0f} a second,"
            f" after {len(prompt):,} of the prompt; seed {seed}{ended}"
        )


def prepare(
    model: "Model", text: str | None, raw: str | None, given: dict[str, float | None]
) -> tuple[list[int], dict[str, Any]]:
    """The tokens of the prompt, and what `generate` needs to know besides."""
    from calmgrad.generation import prompt_tokens
    from calmgrad.prompt import stop_patterns
    from calmgrad.sampling import resolve
    from calmgrad.tokenizer import encode_raw

    if raw is not None:
        tokens = encode_raw(raw)
        if not tokens:
            raise UsageError("-r: the text is empty")
        return tokens, asdict(resolve(None, given))
    sampling = resolve(model.sampler, given)
    if text is None:
        text = piped_text()
    tokens = prompt_tokens(model.metadata, text, model.config.l_max, sampling.max_tokens)
    stop = stop_patterns(model.metadata.stop_conditions)
    return tokens, {**asdict(sampling), "stop": stop}


def fewer(count: int, options: dict[str, Any]) -> str:
    """Why there are not as many completions as were asked for."""
    from calmgrad.generation import PATIENCE
    from calmgrad.sampling import Sampling

    reason = f"{PATIENCE} draws in a row brought no other"
    if Sampling(**{name: value for name, value in options.items() if name != "stop"}).greedy:
        reason = "the likeliest token each time is one text; -t and -k draw others"
    return f"note     {count} of {options['candidates']} completions: {reason}"


def piped_text() -> str:
    """What comes in on stdin, less one newline at its end: `echo` puts it there, nobody means it.

    Raises:
        UsageError: stdin is a terminal, or empty.
    """
    data = b""
    if sys.stdin is not None and not sys.stdin.isatty():
        data = sys.stdin.buffer.read()
    if not data:
        raise UsageError("nothing to complete: give -i TEXT or -r TEXT, or pipe a text in")
    return data.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")


def shown(tokens: Sequence[int], special: bool) -> str:
    from calmgrad.tokenizer import decode

    return decode(tokens, special)


def print_lines(completions: "list[Completion]", texts: list[str], quiet: bool) -> None:
    """`[number] score  text`, as calm-inference; the text alone if quiet."""
    for number, (completion, text) in enumerate(zip(completions, texts, strict=True), 1):
        text = harmless(text) if sys.stdout.isatty() else text
        print(text if quiet else f"[{number}] {completion.score:.4f}  {text}")


def harmless(text: str) -> str:
    """Text for a terminal: a model may write the bytes that would move the cursor or worse."""
    return "".join(
        c if c.isprintable() or c in SHOWN_CONTROLS else c.encode("unicode_escape").decode()
        for c in text
    )


class Stream:
    """Text on the terminal token by token; a character appears when its last byte has come."""

    def __init__(self, special: bool) -> None:
        self.special = special
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, text: str) -> None:
        sys.stdout.write(harmless(text))
        sys.stdout.flush()

    def token(self, token: int) -> None:
        if token < 256:
            self.write(self.decoder.decode(bytes([token])))
        elif self.special:
            self.write(self.decoder.decode(shown([token], True).encode()))

    def end(self) -> None:
        self.write(self.decoder.decode(b"", final=True) + "\n")


def print_fields(model: "Model", as_json: bool) -> None:
    """The template's entries and what they are for."""
    from calmgrad.template import parse_template
    from calmgrad.tokenizer import NAMES

    spec = model.metadata.template
    with usage_errors():
        entries = parse_template(spec).entries
    rows: list[dict[str, Any]] = []
    for entry in entries:
        rows.append(
            {
                "field": entry.field,
                "token": NAMES[entry.token],
                "kind": entry.kind,
                "terminal": entry.terminal,
                "inside": None,
            }
        )
        inner: list[tuple[str | None, int, str]]
        inner = [(entry.primary, entry.token, "primary")] if entry.primary else []
        inner += [(s.field, s.token, "subtoken") for s in entry.subtokens]
        rows += [
            {"field": f, "token": NAMES[t], "kind": k, "terminal": False, "inside": entry.field}
            for f, t, k in inner
        ]
    if as_json:
        print(json.dumps({"template": spec, "entries": rows}))
        return
    print(f"template: {spec}" if spec else "no template: BOS and the bytes of the text")
    for row in rows:
        name = ("  " if row["inside"] else "") + (row["field"] or "-")
        end = ", the model goes on here" if row["terminal"] else ""
        print(f"  {name:<16} {row['token']:<6} {row['kind']}{end}")

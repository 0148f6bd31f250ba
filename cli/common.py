"""What several commands share."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from calmgrad.errors import UsageError

if TYPE_CHECKING:
    from calmgrad.data import Dataset
    from calmgrad.kernels.cuda.device import Precision
    from calmgrad.model import Model


_Command = TypeVar("_Command", bound=Callable[..., object])


INDENT = 9  # of a fact: the word it begins with, and blanks


class LazyGroup(click.Group):
    """A group that imports a command when it is named.

    Args:
        commands_with_help: command -> what `--help` says of it.
        load: imports the command of a name.
    """

    def __init__(
        self,
        *args: Any,
        commands_with_help: dict[str, str],
        load: Callable[[str], click.Command],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.commands_with_help = commands_with_help
        self.load = load

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_with_help)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.load(cmd_name) if cmd_name in self.commands_with_help else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.commands_with_help
        if not ctx.resilient_parsing and args and args[0] not in known and args[0][:1] != "-":
            from difflib import get_close_matches

            near = get_close_matches(args[0], known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            message = f"No command {args[0]!r}.{hint} There are: {', '.join(known)}."
            raise click.UsageError(message, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.commands_with_help.items()))


def one_line(text: str) -> str:
    """The text, with escapes for all that is no character to print: names may hold anything."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(message: str = "") -> None:
    """Talk to the user, a line on stderr; nothing that fails when nobody is there any more."""
    with suppress(OSError, ValueError):
        print(_folded(one_line(message)), file=sys.stderr, flush=True)


def _folded(line: str) -> str:
    """A fact ("data     …") as a terminal has room for it, broken between words.

    What holds a command stays whole, so that it can be copied; so does an error.
    """
    is_fact = line[INDENT - 1 : INDENT] == " " and not line.startswith("error:")
    if not sys.stderr.isatty() or "calmgrad " in line or not is_fact:
        return line
    width = os.get_terminal_size(sys.stderr.fileno()).columns
    if len(line) <= width or width < 3 * INDENT:
        return line
    from textwrap import wrap

    parts = wrap(line, width, break_long_words=False, break_on_hyphens=False,
                 subsequent_indent=" " * INDENT)  # fmt: skip
    return "\n".join(parts)


def emit(values: dict[str, Any], as_json: bool) -> None:
    """Results, on stdout: one JSON object, or a line each."""
    if as_json:
        print(json.dumps(values))
        return
    width = max(len(name) for name in values)
    for name, value in values.items():
        print(f"{name:<{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3e}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else one_line(str(value))


def data_folder() -> Path:
    """Where the shell keeps its models and data."""
    from calmgrad.settings import data_folder

    return data_folder()


def users_file(name: str) -> Path:
    """The shell's own user.cwgt or train.ctds, or an error that asks for one."""
    from calmgrad.settings import users_file

    return users_file(name)


def load_kept(path: str | Path, l_max: int, purpose: str) -> "Dataset":
    """The sequences of a data set a model can take; says how many were left out and why."""
    from calmgrad.starting import load_kept

    return load_kept(path, l_max, purpose)


def size_name(config: Any) -> str:
    """The preset of these sizes, or "custom"."""
    from calmgrad.starting import size_name

    return size_name(config)


def load_finite(path: str | Path) -> "Model":
    """A model from a file, refused if a weight is not finite."""
    from calmgrad.model import load_model

    model = load_model(path)
    model.data().check_finite(path)
    return model


def to_device(model: "Model", device: str, precision: "Precision") -> "Model":
    """The model, computing where --device says; says where, if that is a GPU."""
    model.to(device, precision)
    if model.device != "cpu":
        say(f"device   {model.device}")
    return model


json_option = click.option("--json", "as_json", is_flag=True, help="Results as one JSON object.")
model_option = click.option(
    "-m",
    "--model",
    "model_path",
    type=click.Path(),
    help="CWGT file.  [default: the user model]",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Shards worked on at once; results do not depend on it.  [default: one a core]",
)


class DeviceName(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # click 8.1 and 8.2
    """auto, cpu, cuda, or cuda:1 for the second GPU."""

    name = "device"
    metavar = "[auto|cpu|cuda|cuda:N]"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", str(value)):
            self.fail(f"{value!r}: expected auto, cpu, cuda, or cuda:1 for the second GPU")
        return str(value)


PRECISIONS = click.Choice(["float32", "tf32", "bf16"])


def device_options(default: str) -> Callable[[_Command], _Command]:
    """--device and --matmul-precision, for commands whose other settings are no TrainConfig."""

    def add(command: _Command) -> _Command:
        command = click.option(
            "--matmul-precision",
            type=PRECISIONS,
            default="float32",
            show_default=True,
            help="Of a GPU's products; tf32 and bf16 round their factors.",
        )(command)
        return click.option(
            "--device",
            type=DeviceName(),
            default=default,
            show_default=True,
            help="Where to compute (docs/gpu.md).",
        )(command)

    return add


def not_over(output: str, inputs: Iterable[str]) -> None:
    """Refuse an output that would take the place of what it is made of.

    Raises:
        UsageError: it is the same file as one of the inputs.
    """
    if os.path.realpath(output) in map(os.path.realpath, inputs):
        raise UsageError(f"{output}: is read by this command: name another file for the output")

"""What the commands that train share: flags that are settings, events, and signals."""

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from shlex import quote
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from calmgrad.cli.common import say

if TYPE_CHECKING:
    from calmgrad.events import Ended
    from calmgrad.settings import TrainConfig

STOPPED_EARLY = "stopped  before the first step: there is nothing to save"
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
Setting = tuple[str, Any, str]  # flags, type and help of a key of settings.TrainConfig

_Command = TypeVar("_Command", bound=Callable[..., object])


def key_of(flags: str) -> str:
    """The name of a flag's setting: `-m --model --init-cwgt` is `model`."""
    first_long = next(flag for flag in flags.split() if flag.startswith("--"))
    return first_long[2:].replace("-", "_")


def setting_options(
    *groups: Sequence[Setting], bare: Mapping[str, str] | None = None
) -> Callable[[_Command], _Command]:
    """A flag for each of the settings.

    Args:
        bare: setting -> what its flag means without a value.
    """

    def add(command: _Command) -> _Command:
        for flags, kind, text in reversed([row for rows in groups for row in rows]):
            key, more = key_of(flags), dict[str, Any]()
            if bare and key in bare:
                more = {"is_flag": False, "flag_value": bare[key]}
            command = click.option(*flags.split(), key, type=kind, help=text, **more)(command)
        return command

    return add


def settings_of(given: Mapping[str, Any], config_path: str | None) -> "TrainConfig":
    """What flags, environment and file say, the first of them first."""
    from calmgrad import settings

    sources = [settings.from_mapping(given, flags=True), settings.environment()]
    if config_path is not None:
        from_file, notes = settings.read_config(config_path)
        sources.append(from_file)
        for note in notes:
            say(f"note     {note}")
    return settings.merge(*sources)


def json_event(name: str, wanted: bool) -> Callable[[Any], object]:
    """A callback that prints what it is called with, if that is wanted; the run goes on anyhow."""
    failed = False

    def emit(report: Any) -> None:
        nonlocal failed
        if not wanted:
            return
        try:
            print(json.dumps({"event": name, **asdict(report)}), flush=True)
        except BrokenPipeError:  # the reader has gone
            pass
        except OSError as error:
            if not failed:
                say(f"warning: {name} events cannot be written: {error.strerror}; the run goes on")
            failed = True

    return emit


def both(first: Callable[[Any], object], second: Callable[[Any], object]) -> Callable[[Any], None]:
    """A callback that calls both."""

    def call(report: Any) -> None:
        first(report)
        second(report)

    return call


def say_stopped(result: "Ended[Any]", command: str = "train") -> None:
    """What a signal has left, and how to go on."""
    if not result.steps:
        say(STOPPED_EARLY)
        return
    say(f"stopped  the weights so far are in {result.weights[0]}")
    say(f"resume   calmgrad {command} --resume {quote(str(result.run_directory))}")


class StopSignal:
    """Inside, the first INT, TERM or HUP lets the step finish; a second one ends at once."""

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._catch) for number in SIGNALS}
        if hasattr(signal, "SIGPIPE"):  # a run does not end because nobody reads its talk
            self._before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave_if_caught(self) -> None:
        """End the process with the signal's exit code, if one has come."""
        if self.caught is not None:
            sys.exit(SIGNALS[self.caught])

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            sys.exit(SIGNALS[signal.Signals(number)])
        self.caught = signal.Signals(number)
        say(f"stopping after this step ({self.caught.name}; once more to leave at once)")

"""What can go wrong, and the exit code each kind ends the command line with."""

from collections.abc import Iterator
from contextlib import contextmanager


class CalmgradError(Exception):
    """Base of every error a user can cause or meet: one line of what, where and what was expected.

    Bad values given to a Python function raise ValueError instead, as anywhere in Python.
    """

    exit_code = 1


class UsageError(CalmgradError):
    """A flag, key or name that does not fit, or a run directory that is taken."""

    exit_code = 2


class DeviceError(UsageError):
    """A device that is not there, or lacks what it takes to be used."""


class FileError(CalmgradError):
    """A file that is missing, cannot be read or does not hold what it should."""

    exit_code = 3


class DivergedError(CalmgradError):
    """Loss or gradient norm is no longer finite; the weights are as before the step."""

    exit_code = 4


class DiskError(CalmgradError):
    """A file could not be written whole; what was there before is untouched."""

    exit_code = 5


class CheckFailed(CalmgradError):
    """A comparison the user asked for does not hold."""

    exit_code = 6


class OutOfMemoryError(CalmgradError):
    """The work does not fit into memory."""

    exit_code = 7


@contextmanager
def usage_errors() -> Iterator[None]:
    """Inside, a ValueError means a setting or flag with a value that does not fit."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error

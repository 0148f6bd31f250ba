"""How kernels are compiled: without the GIL, and cached in a private folder of the user."""

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from calmgrad.kernels.protocol import Array


def _cache_folder() -> Path | None:
    """A folder only this user can write, named after the kernel sources; None if there is none.

    Numba notices a change in the file of a function, not in those it calls: hence the hash.
    Its cache is made of pickles: hence never a shared or temporary folder.
    """
    import platformdirs

    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    chosen = os.environ.get("CALMGRAD_CACHE_DIR")
    root = Path(chosen) if chosen else platformdirs.user_cache_path("calmgrad", appauthor=False)
    folder = root / f"kernels-{digest.hexdigest()[:16]}"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)  # `parents` alone get the umask's
        folder.mkdir(exist_ok=True, mode=0o700)
        # Owned by someone else or open to others: their pickles would run as this user.
        for place in (root, folder):
            status = place.stat()
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                return None
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return None
    return folder


uncached: str | None = None  # why compiled kernels are not kept, if they are not


def _say_uncached(why: str) -> None:
    """Once a process: every kernel fails for the same reason."""
    global uncached
    if uncached is None:
        uncached = why
        warnings.warn(
            f"{why}: kernels are compiled anew in every process"
            " (set CALMGRAD_CACHE_DIR to a folder of your own)",
            RuntimeWarning,
            stacklevel=2,
        )


FOLDER = _cache_folder()
if FOLDER is None:
    _say_uncached("no private cache folder")
else:
    os.environ["NUMBA_CACHE_DIR"] = str(FOLDER)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile with Numba on first use, for the dtypes it is called with."""
    from numba import config, njit

    options = {"nogil": True, "error_model": "numpy"}
    if FOLDER is None:
        return njit(**options)(function)
    config.CACHE_DIR = str(FOLDER)  # numba may have been imported before this module
    try:
        return _forgiving(njit(cache=True, **options)(function))
    except RuntimeError as error:  # Numba finds no place to write to
        _say_uncached(f"{FOLDER}: {error}")
        return njit(**options)(function)


def _forgiving(dispatcher: Any) -> Any:
    """A cache that cannot be written (a full disk) or read (cut short) only costs time.

    And it is read at once: Numba's `load_overload` first makes its compiler know all of Python
    and NumPy, which takes a quarter of a second; what is loaded needs the runtime alone.
    """
    from numba.core.runtime import rtsys

    cache = dispatcher._cache
    save = cache.save_overload
    load = getattr(cache, "_load_overload", cache.load_overload)  # should Numba rename it

    def save_or_go_on(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError as error:
            _say_uncached(f"{FOLDER}: {error.strerror or error}")

    def load_or_compile(signature: Any, target: Any) -> Any:
        rtsys.initialize(target)
        try:
            return load(signature, target)
        except Exception:  # whatever a broken pickle raises
            with suppress(OSError):
                cache.flush()
            return None

    cache.save_overload, cache.load_overload = save_or_go_on, load_or_compile
    return dispatcher


def columns(x: Array) -> Array:
    """Some columns of a wider matrix, as a kernel takes them however many rows there are.

    NumPy calls a single row of them contiguous, and Numba would compile the kernel once more for
    that. So it gets the row as if there were another, which is not to be touched.
    """
    if len(x) > 1:
        return x
    from numpy.lib.stride_tricks import as_strided

    return as_strided(x, (2, x.shape[1]), (0, x.itemsize))


def inlined(function: Callable[..., Any]) -> Any:
    """Part of a kernel: pasted where it is called, so that a call in the innermost loop is free."""
    from numba import njit

    return njit(inline="always", error_model="numpy")(function)

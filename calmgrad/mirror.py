"""Flat buffers on the host, and their copies on a device: each brought up to date when asked for.

The host cannot see who writes into an array that it has handed out. So the rule is: what `host`
gives is up to date at that moment, and may be written to until the device's copy is next asked
for, which then takes it over. Whoever wants to read or write after that asks again.
"""

from typing import Any

import numpy as np

from calmgrad.backend import Backend, to_numpy
from calmgrad.kernels.protocol import Array


class Mirror:
    """Flat float32 buffers by name; without a device attached, the host's alone.

    Args:
        buffers: name -> NumPy array, or None where there is none.
    """

    def __init__(self, **buffers: Any) -> None:
        self._host = buffers
        self._device: dict[str, Array] = {}
        self._ahead: set[str] = set()  # newer on the device
        self._behind: set[str] = set()  # older on the device, or perhaps so
        self._backend: Backend | None = None
        self._users = 0

    @property
    def backend(self) -> Backend | None:
        """The device's, while one is attached."""
        return self._backend

    def attach(self, backend: Backend) -> None:
        """Keep copies on a device from now on, until `detach` was called as often.

        Raises:
            ValueError: there are copies on another device.
        """
        if self._backend is not None and self._backend.device is not backend.device:
            raise ValueError(
                f"the model is in use on {self._backend.where}: close that trainer first"
            )
        self._backend = backend
        self._users += 1

    def detach(self) -> None:
        """Bring the host's buffers up to date; with the last user gone, free the device's."""
        for name in list(self._ahead):
            self.host(name)
        self._users -= 1
        if self._users == 0:
            self._device.clear()
            self._behind.clear()
            self._backend = None

    def host(self, name: str) -> Any:
        """The host's buffer, up to date. It may be written to; see above for how long."""
        if self._backend is not None:
            if name in self._ahead:
                with self._backend.active():
                    self._host[name][...] = self._device[name].get()
                self._ahead.discard(name)
            self._behind.add(name)
        return self._host[name]

    def holds(self, name: str) -> bool:
        """Whether there is such a buffer."""
        return self._host[name] is not None

    def replace(self, name: str, array: Any) -> None:
        """Take another array for the host's buffer."""
        self._host[name] = None if array is None else to_numpy(array)
        self._ahead.discard(name)
        self._behind.add(name)

    def on(self, backend: Backend, name: str, written: bool = False) -> Array:
        """The buffer where `backend` computes: `device` of the attached one, or `host`."""
        return self.host(name) if backend.device is None else self.device(name, written)

    def device(self, name: str, written: bool = False) -> Array:
        """The device's copy, up to date; None where there is no buffer.

        Args:
            written: the caller changes it, or overwrites it.
        """
        assert self._backend is not None
        host = self._host[name]
        if host is None:
            return None
        if name not in self._device or name in self._behind:
            with self._backend.active():
                if name not in self._device:
                    self._device[name] = self._backend.xp.empty(host.shape, "float32")
                self._device[name].set(np.ascontiguousarray(host, np.float32))
            self._behind.discard(name)
        if written:
            self._ahead.add(name)
        return self._device[name]

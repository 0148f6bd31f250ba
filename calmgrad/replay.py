"""Steps of a device, recorded and replayed: one launch in place of some hundred.

The first time work is asked for it is done, so that kernels are compiled and memory is there. The
second time it is recorded, and from then on replayed: the same work, on the same addresses.
"""

import warnings
from collections.abc import Callable, Hashable

from calmgrad.kernels.cuda.device import Device, Graph

MOST = 64  # graphs that are kept


class Replay:
    """The recorded work of one device.

    Attributes:
        device: that records; None: nothing is recorded, all work is done as it is asked for.
        recorded, replayed: how often it was, so far.
    """

    def __init__(self, device: Device | None) -> None:
        self.device = device
        self.recorded = self.replayed = 0
        self._graphs: dict[Hashable, Graph] = {}
        self._done: set[Hashable] = set()
        self._place: Hashable = None

    def run(self, sizes: Hashable, place: Hashable, work: Callable[[], None]) -> None:
        """Do `work`, or what was recorded of it.

        Args:
            sizes: whatever number `work` depends on. What it reads from the device's memory may
                change from one time to the next, numbers of the host must not.
            place: the addresses it works on. When they change, all that was recorded is void.
        """
        if self.device is None:
            work()
            return
        if place != self._place:
            self._graphs.clear()
            self._place = place
        if (graph := self._graphs.get(sizes)) is None and sizes in self._done:
            graph = self._record(self.device, sizes, work)
        if graph is None:
            work()
            self._done.add(sizes)
        else:
            graph.launch()
            self.replayed += 1

    def _record(self, device: Device, sizes: Hashable, work: Callable[[], None]) -> Graph | None:
        """What `work` does on the device; None after an error, which ends all recording."""
        try:
            with device.capture() as graph:
                work()
        except Exception as error:
            self.close()
            reason = " ".join(str(error).split())
            warnings.warn(
                f"a training step cannot be recorded as a CUDA graph: {type(error).__name__}:"
                f" {reason}: steps go on one kernel after the other, which is slower",
                stacklevel=2,
            )
            return None
        if len(self._graphs) == MOST:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[sizes] = graph
        self.recorded += 1
        return graph

    def forget(self) -> None:
        """Of all that was done so far: its memory has been given back."""
        self._graphs.clear()
        self._done.clear()

    def close(self) -> None:
        """Forget all that was recorded, and record no more."""
        self._graphs.clear()
        self.device = None

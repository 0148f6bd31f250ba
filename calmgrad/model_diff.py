"""What differs between two models: header, metadata, each parameter, EWC data."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad.formats.cwgt import Weights
from calmgrad.layout import views


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """Two arrays of one name; numbers are of float64, over the elements finite in both.

    Attributes:
        name: of the parameter; ewc.fisher.… and ewc.anchor.… for EWC data.
        identical: to the last bit.
        norm_a, norm_b: Euclidean.
        cosine: of the angle between both; None where one is 0.
        largest: the largest difference of two finite elements, `index` where it is; where it is 0,
            the first that changed.
        relative: the norm of the difference, relative to that of the first.
        changed: how many elements differ, of `size`.
        not_finite: how many are not finite in either.
    """

    name: str
    identical: bool
    norm_a: float
    norm_b: float
    cosine: float | None
    largest: float
    index: tuple[int, ...]
    relative: float | None
    changed: int
    size: int
    not_finite: int


@dataclass
class ModelDifference:
    """All that differs.

    Attributes:
        settings: name -> both values, of sizes, metadata, sampler defaults and EWC data that are
            there or not, where they differ.
        tensors: of each parameter; none where the sizes differ.
    """

    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    tensors: list[TensorDifference] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether both files would hold the same."""
        return not self.settings and all(tensor.identical for tensor in self.tensors)


def diff(a: Weights, b: Weights) -> ModelDifference:
    """Compare two models; EWC data where both have some."""
    found = ModelDifference()
    both = {
        **_pairs(asdict(a.config), asdict(b.config)),
        **_pairs(asdict(a.metadata), asdict(b.metadata)),
        **_pairs(a.sampler.stored(), b.sampler.stored()),
        "ewc": (a.fisher is not None, b.fisher is not None),
    }
    found.settings = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    if a.config.param_count != b.config.param_count or _shapes(a) != _shapes(b):
        return found
    for prefix, one, other in (
        ("", a.weights, b.weights),
        ("ewc.fisher.", a.fisher, b.fisher),
        ("ewc.anchor.", a.anchor, b.anchor),
    ):
        if one is not None and other is not None:
            named = views(b.config, other)
            found.tensors += [
                compare(f"{prefix}{name}", array, named[name])
                for name, array in views(a.config, one).items()
            ]
    return found


def _pairs(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (value, b[name]) for name, value in a.items()}


def _shapes(model: Weights) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in views(model.config, model.weights).items()}


def compare(name: str, a: NDArray[np.float32], b: NDArray[np.float32]) -> TensorDifference:
    """Compare two arrays of one shape."""
    usable = np.isfinite(a) & np.isfinite(b)
    x, y = np.where(usable, a, 0).astype(np.float64), np.where(usable, b, 0).astype(np.float64)
    norm_a, norm_b = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    apart = np.abs(y - x)
    same = a.view(np.uint32) == b.view(np.uint32)
    at = int(np.argmax(apart if apart.any() else ~same))
    product = norm_a * norm_b
    return TensorDifference(
        name, bool(same.all()), norm_a, norm_b,
        float(np.vdot(x, y)) / product if product else None,
        float(apart.ravel()[at]), tuple(int(i) for i in np.unravel_index(at, a.shape)),
        float(np.linalg.norm(y - x)) / norm_a if norm_a else None,
        int((~same).sum()), a.size, int((~usable).sum()),
    )  # fmt: skip

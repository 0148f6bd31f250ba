"""What holds for all ops: their gradients, and that backends, repetition and NaN agree with them.

Driven by calmgrad/op_cases.py. What an op computes, and how it refuses, is in its own test file.
"""

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from numpy.testing import assert_array_equal

from calmgrad.backend import NAMES, Backend, Name, load, to_numpy
from calmgrad.gradient_check import gradcheck
from calmgrad.kernels.protocol import Array
from calmgrad.op_cases import BUILDERS, Case, Sizes, cases
from calmgrad.ops.basic import add, mul
from calmgrad.tape import Tape, Tensor
from tests.ops.helpers import (
    CORNERS,
    Pass,
    assert_near,
    assert_same_pass,
    forward,
    on,
    run,
    sizes,
    weights_of,
)

OPS = Path(__file__).parents[2] / "calmgrad" / "ops"
MIXED = Sizes((20, 1, 40, 16), channels=21, states=19, taps=4, rank=3)

every_op = pytest.mark.parametrize("op", BUILDERS)


def public_functions(folder: Path) -> list[str]:
    return [
        f"{path.stem}.{node.name}"
        for path in sorted(folder.glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


def without_a_case(folder: Path) -> list[str]:
    return [op for op in public_functions(folder) if op not in BUILDERS]


def test_every_op_has_a_case() -> None:
    missing = without_a_case(OPS)
    assert not missing, f"no gradient check; add a case to calmgrad/op_cases.py: {missing}"
    assert sorted(BUILDERS) == sorted(public_functions(OPS))


def test_an_op_without_a_case_is_found(tmp_path: Path) -> None:
    (tmp_path / "relu.py").write_text("def relu(x): ...\ndef _slope(x): ...\n")
    assert without_a_case(tmp_path) == ["relu.relu"]


@every_op
@example(s=CORNERS[0])
@example(s=CORNERS[1])
@example(s=CORNERS[2])
@example(s=CORNERS[3])
@given(s=sizes())
@pytest.mark.parametrize("backend", NAMES)
def test_gradients(backend: Name, op: str, s: Sizes) -> None:
    for case in cases(op, s):
        gradcheck(
            case,
            *case.inputs.values(),
            backend=backend,
            names=list(case.inputs),
            directions=1,
            rtol=1e-7,
            seed=s.seed,
        )


@every_op
@pytest.mark.parametrize("backend", NAMES)
def test_every_element_of_the_gradients(backend: Name, op: str) -> None:
    """Random directions could miss one wrong element among many; this cannot."""
    for case in cases(op, Sizes((3, 1), channels=2, states=3, taps=3, rank=2)):
        gradcheck(
            case,
            *case.inputs.values(),
            backend=backend,
            names=list(case.inputs),
            full=True,
        )


@every_op
@example(s=CORNERS[0])
@example(s=CORNERS[1])
@example(s=CORNERS[2])
@example(s=CORNERS[3])
@given(s=sizes())
def test_backends_agree(backend: Backend, op: str, s: Sizes) -> None:
    reference = load("reference")
    if backend is reference:
        pytest.skip("it is what the others are held against")
    for own, case in zip(cases(op, s, backend.xp), cases(op, s), strict=True):
        assert_same_pass(
            run(backend, own, case.inputs), run(reference, case, case.inputs), tolerance=1e-11
        )
        # The same float32 numbers, computed with in float64. Where a sum cancels, rounding shows
        # in any float32 formula: allow for a multiple of what it does to the reference.
        rounded = {name: value.astype("float32") for name, value in case.inputs.items()}
        weights = weights_of(forward(reference, case, rounded).shape).astype("float32")
        exact = run(reference, case, rounded, "float64", weights)
        single = run(reference, case, rounded, "float32", weights)
        fast = run(backend, own, rounded, "float32", weights)
        for (what, a), (_, b), (_, c) in zip(
            fast.arrays(), exact.arrays(), single.arrays(), strict=True
        ):
            rounding = float(np.abs(c - b).max(initial=0))
            assert_near(a, b, 2e-5, what, allowance=30 * rounding + case.noise)


@every_op
def test_gradients_of_two_uses_are_added(backend: Backend, op: str) -> None:
    for case in cases(op, MIXED, backend.xp):
        first, second = (
            weights_of((n, *forward(backend, case, case.inputs).shape))[-1] for n in (1, 2)
        )

        def twice(*tensors: Tensor, case: Case = case, second: Array = second) -> Tensor:
            return add(case(*tensors), mul(case(*tensors), second))

        both = run(backend, twice, case.inputs, weights=first)
        once = run(backend, case, case.inputs, weights=first)
        again = run(backend, case, case.inputs, weights=first * second)
        for name, gradient in both.grads.items():
            expected = once.grads[name] + again.grads[name]
            assert_near(gradient, expected, 1e-12, f"{op}: {name}")


@every_op
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_passes_repeat_bit_for_bit(backend: Backend, op: str, dtype: str) -> None:
    """On one tape, whose memory holds the numbers of the pass before."""
    tape = Tape(backend, dtype)
    for case in cases(op, MIXED, backend.xp):
        seen = []
        for _ in range(3):
            tape.begin()
            leaves = {name: tape.constant(value) for name, value in case.inputs.items()}
            y = case(*leaves.values())
            value = to_numpy(y.value.copy())
            tape.backward(y, on(backend, weights_of(y.shape).astype(dtype)))
            grads = {name: to_numpy(leaf.grad.copy()) for name, leaf in leaves.items()}
            seen.append(Pass(value, grads))
        for later in seen[1:]:
            for (what, a), (_, b) in zip(later.arrays(), seen[0].arrays(), strict=True):
                assert_array_equal(a, b, err_msg=f"{op}: {what}")


@every_op
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_is_never_swallowed(backend: Backend, op: str, dtype: str) -> None:
    for case in cases(op, MIXED, backend.xp):
        for name, value in case.inputs.items():
            spoilt = value.copy()
            spoilt.flat[[0, -1]] = np.nan
            with np.errstate(invalid="ignore"):
                y = forward(backend, case, case.inputs | {name: spoilt}, dtype)
            assert np.isnan(y).any(), f"{op}: a NaN in {name} does not reach the output"
        weights = weights_of(forward(backend, case, case.inputs).shape)
        weights.flat[[0, -1]] = np.nan
        grads = run(backend, case, case.inputs, dtype, weights).grads
        assert any(np.isnan(gradient).any() for gradient in grads.values()), (
            f"{op}: a NaN in the output's gradient reaches no input"
        )

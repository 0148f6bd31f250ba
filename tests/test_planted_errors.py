"""Deliberate mistakes, put into the source one at a time: the checks of tests/ops must find each.

A check that cannot fail proves nothing. Mistakes in the Numba kernels are looked for as
test_backends_agree does; all others as test_gradients does.

The suite plants twenty; all of them, which takes some minutes:

    CALMGRAD_TEST_PROFILE=thorough python -m pytest -n 0 tests/test_planted_errors.py
"""

import ast
import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

from calmgrad.backend import load
from calmgrad.errors import CheckFailed
from calmgrad.gradient_check import gradcheck
from calmgrad.kernels.cpu import compile as kernel_compiler
from calmgrad.op_cases import Sizes, cases
from calmgrad.ops.basic import add, mul
from calmgrad.ops.linear import linear
from calmgrad.tape import Tensor
from tests.faults.mistakes import MORE
from tests.ops.helpers import assert_same_pass, run

ROOT = Path(__file__).parents[1]
CPU = "kernels/cpu/"
REFERENCE = "kernels/reference/"
OPS = "calmgrad/ops/"
# More than a chunk of the scan, a short sequence between, one full group of lanes and a rest.
SIZES = Sizes((20, 1, 18), channels=19, states=17, taps=4, rank=2)


@dataclass(frozen=True)
class Mistake:
    """`old`, which stands once in `file`, becomes `new`; `op` is checked.

    `compiled` limits the Numba kernels that are replaced, and so compiled anew, to those whose
    name ends so.
    """

    file: str
    old: str
    new: str
    op: str
    compiled: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.new.split())}"


def cpu(name: str, old: str, new: str, compiled: str = "_backward") -> Mistake:
    return Mistake(f"{CPU}{name}.py", old, new, f"{name}.{name}", compiled)


def reference(name: str, old: str, new: str) -> Mistake:
    return Mistake(f"{REFERENCE}{name}.py", old, new, f"{name}.{name}")


def op(name: str, old: str, new: str) -> Mistake:
    return Mistake(f"{OPS}{name}.py", old, new, f"{name}.{name}")


def basic(name: str, old: str, new: str) -> Mistake:
    return Mistake(f"{OPS}basic.py", old, new, f"basic.{name}")


def tape(old: str, new: str) -> Mistake:
    return Mistake("calmgrad/tape.py", old, new, "tape")


MISTAKES = [
    # Sequence boundaries.
    cpu("causal_conv1d", "and pos[t + ahead + 1] > ahead:", "and True:"),
    cpu(
        "causal_conv1d",
        "min(taps - 1, pos[t])\n        for c in range(0, full, WIDTH):\n            _forward(",
        "min(taps - 1, t)\n        for c in range(0, full, WIDTH):\n            _forward(",
        "_forward",
    ),
    reference("causal_conv1d", "reach = (pos[j:] >= j)[:, None] * da[j:]", "reach = da[j:]"),
    cpu("selective_scan", "        dh[...] = 0.0\n", ""),
    reference(
        "selective_scan",
        "dh = np.zeros_like(A)  # of",
        "dh = np.zeros_like(A) if start == 0 else dh  # of",
    ),
    cpu("pool", "t == stop - 1", "t == start"),
    # The convolution.
    cpu("causal_conv1d", "(a * (1.0 - s) + 1.0)", "(a * (1.0 + s) + 1.0)"),
    cpu(
        "causal_conv1d",
        "g += load(dx, (t + j, c), lanes) * load(w, (j, c), lanes)",
        "g += load(dx, (t + j, c), lanes) * load(w, (j - 1, c), lanes)",
    ),
    cpu("causal_conv1d", "dweight[...] = dw.T", "dweight[...] = dw[::-1].T"),
    reference("causal_conv1d", "da = dy * s * (1 + a * (1 - s))", "da = dy * s"),
    reference("causal_conv1d", "dweight[:, 0] = (x * da)", "dweight[:, 0] = (x * dy)"),
    # The scan.
    cpu("selective_scan", "load(ddt, (t, c), lanes) * slope", "load(ddt, (t, c), lanes)"),
    cpu("selective_scan", "bias_sum += ddt_t", "bias_sum += ddt_t * slope"),
    cpu("selective_scan", "dt_t * ddrive + skip * dy_t", "dt_t * ddrive"),
    cpu("selective_scan", "dD_sum += dy_t * load(u", "dD_sum += dout_t * load(u"),
    cpu(
        "selective_scan",
        "dy_t * load(hs, (q + 1, n, 0), every)",
        "dy_t * load(hs, (q, n, 0), every)",
    ),
    cpu(
        "selective_scan", "carried = dh_n * load(decays, (q, n, 0), every)", "carried = dh_n * 1.0"
    ),
    cpu(
        "selective_scan",
        "(chunk, n, c), lanes), every)\n                _gate_backward",
        "(max(chunk - 1, 0), n, c), lanes), every)\n                _gate_backward",
    ),
    cpu(
        "selective_scan",
        "            dB[...] = 0.0\n",
        "",
    ),
    cpu(
        "selective_scan",
        "dA_log[c, n] = dA[n, c] * A2[n, c] * LN2",
        "dA_log[c, n] = dA[n, c] * LN2",
    ),
    cpu(
        "selective_scan",
        "lanes)\n            chunk += 1",
        "lanes)\n            chunk += b < 1",
        "_forward",
    ),
    Mistake(
        CPU + "functions.py",
        "return 0.0 - exp2_minus_1(x * -LOG2E)",
        "return 0.0 - exp2_minus_1(x * -1.0)",
        "selective_scan.selective_scan",
        "_backward",
    ),
    Mistake(
        CPU + "functions.py",
        "greater(x, zero, x, zero) + small",
        "greater(x, zero, x, x) + small",
        "selective_scan.selective_scan",
        "_forward",
    ),
    reference("selective_scan", "ddt *= -np.expm1(-dt)", "ddt *= 1"),
    reference("selective_scan", "ddt_bias[...] = ddt.sum(axis=0)", "ddt_bias[...] = 0"),
    reference("selective_scan", "dE = dh * before * decay", "dE = dh * before"),
    reference("selective_scan", "dE = dh * before * decay", "dE = dh * after * decay"),
    reference("selective_scan", "dA_log[...] = dA * A", "dA_log[...] = dA"),
    reference("selective_scan", "dC[t] = dy[t] @ after", "dC[t] = dy[t] @ before"),
    reference("selective_scan", "du[t] = dt[t] * ddrive + D * dy[t]", "du[t] = dt[t] * ddrive"),
    reference("selective_scan", "(dE * A).sum(axis=1) + u[t] * ddrive", "(dE * A).sum(axis=1)"),
    op(
        "selective_scan", "kernels.matmul(dp[:, :rank], ddt, dt_weight.value.T)", "dp[:, :rank] = 0"
    ),
    op(
        "selective_scan",
        "kernels.matmul(ddt_weight, dt_raw.T, ddt)",
        "kernels.matmul(ddt_weight, dt_raw.T, dt)",
    ),
    # LayerNorm, GELU.
    cpu("layer_norm", "r * (g - mean_g - normed * mean_along)", "r * (g - normed * mean_along)"),
    cpu(
        "layer_norm",
        "mean_along = total(sum_along) / channels",
        "mean_along = total(sum_along) / full",
    ),
    cpu(
        "layer_norm",
        "variance += (x[t, c] - m) * (x[t, c] - m)",
        "variance += x[t, c] * x[t, c]",
        "_forward",
    ),
    cpu("layer_norm", "        value += load(dx, (t, c), lanes)", "        value += 0.0 * value"),
    reference("layer_norm", "dx + result if accumulate else result", "result"),
    reference("layer_norm", "- normed * along", "+ normed * along"),
    reference("layer_norm", "dweight[...] = (dy * normed)", "dweight[...] = (dy * x)"),
    cpu("gelu", "(3 * CUBIC)", "(2 * CUBIC)"),
    reference("gelu", "1 + 3 * CUBIC * x * x", "1 + CUBIC * x * x"),
    # Embedding, loss, pooling.
    cpu("embedding", "row[c] += dy[t, c]", "row[c] = dy[t, c]"),
    reference("embedding", "np.add.at(dtable, tokens, dy)", "dtable[tokens] += dy"),
    op("embedding", "        if not held:\n            dtable.fill(0)", "        dtable.fill(0)"),
    cpu("cross_entropy", "dlogits[t, targets[t]] -= dnll[t]", "dlogits[t, targets[t]] -= 1"),
    cpu(
        "cross_entropy",
        "            dlogits[t, :] = 0\n            continue",
        "            continue",
    ),
    reference("cross_entropy", "weight = np.where(targets >= 0, dnll, 0)", "weight = dnll"),
    cpu("pool", "dx[t, c] = dy[b, c] / (stop - start)", "dx[t, c] = dy[b, c]"),
    reference(
        "pool",
        "dx[start:stop] = dy[b] / float(stop - start)",
        "dx[start : stop - 1] = dy[b] / float(stop - start)",
    ),
    reference("l2_normalize", "dy - y * along", "dy - along"),
    cpu("select_rows", "dx[t, c] = dy[k, c]", "dx[t, c] = dy[0, c]"),
    op("infonce", "-= 2 * xp.eye(", "-= xp.eye("),
    op("infonce", "matmul(dp, dscores.T, queries", "matmul(dp, dscores, queries"),
    # Products and the tape.
    op("linear", "matmul(dx, dy, w.T)", "matmul(dx, dy, w.T, dx.copy())"),
    op("linear", "residual.take_over(y)", "pass"),
    reference("linear", "out += add", "pass"),
    basic(
        "add",
        "return gradient.sum(axis=axes).reshape(shape) if axes else gradient",
        "return gradient.mean(axis=axes).reshape(shape) if axes else gradient",
    ),
    basic("div", "-dy * y / b", "-dy / b"),
    basic("max", "* top / top.sum(axis=axes, keepdims=True)", "* 1.0"),
    basic("mean", "keepdims) / n)", "keepdims))"),
    basic("getitem", "tape.backend.xp.add.at(dx, index, y.grad)", "dx[index] = y.grad"),
    basic("softplus", "dy * -xp.expm1(-y)", "dy * xp.exp(-y)"),
    tape(
        "self.tensor.tape.backend.xp.add(self.total, self.scratch, out=self.total)",
        "self.total[...] = self.scratch",
    ),
    tape("                buffer.fill(0)\n", "                buffer.fill(1)\n"),
    tape(
        "whole, self._filled = self._parent._open()",
        "whole, self._filled = self._parent._open()[0], False",
    ),
    tape(
        "slice(start, start + size)\n            self._views",
        "slice(0, size)\n            self._views",
    ),
    tape(
        "if movable and self._buffer is None and self._parent is None:",
        "if movable and self._parent is None:",
    ),
]

MAKERS: dict[str, Callable[..., Mistake]] = {
    "reference": reference,
    "op": op,
    "basic": basic,
    "tape": tape,
}
MISTAKES += [MAKERS[kind](*rest) for kind, *rest in MORE]

# One mistake of each op, and some compiled ones.
QUICK_OPS = (
    "causal_conv1d selective_scan layer_norm gelu embedding cross_entropy pool l2_normalize infonce"
    " linear"
).split()
QUICK_BASIC = "add div getitem matmul maximum softplus".split()


def quick() -> list[Mistake]:
    """Twenty, spread over the ops and the tape."""
    names = [f"{name}.{name}" for name in QUICK_OPS] + [f"basic.{name}" for name in QUICK_BASIC]
    plain = [m for m in MISTAKES if not m.file.startswith(CPU)]
    chosen = [next(m for m in plain if m.op == name) for name in [*names, "tape"]]
    for name in ("pool", "embedding", "gelu"):  # which compile quickly
        chosen.append(next(m for m in MISTAKES if m.file == f"{CPU}{name}.py"))
    return chosen


CHOSEN = MISTAKES if os.environ.get("CALMGRAD_TEST_PROFILE") == "thorough" else quick()


def network(x: Tensor, w: Tensor) -> Tensor:
    """A residual stream, and a split tensor used in part, twice, and as a whole."""
    left, middle, _ = x.split(2, 2, 2)
    y = add(linear(x, w, residual=x), x)
    y = linear(y, w, residual=y)
    head, _ = y.split(2, 4)
    parts = add(mul(left, middle), mul(head, left))
    return add(parts, linear(y, w.tape.constant(np.ones((6, 2)))))


def check(mistake: Mistake) -> None:
    """What tests/ops would do; raises when it finds something."""
    rng = np.random.default_rng(0)
    if mistake.op == "tape":
        gradcheck(network, rng.standard_normal((3, 6)), rng.standard_normal((6, 6)))
        return
    for case in cases(mistake.op, SIZES):

        def twice(*tensors: Tensor, case: Any = case) -> Tensor:
            return add(case(*tensors), mul(case(*tensors), 0.5))

        for fn in (case, twice):
            if mistake.file.startswith(CPU):
                expected = run(load("reference"), fn, case.inputs)
                assert_same_pass(run(load("cpu"), fn, case.inputs), expected, tolerance=1e-11)
            else:
                arrays = case.inputs.values()
                gradcheck(fn, *arrays, names=list(case.inputs), directions=1, rtol=1e-7)


def changed(mistake: Mistake) -> dict[str, Any]:
    """The names of the module that the mistake makes of its file."""
    path = ROOT / mistake.file
    source = path.read_text(encoding="utf-8")
    assert source.count(mistake.old) == 1, (
        f"{mistake.file} has {mistake.old!r} {source.count(mistake.old)} times, expected once:"
        " bring the mistake up to date"
    )
    return execute(source.replace(mistake.old, mistake.new), path)


def module_name(file: str) -> str:
    return "calmgrad." + file.removesuffix(".py").removeprefix("calmgrad/").replace("/", ".")


def execute(source: str, path: Path) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": module_name(path.relative_to(ROOT).as_posix())}
    exec(compile(source, str(path), "exec"), names)
    return names


def plant(mistake: Mistake, patch: pytest.MonkeyPatch) -> None:
    if not mistake.file.startswith(CPU):
        replace_code(import_module(module_name(mistake.file)), changed(mistake), patch)
        return
    patch.setattr(kernel_compiler, "FOLDER", None)  # compile anew, and leave no trace
    names = changed(mistake)
    op_name = mistake.op.split(".")[0]
    if Path(mistake.file).stem != op_name:  # functions that the kernels of the op inline
        helper = ModuleType("changed")
        vars(helper).update(names)
        patch.setitem(sys.modules, module_name(mistake.file), helper)
        path = ROOT / CPU / f"{op_name}.py"
        names = execute(path.read_text(encoding="utf-8"), path)
    kernels = import_module("calmgrad.kernels.cpu")
    replaced = [
        name
        for name in kernels.__all__
        if name.startswith(op_name) and name.endswith(mistake.compiled) and name in names
    ]
    assert replaced
    for name in replaced:
        patch.setattr(kernels, name, names[name])


def replace_code(module: ModuleType, names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Give every function and method the code of its changed namesake, wherever it is known."""
    pairs = [(vars(module), names)]
    pairs += [
        (dict(vars(thing)), vars(names[name]))
        for name, thing in vars(module).items()
        if inspect.isclass(thing) and thing.__module__ == module.__name__
    ]
    for old, new in pairs:
        for name, function in old.items():
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                patch.setattr(function, "__code__", new[name].__code__)


@pytest.mark.parametrize("mistake", CHOSEN, ids=str)
def test_the_mistake_is_found(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(mistake, monkeypatch)
    with (
        np.errstate(all="ignore"),
        pytest.raises((CheckFailed, AssertionError), match=r"gradient|output|inputs together"),
    ):
        check(mistake)


@functools.cache
def unchanged(file: str, op_name: str) -> Mistake:
    """The smallest change that changes nothing."""
    source = (ROOT / file).read_text(encoding="utf-8")
    first = source.split("\n", 1)[0]
    return Mistake(file, first + "\n", first + "  # the same\n", op_name)


@pytest.mark.parametrize(
    ("file", "op_name"),
    sorted(
        {(m.file, m.op) for m in MISTAKES if not m.file.startswith(CPU)}
        | {(CPU + "gelu.py", "gelu.gelu"), (CPU + "pool.py", "pool.pool")}
    ),
)
def test_without_a_mistake_nothing_is_found(
    file: str, op_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the mistake that is found above, not the way it was planted."""
    mistake = unchanged(file, op_name)
    plant(mistake, monkeypatch)
    check(mistake)


def test_the_mistakes_are_all_different_and_change_the_code() -> None:
    assert len({(m.file, m.old, m.new) for m in MISTAKES}) == len(MISTAKES) >= 100
    assert len(quick()) == 20
    for mistake in MISTAKES:
        source = (ROOT / mistake.file).read_text(encoding="utf-8")
        assert parsed(source.replace(mistake.old, mistake.new)) != parsed(source), mistake


@functools.cache
def parsed(source: str) -> str:
    return ast.dump(ast.parse(source))

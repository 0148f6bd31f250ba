"""calmgrad diff"""

import json
from dataclasses import asdict

import click

from calmgrad.cli.common import json_option, one_line
from calmgrad.errors import CheckFailed


@click.command("diff")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--exact", is_flag=True, help="End with 6 if anything differs.")
@json_option
def command(a: str, b: str, exact: bool, as_json: bool) -> None:
    """What differs between the CWGT files A and B: sizes, metadata, each parameter.

    Of each parameter: both norms, the cosine between them, the norm of the difference relative
    to A's, the largest difference and where it is, and how many elements differ. EWC data are
    compared where both have some. Weights that are NaN or infinite are counted and left out of
    the norms.
    """
    from calmgrad.formats import cwgt
    from calmgrad.model_diff import diff

    found = diff(cwgt.read(a), cwgt.read(b))
    if as_json:
        print(json.dumps({"a": a, "b": b, "identical": found.identical, **asdict(found)}))
    else:
        for name, (one, other) in found.settings.items():
            print(one_line(f"{name}: {one} in A, {other} in B"))
        if found.settings and found.tensors:
            print()
        changed = [tensor for tensor in found.tensors if not tensor.identical]
        if changed:
            width = max(len(tensor.name) for tensor in changed)
            print(
                f"{'parameter':<{width}} {'norm A':>10} {'norm B':>10} {'cosine':>9}"
                f" {'relative':>9} {'largest':>9} {'changed':>17}  at"
            )
        for t in changed:
            cosine = "-" if t.cosine is None else f"{t.cosine:.6f}"
            relative = "-" if t.relative is None else f"{t.relative:.2e}"
            share = f"{t.changed:,}/{t.size:,}"
            bad = f"  {t.not_finite} not finite" if t.not_finite else ""
            print(
                f"{t.name:<{width}} {t.norm_a:>10.4g} {t.norm_b:>10.4g} {cosine:>9}"
                f" {relative:>9} {t.largest:>9.2e} {share:>17}  {list(t.index)}{bad}"
            )
        print(_sentence(len(changed), len(found.tensors), found.identical))
    if exact and not found.identical:
        raise CheckFailed(f"{a} and {b} differ")


def _sentence(changed: int, tensors: int, identical: bool) -> str:
    if identical:
        return "identical: sizes, metadata, sampler defaults and all weights"
    if not tensors:
        return "the sizes differ: parameters cannot be compared"
    return f"{changed} of {tensors} parameters differ" if changed else "all parameters are the same"

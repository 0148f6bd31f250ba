"""calmgrad convert"""

import os

import click

from calmgrad.cli.common import emit, json_option, not_over, size_name
from calmgrad.errors import usage_errors


@click.command("convert")
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option(
    "--l-max", type=click.IntRange(1, 65535), help="Of a file that does not tell.  [default: 768]"
)
@json_option
def command(source: str, target: str, l_max: int | None, as_json: bool) -> None:
    """A CWGT file to safetensors and back, or a calm-mamba checkpoint to CWGT.

    SOURCE says which: a CWGT file becomes safetensors; a safetensors file, or a checkpoint
    folder of calm-train's, becomes CWGT. Metadata, sampler defaults and EWC data are kept; there
    and back gives the same bytes.
    """
    from calmgrad.formats import tensors
    from calmgrad.formats.files import check_writable

    inputs = [source, os.path.join(source, "weights.safetensors")]
    not_over(target, inputs)
    check_writable(target)
    with usage_errors():
        form, model = tensors.convert(source, target, l_max)
    emit(
        {
            "file": target,
            "format": form,
            "size": size_name(model.config),
            "param_count": model.config.param_count,
            "l_max": model.config.l_max,
            "domain": model.metadata.domain,
            "ewc": model.fisher is not None,
        },
        as_json,
    )

"""`mmerc export`: a trained model for programs that have neither PyTorch nor mmerc."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mmerc.cli.outputs import output_file, require_apart
from mmerc.cli.terminal import load_torch, results

app = typer.Typer(no_args_is_help=True)


@app.callback()
def export() -> None:
    """Write trained models for other runtimes."""


@app.command()
def onnx(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder or a model in the box (`meld-text`)."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            callback=output_file,
            help="The ONNX file to write: features in, emotions out.",
        ),
    ],
    text_encoder: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=output_file,
            help="Write the text encoder, too: token ids in, text vectors out.",
        ),
    ] = None,
) -> None:
    """Write a network as ONNX, checked against the model.

    examples/onnx_predict.py runs it.
    """
    require_apart([out, text_encoder])
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # tracing warns of shapes that it cannot infer
    load_torch()
    from mmerc.export import export_onnx, export_text_encoder

    written = [export_onnx(checkpoint, out)]
    if text_encoder is not None:
        written.append(export_text_encoder(checkpoint, text_encoder))
    for file in written:
        results().print(
            f"{file.path}: {file.size / 1e6:.1f} MB; differs from the model by {file.difference:.1g} at most"
        )

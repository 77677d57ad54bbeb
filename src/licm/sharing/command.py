"""The commands `licm models` and `licm export`; nothing heavy is imported before they are called."""

import json
from pathlib import Path
from typing import Annotated

import typer

from licm.completion import complete_model
from licm.console import log
from licm.options import AsJson, Quiet


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Print the card of this one, or of a folder.", autocompletion=complete_model
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the trained models that come with the package, or print the card of one.

    Example: licm models mnist-10, then licm restore mnist-10 damaged/ restored/
    """
    from licm.sharing.cards import card_text, list_pretrained, models_table, read_card

    if as_json:
        typer.echo(json.dumps(list_pretrained() if name is None else read_card(name)))
    else:
        typer.echo(models_table() if name is None else card_text(read_card(name)).rstrip())


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, or a model of licm models.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, or a new .onnx file.")],
    name: Annotated[str | None, typer.Option(help="What the model is called. [the name of OUT]")] = None,
    licence: Annotated[str | None, typer.Option(help="Under which you give it: MIT, CC-BY-SA-4.0.")] = None,
    note: Annotated[str | None, typer.Option(help="A sentence for the card.")] = None,
    float32: Annotated[bool, typer.Option("--float32", help="Keep the weights as they are, not as float16.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a small model to share of a run: weights, configuration and a card; or ONNX (an extra).

    The card has the figures of licm evaluate. Nothing in it is a pickle, and commands read the folder as a run.

    Example: licm export runs/first shared/first --licence MIT
    """
    log(quiet=quiet)
    if out.suffix == ".onnx":
        if name or licence or note or float32:
            raise ValueError("--name, --licence, --note and --float32 are for a folder; an ONNX file has no card")
        from licm.saving import load_run
        from licm.sharing.onnx import export_onnx
        from licm.shipped import find_run

        export_onnx(load_run(find_run(run)), out)
        record = {"onnx": str(out)}
    else:
        from licm.sharing.exporting import export_model

        record = export_model(run, out, name=name, licence=licence, note=note, half=not float32)
    if as_json:
        typer.echo(json.dumps(record))
    elif not quiet:
        typer.echo(f"saved: {out}")

"""The command line: one short function a command. torch is imported only by commands that compute."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from licm.config import Config

app = typer.Typer(
    help="Learn independent causal mechanisms: competing experts that invert unknown transformations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, mps.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The run folder, new or (with --resume) existing.")],
    config: Annotated[Path | None, typer.Option(help="A YAML file with the keys of config.yaml.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key: experts.width=32.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="default, or paper for the slides' recipe.")] = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed.", min=0)] = None,
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    canonical: Annotated[str | None, typer.Option(help="Clean images of your own (folder, .npz, IDX).")] = None,
    transformed: Annotated[str | None, typer.Option(help="Transformed images of your own.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train experts on the embedded digits, or on two folders of your own.

    Example: licm train --out runs/first --set steps=300
    """
    from licm.config import parse_overrides
    from licm.progress import Progress
    from licm.training import train as train_run

    overrides = parse_overrides(settings or [])
    given = {"seed": seed, "data.canonical": canonical, "data.transformed": transformed}
    overrides |= {key: value for key, value in given.items() if value is not None}
    chosen = _choose_config(out if resume else None, config, preset, overrides)
    with Progress(chosen, quiet=quiet) as progress:
        run = train_run(chosen, out, resume=resume, device=device, callbacks=[progress])
    if not run.finished:
        saved = f"at step {run.step} and saved" if run.step else "before the first step, nothing to save yet"
        _fail(f"stopped {saved}; go on with: licm train --out {out} --resume", code=130)


def _choose_config(run: Path | None, config: Path | None, preset: str | None, overrides: dict[str, Any]) -> "Config":
    """The configuration of a run to resume, of a file, or of a preset, with the changes asked for."""
    from licm.checkpoint import CONFIG, read_config
    from licm.config import load_config, make_config

    if run is not None and config is None and preset is None:
        read_config(run)
        return load_config(run / CONFIG, overrides=overrides)
    if config is not None:
        return load_config(config, preset=preset, overrides=overrides)
    return make_config(preset or "default", overrides=overrides)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    split: Annotated[str, typer.Option(help="test to report, validation to choose.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole record as JSON.")] = False,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Measure a run on originals it has never seen, and save the record in its folder.

    A run on folders of your own is measured, without a truth to compare with, on the transformed images it had.

    Example: licm evaluate runs/first --json
    """
    from licm.checkpoint import write_text
    from licm.checks import unknown_name
    from licm.evaluation import evaluate as evaluate_run
    from licm.tables import evaluation_table

    if split not in ("test", "validation"):
        raise ValueError(unknown_name("split", split, ("test", "validation")))
    record = evaluate_run(run, split=split, device=device)  # type: ignore[arg-type]
    name = "evaluation.json" if split == "test" else f"evaluation.{split}.json"
    write_text(run / name, json.dumps(record, indent=1) + "\n")
    if as_json:
        typer.echo(json.dumps(record))
    elif not quiet:
        typer.echo(evaluation_table(record))
        typer.echo(f"saved: {run / name}")


@app.command()
def structure(
    data: Annotated[Path, typer.Argument(metavar="DATA.csv|.parquet", help="A table with a name for each column.")],
    picture: Annotated[Path | None, typer.Option(help="Where to draw it (.png, .svg, .pdf); DATA.tree.png.")] = None,
    no_picture: Annotated[bool, typer.Option("--no-picture", help="Only print the tree.")] = False,
    kind: Annotated[str, typer.Option(help="auto, discrete, gaussian, or mixed for bins.")] = "auto",
    bins: Annotated[int, typer.Option(help="Of a continuous column among discrete ones.")] = 8,
    missing: Annotated[str, typer.Option(help="Values: refuse, pairwise, or category.")] = "refuse",
    root: Annotated[str | None, typer.Option(help="The column the tree hangs from.")] = None,
    bias_correction: Annotated[bool, typer.Option("--bias-correction", help="Miller and Madow's.")] = False,
    approximate: Annotated[bool, typer.Option("--approximate", help="For tens of thousands of columns.")] = False,
    bootstrap: Annotated[int, typer.Option(help="Samples for the confidence in each edge.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of samples and sketch.", min=0)] = 0,
    quiet: Quiet = False,
) -> None:
    """Print and draw the Chow-Liu tree of a table: the maximum spanning tree under mutual information.

    Example: licm structure survey.csv --picture survey.svg --bootstrap 100
    """
    import numpy as np

    from licm.causal.chow_liu import ChowLiu
    from licm.causal.drawing import check_picture_path, draw_tree, tree_text
    from licm.causal.table_files import read_table

    where = check_picture_path(picture or f"{data.stem}.tree.png")
    columns = read_table(data)
    model = ChowLiu(
        kind=kind,  # type: ignore[arg-type]
        bins=bins,
        missing=missing,  # type: ignore[arg-type]
        root=root,
        bias_correction=bias_correction,
        method="approximate" if approximate else "exact",
        seed=seed,
    ).fit(columns)
    tree = model.to_networkx()
    confidence = model.confidence_by_edge(np.random.default_rng(seed), repeats=bootstrap) if bootstrap else None
    if not quiet:
        rows = len(next(iter(columns.values())))
        typer.echo(f"{len(columns)} {model.kind_} variables, {rows} rows, {model.total_weight_:.6g} nats in the tree")
        typer.echo(tree_text(tree, model.root_, confidence=confidence))
    if not no_picture:
        draw_tree(tree, model.root_, where, confidence=confidence)
        if not quiet:
            typer.echo(f"saved: {where}")


def _fail(message: str, *, code: int = 1) -> NoReturn:
    typer.echo(message, err=True)
    raise SystemExit(code)


def main() -> None:
    """Runs the command line; a user's error is one line (all of it with LICM_DEBUG=1)."""
    try:
        app()
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("LICM_DEBUG") == "1":
            raise
        _fail(f"licm: error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        _fail("licm: interrupted", code=130)


if __name__ == "__main__":
    main()

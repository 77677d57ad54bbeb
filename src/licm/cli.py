"""The command line: one short function a command. torch is imported only by commands that need it."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from licm.completion import (
    complete_mechanism,
    complete_preset,
    complete_setting,
    complete_source,
    complete_split,
)
from licm.console import fail, log, run_app
from licm.options import AsJson, Device, Quiet
from licm.reproduction.command import reproduce
from licm.sharing.command import export, models

if TYPE_CHECKING:
    from licm.config import Config

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Learn independent causal mechanisms: competing experts that invert unknown transformations.

    Example: licm train --out runs/first, then licm evaluate runs/first
    """
    if version:
        from licm import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The run folder, new or (with --resume) existing.")],
    config: Annotated[Path | None, typer.Option(help="A YAML file with the keys of config.yaml.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key: experts.width=32.",
            autocompletion=complete_setting,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="default, or paper for the slides' recipe; see licm presets.",
            autocompletion=complete_preset,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed.", min=0)] = None,
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    canonical: Annotated[str | None, typer.Option(help="Clean images of your own (folder, .npz, IDX).")] = None,
    transformed: Annotated[str | None, typer.Option(help="Transformed images of your own.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write OUT/tensorboard (an extra).")] = False,
    quiet: Quiet = False,
) -> None:
    """Train experts on the embedded digits or on images of your own.

    Example: licm train --out runs/first --set steps=300
    """
    from licm.config import parse_overrides
    from licm.progress import Progress
    from licm.training import train as train_run

    log(quiet=quiet)
    overrides = parse_overrides(settings or [])
    given = {"seed": seed, "data.canonical": canonical, "data.transformed": transformed}
    overrides |= {key: value for key, value in given.items() if value is not None}
    chosen = _choose_config(out if resume else None, config, preset, overrides)
    with ExitStack() as shown:
        watchers = []
        if tensorboard:
            from licm.tensorboard import TensorBoard

            watchers.append(shown.enter_context(TensorBoard(out)).watch)
        progress = shown.enter_context(Progress(chosen, quiet=quiet))
        run = train_run(chosen, out, resume=resume, device=device, callbacks=[progress], watchers=watchers)
    if not run.finished:
        saved = f"at step {run.step} and saved" if run.step else "before the first step, nothing to save yet"
        fail(f"stopped {saved}; go on with: licm train --out {out} --resume", code=130)


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
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    split: Annotated[
        str,
        typer.Option(help="test to report, validation to choose.", autocompletion=complete_split),
    ] = "test",
    as_json: AsJson = False,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Measure a run on originals it has never seen.

    The record is saved in the run's folder. A run on images of your own is measured on the transformed images it had,
    without a truth to compare with.

    Example: licm evaluate runs/first --json
    """
    from licm.checks import unknown_name
    from licm.confidence import ensure_calibration
    from licm.evaluation import evaluate as evaluate_run
    from licm.evaluation import take_samples
    from licm.records import save_samples
    from licm.tables import evaluation_table
    from licm.writing import write_text

    log(quiet=quiet)
    if split not in ("test", "validation"):
        raise ValueError(unknown_name("split", split, ("test", "validation")))
    ensure_calibration(run, device=device)
    record = evaluate_run(run, split=split, device=device)  # type: ignore[arg-type]
    suffix = "" if split == "test" else f".{split}"
    name = f"evaluation{suffix}.json"
    write_text(run / name, json.dumps(record, indent=1) + "\n")
    save_samples(run / f"samples{suffix}.npz", take_samples(run, split=split, device=device))  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(record))
    elif not quiet:
        typer.echo(evaluation_table(record))
        typer.echo(f"saved: {run / name}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, finished or not, evaluated or not.")],
    out: Annotated[Path | None, typer.Option(help="The page to write; figures go beside it. [RUN/report.html]")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw what a run learnt as one HTML page.

    It is made from the run's records alone. Its figures are saved too, as PNG and SVG.

    Example: licm report runs/first
    """
    from licm.report import write_report

    page, *figures = map(str, write_report(run, out))
    if as_json:
        typer.echo(json.dumps({"report": page, "figures": figures}))
    elif not quiet:
        typer.echo(f"saved: {page} and {len(figures)} figures beside it")


@app.command()
def describe(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    images: Annotated[Path | None, typer.Option(help="Transformed images to look at. [those of training]")] = None,
    as_json: AsJson = False,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Say what each expert does, without labels, and save it in the run's folder, for its report too.

    Example: licm describe runs/first, then licm report runs/first
    """
    from licm.describing import describe_and_save
    from licm.tables import description_table

    log(quiet=quiet)
    record = describe_and_save(run, images=images, device=device)
    if as_json:
        typer.echo(json.dumps(record))
    elif not quiet:
        typer.echo(description_table(record))


@app.command()
def restore(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, or a model of licm models.")],
    source: Annotated[Path, typer.Argument(metavar="IN", help="An image, or a folder of images.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder for the restored images.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on in OUT: also with new or skipped images.")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write assignments.parquet too (an extra).")] = False,
    routed: Annotated[bool, typer.Option("--routed", help="Ask one expert an image, named by the router.")] = False,
    keep: Annotated[str, typer.Option(help="Of what it abstains from, copy as it is: none, clean, all.")] = "clean",
    device: Device = "cpu",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Restore images of any sizes: each goes through the expert that wins it.

    OUT gets every image under its name and in its format, and assignments.csv: path, expert, score, margin, abstained
    (clean, or unknown: under no mechanism of the run), confidence. An image that cannot be restored is named and
    skipped; the exit status is then 3.

    Example: licm restore runs/first damaged/ restored/
    """
    from licm.assignments import ASSIGNMENTS, SKIPPED
    from licm.progress import track_images
    from licm.restoring import restore_files
    from licm.shipped import find_run

    log(quiet=quiet)
    run = find_run(run)
    try:
        with track_images(quiet=quiet or as_json) as callback:
            options = {"resume": resume, "parquet": parquet, "routed": routed, "keep": keep, "device": device}
            record = restore_files(run, source, out, **options, callback=callback)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        fail("stopped, and what is done is kept; go on with the same command and --resume", code=130)
    if as_json:
        typer.echo(json.dumps(record))
    elif not quiet:
        if record["images"]:
            typer.echo(f"restored {record['images']} image(s), mean score {record['mean_score']:.3f}")
            typer.echo(f"won by expert: {', '.join(f'{i}: {n}' for i, n in enumerate(record['wins']) if n)}")
        if told := ", ".join(f"{count} {reason}" for reason, count in record["abstained"].items() if count):
            typer.echo(f"abstained: {told} (kept as they are: {keep})")
        typer.echo(f"saved: {out}, with {ASSIGNMENTS}")
    if record["skipped"]:
        fail(f"licm: {record['skipped']} image(s) could not be restored: {out / SKIPPED} says why", code=3)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    out: Annotated[Path | None, typer.Option(help="Draw a figure too: a new .png or .svg file.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put several runs in one table, and in one figure.

    The table has mean and spread. Nothing is computed anew: evaluate the runs first. Unfinished runs are marked and
    not in the mean.

    Example: licm compare runs/seed-0 runs/seed-1 --out seeds.png
    """
    from licm.comparison import compare_runs, comparison_table, save_figure

    comparison = compare_runs(runs)
    if out is not None:
        save_figure(comparison, out)
    if as_json:
        typer.echo(json.dumps(comparison))
    elif not quiet:
        typer.echo(comparison_table(comparison))
        if out is not None:
            typer.echo(f"saved: {out}")


@app.command()
def data(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE", help="Fetch and verify this one; without, list all.", autocompletion=complete_source
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the data sources, or fetch one ahead of time.

    The list tells where they are and what would be downloaded.

    Example: licm data mnist
    """
    from licm.catalogue import fetch, list_sources, sources_table

    log(quiet=quiet)
    if source is not None:
        row = fetch(source)
        if as_json:
            typer.echo(json.dumps(row))
        elif not quiet:
            typer.echo(f"{source} is here and whole: {', '.join(row['folders'])}")
    elif as_json:
        typer.echo(json.dumps(list_sources()))
    elif not quiet:
        typer.echo(sources_table())


@app.command()
def presets(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Print this preset as a file for --config.",
            autocompletion=complete_preset,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the presets, or print one as a file to change.

    Example: licm presets paper > mine.yaml, then licm train --config mine.yaml --out runs/mine
    """
    from licm.catalogue import list_presets, preset_yaml, presets_table
    from licm.config import make_config

    if as_json:
        typer.echo(json.dumps(list_presets() if name is None else make_config(name).model_dump(mode="json")))
    else:
        typer.echo(presets_table() if name is None else preset_yaml(name).rstrip())


@app.command()
def mechanisms(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Tell all of this one.", autocompletion=complete_mechanism),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the mechanisms and their sets, or tell all of one.

    Of one are told its parameters, their bounds, and settings from weak to strong.

    Example: licm mechanisms rotate, then licm train --set 'mechanisms=["rotate(degrees=20)", invert]' --out runs/mine
    """
    from licm.catalogue import list_mechanisms, mechanism_text, mechanisms_table, one_mechanism

    if as_json:
        typer.echo(json.dumps(list_mechanisms() if name is None else one_mechanism(name)))
    else:
        typer.echo(mechanisms_table() if name is None else mechanism_text(name))


@app.command()
def structure(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A .csv with a line of names, or a .parquet.")],
    out: Annotated[Path | None, typer.Option(help="The picture: a new .png or .svg file. [TABLE.tree.png]")] = None,
    kind: Annotated[str, typer.Option(help="discrete, gaussian, or mixed: continuous in bins.")] = "auto",
    missing: Annotated[str, typer.Option(help="Values: refuse, pairwise, or category.")] = "refuse",
    root: Annotated[str | None, typer.Option(help="The column the tree hangs from.")] = None,
    bias_correction: Annotated[bool, typer.Option("--bias-correction", help="Miller and Madow's.")] = False,
    approximate: Annotated[bool, typer.Option("--approximate", help="For tens of thousands of columns.")] = False,
    bootstrap: Annotated[int, typer.Option(help="Samples for the confidence in each edge.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of these samples and of --approximate.", min=0)] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print and draw the Chow-Liu tree of a table: the maximum spanning tree under mutual information.

    Example: licm structure survey.csv --bootstrap 100
    """
    from licm.causal.structure import learn_structure, structure_text

    log(quiet=quiet)
    method = "approximate" if approximate else "exact"
    options = {"kind": kind, "missing": missing, "root": root, "bias_correction": bias_correction, "method": method}
    record = learn_structure(table, out, bootstrap=bootstrap, seed=seed, **options)
    if as_json:
        typer.echo(json.dumps(record))
    elif not quiet:
        typer.echo(structure_text(record))
        typer.echo(f"saved: {record['picture']}")


for command in (reproduce, models, export):
    app.command()(command)


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()

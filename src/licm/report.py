"""Records to one HTML page that needs nothing beside it, and the figures on it as PNG and SVG files."""

import base64
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from licm.captions import ALTERNATIVES, headlines, what_was_learnt
from licm.checkpoint import HISTORY
from licm.checks import KINDS
from licm.config import flat, make_config, to_yaml
from licm.drawing import DARK, render
from licm.figures import FIGURES
from licm.records import Records, read_records
from licm.writing import write_bytes, write_text, writing

REPORT, FIGURE_FOLDER = "report.html", "figures"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        figure: Its name in `FIGURES`.
        title: Its heading.
        reading: How to read the figure.
        missing: From the records why the figure cannot be drawn, or None if it can.
        note: From the records what is missing on the figure, or None.
    """

    figure: str
    title: str
    reading: str
    missing: Callable[[Records], str | None]
    note: Callable[[Records], str | None] = lambda records: None


def _needs_steps(records: Records) -> str | None:
    return None if records.history["step"] else "The run has not done its first step yet."


def _needs_identity(records: Records) -> str | None:
    return None if records.history["identity"] else "The run has not come to the end of its identity start yet."


def _needs_validation(records: Records) -> str | None:
    if records.mechanisms is None:
        return "Left out: what happened to images of your own is not known, so there is nothing to compare with."
    if not records.history["validation"]:
        return f"Not yet: the first validation comes at step {records.config.training.validate_every}."
    return None


def _needs_winners(records: Records) -> str | None:
    return None if records.winners is not None else _needs_validation(records)


def _needs_samples(records: Records) -> str | None:
    if records.samples is not None:
        return None
    return f"Not yet: type  {_how_to_evaluate(records)}"


def _needs_description(records: Records) -> str | None:
    if records.description is not None and records.pictures is not None:
        return None
    return f"Not yet: type  licm describe {_quoted(records)}  and then  licm report {_quoted(records)}"


def _of_another_step(records: Records) -> str | None:
    if records.description is None or records.description["steps"] == records.steps:
        return None
    return f"This describes step {records.description['steps']}; describe the run again for a fresh account."


def _without_accuracy(records: Records) -> str | None:
    if _needs_validation(records) is None and not records.history["judge"]:
        return "Accuracy is left out: the history has none, as the classes of the images are not known to it."
    return None


SECTIONS = (
    Section(
        "winners",
        "Who wins what",
        "A row is a mechanism, a column an expert; the number is the percentage of the mechanism's images that "
        "the expert wins (below 0.5 is left blank). Experts stand in the order of the mechanisms they are matched "
        "to (framed), so a full diagonal means: one expert for each mechanism. Nobody told the experts which "
        "image is under which mechanism.",
        _needs_winners,
    ),
    Section(
        "samples",
        "What every expert makes of an image",
        "The first test image under each mechanism (of images of your own the first that each expert wins), not "
        "chosen by hand: what the experts saw, what each made of it, and the original, which they never saw. The "
        "winner, the output that the discriminator takes most for a clean image, is framed.",
        _needs_samples,
    ),
    Section(
        "experts",
        "What each expert does",
        "Said without labels. Left: the first images each expert wins, and what it makes of them. Right: a dot, an "
        "edge and a flat field, and what it makes of those. The words are a guess: of moving, inverting, scaling, "
        "smoothing and sharpening what is nearest to the expert's work on the images it wins; explained is the share "
        "of its outputs' variance that this reproduces.",
        _needs_description,
        _of_another_step,
    ),
    Section(
        "specialisation",
        "How the experts specialised",
        "Each panel is a mechanism, each line an expert's mean score on validation images under it. Bold: the "
        "expert that wins most of it in the end; dashed: the second best in the end; grey: the others. Settled: "
        "from this step on its expert wins at least 95 % of it.",
        _needs_validation,
    ),
    Section(
        "win_shares",
        "Shares of images won",
        "The height of a band is the share of training images its expert wins (moving average), beside it the "
        "expert and the mechanism it wins most of, where known. Dotted lines: an idle expert started again as a "
        "copy of an overloaded one.",
        _needs_steps,
    ),
    Section(
        "learning",
        "Learning",
        "On validation images. Accuracy is that of a classifier trained on clean images only; dashed are its "
        "bounds, on the hidden originals (clean) and on what the experts are given (transformed).",
        _needs_validation,
        _without_accuracy,
    ),
    Section(
        "identity",
        "Identity start",
        "Before they compete, experts learn to give back what they are given. How far each was from that, over "
        "at most 256 images (an error of 0.01 is a typical difference of a tenth of full brightness).",
        _needs_identity,
    ),
    Section(
        "health",
        "Health",
        "What can be seen without knowing the mechanisms. Margin: how far winners lead the second best. Idle: experts "
        "that lead hardly anywhere. Pairs that do the same: either could do the other's work. Losses are smoothed.",
        _needs_steps,
    ),
)


def write_report(folder: str | Path, out: str | Path | None = None) -> list[Path]:
    """Writes the page and its figures.

    Args:
        folder: The run folder.
        out: The page; None for `report.html` in the run folder. The figures go to `figures` beside it.

    Returns:
        The files written, the page first.

    Raises:
        ValueError: If the folder is not a run of images, a record is damaged or of another version, or something else
            than a report is in the page's place.
        OSError: If a file cannot be written.
    """
    records = read_records(folder)
    _check_of_images(records)
    page = Path(folder) / REPORT if out is None else Path(out)
    _check_place(page)
    place = page.parent / FIGURE_FOLDER
    if out is not None and not page.exists():
        _check_free(place)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    drawn = [section.figure for section in SECTIONS if section.missing(records) is None]
    written, inlined = [page], {}
    for name in drawn:
        inlined[name] = {"light": render(FIGURES[name](records), "svg")}
        inlined[name]["dark"] = render(FIGURES[name](records, theme=DARK), "svg")
        written += _write_figure(place, name, records, svg=inlined[name]["light"])
    if {"winners", "samples"} <= set(drawn):
        written += _write_figure(place, "summary", records, svg=render(FIGURES["summary"](records), "svg"))
    write_text(page, make_page(records, inlined))
    return written


def _check_of_images(records: Records) -> None:
    """A page shows pictures, under the names of mechanisms of images."""
    dims = records.history["identity"][0].get("dims", 2) if records.history["identity"] else 2
    if dims != 2:
        raise ValueError(
            f"{str(records.folder)!r} is a run of {KINDS[dims]}: a report is of images; the figures are in {HISTORY}"
        )


def _check_place(page: Path) -> None:
    """A report may be drawn again; whatever else lies there is not overwritten."""
    if page.exists() and not (page.is_file() and b"<title>licm: " in page.read_bytes()[:1000]):
        raise ValueError(f"{str(page)!r} exists already and is no report: choose another name, nothing is overwritten")


def _check_free(place: Path) -> None:
    """Of a page that is new the figures are new, too."""
    for taken in (place / f"{name}{suffix}" for name in FIGURES for suffix in (".png", ".svg")):
        if taken.exists():
            raise ValueError(f"{str(taken)!r} exists already: choose another folder, nothing is overwritten")


def _write_figure(place: Path, name: str, records: Records, *, svg: bytes) -> list[Path]:
    # Drawn anew for each file: saving moves a constrained layout a little, so a second file would not be the same.
    files = {place / f"{name}.png": render(FIGURES[name](records), "png"), place / f"{name}.svg": svg}
    for path, content in files.items():
        write_bytes(path, content)
    return list(files)


def make_page(records: Records, figures: dict[str, dict[str, bytes]]) -> str:
    """Returns the page as HTML.

    Args:
        records: The run's.
        figures: SVG under "light" and "dark" of each figure that can be drawn, by name.
    """
    environment = Environment(
        loader=PackageLoader("licm"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sections = [
        {
            "name": section.figure,
            "title": section.title,
            "reading": section.reading,
            "missing": section.missing(records),
            "note": section.note(records),
            "images": {theme: _data_uri(svg) for theme, svg in figures.get(section.figure, {}).items()},
            "alt": ALTERNATIVES[section.figure](records) if section.figure in figures else "",
        }
        for section in SECTIONS
    ]
    return environment.get_template("report.html.j2").render(
        name=records.folder.resolve().name,
        status=_status(records),
        learnt=what_was_learnt(records),
        of=_measured_on(records),
        headlines=headlines(records),
        sections=sections,
        mechanisms=_mechanism_table(records),
        cards=_card_table(records),
        revivals=records.history["revival"],
        changes=_changes(records),
        config=to_yaml(records.config),
        commands=_commands(records),
        trained_with=records.trained_with,
        preset=records.config.preset,
        seed=records.config.seed,
    )


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def _quoted(records: Records) -> str:
    return shlex.quote(str(records.folder))


def _how_to_evaluate(records: Records) -> str:
    return f"licm evaluate {_quoted(records)}  and then  licm report {_quoted(records)}"


def _status(records: Records) -> list[str]:
    """Says how far the run is, and what to type next."""
    end = records.history["step"][-1]["end"] if records.history["step"] else records.config.training.steps
    if records.finished:
        lines = [f"Finished after {records.steps} steps in {records.history['step'][-1]['seconds']:.0f} s of training."]
    else:
        lines = [
            f"Not finished: {records.steps} of {end} steps. Go on with:  licm train --out {_quoted(records)} --resume"
        ]
    if records.evaluation is None:
        lines.append(
            f"Not evaluated yet, so numbers are of validation images, if any. Type  {_how_to_evaluate(records)}"
        )
    elif records.evaluation["steps"] != records.steps:
        of = f"The evaluation is of step {records.evaluation['steps']}."
        lines.append(f"{of} For a fresh one type  {_how_to_evaluate(records)}")
    return lines


def _measured_on(records: Records) -> str:
    """Says what the headline numbers were measured on."""
    if records.mechanisms is None:
        return f"Over {records.winners_of}, the transformed ones of its training."
    return (
        f"Over {records.winners_of}, which training never saw; each under one of {len(records.mechanisms)} mechanisms."
    )


def _mechanism_table(records: Records) -> list[dict[str, Any]]:
    """A row per mechanism, of the evaluation."""
    if records.evaluation is None or records.mechanisms is None or records.winners is None:
        return []
    figures, settled = records.evaluation["per_mechanism"], records.evaluation["settled_steps"]
    accuracies = figures.get("accuracy_restored") or [None] * len(records.mechanisms)
    return [
        {
            "name": name,
            "expert": owner,
            "share": records.winners[index, owner],
            "settled": settled[index] if settled else None,
            "before": figures["psnr_transformed"][index],
            "psnr": figures["psnr"][index],
            "ssim": figures["ssim"][index],
            "accuracy": accuracies[index],
        }
        for index, (name, owner) in enumerate(zip(records.mechanisms, records.owners))
    ]


def _card_table(records: Records) -> list[dict[str, Any]]:
    """A row per expert, of the description, in the order of the figure."""
    if records.description is None:
        return []
    return [records.description["experts"][expert] for expert in records.expert_order]


def _changes(records: Records) -> list[str]:
    """The keys in which the configuration differs from its preset, as `--set` takes them."""
    usual = flat(make_config(records.config.preset))
    ours = flat(records.config)
    return [f"{key} = {value}" for key, value in ours.items() if value != usual[key] and key != "seed"]


def _commands(records: Records) -> list[str]:
    config = shlex.quote(str(records.folder / "config.yaml"))
    device = records.trained_with.get("device", "cpu")
    where = "" if device == "cpu" else f" --device {device}"
    again = "runs/again"
    return [
        f"licm train --config {config} --out {again}{where}",
        f"licm evaluate {again}",
        f"licm report {again}",
    ]

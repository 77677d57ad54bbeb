"""Records of a reproduction to figures: functions of what was found to matplotlib figures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from licm.config import Config
from licm.drawing import LIGHT, Theme, canvas, label_at_right, mosaic, spread
from licm.figures import specialisation, winner_heatmap
from licm.records import Records
from licm.reproduction.measuring import unpack
from licm.reproduction.summary import SUCCESS, Found

Draw = Callable[..., Figure]


def _records(found: Found) -> Records:
    """An evaluation as the records of its run, for the figures of a single run."""
    record = found.records["evaluation"]
    history = {"step": [], "identity": [], "revival": [], "judge": record["judge"], "validation": record["validation"]}
    config = Config.model_validate(record["config"])
    return Records(Path(found.row.experiment), config, record["trained_with"], history, record)


def all_seeds(found: Sequence[Found], *, theme: Theme = LIGHT) -> Figure:
    """Draws the matched share of every seed over training; those that fail at the end are dashed and named.

    Those that diverged have nothing to draw and are counted.
    """
    diverged = sum(each.failed is not None for each in found)
    with canvas(theme, 8, 3.6) as figure:
        axes = figure.add_subplot()
        axes.axhline(SUCCESS, color=theme.muted, linestyle=":", linewidth=1)
        failed = []
        for each in found:
            if (record := each.records.get("evaluation")) is None:
                continue
            succeeded = record["matched_share"] >= SUCCESS
            steps, shares = ([v[name] for v in record["validation"]] for name in ("step", "matched_share"))
            colour, dash = (theme.accent, "-") if succeeded else (theme.second, "--")
            axes.plot(steps, shares, color=colour, linestyle=dash, linewidth=1 if succeeded else 1.6)
            if not succeeded:
                failed.append((shares[-1], f"seed {each.row.seed}"))
        for height, (_, name) in zip(spread([share for share, _ in failed], 0.06), failed):
            label_at_right(axes, height, name, color=theme.second)
        axes.set(xlabel="step", ylabel="matched share on validation", ylim=(0, 1.02))
        count = sum("evaluation" in each.records for each in found)
        axes.set_title(f"{count + diverged} seeds, {len(failed) + diverged} failed", fontsize=9)
    return figure


def accuracy_over_training(found: Sequence[Found], *, theme: Theme = LIGHT) -> Figure:
    """Draws the classifier's accuracy on restored validation digits for every seed, between its bounds."""
    with canvas(theme, 7, 3.4) as figure:
        axes = figure.add_subplot()
        for each in found:
            seen = [v for v in each.records["evaluation"]["validation"] if v["accuracy_restored"] is not None]
            axes.plot([v["step"] for v in seen], [v["accuracy_restored"] for v in seen], color=theme.accent)
        judges = [each.records["evaluation"]["judge"][0] for each in found]
        lines = {n: float(np.mean([judge[f"accuracy_{n}"] for judge in judges])) for n in ("clean", "transformed")}
        augmented = [e.records["augmented"]["accuracy_transformed"] for e in found if "augmented" in e.records]
        if augmented:
            lines["augmented, on test"] = float(np.mean(augmented))
        for name, height in zip(lines, spread(list(lines.values()), 0.06)):
            axes.axhline(lines[name], color=theme.second, linestyle="--", linewidth=1.3)
            label_at_right(axes, height, f"{name} {lines[name]:.3f}", color=theme.second)
        axes.set(xlabel="step", ylabel="accuracy on restored digits", ylim=(0, 1.02))
    return figure


def _grid(images: np.ndarray, columns: Sequence[str], rows: Sequence[str], theme: Theme) -> Figure:
    """Draws images, uint8 [rows, columns, c, h, w], under names."""
    high, wide = images.shape[-2:]
    gap = max(2, wide // 9)
    gaps = [0, 3 * gap, *[gap] * (len(columns) - 2)]
    ground, lefts, uppers = mosaic(images, gaps, gap)
    with canvas(theme, 2.0 + 0.68 * len(columns), 0.7 + 0.68 * len(rows)) as figure:
        axes = figure.add_subplot()
        axes.imshow(ground, interpolation="none")
        axes.set_anchor("E")  # what is left of the width is for the names of the rows
        axes.set_xticks([left + wide / 2 for left in lefts], columns)
        axes.set_yticks([upper + high / 2 for upper in uppers], rows)
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
    return figure


def recovered_digits(found: Found, *, theme: Theme = LIGHT) -> Figure:
    """Draws, for an image under each mechanism, what the winner makes of it at several steps, and the original."""
    record = found.records["recovered"]
    names = found.records["evaluation"]["mechanisms"]
    columns = ["input", *(f"step\n{step}" for step in record["steps"]), "original"]
    return _grid(unpack(record["images"]), columns, names, theme)


def psnr_per_mechanism(found: Sequence[Found], *, theme: Theme = LIGHT) -> Figure:
    """Draws the PSNR under each mechanism, mean over seeds, of the winners and of paired experts."""
    names = found[0].records["evaluation"]["mechanisms"]
    series = {
        "winners": ([each.records["evaluation"]["per_mechanism"]["psnr"] for each in found], theme.accent, "o"),
        "paired experts": (
            [each.records["supervised"]["per_mechanism"]["psnr"] for each in found if "supervised" in each.records],
            theme.second,
            "s",
        ),
    }
    with canvas(theme, 7, 0.9 + 0.3 * len(names)) as figure:
        axes = figure.add_subplot()
        for name, (values, colour, marker) in series.items():
            if values:
                axes.plot(np.mean(values, axis=0), range(len(names)), marker, color=colour, label=name)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xlabel="PSNR of restored test digits, dB")
        axes.grid(axis="x", color=theme.faint, linewidth=0.5)
        axes.legend(frameon=False, fontsize=8)
    return figure


def other_script(found: Found, *, theme: Theme = LIGHT) -> Figure:
    """Draws the slides' grid: inputs by what each expert makes of them, experts in the order of the mechanisms."""
    record = found.records["transfer"]
    images = unpack(record["grid"])
    matched = record["expert_order"]
    order = matched + [expert for expert in range(images.shape[1] - 1) if expert not in matched]
    columns = ["input", *(f"Exp{expert}" for expert in order)]
    return _grid(images[:, [0, *(1 + expert for expert in order)]], columns, record["mechanisms"], theme)


def figures_for(experiment: str, found: Sequence[Found]) -> dict[str, Draw]:
    """Returns what can be drawn of an experiment: functions of a theme, by a title that says what is to be seen."""
    evaluated = [each for each in found if "evaluation" in each.records]
    if not evaluated:
        return {}
    first = evaluated[0]
    drawn: dict[str, Any] = {}
    if experiment == "specialisation":
        drawn["Matched share of every seed over training"] = _of(all_seeds, found)
        drawn[f"Every expert's mean score on each mechanism, seed {first.row.seed}"] = _of(
            specialisation, _records(first)
        )
        drawn[f"Winner matrix, seed {first.row.seed}"] = _of(winner_heatmap, _records(first))
    if experiment == "recovery":
        if "recovered" in first.records:
            drawn[f"Validation digits restored over training, seed {first.row.seed}"] = _of(recovered_digits, first)
        drawn["PSNR by mechanism"] = _of(psnr_per_mechanism, evaluated)
    if experiment == "classifier" and all(each.records["evaluation"]["judge"] for each in evaluated):
        drawn["Accuracy on restored digits over training, a line for each seed"] = _of(
            accuracy_over_training, evaluated
        )
    if experiment.startswith("too_"):
        for each in evaluated:
            title = f"Winner matrix, {each.row.condition}, seed {each.row.seed}"
            drawn[title] = _of(winner_heatmap, _records(each))
    if experiment in ("omniglot", "fashion_mnist") and "transfer" in first.records:
        drawn[f"Inputs and what each expert makes of them, {first.row.condition}, seed {first.row.seed}"] = _of(
            other_script, first
        )
    return drawn


def _of(draw: Draw, what: Any) -> Draw:
    return lambda theme=LIGHT: draw(what, theme=theme)

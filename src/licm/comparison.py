"""Several runs side by side, from their records alone: one table, one figure."""

import statistics
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from licm.checks import check_picture
from licm.config import flat
from licm.records import Records, read_records
from licm.tables import aligned
from licm.writing import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FIGURES = {  # of an evaluation: title and form
    "matched_share": ("matched share", "{:.3f}"),
    "ari": ("ARI", "{:.3f}"),
    "accuracy_clean": ("accuracy clean", "{:.3f}"),
    "accuracy_transformed": ("transformed", "{:.3f}"),
    "accuracy_restored": ("restored", "{:.3f}"),
    "psnr": ("PSNR, dB", "{:.1f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "winner_margin": ("winner margin", "{:.3f}"),
    "num_dead_experts": ("dead experts", "{:.3g}"),
    "train_seconds": ("seconds", "{:.0f}"),
}
_DRAWN = {
    "matched_share": "matched share",
    "accuracy_restored": "accuracy on restored images",
    "psnr": "PSNR, dB",
    "winner_margin": "winner margin",
}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
_MARKERS = "osD^vPX*"


def compare_runs(folders: Sequence[str | Path]) -> dict[str, Any]:
    """Reads what several runs are and achieved; a run may be unfinished or not evaluated.

    Returns:
        JSON values: `runs`, for each its folder, `seed`, `steps`, `end`, `finished`, `evaluated_step` (None if not
        evaluated), `figures` and the course of its `validation`; `differences`, for each key of the configuration
        that is not the same in all, the values in the order of the runs; and `summary`, for each figure `mean`,
        `std` (of the sample), `min`, `max` and `count` over the finished runs that were evaluated at their end, where
        there are at least two.

    Raises:
        ValueError: If a folder is not a run, a record is damaged, or a run is given twice.
    """
    if not folders:
        raise ValueError("expected at least one run folder")
    records = [read_records(folder) for folder in folders]
    places = [Path(folder).resolve() for folder in folders]
    for folder, place in zip(folders, places):
        if places.count(place) > 1:
            raise ValueError(f"run {str(folder)!r} is given twice")
    runs = [_read(each) for each in records]
    configs = [flat(each.config) for each in records]
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [config.get(key) for config in configs] for key in keys}
    ended = [run for run in runs if run["finished"] and run["evaluated_step"] == run["steps"]]
    known = {name: [r["figures"][name] for r in ended if r["figures"].get(name) is not None] for name in _FIGURES}
    return {
        "runs": runs,
        "differences": {key: each for key, each in values.items() if any(value != each[0] for value in each)},
        "summary": {name: _spread(each) for name, each in known.items() if len(each) > 1},
    }


def _read(records: Records) -> dict[str, Any]:
    evaluation, steps, seen = records.evaluation or {}, records.history["step"], records.history["validation"]
    return {
        "run": str(records.folder),
        "seed": records.config.seed,
        "steps": records.steps,
        "end": steps[-1]["end"] if steps else records.config.training.steps,
        "finished": records.finished,
        "evaluated_step": evaluation.get("steps"),
        "figures": {name: evaluation.get(name) for name in _FIGURES},
        "validation": {name: [record[name] for record in seen] for name in ("step", "matched_share", "psnr")},
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values),
        "min": min(values),
        "max": max(values),
        "count": len(values),
    }


def state_of(run: dict[str, Any]) -> str:
    """Says whether a run of a comparison is finished, and evaluated at its last step.

    >>> state_of({"finished": False, "steps": 40, "end": 700, "evaluated_step": None})
    'unfinished, step 40 of 700; not evaluated'
    """
    finished = "finished" if run["finished"] else f"unfinished, step {run['steps']} of {run['end']}"
    if run["evaluated_step"] is None:
        return f"{finished}; not evaluated"
    return (
        finished if run["evaluated_step"] == run["steps"] else f"{finished}; evaluated at step {run['evaluated_step']}"
    )


def comparison_table(comparison: dict[str, Any]) -> str:
    """Returns the runs of `compare_runs` as text: a line each, then mean and spread, then what differs."""
    runs, summary = comparison["runs"], comparison["summary"]
    known = [name for name in _FIGURES if any(run["figures"][name] is not None for run in runs)]

    def cells(figures: dict[str, Any]) -> list[str]:
        return ["-" if figures.get(name) is None else _FIGURES[name][1].format(figures[name]) for name in known]

    rows = [["run", "seed", *(_FIGURES[name][0] for name in known), "state"]]
    rows += [[run["run"], str(run["seed"]), *cells(run["figures"]), state_of(run)] for run in runs]
    if summary:
        count = max(each["count"] for each in summary.values())
        over = f"of the {count} finished and evaluated"
        for name in ("mean", "std", "min", "max"):
            rows.append([name, "", *cells({key: each[name] for key, each in summary.items()}), over])
    lines = [aligned(rows, left=(0, len(rows[0]) - 1))]
    for key, values in comparison["differences"].items():
        lines.append(f"{key}: {', '.join(map(str, values))}")
    return "\n".join(lines)


def save_figure(comparison: dict[str, Any], path: str | Path) -> None:
    """Draws a comparison and writes it as `.png` or `.svg`.

    Raises:
        ValueError: If the name ends otherwise, the file exists, or there is nothing to draw.
        OSError: If it cannot be written.
    """
    kind = check_picture(path, new=True)
    from licm.drawing import render

    write_bytes(Path(path), render(comparison_figure(comparison), kind))


def comparison_figure(comparison: dict[str, Any]) -> "Figure":
    """Draws the course of each run's matched share, and the figures of each with their mean and spread.

    Raises:
        ValueError: If no run has a validation record or an evaluation.
    """
    from licm.drawing import LIGHT, canvas

    runs = comparison["runs"]
    panels = [name for name in _DRAWN if any(run["figures"][name] is not None for run in runs)]
    courses = any(run["validation"]["step"] for run in runs)
    if not panels and not courses:
        raise ValueError("there is nothing to draw: no run was evaluated (licm evaluate RUN)")
    columns = courses + len(panels)
    with canvas(LIGHT, 3.2 * columns + 1, 3.2 + 0.2 * len(runs)) as figure:
        axes = figure.subplots(1, columns, squeeze=False)[0]
        styles = list(zip(runs, cycle(_COLOURS), cycle(_MARKERS)))
        if courses:
            axes[0].set(xlabel="step", ylabel="matched share on validation", ylim=(-0.02, 1.02))
            for run, colour, marker in styles:
                seen, line = run["validation"], "-" if run["finished"] else "--"
                axes[0].plot(seen["step"], seen["matched_share"], line, color=colour, marker=marker, markevery=[-1])
        for axis, name in zip(axes[courses:], panels):
            axis.set(ylabel=_DRAWN[name], xticks=[], xlabel="runs", xlim=(-0.6, len(runs) - 0.4))
            for place, (run, colour, marker) in enumerate(styles):
                value = run["figures"][name]
                if value is not None:
                    axis.plot(place, value, marker, color=colour, fillstyle="full" if run["finished"] else "none")
            _draw_spread(axis, comparison["summary"].get(name))
        handles = [
            axes[0].plot([], [], marker=marker, color=colour, linestyle="-" if run["finished"] else "--")[0]
            for run, colour, marker in styles
        ]
        names = [run["run"] if state_of(run) == "finished" else f"{run['run']} ({state_of(run)})" for run in runs]
        figure.legend(handles, names, loc="outside lower left", fontsize="small", frameon=False)
    return figure


def _draw_spread(axis: "Axes", spread: dict[str, float] | None) -> None:
    if spread is not None:
        low, high = spread["mean"] - spread["std"], spread["mean"] + spread["std"]
        axis.axhline(spread["mean"], color="0.4", linewidth=1)
        axis.axhspan(low, high, color="0.4", alpha=0.15, linewidth=0)
        axis.set_title(f"{spread['mean']:.3g} ± {spread['std']:.2g}, {spread['count']} runs", fontsize="small")

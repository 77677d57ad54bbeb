"""What was found, for people: `results.json`, one HTML page with its figures, and the tables as Markdown."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from licm.drawing import DARK, LIGHT, render
from licm.reproduction.drawn import figures_for
from licm.reproduction.experiments import EXPERIMENTS
from licm.reproduction.running import Row
from licm.reproduction.summary import Found, find, summarise
from licm.tables import markdown
from licm.writing import write_bytes, write_text

RESULTS, PAGE, MARKDOWN, FIGURES = "results.json", "reproduction.html", "reproduction.md", "figures"
TITLE = "The slides' results, made again"

NEVER = "never"  # settled

Table = list[list[str]]

COLUMNS = {  # of a condition's figures: title and form
    "settled_step": ("settled step", "{:g}"),
    "matched_share": ("matched share", "{:.3f}"),
    "success": ("success", "{:.2f}"),
    "collapse": ("collapse", "{:.2f}"),
    "ari": ("ARI", "{:.3f}"),
    "accuracy_clean": ("accuracy clean", "{:.3f}"),
    "accuracy_transformed": ("transformed", "{:.3f}"),
    "accuracy_restored": ("restored", "{:.3f}"),
    "accuracy_augmented": ("augmented on transformed", "{:.3f}"),
    "accuracy_restored_supervised": ("restored by paired experts", "{:.3f}"),
    "psnr": ("PSNR, dB", "{:.1f}"),
    "psnr_supervised": ("PSNR paired", "{:.1f}"),
    "psnr_supervised_min": ("paired, lowest mechanism", "{:.1f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "ssim_supervised": ("SSIM paired", "{:.3f}"),
    "owners": ("owners", "{:.1f}"),
    "unused": ("unused", "{:.1f}"),
    "shared": ("pairs that share", "{:.1f}"),
    "unowned_wins": ("wins of the unmatched", "{:.3f}"),
    "clusters_matched_share": ("matched share of k-means", "{:.3f}"),
    "clusters_ari": ("ARI of k-means", "{:.3f}"),
    "identification_own": ("identification on digits", "{:.3f}"),
    "identification_min": ("lowest group", "{:.3f}"),
    "identification_ratio_min": ("ratio", "{:.3f}"),
    "identification_min_told": ("lowest group, told", "{:.3f}"),
    "identification_ratio_min_told": ("ratio, told", "{:.3f}"),
    "train_seconds": ("seconds", "{:.0f}"),
}
MECHANISM_TITLES = COLUMNS | {  # likewise of a mechanism's figures
    "settled_median": ("settled step, median", "{:g}"),
    "settled_latest": ("latest", "{:g}"),
    "identification": ("identification", "{:.3f}"),
}
MECHANISM_COLUMNS = {  # of an experiment
    "specialisation": ("settled_median", "settled_latest", "psnr", "ssim"),
    "recovery": ("psnr", "psnr_supervised", "ssim", "ssim_supervised"),
    "omniglot": ("identification",),
    "fashion_mnist": ("identification",),
}
_NUMBER_OF_EXPERTS = (
    *("settled_step", "matched_share", "owners", "unused", "shared", "unowned_wins"),
    *("accuracy_restored", "psnr", "ssim", "train_seconds"),
)
_OTHER_IMAGES = (
    *("identification_own", "identification_min", "identification_ratio_min"),
    *("identification_min_told", "identification_ratio_min_told"),
)
SHOWN: dict[str, tuple[str, ...]] = {  # of an experiment, of all that `results.json` has
    "specialisation": (
        *("settled_step", "matched_share", "success", "collapse", "ari"),
        *("accuracy_restored", "psnr", "ssim", "unused", "train_seconds"),
    ),
    "recovery": (
        *("psnr", "psnr_supervised", "psnr_supervised_min", "ssim", "ssim_supervised"),
        *("accuracy_restored", "accuracy_restored_supervised"),
    ),
    "classifier": ("accuracy_clean", "accuracy_transformed", "accuracy_restored", "accuracy_augmented"),
    "too_many_16": _NUMBER_OF_EXPERTS,
    "too_many_20": _NUMBER_OF_EXPERTS,
    "too_few_6": _NUMBER_OF_EXPERTS,
    "omniglot": _OTHER_IMAGES,
    "fashion_mnist": _OTHER_IMAGES,
    "ablation": (
        *("settled_step", "matched_share", "collapse", "accuracy_restored"),
        *("psnr", "ssim", "unused", "train_seconds"),
    ),
    "weak": ("psnr_supervised_min", "matched_share", "ari", "psnr", "psnr_supervised", "ssim", "train_seconds"),
    "baselines": (
        *("matched_share", "ari", "accuracy_restored", "accuracy_restored_supervised", "psnr", "psnr_supervised"),
        *("ssim", "ssim_supervised", "clusters_matched_share", "clusters_ari", "train_seconds"),
    ),
}


def write_results(rows: Sequence[Row], out: str | Path, *, command: str, title: str = TITLE) -> dict[str, Any]:
    """Sums up the records of a plan as far as they are there, and writes results, page, tables and figures.

    Args:
        rows: The plan.
        out: The folder with the records.
        command: What was typed, for the page.
        title: The page's.

    Returns:
        The content of `results.json`; see `licm.reproduction.summary.summarise`.

    Raises:
        ValueError: If a record is damaged.
        OSError: If a file cannot be written.
    """
    out = Path(out)
    found = find(rows, out)
    results = {"command": command, **summarise(found)}
    sections = [_section(name, results, found, out) for name in EXPERIMENTS if name in results]
    write_text(out / RESULTS, json.dumps(results, indent=1) + "\n")
    write_text(out / MARKDOWN, make_markdown(results, sections, title))
    write_text(out / PAGE, _make_page(results, sections, title))
    return results


def _section(name: str, results: dict[str, Any], found: Sequence[Found], out: Path) -> dict[str, Any]:
    own = [each for each in found if each.row.experiment == name]
    drawn = []
    for number, (title, draw) in enumerate(figures_for(name, own).items(), start=1):
        (out / FIGURES).mkdir(exist_ok=True)
        light, dark = (render(draw(theme=theme), "svg") for theme in (LIGHT, DARK))
        file = f"{name}-{number}.svg"
        write_bytes(out / FIGURES / file, light)
        drawn.append({"title": title, "file": file, "light": _data_uri(light), "dark": _data_uri(dark)})
    table = _condition_table(results[name]["conditions"], SHOWN[name])
    is_measured = len(table[0]) > 2
    return {
        "name": name,
        "title": EXPERIMENTS[name].title,
        "reading": EXPERIMENTS[name].reading + ("" if is_measured else " Not measured yet."),
        "table": table,
        "failed": _failures(results[name]["conditions"]),
        "mechanisms": _mechanism_table(results[name]["conditions"], MECHANISM_COLUMNS.get(name, ())),
        "groups": _group_table(own),
        "figures": drawn,
    }


def _condition_table(conditions: dict[str, Any], shown: Sequence[str]) -> Table:
    """A line for each condition: means over seeds, with the standard deviation where there are several."""
    figures = {label: dict(each["figures"]) for label, each in conditions.items()}
    for label, each in conditions.items():
        if each["settled_share"] is not None:
            figures[label]["settled_step"] = {"mean": each["settled_step_median"], "std": None}
    known = [name for name in shown if any(name in each for each in figures.values())]
    table = [["condition", "runs", *(COLUMNS[name][0] for name in known)]]
    for label, each in conditions.items():
        noted = label if each["representable"] else f"{label} (not representable)"
        runs = len(each["seeds"])
        cells = [_cell(name, figures[label].get(name), runs) for name in known]
        table.append([noted, f"{runs} of {each['planned']}", *cells])
    return table


def _cell(name: str, spread: dict[str, Any] | None, runs: int) -> str:
    """A mean, with the standard deviation if there is one, and with the number of runs if it is another."""
    if spread is None:
        return "-"
    if spread["mean"] is None:
        return NEVER
    if name in ("success", "collapse"):
        return f"{round(spread['mean'] * spread['count'])} of {spread['count']}"
    form = COLUMNS[name][1]
    mean = form.format(spread["mean"]) + ("" if spread["std"] is None else f" ± {form.format(spread['std'])}")
    return mean if not runs or spread.get("count", runs) == runs else f"{mean} (of {spread['count']})"


def _failures(conditions: dict[str, Any]) -> list[str]:
    """A line for each run that has diverged."""
    lines = ((label, seed, why) for label, each in conditions.items() for seed, why in each["failed"].items())
    return [f"{label}, seed {seed} failed: {why}." for label, seed, why in lines]


def _mechanism_table(conditions: dict[str, Any], shown: Sequence[str]) -> Table:
    """A line for each condition and mechanism of which something is known; empty where there is none."""
    table = [["condition", "mechanism", *(MECHANISM_TITLES[name][0] for name in shown)]]
    for label, each in conditions.items():
        for mechanism, means in each["by_mechanism"].items():
            if any(name in means for name in shown):
                cells = [_number(means[name], MECHANISM_TITLES[name][1]) if name in means else "-" for name in shown]
                table.append([label, mechanism, *cells])
    return table if len(table) > 1 else []


def _number(value: float | None, form: str) -> str:
    return NEVER if value is None else form.format(value)


def _group_table(found: Sequence[Found]) -> Table:
    """Of another data set: a line for each condition and label, as means over seeds; empty for other experiments."""
    records: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        if "transfer" in each.records:
            records.setdefault(each.row.condition, []).append(each.records["transfer"])
    table = [["condition", "group", "images", "identification", "PSNR, dB"]]
    for condition, own in records.items():
        for groups in zip(*(record["groups"] for record in own)):
            means = (sum(group[name] for group in groups) / len(groups) for name in ("identification", "psnr"))
            table.append([condition, groups[0]["name"], str(groups[0]["images"]), *map("{:.3f}".format, means)])
    return table if records else []


def _aim_table(results: dict[str, Any]) -> Table:
    """A line for each aim; empty where nothing was aimed for."""
    said = {True: "reached", False: "not reached", None: "not yet"}
    table = [["aim", "of", "found", "runs", ""]]
    for aim in results["aims"]:
        missing = "-" if aim["met"] is None else NEVER
        values = ", ".join(missing if value is None else f"{value:.4g}" for value in aim["values"])
        so_far = " so far" if 0 < aim["runs"] < aim["wanted"] else ""
        runs = f"{aim['runs']} of {aim['wanted']}"
        table.append([aim["aim"], ", ".join(aim["of"]), values, runs, said[aim["met"]] + so_far])
    return table if results["aims"] else []


def _status(results: dict[str, Any]) -> list[str]:
    commits: dict[str, list[str]] = {}
    for made in results["made_with"]:
        where = f"licm {made['licm']}, torch {made['torch']}, {made['machine']}, {made['threads']} thread(s)"
        commits.setdefault(where, []).append(made["commit"] or "unknown")
    training = f"Training took {results['train_seconds'] / 3600:.1f} hours."
    return [training] + [f"{where}; commits {', '.join(found)}." for where, found in commits.items()]


def make_markdown(results: dict[str, Any], sections: Sequence[dict[str, Any]], title: str) -> str:
    """Returns the tables and figures as a page of Markdown."""
    parts = [f"# {title}", f"Command: `{results['command']}`", *_status(results)]
    if aims := _aim_table(results):
        parts += ["## What was aimed for", markdown(aims, left=(0, 1))]
    for section in sections:
        parts += [f"## {section['title']}", section["reading"], markdown(section["table"])]
        parts += section["failed"]
        parts += [markdown(section[name], left=(0, 1)) for name in ("mechanisms", "groups") if section[name]]
        parts += [f"![{figure['title']}]({FIGURES}/{figure['file']})" for figure in section["figures"]]
    return "\n\n".join(parts) + "\n"


def _as_html(table: Table) -> Markup:
    head, *body = table
    cells = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in head)
    lines = [Markup("<tr>{}</tr>").format(cells)]
    for row in body:
        lines.append(Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row)))
    return Markup("<table>{}</table>").format(Markup("\n").join(lines))


def _make_page(results: dict[str, Any], sections: Sequence[dict[str, Any]], title: str) -> str:
    environment = Environment(
        loader=PackageLoader("licm"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("reproduction.html.j2")
    return template.render(
        title=title,
        command=results["command"],
        status=_status(results),
        aims=_aim_table(results),
        sections=sections,
        table=_as_html,
    )


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"

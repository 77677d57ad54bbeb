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
    return {
        "name": name,
        "title": EXPERIMENTS[name].title,
        "reading": EXPERIMENTS[name].reading,
        "table": _condition_table(results[name]["conditions"], SHOWN[name]),
        "groups": _group_table(own),
        "figures": drawn,
    }


def _condition_table(conditions: dict[str, Any], shown: Sequence[str]) -> Table:
    """A line for each condition: means over seeds, with the standard deviation where there are several."""
    figures = {label: dict(each["figures"]) for label, each in conditions.items()}
    for label, each in conditions.items():
        if (step := each["settled_step_median"]) is not None:
            figures[label]["settled_step"] = {"mean": step, "std": None}
    known = [name for name in shown if any(name in each for each in figures.values())]
    table = [["condition", "runs", *(COLUMNS[name][0] for name in known)]]
    for label, each in conditions.items():
        noted = label if each["representable"] else f"{label} (not representable)"
        cells = [_cell(figures[label].get(name), COLUMNS[name][1]) for name in known]
        table.append([noted, f"{len(each['seeds'])} of {each['planned']}", *cells])
    return table


def _cell(spread: dict[str, Any] | None, form: str) -> str:
    if spread is None:
        return "-"
    mean = form.format(spread["mean"])
    return mean if spread["std"] is None else f"{mean} ± {form.format(spread['std'])}"


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
    table = [["aim", "of", "found", ""]]
    for aim in results["aims"]:
        values = ", ".join("-" if value is None else f"{value:.4g}" for value in aim["values"])
        table.append([aim["aim"], ", ".join(aim["of"]), values, said[aim["met"]]])
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
        if section["groups"]:
            parts.append(markdown(section["groups"]))
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

"""docs/results/photographs.md and its figures, from the record of `benchmarks.photographs` alone."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.keeping import commits_of
from licm.config import Config
from licm.drawing import LIGHT, canvas, mosaic, render
from licm.figures import winner_heatmap
from licm.metrics import match_experts
from licm.records import Records
from licm.reproduction.measuring import unpack
from licm.tables import markdown

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECORD, PAGE, FIGURES = RESULTS / "photographs.json", RESULTS / "photographs.md", RESULTS / "photographs"
SEPARATED = 0.9  # share of a mechanism's images that its expert has to win
INVERTIBLE = 3.0  # dB that a paired expert has to gain
UNDONE = 0.5  # of the decibels that a paired expert gains

INTRODUCTION = """# Results: colour photographs

Made by `python -m benchmarks photographs --table` from `photographs.json`, which
`python -m benchmarks photographs --of {retina,seven} --seeds 0 1 2 --json FILE` writes. Crops of 32x32 px, as they are
and at half their size. Each photograph is cut into regions of 96 px; a region serves one part alone, so that no pixel
is in two of canonical, transformed, validation and test. Experts learn from transformed crops and from clean crops of
other regions, without pairs. Settings were chosen on validation crops ([what was tried](../ablation.md#photographs)).

In the tables by mechanism each seed is in its place. *Paired* is an expert of the same architecture, trained on pairs
under this mechanism alone, the bound from above; *won* the share of the mechanism's crops that the expert matched to it
wins; *told* the share that a classifier knows which was told the mechanisms of other crops, what of them can be seen in
a crop; *restored* the winner's output, whoever won.
"""
OF = {
    "retina": (
        "One kind of photograph: a retina",
        "A fundus photograph that comes with scikit-image (CC0), within its disc: experts and discriminator see other "
        "parts of one eye than they are measured on.",
    ),
    "seven": (
        "Seven photographs of seven kinds",
        "They come with scikit-image (astronaut, coffee, chelsea, rocket, motorcycle) and scikit-learn (china by "
        "danielbuechele, flower by vultilion, both CC BY 2.0).",
    ),
}


def write_page(records: list[dict[str, Any]]) -> None:
    """Writes the page and its figures."""
    PAGE.write_text(make_page(records))
    FIGURES.mkdir(exist_ok=True)
    for record in records:
        (FIGURES / f"{record['of']}-winners-{record['seed']}.png").write_bytes(render(draw_winners(record), "png"))
    for of, own in _by_pictures(records).items():
        (FIGURES / f"{of}-gallery.png").write_bytes(render(draw_gallery(own[0]), "png"))


def make_page(records: list[dict[str, Any]]) -> str:
    """Returns the page."""
    sections = [line for of, own in _by_pictures(records).items() for line in _section(of, own)]
    made = records[0]["provenance"]
    foot = f"{made['threads']} threads, {made['machine']}, commits {commits_of(records)}."
    return "\n".join([INTRODUCTION, *sections, foot]) + "\n"


def _by_pictures(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The records of each set of photographs, in the page's order."""
    found = {of: [each for each in records if each["of"] == of] for of in OF}
    return {of: own for of, own in found.items() if own}


def _section(of: str, records: list[dict[str, Any]]) -> list[str]:
    first = records[0]
    counts, (title, what) = first["images"], OF[of]
    by_seed = [["seed", "matched share", "PSNR before, dB", "restored", "steps"]]
    for each in records:
        decibels = (f"{fmean(each[view]['psnr']):.1f}" for view in ("before", "restored"))
        by_seed.append([str(each["seed"]), f"{each['matched_share']:.3f}", *decibels, str(each["steps"])])
    views = ("before", "restored", "paired")
    header = ["mechanism", "PSNR before, dB", "restored", "paired", "SSIM before", "restored", "paired", "won", "told"]
    by_mechanism = [header]
    for index, name in enumerate(first["mechanisms"]):
        qualities = (_seeds(records, view, figure, index) for figure in ("psnr", "ssim") for view in views)
        won = ", ".join(f"{_won(each)[index]:.2f}" for each in records)
        told = f"{first['told'][index]:.2f}" if first["told"] else ""
        by_mechanism.append([f"`{name}`", *qualities, won, told])
    return [
        f"## {title}",
        "",
        what,
        "",
        f"{counts['canonical']} canonical crops, {counts['transformed']} transformed ones; measured on "
        f"{first['num_images']} {first['split']} crops, each under one mechanism. Paired experts took "
        f"{first['paired_steps']} steps (seed {first['seed']}).",
        "",
        markdown(by_seed),
        "",
        markdown(by_mechanism),
        "",
        *_verdicts(records),
        "",
        *(f"![Winner matrix of seed {each['seed']}](photographs/{of}-winners-{each['seed']}.png)" for each in records),
        "",
        f"Seed {first['seed']}, {first['split']} crops drawn by a fixed seed: input, what the winner made of it, "
        "and the hidden original.",
        "",
        f"![Inputs, restored crops and originals](photographs/{of}-gallery.png)",
        "",
    ]


def _seeds(records: list[dict[str, Any]], view: str, figure: str, index: int) -> str:
    form = "{:.1f}" if figure == "psnr" else "{:.2f}"
    values = [form.format(each[view][figure][index]) for each in records if each[view]]
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def _won(record: dict[str, Any]) -> list[float]:
    """For each mechanism the share of its images that the expert matched to it wins."""
    shares = [0.0] * len(record["mechanisms"])
    for mechanism, expert in zip(*match_experts(record["winner_matrix"])):
        shares[mechanism] = record["winner_matrix"][mechanism][expert]
    return shares


def _verdicts(records: list[dict[str, Any]]) -> list[str]:
    """What cannot be inverted, told apart or undone, by what was measured."""
    first = records[0]
    bound = _gains(first, "paired")
    cannot: dict[str, Callable[[dict[str, Any], int], bool]] = {
        f"Not inverted even by a paired expert (a gain below {INVERTIBLE:g} dB)": (
            lambda record, index: record is first and bound[index] < INVERTIBLE
        ),
        f"Not told apart (its expert wins less than {SEPARATED:g} of its crops)": (
            lambda record, index: _won(record)[index] < SEPARATED
        ),
        f"Not undone (the winners gain less than {UNDONE:g} of the decibels that a paired expert gains)": (
            lambda record, index: _gains(record, "restored")[index] < UNDONE * bound[index]
        ),
    }
    lines = ["What it cannot:", ""]
    for what, fails in cannot.items():
        found = []
        for index, name in enumerate(first["mechanisms"]):
            if seeds := [str(record["seed"]) for record in records if fails(record, index)]:
                found.append(f"`{name}` (seed {', '.join(seeds)})")
        lines.append(f"- {what}: {'; '.join(found) or 'none'}.")
    return lines


def _gains(record: dict[str, Any], view: str) -> list[float]:
    return [after - before for after, before in zip(record[view]["psnr"], record["before"]["psnr"])]


def draw_winners(record: dict[str, Any]) -> Figure:
    """Draws the winner matrix of a record."""
    return winner_heatmap(Records(Path(), Config.model_validate(record["config"]), {}, evaluation=record))


def draw_gallery(record: dict[str, Any]) -> Figure:
    """Draws some crops of each mechanism: input, restored, original."""
    images = unpack(record["gallery"])  # [N, k, 3, c, h, w]
    count, each, views, *shape = images.shape
    rows = images.reshape(count, each * views, *shape)
    high, wide = shape[-2:]
    gap = max(2, wide // 9)
    gaps = [0, *[gap, gap, 4 * gap] * each][:-1]
    ground, lefts, uppers = mosaic(rows, gaps, gap)
    with canvas(LIGHT, 2.4 + 0.72 * each * views, 0.5 + 0.72 * count) as figure:
        axes = figure.add_subplot()
        axes.imshow(ground, interpolation="none")
        axes.set_xticks(np.array(lefts) + wide / 2, ["input", "restored", "original"] * each)
        axes.set_yticks(np.array(uppers) + high / 2, record["mechanisms"])
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
    return figure

"""Records to figures: each function takes the records of a run and returns a matplotlib figure, nothing else."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from licm.drawing import LIGHT, Theme, canvas, label_at_right, mosaic, smoothed, spread, wrapped
from licm.health import HEALTHY_MARGIN
from licm.metrics import settled_steps
from licm.records import Records, Samples


def winner_heatmap(records: Records, *, theme: Theme = LIGHT) -> Figure:
    """Draws the winner matrix W, its experts in the order of the mechanisms they are matched to."""
    with canvas(theme, 1.1 + 0.62 * records.config.num_experts + 1.4, 1.1 + 0.4 * len(_winners(records))) as figure:
        _draw_winners(figure.add_subplot(), records, theme)
    return figure


def sample_grid(records: Records, *, each: int = 1, theme: Theme = LIGHT) -> Figure:
    """Draws inputs, every expert's output with the winner framed, and the hidden originals where known.

    Args:
        records: With samples.
        each: Images per mechanism, or per winning expert where mechanisms are unknown; at most what was saved.
        theme: The colours.
    """
    samples = _samples(records)
    rows, columns = len(_chosen(samples, each)), samples.outputs.shape[1] + 2
    with canvas(theme, 1.7 + 0.68 * columns, 0.7 + 0.68 * rows) as figure:
        _draw_samples(figure.add_subplot(), records, each, theme)
    return figure


def summary(records: Records, *, theme: Theme = LIGHT) -> Figure:
    """Draws the winner heat-map beside the sample grid: what was learnt at one look."""
    columns = records.config.num_experts
    with canvas(theme, 4.2 + 1.0 * columns, 1.0 + 0.5 * len(_winners(records))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[columns + 1, 1.35 * (columns + 2)])
        _draw_winners(left, records, theme)
        _draw_samples(right, records, 1, theme, names=False)
    return figure


def specialisation(records: Records, *, theme: Theme = LIGHT) -> Figure:
    """Draws, one panel per mechanism, every expert's mean score over training (the slides' specialisation curves)."""
    validations = records.history["validation"]
    steps = [record["step"] for record in validations]
    scores = np.array([record["score_matrix"] for record in validations])  # [step, N, N']
    settled = settled_steps(steps, [record["winner_matrix"] for record in validations])
    owners = np.array(validations[-1]["winner_matrix"]).argmax(axis=1)
    names = records.mechanisms or []
    columns = min(5, len(names))
    rows = -(-len(names) // columns)
    with canvas(theme, 2.05 * columns, 0.5 + 1.75 * rows) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, name, curves, owner, since in zip(grid, names, scores.transpose(1, 2, 0), owners, settled):
            rival = max((j for j in range(len(curves)) if j != owner), key=lambda j: curves[j, -1], default=None)
            for index, curve in enumerate(curves):
                if index not in (owner, rival):
                    axes.plot(steps, curve, color=theme.faint, linewidth=0.8)
            labels = [(owner, theme.accent, "-", 2.2)]
            if rival is not None:
                labels.append((rival, theme.second, "--", 1.3))
            for index, colour, dash, width in labels:
                axes.plot(steps, curves[index], color=colour, linestyle=dash, linewidth=width, marker=_dot(steps))
            ends = spread([curves[index, -1] for index, *_ in labels], 0.12)
            for (index, colour, *_), height in zip(labels, ends):
                label_at_right(axes, height, str(index), color=colour, weight="bold" if index == owner else "normal")
            axes.set_title(f"{name}\n{'not settled' if since is None else f'settled at step {since}'}", fontsize=8)
            axes.set_ylim(0, 1)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        figure.supxlabel("step", fontsize=9)
        figure.supylabel("mean score D gives", fontsize=9)
    return figure


def win_shares(records: Records, *, theme: Theme = LIGHT) -> Figure:
    """Draws the share of images each expert wins over training (moving average), and where experts were revived."""
    history = records.history["step"]
    shown = history[: -1 : max(1, len(history) // 300)] + history[-1:]  # more points than can be seen only weigh
    steps = [record["step"] for record in shown]
    order = records.expert_order[::-1]
    shares = np.array([record["win_share"] for record in shown]).T[order]
    mechanisms = records.mechanisms or []
    with canvas(theme, 10, 4) as figure:
        axes = figure.add_subplot()
        tints = [theme.scale()(level) for level in (0.35, 0.6)]
        axes.stackplot(steps, shares, colors=tints, edgecolor=theme.paper, linewidth=1.2)
        tops = shares[:, -1].cumsum()
        for expert, height in zip(order, spread((tops - shares[:, -1] / 2).tolist(), 0.055)):
            owned = [name for name, owner in zip(mechanisms, records.owners) if owner == expert]
            does = f"{owned[0]}{f' and {len(owned) - 1} more' if len(owned) > 1 else ''}" if owned else ""
            label_at_right(axes, height, f"{expert}  {does}" if does else f"expert {expert}")
        for record in records.history["revival"]:
            if record["event"] == "revived":
                axes.axvline(record["step"], color=theme.ink, linestyle=":", linewidth=1)
                label = f"{record['expert']} from {record['donor']}"
                place = axes.get_xaxis_transform()
                axes.text(record["step"], 1.01, label, fontsize=8, rotation=40, transform=place)
        axes.set(
            xlim=(steps[0], max(steps[-1], steps[0] + 1)), ylim=(0, 1), xlabel="step", ylabel="share of images won"
        )
    return figure


def learning_curves(records: Records, *, theme: Theme = LIGHT) -> Figure:
    """Draws accuracy between its bounds, matched share and PSNR on validation images over training."""
    validations = records.history["validation"]
    judged = bool(records.history["judge"])
    titles = {"accuracy_restored": "accuracy of a classifier of clean images"} if judged else {}
    titles |= {"matched_share": "matched share", "psnr": "PSNR of restored images, dB"}
    steps = [record["step"] for record in validations]
    with canvas(theme, 3.35 * len(titles), 3) as figure:
        for axes, (key, title) in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles.items()):
            values = [record[key] for record in validations]
            axes.plot(steps, values, color=theme.accent, linewidth=2, marker=_dot(steps), markersize=4)
            heights, names = [values[-1]], [f"{values[-1]:.3f}" if key != "psnr" else f"{values[-1]:.1f}"]
            if key == "accuracy_restored":
                for view in ("clean", "transformed"):
                    bound = records.history["judge"][0][f"accuracy_{view}"]
                    axes.axhline(bound, color=theme.second, linestyle="--", linewidth=1.3)
                    heights.append(bound)
                    names.append(f"{view}\n{bound:.3f}")
            if key != "psnr":
                axes.set_ylim(0, 1.04)
            low, high = axes.get_ylim()
            for height, name in zip(spread(heights, 0.13 * (high - low)), names):
                label_at_right(axes, height, name, color=theme.accent if name == names[0] else theme.second)
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("step")
    return figure


def identity_start(records: Records, *, theme: Theme = LIGHT) -> Figure:
    """Draws how far each expert was from the identity when the competition began, and the steps it took."""
    record = records.history["identity"][0]
    errors = record["errors"]
    with canvas(theme, max(4.5, 1.5 + 0.75 * len(errors)), 2.7) as figure:
        axes = figure.add_subplot()
        axes.vlines(range(len(errors)), 0, errors, color=theme.accent, linewidth=2)
        axes.plot(errors, "o", color=theme.accent)
        for index, error in enumerate(errors):
            axes.annotate(
                f"{error:.4f}", (index, error), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
            )
        if record["steps"]:
            tolerance = records.config.identity.tolerance
            axes.axhline(tolerance, color=theme.second, linestyle="--", linewidth=1.3)
            label_at_right(axes, tolerance, f"stop: {tolerance:g}\non a batch", color=theme.second)
        steps = [f"\n{count} steps" for count in record["steps"]] or [""] * len(errors)
        axes.set_xticks(range(len(errors)), [f"{index}{text}" for index, text in enumerate(steps)], fontsize=8)
        axes.set(xlabel="expert", ylabel="mean squared error", ylim=(0, 1.25 * max(errors) or 1))
        axes.margins(x=0.08)
    return figure


def health(records: Records, *, theme: Theme = LIGHT) -> Figure:
    """Draws what can be seen without labels: margin, idle and doubled experts, losses, over training."""
    history = records.history["step"]
    doubled = [len({expert for pair in record["duplicates"] for expert in pair}) for record in history]
    steps = [record["step"] for record in history]
    slowed = next((record["step"] for record in history if record["learning_rate_factor"] < 1), None)
    panels: tuple[tuple[str, list[tuple[str, Sequence[float]]]], ...] = (
        ("winner margin", [("margin", [record["margin"] for record in history])]),
        (
            "experts",
            [
                ("idle", [len(record["idle_experts"]) for record in history]),
                ("in pairs that\ndo the same", doubled),
            ],
        ),
        (
            "losses",
            [
                ("discriminator", smoothed([record["discriminator_loss"] for record in history])),
                ("experts", smoothed([record["expert_loss"] for record in history])),
            ],
        ),
    )
    with canvas(theme, 10, 5.2) as figure:
        for axes, (title, curves) in zip(figure.subplots(len(panels), 1, sharex=True), panels):
            for (_, values), colour, dash in zip(curves, (theme.accent, theme.second), ("-", "--")):
                axes.plot(steps, values, color=colour, linestyle=dash, linewidth=1.8)
            if title == "winner margin":
                axes.axhline(HEALTHY_MARGIN, color=theme.muted, linestyle=":", linewidth=1.3)
                axes.text(steps[0], HEALTHY_MARGIN, f" healthy from {HEALTHY_MARGIN:g}", va="bottom", color=theme.muted)
            if slowed is not None:
                axes.axvline(slowed, color=theme.muted, linestyle="-.", linewidth=1)
            axes.set(ylabel=title)
            axes.set_ylim(bottom=0)
            if title == "experts":
                axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            low, high = axes.get_ylim()
            ends = spread([values[-1] for _, values in curves], 0.24 * (high - low))
            for (name, _), height, colour in zip(curves, ends, (theme.accent, theme.second)):
                label_at_right(axes, height, name, color=colour)
        if slowed is not None:
            above = figure.axes[0].get_xaxis_transform()
            figure.axes[0].text(slowed, 1.02, "learning rate falls from here", transform=above, fontsize=8)
        axes.set_xlabel("step")
    return figure


def expert_cards(records: Records, *, theme: Theme = LIGHT) -> Figure:
    """Draws a row per expert: images it wins and what it makes of them, then of a dot, an edge and a flat field."""
    if records.description is None or records.pictures is None:
        raise ValueError(f"records: no description; write it with: licm describe {records.folder}")
    pictures, order = records.pictures, records.expert_order
    examples, probes = pictures.inputs.shape[1], len(pictures.probes)
    given = np.broadcast_to(pictures.probes, pictures.responses.shape)
    befores = np.concatenate([pictures.inputs, given], axis=1)[order]
    afters = np.concatenate([pictures.outputs, pictures.responses], axis=1)[order]
    rows = np.stack([befores, afters], axis=2).reshape(len(order), -1, *befores.shape[2:])  # before, after, before ...
    high, wide = rows.shape[-2:]
    gap = max(2, wide // 9)
    gaps = [0, *[gap // 2, 3 * gap] * (examples + probes)][:-1]
    ground, lefts, uppers = mosaic(rows, gaps, 2 * gap)
    with canvas(theme, 4.6 + 0.55 * rows.shape[1], 0.7 + 0.68 * len(order)) as figure:
        axes = figure.add_subplot()
        axes.imshow(ground, interpolation="none")
        axes.set_anchor("E")  # what is left of the width is for the names of the rows
        for upper in uppers:
            for left in lefts:
                axes.add_patch(_frame(left, upper, wide, high, 0.5, theme.muted, 0.6))
        names = [*["won"] * examples, "dot", "edge", "flat"]
        axes.set_xticks([left + wide + gap / 4 for left in lefts[::2]], [f"{name}, result" for name in names])
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
        cards = [records.description["experts"][expert] for expert in order]
        labels = [f"expert {card['expert']}, {100 * card['share']:.0f} %\n{wrapped(card['does'])}" for card in cards]
        axes.set_yticks([upper + high / 2 for upper in uppers], labels, fontsize=8)
        axes.spines[:].set_visible(False)
    return figure


FIGURES: dict[str, Callable[..., Figure]] = {
    "summary": summary,
    "winners": winner_heatmap,
    "samples": sample_grid,
    "specialisation": specialisation,
    "win_shares": win_shares,
    "learning": learning_curves,
    "identity": identity_start,
    "health": health,
    "experts": expert_cards,
}


def _winners(records: Records) -> np.ndarray:
    if records.winners is None:
        raise ValueError("records: no winner matrix, which needs known mechanisms and a validation or evaluation")
    return records.winners


def _samples(records: Records) -> Samples:
    if records.samples is None:
        raise ValueError(f"records: no samples; write them with: licm evaluate {records.folder}")
    return records.samples


def _dot(steps: Sequence[int]) -> str:
    """A marker where there are few points."""
    return "o" if len(steps) < 4 else ""


def _draw_winners(axes: Axes, records: Records, theme: Theme) -> None:
    order = records.expert_order
    shares, scale = _winners(records)[:, order], theme.scale()
    axes.pcolormesh(shares, cmap=scale, vmin=0, vmax=1, edgecolors=theme.faint, linewidth=0.4)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            dark = sum(to_rgb(scale(share))) < 1.5
            colour = "white" if dark else "black"
            axes.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    for row, column in zip(*records.matching):
        axes.add_patch(Rectangle((order.index(column), row), 1, 1, fill=False, edgecolor=theme.second, linewidth=2))
    axes.invert_yaxis()
    axes.set_xticks(np.arange(len(order)) + 0.5, [str(expert) for expert in order])
    axes.set_yticks(np.arange(len(shares)) + 0.5, records.mechanisms)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("expert")
    axes.set_title(f"% of each mechanism's images won\n({records.winners_of})", fontsize=9)


def _chosen(samples: Samples, each: int) -> np.ndarray:
    """The indices of the first `each` samples of every group."""
    groups = samples.winners if samples.mechanism is None else samples.mechanism
    return np.concatenate([np.flatnonzero(groups == group)[:each] for group in np.unique(groups)])


def _draw_samples(axes: Axes, records: Records, each: int, theme: Theme, *, names: bool = True) -> None:
    samples, order = _samples(records), records.expert_order
    chosen = _chosen(samples, each)
    columns = [samples.inputs[:, None], samples.outputs[:, order]]
    headings = ["input", *map(str, order)]
    if samples.originals is not None:
        columns.append(samples.originals[:, None])
        headings.append("hidden\noriginal")
    images = np.concatenate(columns, axis=1)[chosen]
    high, wide = images.shape[-2:]
    gap = max(2, wide // 9)
    gaps = [0, 3 * gap, *[gap] * (len(order) - 1), *[3 * gap] * (samples.originals is not None)]
    ground, lefts, uppers = mosaic(images, gaps, gap)
    axes.imshow(ground, interpolation="none")
    for index, upper in zip(chosen, uppers):
        for left in lefts:
            axes.add_patch(_frame(left, upper, wide, high, 0.5, theme.muted, 0.6))
        left = lefts[1 + order.index(samples.winners[index])]
        axes.add_patch(_frame(left, upper, wide, high, 0.5 * gap + 0.5, theme.second, 2.4))
    axes.set_xticks([left + wide / 2 for left in lefts], headings)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    rows = [upper + high / 2 for upper in uppers]
    if names and samples.mechanism is not None and records.mechanisms is not None:
        axes.set_yticks(rows, [records.mechanisms[samples.mechanism[index]] for index in chosen])
    elif names:
        axes.set_yticks(rows, [f"won by expert {samples.winners[index]}" for index in chosen])
    else:
        axes.set_yticks([])
    axes.set_title("input, what each expert makes of it (winner framed)", fontsize=9)


def _frame(left: float, upper: float, wide: int, high: int, away: float, colour: str, line: float) -> Rectangle:
    """A rectangle around an image, `away` pixels from it."""
    corner = (left - 0.5 - away, upper - 0.5 - away)
    return Rectangle(
        corner, wide + 2 * away, high + 2 * away, fill=False, edgecolor=colour, linewidth=line, clip_on=False
    )

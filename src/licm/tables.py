"""Records as text: what a run achieved, in a few lines."""

from collections.abc import Collection, Sequence
from typing import Any

_HEADLINES = (
    ("matched_share", "matched share", "{:.4f}", "of test images go to the expert matched to their mechanism"),
    ("ari", "ARI", "{:.4f}", "winner against mechanism, 1 is perfect"),
    ("accuracy_clean", "accuracy, clean", "{:.4f}", "of a classifier of clean images: the upper bound"),
    ("accuracy_transformed", "accuracy, transformed", "{:.4f}", "the lower bound"),
    ("accuracy_restored", "accuracy, restored", "{:.4f}", ""),
    ("psnr", "PSNR", "{:.2f} dB", "restored against the hidden originals"),
    ("psnr_transformed", "PSNR before", "{:.2f} dB", "transformed against the hidden originals"),
    ("ssim", "SSIM", "{:.4f}", ""),
    ("num_dead_experts", "dead experts", "{}", ""),
    ("winner_margin", "winner margin", "{:.3f}", "relative to D's score of canonical images"),
    ("ece", "calibration error", "{:.4f}", "of the confidence in the winners"),
    ("false_abstention", "false abstention", "{:.4f}", "of images under the run's own mechanisms"),
    ("steps", "steps", "{}", ""),
    ("train_seconds", "train seconds", "{:.0f}", ""),
)


def evaluation_table(record: dict[str, Any]) -> str:
    """Returns the headline figures and, where known, a line per mechanism.

    Args:
        record: From `licm.evaluation.evaluate`.
    """
    lines = [f"{record['num_images']} {record['split']} images, {record['num_experts']} experts"]
    for key, title, form, meaning in _HEADLINES:
        if record.get(key) is not None:
            lines.append(f"  {title:<22} {form.format(record[key]):>10}   {meaning}".rstrip())
    if "winner_matrix" in record:
        lines.append("  mechanism               best expert   its share   PSNR (before)   SSIM")
        figures = record["per_mechanism"]
        for index, (name, row) in enumerate(zip(record["mechanisms"], record["winner_matrix"])):
            best = max(range(len(row)), key=row.__getitem__)
            lines.append(
                f"  {name:<22} {best:>12} {row[best]:>11.3f} {figures['psnr'][index]:>7.1f}"
                f" {'(' + format(figures['psnr_transformed'][index], '.1f') + ')':>7} {figures['ssim'][index]:>7.3f}"
            )
    return "\n".join(lines)


def description_table(record: dict[str, Any]) -> str:
    """Returns a line per expert: its share, what it does, what that undoes, and how well this is said.

    Args:
        record: From `licm.describing.describe`.
    """
    rows = [["expert", "share", "what it does", "what that undoes", "explained"]]
    for card in record["experts"]:
        quality = "" if card["quality"] is None else f"{100 * card['quality']:.0f} % ({card['fit']})"
        does = card["does"] or "wins too little to say"
        rows.append([str(card["expert"]), f"{100 * card['share']:.1f} %", does, card["undone"] or "", quality])
    return f"{record['num_images']} images\n{aligned(rows, left=(2, 3))}"


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int] = ()) -> str:
    """Returns rows of equally many cells with their columns aligned, to the right but for those in `left`.

    >>> print(aligned([["name", "n"], ["a", "10"]], left=(0,)))
    name   n
    a     10
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    r"""Returns rows as a Markdown table, the first as its head, columns to the right but for those in `left`.

    >>> print(markdown([["mechanism", "n"], ["`invert | blur(sigma=1)`", "10"]]))
    | mechanism | n |
    | --- | ---: |
    | `invert \| blur(sigma=1)` | 10 |
    """
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    rule = " | ".join("---" if column in left else "---:" for column in range(len(rows[0])))
    return "\n".join([head, f"| {rule} |", *body])

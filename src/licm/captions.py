"""What a run's records say in words: headline numbers, what was learnt, and an alternative text for each figure."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from licm.health import HEALTHY_MARGIN
from licm.metrics import settled_steps
from licm.records import Records

SUCCESS = 0.95  # share of a mechanism's images from which an expert has it to itself, and of a run that succeeded


@dataclass(frozen=True)
class Headline:
    """A number, its name and what it means."""

    value: str
    name: str
    meaning: str


def headlines(records: Records) -> list[Headline]:
    """Returns the numbers that tell whether a run worked, as far as it has records of them.

    They are of the evaluation, or else of the last validation.
    """
    found = []
    figures = records.evaluation or (records.history["validation"] or [{}])[-1]
    bounds = records.evaluation or (records.history["judge"] or [{}])[0]
    clean, moved, restored = (
        source.get(f"accuracy_{view}")
        for view, source in (("clean", bounds), ("transformed", bounds), ("restored", figures))
    )

    def add(value: float | None, form: str, name: str, meaning: str) -> None:
        if value is not None:
            found.append(Headline(form.format(value), name, meaning))

    few = records.mechanisms is not None and records.config.num_experts < len(records.mechanisms)
    add(
        figures.get("matched_share"),
        "{:.3f}",
        "coverage" if few else "matched share",
        "Share of images that go to the one expert matched to their mechanism. 1 is perfect; from 0.95 a run "
        "counts as a success.",
    )
    if clean is not None and moved is not None:
        add(
            restored,
            "{:.3f}",
            "accuracy, restored",
            "A classifier that knows clean images only is right on this share of the restored ones; on clean "
            f"images on {clean:.3f}, on the transformed ones, before restoring, on {moved:.3f}.",
        )
    before = figures.get("psnr_transformed")
    add(
        figures.get("psnr"),
        "{:.1f} dB",
        "PSNR",
        "How near restored images are to the hidden originals; 6 dB more is half the error."
        + (f" Before restoring it is {before:.1f} dB." if before is not None else ""),
    )
    add(figures.get("ari"), "{:.3f}", "ARI", "Agreement of winners with mechanisms: 1 is perfect, 0 is chance.")
    if records.evaluation is not None:
        dead = records.evaluation["dead_experts"]
        add(len(dead), "{}", "dead experts", "Experts that win less than 1 % of the images.")
        add(
            figures["winner_margin"],
            "{:.2f}",
            "winner margin",
            "By how much the winner's score leads the second best, as a share of the discriminator's score of clean "
            f"images. It needs no labels; healthy from {HEALTHY_MARGIN:g}.",
        )
    return found


def what_was_learnt(records: Records) -> str:
    """Says which expert undoes which mechanism, and which mechanisms have no expert of their own."""
    if records.mechanisms is None:
        if records.evaluation is None:
            return "What each expert does to your images is not known until the run is evaluated."
        total = records.config.num_experts
        winning = total - len(records.evaluation["dead_experts"])
        return (
            f"{winning} of {total} experts win images of yours. What happened to the images is not known, so "
            "whether each expert undoes one thing is for you to judge by the samples."
        )
    if records.winners is None:
        return "Nothing can be said yet: the run has not come to its first validation."
    owned = {m: j for m, j in zip(*records.matching) if records.winners[m, j] >= SUCCESS}
    total = len(records.mechanisms)
    if len(owned) == total:
        own = f"an expert of its own, which wins at least {100 * SUCCESS:.0f} % of its images"
        return f"Each of the {total} mechanisms has {own}."
    shared = []
    for index, name in enumerate(records.mechanisms):
        if index not in owned:
            shared.append(f"{name} is won by {_shares_in_words(records.winners[index])}")
    have, their = ("has", "its") if len(owned) == 1 else ("have", "their")
    return (
        f"{len(owned)} of {total} mechanisms {have} an expert of {their} own, which wins at least "
        f"{100 * SUCCESS:.0f} % of {their} images. The others: {'; '.join(shared)}."
    )


def _shares_in_words(shares: np.ndarray) -> str:
    """Names the experts that win at least a twentieth, most first."""
    best = [j for j in np.argsort(-shares, kind="stable").tolist() if shares[j] >= 0.05]
    return " and ".join(f"expert {j} ({100 * shares[j]:.0f} %)" for j in best)


def _of_winners(records: Records) -> str:
    assert records.winners is not None
    assert records.mechanisms is not None
    rows = [f"{name}: {_shares_in_words(row)}" for name, row in zip(records.mechanisms, records.winners)]
    return (
        f"Heat-map of {len(rows)} mechanisms by {records.config.num_experts} experts, over {records.winners_of}. "
        f"Of the images under each mechanism are won, {'; '.join(rows)}."
    )


def _of_samples(records: Records) -> str:
    assert records.samples is not None
    samples = records.samples
    if samples.mechanism is None or records.mechanisms is None:
        winners = ", ".join(map(str, sorted(set(samples.winners.tolist()))))
        return f"Grid of images of your own and what each expert makes of them, one row for each of experts {winners}."
    first = [int(np.flatnonzero(samples.mechanism == m)[0]) for m in np.unique(samples.mechanism)]
    rows = [f"{records.mechanisms[samples.mechanism[i]]} won by expert {samples.winners[i]}" for i in first]
    return (
        "Grid with one image under each mechanism, what every expert makes of it and the hidden original: "
        f"{'; '.join(rows)}."
    )


def _of_specialisation(records: Records) -> str:
    validations = records.history["validation"]
    matrices = [record["winner_matrix"] for record in validations]
    settled = settled_steps([record["step"] for record in validations], matrices)
    rows = []
    for name, row, scores, since in zip(
        records.mechanisms or [], matrices[-1], validations[-1]["score_matrix"], settled
    ):
        owner = int(np.argmax(row))
        others = [score for j, score in enumerate(scores) if j != owner]
        rival = f" against {max(others):.2f} of the next" if others else ""
        when = "not settled" if since is None else f"settled at step {since}"
        rows.append(f"{name}: expert {owner}, {scores[owner]:.2f}{rival}, {when}")
    return (
        f"Curves of every expert's mean score over training, a panel for each mechanism. At the end, {'; '.join(rows)}."
    )


def _of_win_shares(records: Records) -> str:
    last = records.history["step"][-1]
    shares = [f"expert {j} {100 * share:.0f} %" for j, share in enumerate(last["win_share"])]
    events = [record["event"] for record in records.history["revival"]]
    revived, retired = events.count("revived"), events.count("retired")
    return (
        f"Stacked areas, the share of training images each expert wins, up to step {last['step']}: "
        f"{', '.join(shares)}. Experts were revived {revived} times; {retired} were retired."
    )


def _of_learning(records: Records) -> str:
    first, last = records.history["validation"][0], records.history["validation"][-1]
    parts = []
    if records.history["judge"]:
        bounds = records.history["judge"][0]
        parts.append(
            f"accuracy from {first['accuracy_restored']:.3f} to {last['accuracy_restored']:.3f}, between "
            f"{bounds['accuracy_transformed']:.3f} on transformed and {bounds['accuracy_clean']:.3f} on clean images"
        )
    parts.append(f"matched share from {first['matched_share']:.3f} to {last['matched_share']:.3f}")
    parts.append(f"PSNR from {first['psnr']:.1f} to {last['psnr']:.1f} dB")
    return f"Curves over validations from step {first['step']} to {last['step']}: {'; '.join(parts)}."


def _of_identity(records: Records) -> str:
    record = records.history["identity"][0]
    low, high = min(record["errors"]), max(record["errors"])
    steps = f", after {min(record['steps'])} to {max(record['steps'])} steps each" if record["steps"] else ""
    return (
        f"Mean squared error of each of {len(record['errors'])} experts as a copy of its input: {low:.4f} to "
        f"{high:.4f}{steps}."
    )


def _of_health(records: Records) -> str:
    last = records.history["step"][-1]
    return (
        f"Curves over training. At step {last['step']}: winner margin {last['margin']:.2f} (healthy from "
        f"{HEALTHY_MARGIN:g}), {len(last['idle_experts'])} idle experts, {len(last['duplicates'])} pairs that do "
        f"the same, discriminator's loss {last['discriminator_loss']:.2f}, experts' loss "
        f"{last['expert_loss']:.2f}."
    )


def _of_experts(records: Records) -> str:
    assert records.description is not None
    cards = [
        f"expert {card['expert']}, {100 * card['share']:.0f} % of images, {card['does'] or 'wins too little to say'}"
        for card in records.description["experts"]
    ]
    return (
        "A row for each expert: images it wins and what it makes of them, then what it makes of a dot, an edge and a "
        f"flat field. In words: {'; '.join(cards)}."
    )


ALTERNATIVES: dict[str, Callable[[Records], str]] = {
    "winners": _of_winners,
    "samples": _of_samples,
    "specialisation": _of_specialisation,
    "win_shares": _of_win_shares,
    "learning": _of_learning,
    "identity": _of_identity,
    "health": _of_health,
    "experts": _of_experts,
}
"""For each figure of the page the function that says in words what is on it."""

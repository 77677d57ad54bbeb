"""Records to numbers: the figures of each condition, the headline numbers, and which of those were aimed for."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from licm.mechanisms import parse_mechanisms
from licm.metrics import duplicate_experts, match_experts, owned_mechanisms, settled_steps
from licm.reproduction.experiments import EXPERIMENTS
from licm.reproduction.running import Row, may_compete, read_record, why_failed

SUCCESS = 0.95  # matched share from which a run succeeds
DIVERGED = {"matched_share": 0.0, "success": 0.0, "collapse": 1.0}  # what a run counts as that has no end

_TO_SPARE = {
    "retirement": {"matched_share": "matched_share", "unowned_wins": "unowned_wins"},  # the setting for it
    "default": {"matched_share_default": "matched_share", "unowned_wins_default": "unowned_wins"},
}
# Of an experiment's condition: the headline's name and the figure whose mean it is.
_HEADLINES: dict[str, dict[str, dict[str, str]]] = {
    "specialisation": {"default": {"matched_share_mean": "matched_share", "success_rate": "success"}},
    "recovery": {
        "default": {
            "psnr_mean": "psnr",
            "psnr_supervised": "psnr_supervised",
            "ssim_mean": "ssim",
            "ssim_supervised": "ssim_supervised",
        }
    },
    "classifier": {
        "default": {
            "clean": "accuracy_clean",
            "transformed": "accuracy_transformed",
            "restored": "accuracy_restored",
            "augmented": "accuracy_augmented",
        }
    },
    "too_many_16": _TO_SPARE,
    "too_many_20": _TO_SPARE,
    "too_few_6": {"default": {"coverage": "matched_share"}},
    "omniglot": {"default": {"identification_ratio_min": "identification_ratio_min"}},
    "fashion_mnist": {"default": {"identification_ratio_min": "identification_ratio_min"}},
}


@dataclass(frozen=True)
class Aim:
    """A number that was set before the runs.

    Attributes:
        text: In words.
        needs: The headlines it is about, "experiment.name".
        met: Whether it is reached, a function of those.
    """

    text: str
    needs: tuple[str, ...]
    met: Callable[..., bool]


AIMS = (
    Aim("matched share at least 0.99", ("specialisation.matched_share_mean",), lambda share: share >= 0.99),
    Aim("19 runs of 20 succeed", ("specialisation.success_rate",), lambda rate: rate >= 0.95),
    Aim("median settled step at most 400", ("specialisation.settled_step_median",), lambda step: step <= 400),
    Aim("accuracy on restored digits at least 0.97", ("classifier.restored",), lambda accuracy: accuracy >= 0.97),
    Aim(
        "PSNR within 7 dB of the paired expert's",
        ("recovery.psnr_mean", "recovery.psnr_supervised"),
        lambda own, bound: own >= bound - 7,
    ),
    Aim(
        "SSIM within 0.10 of the paired expert's",
        ("recovery.ssim_mean", "recovery.ssim_supervised"),
        lambda own, bound: own >= bound - 0.1,
    ),
    *(
        aim
        for name in ("too_many_16", "too_many_20")
        for ending, how in (("", "with retirement, asked once the default had missed it"), ("_default", "by default"))
        for aim in (
            Aim(f"matched share at least 0.97 {how}", (f"{name}.matched_share{ending}",), lambda share: share >= 0.97),
            Aim(
                f"experts to spare win less than 2 % together {how}",
                (f"{name}.unowned_wins{ending}",),
                lambda wins: wins < 0.02,
            ),
        )
    ),
    Aim("coverage at least 0.95", ("too_few_6.coverage",), lambda coverage: coverage >= 0.95),
    Aim(
        "identification at least 0.95 of that on digits, on every alphabet",
        ("omniglot.identification_ratio_min",),
        lambda ratio: ratio >= 0.95,
    ),
)
"""What was aimed for: the numbers were fixed before any run, but that retirement is asked too came after."""


@dataclass(frozen=True)
class Found:
    """A row of the plan with the records that are there, by measure."""

    row: Row
    records: dict[str, dict[str, Any]]
    representable: bool
    failed: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether its run is there, has diverged, or none is needed since paired experts failed."""
        ended = "evaluation" in self.records or self.failed is not None
        return ended or (not self.representable and bool(self.records))


def find(rows: Iterable[Row], out: Path) -> list[Found]:
    """Reads the records of a plan as far as they are there.

    Raises:
        ValueError: If one is damaged.
    """
    found = []
    for row in rows:
        read = {job.measure: read_record(job, out) for job in row.jobs}
        records = {name: each for name, each in read.items() if each is not None and "failed" not in each}
        found.append(Found(row, records, may_compete(row, out), why_failed(row, out)))
    return found


def figures_of(records: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Returns the figures of one run, by name."""
    figures: dict[str, float | None] = {}
    if (record := records.get("evaluation")) is not None:
        figures |= _of_evaluation(record)
    if (record := records.get("supervised")) is not None:
        figures |= {f"{name}_supervised": record[name] for name in ("psnr", "ssim", "accuracy_restored")}
        figures["psnr_supervised_min"] = min(record["per_mechanism"]["psnr"])
    if (record := records.get("augmented")) is not None:
        figures["accuracy_augmented"] = record["accuracy_transformed"]
    if (record := records.get("clusters")) is not None:
        figures |= {"clusters_matched_share": record["matched_share"], "clusters_ari": record["ari"]}
    if (record := records.get("transfer")) is not None:
        figures |= _of_identification(record)
    if (record := records.get("told")) is not None:
        figures |= {f"{name}_told": value for name, value in _of_identification(record).items()}
    return figures


def _of_identification(record: dict[str, Any]) -> dict[str, float | None]:
    lowest, own = min(group["identification"] for group in record["groups"]), record["identification_own"]
    ratio = lowest / own if own else None
    return {"identification_own": own, "identification_min": lowest, "identification_ratio_min": ratio}


def _of_evaluation(record: dict[str, Any]) -> dict[str, float | None]:
    names = ("matched_share", "ari", "accuracy_clean", "accuracy_transformed", "accuracy_restored", "psnr", "ssim")
    matrix, share = record["winner_matrix"], record["matched_share"]
    matched = set(match_experts(matrix)[1])
    owned = owned_mechanisms(matrix)
    return {
        **{name: record[name] for name in names},
        "success": float(share >= SUCCESS),
        "collapse": float(share < (1 + 1 / len(owned)) / 2),
        "unowned_wins": sum(wins for expert, wins in enumerate(record["win_share"]) if expert not in matched),
        "owners": sum(bool(mechanisms) for mechanisms in owned),
        "unused": record["num_dead_experts"],
        "shared": len(duplicate_experts(matrix)),
        "steps": record["steps"],
        "train_seconds": record["train_seconds"],
    }


def _settled(found: Sequence[Found]) -> list[list[float]]:
    """The settled step of each mechanism of each run; infinity where it is not settled."""
    steps: list[list[float]] = []
    for each in found:
        if each.failed is not None:
            steps.append([math.inf] * len(parse_mechanisms(each.row.jobs[0].config.mechanisms)))
        elif validation := each.records.get("evaluation", {}).get("validation"):
            seen = settled_steps([v["step"] for v in validation], [v["winner_matrix"] for v in validation])
            steps.append([math.inf if step is None else step for step in seen])
    return steps


def _finite(step: float) -> float | None:
    return None if math.isinf(step) else step


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
        "count": len(values),
    }


def _condition(found: Sequence[Found]) -> dict[str, Any]:
    runs = [figures_of(each.records) if each.failed is None else DIVERGED for each in found]
    names = dict.fromkeys(name for run in runs for name in run)
    known = {name: [value for run in runs if (value := run.get(name)) is not None] for name in names}
    steps = _settled(found)
    settled = [step for each in steps for step in each]
    return {
        "seeds": [each.row.seed for each in found if each.is_done],
        "planned": len(found),
        "failed": {str(each.row.seed): each.failed for each in found if each.failed is not None},
        "representable": all(each.representable for each in found),
        "settled_step_median": _finite(statistics.median(settled)) if settled else None,
        "settled_share": statistics.fmean(map(math.isfinite, settled)) if settled else None,
        "figures": {name: _spread(values) for name, values in known.items() if values},
        "by_mechanism": _by_mechanism(found, steps),
    }


def _by_mechanism(found: Sequence[Found], steps: Sequence[Sequence[float]]) -> dict[str, dict[str, float | None]]:
    """Of each mechanism the means over runs, and the median and latest settled step (None: never)."""
    evaluated = [each.records["evaluation"] for each in found if "evaluation" in each.records]
    if not evaluated:
        return {}
    values: dict[str, list[list[float]]] = {}
    for measure, ending in (("evaluation", ""), ("supervised", "_supervised")):
        for record in (each.records[measure] for each in found if measure in each.records):
            for name in ("psnr", "ssim"):
                values.setdefault(name + ending, []).append(record["per_mechanism"][name])
    transferred = (each.records.get("transfer", {}).get("identification_by_mechanism") for each in found)
    values["identification"] = [shares for shares in transferred if shares is not None]
    columns: dict[str, list[float | None]]
    columns = {name: [statistics.fmean(each) for each in zip(*runs)] for name, runs in values.items() if runs}
    settled = list(zip(*steps))
    columns |= {"settled_median": [_finite(statistics.median(each)) for each in settled]}
    columns |= {"settled_latest": [_finite(max(each)) for each in settled]}
    names = evaluated[0]["mechanisms"]
    return {name: {key: each[index] for key, each in columns.items()} for index, name in enumerate(names)}


def summarise(found: Sequence[Found]) -> dict[str, Any]:
    """Sums up the records of a plan.

    Returns:
        JSON values: for each experiment of which something is there its headline numbers (means over seeds; None where
        records are missing) and `conditions`: for each the `seeds` that were run (or need no run, as the mechanisms
        cannot be represented), how many were `planned`, why which seeds `failed` (their matched share counts as 0),
        whether paired experts found it `representable`, the median settled step over mechanisms and seeds (None also
        if most are not settled) and the share that is settled, `figures`, each with mean, std (of the sample), min, max
        and count, and means `by_mechanism`. `aims` says which numbers were aimed for in what was planned, of how many
        runs they are, of how many they were wanted, and whether they are `met`; None where records are missing.
    """
    results: dict[str, Any] = {}
    for experiment in dict.fromkeys(each.row.experiment for each in found):
        own = [each for each in found if each.row.experiment == experiment]
        if not any(each.records for each in own):
            continue
        labels = dict.fromkeys(each.row.condition for each in own)
        conditions = {label: _condition([each for each in own if each.row.condition == label]) for label in labels}
        results[experiment] = {**_headlines(experiment, conditions), "conditions": conditions}
    planned = {each.row.experiment for each in found}
    results["aims"] = [_judge(aim, results) for aim in AIMS if aim.needs[0].split(".")[0] in planned]
    machines = {str(record["provenance"]): record for each in found for record in each.records.values()}
    results["made_with"] = [record["provenance"] for record in machines.values()]
    runs = {each.row.jobs[0].run: each.records["evaluation"] for each in found if "evaluation" in each.records}
    results["train_seconds"] = sum(record["train_seconds"] for record in runs.values())
    return results


def _headlines(experiment: str, conditions: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for condition, names in _HEADLINES.get(experiment, {}).items():
        figures = conditions.get(condition, {"figures": {}})["figures"]
        found |= {name: figures.get(figure, {}).get("mean") for name, figure in names.items()}
    if experiment == "specialisation" and "default" in conditions:
        found["settled_step_median"] = conditions["default"]["settled_step_median"]
    return found


def _judge(aim: Aim, results: dict[str, Any]) -> dict[str, Any]:
    values, counts = zip(*(_headline(need, results) for need in aim.needs))
    met = None if None in values else bool(aim.met(*values))
    shown = [None if value is None else _finite(value) for value in values]
    planned = EXPERIMENTS[aim.needs[0].split(".")[0]].seeds
    return {"aim": aim.text, "of": list(aim.needs), "values": shown, "runs": min(counts), "wanted": planned, "met": met}


def _headline(need: str, results: dict[str, Any]) -> tuple[float | None, int]:
    """A headline's value, infinity for a step that is not reached, and of how many runs it is."""
    experiment, name = need.split(".")
    found = results.get(experiment, {})
    conditions, value = found.get("conditions", {}), found.get(name)
    if name == "settled_step_median":
        default = conditions.get("default", {"settled_share": None, "seeds": ()})
        never = value is None and default["settled_share"] is not None
        return (math.inf if never else value), len(default["seeds"])
    condition, figure = next((c, names[name]) for c, names in _HEADLINES[experiment].items() if name in names)
    return value, conditions.get(condition, {"figures": {}})["figures"].get(figure, {"count": 0})["count"]

"""How well a run knows what it knows: calibration error, and abstention on mechanisms that it has never met.

    python -m benchmarks confidence mnist-10 RUN RUN --images 100 --json docs/results/confidence.json

The runs are finished ones on a source under known mechanisms, or models of the package. What they are measured on are
official test digits: under the run's own mechanisms, as `licm evaluate` has them, and under mechanisms held out. A run
without calibration is calibrated first, on its training data, without labels.

AUROC tells images under a held-out mechanism from those under the run's own, by `Calibration.strangeness`. Strong blur
is the strongest level of the registry.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score
from torch import Tensor

from licm import metrics
from licm.checkpoint import provenance
from licm.confidence import CLEAN, UNKNOWN, Calibration, Evidence, ensure_calibration, gather_evidence
from licm.datasets import to_float
from licm.evaluation import confidence_figures, load_evaluated
from licm.mechanisms import MECHANISMS, Mechanism, parse_mechanisms
from licm.run import Run, restore_images
from licm.saving import load_run
from licm.seeding import generator
from licm.shipped import find_run

STRONG_BLUR = "blur(sigma=2.5)"


def held_out(run: Run) -> list[Mechanism]:
    """Returns every mechanism of the registry, at its strongest and at a middle level, that a run has not met."""
    own = {str(mechanism) for mechanism in parse_mechanisms(run.config.mechanisms)}
    kinds = {name: kind for name, kind in MECHANISMS.items() if run.discriminator.channels > 1 or not kind.of_colour}
    found = [Mechanism(name, kind.levels[at]) for name, kind in kinds.items() for at in {len(kind.levels) // 2, -1}]
    return [mechanism for mechanism in {str(each): each for each in found}.values() if str(mechanism) not in own]


def rates(reasons: list[str]) -> dict[str, float]:
    """Returns how often a run abstains for each reason, and at all.

    >>> rates(["", "clean", "unknown", "unknown"])
    {'clean': 0.25, 'unknown': 0.5, 'abstained': 0.75}
    """
    count = len(reasons)
    return {
        **{name: reasons.count(name) / count for name in (CLEAN, UNKNOWN)},
        "abstained": 1 - reasons.count("") / count,
    }


def look(run: Run, images: Tensor) -> Evidence:
    """Lets the experts compete, and returns what is then known of the images."""
    return gather_evidence(run, images, *restore_images(run, images))


def measure(folder: Path, images: int, source: str | None = None) -> dict[str, Any]:
    """Measures a run on test digits under its own mechanisms, and `images` of them under each that is held out."""
    run, calibration = load_run(folder), ensure_calibration(folder)
    config = run.config
    if source is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
    originals, mixture = load_evaluated(config, "test")
    names = [str(mechanism) for mechanism in parse_mechanisms(config.mechanisms)]
    scores, winners, restored = restore_images(run, mixture.images)
    matrix = metrics.winner_matrix(
        mixture.mechanism, winners, num_mechanisms=len(names), num_experts=config.num_experts
    )
    figures = confidence_figures(run, calibration, mixture, matrix, (scores, winners, restored))
    known = gather_evidence(run, mixture.images, scores, winners, restored)
    reasons = calibration.reasons(known)
    digits = to_float(originals.test.images[:images])
    record: dict[str, Any] = {
        "run": folder.name,
        "source": config.data.source,
        "num_images": len(mixture.images),
        "matched_share": metrics.matched_share(matrix),
        "temperature": calibration.temperature,
        **figures,
        "known": {
            name: rates([reason for reason, of in zip(reasons, mixture.mechanism.tolist()) if of == index])
            for index, name in enumerate(names)
        },
        "held_out": {},
    }
    for mechanism in held_out(run):
        strange = look(run, mechanism(digits, generator(0, "held out", str(mechanism))))
        told = {**rates(calibration.reasons(strange)), "auroc": auroc(calibration, known, strange)}
        record["held_out"][str(mechanism)] = told
        print(f"  {mechanism}: {told}", flush=True)
    record["auroc_blur"] = record["held_out"][STRONG_BLUR]["auroc"]
    return record


def auroc(calibration: Calibration, known: Evidence, strange: Evidence) -> float:
    """Returns the area under the ROC curve of `Calibration.strangeness` for what is strange against what is known."""
    values = [calibration.strangeness(evidence).tolist() for evidence in (known, strange)]
    return float(roc_auc_score([0] * len(values[0]) + [1] * len(values[1]), values[0] + values[1]))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--images", type=int, default=200, help="under each mechanism that is held out")
    parser.add_argument("--source", help="whose test part to measure on, such as mnist; that of the run's own source")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    records = [measure(find_run(name), arguments.images, arguments.source) for name in arguments.runs]
    keys = ("ece", "auroc_blur", "false_abstention")
    summary = {key: statistics.mean(record[key] for record in records) for key in keys}
    print(summary)
    if arguments.json is not None:
        record = {**summary, "images": arguments.images, "provenance": provenance(), "runs": records}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

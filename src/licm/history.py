"""What a run's history says: of each step, and of validation, which is for people and decides nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from licm.classifier import MIN_SIZE, accuracy, train_classifier
from licm.competition import StepRecord
from licm.datasets import Mixture, TrainingData
from licm.metrics import matched_share, mean_per_mechanism, psnr, winner_matrix
from licm.run import Run, restore_images

JUDGE_IMAGES = 5_000  # labelled canonical images the judge learns from: 5 s on one CPU thread


def step_record(run: Run, record: StepRecord) -> dict[str, Any]:
    """Returns what the history keeps of a step."""
    rule, competing = run.config.revival, run.experts.competing
    return {
        "kind": "step",
        "step": run.step,
        "discriminator_loss": record.discriminator_loss,
        "expert_loss": record.expert_loss,
        "cycle_error": record.cycle_error,
        "real_score": record.real_score,
        "winning_score": record.scores.gather(0, record.winners[None]).mean().item(),
        "margin": run.health.margin,
        "win_share": [round(share, 5) for share in run.health.win_share.tolist()],
        "contribution": [round(value, 5) for value in run.health.contribution.tolist()],
        "idle_experts": run.health.idle(rule.idle_below, competing).nonzero().flatten().tolist(),
        "duplicates": [list(pair) for pair in run.health.duplicates(rule.duplicate_margin, competing)],
        "healthy_steps": run.health.healthy_steps,
        "end": run.end,
        "learning_rate_factor": run.learning_rate_factor,
        "asked": record.asked.float().mean().item(),
        "router_agreement": None if record.router_check is None else record.router_check.agreement,
        "router_regret": None if record.router_check is None else record.router_check.regret,
        "seconds": round(run.seconds, 2),
    }


def train_judge(data: TrainingData, watched: Mixture) -> Callable[[Tensor], float] | None:
    """Trains the classifier of clean images by which the history judges restored ones.

    Args:
        data: Its canonical images and their labels are learned from.
        watched: The images to judge.

    Returns:
        A function from restorations of the watched images, [n, c, h, w], to the share that is classified as the
        hidden originals are labelled; None where labels are unknown, or there are no images, or too small ones.
    """
    if data.labels is None or watched.labels is None:
        return None
    if data.canonical.ndim != 4 or data.canonical.shape[-1] < MIN_SIZE:
        return None
    model = train_classifier(data.canonical[:JUDGE_IMAGES], data.labels[:JUDGE_IMAGES])
    return partial(accuracy, model, labels=watched.labels)


def judge_record(judge: Callable[[Tensor], float], mixture: Mixture) -> dict[str, Any]:
    """Returns the bounds of the accuracies in the history: on the hidden originals and on what was made of them."""
    return {
        "kind": "judge",
        "step": 0,
        "accuracy_clean": judge(mixture.originals),
        "accuracy_transformed": judge(mixture.images),
    }


def validation_record(run: Run, mixture: Mixture, judge: Callable[[Tensor], float] | None = None) -> dict[str, Any]:
    """Measures the experts on a mixture with known mechanisms, for people to watch."""
    mechanism = mixture.mechanism
    count = int(mechanism.max()) + 1
    scores, winners, restored = restore_images(run, mixture.images)
    matrix = winner_matrix(mechanism, winners, num_mechanisms=count, num_experts=run.config.num_experts)
    means = [mean_per_mechanism(row, mechanism, count) for row in scores]
    return {
        "kind": "validation",
        "step": run.step,
        "matched_share": matched_share(matrix),
        "psnr": mean_per_mechanism(psnr(restored, mixture.originals), mechanism, count).mean().item(),
        "accuracy_restored": None if judge is None else judge(restored),
        "winner_matrix": matrix.tolist(),
        "score_matrix": torch.stack(means, dim=1).tolist(),
    }

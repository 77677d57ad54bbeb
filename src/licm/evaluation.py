"""From a run to one record of what it achieved, on originals it has never seen."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from licm import checkpoint as files
from licm import metrics
from licm.classifier import MIN_SIZE, predict_labels, train_classifier
from licm.competition import compete
from licm.confidence import Calibration, calibration_error, gather_evidence, read_calibration
from licm.config import Config
from licm.datasets import (
    Mixture,
    Originals,
    TrainingData,
    evaluation_mixture,
    load_originals,
    load_training_data,
    to_bytes,
    to_float,
)
from licm.mechanisms import parse_mechanisms
from licm.records import Samples
from licm.run import Run, restore_images, route_images
from licm.saving import load_image_run

Split = Literal["test", "validation"]


def evaluate(folder: str | Path, *, split: Split = "test", device: str = "cpu") -> dict[str, Any]:
    """Measures a run as it was last saved.

    With a source under known mechanisms: the originals of `split`, each under one mechanism, assigned in turn by
    a fixed seed (the same for all runs); see docs/measures.md for each figure. With images of one's own there
    is no truth to compare with, and the figures that need it are None.

    Args:
        folder: The run folder.
        split: "test", the official test set, for figures to report; "validation" for choices.
        device: Where to compute.

    Returns:
        One record of JSON values: the figures, the configuration, seed, and versions and commit of training and
        of this evaluation.

    Raises:
        ValueError: If the folder is not a run of images, has no readable checkpoint, or its data cannot be read.
    """
    folder = Path(folder)
    run = load_image_run(folder, device=device)
    history = files.read_history(folder, until=run.step)
    known = run.config.data.canonical is None
    calibration = read_calibration(folder, run)
    figures = _labelled_figures(run, split, calibration) if known else _label_free_figures(run)
    return {
        **figures,
        "steps": run.step,
        "finished": run.finished,
        "train_seconds": round(run.seconds, 2),
        "num_experts": run.config.num_experts,
        "num_competing": int(run.experts.competing.sum()),
        "receptive_radius": getattr(run.experts[0], "receptive_radius", None),
        "identity": next((r for r in history if r["kind"] == "identity"), None),
        "revivals": [r for r in history if r["kind"] == "revival"],
        "settled_steps": _settled_steps(history),
        "health": run.health.state(),
        "seed": run.config.seed,
        "config": run.config.model_dump(mode="json"),
        "trained_with": files.read_run(folder),
        "provenance": files.provenance(),
    }


@torch.no_grad()
def take_samples(folder: str | Path, *, split: Split = "test", each: int = 3, device: str = "cpu") -> Samples:
    """Runs a few images through every expert, to be looked at.

    They are the first `each` images under each mechanism among those that `evaluate` measures; with images of
    one's own, of the first thousand the first `each` that every expert wins.

    Args:
        folder: The run folder.
        split: As in `evaluate`.
        each: Images per mechanism, or per winning expert.
        device: Where to compute.

    Raises:
        ValueError: If the folder is not a run of images, has no readable checkpoint, or its data cannot be read.
    """
    run = load_image_run(folder, device=device)
    if run.config.data.canonical is None:
        _, mixture = load_evaluated(run.config, split)
        images, group = mixture.images, mixture.mechanism
    else:
        mixture, images = None, _training_data(run.config).transformed[:1000]
        group = compete(run.experts, run.discriminator, images.to(run.device))[1].cpu()
    chosen = torch.cat([(group == index).nonzero().flatten()[:each] for index in group.unique()])
    inputs = images[chosen].to(run.device)
    scores, winners = compete(run.experts, run.discriminator, inputs)
    return Samples(
        inputs=to_bytes(inputs),
        outputs=to_bytes(torch.stack(run.experts(inputs), dim=1)),
        scores=scores.T.cpu().numpy(),
        winners=winners.cpu().numpy(),
        mechanism=None if mixture is None else mixture.mechanism[chosen].numpy(),
        originals=None if mixture is None else to_bytes(mixture.originals[chosen]),
    )


def load_evaluated(config: Config, split: Split) -> tuple[Originals, Mixture]:
    """Loads the originals of a run's source, and those of `split` under its mechanisms: what `evaluate` measures."""
    originals = load_originals(
        config.data.source, seed=config.seed, image_size=config.data.image_size, channels=config.data.channels
    )
    return originals, evaluation_mixture(getattr(originals, split), parse_mechanisms(config.mechanisms))


def _training_data(config: Config) -> TrainingData:
    return load_training_data(**config.data.model_dump(), mechanisms=config.mechanisms, seed=config.seed)


def _labelled_figures(run: Run, split: Split, calibration: Calibration | None) -> dict[str, Any]:
    config = run.config
    originals, mixture = load_evaluated(config, split)
    mechanisms = parse_mechanisms(config.mechanisms)
    scores, winners, restored = restore_images(run, mixture.images)
    matrix = metrics.winner_matrix(
        mixture.mechanism, winners, num_mechanisms=len(mechanisms), num_experts=config.num_experts
    )

    def mean(values: Tensor) -> list[float]:
        return metrics.mean_per_mechanism(values, mixture.mechanism, len(mechanisms)).tolist()

    per_mechanism = {
        "psnr": mean(metrics.psnr(restored, mixture.originals)),
        "psnr_transformed": mean(metrics.psnr(mixture.images, mixture.originals)),
        "ssim": mean(metrics.ssim(restored, mixture.originals)),
        "ssim_transformed": mean(metrics.ssim(mixture.images, mixture.originals)),
    }
    means = {name: sum(values) / len(mechanisms) for name, values in per_mechanism.items()}
    accuracy, right = _accuracies(
        config, to_float(originals.canonical.images), originals.canonical.labels, mixture, restored
    )
    if right is not None:
        per_mechanism["accuracy_restored"] = mean(right)
    return {
        "split": split,
        "num_images": len(winners),
        "matched_share": metrics.matched_share(matrix),
        **metrics.clustering_scores(mixture.mechanism, winners),
        **accuracy,
        **means,
        **_shares_and_scores(scores, winners, _real_score(run, mixture.originals)),
        "duplicate_experts": metrics.duplicate_experts(matrix),
        "mechanisms": [str(mechanism) for mechanism in mechanisms],
        "winner_matrix": matrix.tolist(),
        "per_mechanism": per_mechanism,
        "forward_psnr": _forward_psnr(run, mixture, matrix),
        "router_agreement": _router_agreement(run, mixture.images, winners),
        **confidence_figures(run, calibration, mixture, matrix, (scores, winners, restored)),
    }


def confidence_figures(
    run: Run,
    calibration: Calibration | None,
    mixture: Mixture,
    matrix: Tensor,
    restored: tuple[Tensor, Tensor, Tensor],
) -> dict[str, float | None]:
    """How well the confidence in the winners is calibrated, and how often the run abstains though it knows."""
    if calibration is None:
        return dict.fromkeys(("ece", "false_abstention"))
    expert = torch.full((len(matrix),), -1)
    matched, owners = metrics.match_experts(matrix)
    expert[matched] = torch.tensor(owners)
    reasons = calibration.reasons(gather_evidence(run, mixture.images, *restored))
    return {
        "ece": calibration_error(calibration.confidences(restored[0]), expert[mixture.mechanism]),
        "false_abstention": sum(map(bool, reasons)) / len(reasons),
    }


def _forward_psnr(run: Run, mixture: Mixture, matrix: Tensor) -> list[float | None] | None:
    """For each expert that competes the PSNR of its forward network's images against those of its mechanism."""
    if run.competition.forward is None:
        return None
    found: list[float | None] = [None] * run.config.num_experts
    for mechanism, expert in zip(*metrics.match_experts(matrix)):
        if not run.experts.competing[expert]:
            continue
        of_mechanism = mixture.select(mixture.mechanism == mechanism)
        made = run.apply(of_mechanism.originals, mechanism=expert).cpu()
        found[expert] = metrics.psnr(made, of_mechanism.images).mean().item()
    return found


def _router_agreement(run: Run, images: Tensor, winners: Tensor) -> float | None:
    """Share of images for which the router names the winner of the exact competition."""
    if run.competition.routing is None:
        return None
    return (route_images(run, images) == winners.cpu()).double().mean().item()


def _label_free_figures(run: Run) -> dict[str, Any]:
    data = _training_data(run.config)
    moved = data.transformed.to(run.device, memory_format=torch.channels_last)
    scores, winners = (result.cpu() for result in compete(run.experts, run.discriminator, moved))
    real_score = _real_score(run, data.canonical[:1000])
    unknown = ("matched_share", "ari", "nmi", "accuracy_clean", "accuracy_transformed", "accuracy_restored")
    return {
        "split": "transformed",
        "num_images": len(winners),
        **dict.fromkeys((*unknown, "psnr", "ssim", "forward_psnr", "ece", "false_abstention")),
        **_shares_and_scores(scores, winners, real_score),
        "duplicate_experts": metrics.duplicates_without_labels(scores.T, real_score=real_score),
        "router_agreement": _router_agreement(run, data.transformed, winners),
    }


def _shares_and_scores(scores: Tensor, winners: Tensor, real_score: float) -> dict[str, Any]:
    """The figures that need no labels, from scores [N', n] and winners [n]."""
    share = metrics.win_shares(winners, len(scores))
    dead = metrics.dead_experts(share)
    return {
        "num_dead_experts": len(dead),
        "dead_experts": dead,
        "win_share": share.tolist(),
        "real_score": real_score,
        "winner_margin": metrics.winner_margin(scores.T, real_score) if len(scores) > 1 else None,
    }


@torch.no_grad()
def _real_score(run: Run, canonical: Tensor) -> float:
    logits = torch.cat([run.discriminator(part.to(run.device)) for part in canonical.split(256)])
    return logits.sigmoid().mean().item()


def _accuracies(
    config: Config, canonical: Tensor, labels: Tensor | None, mixture: Mixture, restored: Tensor
) -> tuple[dict[str, float | None], Tensor | None]:
    """Accuracy of a classifier of clean canonical images, and whether each restored image was classified rightly."""
    if labels is None or mixture.labels is None or canonical.shape[-1] < MIN_SIZE:
        return dict.fromkeys(("accuracy_clean", "accuracy_transformed", "accuracy_restored")), None
    classifier = train_classifier(canonical, labels)
    views = {"clean": mixture.originals, "transformed": mixture.images, "restored": restored}
    right = {view: predict_labels(classifier, images) == mixture.labels for view, images in views.items()}
    return {f"accuracy_{view}": hits.double().mean().item() for view, hits in right.items()}, right["restored"]


def _settled_steps(history: list[dict[str, Any]]) -> list[int | None] | None:
    seen = [record for record in history if record["kind"] == "validation"]
    if not seen:
        return None
    return metrics.settled_steps([r["step"] for r in seen], [r["winner_matrix"] for r in seen])

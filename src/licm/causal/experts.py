"""From a trained run to a causal graph: the winner is an estimate of the mechanism variable.

The graph is class -> answer <- mechanism. `class` is what an image shows, `mechanism` the expert that wins it, and
`answer`, a summary of the image, what a classifier of clean images takes it for. p(answer | class, mechanism) is a
mechanism of its own, so it stays as it is when the mixture of mechanisms changes; what the classifier will be worth
under a new mixture can be told from a sample of the old one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from licm.causal.conditionals import Tabular
from licm.causal.factorization import CausalFactorization
from licm.classifier import predict_labels, train_classifier
from licm.datasets import Mixture, evaluation_mixture, load_originals, make_mixture, to_float
from licm.mechanisms import parse_mechanisms
from licm.metrics import winner_matrix
from licm.run import Run, restore_images
from licm.saving import load_image_run
from licm.seeding import generator

GRAPH = nx.freeze(nx.DiGraph([("class", "answer"), ("mechanism", "answer")]))


@dataclass(frozen=True)
class MixturePrediction:
    """What a factorisation of a run foretold of a new mixture of mechanisms, and what came.

    Attributes:
        factorization: p(class) p(mechanism) p(answer | class, mechanism), fitted on the validation images.
        weights: The new mixture of the mechanisms of the configuration, sums to 1.
        mixture: The same as a mixture of winners, [N'].
        predicted: The classifier's accuracy under do(mechanism ~ mixture), from the factorisation.
        measured: Its accuracy on official test images under the new mixture.
        unchanged: Its accuracy on the validation images: the prediction of one who does not know of mechanisms.
        standard_error: Of `predicted` less `measured`, from the numbers of images alone.
    """

    factorization: CausalFactorization
    weights: NDArray[np.float64]
    mixture: NDArray[np.float64]
    predicted: float
    measured: float
    unchanged: float
    standard_error: float

    def __str__(self) -> str:
        return (
            f"accuracy under the new mixture: predicted {self.predicted:.3f}, measured {self.measured:.3f} "
            f"(standard error {self.standard_error:.3f}); under the old one {self.unchanged:.3f}"
        )


def predict_under_mixture(
    folder: str | Path,
    weights: Sequence[float],
    *,
    restored: bool = False,
    images: int = 2000,
    classifier: nn.Module | None = None,
) -> MixturePrediction:
    """Foretells a classifier's accuracy under a new mixture of mechanisms from a trained run, and measures it.

    Fitted on validation originals, each under one mechanism in equal parts; measured on test originals under the new
    mixture. The factorisation sees winners, never mechanisms; the numbers of the mechanisms serve to make the new
    mixture, and to say which mixture of winners it is.

    Args:
        folder: A run on a labelled source.
        weights: One for each mechanism of the configuration, at least 0; scaled to sum to 1.
        restored: Classify the winners' outputs instead of the transformed images.
        images: At most so many of each split are used.
        classifier: From images to logits; None for the one that `licm.evaluation.evaluate` trains on clean images.

    Raises:
        ValueError: If the folder is no run, its source has no labels, `weights` are not one per mechanism, or `images`
            is below 1.
    """
    if images < 1:
        raise ValueError(f"images: expected at least 1, got {images}")
    run = load_image_run(folder)
    config = run.config
    if config.data.canonical is not None:
        raise ValueError(f"run {str(folder)!r}: was trained on images of one's own, whose mechanisms nobody knows")
    originals = load_originals(
        config.data.source, seed=config.seed, image_size=config.data.image_size, channels=config.data.channels
    )
    if originals.canonical.labels is None:
        raise ValueError(f"run {str(folder)!r}: its source {config.data.source!r} has no labels")
    mechanisms = parse_mechanisms(config.mechanisms)
    chosen = np.asarray(weights, float)
    if chosen.shape != (len(mechanisms),) or (chosen < 0).any() or not chosen.sum() > 0:
        raise ValueError(f"weights: expected {len(mechanisms)} non-negative numbers with a positive sum, got {weights}")
    chosen = chosen / chosen.sum()
    old = evaluation_mixture(originals.validation, mechanisms).select(slice(images))
    new = make_mixture(
        originals.test, mechanisms, draws=generator(0, "intervened mixture"), weights=chosen.tolist()
    ).select(slice(images))
    if classifier is None:
        classifier = train_classifier(to_float(originals.canonical.images), originals.canonical.labels)
    seen, winners = _observe(run, classifier, old, restored=restored)
    later, _ = _observe(run, classifier, new, restored=restored)
    classes = int(originals.canonical.labels.max()) + 1
    factorization = fit_mechanism_factorization(seen, num_classes=classes, num_experts=config.num_experts)
    sizes = {"num_mechanisms": len(mechanisms), "num_experts": config.num_experts}
    mixture = chosen @ winner_matrix(old.mechanism, winners, **sizes).numpy()
    # The classes of an official test set are not spread quite as those of the validation set; nobody intervened on
    # them, so the prediction keeps p(class) as fitted.
    changed = factorization.replace_mechanism("mechanism", Tabular(mixture))
    predicted = expected_accuracy(changed)
    measured = float((later["answer"] == later["class"]).mean())
    return MixturePrediction(
        factorization=factorization,
        weights=chosen,
        mixture=mixture,
        predicted=predicted,
        measured=measured,
        unchanged=float((seen["answer"] == seen["class"]).mean()),
        standard_error=_standard_error(seen, mixture, measured, len(later["class"])),
    )


def fit_mechanism_factorization(data: dict[str, NDArray], *, num_classes: int, num_experts: int) -> CausalFactorization:
    """Returns the factorisation along class -> answer <- mechanism, tables of relative frequencies.

    Args:
        data: Integers [n] under "class", "mechanism" and "answer".
        num_classes: Also the number of answers.
        num_experts: The number of mechanisms told apart.
    """
    tables = {
        "class": Tabular(num_states=num_classes),
        "mechanism": Tabular(num_states=num_experts),
        "answer": Tabular(num_states=num_classes, parent_states=(num_classes, num_experts)),
    }
    return CausalFactorization(GRAPH, tables).fit(data)


def expected_accuracy(factorization: CausalFactorization) -> float:
    """Returns P(answer = class) under a factorisation along class -> answer <- mechanism, exactly.

    Args:
        factorization: With tables for all three.
    """
    classes, mechanisms, answers = (
        np.asarray(factorization.conditionals[node].table)  # type: ignore[attr-defined]
        for node in ("class", "mechanism", "answer")
    )
    return float(np.einsum("c,m,cmc->", classes, mechanisms, answers))


def _observe(run: Run, classifier: nn.Module, mixture: Mixture, *, restored: bool) -> tuple[dict[str, NDArray], Tensor]:
    _, winners, outputs = restore_images(run, mixture.images)
    assert mixture.labels is not None
    answers = predict_labels(classifier, outputs if restored else mixture.images)
    columns = {"class": mixture.labels, "mechanism": winners, "answer": answers}
    return {name: column.numpy() for name, column in columns.items()}, winners


def _standard_error(seen: dict[str, NDArray], mixture: NDArray[np.float64], accuracy: float, count: int) -> float:
    """Of a weighted mean of accuracies per mechanism less an accuracy on `count` images."""
    variance = accuracy * (1 - accuracy) / count
    hits = seen["answer"] == seen["class"]
    for mechanism, share in enumerate(mixture):
        won = hits[seen["mechanism"] == mechanism]
        if len(won):
            variance += share**2 * won.mean() * (1 - won.mean()) / len(won)
    return float(np.sqrt(variance))

"""What is measured of a condition: functions of a configuration (and its run, where one is needed) to JSON values."""

import base64
import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from licm import metrics
from licm.classifier import predict_labels, train_classifier
from licm.competition import compete
from licm.config import Config
from licm.datasets import (
    Mixture,
    Originals,
    TrainingData,
    evaluation_mixture,
    load_originals,
    make_mixture,
    to_bytes,
    to_float,
)
from licm.evaluation import evaluate, load_evaluated
from licm.mechanisms import parse_mechanisms
from licm.records import read_records
from licm.reproduction.paired import restore_paired
from licm.run import Run, restore_images
from licm.saving import load_run
from licm.seeding import generator
from licm.sources import ImageSet
from licm.writing import write_bytes

Settings = Mapping[str, Any]

_SNAPSHOTS = "recovered"  # a folder in the run's
_COPIES = 3  # of the canonical images, each under mechanisms drawn anew, that the augmented classifier sees


@dataclass(frozen=True)
class Measure:
    """How something is measured.

    Attributes:
        take: A function of the configuration, the folder of its run and the settings to JSON values.
        settings: Names of the settings it reads, where they are given; they are part of what its record is known by.
        reads: Keys and sections of the configuration that it depends on, likewise; None for all, and for its run, which
            then has to be trained first.
    """

    take: Callable[[Config, Path, Settings], dict[str, Any]]
    settings: tuple[str, ...] = ()
    reads: tuple[str, ...] | None = None

    @property
    def needs_run(self) -> bool:
        """Whether the run has to be trained first."""
        return self.reads is None


def pack(images: np.ndarray) -> dict[str, Any]:
    """Puts uint8 images in JSON values.

    >>> unpack(pack(np.array([[1, 2]], np.uint8))).tolist()
    [[1, 2]]
    """
    return {"shape": list(images.shape), "zlib": base64.b64encode(zlib.compress(images.tobytes(), 9)).decode()}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """Gets back what `pack` packed."""
    content = zlib.decompress(base64.b64decode(packed["zlib"]))
    return np.frombuffer(content, np.uint8).reshape(packed["shape"])


def watch_recovery(folder: Path) -> Callable[[Run, TrainingData], Callable[[dict[str, Any]], None]]:
    """Returns a watcher for `licm.train` that keeps what the winners make of one image of each mechanism.

    After the identity start, then at a validation whenever the steps have doubled, and at the end.
    """

    def watch(run: Run, data: TrainingData) -> Callable[[dict[str, Any]], None]:
        if data.validation is None:
            raise ValueError("data.canonical: to reproduce results needs a source under known mechanisms")
        mixture = _first_of_each(data.validation)
        place = folder / _SNAPSHOTS
        place.mkdir(exist_ok=True)
        _save(place / "inputs.npy", mixture.images)
        _save(place / "originals.npy", mixture.originals)

        def look(record: dict[str, Any]) -> None:
            doublings = record["step"] / run.config.training.validate_every
            is_due = record["kind"] == "validation" and (doublings in (1 << k for k in range(32)) or run.finished)
            if record["kind"] == "identity" or is_due:
                _save(place / f"{record['step']}.npy", restore_images(run, mixture.images)[2])

        return look

    return watch


def _first_of_each(mixture: Mixture) -> Mixture:
    return mixture.select(torch.stack([(mixture.mechanism == m).nonzero()[0, 0] for m in mixture.mechanism.unique()]))


def _save(path: Path, images: Tensor) -> None:
    buffer = io.BytesIO()
    np.save(buffer, to_bytes(images), allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def _evaluation(config: Config, folder: Path, settings: Settings) -> dict[str, Any]:
    """The official test set, and the course of the validation over training."""
    history = read_records(folder).history
    return {**evaluate(folder), "judge": history["judge"], "validation": _rounded(history["validation"])}


def _rounded(value: Any) -> Any:
    """Four digits are more than can be seen, and a tenth of the file."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return {key: _rounded(each) for key, each in value.items()} if isinstance(value, dict) else value


def _recovered(config: Config, folder: Path, settings: Settings) -> dict[str, Any]:
    """What `watch_recovery` kept."""
    place = folder / _SNAPSHOTS
    steps = sorted(int(path.stem) for path in place.glob("*.npy") if path.stem.isdigit())
    names = ["inputs", *map(str, steps), "originals"]
    return {"steps": steps, "images": pack(np.stack([np.load(place / f"{name}.npy") for name in names], axis=1))}


def mean_qualities(images: Tensor, mixture: Mixture, num_mechanisms: int) -> dict[str, Tensor]:
    """Returns mean `psnr` (dB) and `ssim` per mechanism, [N], of images [n, c, h, w] against a mixture's originals."""
    values = {"psnr": metrics.psnr(images, mixture.originals), "ssim": metrics.ssim(images, mixture.originals)}
    return {name: metrics.mean_per_mechanism(each, mixture.mechanism, num_mechanisms) for name, each in values.items()}


def _supervised(config: Config, folder: Path, settings: Settings) -> dict[str, Any]:
    """A paired expert for each mechanism, on the test images of that mechanism."""
    originals, mixture = load_evaluated(config, "test")
    mechanisms = parse_mechanisms(config.mechanisms)
    restored = restore_paired(
        mechanisms,
        to_float(originals.to_transform.images),
        mixture,
        architecture=config.experts,
        steps=settings["paired_steps"],
        seed=config.seed,
    )
    means = mean_qualities(restored, mixture, len(mechanisms))
    accuracy = None
    if originals.canonical.labels is not None and mixture.labels is not None:
        judge = train_classifier(to_float(originals.canonical.images), originals.canonical.labels)
        accuracy = _share(predict_labels(judge, restored) == mixture.labels)
    return {
        **{name: each.mean().item() for name, each in means.items()},
        "accuracy_restored": accuracy,
        "per_mechanism": {name: each.tolist() for name, each in means.items()},
        "mechanisms": [str(mechanism) for mechanism in mechanisms],
    }


def _augmented(config: Config, folder: Path, settings: Settings) -> dict[str, Any]:
    """A classifier trained on clean digits and on digits under the mechanisms, which it is told of."""
    originals, mixture = load_evaluated(config, "test")
    canonical = originals.canonical
    if canonical.labels is None or mixture.labels is None:
        raise ValueError(f"data.source: a classifier needs labels, {config.data.source!r} has none")
    drawn = [
        make_mixture(canonical, parse_mechanisms(config.mechanisms), draws=generator(config.seed, "augmentation", copy))
        for copy in range(_COPIES)
    ]
    images = torch.cat([to_float(canonical.images), *(each.images for each in drawn)])
    model = train_classifier(images, canonical.labels.repeat(1 + _COPIES))
    views = {"clean": mixture.originals, "transformed": mixture.images}
    return {f"accuracy_{name}": _share(predict_labels(model, view) == mixture.labels) for name, view in views.items()}


def _transfer(config: Config, folder: Path, settings: Settings) -> dict[str, Any]:
    """Experts of digits on another data set, a group of images for each of its labels."""
    run, mechanisms = load_run(folder), parse_mechanisms(config.mechanisms)
    own = load_evaluated(config, "test")[1]
    winners = compete(run.experts, run.discriminator, own.images)[1].cpu()
    matrix = metrics.winner_matrix(
        own.mechanism, winners, num_mechanisms=len(mechanisms), num_experts=config.num_experts
    )
    matched = dict(zip(*metrics.match_experts(matrix)))
    owner = torch.tensor([matched.get(m, -1) for m in range(len(mechanisms))])
    images = _other_images(settings, config)
    mixture = evaluation_mixture(images, mechanisms)
    _, won_by, restored = restore_images(run, mixture.images)
    right, decibels = won_by == owner[mixture.mechanism], metrics.psnr(restored, mixture.originals)
    sample = _first_of_each(mixture)
    outputs = _outputs(run, sample.images)
    by_mechanism = metrics.mean_per_mechanism(right.double(), mixture.mechanism, len(mechanisms))
    return {
        "source": settings["source"],
        "identification_own": _share(winners == owner[own.mechanism]),
        "groups": _by_group(images, identification=right, psnr=decibels),
        "identification_by_mechanism": by_mechanism.tolist(),
        "mechanisms": [str(mechanism) for mechanism in mechanisms],
        "expert_order": [e for e in owner.tolist() if e >= 0],
        "grid": pack(np.concatenate([to_bytes(sample.images)[:, None], outputs], axis=1)),
        "grid_winners": compete(run.experts, run.discriminator, sample.images)[1].tolist(),
    }


def _told(config: Config, folder: Path, settings: Settings) -> dict[str, Any]:
    """A bound for `transfer`: a classifier that was told the mechanism of each digit, on the other data set."""
    originals, own = load_evaluated(config, "test")
    mechanisms = parse_mechanisms(config.mechanisms)
    known = make_mixture(originals.to_transform, mechanisms, draws=generator(config.seed, "told mechanisms"))
    model = train_classifier(known.images, known.mechanism, seed=config.seed)
    images = _other_images(settings, config)
    mixture = evaluation_mixture(images, mechanisms)
    right = predict_labels(model, mixture.images) == mixture.mechanism
    return {
        "source": settings["source"],
        "identification_own": _share(predict_labels(model, own.images) == own.mechanism),
        "groups": _by_group(images, identification=right),
    }


def _by_group(images: ImageSet, **values: Tensor) -> list[dict[str, Any]]:
    """Means of values [n] over the images of each label."""
    labels = torch.zeros(len(images), dtype=torch.int64) if images.labels is None else images.labels
    groups = []
    for label in labels.unique().tolist():
        chosen = labels == label
        name = images.label_names[label] if images.label_names else str(label)
        means = {figure: _share(each[chosen]) for figure, each in values.items()}
        groups.append({"name": name, "images": int(chosen.sum()), **means})
    return groups


@torch.no_grad()
def _outputs(run: Run, images: Tensor) -> np.ndarray:
    run.experts.eval()
    return to_bytes(torch.stack(run.experts(images), dim=1))


def _other_images(settings: Settings, config: Config) -> ImageSet:
    """Fashion-MNIST's official test part; of other sets, which training has seen nothing of, everything."""
    source, size = settings["source"], config.data.image_size
    found = load_originals(source, seed=0, image_size=size, channels=config.data.channels)
    images = found.test if source == "fashion-mnist" else _joined(found)
    return replace(images, images=centred_by_mass(images.images)) if settings.get("centred") else images


def _joined(originals: Originals) -> ImageSet:
    parts = (originals.test, originals.validation, originals.canonical, originals.to_transform)
    labels = [part.labels for part in parts if part.labels is not None]
    images = torch.cat([part.images for part in parts])
    return ImageSet(images, torch.cat(labels) if labels else None, originals.test.label_names)


def centred_by_mass(images: Tensor) -> Tensor:
    """Moves each image by whole pixels so that its centre of mass is in the middle, as MNIST's digits were made.

    The middle of n pixels counted from 0 is n/2: 14 of 28, where the mean centre of MNIST's digits is.

    Args:
        images: [n, c, h, w], dark ground. No ink is moved out of an image: where it would be, the image stops short.
    """
    moved = torch.zeros_like(images)
    for image, into in zip(images, moved):
        ink = image.sum(0, dtype=torch.float64)
        dy, dx = (_to_the_middle(ink.sum(axis)) for axis in (1, 0))
        into.copy_(image.roll((dy, dx), (1, 2)))
    return moved


def _to_the_middle(profile: Tensor) -> int:
    """By how many pixels a profile, float [length], has to move."""
    places = profile.nonzero()[:, 0]
    if not len(places):
        return 0
    centre = (profile @ torch.arange(len(profile), dtype=profile.dtype) / profile.sum()).item()
    return max(-int(places[0]), min(len(profile) - 1 - int(places[-1]), round(len(profile) / 2 - centre)))


@torch.no_grad()
def _clusters(config: Config, folder: Path, settings: Settings) -> dict[str, Any]:
    """k-means on D's last hidden layer, of the transformed test images."""
    from sklearn.cluster import KMeans

    run, (_, mixture) = load_run(folder), load_evaluated(config, "test")
    judge = run.discriminator
    features = torch.cat([judge.hidden(judge.features(part).flatten(1)) for part in mixture.images.split(256)])
    cluster = KMeans(config.num_experts, n_init=10, random_state=config.seed).fit_predict(features.numpy())
    matrix = metrics.winner_matrix(
        mixture.mechanism,
        torch.from_numpy(cluster).long(),
        num_mechanisms=len(parse_mechanisms(config.mechanisms)),
        num_experts=config.num_experts,
    )
    found = metrics.clustering_scores(mixture.mechanism, torch.from_numpy(cluster).long())
    return {"matched_share": metrics.matched_share(matrix), **found}


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


MEASURES = {
    "evaluation": Measure(_evaluation),
    "recovered": Measure(_recovered),
    "supervised": Measure(_supervised, settings=("paired_steps",), reads=("seed", "mechanisms", "data", "experts")),
    "augmented": Measure(_augmented, reads=("seed", "mechanisms", "data")),
    "transfer": Measure(_transfer, settings=("source", "centred")),
    "told": Measure(_told, settings=("source", "centred"), reads=("seed", "mechanisms", "data")),
    "clusters": Measure(_clusters),
}
"""The measures by name."""

"""Colour photographs: crops under six mechanisms. Which are told apart and undone, without pairs?

    python -m benchmarks photographs --of retina --seeds 0 1 2 --json docs/results/photographs.json
    python -m benchmarks photographs --of seven --seeds 0 1 2 --json docs/results/photographs.json
    python -m benchmarks photographs --table
    python -m benchmarks photographs --of retina --split validation --paired-steps 0 --set training.steps=300

Of one kind, the retina of an eye, or of seven kinds. The photographs come with scikit-image and scikit-learn; nothing
is downloaded. Each is cut into regions, and canonical, transformed, validation and test crops come from different ones.
With the first seed an expert of the same architecture is trained on pairs for each mechanism, and a classifier on the
mechanisms' names, bounds from above; then the experts compete, told nothing. A record is written when its seed is done;
what is in the file is not made again. `--table` makes docs/results/photographs.md and its figures from the record.
Settings are tried with `--set`, on validation crops.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import skimage.data
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor

from benchmarks.keeping import Record, add_records, finished_or_stop
from benchmarks.photographs_page import RECORD, write_page
from licm import metrics
from licm.checkpoint import provenance, read_history
from licm.classifier import predict_labels, train_classifier
from licm.config import Config, make_config, parse_overrides
from licm.datasets import (
    Mixture,
    Originals,
    TrainingData,
    evaluation_mixture,
    make_mixture,
    to_bytes,
    to_float,
)
from licm.mechanisms import Mechanism, parse_mechanisms
from licm.reproduction.measuring import mean_qualities, pack
from licm.reproduction.paired import restore_paired
from licm.run import restore_images
from licm.seeding import generator
from licm.sources import ImageSet
from licm.training import train

MECHANISMS = [
    "cast(channel=0, factor=0.5)",
    "swap_channels(first=0, second=2)",
    "invert",
    "noise(variance=0.02)",
    "shift(dx=4)",
    "contrast(factor=0.4)",
]
SIZE, REGION = 32, 96  # px, of a crop and of a region
PARTS = ("canonical", "to_transform") * 4 + ("validation", "test")  # of ten regions


def load_seven() -> dict[str, Tensor]:
    """Returns seven photographs of this and that by name, uint8 [3, h, w]."""
    found = {name: getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")}
    found["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    found["china"], found["flower"] = load_sample_images().images
    return {name: torch.tensor(pixels).permute(2, 0, 1) for name, pixels in found.items()}


def load_retina() -> dict[str, Tensor]:
    """Returns what lies within the disc of a fundus photograph, uint8 [3, 960, 960], by its name."""
    disc = torch.tensor(skimage.data.retina()).permute(2, 0, 1)
    return {"retina": disc[:, 226:1186, 226:1186]}


@dataclass(frozen=True)
class Pictures:
    """Photographs, and how crops are taken of them.

    Attributes:
        load: Returns them by name, uint8 [3, h, w].
        along: Crops along a side of a region.
        least_contrast: Of a crop's grey values the standard deviation below which there is nothing to see.
        shown: Of which the gallery shows a crop each: in the public domain, or CC0.
    """

    load: Callable[[], dict[str, Tensor]]
    along: int
    least_contrast: float
    shown: tuple[str, ...]


PICTURES = {
    "retina": Pictures(load_retina, along=9, least_contrast=0.02, shown=("retina",) * 3),
    "seven": Pictures(load_seven, along=5, least_contrast=0.05, shown=("astronaut", "coffee", "chelsea")),
}


def deal_regions(photograph: Tensor, *, index: int) -> dict[str, Tensor]:
    """Cuts a photograph, [3, h, w], into square regions, [n, 3, 96, 96], and deals them to the parts, always alike."""
    regions = photograph.unfold(1, REGION, REGION).unfold(2, REGION, REGION).flatten(1, 2).transpose(0, 1)
    order = torch.randperm(len(regions), generator=generator(0, "regions of photographs", index)).tolist()
    dealt = {part: [region for turn, region in enumerate(order) if PARTS[turn % len(PARTS)] == part] for part in PARTS}
    return {part: regions[chosen] for part, chosen in dealt.items()}


def take_crops(regions: Tensor, *, along: int, least_contrast: float) -> Tensor:
    """Takes crops of each region, [n, 3, 96, 96]: `along`^2 of it as it is, 25 of it halved; those with contrast."""
    halved = F.avg_pool2d(regions.float(), 2).round().to(torch.uint8)
    crops = []
    for images, each_way in ((regions, along), (halved, 5)):
        step = (images.shape[-1] - SIZE) // (each_way - 1)
        windows = images.unfold(2, SIZE, step).unfold(3, SIZE, step)  # [n, 3, k, k, 32, 32]
        crops.append(windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
    found = torch.cat(crops)
    return found[to_float(found).mean(dim=1).flatten(1).std(dim=1) >= least_contrast]


def load_crops(pictures: Pictures) -> Originals:
    """Returns the crops of each part, labelled with their photograph."""
    photographs = pictures.load()
    dealt = [deal_regions(photograph, index=index) for index, photograph in enumerate(photographs.values())]
    parts = {}
    for part in dict.fromkeys(PARTS):
        crops = [
            take_crops(regions[part], along=pictures.along, least_contrast=pictures.least_contrast) for regions in dealt
        ]
        labels = torch.repeat_interleave(torch.tensor([len(each) for each in crops]))
        parts[part] = ImageSet(torch.cat(crops), labels, tuple(photographs))
    return Originals(**parts)


def measure(
    of: str, config: Config, *, paired_steps: int, split: Literal["test", "validation"] = "test"
) -> dict[str, Any]:
    """Trains on photographs, a name of `PICTURES`, and measures on the crops of `split`."""
    pictures = PICTURES[of]
    crops, mechanisms = load_crops(pictures), parse_mechanisms(config.mechanisms)
    transformed = make_mixture(crops.to_transform, mechanisms, draws=generator(config.seed, "mixture"))
    watched = evaluation_mixture(crops.validation, mechanisms)
    mixture = evaluation_mixture(getattr(crops, split), mechanisms)
    data = TrainingData(to_float(crops.canonical.images), transformed.images, watched)
    paired = told = None
    if paired_steps:
        bound = restore_paired(
            mechanisms,
            transformed.originals,
            mixture,
            architecture=config.experts,
            steps=paired_steps,
            seed=config.seed,
        )
        paired = _by_mechanism(bound, mixture)
        told = _told(mechanisms, transformed.originals, mixture, seed=config.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        run = finished_or_stop(train(config, folder, data=data))
        history = [record for record in read_history(folder) if record["kind"] == "validation"]
    _, winners, restored = restore_images(run, mixture.images)
    matrix = metrics.winner_matrix(
        mixture.mechanism, winners, num_mechanisms=len(mechanisms), num_experts=config.num_experts
    )
    shown = choose_shown(mixture, crops.test.label_names or (), pictures.shown)
    views = (mixture.images, restored, mixture.originals)
    return {
        "of": of,
        "seed": config.seed,
        "split": split,
        "images": {"canonical": len(data.canonical), "transformed": len(data.transformed)},
        "num_images": len(winners),
        "mechanisms": [str(mechanism) for mechanism in mechanisms],
        "steps": run.step,
        "train_seconds": round(run.seconds, 1),
        "paired_steps": paired_steps,
        "matched_share": metrics.matched_share(matrix),
        "winner_matrix": matrix.tolist(),
        "before": _by_mechanism(mixture.images, mixture),
        "restored": _by_mechanism(restored, mixture),
        "paired": paired,
        "told": told,
        "course": {key: [each[key] for each in history] for key in ("step", "matched_share", "psnr")},
        "gallery": pack(to_bytes(torch.stack([view[shown] for view in views], dim=2))),
        "config": config.model_dump(mode="json"),
        "provenance": provenance(),
    }


def _by_mechanism(images: Tensor, mixture: Mixture) -> dict[str, list[float]]:
    count = int(mixture.mechanism.max()) + 1
    return {name: each.tolist() for name, each in mean_qualities(images, mixture, count).items()}


def _told(mechanisms: Sequence[Mechanism], originals: Tensor, mixture: Mixture, *, seed: int) -> list[float]:
    """For each mechanism the share of its crops that a classifier knows, one that was told those of other crops."""
    draws = generator(seed, "told mechanisms")
    images = torch.cat([mechanism(originals, draws) for mechanism in mechanisms])
    names = torch.arange(len(mechanisms)).repeat_interleave(len(originals))
    right = predict_labels(train_classifier(images, names, seed=seed), mixture.images) == mixture.mechanism
    return [right[mixture.mechanism == index].float().mean().item() for index in range(len(mechanisms))]


def choose_shown(mixture: Mixture, names: tuple[str, ...], shown: tuple[str, ...]) -> Tensor:
    """Draws, by a fixed seed, a crop of each photograph in `shown` under each mechanism: int64 [N, len(shown)]."""
    assert mixture.labels is not None
    draws = generator(0, "gallery of photographs")
    rows = []
    for mechanism in mixture.mechanism.unique():
        pools = [(mixture.mechanism == mechanism) & (mixture.labels == names.index(name)) for name in shown]
        choices = [pool.nonzero().flatten() for pool in pools]
        rows.append([int(each[torch.randint(len(each), (), generator=draws)]) for each in choices])
    return torch.tensor(rows)


def make_photographs_config(**overrides: Any) -> Config:
    """The defaults but for experts that start as their inputs, and longer; an expert for each mechanism."""
    start = {"experts.head": "residual", "identity.start": "analytic"}
    settings = {"mechanisms": MECHANISMS, "training.steps": 900, **start, **overrides}
    return make_config(overrides={"num_experts": len(settings["mechanisms"]), **settings})


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=PICTURES, default="retina")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument(
        "--paired-steps", type=int, default=300, help="of each paired expert, of the first seed; 0: none"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write; printed otherwise")
    parser.add_argument("--table", action="store_true", help="make docs/results/photographs.md and stop")
    arguments = parser.parse_args()
    if arguments.table:
        write_page(json.loads(RECORD.read_text()))
        return

    def make(known: list[Record], seed: int) -> Record:
        config = make_photographs_config(**parse_overrides(arguments.set), seed=seed)
        bounded = any(each["of"] == arguments.of for each in known)
        paired_steps = 0 if bounded else arguments.paired_steps
        return measure(arguments.of, config, paired_steps=paired_steps, split=arguments.split)

    jobs = (({"of": arguments.of, "seed": seed}, partial(make, seed=seed)) for seed in arguments.seeds)
    add_records(arguments.json, jobs)


if __name__ == "__main__":
    main()

"""Colour photographs: crops under six mechanisms. Which are told apart and undone, without pairs?

    python -m benchmarks photographs --seeds 0 1 2 --json docs/results/photographs.json
    python -m benchmarks photographs --table
    python -m benchmarks photographs --split validation --paired-steps 0 --set training.steps=300

The photographs come with scikit-image and scikit-learn; nothing is downloaded. Each is cut into regions, and canonical,
transformed, validation and test crops come from different ones. With the first seed an expert of the same architecture
is trained on pairs for each mechanism, the bound from above; then the experts compete, told nothing. A record is
written when its seed is done; what is in the file is not made again. `--table` makes docs/results/photographs.md and
its figures from the record. Settings are tried with `--set`, on validation crops.
"""

import argparse
import json
import tempfile
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
from licm.mechanisms import parse_mechanisms
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
SHOWN = ("astronaut", "coffee", "chelsea")  # of which the gallery shows crops: in the public domain, or CC0
PARTS = ("canonical", "to_transform") * 4 + ("validation", "test")  # of ten regions
LEAST_CONTRAST = 0.05  # standard deviation of a crop's grey values; below, there is nothing to see


def load_photographs() -> dict[str, Tensor]:
    """Returns photographs by name, uint8 [3, h, w]."""
    found = {name: getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")}
    found["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    found["china"], found["flower"] = load_sample_images().images
    return {name: torch.tensor(pixels).permute(2, 0, 1) for name, pixels in found.items()}


def deal_regions(photograph: Tensor, *, index: int) -> dict[str, Tensor]:
    """Cuts a photograph, [3, h, w], into square regions, [n, 3, 96, 96], and deals them to the parts, always alike."""
    regions = photograph.unfold(1, REGION, REGION).unfold(2, REGION, REGION).flatten(1, 2).transpose(0, 1)
    order = torch.randperm(len(regions), generator=generator(0, "regions of photographs", index)).tolist()
    dealt = {part: [region for turn, region in enumerate(order) if PARTS[turn % len(PARTS)] == part] for part in PARTS}
    return {part: regions[chosen] for part, chosen in dealt.items()}


def take_crops(regions: Tensor) -> Tensor:
    """Takes 25 crops of each region, [n, 3, 96, 96], as it is and 25 of it at half its size; those with contrast."""
    halved = F.avg_pool2d(regions.float(), 2).round().to(torch.uint8)
    crops = []
    for images in (regions, halved):
        step = (images.shape[-1] - SIZE) // 4
        windows = images.unfold(2, SIZE, step).unfold(3, SIZE, step)  # [n, 3, 5, 5, 32, 32]
        crops.append(windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
    found = torch.cat(crops)
    return found[to_float(found).mean(dim=1).flatten(1).std(dim=1) >= LEAST_CONTRAST]


def load_crops() -> Originals:
    """Returns the crops of each part, labelled with their photograph."""
    photographs = load_photographs()
    dealt = [deal_regions(photograph, index=index) for index, photograph in enumerate(photographs.values())]
    parts = {}
    for part in dict.fromkeys(PARTS):
        crops = [take_crops(regions[part]) for regions in dealt]
        labels = torch.repeat_interleave(torch.tensor([len(each) for each in crops]))
        parts[part] = ImageSet(torch.cat(crops), labels, tuple(photographs))
    return Originals(**parts)


def measure(config: Config, *, paired_steps: int, split: Literal["test", "validation"] = "test") -> dict[str, Any]:
    """Trains on photographs and measures on the crops of `split`."""
    crops, mechanisms = load_crops(), parse_mechanisms(config.mechanisms)
    transformed = make_mixture(crops.to_transform, mechanisms, draws=generator(config.seed, "mixture"))
    watched = evaluation_mixture(crops.validation, mechanisms)
    mixture = evaluation_mixture(getattr(crops, split), mechanisms)
    data = TrainingData(to_float(crops.canonical.images), transformed.images, watched)
    paired = None
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
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        run = finished_or_stop(train(config, folder, data=data))
        history = [record for record in read_history(folder) if record["kind"] == "validation"]
    _, winners, restored = restore_images(run, mixture.images)
    matrix = metrics.winner_matrix(
        mixture.mechanism, winners, num_mechanisms=len(mechanisms), num_experts=config.num_experts
    )
    shown = choose_shown(mixture, crops.test.label_names or ())
    views = (mixture.images, restored, mixture.originals)
    return {
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
        "course": {key: [each[key] for each in history] for key in ("step", "matched_share", "psnr")},
        "gallery": pack(to_bytes(torch.stack([view[shown] for view in views], dim=2))),
        "config": config.model_dump(mode="json"),
        "provenance": provenance(),
    }


def _by_mechanism(images: Tensor, mixture: Mixture) -> dict[str, list[float]]:
    count = int(mixture.mechanism.max()) + 1
    return {name: each.tolist() for name, each in mean_qualities(images, mixture, count).items()}


def choose_shown(mixture: Mixture, names: tuple[str, ...]) -> Tensor:
    """Draws, by a fixed seed, a crop of each photograph that is shown under each mechanism: int64 [N, photographs]."""
    assert mixture.labels is not None
    draws = generator(0, "gallery of photographs")
    rows = []
    for mechanism in mixture.mechanism.unique():
        pools = [(mixture.mechanism == mechanism) & (mixture.labels == names.index(name)) for name in SHOWN]
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
        return measure(config, paired_steps=0 if known else arguments.paired_steps, split=arguments.split)

    add_records(arguments.json, (({"seed": seed}, partial(make, seed=seed)) for seed in arguments.seeds))


if __name__ == "__main__":
    main()

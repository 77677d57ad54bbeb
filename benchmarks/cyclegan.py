"""The one-to-one baseline: a small CycleGAN between transformed and canonical images, in place of competing experts.

    python -m benchmarks cyclegan --seeds 0 1 2 --json docs/results/cyclegan.json
    python -m benchmarks cyclegan --table

One network restores, another transforms, each with a discriminator of its own, and each must tell what the other was
given (Zhu, Park, Isola and Efros, ICCV 2017: the loss of least squares, the cycle error by its absolute value, weight
10). It takes what the default takes: data, batches, steps, discriminator, learning rate and decay, and two experts of
52 filters, each with the parameters of ten experts of 16. What it cannot have is one network for each mechanism: of an
inverted digit and of a shifted one the same network has to make the original. What is in the file is not made again.
`--table` makes docs/results/cyclegan.md from the record.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.keeping import add_records, commits_of
from licm import metrics
from licm.checkpoint import provenance
from licm.classifier import accuracy, train_classifier
from licm.config import Config, make_config
from licm.datasets import TrainingData, load_training_data, to_float
from licm.evaluation import load_evaluated
from licm.mechanisms import parse_mechanisms
from licm.models import Discriminator, Expert
from licm.reproduction.measuring import mean_qualities
from licm.seeding import derive_seed
from licm.tables import markdown

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECORD, PAGE = RESULTS / "cyclegan.json", RESULTS / "cyclegan.md"
WIDTH = 52  # an expert of so many filters has the parameters of ten of 16
CYCLE_WEIGHT = 10.0
FIGURES = ("psnr", "ssim", "accuracy_restored", "psnr_transformed", "accuracy_transformed", "accuracy_clean")


class CycleGAN:
    """Both networks, both discriminators and their optimisers.

    Args:
        config: Architecture of D, learning rate and momenta.
        channels: c of the images.
        image_size: Their height and width.
        width: Filters of both networks.
    """

    def __init__(self, config: Config, *, channels: int, image_size: int, width: int = WIDTH) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "one-to-one weights"))
            make = {**config.experts.model_dump(exclude={"architecture"}), "width": width}
            self.restore, self.transform = (Expert(channels=channels, **make) for _ in range(2))
            of_d = config.discriminator.model_dump()
            self.on_canonical, self.on_transformed = (
                Discriminator(channels=channels, image_size=image_size, **of_d) for _ in range(2)
            )
        rate, betas = config.training.learning_rate, config.training.betas
        networks = [*self.restore.parameters(), *self.transform.parameters()]
        judges = [*self.on_canonical.parameters(), *self.on_transformed.parameters()]
        self.optimizers = [torch.optim.Adam(each, lr=rate, betas=betas, fused=True) for each in (networks, judges)]
        for module in (self.restore, self.transform, self.on_canonical, self.on_transformed):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step(self, canonical: Tensor, transformed: Tensor) -> dict[str, float]:
        """Updates both networks, then both discriminators; returns the losses."""
        restored, damaged = self.restore(transformed), self.transform(canonical)
        fooled = _distance_to(1.0, self.on_canonical(restored)) + _distance_to(1.0, self.on_transformed(damaged))
        cycle = F.l1_loss(self.transform(restored), transformed) + F.l1_loss(self.restore(damaged), canonical)
        self._descend(0, fooled + CYCLE_WEIGHT * cycle)
        judged = sum(
            _distance_to(1.0, judge(real)) + _distance_to(0.0, judge(made.detach()))
            for judge, real, made in (
                (self.on_canonical, canonical, restored),
                (self.on_transformed, transformed, damaged),
            )
        )
        self._descend(1, judged)
        return {"fooled": fooled.item(), "cycle": cycle.item(), "judged": judged.item()}

    def _descend(self, which: int, loss: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[which].step()


def _distance_to(target: float, logits: Tensor) -> Tensor:
    return (logits - target).square().mean()


def train(config: Config, data: TrainingData, *, width: int = WIDTH) -> nn.Module:
    """Trains both networks for the configuration's steps; the learning rate falls linearly over the second half.

    Returns:
        The network that restores, in evaluation mode.
    """
    _, channels, _, size = data.canonical.shape
    model = CycleGAN(config, channels=channels, image_size=size, width=width)
    steps, rate = config.training.steps, config.training.learning_rate
    for step in range(steps):
        for optimizer in model.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        batches = data.batch(step, config.training.batch_size, seed=config.seed)
        model.step(*(each.to(memory_format=torch.channels_last) for each in batches))
    return model.restore.eval()


@torch.no_grad()
def measure(config: Config, *, width: int = WIDTH) -> dict[str, Any]:
    """Trains on the configuration's data and measures on the official test images, as `licm evaluate` does."""
    start = time.perf_counter()
    data = load_training_data(**config.data.model_dump(), mechanisms=config.mechanisms, seed=config.seed)
    with torch.enable_grad():
        restorer = train(config, data, width=width)
    seconds = time.perf_counter() - start
    originals, mixture = load_evaluated(config, "test")
    restored = torch.cat([restorer(part) for part in mixture.images.split(256)])
    mechanisms = [str(mechanism) for mechanism in parse_mechanisms(config.mechanisms)]
    count, before = len(mechanisms), metrics.psnr(mixture.images, mixture.originals)
    means = mean_qualities(restored, mixture, count)
    means["psnr_transformed"] = metrics.mean_per_mechanism(before, mixture.mechanism, count)
    record: dict[str, Any] = {name: each.mean().item() for name, each in means.items()}
    if originals.canonical.labels is not None and mixture.labels is not None:
        with torch.enable_grad():
            judge = train_classifier(to_float(originals.canonical.images), originals.canonical.labels)
        views = {"clean": mixture.originals, "transformed": mixture.images, "restored": restored}
        record |= {f"accuracy_{name}": accuracy(judge, view, labels=mixture.labels) for name, view in views.items()}
    per_mechanism = dict(zip(mechanisms, means["psnr"].tolist()))
    what = {
        "source": config.data.source,
        "seed": config.seed,
        "steps": config.training.steps,
        "seconds": round(seconds, 1),
    }
    return {**what, **record, "psnr_per_mechanism": per_mechanism, "provenance": provenance()}


def make_page(records: list[dict[str, Any]]) -> str:
    """Returns the results page, from the records alone."""
    titles = ("PSNR, dB", "SSIM", "accuracy restored", "PSNR of the inputs", "accuracy transformed", "accuracy clean")
    records = sorted(records, key=lambda each: each["seed"])
    means = {name: statistics.fmean(each[name] for each in records) for name in FIGURES}
    rows = [
        [str(each["seed"]), *(f"{each[name]:.3f}" for name in FIGURES)]
        for each in [*records, {"seed": "mean", **means}]
    ]
    mechanisms = [
        [name, f"{statistics.fmean(each['psnr_per_mechanism'][name] for each in records):.1f}"]
        for name in records[0]["psnr_per_mechanism"]
    ]
    lines = [
        "# One-to-one baseline",
        "",
        "Made by `python -m benchmarks cyclegan --table` from `cyclegan.json`: a small CycleGAN on the data, the",
        "batches and the steps of `default`, official test digits, every seed that was run.",
        "",
        markdown([["seed", *titles], *rows]),
        "",
        "PSNR in dB under each mechanism, mean over seeds:",
        "",
        markdown([["mechanism", "PSNR, dB"], *mechanisms]),
    ]
    return "\n".join([*lines, "", f"Commit {commits_of(records)}."]) + "\n"


def measure_seed(known: Sequence[dict[str, Any]], *, source: str, seed: int) -> dict[str, Any]:
    """Measures a seed, whatever records are known."""
    return measure(make_config(overrides={"data.source": source, "seed": seed}))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source", default="mnist", help="a source under known mechanisms")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write; printed otherwise")
    parser.add_argument("--table", action="store_true", help="make docs/results/cyclegan.md and stop")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(make_page(json.loads(RECORD.read_text())))
        return
    jobs = (
        ({"source": arguments.source, "seed": seed}, partial(measure_seed, source=arguments.source, seed=seed))
        for seed in arguments.seeds
    )
    add_records(arguments.json, jobs)


if __name__ == "__main__":
    main()

"""Draws what each layer of `default` reaches against what the machine can do: docs/results/roofline.png.

    python -m benchmarks roofline --json docs/results/roofline.json

Two roofs: the best rate of a matrix product, and the memory's rate in a large copy times the FLOP done per byte. A
layer alone, at the batch of `default`, can exceed the second where its images stay in the cache.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from licm.checkpoint import provenance
from licm.config import make_config
from licm.run import build_run

ROUNDS = 30
KINDS = {nn.Conv2d: "convolution", nn.Linear: "fully connected", nn.BatchNorm2d: "normalisation", nn.ELU: "ELU"}
KINDS |= {nn.GroupNorm: "normalisation", nn.LeakyReLU: "leaky ReLU", nn.AvgPool2d: "pooling"}


def seconds_of(call: Callable[[], object]) -> float:
    """Returns the median time of a call."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_roofs() -> dict[str, float]:
    """Returns the rates of a matrix product, GFLOP/s, and of a copy of 256 MB, GB/s read and written."""
    one, other = torch.rand(2, 2048, 2048)
    source = torch.rand(1 << 26)
    target = torch.empty_like(source)
    return {
        "product_gflops": 2 * 2048**3 / seconds_of(lambda: one @ other) / 1e9,
        "copy_gbytes": 2 * 4 * len(source) / seconds_of(lambda: target.copy_(source)) / 1e9,
    }


@torch.no_grad()
def measure_layers() -> list[dict[str, Any]]:
    """Returns, for each layer of an expert and of the discriminator, its kind, FLOP, bytes and seconds forward."""
    config = make_config()
    run = build_run(config, channels=1, image_size=28)
    images = torch.rand(config.training.batch_size, 1, 28, 28).to(memory_format=torch.channels_last)
    rows: list[dict[str, Any]] = []

    def measure(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if type(module) not in KINDS:
                return
            moved = inputs[0].numel() + output.numel() + sum(p.numel() for p in module.parameters())
            flop = output.numel()
            if isinstance(module, nn.Conv2d | nn.Linear):
                flop *= 2 * module.weight[0].numel()
            taken = seconds_of(lambda: module.forward(inputs[0]))
            rows.append(
                {"network": name, "kind": KINDS[type(module)], "flop": flop, "bytes": 4 * moved, "seconds": taken}
            )

        return hook

    run.experts.train()  # with batch statistics, as in training
    for name, network in (("expert", run.experts[0]), ("discriminator", run.discriminator)):
        handles = [layer.register_forward_hook(measure(name)) for layer in network.modules() if type(layer) in KINDS]
        network(images)
        for handle in handles:
            handle.remove()
    return rows


def draw(record: dict[str, Any], path: Path) -> None:
    """Draws the record."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    intensity = np.geomspace(0.05, 200, 200)
    roof = np.minimum(record["roofs"]["product_gflops"], intensity * record["roofs"]["copy_gbytes"])
    axes.loglog(intensity, roof, color="0.4", label="roofs: memory, matrix product")
    for kind in dict.fromkeys(KINDS.values()):
        for network, marker in (("expert", "o"), ("discriminator", "s")):
            chosen = [row for row in record["layers"] if (row["kind"], row["network"]) == (kind, network)]
            if chosen:
                x = [row["flop"] / row["bytes"] for row in chosen]
                y = [row["flop"] / row["seconds"] / 1e9 for row in chosen]
                share = sum(row["seconds"] for row in chosen) * 1e3
                axes.plot(x, y, marker, alpha=0.8, label=f"{kind}, {network}: {share:.1f} ms")
    axes.set_xlabel("FLOP per byte")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"Layers of `default`, batch 32, {record['provenance']['threads']} threads, forward")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="the picture lies beside it")
    path = parser.parse_args().json
    record = {"roofs": measure_roofs(), "layers": measure_layers(), "provenance": provenance()}
    path.write_text(json.dumps(record, indent=1) + "\n")
    draw(record, path.with_suffix(".png"))


if __name__ == "__main__":
    main()

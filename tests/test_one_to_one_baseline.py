"""The one-to-one baseline of the benchmarks, on a problem that one network can solve."""

import copy

import pytest
import torch
from benchmarks.cyclegan import CycleGAN, make_page, measure

from licm.config import make_config
from licm.models import Expert
from tests.conftest import SMALL_RUN
from tests.problems import bars


def parameters(network: torch.nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def test_each_network_has_the_parameters_of_ten_experts():
    model = CycleGAN(make_config(), channels=1, image_size=28)
    assert parameters(model.restore) == pytest.approx(
        10 * parameters(Expert(width=make_config().experts.width)), rel=0.02
    )
    assert parameters(model.transform) == parameters(model.restore)


def test_each_update_moves_its_own_networks_and_the_cycle_closes():
    model = CycleGAN(make_config(overrides=SMALL_RUN), channels=1, image_size=12, width=8)
    moved = []
    for optimizer in model.optimizers:
        step = optimizer.step

        def watched(step=step):
            before = [copy.deepcopy(each.state_dict()) for each in (model.restore, model.on_canonical)]
            step()
            after = [each.state_dict() for each in (model.restore, model.on_canonical)]
            moved.append([any(not torch.equal(a[name], b[name]) for name in a) for a, b in zip(before, after)])

        optimizer.step = watched
    canonical, transformed = bars(64), 1 - bars(64, seed=1)
    errors = [model.step(canonical, transformed)["cycle"] for _ in range(60)]
    assert moved == [[True, False], [False, True]] * 60
    assert errors[-1] < 0.5 * errors[0]


def test_the_record_is_of_the_test_images_and_makes_the_page(bars_file):
    config = make_config(overrides={**SMALL_RUN, "data.source": str(bars_file)})
    record = measure(config, width=4)
    assert record["steps"] == 4
    assert len(record["psnr_per_mechanism"]) == 2
    assert record["psnr"] == pytest.approx(sum(record["psnr_per_mechanism"].values()) / 2, abs=1e-5)
    accuracies = dict.fromkeys(("accuracy_clean", "accuracy_transformed", "accuracy_restored"), 0.5)
    page = make_page([{**record, **accuracies, "seed": seed} for seed in (0, 1)])
    assert page.count(f"| {record['psnr']:.3f} |") == 3, "both seeds and the mean"

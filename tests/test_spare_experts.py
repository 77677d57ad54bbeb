"""Revival where there is little to revive for: more experts than mechanisms, and unequal mixtures."""

import pytest
import torch

from licm import checkpoint as files
from licm.config import make_config
from licm.datasets import TrainingData, make_mixture
from licm.mechanisms import parse_mechanisms
from licm.seeding import generator
from licm.sources import ImageSet
from licm.training import train
from tests.problems import bars

MECHANISMS = ["invert", "shift(dx=2)"]


def data(weights: tuple[float, float]) -> TrainingData:
    as_set = lambda images: ImageSet((images * 255).to(torch.uint8))  # noqa: E731
    mechanisms = parse_mechanisms(MECHANISMS)
    mixture = make_mixture(as_set(bars(400, seed=1)), mechanisms, draws=generator(0, "m"), weights=weights)
    validation = make_mixture(as_set(bars(100, seed=2)), mechanisms, draws=generator(0, "v"), round_robin=True)
    return TrainingData(bars(400), mixture.images, validation)


@pytest.mark.parametrize("weights", [(1, 1), (4, 1)])
def test_four_experts_for_two_mechanisms_come_to_rest_with_the_rightful_owners_in_place(tmp_path, weights):
    config = make_config(
        overrides={
            "num_experts": 4,
            "mechanisms": MECHANISMS,
            "steps": 400,
            "batch_size": 16,
            "experts.width": 6,
            "experts.depth": 3,
            "experts.normalization": "frozen",  # the other normalisations leave two to share more often, and so do
            "revival.max_tries": 2,  # more tries (docs/ablation.md)
            "discriminator.widths": [8, 16],
            "discriminator.hidden": 32,
            "identity.max_steps": 150,
            "revival.trial_steps": 50,
            "training.validate_every": 50,
        }
    )
    run = train(config, tmp_path / "run", data=data(weights))
    history = files.read_history(tmp_path / "run")
    events = [r for r in history if r["kind"] == "revival"]
    begun = [r["expert"] for r in events if r["event"] == "revived"]
    assert begun, "with four experts for two mechanisms some are idle and some overloaded"
    assert max(begun.count(expert) for expert in range(4)) <= 2
    assert len(events) == 2 * len(begun), "every trial has ended"
    assert not run.revival.trials
    last = [r for r in history if r["kind"] == "validation"][-1]
    assert last["matched_share"] >= 0.9

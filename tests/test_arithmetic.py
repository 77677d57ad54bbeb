"""The formula for a step's arithmetic against what torch counts while one is done."""

import pytest
import torch
from benchmarks.arithmetic import forward_flop, step_flop
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from licm.seeding import generator
from tests.problems import SIZE, bars, small_competition


class FlopCounter(TorchDispatchMode):
    """As torch's own, which does not bear a gradient of a gradient."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=output)
        return output


def test_forward_flop_of_a_convolution_and_a_layer():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 8 * 8, 7))
    assert forward_flop(network, 8) == 2 * (8 * 8 * 5 * 3 * 9 + 5 * 8 * 8 * 7)


@pytest.mark.parametrize("normalization", ["frozen", "batch", "layer", "none"])
@pytest.mark.parametrize(("samples", "pair_weight"), [(None, 0.0), (1, 0.0), (1, 20.0)])
def test_the_formula_is_what_a_step_takes(monkeypatch, normalization, samples, pair_weight):
    competition = small_competition(
        normalization=normalization,
        objective="score_weighted",
        loser_samples=samples,
        r1_gamma=1.0,
        cycle_weight=5.0,
        pair_weight=pair_weight,
    )
    competition.cycle_pulls = True
    monkeypatch.setattr("licm.competition.choose_winners", lambda scores: torch.arange(32) % 3)  # all win
    with FlopCounter() as counter:
        competition.step(bars(32), 1 - bars(32, seed=1), generator(0, "losers"))
    expected = step_flop(competition, batch=32, size=SIZE)
    assert expected["total"] == sum(value for part, value in expected.items() if part != "total")
    assert counter.total == pytest.approx(expected["total"], rel=0.05)

"""Experts of one's own: any module from images to images takes part, from training to evaluation."""

import pytest
import torch
from torch import Tensor, nn

from licm.config import Config, make_config
from licm.evaluation import evaluate
from licm.models import EXPERTS
from licm.run import build_run
from licm.saving import load_run
from licm.training import train
from tests.conftest import SMALL_RUN


class Affine(nn.Module):
    """p -> sigmoid(a * p + b): two numbers, enough to undo an inversion of contrast; no convolution, no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(())), nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.a * images + self.b)


@pytest.fixture
def config(bars_file, monkeypatch) -> Config:
    monkeypatch.setitem(EXPERTS, "affine", lambda *, channels, width, **settings: Affine())
    return make_config(overrides={**SMALL_RUN, "data.source": str(bars_file), "experts.architecture": "affine"})


def test_an_expert_of_ones_own_trains_resumes_and_is_evaluated(config, tmp_path):
    start = build_run(config, channels=1, image_size=12)
    assert len({expert.a.item() for expert in start.experts}) == 3, "each is drawn anew"
    run = train(config, tmp_path / "run")
    assert run.finished
    assert all(not torch.equal(old.a, new.a) for old, new in zip(start.experts, run.experts))
    again = load_run(tmp_path / "run")
    assert [expert.a.item() for expert in again.experts] == [expert.a.item() for expert in run.experts]
    assert train(config, tmp_path / "run", resume=True).finished
    record = evaluate(tmp_path / "run")
    assert record["receptive_radius"] is None
    assert sum(record["win_share"]) == pytest.approx(1)


def test_a_run_whose_architecture_is_not_registered_here_says_so(config, tmp_path, monkeypatch):
    train(config, tmp_path / "run")
    monkeypatch.delitem(EXPERTS, "affine")
    with pytest.raises(ValueError, match="unknown expert architecture 'affine': Valid: convolutional"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda images: images[..., 1:], r"expected output \(2, 1, 12, 12\) in \[0, 1\] .* got \(2, 1, 12, 11\)"),
        (lambda images: images - 0.5, r"got \(2, 1, 12, 12\) from -0.5 to -0.5"),
        (lambda images: images * torch.nan, "from nan to nan"),
    ],
)
def test_an_output_of_another_shape_or_range_is_refused_before_anything_is_written(
    config, tmp_path, monkeypatch, wrong, message
):
    monkeypatch.setattr(Affine, "forward", lambda self, images: wrong(images))
    with pytest.raises(ValueError, match=f"expert architecture 'affine': .*{message}"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_analytic_start_is_for_the_librarys_own_experts(config):
    changes = {"experts.architecture": "affine", "experts.head": "residual", "identity.start": "analytic"}
    with pytest.raises(ValueError, match="is for the experts of this library, not for one's own"):
        make_config(overrides=changes)

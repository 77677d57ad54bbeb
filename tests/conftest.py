"""A small labelled source, and a run trained on it, shared by the tests that read runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from licm.config import Config, make_config
from licm.training import train
from tests.problems import bars

torch.set_num_threads(1)  # tests are small; more threads only wait for each other

SMALL_RUN: dict[str, Any] = {
    "num_experts": 3,
    "steps": 4,
    "batch_size": 8,
    "mechanisms": ["invert", "shift(dx=2)"],
    "experts.width": 4,
    "experts.depth": 3,
    "discriminator.widths": [4, 8],
    "discriminator.hidden": 16,
    "identity.max_steps": 5,
    "training.validate_every": 2,
}


@pytest.fixture(scope="session")
def bars_file(tmp_path_factory) -> Path:
    """200 labelled 12x12 images in a .npz: class 0 has vertical bars, class 1 horizontal ones."""
    images = (bars(200) * 255).to(torch.uint8).numpy()
    rows_differ = images[:, 0].max(axis=2).astype(int).std(axis=1) > images[:, 0].max(axis=1).astype(int).std(axis=1)
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    np.savez(path, images=images, labels=rows_differ.astype(np.int64))
    return path


@pytest.fixture(scope="session")
def small_config(bars_file) -> Config:
    return make_config(overrides={**SMALL_RUN, "data.source": str(bars_file)})


@pytest.fixture(scope="session")
def _trained(small_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(small_config, folder)
    return folder


@pytest.fixture
def small_run(_trained, tmp_path) -> Path:
    """A copy of a trained run's folder, free to be damaged."""
    import shutil

    return Path(shutil.copytree(_trained, tmp_path / "run"))

"""Where a step's time goes: every part is timed, and their arithmetic is that of the step."""

import pytest
from benchmarks import parts

from licm.config import make_config


def test_the_parts_make_up_the_step(monkeypatch):
    small = {"num_experts": 3, "discriminator.widths": [4, 8], "discriminator.hidden": 16, "experts.depth": 3}
    monkeypatch.setattr(parts, "make_config", lambda overrides: make_config(overrides={**small, **overrides}))
    found = parts.measure(8, 4, rounds=2, warm_up=1)
    assert all(each["seconds"] > 0 and each["gflops"] > 0 for each in found["parts"].values())
    whole = found["step_gflops"] * found["step_seconds"] * 1e9
    assert sum(each["flop"] for each in found["parts"].values()) == pytest.approx(whole)

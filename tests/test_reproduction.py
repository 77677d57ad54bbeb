"""`licm reproduce`: what it plans, does, skips and sums up, on runs of a few steps."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from licm.config import make_config
from licm.mechanisms import parse_mechanism
from licm.metrics import psnr
from licm.models import Expert
from licm.reproduction.experiments import EXPERIMENTS, Condition, Experiment
from licm.reproduction.paired import train_paired
from licm.reproduction.running import plan, read_record, reproduce
from tests.conftest import SMALL_RUN
from tests.problems import bars


@pytest.fixture
def small(bars_file):
    """What makes every run of an experiment small."""
    return {**SMALL_RUN, "data.source": str(bars_file), "training.validation_images": 8}


def parameters(width: int) -> int:
    return sum(each.numel() for each in Expert(width=width).parameters())


def test_from_paper_one_change_at_a_time_leads_to_the_default():
    conditions = [c for c in EXPERIMENTS["ablation"].conditions.values() if c.preset == "paper"]
    last = make_config("paper", overrides=conditions[-1].overrides)
    assert last.model_dump(exclude={"preset"}) == make_config().model_dump(exclude={"preset"})
    configs = [make_config("paper", overrides=condition.overrides) for condition in conditions]
    assert all(one != next_one for one, next_one in zip(configs, configs[1:]))


def test_the_one_network_has_the_parameters_of_ten_experts():
    width = EXPERIMENTS["baselines"].conditions["one network"].overrides["experts.width"]
    assert parameters(width) == pytest.approx(10 * parameters(make_config().experts.width), rel=0.02)


def test_every_condition_of_every_experiment_is_valid_at_each_budget():
    for budget in ("quick", "full"):
        rows = plan(list(EXPERIMENTS), budget=budget)
        assert {row.experiment for row in rows} == set(EXPERIMENTS)
    count = {name: len({row.seed for row in rows if row.experiment == name}) for name in EXPERIMENTS}
    assert (count["specialisation"], count["weak"], count["ablation"]) == (20, 1, 3)


def test_experiments_share_runs_and_records():
    first, second = plan(["specialisation"], seeds=1), plan(["classifier"], seeds=1)
    assert first[0].jobs[0].name == second[0].jobs[0].name
    assert len({job.run for row in first + second for job in row.jobs}) == 1
    other = plan(["specialisation"], seeds=1, overrides={"steps": 9})
    assert other[0].jobs[0].name != first[0].jobs[0].name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["specialization"]}, "unknown experiment 'specialization': did you mean 'specialisation'"),
        ({"budget": "ful"}, "unknown budget 'ful': did you mean 'full'"),
        ({"seeds": 0}, "seeds: expected at least 1, got 0"),
    ],
)
def test_a_wrong_plan_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(changes.pop("names", ()), **changes)


def test_a_paired_expert_learns_what_it_is_shown():
    images = bars(64)
    shift = parse_mechanism("shift(dx=1)")
    architecture = make_config(overrides={"experts.width": 8, "experts.depth": 3}).experts
    first, same = (train_paired(shift, images, architecture=architecture, steps=60, seed=0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters()))
    with torch.no_grad():
        restored = first(shift(images))
    assert psnr(restored, images).mean() > psnr(shift(images), images).mean() + 3


def test_every_measure_leaves_a_record_and_nothing_is_done_twice(small, bars_file, tmp_path):
    measures = ("evaluation", "recovered", "supervised", "augmented", "transfer", "clusters")
    experiments = {"all": Experiment("", "", {"one": Condition(measures=measures, source=str(bars_file))}, seeds=1)}
    (row,) = rows = plan(budget="quick", overrides=small, experiments=experiments)
    row = row.__class__(row.experiment, row.condition, row.seed, tuple(_fewer_steps(row.jobs)), None)
    assert reproduce([row], tmp_path, quiet=True)
    found = {job.measure: read_record(job, tmp_path) for job in row.jobs}
    assert found["evaluation"]["num_images"] == 20
    assert [each["step"] for each in found["evaluation"]["validation"]] == [2, 4]
    assert found["recovered"]["steps"] == [0, 2, 4]
    assert len(found["supervised"]["per_mechanism"]["psnr"]) == 2
    assert 0 <= found["augmented"]["accuracy_transformed"] <= 1
    own = found["transfer"]["identification_own"]
    assert own == pytest.approx(found["evaluation"]["matched_share"])
    assert sum(group["images"] for group in found["transfer"]["groups"]) == 200
    assert found["clusters"]["matched_share"] >= 0.5
    said = []
    assert reproduce([row], tmp_path, say=said.append, quiet=True)
    assert said == []


def _fewer_steps(jobs):
    from dataclasses import replace

    return [replace(job, settings={**job.settings, "paired_steps": 3}) if job.measure == "supervised" else job for job in jobs]


def test_a_killed_reproduction_goes_on(small, tmp_path):
    experiments = {"one": Experiment("", "", {"default": Condition()}, seeds=2)}
    rows = plan(budget="full", overrides=small, experiments=experiments)

    def stop(line: str) -> None:
        if line.startswith("2 of 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(rows, tmp_path, say=stop, quiet=True)
    first = tmp_path / "records" / f"{rows[0].jobs[0].name}.json"
    kept = first.read_bytes()
    assert read_record(rows[1].jobs[0], tmp_path) is None
    assert reproduce(rows, tmp_path, quiet=True)
    assert first.read_bytes() == kept
    assert read_record(rows[1].jobs[0], tmp_path)["seed"] == 1


def test_what_no_paired_expert_can_undo_is_not_competed_for(small, tmp_path):
    weak = Condition(measures=("supervised", "evaluation"), representable=59.0)
    rows = plan(budget="quick", overrides=small, experiments={"weak": Experiment("", "", {"hard": weak}, seeds=1)})
    rows = [rows[0].__class__("weak", "hard", 0, tuple(_fewer_steps(rows[0].jobs)), 59.0)]
    assert reproduce(rows, tmp_path, quiet=True)
    assert read_record(rows[0].jobs[0], tmp_path) is not None
    assert read_record(rows[0].jobs[1], tmp_path) is None


def test_a_damaged_record_is_named(small, tmp_path):
    (row,) = plan(["specialisation"], seeds=1, overrides=small)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{row.jobs[0].name}.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: remove it, and the same command makes it again"):
        read_record(row.jobs[0], tmp_path)

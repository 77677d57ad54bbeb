"""When a run was good, read from its history."""

import json

import pytest
from benchmarks import time_to_result as benchmark
from benchmarks.time_to_result import steps_of_reference, time_to_result, train_until_good, with_seconds

from licm import checkpoint as files
from licm.run import build_run


@pytest.fixture
def told(small_run):
    """The small run with validations as a test wants them: (step, matched share, accuracy) each."""

    def tell(*validations):
        history = [record for record in files.read_history(small_run) if record["kind"] != "validation"]
        history = [{**r, "accuracy_clean": 0.9} if r["kind"] == "judge" else r for r in history]
        for step, share, accuracy in validations:
            history.append({"kind": "validation", "step": step, "matched_share": share, "accuracy_restored": accuracy})
        (small_run / files.HISTORY).write_text("".join(json.dumps(record) + "\n" for record in history))
        return time_to_result(small_run)

    return tell


def test_the_first_good_validation_counts(told, small_run):
    result = told((2, 0.95, 0.88), (3, 0.99, 0.5), (4, 1.0, 0.9))
    seconds = {r["step"]: r["seconds"] for r in files.read_history(small_run) if r["kind"] == "step"}
    assert result["matched_share_0_99"]["steps"] == 3
    assert result["matched_share_0_99"]["seconds"] == seconds[3]
    assert result["accuracy"]["steps"] == 2
    assert result["matched_share_0_99"]["gflop"] > result["accuracy"]["gflop"] > 0
    assert not result["accuracy"]["censored"]


def test_a_run_that_never_is_counts_whole_and_is_marked(told):
    result = told((2, 0.5, 0.5))
    assert (result["matched_share_0_99"]["steps"], result["matched_share_0_99"]["censored"]) == (4, True)


@pytest.mark.parametrize(("share", "last_step"), [(0.0, 2), (2.0, 4)])
def test_a_run_is_trained_until_both_goals_are_reached(monkeypatch, tmp_path, small_config, share, last_step):
    monkeypatch.setattr(benchmark, "SHARE", share)
    monkeypatch.setattr(benchmark, "SHORT_OF_CLEAN", 1.0)
    folder = train_until_good(tmp_path / "run", small_config)
    assert files.read_history(folder)[-1]["step"] == last_step
    assert time_to_result(folder)["matched_share_0_99"]["censored"] == (share > 1)


def test_an_earlier_record_gives_the_steps_of_the_reference(tmp_path):
    kept = {"preset": "paper", "seed": 2, "identity_steps": 1034, "steps": 350, "censored": False}
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"reference": [{**kept, "seconds": 525.0}]}))
    assert steps_of_reference(record) == [kept]


def test_an_older_record_is_told_what_it_lacks(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps({"reference": [{"preset": "paper", "seed": 2, "steps": 350}]}))
    with pytest.raises(SystemExit, match="lacks one of preset, seed, identity_steps"):
        steps_of_reference(tmp_path / "record.json")


def test_a_run_gives_the_steps_of_the_reference_and_they_become_seconds(told, small_run):
    told((3, 0.99, 0.5))
    (steps,) = steps_of_reference(small_run)
    (identity,) = [record for record in files.read_history(small_run) if record["kind"] == "identity"]
    assert steps["identity_steps"] == sum(identity["steps"]) > 0
    assert (steps["steps"], steps["censored"]) == (3, False)
    found = with_seconds({**steps, "identity_steps": 10}, {"reference": 2.0, "paper": 1.0, "identity": 0.5})
    assert (found["seconds"], found["paper_seconds"]) == (11.0, 8.0)


def test_a_run_stopped_by_hand_is_no_record(monkeypatch, tmp_path, small_config):
    monkeypatch.setattr(
        benchmark, "train", lambda config, folder, callbacks: build_run(config, channels=1, image_size=12)
    )
    with pytest.raises(SystemExit, match="stopped after step 0"):
        train_until_good(tmp_path / "run", small_config)

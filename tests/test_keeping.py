"""Records of benchmarks: made once, and never of a run that was stopped."""

import json

import pytest
from benchmarks.keeping import add_records, finished_or_stop

from licm.config import make_config
from licm.run import build_run
from tests.conftest import SMALL_RUN


def test_what_is_in_the_file_is_not_made_again(tmp_path):
    path, made = tmp_path / "records.json", []

    def make(known):
        made.append(len(known))
        return {"seed": len(known), "value": 1}

    for _ in range(2):
        add_records(path, [({"seed": seed}, make) for seed in (0, 1)])
    assert made == [0, 1]
    assert [each["seed"] for each in json.loads(path.read_text())] == [0, 1]


def test_a_stopped_run_is_no_record():
    run = build_run(make_config(overrides=SMALL_RUN), channels=1, image_size=12)
    with pytest.raises(SystemExit, match="stopped after step 0"):
        finished_or_stop(run)
    run.step = run.config.training.steps
    assert finished_or_stop(run) is run

"""The benchmark of mixtures, on runs of a few steps."""

import pytest
from benchmarks.mixtures import CONDITIONS, Mixed, data_of, make_page, measure

from licm.config import make_config
from tests.conftest import SMALL_RUN

SHAPE = {key: value for key, value in SMALL_RUN.items() if key not in ("num_experts", "mechanisms")}


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_is_one_that_can_be_run(name):
    config = make_config(overrides=CONDITIONS[name].overrides)
    data = data_of(config, CONDITIONS[name].images)
    count = CONDITIONS[name].images or 10_000
    assert len(data.canonical) == len(data.transformed) == count


def test_a_record_is_of_the_images_it_names_and_makes_a_row(bars_file, monkeypatch):
    monkeypatch.setitem(CONDITIONS, "thirty", Mixed(images=30))
    small = {**SHAPE, "data.source": str(bars_file)}
    record = measure("thirty", 0, **small)
    assert record["images"] == [30, 30]
    assert len(record["mechanisms"]) == 10
    auto = measure("four, number unknown", 1, **small)
    assert len(auto["winner_matrix"][0]) == 16
    accuracies = dict.fromkeys(("accuracy_clean", "accuracy_restored"), 0.5)
    page = make_page([{**record, **accuracies}, {**auto, **accuracies}])
    assert f"| thirty | 0 | {record['matched_share']:.4f} |" in page
    assert page.count("\n| ") == 4, "the head and two rows"

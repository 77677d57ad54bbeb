"""The benchmark of folders, on a run of a few steps."""

import pytest
import torch
from benchmarks.folders import make_page, measure, read_back, try_model, write_pngs

from licm.config import make_config
from licm.evaluation import evaluate
from licm.training import train
from tests.conftest import SMALL_RUN
from tests.problems import bars


def test_it_learns_and_restores_as_a_run_on_the_same_images_in_memory(bars_file, tmp_path):
    """But for eight bits a pixel, which shifts and inversion of eight-bit images keep."""
    config = make_config(overrides={**SMALL_RUN, "data.source": str(bars_file)})
    record = measure(config, tmp_path / "folders")
    train(config, tmp_path / "memory")
    known = evaluate(tmp_path / "memory")
    assert record["steps"] == 4
    assert record["matched_share"] == pytest.approx(known["matched_share"])
    assert record["psnr"] == pytest.approx(known["psnr"], abs=0.05)
    assert record["routed_over_reading_and_writing"] > 0
    whole = dict.fromkeys(("accuracy_clean", "accuracy_restored"), 0.5)
    assert f"| 0 | {record['matched_share']:.4g} |" in make_page([{**record, **whole}])


def test_a_model_is_tried_without_training_and_killed(small_run, tmp_path):
    record = try_model(str(small_run), tmp_path, kills=1, images=20)
    assert (record["images"], record["whole"]) == (20, 1)
    assert record["kills"] <= 1
    assert record["most_written_twice"] <= 20
    assert record["exact_images_per_second"] > 0


def test_what_is_written_is_read_in_order(tmp_path):
    images = bars(12)
    folder = write_pngs(tmp_path / "out", images)
    names = sorted(path.name for path in folder.iterdir())
    rows = "".join(f"{name},{index % 3},0.5,0.1\n" for index, name in enumerate(names))
    (folder / "assignments.csv").write_text(f"path,expert,score,margin\n{rows}")
    back, winners = read_back(folder)
    assert torch.allclose(back, images, atol=1 / 255)
    assert winners.tolist() == [0, 1, 2] * 4

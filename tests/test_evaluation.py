"""The record of a run: known answers from an oracle, the test set's place, and images of one's own."""

import json

import numpy as np
import pytest
import torch

from licm import evaluation
from licm.checkpoint import append_history
from licm.config import make_config
from licm.datasets import evaluation_mixture, load_originals
from licm.evaluation import evaluate
from licm.mechanisms import parse_mechanisms
from licm.tables import evaluation_table
from licm.training import train
from tests.conftest import SMALL_RUN
from tests.problems import bars

REQUIRED = {
    "matched_share": float,
    "ari": float,
    "nmi": float,
    "accuracy_clean": float,
    "accuracy_transformed": float,
    "accuracy_restored": float,
    "psnr": float,
    "ssim": float,
    "train_seconds": float,
    "steps": int,
    "num_dead_experts": int,
    "seed": int,
    "config": dict,
    "provenance": dict,
}


def oracle(winner_of, restored_of):
    """Puts in place of the experts a function of the truth."""

    def restore(run, images):
        originals = load_originals(run.config.data.source, seed=run.config.seed)
        for part in (originals.test, originals.validation):
            mixture = evaluation_mixture(part, parse_mechanisms(run.config.mechanisms))
            if mixture.images.shape == images.shape and torch.equal(mixture.images, images):
                winners = winner_of(mixture.mechanism)
                scores = torch.full((run.config.num_experts, len(images)), 0.1)
                scores[winners, torch.arange(len(images))] = 0.6
                return scores, winners, restored_of(mixture)
        raise AssertionError("evaluated on other images")

    return restore


def test_a_perfect_restoration_has_perfect_figures(small_run, monkeypatch):
    monkeypatch.setattr(evaluation, "restore_images", oracle(lambda m: m + 1, lambda mixture: mixture.originals))
    record = evaluate(small_run)
    assert record["matched_share"] == record["ari"] == record["nmi"] == 1
    assert record["psnr"] == pytest.approx(60)
    assert record["ssim"] == pytest.approx(1, abs=1e-5)
    assert record["accuracy_restored"] == record["accuracy_clean"]
    assert record["winner_matrix"] == [[0, 1, 0], [0, 0, 1]]
    assert (record["num_dead_experts"], record["dead_experts"], record["duplicate_experts"]) == (1, [0], [])


def test_one_expert_that_does_nothing_has_the_figures_of_the_transformed(small_run, monkeypatch):
    monkeypatch.setattr(evaluation, "restore_images", oracle(torch.zeros_like, lambda mixture: mixture.images))
    record = evaluate(small_run)
    assert (record["matched_share"], record["ari"]) == (0.5, 0)
    assert record["accuracy_restored"] == record["accuracy_transformed"]
    assert record["psnr"] == record["psnr_transformed"]
    assert record["num_dead_experts"] == 2


@pytest.mark.parametrize(("split", "count"), [("test", 20), ("validation", 20)])
def test_record_of_a_run(small_run, small_config, split, count):
    record = json.loads(json.dumps(evaluate(small_run, split=split)))
    assert {key: type(record[key]) for key in REQUIRED} == REQUIRED
    assert (record["num_images"], record["steps"], record["split"]) == (count, 4, split)
    assert np.sum(record["winner_matrix"], axis=1) == pytest.approx([1, 1])
    assert make_config(values={k: v for k, v in record["config"].items() if k != "preset"}) == small_config
    assert len(record["settled_steps"]) == 2
    assert len(record["identity"]["errors"]) == 3
    assert record["receptive_radius"] == 3
    assert evaluate(small_run, split=split)["psnr"] == record["psnr"]


def test_training_never_reads_the_test_set(small_config, bars_file, tmp_path, monkeypatch):
    """Spoiling every test image changes nothing that training sees."""
    from licm import datasets

    def spoilt(*arguments, **keywords):
        originals = load_originals(*arguments, **keywords)
        originals.test.images.fill_(77)
        return originals

    train(small_config, tmp_path / "a")
    monkeypatch.setattr(datasets, "load_originals", spoilt)
    train(small_config, tmp_path / "b")
    monkeypatch.undo()
    assert evaluate(tmp_path / "a")["psnr"] == evaluate(tmp_path / "b")["psnr"]


def test_images_of_ones_own_have_label_free_figures_only(tmp_path):
    for name, images in (("clean", bars(40)), ("spoilt", 1 - bars(30, seed=1))):
        np.savez(tmp_path / f"{name}.npz", images=(images * 255).to(torch.uint8).numpy())
    paths = {"data.canonical": str(tmp_path / "clean.npz"), "data.transformed": str(tmp_path / "spoilt.npz")}
    train(make_config(overrides={**SMALL_RUN, **paths}), tmp_path / "run")
    record = json.loads(json.dumps(evaluate(tmp_path / "run")))
    assert record["matched_share"] is record["psnr"] is record["accuracy_restored"] is None
    assert (record["num_images"], record["split"]) == (30, "transformed")
    assert sum(record["win_share"]) == pytest.approx(1)
    assert record["winner_margin"] >= 0
    assert "30 transformed images, 3 experts" in evaluation_table(record)


def test_one_expert_is_evaluated_too(tmp_path, small_config):
    train(small_config.model_copy(update={"num_experts": 1}), tmp_path / "run")
    record = evaluate(tmp_path / "run")
    assert record["matched_share"] == 1, "with fewer experts than mechanisms it is coverage"
    assert record["winner_margin"] is None
    assert "winner margin" not in evaluation_table(record)


def test_a_run_whose_parts_do_not_fit_is_refused_in_one_line(small_run):
    from licm.checkpoint import CONFIG
    from licm.saving import load_run

    path = small_run / CONFIG
    path.write_text(path.read_text().replace("width: 4", "width: 5"))
    with pytest.raises(ValueError, match=r"does not fit its configuration: .*size mismatch") as error:
        load_run(small_run)
    assert "\n" not in str(error.value)


def test_without_labels_there_is_no_accuracy(tmp_path):
    np.savez(tmp_path / "bars.npz", images=(bars(100) * 255).to(torch.uint8).numpy())
    train(make_config(overrides={**SMALL_RUN, "data.source": str(tmp_path / "bars.npz")}), tmp_path / "run")
    record = evaluate(tmp_path / "run")
    assert record["accuracy_restored"] is None
    assert record["psnr"] > 0
    assert "accuracy" not in evaluation_table(record)


def test_images_too_small_for_the_classifier_have_no_accuracy(tmp_path):
    images, labels = (bars(100)[..., :6, :6] * 255).to(torch.uint8).numpy(), np.arange(100) % 2
    np.savez(tmp_path / "bars.npz", images=images, labels=labels)
    train(make_config(overrides={**SMALL_RUN, "data.source": str(tmp_path / "bars.npz")}), tmp_path / "run")
    record = evaluate(tmp_path / "run")
    assert record["accuracy_restored"] is None
    assert record["psnr"] > 0


def test_what_a_killed_run_has_noted_and_not_saved_is_not_evaluated(small_run):
    before = evaluate(small_run)
    later = {"kind": "revival", "step": before["steps"] + 1, "event": "revived", "expert": 0, "donor": 1, "try": 1}
    append_history(small_run, later)
    assert evaluate(small_run)["revivals"] == before["revivals"]

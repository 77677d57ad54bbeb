"""Confidence and abstention: known answers, on scores made up for it and on the model that comes along."""

import contextlib
import csv
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from benchmarks.confidence import held_out
from PIL import Image
from sklearn.metrics import roc_auc_score

from licm import MechanismInverter
from licm.assignments import ASSIGNMENTS, Assignment, Output, Skipped
from licm.confidence import (
    CALIBRATION,
    Calibration,
    Evidence,
    calibrate,
    calibration_error,
    confidences,
    fit_temperature,
    gather_evidence,
    nudge,
    read_calibration,
)
from licm.datasets import evaluation_mixture, load_originals, to_bytes, to_float
from licm.mechanisms import parse_mechanism, parse_mechanisms
from licm.restoring import restore_files
from licm.run import restore_images
from licm.saving import load_run
from licm.shipped import SHIPPED
from tests.commands import licm, refused
from tests.problems import bars


def test_confidence_is_the_softmax_of_logits_over_the_temperature():
    scores = torch.tensor([[0.9, 0.2], [0.5, 0.4], [0.1, 0.0]], dtype=torch.float64)
    for temperature in (0.2, 1.0, 3.0):
        got = confidences(scores, temperature).numpy()
        odds = np.array([[9, 1, 1 / 9], [1 / 4, 2 / 3, 0]]) ** (1 / temperature)
        np.testing.assert_allclose(got, odds / odds.sum(axis=1, keepdims=True), atol=1e-12)
    assert got[1, 2] == 0  # an expert that was not asked
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        confidences(scores, 0)


@pytest.mark.parametrize(
    "damage",
    [
        {"usual_error": []},
        {"usual_error": [[1, 2]]},
        {"usual_error": [[1, 2, 3]] * 10},
        {"temperature": "x"},
        {"temperature": None},
        {"temperature": math.inf},
        {"temperature": 0},
        {"clean_score": math.nan},
        {"middle": []},
        {"line": ["a"] * 4},
        {"line": 4},
    ],
)
def test_a_damaged_calibration_is_none(damage, tmp_path):
    run, whole = load_run(SHIPPED["mnist-10"]), json.loads((SHIPPED["mnist-10"] / CALIBRATION).read_text())
    (tmp_path / CALIBRATION).write_text(json.dumps(whole))
    assert read_calibration(tmp_path, run) is not None
    (tmp_path / CALIBRATION).write_text(json.dumps({**whole, **damage}))
    assert read_calibration(tmp_path, run) is None


def test_of_outputs_that_are_all_beyond_hope_none_is_surer_than_another():
    assert confidences(torch.zeros(2, 3), 0.5).tolist() == [[0.5, 0.5]] * 3


def test_temperature_of_labels_drawn_from_the_confidence_is_found_again():
    """Whoever is drawn with probability softmax(logits / T) tells T; so does the calibration error."""
    draws = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 4000, generator=draws, dtype=torch.float64).sigmoid()
    for true in (0.3, 1.0, 2.0):
        told = confidences(scores, true)
        drawn = torch.multinomial(told, 1, generator=draws).flatten()
        assert fit_temperature(scores, drawn) == pytest.approx(true, rel=0.1)
        assert calibration_error(told, drawn) < 0.03
        assert calibration_error(confidences(scores, 10 * true), drawn) > 0.05


def test_winners_that_never_change_leave_a_doubt():
    """Without it the temperature would be the smallest that is tried, and every confidence 1."""
    scores = torch.tensor([[0.6] * 100, [0.4] * 100])
    told = confidences(scores, fit_temperature(scores, torch.zeros(100, dtype=torch.int64)))
    assert told[:, 0].mean() == pytest.approx(100.5 / 101, abs=1e-3)


def test_retired_experts_do_not_count_in_the_temperature():
    scores = torch.tensor([[0.6, 0.7, 0.4], [0.4, 0.2, 0.5]])
    with_rest = torch.stack([torch.zeros(3), scores[0], scores[1]])
    again = torch.tensor([0, 0, 0])
    assert fit_temperature(scores, again) == fit_temperature(with_rest, again + 1)


def test_calibration_error_of_known_gaps():
    told = torch.tensor([[0.9, 0.1]] * 10 + [[0.3, 0.7]] * 10)
    right = torch.tensor([0] * 9 + [1] + [1] * 2 + [0] * 8)  # 0.9 as told; 0.2 where 0.7 was told
    assert calibration_error(told, right) == pytest.approx(0.25, abs=1e-6)
    assert calibration_error(torch.tensor([[0.9, 0.1]]), torch.tensor([-1])) == pytest.approx(0.9)  # none should win


def test_nudge_moves_by_one_pixel_and_repeats_the_edge():
    image = torch.arange(9.0).view(1, 1, 3, 3) / 8
    right, left, down, up = nudge(image.expand(4, 1, 3, 3)).mul(8)[:, 0].tolist()
    assert right == [[0, 0, 1], [3, 3, 4], [6, 6, 7]]
    assert left == [[1, 2, 2], [4, 5, 5], [7, 8, 8]]
    assert down == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert up == [[3, 4, 5], [6, 7, 8], [6, 7, 8]]


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


LINES = Calibration(
    step=1,
    temperature=1.0,
    clean_score=1.0,
    usual_error=[(0.0, 1.0), (math.log(100), 2.0)],
    middle=[0.0, 0.0, 0.0, -3.0],
    line=[2.0, 2.0, 4.0, -1.0],
)


@pytest.mark.parametrize(
    ("own", "winning", "winner", "error", "reason", "strangeness"),
    [
        (-3, 0, 0, 1.0, "", 0),  # as usual
        (-3, -1, 0, 1.0, "", 0.5),  # half-way to the line
        (-3, -2.5, 0, 1.0, "unknown", 1.25),  # no output is good
        (-3, 0, 0, 100.0, "unknown", math.log(100) / 2),  # F_0 cannot tell the input again,
        (-3, 0, 1, 100.0, "", 0),  # F_1 never can
        (-3, 0, 1, 1e-4, "unknown", math.log(1e6) / 8),  # it can too well: less noise than 1 is used to
        (1.5, 0, 1, 1e-4, "clean", 2.25),  # none at all
        (0, 0, 0, 1.0, "unknown", 1.5),  # better than any of the mixture, yet not clean
        (1.5, 0, 0, 1.0, "clean", 2.25),
        (1.5, -2.5, 0, 1.0, "unknown", 2.25),  # no expert keeps it as it is
    ],
)
def test_each_sign_has_its_line(own, winning, winner, error, reason, strangeness):
    evidence = Evidence(
        torch.tensor([logistic(own)]), torch.tensor([logistic(winning)]), torch.tensor([winner]), torch.tensor([error])
    )
    assert LINES.reasons(evidence) == [reason]
    assert LINES.strangeness(evidence).item() == pytest.approx(strangeness, abs=1e-3)


@pytest.mark.parametrize("forward", [True, False])
def test_calibrate_abstains_on_few_of_what_it_was_fitted_to(small_run, forward):
    """At most a twentieth of the mixture, with forward networks and without."""
    run = load_run(small_run)
    if not forward:
        run.competition.forward = None
    mixture = 1 - bars(200, seed=3)
    calibration = calibrate(run, bars(200), mixture)
    assert (calibration.usual_error is None) == (not forward)
    scores, winners, restored = restore_images(run, mixture)
    evidence = gather_evidence(run, mixture, scores, winners, restored)
    assert sum(reason == "unknown" for reason in calibration.reasons(evidence)) <= 10
    assert calibration.confidences(scores).shape == (200, 3)


@pytest.fixture(scope="module")
def digits():
    return load_originals("embedded", seed=0).test


def test_the_shipped_model_knows_what_it_knows(digits):
    """What the record in docs/results/confidence.json says of thousands of images, on a few."""
    run = load_run(SHIPPED["mnist-10"])
    calibration = read_calibration(SHIPPED["mnist-10"], run)
    assert calibration is not None

    def look(images: torch.Tensor) -> tuple[torch.Tensor, Evidence]:
        restored = restore_images(run, images)
        return restored[0], gather_evidence(run, images, *restored)

    mixture = evaluation_mixture(digits.select(range(200)), parse_mechanisms("paper"))
    scores, known = look(mixture.images)
    blurred, faded = (
        look(parse_mechanism(held)(mixture.originals[:60]))[1] for held in ("blur(sigma=2.5)", "contrast(factor=0.2)")
    )
    _, clean = look(mixture.originals[:60])
    confidence = calibration.confidences(scores)
    owners = torch.stack([confidence[mixture.mechanism == index].mean(dim=0) for index in range(10)]).argmax(dim=1)
    assert sorted(owners.tolist()) == list(range(10))
    assert calibration_error(confidence, owners[mixture.mechanism]) <= 0.05
    strange = torch.cat([calibration.strangeness(each) for each in (known, blurred)])
    assert roc_auc_score([0] * 200 + [1] * 60, strange) >= 0.9
    assert sum(map(bool, calibration.reasons(known))) <= 20
    assert calibration.reasons(blurred).count("unknown") >= 54
    assert calibration.reasons(faded).count("unknown") >= 54
    assert calibration.reasons(clean).count("clean") >= 48


def test_the_benchmark_holds_out_what_grey_images_can_undergo(digits):
    run = load_run(SHIPPED["mnist-10"])
    images = to_float(digits.images[:2])
    held = held_out(run)
    assert parse_mechanism("contrast(factor=0.5)") in held
    assert not set(map(str, held)) & set(map(str, parse_mechanisms("paper")))
    assert not {mechanism.kind for mechanism in held} & {"cast", "swap_channels"}
    for mechanism in held:
        assert mechanism(images, torch.Generator()).shape == images.shape


def write_digits(folder: Path, digits) -> dict[str, bytes]:
    folder.mkdir()
    originals = to_float(digits.images[:4])
    for kind in ("identity", "invert", "blur(sigma=2.5)"):
        for index, image in enumerate(to_bytes(parse_mechanism(kind)(originals))):
            Image.fromarray(image[0]).save(folder / f"{kind[:4]}{index}.png", compress_level=1)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_abstained(out: Path) -> dict[str, str]:
    with (out / ASSIGNMENTS).open(newline="") as file:
        return {row["path"]: row["abstained"] for row in csv.DictReader(file)}


@pytest.mark.parametrize(("keep", "kept"), [("clean", {"clean"}), ("all", {"clean", "unknown"}), ("none", set())])
def test_restore_keeps_what_it_is_told_to_keep(digits, tmp_path, keep, kept):
    given = write_digits(tmp_path / "in", digits)
    done = licm("restore", "mnist-10", tmp_path / "in", tmp_path / "out", "--keep", keep)
    assert done.returncode == 0, done
    told = read_abstained(tmp_path / "out")
    expected = {"iden": "clean", "inve": "", "blur": "unknown"}
    assert sum(reason == expected[name[:4]] for name, reason in told.items()) >= 11  # of 12
    for name, reason in told.items():
        same = (tmp_path / "out" / name).read_bytes() == given[name]
        assert same == (reason in kept), name
    counts = [sum(reason == each for reason in told.values()) for each in ("clean", "unknown")]
    assert f"abstained: {counts[0]} clean, {counts[1]} unknown (kept as they are: {keep})" in done.stdout


def test_an_unknown_way_to_keep_is_refused(small_run, tmp_path):
    line = refused("restore", small_run, tmp_path, tmp_path / "out", "--keep", "cleen")
    assert "unknown keep 'cleen': did you mean 'clean'? Valid: all, clean, none" in line


def test_a_run_without_calibration_says_so_and_evaluate_makes_one(small_run, tmp_path):
    images = tmp_path / "image.png"
    Image.fromarray(to_bytes(bars(1))[0, 0]).save(images)
    before = (small_run / CALIBRATION).read_text()
    assert read_calibration(small_run, load_run(small_run)) == Calibration(**json.loads(before))
    (small_run / CALIBRATION).unlink()
    done = licm("restore", small_run, images, tmp_path / "out")
    assert done.stderr.count("is not calibrated: it never abstains (see licm evaluate)") == 1
    assert read_abstained(tmp_path / "out") == {"image.png": ""}
    inverter = MechanismInverter.load(small_run)
    for ask in (inverter.predict_proba, inverter.abstain):
        with pytest.raises(ValueError, match=r"this run has no calibration\.json of its last step: make one with licm"):
            ask(bars(2))
    assert licm("evaluate", small_run, "-q").returncode == 0
    assert json.loads((small_run / "evaluation.json").read_text())["ece"] is not None
    again = json.loads((small_run / CALIBRATION).read_text())
    assert again["line"] == pytest.approx(json.loads(before)["line"], abs=1e-4)


@pytest.mark.parametrize("damage", ["{}", "[1]", "not JSON", None])
def test_a_calibration_that_is_damaged_or_of_another_step_counts_as_none(small_run, damage):
    stale = json.dumps(json.loads((small_run / CALIBRATION).read_text()) | {"step": 3})
    (small_run / CALIBRATION).write_text(stale if damage is None else damage)
    assert read_calibration(small_run, load_run(small_run)) is None


def test_the_estimator_tells_how_sure_it_is_and_keeps_that(small_run, tmp_path):
    inverter, images = MechanismInverter.load(small_run), 1 - bars(6)
    sure = inverter.predict_proba(images)
    assert sure.shape == (6, 3)
    np.testing.assert_allclose(sure.sum(axis=1), 1)
    assert sure.argmax(axis=1).tolist() == inverter.predict(images).tolist()
    np.testing.assert_allclose(inverter.predict_proba(images.flip(0))[::-1], sure, atol=1e-3)
    assert set(inverter.abstain(images)) <= {"", "clean", "unknown"}
    inverter.save(tmp_path / "saved")
    again = MechanismInverter.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict_proba(images), sure)


def test_a_run_resumed_with_another_way_to_keep_is_refused(small_run, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for index, image in enumerate(to_bytes(bars(2))):
        Image.fromarray(image[0]).save(tmp_path / "in" / f"{index}.png")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("licm.assignments.Output.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            restore_files(small_run, tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="was begun with another keep, 'clean'"):
        restore_files(small_run, tmp_path / "in", tmp_path / "out", resume=True, keep="all")


def test_a_folder_gets_the_confidence_that_the_estimator_tells(small_run, tmp_path):
    images = (1 - bars(6)).clamp(0, 0.9)
    folder = tmp_path / "in"
    folder.mkdir()
    for index, image in enumerate(to_bytes(images)):
        Image.fromarray(image[0]).save(folder / f"{index}.png")

    def told(name: str) -> list[str]:
        with (tmp_path / name / ASSIGNMENTS).open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["path", "expert", "score", "margin", "abstained", "confidence"]
        return [row[-1] for row in rows[1:]]

    restore_files(small_run, folder, tmp_path / "out")
    sure = MechanismInverter.load(small_run).predict_proba(images.mul(255).round() / 255).max(axis=1)
    np.testing.assert_allclose([float(each) for each in told("out")], sure, atol=1e-4)
    restore_files(small_run, folder, tmp_path / "routed", routed=True)
    (small_run / CALIBRATION).unlink()
    restore_files(small_run, folder, tmp_path / "uncalibrated")
    assert told("routed") == told("uncalibrated") == [""] * 6


@pytest.mark.parametrize("finished", [False, True])
def test_an_output_that_a_version_without_confidences_began_is_gone_on_with(small_run, tmp_path, finished, monkeypatch):
    (tmp_path / "in").mkdir()
    for index, image in enumerate(to_bytes(bars(3))):
        Image.fromarray(image[0]).save(tmp_path / "in" / f"{index}.png")

    class Former(NamedTuple):
        path: str
        expert: int
        score: float
        margin: float | None
        abstained: str

    def note(output: Output, restored: list[Assignment], skipped: list[Skipped]) -> None:
        if output.done and not finished:
            raise KeyboardInterrupt
        real(output, [Former(*row[:5]) for row in restored], skipped)  # type: ignore[misc]

    real = Output.note
    monkeypatch.setattr(Output, "note", note)
    monkeypatch.setattr("licm.restoring.SHARD_IMAGES", 2)
    with contextlib.nullcontext() if finished else pytest.raises(KeyboardInterrupt):
        restore_files(small_run, tmp_path / "in", tmp_path / "out")
    monkeypatch.undo()
    table = tmp_path / "out" / ASSIGNMENTS
    if finished:
        lines = table.read_text().splitlines()
        table.write_text("".join(line.rpartition(",")[0] + "\n" for line in lines))
    assert restore_files(small_run, tmp_path / "in", tmp_path / "out", resume=True)["images"] == 3
    rows = list(Output(tmp_path / "out").restored())
    assert [row.confidence is None for row in rows] == [True, True, finished]
    assert {row.abstained for row in rows} <= {"", "clean", "unknown"}

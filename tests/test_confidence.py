"""Confidence and abstention: known answers, on scores made up for it and on the model that comes along."""

import math

import numpy as np
import pytest
import torch

from licm.confidence import (
    Calibration,
    Evidence,
    calibrate,
    calibration_error,
    confidences,
    fit_temperature,
    nudge,
)
from licm.run import load_run
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
    middle=[0.0, 0.0, -3.0],
    line=[2.0, 2.0, -1.0],
)


@pytest.mark.parametrize(
    ("own", "winning", "winner", "error", "reason", "strangeness"),
    [
        (-3, 0, 0, 1.0, "", 0),  # as usual
        (-3, -1, 0, 1.0, "", 0.5),  # half-way to the line
        (-3, -2.5, 0, 1.0, "unknown", 1.25),  # no output is good
        (-3, 0, 0, 100.0, "unknown", math.log(100) / 2),  # F_0 cannot tell the input again,
        (-3, 0, 1, 100.0, "", 0),  # F_1 never can
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


@pytest.mark.parametrize("setting", ["competition.cycle_weight=0", "competition.cycle_weight=1"])
def test_calibrate_abstains_on_few_of_what_it_was_fitted_to(small_run, setting):
    """At most a twentieth of the mixture, with forward networks and without."""
    from licm.confidence import gather_evidence
    from licm.run import restore_images

    run = load_run(small_run)
    if setting.endswith("0"):
        run.competition.forward = None
    mixture = 1 - bars(200, seed=3)
    calibration = calibrate(run, bars(200), mixture)
    assert (calibration.usual_error is None) == setting.endswith("0")
    scores, winners, _ = restore_images(run, mixture)
    evidence = gather_evidence(run, mixture, scores, winners)
    assert sum(reason == "unknown" for reason in calibration.reasons(evidence)) <= 10
    assert calibration.confidences(scores).shape == (200, 3)

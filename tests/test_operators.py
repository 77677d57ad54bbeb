"""Operators fitted to pairs made by known ones are those again, in numbers and in words."""

import pytest
import torch

from licm.operators import Operator, best_shift, fit_operator, to_where
from licm.seeding import generator
from tests.problems import bars

IMAGES = bars(40)
KNOWN = {
    "leaves images as they are": Operator(),
    "moves by 2 px up and 1 px right": Operator(dy=-2, dx=1),
    "inverts the contrast": Operator(tone="inverted", gain=-1, offset=1),
    "moves by 3 px down, inverts the contrast": Operator(dy=3, tone="inverted", gain=-1, offset=1),
    "turns intensity p into 0.50 p + 0.20": Operator(tone="scaled", gain=0.5, offset=0.2),
    "turns intensity p into -0.50 p + 0.70": Operator(tone="scaled", gain=-0.5, offset=0.7),
    "smooths (sigma 1 px)": Operator(texture="smoothed", sigma=1.0),
}


@pytest.mark.parametrize("words", KNOWN)
def test_a_known_operator_is_found_exactly(words):
    known = KNOWN[words]
    assert str(known) == words
    fit = fit_operator(IMAGES, known(IMAGES), radius=4)
    assert str(fit.operator) == words
    assert fit.quality == pytest.approx(1, abs=1e-4)


def test_sharpening_is_found():
    smooth = Operator(texture="smoothed", sigma=1.5)(IMAGES) * 0.5 + 0.25  # so that nothing is clamped
    sharp = Operator(texture="sharpened", sigma=1.0, amount=0.8)(smooth)
    fit = fit_operator(smooth, sharp, radius=4)
    assert (fit.operator.texture, fit.operator.tone) == ("sharpened", "as it is")
    assert fit.quality > 0.99


def test_the_simplest_of_those_that_fit_is_taken():
    """A little noise on the outputs is no reason to scale, and a part that explains nothing is not mentioned."""
    draws = generator(0, "noise")
    noisy = (Operator(dx=2)(IMAGES) + 0.03 * torch.randn(IMAGES.shape, generator=draws)).clamp(0, 1)
    fit = fit_operator(IMAGES, noisy, radius=4)
    assert fit.operator == Operator(dx=2)
    assert 0.9 < fit.quality < 1


def test_what_no_operator_does_has_a_low_quality():
    fit = fit_operator(IMAGES, IMAGES[torch.randperm(len(IMAGES), generator=generator(1, "pairs"))], radius=4)
    assert fit.quality < 0.5


def test_a_movement_is_searched_no_further_than_asked():
    moved = Operator(dy=4)(IMAGES)
    assert best_shift(IMAGES, moved, 5) == (4, 0)
    assert abs(best_shift(IMAGES, moved, 2)[0]) <= 2
    flat = torch.full((2, 1, 12, 12), 0.5)
    assert best_shift(flat, flat, 3) == (0, 0)


def test_where_in_words():
    assert [to_where(1, 0), to_where(0, -3)] == ["1 px down", "3 px left"]


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match=r"outputs: expected the shape of inputs, \(40, 1, 12, 12\), got \(39"):
        fit_operator(IMAGES, IMAGES[1:], radius=2)
    with pytest.raises(ValueError, match="outputs: all are of one and the same colour"):
        fit_operator(IMAGES, torch.full_like(IMAGES, 0.5), radius=2)
    with pytest.raises(ValueError, match=r"inputs: expected finite values in \[0, 1\]"):
        fit_operator(IMAGES - 1, IMAGES, radius=2)

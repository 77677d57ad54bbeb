"""The contract every mechanism of the registry passes, and the known answers of the paper's ten."""

import numpy as np
import pytest
import skimage.filters
import skimage.morphology
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from licm.mechanisms import (
    MECHANISM_SETS,
    MECHANISMS,
    Chain,
    Mechanism,
    parse_mechanism,
    parse_mechanisms,
)
from licm.seeding import generator

ALL_LEVELS = [Mechanism(name, level) for name, kind in MECHANISMS.items() for level in kind.levels]
CHAIN = parse_mechanism("shift(dx=2) | noise(variance=0.1) | invert")


def images(count: int = 4, channels: int = 1, size: tuple[int, int] = (16, 20)) -> torch.Tensor:
    return torch.rand(count, channels, *size, generator=generator(0, "test images"))


@pytest.mark.parametrize("mechanism", [*ALL_LEVELS, CHAIN], ids=str)
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (16, 20))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract(mechanism, channels, size, dtype):
    x = images(channels=channels, size=size).to(dtype)
    before = x.clone()
    if channels == 1 and "swap" in str(mechanism):
        with pytest.raises(ValueError, match="needs images of at least 3 channels, got 1"):
            mechanism(x, None)
        return
    y = mechanism(x, generator(1, "draw"))
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert y.min() >= 0
    assert y.max() <= 1
    assert torch.equal(x, before), "the input must be left alone"
    assert y.data_ptr() != x.data_ptr(), "the output must be new memory"
    assert torch.equal(y, mechanism(x, generator(1, "draw"))), "the same generator gives the same images"
    one_by_one = [mechanism(image[None], None) for image in x] if "noise" not in str(mechanism) else []
    if one_by_one and "salt" not in str(mechanism):
        assert torch.allclose(torch.cat(one_by_one), y, atol=1e-6), "an image must not depend on its batch"
    if mechanism.has_inverse:
        assert torch.allclose(mechanism.inverse(y), x, atol=1e-6)
    else:
        with pytest.raises(ValueError, match="has no exact inverse"):
            mechanism.inverse(y)
    assert str(parse_mechanism(str(mechanism))) == str(mechanism), "the notation reads back"


@pytest.mark.parametrize("name", [n for n, kind in MECHANISMS.items() if len(kind.levels) > 1])
def test_levels_go_from_weak_to_strong(name):
    x = torch.zeros(1, 1, 28, 28)
    x[..., 6:22, 10:18] = 0.9  # an off-grey block off the frame's edge, which each mechanism changes more and more
    distances = [
        (Mechanism(name, level)(x, generator(0, "draw")) - x).square().mean().item()
        for level in MECHANISMS[name].levels
    ]
    assert distances == sorted(distances)
    assert distances[0] > 0


@pytest.mark.parametrize("name", ["noise", "salt_and_pepper"])
def test_random_mechanisms_use_their_generator(name):
    mechanism, x = Mechanism(name), images()
    assert not torch.equal(mechanism(x, generator(1, "a")), mechanism(x, generator(2, "a")))
    state = torch.random.get_rng_state()
    mechanism(x, generator(1, "a"))
    assert torch.equal(state, torch.random.get_rng_state()), "global randomness is untouched"


def test_the_papers_ten():
    ten = parse_mechanisms("paper")
    assert len(ten) == len({str(m) for m in ten}) == 10
    x = images(size=(28, 28))
    moves = {(-4, 0), (4, 0), (0, -4), (0, 4), (-4, -4), (-4, 4), (4, -4), (4, 4)}
    for mechanism in ten[:8]:
        dy, dx = (mechanism.parameters.get(axis, 0) for axis in ("dy", "dx"))
        moves.remove((dy, dx))
        expected = np.zeros((4, 1, 36, 36), dtype=np.float32)
        expected[:, :, 4 + dy : 32 + dy, 4 + dx : 32 + dx] = x.numpy()
        np.testing.assert_array_equal(mechanism(x).numpy(), expected[:, :, 4:32, 4:32])
    assert not moves
    np.testing.assert_array_equal(ten[8](x).numpy(), 1 - x.numpy())


def test_noise_has_variance_a_quarter_before_the_clamp():
    """On mid-grey nothing but the clamp at 1 sigma acts; the known moments are those of a clamped normal."""
    x = torch.full((1, 1, 400, 400), 0.5)
    y = parse_mechanisms("paper")[9](x, generator(0, "noise"))
    inside = ((y > 0) & (y < 1)).double().mean().item()
    # P(|z| < 1) = 0.6827 for sigma 0.5 (0.9545 for the mistaken 0.25); standard error 0.0012, six of them.
    assert inside == pytest.approx(0.6827, abs=0.007)
    assert y.mean().item() == pytest.approx(0.5, abs=0.006)


@settings(max_examples=30, deadline=None)
@given(dy=st.integers(-30, 30), dx=st.integers(-30, 30))
def test_shift_and_back_keeps_what_stayed_in_the_frame(dy, dx):
    x = images(size=(12, 15))
    back = Mechanism("shift", {"dy": -dy, "dx": -dx})(Mechanism("shift", {"dy": dy, "dx": dx})(x))
    rows = torch.arange(12)
    cols = torch.arange(15)
    stayed = ((rows + dy >= 0) & (rows + dy < 12))[:, None] & ((cols + dx >= 0) & (cols + dx < 15))[None]
    assert torch.equal(back, x * stayed)


def test_against_independent_references():
    x = images(size=(24, 24)).double()
    for image, blurred, grown, shrunk in zip(
        x, Mechanism("blur", {"sigma": 1.0})(x), Mechanism("thicken")(x), Mechanism("thin")(x)
    ):
        reference = skimage.filters.gaussian(image[0].numpy(), sigma=1.0, truncate=3.0, mode="constant")
        np.testing.assert_allclose(blurred[0].numpy(), reference, atol=1e-9)
        square = np.ones((3, 3))
        np.testing.assert_array_equal(grown[0].numpy(), skimage.morphology.dilation(image[0].numpy(), square))
        np.testing.assert_array_equal(shrunk[0].numpy(), skimage.morphology.erosion(image[0].numpy(), square))


def test_directions():
    """A corner pixel tells which way an image turns, slants and grows."""
    x = torch.zeros(1, 1, 21, 21)
    x[..., 4, 10] = 1.0  # above the centre
    brightest = lambda y: divmod(int(y.flatten().argmax()), 21)  # noqa: E731
    assert brightest(Mechanism("rotate", {"degrees": 90})(x)) == (10, 4)
    assert brightest(Mechanism("rotate", {"degrees": 89.99})(x)) == (10, 4)
    assert brightest(Mechanism("scale", {"factor": 1.5})(x)) == (1, 10)
    assert brightest(Mechanism("shear", {"degrees": 45})(x)) == (4, 16)
    assert brightest(Mechanism("flip_vertical")(x)) == (16, 10)


def test_rotation_keeps_shapes_on_oblong_frames():
    """A square stays square under 45 degrees: its turned corner is as far up as to the side."""
    x = torch.zeros(1, 1, 21, 41)
    x[..., 6:15, 16:25] = 1.0
    y = Mechanism("rotate", {"degrees": 45})(x)[0, 0] > 0.5
    rows, cols = y.any(dim=1).nonzero().flatten(), y.any(dim=0).nonzero().flatten()
    assert rows[-1] - rows[0] == cols[-1] - cols[0]


def test_colour():
    """A channel is what it is called, and the others are left alone."""
    x = images(channels=3)
    red, green, blue = x.unbind(dim=1)
    tinted = Mechanism("cast", {"channel": 1, "factor": 0.25})(x)
    assert torch.equal(tinted, torch.stack([red, green / 4, blue], dim=1))
    assert torch.equal(Mechanism("cast", {"factor": 2})(x)[:, 0], (2 * red).clamp(max=1))
    assert torch.equal(Mechanism("swap_channels")(x), torch.stack([blue, green, red], dim=1))
    assert torch.equal(Mechanism("swap_channels", {"second": 1})(x), torch.stack([green, red, blue], dim=1))


def test_where_a_cast_can_be_undone():
    x = images(channels=3)
    for parameters in ({"channel": 2, "factor": 0.1}, {"channel": 1, "factor": 1}):
        mechanism = Mechanism("cast", parameters)
        assert torch.allclose(mechanism.inverse(mechanism(x)), x, atol=1e-6)
    assert not Mechanism("cast", {"factor": 0}).has_inverse, "nothing is left of the channel"
    assert not Mechanism("cast", {"factor": 1.5}).has_inverse, "what is bright is clamped"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cast(channel=1)", "^mechanism .cast.: channel 1 needs images of at least 2 channels, got 1$"),
        ("swap_channels(first=1)", "^mechanism .swap_channels.: channel 2 needs images of at least 3 channels, got 1$"),
    ],
)
def test_channels_that_grey_images_do_not_have_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_mechanism(text)(images())


def test_chain_applies_left_to_right_and_inverts_right_to_left():
    chain = parse_mechanism("flip_horizontal | contrast(factor=0.5)")
    assert isinstance(chain, Chain)
    x = images()
    assert torch.equal(chain(x), Mechanism("contrast", {"factor": 0.5})(x.flip(-1)))
    assert torch.allclose(chain.inverse(chain(x)), x, atol=1e-6)
    assert not CHAIN.has_inverse


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inver", r"unknown mechanism 'inver': did you mean 'invert'\?"),
        ("shift(dz=1)", r"mechanism 'shift': unknown parameter 'dz'.*Valid: dx, dy"),
        ("shift(dx='a')", "dx must be a finite number, got 'a'"),
        ("shift(dx=True)", "dx must be a finite number, got True"),
        ("blur(sigma=1e999)", "sigma must be a finite number, got inf"),
        (f"shift(dx=1{'0' * 400})", "dx must be a finite number, got 1000"),
        ("shift(dx=1.5)", "dx must be a whole number, got 1.5"),
        ("blur(sigma=0)", r"sigma must be in \[0.05, 100\], got 0"),
        ("noise(variance=-1)", r"variance must be in \[0, 100\], got -1"),
        ("cast(channel=3)", r"channel must be in \[0, 2\], got 3"),
        ("cast(channel=0.5)", "channel must be a whole number, got 0.5"),
        ("cast(factor=-1)", r"factor must be in \[0, 100\], got -1"),
        ("swap_channels(second=-1)", r"second must be in \[0, 2\], got -1"),
        ("shift(4)", "expected NAME, NAME"),
        ("shift(dx=__import__('os'))", "expected NAME, NAME"),
        ("shift(**x)", "expected NAME, NAME"),
        ("a.b", "expected NAME, NAME"),
        ("", "expected NAME, NAME"),
        ("invert |", "expected NAME, NAME"),
        ("\0", "expected NAME, NAME"),
    ],
)
def test_bad_notation(text, message):
    with pytest.raises(ValueError, match=message):
        parse_mechanism(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        mechanism = parse_mechanism(text)
    except ValueError:
        return
    assert str(parse_mechanism(str(mechanism))) == str(mechanism)


def test_unknown_set_offers_the_nearest():
    with pytest.raises(ValueError, match="unknown mechanism set 'papre': did you mean 'paper'"):
        parse_mechanisms("papre")
    assert all(parse_mechanisms(name) for name in MECHANISM_SETS)

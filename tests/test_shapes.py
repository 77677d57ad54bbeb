"""The same competition for signals [n, c, t] and vectors [n, d]: what the networks are, and the whole way of a run."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import licm
from licm import MechanismInverter
from licm.checkpoint import read_history
from licm.checks import check_images
from licm.config import make_config
from licm.datasets import Mixture, TrainingData
from licm.metrics import psnr, ssim
from licm.models import EXPERTS, Discriminator, Expert, ExpertBank, convolution
from licm.report import write_report
from licm.restoring import restore_files
from licm.routing import Router
from licm.run import build_run, restore_images, route_images
from licm.saving import load_run
from licm.seeding import generator
from licm.sharing.exporting import export_model
from licm.training import train
from tests.conftest import SMALL_RUN

SHAPES = {"signals": (2, 12), "vectors": (7,)}
TINY = {key: value for key, value in SMALL_RUN.items() if "." in key and not key.startswith("training")}


def examples(kind: str, count: int, *, seed: int = 0) -> Tensor:
    """Numbers below a half: an inverted example is none."""
    return 0.5 * torch.rand(count, *SHAPES[kind], generator=generator(seed, "examples"))


@pytest.fixture(params=SHAPES)
def kind(request) -> str:
    return request.param


@pytest.fixture
def data(kind) -> TrainingData:
    clean, other = examples(kind, 24), examples(kind, 24, seed=1)
    mechanism = torch.arange(24) % 2
    spoilt = torch.where((mechanism == 0).view(-1, *[1] * len(SHAPES[kind])), 1 - other, 0.5 * other)
    return TrainingData(clean, spoilt, validation=Mixture(spoilt, mechanism, other))


@pytest.fixture
def config():
    return make_config(overrides=SMALL_RUN)


@pytest.mark.parametrize("head", ["sigmoid", "residual"])
@pytest.mark.parametrize("normalization", ["frozen", "batch", "layer", "none"])
def test_an_expert_keeps_shape_and_range(kind, head, normalization):
    x = examples(kind, 5)
    expert = Expert(channels=x.shape[1], width=6, depth=3, head=head, normalization=normalization, dims=x.ndim - 2)
    y = expert(x)
    assert y.shape == x.shape
    assert y.min() >= 0
    assert y.max() <= 1


def test_a_signal_is_an_image_of_one_row():
    """With the middle rows of an image expert's kernels the signal expert does what that does to a single row."""
    of_images, of_signals = Expert(channels=2, width=3, depth=3).eval(), Expert(channels=2, width=3, depth=3, dims=1)
    state = of_images.state_dict()
    of_signals.load_state_dict({key: w[:, :, 1] if w.ndim == 4 else w for key, w in state.items()})
    x = examples("signals", 4)
    torch.testing.assert_close(of_signals.eval()(x), of_images(x[:, :, None])[:, :, 0])
    assert of_signals.receptive_radius == of_images.receptive_radius == 3


def test_an_expert_on_vectors_is_a_multilayer_perceptron():
    expert = Expert(channels=7, width=5, depth=3, normalization="none", activation="leaky_relu", dims=0)
    x = examples("vectors", 4)
    first, second, last = (m for m in expert.modules() if isinstance(m, nn.Linear))
    hidden = nn.functional.leaky_relu(second(nn.functional.leaky_relu(first(x), 0.1)), 0.1)
    torch.testing.assert_close(expert(x), last(hidden).sigmoid())
    assert expert.receptive_radius is None
    assert not expert.is_local


def test_a_signals_reach_is_its_receptive_radius():
    expert = Expert(width=4, dilations=(1, 2, 4, 2, 1), dims=1).eval()
    x = torch.full((1, 1, 41), 0.5, requires_grad=True)
    expert(x)[0, 0, 20].backward()
    reached = (x.grad[0, 0].abs() > 0).nonzero().flatten()
    assert (reached.min(), reached.max()) == (10, 30)
    assert Expert(width=4, coordinates=True, dims=1)(x).shape == x.shape


def test_the_discriminator_pools_along_time_and_has_nothing_to_pool_of_vectors():
    names = [type(m).__name__ for m in Discriminator(channels=2, image_size=12, widths=(4,), dims=1).features]
    assert names == ["Conv1d", "ELU", "Conv1d", "ELU", "AvgPool1d"]
    names = [type(m).__name__ for m in Discriminator(channels=7, widths=(4,), dims=0).features]
    assert names == ["Linear", "ELU", "Linear", "ELU"]
    assert [Discriminator(channels=2, image_size=8, dims=dims).input_shape for dims in range(3)] == [
        (2,),
        (2, 8),
        (2, 8, 8),
    ]


def test_a_router_takes_signals_of_any_length_and_vectors():
    assert Router(channels=2, num_experts=3, dims=1)(torch.rand(4, 2, 37)).shape == (4, 3)
    assert Router(channels=7, num_experts=3, dims=0)(torch.rand(4, 7)).shape == (4, 3)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_a_run_trains_resumes_and_is_read_back(kind, data, config, normalization, tmp_path):
    """With forward networks, pairs, ties, the penalty and the router, as the defaults have them."""
    settings = SMALL_RUN | {"steps": 6, "experts.normalization": normalization, "training.save_every": 2}
    config = make_config(overrides=settings)
    run = train(config, tmp_path / "run", data=data)
    assert run.competition.cycle_pulls, "the cycle error and the pairs have been felt"
    history = read_history(tmp_path / "run")
    seen = [record for record in history if record["kind"] == "validation"]
    assert seen[-1]["psnr"] == pytest.approx(
        sum(
            psnr(restore_images(run, data.transformed)[2], data.validation.originals)[index::2].mean().item() / 2
            for index in range(2)
        )
    )
    assert all(record["accuracy_restored"] is None for record in seen)
    again = load_run(tmp_path / "run")
    assert again.discriminator.input_shape == SHAPES[kind]
    for ours, theirs in zip(restore_images(run, data.transformed), restore_images(again, data.transformed)):
        assert torch.equal(ours, theirs)
    assert again.apply(data.canonical, mechanism=1).shape == data.canonical.shape
    assert torch.equal(restore_images(again, data.transformed, routed=True)[1], route_images(again, data.transformed))
    stopped = load_run(tmp_path / "run")
    assert train(config, tmp_path / "run", resume=True, data=data).step == stopped.step


def test_a_resumed_run_gives_the_bits_of_the_uninterrupted_one(kind, data, tmp_path):
    free = {"training.decay": False, "revival.enabled": False}
    short, long = (make_config(overrides=SMALL_RUN | free | {"steps": steps}) for steps in (2, 4))
    train(short, tmp_path / "resumed", data=data)
    resumed = train(long, tmp_path / "resumed", resume=True, data=data)
    whole = train(long, tmp_path / "whole", data=data)
    for ours, theirs in zip(resumed.experts.parameters(), whole.experts.parameters()):
        assert torch.equal(ours, theirs)


def test_proposals_of_a_router_are_for_all_kinds(kind, data, tmp_path):
    """Who is not asked has score 0, at the steps between exact ones."""
    settings = {"router.proposals": 1, "router.trusted_from": 0.0, "experts.normalization": "none"}
    run = train(make_config(overrides=SMALL_RUN | settings), tmp_path / "run", data=data)
    history = read_history(tmp_path / "run")
    assert [record["asked"] for record in history if record["kind"] == "step"] == pytest.approx([2 / 3] * 4)
    assert run.finished


def test_the_estimator_takes_rows_of_either_kind_and_gives_back_their_form(kind, tmp_path):
    rows = examples(kind, 20).flatten(1).double().numpy() if kind == "vectors" else examples(kind, 20)[:, 0].numpy()
    inverter = MechanismInverter(2, steps=3, settings=TINY, kind=kind).fit(1 - rows, canonical=rows)
    assert inverter.image_shape_ == ((7,) if kind == "vectors" else (1, 12))
    restored = inverter.transform(1 - rows)
    assert (restored.shape, restored.dtype) == (rows.shape, rows.dtype)
    assert inverter.decision_function(rows).shape == (20, 2)
    assert np.array_equal(inverter.predict(rows), inverter.decision_function(rows).argmax(axis=1))
    assert inverter.apply(rows, mechanism=0).shape == rows.shape
    inverter.save(tmp_path / "saved")
    again = MechanismInverter.load(tmp_path / "saved")
    assert again.kind == kind
    assert np.array_equal(again.transform(1 - rows), restored)
    assert again.partial_fit(1 - rows, canonical=rows).n_iter_ == 6
    with pytest.raises(ValueError, match="features"):
        inverter.transform(rows[:, 1:])
    for method in (inverter.predict_proba, inverter.abstain):
        with pytest.raises(ValueError, match=rf"^kind: confidence and abstention are for images, got '{kind}'$"):
            method(rows)


def test_rows_are_what_the_estimator_is_told_they_are():
    """Nine numbers may be an image, a signal or a vector."""
    rows = np.random.default_rng(0).random((8, 9))
    shapes = {}
    for kind in ("images", "signals", "vectors"):
        changes = TINY | {"discriminator.widths": [2]}
        shapes[kind] = MechanismInverter(2, steps=1, settings=changes, kind=kind).fit(rows, canonical=rows).image_shape_
    assert shapes == {"images": (1, 3, 3), "signals": (1, 9), "vectors": (9,)}


def test_what_the_estimator_cannot_read_is_refused():
    rows = np.random.default_rng(0).random((8, 7))
    with pytest.raises(ValueError, match="unknown kind 'vector': did you mean 'vectors'"):
        MechanismInverter(2, kind="vector").fit(rows, canonical=rows)
    with pytest.raises(ValueError, match=r"give images that are not as .* and vectors with kind='vectors'"):
        MechanismInverter(2).fit(rows, canonical=rows)
    with pytest.raises(TypeError, match="canonical: expected an array, tensor or data set of vectors, got str"):
        MechanismInverter(2, kind="vectors").fit(rows, canonical="clean/")
    with pytest.raises(TypeError, match=r"X: expected floating-point values in \[0, 1\], got dtype torch.int64"):
        MechanismInverter(2, kind="vectors").fit((9 * rows).astype(int), canonical=rows)
    with pytest.raises(ValueError, match=r"X: expected a non-empty batch \[n, d\], got shape \(2, 2, 2\)"):
        MechanismInverter(2, kind="vectors").fit(rows[:1, :4].reshape(1, 2, 2).repeat(2, 0), canonical=rows)
    with pytest.raises(ValueError, match=r"canonical: expected vectors like those of X, 7, got 6"):
        MechanismInverter(2, kind="vectors").fit(rows, canonical=rows[:, 1:])


@pytest.mark.parametrize(
    ("canonical", "transformed", "message"),
    [
        (torch.rand(9, 7), torch.rand(9, 6), r"transformed: expected the shape of canonical, \(7,\), got \(6,\)"),
        (torch.rand(9, 7), torch.rand(9, 1, 7), r"transformed: expected the shape of canonical, \(7,\), got \(1, 7\)"),
        (torch.rand(9, 7), 2 + torch.rand(9, 7), r"transformed: expected finite values in \[0, 1\]"),
        (torch.rand(9), torch.rand(9), r"canonical: expected a non-empty batch \[n, d\] or \[n, c, t\] or \[n, c, h,"),
        (torch.rand(5, 7), torch.rand(9, 7), "canonical: 5 vectors are fewer than training.batch_size, 8"),
        (torch.full((9, 7), 0.3), torch.rand(9, 7), "canonical: every vector is the same"),
        (torch.rand(9, 1, 12), torch.rand(9, 1, 1).expand(9, 1, 12), "transformed: every signal is constant"),
        (torch.rand(9, 1, 3), torch.rand(9, 1, 3), "image_size: 2 poolings need at least 4 steps, got 3"),
    ],
)
def test_heaps_that_cannot_be_trained_on_are_refused(config, tmp_path, canonical, transformed, message):
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run", data=TrainingData(canonical, transformed))


def test_examples_of_another_kind_or_shape_are_refused(kind, config):
    shape = SHAPES[kind]
    run = build_run(config, channels=shape[0], image_size=12, dims=len(shape) - 1)
    layout = {"signals": r"\[n, c, t\]", "vectors": r"\[n, d\]"}[kind]
    for use in (lambda x: restore_images(run, x), lambda x: route_images(run, x), lambda x: run.apply(x, mechanism=0)):
        with pytest.raises(ValueError, match=rf"images: expected a non-empty batch {layout}, got shape \(2, 1, 8, 8\)"):
            use(torch.rand(2, 1, 8, 8))
        what = "coordinate" if kind == "vectors" else "channel"
        with pytest.raises(ValueError, match=rf"images: expected {shape[0]} {what}\(s\), got 5"):
            use(torch.rand(2, 5, *shape[1:]))
    with pytest.raises(ValueError, match="images: the discriminator takes 12 steps, got 13"):
        Discriminator(image_size=12, dims=1)(torch.rand(2, 1, 13))


def test_vectors_have_no_axis():
    for settings in ({"coordinates": True}, {"dilations": (1, 1, 1, 1, 1)}):
        with pytest.raises(ValueError, match="coordinates, dilations: they are along an axis, and vectors have none"):
            Expert(channels=7, dims=0, **settings)


def test_what_is_for_images_alone_says_so(kind, data, config, tmp_path):
    (tmp_path / "clean").mkdir()
    train(config, tmp_path / "run", data=data)
    message = f"is a run of {kind}: this is for images, use restore_images on {kind}"
    for use in (
        licm.evaluate,
        licm.describe,
        lambda run: restore_files(run, tmp_path / "clean", tmp_path / "restored"),
        lambda run: export_model(run, tmp_path / "model"),
    ):
        with pytest.raises(ValueError, match=message):
            use(tmp_path / "run")
    with pytest.raises(
        ValueError, match=f"is a run of {kind}: a report is of images; the figures are in history.jsonl"
    ):
        write_report(tmp_path / "run")
    with pytest.raises(ValueError, match=r"restored: expected a non-empty batch \[n, c, h, w\], got shape"):
        ssim(data.canonical, data.canonical)


def test_an_architecture_of_ones_own_is_told_the_dims_of_signals_and_vectors(kind, config, monkeypatch):
    given = []

    def make(*, channels, width, dims=2, **settings):
        given.append(dims)
        return convolution(dims, channels, channels) if dims != 2 else nn.Conv2d(channels, channels, 1)

    monkeypatch.setitem(EXPERTS, "own", lambda **settings: nn.Sequential(make(**settings), nn.Sigmoid()))
    config = config.model_copy(update={"experts": config.experts.model_copy(update={"architecture": "own"})})
    shape = SHAPES[kind]
    run = build_run(config, channels=shape[0], image_size=12, dims=len(shape) - 1)
    assert set(given) == {len(shape) - 1}
    assert isinstance(run.experts, ExpertBank)
    assert run.experts.restore(examples(kind, 3), torch.tensor([0, 1, 2])).shape == (3, *shape)


def test_check_images_knows_each_kind():
    for dims, shape in enumerate([(3, 4), (3, 4, 5), (3, 4, 5, 6)]):
        check_images(torch.rand(shape), "x", dims=dims)
        check_images(torch.rand(shape), "x", dims=None)
        with pytest.raises(ValueError, match="x: expected a non-empty batch"):
            check_images(torch.rand(shape), "x", dims=(dims + 1) % 3)


def test_psnr_of_signals_and_vectors_is_over_all_their_numbers(kind):
    x = examples(kind, 3)
    torch.testing.assert_close(psnr(x + 0.1, x), torch.full((3,), 20.0), atol=1e-3, rtol=0)

"""TensorBoard's events, read back from the files, and what watching may not do."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from licm import checkpoint as files
from licm.config import make_config
from licm.datasets import TrainingData
from licm.run import build_run
from licm.tensorboard import FOLDER, TensorBoard, choose_samples, heat_map, sample_grid
from licm.training import train
from tests.problems import bars
from tests.test_training import SMALL, assert_same_bits, small_config, small_data, stop_at


def events_of(run) -> EventAccumulator:
    events = EventAccumulator(str(run / FOLDER), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return events.Reload()


def watched_run(folder, **arguments):
    with TensorBoard(folder) as board:
        return train(small_config(), folder, watchers=[board.watch], **arguments)


def picture(event) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_scalars_are_those_of_the_history(tmp_path):
    watched_run(tmp_path / "run", data=small_data())
    events, history = events_of(tmp_path / "run"), files.read_history(tmp_path / "run")
    steps = [record for record in history if record["kind"] == "step"]
    expected = {
        "loss/discriminator": [r["discriminator_loss"] for r in steps],
        "loss/expert": [r["expert_loss"] for r in steps],
        "loss/cycle": [r["cycle_error"] for r in steps],
        "score/canonical": [r["real_score"] for r in steps],
        "score/winning": [r["winning_score"] for r in steps],
        "health/margin": [r["margin"] for r in steps],
        "health/healthy_steps": [r["healthy_steps"] for r in steps],
        "learning_rate": [1e-3 * r["learning_rate_factor"] for r in steps],
        **{f"win_share/expert_{j}": [r["win_share"][j] for r in steps] for j in range(3)},
    }
    for tag, values in expected.items():
        found = events.Scalars(tag)
        assert [event.step for event in found] == list(range(1, 9)), tag
        assert [event.value for event in found] == pytest.approx(values, rel=1e-5), tag
    validations = [record for record in history if record["kind"] == "validation"]
    for tag, key in (("validation/matched_share", "matched_share"), ("validation/psnr_db", "psnr")):
        found = {event.step: event.value for event in events.Scalars(tag)}
        assert found == pytest.approx({r["step"]: r[key] for r in validations}, rel=1e-5)
    (identity,) = [record for record in history if record["kind"] == "identity"]
    errors = [events.Scalars(f"identity_error/expert_{j}")[0].value for j in range(3)]
    assert errors == pytest.approx(identity["errors"], rel=1e-5)
    revivals = [r for r in history if r["kind"] == "revival"]
    assert len(events.Tensors("revival/text_summary")) == len(revivals) > 0
    (mechanisms,) = events.Tensors("mechanisms/text_summary")
    assert "`invert`" in mechanisms.tensor_proto.string_val[0].decode()


def test_images_are_the_winner_matrix_and_the_samples(tmp_path):
    run = watched_run(tmp_path / "run", data=small_data())
    events, history = events_of(tmp_path / "run"), files.read_history(tmp_path / "run")
    last = [record for record in history if record["kind"] == "validation"][-1]
    winners = events.Images("winners/mechanism by expert")
    assert [event.step for event in winners] == [4, 8]
    share = torch.tensor(last["winner_matrix"])
    red = torch.from_numpy(picture(winners[-1])[12::24, 12::24, 0].copy())
    assert torch.allclose(red / 255.0, 1 - 0.97 * share, atol=0.01)
    samples = events.Images("samples/input, experts, original")
    assert [event.step for event in samples] == [4, 8]
    drawn = sample_grid(run, *choose_samples(small_data()))
    assert picture(samples[-1]).shape == (2 * 20, 5 * 20, 3)
    assert np.allclose(picture(samples[-1]) / 255.0, drawn.permute(1, 2, 0).numpy(), atol=0.01)


def test_a_sample_grid_shows_input_outputs_winner_and_original():
    run = build_run(make_config(overrides=SMALL), channels=1, image_size=12)
    images, originals = choose_samples(small_data())
    tiles = sample_grid(run, images, originals).unfold(1, 20, 20).unfold(2, 20, 20)  # [3, rows, columns, 20, 20]
    inner = tiles[..., 4:-4, 4:-4]
    logits = torch.stack([run.discriminator(expert(images)) for expert in run.experts])
    for row, winner in enumerate(logits.argmax(dim=0).tolist()):
        assert torch.equal(inner[:, row, 0], images[row].expand(3, -1, -1))
        assert torch.equal(inner[:, row, -1], originals[row].expand(3, -1, -1))
        output = run.experts[winner](images)[row].detach()
        assert torch.allclose(inner[:, row, 1 + winner], output.expand(3, -1, -1), atol=1e-6)
        orange = (tiles[:, row, :, 3, 3] == torch.tensor([0.90, 0.62, 0.0])[:, None]).all(dim=0)
        assert orange.nonzero().flatten().tolist() == [1 + winner]


def test_samples_are_one_of_each_mechanism_or_the_first_where_none_is_known():
    data = small_data()
    images, originals = choose_samples(data)
    assert torch.equal(images[0], 1 - originals[0])
    assert torch.equal(images[1, :, :, 2:], originals[1, :, :, :-2])
    own = TrainingData(data.canonical, data.transformed)
    images, nothing = choose_samples(own)
    assert nothing is None
    assert torch.equal(images, data.transformed[:8])


def test_images_of_ones_own_are_watched_without_originals(tmp_path):
    own = TrainingData(bars(40), small_data().transformed)
    watched_run(tmp_path / "run", data=own)
    events = events_of(tmp_path / "run")
    assert events.Tags()["images"] == ["samples/input, experts, original"]
    assert picture(events.Images("samples/input, experts, original")[0]).shape == (8 * 20, 4 * 20, 3)


def test_colours_are_drawn_as_they_are():
    config = make_config(overrides=SMALL)
    run = build_run(config, channels=3, image_size=12)
    images = bars(2).repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    assert torch.equal(sample_grid(run, images, None)[:, 4:16, 4:16], images[0])


def test_no_share_is_white_and_the_whole_is_dark():
    drawn = heat_map([[1.0, 0.0]], cell=2)
    assert drawn.shape == (3, 2, 4)
    assert (drawn[:, :, 2:] == 1).all()
    assert drawn[:, :, :2].mean() < 0.3


def test_watching_changes_no_bit(tmp_path):
    train(small_config(), tmp_path / "alone", data=small_data())
    watched_run(tmp_path / "watched", data=small_data())
    assert_same_bits(tmp_path / "alone", tmp_path / "watched")


def test_a_resumed_run_goes_on_in_the_same_events(tmp_path):
    """Steps done again, after a kill between saves, are there once."""
    watched_run(tmp_path / "run", data=small_data(), callbacks=[stop_at(5)])

    def die(record):
        if record["step"] == 8:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        watched_run(tmp_path / "run", data=small_data(), resume=True, callbacks=[die])
    watched_run(tmp_path / "run", data=small_data(), resume=True)
    assert [event.step for event in events_of(tmp_path / "run").Scalars("loss/expert")] == list(range(1, 9))


def test_the_command_writes_events_and_names_the_extra_where_it_is_missing(tmp_path, bars_file):
    words = ["train", "--out", str(tmp_path / "run"), "--quiet", "--tensorboard"]
    for key, value in {**SMALL, "data.source": str(bars_file), "revival.enabled": False}.items():
        words += ["--set", f"{key}={value}"]

    def licm(before: str = "pass") -> subprocess.CompletedProcess[str]:
        script = f"import sys; {before}; sys.argv[1:] = {words!r}; from licm.cli import main; main()"
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240)

    done = licm("sys.modules['tensorboard'] = None")
    message = "licm: error: TensorBoard is not installed; get it with: pip install 'licm[tensorboard]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
    assert not (tmp_path / "run").exists()
    done = licm()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(events_of(tmp_path / "run").Scalars("loss/expert")) == 8

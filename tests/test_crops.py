"""Training on crops of images of any sizes: drawn by seed and step alone, within bounds of memory."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from licm import crops
from licm.config import make_config
from licm.crops import Heap
from licm.datasets import load_training_data
from licm.describing import load_for_description
from licm.evaluation import evaluate
from licm.restoring import restore_files
from licm.saving import load_run
from licm.seeding import generator
from licm.sources import load_images
from licm.training import train
from licm.usable import NAMED
from tests.commands import licm, refused
from tests.conftest import SMALL_RUN

SIDES = [(12, 12), (30, 17), (5, 40), (9, 9)]


def heap_of(folder: Path, *, seed: int = 0, dtype: type = np.uint8, shape: tuple[int, ...] = ()) -> Path:
    """Noise of four sizes, so that every crop tells where it is from."""
    draws = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index, side in enumerate(SIDES):
        array = draws.integers(1, np.iinfo(dtype).max, (*side, *shape)).astype(dtype)
        Image.fromarray(array).save(folder / f"{index}.png")
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(("dtype", "shape"), [(np.uint8, ()), (np.uint16, ()), (np.uint8, (3,))])
def test_a_crop_is_a_part_of_its_image_at_every_place(tmp_path, dtype, shape):
    folder = heap_of(tmp_path / "in", dtype=dtype, shape=shape)
    heap = Heap(folder, size=12)
    assert (len(heap), heap.channels) == (4, 3 if shape else 1)
    image = pixels(folder / "1.png").reshape(30, 17, -1).transpose(2, 0, 1) / np.iinfo(dtype).max
    draws, found = generator(0, "crops"), set()
    for crop in heap.crops(torch.full((800,), 1), draws).numpy():
        places = np.argwhere(np.isclose(image[0, :19, :6], crop[0, 0, 0], atol=1e-6))
        matching = [(y, x) for y, x in places if np.allclose(image[:, y : y + 12, x : x + 12], crop, atol=1e-6)]
        assert len(matching) == 1
        found.add(matching[0])
    assert len(found) == 19 * 6, "every place, the last ones included"
    small = heap.crops(torch.tensor([3]), draws)[0].numpy()
    assert np.allclose(
        small[:, 1:10, 1:10] * np.iinfo(dtype).max, pixels(folder / "3.png").reshape(9, 9, -1).transpose(2, 0, 1)
    )
    assert small.sum() == pytest.approx(small[:, 1:10, 1:10].sum()), "black around, as data.image_size pads"
    assert np.all(heap.crops(torch.tensor([2]), draws)[0, :, 3:8].numpy() > 0)


def test_each_pass_takes_every_image_once_whatever_the_batch(tmp_path):
    heap = Heap(heap_of(tmp_path / "in"), size=8)
    seen = []
    heap.crops = lambda indices, draws: seen.append(indices)  # type: ignore[method-assign, assignment]
    for step in range(6):
        heap.batch(step, 6, seed=3, purpose="canonical crops")
    passes = torch.cat(seen).reshape(9, 4)
    assert all(sorted(each) == [0, 1, 2, 3] for each in passes.tolist())
    assert len({tuple(each) for each in passes.tolist()}) > 2


def test_a_batch_depends_on_seed_purpose_and_step_alone_also_beyond_the_room(tmp_path):
    folder = heap_of(tmp_path / "in")
    whole, none = Heap(folder, size=8), Heap(folder, size=8, room=0)
    some = Heap(folder, size=8, room=200)
    assert [len(heap._kept) for heap in (whole, none, some)] == [4, 0, 0]
    first = whole.batch(5, 6, seed=1, purpose="p")
    whole.batch(6, 6, seed=1, purpose="p")
    for heap in (whole, none, some):
        assert torch.equal(heap.batch(5, 6, seed=1, purpose="p"), first)
    assert sum(kept.nbytes for kept in some._kept.values()) <= 200
    assert some._kept
    for other in ({"seed": 2}, {"purpose": "q"}):
        assert not torch.equal(whole.batch(5, 6, **{"seed": 1, "purpose": "p", **other}), first)


def test_a_sample_is_always_the_same_and_bounded(tmp_path, monkeypatch):
    heap = Heap(heap_of(tmp_path / "in"), size=8)
    assert torch.equal(heap.sample(purpose="p"), heap.sample(purpose="p"))
    assert heap.sample(purpose="p").shape == (crops.SAMPLE, 1, 8, 8)
    monkeypatch.setattr(crops, "SAMPLE_BYTES", 10 * 4 * 64)
    assert len(heap.sample(purpose="p")) == 10


def test_other_sources_are_heaps_too(bars_file):
    heap = Heap(bars_file, size=8)
    assert (len(heap), heap.channels) == (200, 1)
    assert heap.batch(0, 4, seed=0, purpose="p").shape == (4, 1, 8, 8)


def own(tmp_path: Path, **changes: object) -> dict[str, object]:
    paths = {"data.canonical": heap_of(tmp_path / "clean"), "data.transformed": heap_of(tmp_path / "dirty", seed=1)}
    return {**SMALL_RUN, **{key: str(path) for key, path in paths.items()}, "data.crop_size": 12, **changes}


def test_training_on_crops_and_a_resumed_run_has_the_same_bits(tmp_path):
    settings = own(tmp_path)
    whole = train(make_config(overrides=settings), tmp_path / "whole")
    assert (whole.discriminator.image_size, whole.finished) == (12, True)
    config = make_config(overrides={**settings, "training.save_every": 2})

    def stop(record: dict[str, object]) -> None:
        if (record["kind"], record["step"]) == ("step", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "part", callbacks=[stop])
    assert load_run(tmp_path / "part").step == 2
    resumed = train(config, tmp_path / "part", resume=True)
    for one, other in zip(whole.experts.parameters(), resumed.experts.parameters(), strict=True):
        assert torch.equal(one, other)


def test_on_the_command_line_and_then_evaluated_described_and_restored(tmp_path):
    settings = own(tmp_path)
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    done = licm("train", "--out", tmp_path / "run", *sets, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    record = evaluate(tmp_path / "run")
    assert (record["num_images"], record["split"]) == (crops.SAMPLE, "transformed")
    _, images = load_for_description(tmp_path / "run", images=tmp_path / "dirty")
    assert images.shape == (crops.SAMPLE, 1, 12, 12)
    assert restore_files(tmp_path / "run", tmp_path / "dirty", tmp_path / "out")["images"] == 4
    for index, side in enumerate(SIDES):
        assert pixels(tmp_path / "out" / f"{index}.png").shape == side


def cut(path: Path) -> None:
    """Leaves the header whole, so that only decoding tells."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 40])


@pytest.mark.parametrize("room", [crops.ROOM, 0])
def test_a_bad_image_or_link_is_named_and_the_others_are_trained_on(tmp_path, caplog, room):
    folder = heap_of(tmp_path / "in", shape=(3,))
    cut(folder / "1.png")
    (folder / "far.png").symlink_to(heap_of(tmp_path / "elsewhere") / "0.png")
    (folder / "note.png").write_text("no image")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folder / "deep.png")
    for name in ("4.png", "5.png"):
        (folder / name).write_bytes((folder / "0.png").read_bytes())
    heap = Heap(folder, size=8, room=room)
    first = heap.batch(0, 100, seed=0, purpose="p")
    for name, reason in {
        "far.png": "it is a link out of the folder, which is not followed",
        "note.png": "cannot be read: not an image, or damaged at its start",
        "1.png": "cannot be read: damaged",
        "deep.png": "expected 8-bit, as in colour 16-bit cannot be written, got 16-bit grey",
    }.items():
        lines = [each for each in caplog.messages if each.startswith("warning: left out of training: ")]
        (line,) = (each for each in lines if f"{folder / name}: {reason}" in each)
        assert "\n" not in line
    again = Heap(folder, size=8, room=room)
    again.sample(purpose="p")
    assert torch.equal(again.batch(0, 100, seed=0, purpose="p"), first)
    assert bool((first.flatten(1).amax(dim=1) > 0).all()), "no black crop in the place of a bad image"


def test_an_image_that_is_gone_while_training_gives_its_turns_to_the_next(tmp_path, caplog):
    folder = heap_of(tmp_path / "in")
    heap = Heap(folder, size=40, room=0)
    second = heap.crops(torch.tensor([1]), generator(0, "places"))
    (folder / "0.png").unlink()
    for _ in range(2):
        assert torch.equal(heap.crops(torch.tensor([0]), generator(0, "places")), second)
    assert len(caplog.messages) == 1
    (folder / "3.png").unlink()
    assert torch.equal(heap.crops(torch.tensor([3]), generator(0, "places")), second), "after the last comes the first"
    (folder / "1.png").unlink()
    with pytest.raises(ValueError, match=r"in: 3 of 4 images cannot be used, .* the last: .*1.png: cannot be read"):
        heap.crops(torch.tensor([0]), generator(0, "places"))


def test_where_most_are_bad_nothing_is_trained_on(tmp_path, caplog):
    folder = heap_of(tmp_path / "in")
    for index in range(4, 40):
        (folder / f"{index}.png").write_bytes((folder / "0.png").read_bytes())
    for index in range(20):
        cut(folder / f"{index}.png")
    assert len(Heap(folder, size=8)) == 20
    assert len(load_images(folder, usable_only=True)) == 20
    assert len(caplog.messages) == 2 * (NAMED + 1)
    assert caplog.messages[NAMED] == (
        f"warning: 20 of the 40 images of {str(folder)!r} are left out of training, not all of them named"
    )
    cut(folder / "20.png")
    for read in (lambda: Heap(folder, size=8), lambda: load_images(folder, usable_only=True)):
        with pytest.raises(
            ValueError, match=r"in: 21 of 40 images cannot be used, which is more than half; the last: "
        ):
            read()


def test_what_is_refused(tmp_path):
    given = {"mechanisms": "paper", "seed": 0, "source": "embedded"}
    with pytest.raises(ValueError, match=r"data.crop_size: crops are of images of one's own, data.canonical and data"):
        load_training_data(**given, crop_size=8)
    grey, colour = heap_of(tmp_path / "grey"), heap_of(tmp_path / "colour", shape=(3,))
    paths = {"canonical": str(grey), "transformed": str(colour)}
    message = "data.transformed: expected images like those of data.canonical, grey, got colour; .* data.channels=1$"
    with pytest.raises(ValueError, match=message):
        load_training_data(**given, **paths, crop_size=8)
    assert load_training_data(**given, **paths, crop_size=8, channels=1).transformed.shape[1] == 1
    other = heap_of(tmp_path / "other")
    line = refused("train", "--out", tmp_path / "run", "--canonical", colour, "--transformed", other)
    assert "and 17x30 in" in line
    assert line.endswith("two folders of any sizes are trained on by crops (data.crop_size)\n")

"""Restoring files: names, formats and sizes stay, winners are recorded, nothing is overwritten or half done."""

import csv
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from licm import checkpoint as files
from licm import restoring
from licm.config import make_config
from licm.datasets import TrainingData
from licm.restoring import ASSIGNMENTS, restore_files
from licm.run import load_run, restore_images
from licm.training import train
from tests.commands import licm, refused
from tests.conftest import SMALL_RUN
from tests.problems import bars

NAMES = ["a.png", "b/c.jpg", "b/d/e.BMP", "f.tif", "g.webp", "h.jpeg", "i.tiff"]


@pytest.fixture
def damaged(tmp_path) -> Path:
    """Seven 12x12 images of several kinds in folders, and things that are no images."""
    images = (bars(len(NAMES)) * 255).to(torch.uint8).numpy()[:, 0]
    for name, image in zip(NAMES, images):
        path = tmp_path / "damaged" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, **({"lossless": True} if name.endswith("webp") else {}))
    (tmp_path / "damaged" / "notes.txt").write_text("not an image")
    return tmp_path / "damaged"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        array = np.asarray(image)
    return array[..., 0] if path.suffix == ".webp" else array  # WebP knows no grey


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("batch_size", [2, 256])
def test_a_folder(small_run, damaged, tmp_path, batch_size):
    before = {name: (damaged / name).read_bytes() for name in tree(damaged)}
    told: list[tuple[int, int]] = []
    record = restore_files(
        small_run, damaged, tmp_path / "out", batch_size=batch_size, callback=lambda *done: told.append(done)
    )
    assert tree(tmp_path / "out") == sorted([*NAMES, ASSIGNMENTS])
    assert {name: (damaged / name).read_bytes() for name in tree(damaged)} == before
    run = load_run(small_run)
    inputs = torch.stack([torch.from_numpy(pixels(damaged / name).copy())[None] for name in sorted(NAMES)]) / 255
    scores, winners, restored = restore_images(run, inputs)
    with (tmp_path / "out" / ASSIGNMENTS).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(NAMES)
    assert [int(row["expert"]) for row in rows] == winners.tolist()
    assert [float(row["score"]) for row in rows] == pytest.approx(scores.amax(dim=0).tolist(), abs=1e-5)
    for name, image in zip(sorted(NAMES), restored[:, 0].numpy() * 255):
        loss = 1 if Path(name).suffix in (".png", ".BMP", ".tif", ".tiff", ".webp") else 16  # JPEG loses some
        assert np.abs(pixels(tmp_path / "out" / name).astype(float) - image).max() <= loss, name
        with Image.open(tmp_path / "out" / name) as new, Image.open(damaged / name) as old:
            assert new.format == old.format
    assert record["images"] == sum(record["wins"]) == len(NAMES)
    assert record["mean_score"] == pytest.approx(scores.amax(dim=0).mean().item(), abs=1e-5)
    assert told[-1] == (7, 7)
    assert len(told) == (4 if batch_size == 2 else 1)


def test_one_file_on_the_command_line(small_run, damaged, tmp_path):
    done = licm("restore", small_run, damaged / "b" / "c.jpg", tmp_path / "new" / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "restored 1 image(s), mean score 0." in done.stdout
    assert tree(tmp_path / "new" / "out") == [ASSIGNMENTS, "c.jpg"]
    done = licm("restore", small_run, damaged, tmp_path / "second", "--json")
    assert json.loads(done.stdout)["images"] == len(NAMES)
    assert licm("restore", small_run, damaged, tmp_path / "third", "--quiet").stdout == ""
    (tmp_path / "empty").mkdir()
    assert licm("restore", small_run, damaged, tmp_path / "empty", "-q").returncode == 0
    assert tree(tmp_path / "empty") == sorted([*NAMES, ASSIGNMENTS])


def small_trained(folder: Path, channels: int, size: int, **overrides: object) -> Path:
    images = torch.rand(16, channels, size, size, generator=torch.Generator().manual_seed(0))
    config = make_config(overrides={**SMALL_RUN, "steps": 1, **overrides})
    train(config, folder, data=TrainingData(images, images))
    return folder


def test_images_are_padded_as_in_training_and_keep_their_own_sizes(tmp_path):
    run = small_trained(tmp_path / "run", 1, 16, **{"data.image_size": 16})
    image = (bars(1) * 255).to(torch.uint8).numpy()[0, 0]
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "12.png")
    Image.fromarray(image[:9]).save(tmp_path / "in" / "9.png")
    restore_files(run, tmp_path / "in", tmp_path / "out")
    assert (pixels(tmp_path / "out" / "12.png").shape, pixels(tmp_path / "out" / "9.png").shape) == ((12, 12), (9, 12))
    padded = torch.nn.functional.pad(torch.from_numpy(image)[None, None] / 255, (2, 2, 2, 2))
    expected = restore_images(load_run(run), padded)[2][0, 0, 2:14, 2:14].numpy() * 255
    assert np.abs(pixels(tmp_path / "out" / "12.png") - expected).max() <= 1
    Image.fromarray(np.zeros((17, 16), np.uint8)).save(tmp_path / "in" / "large.png")
    with pytest.raises(ValueError, match=r"large.png: expected at most 16x16 px, as the run was trained on, got 16x17"):
        restore_files(run, tmp_path / "in", tmp_path / "again")


def test_colour(tmp_path, small_run):
    colour = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(colour).save(tmp_path / "in" / "colour.png")
    Image.fromarray(colour[..., 0]).save(tmp_path / "in" / "grey.png")
    run = small_trained(tmp_path / "in colour", 3, 12)
    restore_files(run, tmp_path / "in", tmp_path / "out")
    assert pixels(tmp_path / "out" / "colour.png").shape == pixels(tmp_path / "out" / "grey.png").shape == (12, 12, 3)
    with pytest.raises(ValueError, match=r"colour.png: expected a grey image, as the run was trained on, got colour"):
        restore_files(small_run, tmp_path / "in", tmp_path / "again")
    asked = small_trained(tmp_path / "asked", 1, 12, **{"data.channels": 1})
    restore_files(asked, tmp_path / "in", tmp_path / "grey")
    assert pixels(tmp_path / "grey" / "colour.png").shape == (12, 12)


def test_an_unfinished_run_is_named(small_run, damaged, tmp_path):
    text = (small_run / files.CONFIG).read_text()
    (small_run / files.CONFIG).write_text(text.replace("steps: 4", "steps: 9"))
    done = licm("restore", small_run, damaged, tmp_path / "out")
    assert done.returncode == 0
    assert "licm: warning: run '" in done.stderr
    assert done.stderr.endswith("is unfinished: it stopped at step 4\n")


def test_what_is_refused_leaves_everything_as_it_was(small_run, damaged, tmp_path):
    before = tree(tmp_path)
    missing = damaged / "absent"
    assert "absent: cannot be read: no such file" in refused("restore", small_run, missing, tmp_path / "out")
    assert "notes.txt: expected a folder of images, or an image named .jpg" in refused(
        "restore", small_run, damaged / "notes.txt", tmp_path / "out"
    )
    (tmp_path / "none").mkdir()
    assert "got a folder with none" in refused("restore", small_run, tmp_path / "none", tmp_path / "out")
    for within in (damaged, damaged / "out", damaged / "b" / ".." / "out"):
        line = refused("restore", small_run, damaged, within)
        assert "choose a folder outside of the images to restore" in line
    line = refused("restore", small_run, damaged / "a.png", damaged)
    assert "is not empty: choose a new or empty one, nothing is overwritten" in line
    assert "is a file: restored images go to" in refused("restore", small_run, damaged, damaged / "a.png")
    assert tree(tmp_path) == before


def test_an_image_that_cannot_be_restored_is_named_before_anything_is_written(small_run, damaged, tmp_path):
    Image.fromarray(np.zeros((12, 11), np.uint8)).save(damaged / "z.png")
    line = refused("restore", small_run, damaged, tmp_path / "out")
    assert "z.png: expected 12x12 px, as the run was trained on, got 11x12" in line
    whole = (damaged / "a.png").read_bytes()
    (damaged / "z.png").write_bytes(whole[: len(whole) // 2])
    assert "z.png: cannot be read: damaged" in refused("restore", small_run, damaged, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"damaged", "run"}


def test_no_space_left_leaves_nothing_half_done(small_run, damaged, tmp_path, monkeypatch):
    real, written = Path.write_bytes, []

    def write_bytes(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(restoring.Path, "write_bytes", write_bytes)
    line = refused("restore", small_run, damaged, tmp_path / "out")
    assert "cannot be written: no space left on device; nothing is kept of what was restored" in line
    assert {path.name for path in tmp_path.iterdir()} == {"damaged", "run"}
    monkeypatch.undo()
    assert licm("restore", small_run, damaged, tmp_path / "out").returncode == 0

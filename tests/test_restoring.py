"""Restoring files: names, formats, sizes and depths stay, winners are recorded, nothing is overwritten or half done."""

import csv
import errno
import json
import os
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image

from licm import assignments, restoring
from licm import checkpoint as files
from licm.assignments import ASSIGNMENTS, RESTORING, SKIPPED, UNFINISHED
from licm.config import make_config
from licm.datasets import TrainingData
from licm.full_size import restore_full_size
from licm.restoring import restore_files
from licm.run import restore_images
from licm.saving import load_run
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


def assigned(folder: Path) -> list[dict[str, str]]:
    with (folder / ASSIGNMENTS).open(newline="") as file:
        return list(csv.DictReader(file))


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("shard", [2, 128])
def test_a_folder(small_run, damaged, tmp_path, shard, monkeypatch):
    monkeypatch.setattr(restoring, "SHARD_IMAGES", shard)
    before = {name: (damaged / name).read_bytes() for name in tree(damaged)}
    told: list[tuple[int, int]] = []
    record = restore_files(small_run, damaged, tmp_path / "out", keep="none", callback=lambda *done: told.append(done))
    assert tree(tmp_path / "out") == sorted([*NAMES, ASSIGNMENTS, RESTORING])
    assert {name: (damaged / name).read_bytes() for name in tree(damaged)} == before
    run = load_run(small_run)
    inputs = torch.stack([torch.from_numpy(pixels(damaged / name).copy())[None] for name in sorted(NAMES)]) / 255
    scores, winners, restored = restore_images(run, inputs)
    best = scores.topk(2, dim=0).values
    rows = assigned(tmp_path / "out")
    assert [row["path"] for row in rows] == sorted(NAMES)
    assert [int(row["expert"]) for row in rows] == winners.tolist()
    assert [float(row["score"]) for row in rows] == pytest.approx(best[0].tolist(), abs=1e-5)
    assert [float(row["margin"]) for row in rows] == pytest.approx((best[0] - best[1]).tolist(), abs=1e-5)
    for name, image in zip(sorted(NAMES), restored[:, 0].numpy() * 255):
        loss = 1 if Path(name).suffix in (".png", ".BMP", ".tif", ".tiff", ".webp") else 16  # JPEG loses some
        assert np.abs(pixels(tmp_path / "out" / name).astype(float) - image).max() <= loss, name
        with Image.open(tmp_path / "out" / name) as new, Image.open(damaged / name) as old:
            assert new.format == old.format
    assert record["images"] == sum(record["wins"]) == len(NAMES)
    assert record["skipped"] == 0
    assert record["mean_score"] == pytest.approx(best[0].mean().item(), abs=1e-5)
    assert told == ([(2, 7), (4, 7), (6, 7), (7, 7)] if shard == 2 else [(7, 7)])


def test_one_file_on_the_command_line(small_run, damaged, tmp_path):
    done = licm("restore", small_run, damaged / "b" / "c.jpg", tmp_path / "new" / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "restored 1 image(s), mean score 0." in done.stdout
    assert tree(tmp_path / "new" / "out") == [ASSIGNMENTS, "c.jpg", RESTORING]
    for name in ("b/film.GIF", "README"):
        (damaged / name).touch()
    (damaged / "odd.\x1b[2J").touch()
    done = licm("restore", small_run, damaged, tmp_path / "second", "--json")
    assert json.loads(done.stdout)["images"] == len(NAMES)
    assert json.loads(done.stdout)["passed_over"] == {".gif": 1, ".txt": 1, "": 1, ".\x1b[2j": 1}
    told = r"without a suffix 1, .\x1b[2j 1, .gif 1, .txt 1"
    assert done.stderr == f"licm: 4 other file(s) ({told}) passed over\n"
    for name in ("b/film.GIF", "README", "odd.\x1b[2J"):
        (damaged / name).unlink()
    done = licm("restore", small_run, damaged, tmp_path / "third", "--quiet")
    assert done.stdout == done.stderr == ""
    (tmp_path / "empty").mkdir()
    assert licm("restore", small_run, damaged, tmp_path / "empty", "-q").returncode == 0
    assert tree(tmp_path / "empty") == sorted([*NAMES, ASSIGNMENTS, RESTORING])


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


def test_colour(tmp_path, small_run):
    colour = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(colour).save(tmp_path / "in" / "colour.png")
    Image.fromarray(colour[..., 0]).save(tmp_path / "in" / "grey.png")
    run = small_trained(tmp_path / "in colour", 3, 12)
    Image.fromarray(np.zeros((12, 12), np.uint16)).save(tmp_path / "in" / "deep.png")
    assert restore_files(run, tmp_path / "in", tmp_path / "out", keep="none")["skipped"] == 1
    assert pixels(tmp_path / "out" / "colour.png").shape == pixels(tmp_path / "out" / "grey.png").shape == (12, 12, 3)
    assert 'deep.png,"expected 8-bit, as in colour 16-bit cannot be' in (tmp_path / "out" / SKIPPED).read_text()
    restore_files(small_run, tmp_path / "in", tmp_path / "again")
    assert (tmp_path / "again" / SKIPPED).read_text().splitlines() == [
        "path,reason",
        'colour.png,"expected a grey image, as the run was trained on, got colour"',
    ]
    drawn = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(drawn).save(tmp_path / "in" / "grey.webp", quality=80)
    assert np.ptp(np.asarray(Image.open(tmp_path / "in" / "grey.webp")), axis=2).max() > 0, "WebP rounds"
    assert restore_files(small_run, tmp_path / "in", tmp_path / "webp")["skipped"] == 1, "colour.png"
    (tmp_path / "in" / "grey.webp").unlink()
    asked = small_trained(tmp_path / "asked", 1, 12, **{"data.channels": 1})
    restore_files(asked, tmp_path / "in", tmp_path / "grey", keep="none")
    assert pixels(tmp_path / "grey" / "colour.png").shape == (12, 12)


def test_an_unfinished_run_is_named(small_run, damaged, tmp_path):
    text = (small_run / files.CONFIG).read_text()
    (small_run / files.CONFIG).write_text(text.replace("steps: 4", "steps: 9"))
    done = licm("restore", small_run, damaged / "a.png", tmp_path / "out")
    assert done.returncode == 0
    assert "licm: warning: run '" in done.stderr
    assert done.stderr.endswith("is unfinished: it stopped at step 4\n")


def test_what_is_refused_leaves_everything_as_it_was(small_run, damaged, tmp_path):
    before = tree(tmp_path)
    missing = damaged / "absent"
    assert "absent: cannot be read: no such file" in refused("restore", small_run, missing, tmp_path / "out")
    assert "notes.txt: expected a folder of images, or an image whose name ends in .png .jpg" in refused(
        "restore", small_run, damaged / "notes.txt", tmp_path / "out"
    )
    (tmp_path / "none").mkdir()
    assert "got a folder with none\n" in refused("restore", small_run, tmp_path / "none", tmp_path / "out")
    (tmp_path / "none" / "film.gif").touch()
    line = refused("restore", small_run, tmp_path / "none", tmp_path / "out")
    assert line.endswith("got a folder with none, but 1 other file(s) (.gif 1)\n")
    (tmp_path / "none" / "film.gif").unlink()
    for within in (damaged, damaged / "out", damaged / "b" / ".." / "out"):
        line = refused("restore", small_run, damaged, within)
        assert "choose a folder outside of the images to restore" in line
    line = refused("restore", small_run, damaged / "a.png", damaged)
    assert "is not empty: choose a new or empty one, nothing is overwritten" in line
    (tmp_path / "link").symlink_to(damaged)
    assert "outside of the images" in refused("restore", small_run, damaged, tmp_path / "link" / "out")
    (tmp_path / "loop").symlink_to("loop")
    assert "is a link that leads nowhere" in refused("restore", small_run, damaged / "a.png", tmp_path / "loop")
    assert "is a file: restored images go to" in refused("restore", small_run, damaged, tmp_path / "run" / files.CONFIG)
    assert tree(tmp_path) == before


def test_images_that_cannot_be_restored_are_named_and_skipped(small_run, damaged, tmp_path):
    whole = (damaged / "a.png").read_bytes()
    (damaged / "z.png").write_bytes(whole[: len(whole) // 2])
    (damaged / "b" / "gone.png").symlink_to("nowhere.png")
    (damaged / "b" / "out.png").symlink_to(tmp_path / "run" / files.CHECKPOINT)
    (damaged / "there").symlink_to(tmp_path)
    done = licm("restore", small_run, damaged, tmp_path / "out")
    assert done.returncode == 3
    assert done.stdout.startswith("restored 7 image(s), mean score 0.")
    lines = done.stderr.splitlines()
    assert lines[-1] == f"licm: 4 image(s) could not be restored: {tmp_path / 'out' / SKIPPED} says why"
    assert lines[0] == "licm: 1 other file(s) (.txt 1) passed over"
    assert [line.split("'")[1] for line in lines[1:-1]] == ["b/out.png", "there", "b/gone.png", "z.png"]
    assert "licm: warning: skipped 'b/out.png': it is a link out of the folder, which is not followed" in lines
    assert tree(tmp_path / "out") == sorted([*NAMES, ASSIGNMENTS, SKIPPED, RESTORING])
    with (tmp_path / "out" / SKIPPED).open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["path", "b/out.png", "there", "b/gone.png", "z.png"]
    assert [row["path"] for row in assigned(tmp_path / "out")] == sorted(NAMES)
    again = licm("restore", small_run, damaged, tmp_path / "out", "--resume", "--json")
    assert (again.returncode, json.loads(again.stdout)["skipped"]) == (3, 4)
    for name in NAMES:
        (damaged / name).unlink()
    done = licm("restore", small_run, damaged, tmp_path / "none", "--json")
    assert (done.returncode, json.loads(done.stdout)["images"], json.loads(done.stdout)["mean_score"]) == (3, 0, None)


def test_any_and_mixed_sizes_depths_and_turns(small_run, tmp_path):
    run, folder = load_run(small_run), tmp_path / "in"
    folder.mkdir()
    draws = np.random.default_rng(0)
    deep, small, photo = (draws.integers(0, n, s) for n, s in ((65536, (40, 31)), (256, (5, 30)), (256, (20, 33))))
    Image.fromarray(deep.astype(np.uint16)).save(folder / "deep.png")
    Image.fromarray(deep.astype(np.uint16)).save(folder / "deep.tif", compression="tiff_lzw")
    Image.fromarray(small.astype(np.uint8)).save(folder / "small.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(photo.astype(np.uint8)).save(folder / "photo.png", exif=exif)
    Image.fromarray(photo.astype(np.uint8)).save(folder / "really a png.jpg", "PNG", exif=exif)
    record = restore_files(small_run, folder, tmp_path / "out", keep="none")
    assert (record["images"], record["skipped"]) == (5, 0)
    rows = {row["path"]: row for row in assigned(tmp_path / "out")}
    seen = {"deep.png": deep / 65535, "deep.tif": deep / 65535, "small.bmp": small / 255}
    seen |= dict.fromkeys(("photo.png", "really a png.jpg"), np.rot90(photo, -1).copy() / 255)
    for name, image in seen.items():
        scores, winners, restored = restore_full_size(
            run.experts, run.discriminator, torch.from_numpy(image).float()[None, None]
        )
        assert int(rows[name]["expert"]) == int(winners[0])
        assert float(rows[name]["score"]) == pytest.approx(scores.max().item(), abs=1e-5)
        white = 65535 if name.startswith("deep") else 255
        got = pixels(tmp_path / "out" / name)
        assert np.abs(got - restored[0, 0].numpy() * white).max() <= (2 if white == 65535 else 1), name
        with Image.open(tmp_path / "out" / name) as new, Image.open(folder / name) as old:
            assert new.info.get("compression") == old.info.get("compression")
            assert (new.format, new.mode, new.getexif().get(0x0112, 1)) == (old.format, old.mode, 1)


def test_large_images_make_small_shards(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(restoring, "SHARD_PIXELS", 1000)
    held = []
    real = restoring._restore_shard
    monkeypatch.setattr(
        restoring,
        "_restore_shard",
        lambda run, held_now, *more: (held.append(list(held_now)), real(run, held_now, *more))[1],
    )
    (tmp_path / "in").mkdir()
    for name, side in {"a": 12, "b": 12, "c": 40, "d": 40, "e": 12}.items():
        Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / "in" / f"{name}.png")
    restore_files(small_run, tmp_path / "in", tmp_path / "out")
    assert held == [["a.png", "b.png", "c.png"], ["d.png"], ["e.png"]]


@pytest.mark.parametrize("parquet", [False, True])
def test_no_space_left_loses_nothing_that_was_done(small_run, damaged, tmp_path, monkeypatch, parquet):
    monkeypatch.setattr(restoring, "SHARD_IMAGES", 2)
    real, made = assignments.create, []

    def create(path: Path, *mode: str, **options: object) -> IO[bytes]:
        made.append(path)
        file = real(path, *mode, **options)
        if len(made) > 5:
            file.write(bytes(10))
            file.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return file

    monkeypatch.setattr(assignments, "create", create)
    more = ["-q", *(["--parquet"] if parquet else [])]
    line = refused("restore", small_run, damaged, tmp_path / "out", *more)
    kept = [name for name in tree(tmp_path / "out") if not name.startswith(".")]
    assert kept == sorted(NAMES)[: len(kept)]
    assert f"out/{sorted(NAMES)[len(kept)]}' cannot be written: no space left on device; what was restored" in line
    assert 2 <= len(kept) < 7
    monkeypatch.setattr(assignments, "create", real)
    assert "holds an unfinished restoring: go on with it (--resume)" in refused(
        "restore", small_run, damaged, tmp_path / "out"
    )
    assert licm("restore", small_run, damaged, tmp_path / "out", "--resume", *more).returncode == 0
    whole = licm("restore", small_run, damaged, tmp_path / "whole", *more)
    assert whole.returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in tree(folder)}


def test_an_output_that_cannot_be_written(small_run, damaged, tmp_path, monkeypatch):
    line = refused("restore", small_run, damaged, tmp_path / "run" / files.CONFIG / "out")
    assert "out/.restoring' cannot be written: not a directory" in line
    real = Path.mkdir

    def mkdir(path: Path, *arguments: object, **options: object) -> None:
        if path.name == UNFINISHED:
            raise OSError(errno.EROFS, "Read-only file system")
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    line = refused("restore", small_run, damaged, tmp_path / "out")
    assert "out/.restoring' cannot be written: read-only file system" in line
    assert {path.name for path in tmp_path.iterdir()} == {"damaged", "run"}


def test_odd_names_come_back_as_they_are(small_run, tmp_path):
    odd = ["-q.png", 'a\nb, "c".png', "ä ö.PNG", "%s.png", f"{'n' * 250}.png", os.fsdecode(b"\xff.png"), "=1+1.png"]
    (tmp_path / "in").mkdir()
    for name in odd:
        Image.fromarray(np.zeros((12, 12), np.uint8)).save(tmp_path / "in" / name, "PNG")
    (tmp_path / "in" / "a\x1b[2Jb\n.png").write_bytes(b"")
    done = licm("restore", small_run, tmp_path / "in", tmp_path / "out", "--parquet")
    assert done.returncode == 3
    assert r"licm: warning: skipped 'a\x1b[2Jb\n.png': cannot be read: not an image" in done.stderr
    assert done.stderr.count("\n") == 2
    with (tmp_path / "out" / ASSIGNMENTS).open(newline="", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == sorted(odd)
    assert set(tree(tmp_path / "out")) >= set(odd)


def test_restoring_by_the_router(small_run, damaged, tmp_path):
    done = restore_files(small_run, damaged, tmp_path / "out", routed=True)
    run = load_run(small_run)
    names = [row["path"] for row in assigned(tmp_path / "out")]
    images = torch.from_numpy(np.stack([pixels(damaged / name) for name in names])).float().div(255)[:, None]
    expected = run.router(images).argmax(dim=1)
    assert [int(row["expert"]) for row in assigned(tmp_path / "out")] == expected.tolist()
    assert all(row["margin"] == "" and 0 < float(row["score"]) < 1 for row in assigned(tmp_path / "out"))
    assert done["wins"] == torch.bincount(expected, minlength=len(run.experts)).tolist()


def test_restoring_by_a_router_that_is_not_there(damaged, tmp_path):
    run = small_trained(tmp_path / "run", 1, 12, **{"router.enabled": False})
    with pytest.raises(ValueError, match=r"this run has no router: train one with router\.enabled"):
        restore_files(run, damaged, tmp_path / "out", routed=True)
    assert not (tmp_path / "out").exists()


def test_an_image_that_padded_would_fill_the_memory_is_skipped_and_named(small_run, damaged, tmp_path):
    Image.fromarray(np.zeros((1, 8_000_000), np.uint8)).save(damaged / "thin.png")
    done = licm("restore", small_run, damaged, tmp_path / "out")
    assert (done.returncode, len(assigned(tmp_path / "out"))) == (3, len(NAMES))
    told = "padded with black to the size of training it has 96000000 pixels, more than 89478485"
    assert f"licm: warning: skipped 'thin.png': {told}\n" in done.stderr


def test_padding_counts_in_the_size_of_a_shard(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(restoring, "SHARD_PIXELS", 2 * 12 * 100)
    held = []
    real = restoring._restore_shard
    monkeypatch.setattr(
        restoring, "_restore_shard", lambda work, pictures: (held.append(len(pictures)), real(work, pictures))[1]
    )
    (tmp_path / "in").mkdir()
    for name in "abcd":
        Image.fromarray(np.zeros((1, 100), np.uint8)).save(tmp_path / "in" / f"{name}.png")
    restore_files(small_run, tmp_path / "in", tmp_path / "out")
    assert held == [2, 2]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_where_memory_does_not_suffice_for_a_shard_its_images_go_one_by_one(
    small_run, damaged, tmp_path, monkeypatch, error
):
    restore_files(small_run, damaged, tmp_path / "whole")
    marked = np.full((12, 12), 255, np.uint8)
    Image.fromarray(marked).save(damaged / "large.png")
    real = restoring.restore_full_size

    def restore(bank, discriminator, images, **options):
        if len(images) > 1 or bool((images == 1).all()):
            raise error
        return real(bank, discriminator, images, **options)

    monkeypatch.setattr(restoring, "restore_full_size", restore)
    done = licm("restore", small_run, damaged, tmp_path / "out")
    assert done.returncode == 3
    assert "licm: warning: skipped 'large.png': there is not enough memory to restore it\n" in done.stderr
    assert [row["path"] for row in assigned(tmp_path / "out")] == sorted(NAMES)
    for name in NAMES:
        assert np.abs(pixels(tmp_path / "out" / name).astype(int) - pixels(tmp_path / "whole" / name)).max() <= 1

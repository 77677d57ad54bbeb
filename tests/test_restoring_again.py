"""Killed, resumed, shared: a restoring that stops anywhere goes on, and every image is there once."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from licm import assignments, restoring
from licm import checkpoint as files
from licm.assignments import ASSIGNMENTS, PARQUET, UNFINISHED
from licm.checkpoint import hold
from licm.restoring import restore_files
from tests.commands import licm, refused

COUNT = 300  # images: three shards


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A folder of small images in subfolders."""
    folder, draws = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    for index in range(COUNT):
        path = folder / f"{index % 3}" / f"{index:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (12, 12), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def whole(_trained, many, tmp_path_factory) -> Path:
    """What comes of them without a stop."""
    out = tmp_path_factory.mktemp("whole") / "out"
    restore_files(_trained, many, out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def images_in(folder: Path) -> dict[Path, int]:
    """Each image with the number of its file, which is another when it is written anew."""
    return {path: path.stat().st_ino for path in folder.rglob("*.png")}


def kill_at(count: int, arguments: list[object], out: Path) -> None:
    """Starts a process and kills it once `count` images are there."""
    process = subprocess.Popen([sys.executable, "-m", "licm", *map(str, arguments)], stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and (not out.exists() or len(images_in(out)) < count):
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_a_random_moment_and_resumed(small_run, many, whole, tmp_path, seed):
    out = tmp_path / "out"
    at = random.Random(seed).randrange(COUNT)
    kill_at(at, ["restore", small_run, many, out, "--quiet"], out)
    before = images_in(out)
    done = licm("restore", small_run, many, out, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(out) == contents(whole)
    again = [path for path, number in images_in(out).items() if before.get(path, number) != number]
    assert len(again) <= restoring.SHARD_IMAGES
    assert len((out / ASSIGNMENTS).read_text().splitlines()) == COUNT + 1


def stop_after(monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    """Lets as many shards be noted, and the next be interrupted in the middle of its note."""
    real, noted = assignments.Output.note, []

    def note(output: assignments.Output, *rows: object) -> None:
        noted.append(rows)
        if len(noted) > shards:
            with (output.folder / UNFINISHED / "journal.jsonl").open("a") as file:
                file.write('[[["0/000.png", 1')
            raise KeyboardInterrupt
        real(output, *rows)

    monkeypatch.setattr(assignments.Output, "note", note)


@pytest.mark.parametrize("shards", [0, 1, 2])
def test_a_note_cut_short_is_written_again(small_run, many, whole, tmp_path, shards, monkeypatch):
    stop_after(monkeypatch, shards)
    done = licm("restore", small_run, many, tmp_path / "out")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "stopped, and what is done is kept; go on with the same command and --resume\n"
    assert not (tmp_path / "out" / ASSIGNMENTS).exists()
    monkeypatch.undo()
    assert "holds an unfinished restoring: go on with it (--resume), or choose another" in refused(
        "restore", small_run, many, tmp_path / "out"
    )
    told: list[tuple[int, int]] = []
    restore_files(small_run, many, tmp_path / "out", resume=True, callback=lambda *done: told.append(done))
    assert told == [(128, 300), (256, 300), (300, 300)][shards:]
    assert contents(tmp_path / "out") == contents(whole)
    before = images_in(tmp_path / "out")
    done = licm("restore", small_run, many, tmp_path / "out", "--resume", "--json")
    assert "was finished before: nothing is restored anew" in done.stderr
    assert json.loads(done.stdout)["images"] == COUNT
    assert images_in(tmp_path / "out") == before


@pytest.mark.parametrize("at", ["plan", "tables", "plan.json", "journal.jsonl"])
def test_a_kill_at_the_beginning_and_at_the_end(small_run, many, whole, tmp_path, at, monkeypatch):
    out = tmp_path / "out"

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    if at == "plan":  # the lock is there, the plan is not
        (out / UNFINISHED).mkdir(parents=True)
        (out / UNFINISHED / files.LOCK).touch()
    elif at == "tables":
        monkeypatch.setattr(assignments.Output, "_write_table", killed)
    else:
        real = Path.unlink
        monkeypatch.setattr(
            Path, "unlink", lambda path, **options: (killed if path.name == at else real)(path, **options)
        )
    if at != "plan":
        with pytest.raises(KeyboardInterrupt):
            restore_files(small_run, many, out)
        monkeypatch.undo()
        assert (out / UNFINISHED).is_dir()
    restore_files(small_run, many, out, resume=True)
    assert contents(out) == contents(whole)
    assert not (out / UNFINISHED).exists()


def test_what_was_begun_with_other_things_is_not_gone_on_with(small_run, many, tmp_path, monkeypatch):
    stop_after(monkeypatch, 1)
    licm("restore", small_run, many, tmp_path / "out")
    monkeypatch.undo()
    line = refused("restore", small_run, many / "0", tmp_path / "out", "--resume")
    assert f"was begun with another images, {str(many)!r}: go on with that, or choose another folder" in line
    monkeypatch.setattr(restoring, "_weights", lambda run: "others")
    assert "was begun with another run, '" in refused("restore", small_run, many, tmp_path / "out", "--resume")
    (tmp_path / "out" / UNFINISHED / "plan.json").write_text("{")
    line = refused("restore", small_run, many, tmp_path / "out", "--resume")
    assert "plan.json' is damaged: restore to another folder" in line
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").touch()
    assert "is not empty: choose a new" in refused("restore", small_run, many, tmp_path / "mine", "--resume")


def test_images_that_came_and_went_between(small_run, many, tmp_path, monkeypatch):
    import shutil

    folder = Path(shutil.copytree(many, tmp_path / "in"))
    stop_after(monkeypatch, 1)
    licm("restore", small_run, folder, tmp_path / "out")
    monkeypatch.undo()
    (folder / "0" / "000.png").rename(folder / "0" / "new.png")
    assert restore_files(small_run, folder, tmp_path / "out", resume=True)["images"] == COUNT + 1
    assert {path.name for path in images_in(tmp_path / "out")} >= {"000.png", "new.png"}


def draw(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 256, (12, 12), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("stop", ["finished", "killed", "killed again"])
def test_images_that_are_new_or_were_repaired_are_restored_and_no_other(small_run, tmp_path, stop, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        draw(folder / name)
    for name in ("c.png", "d.png", "gone.png"):
        (folder / name).write_bytes(b"damaged")

    def interrupted(name: str) -> None:
        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(assignments.Output, name, killed)
        assert licm("restore", small_run, folder, out, "--resume").returncode == 130
        monkeypatch.undo()

    if stop == "killed":
        interrupted("finish")
    else:
        assert licm("restore", small_run, folder, out, "--parquet").returncode == 3
    before = images_in(out)
    draw(folder / "c.png")
    draw(folder / "new.png")
    (folder / "gone.png").unlink()
    if stop == "killed again":
        interrupted("finish")
        table = (out / ASSIGNMENTS).read_text()
        assert "a.png" in table
        assert "new.png" not in table
    done = licm("restore", small_run, folder, out, "--resume", "--json", "--parquet")
    assert (done.returncode, json.loads(done.stdout)["images"], json.loads(done.stdout)["skipped"]) == (3, 4, 1)
    assert ("was finished before: now 3 image(s) that are new or were skipped" in done.stderr) == (stop == "finished")
    assert (out / "skipped.csv").read_text().splitlines()[1].startswith("d.png,")
    lines = (out / ASSIGNMENTS).read_text().splitlines()
    assert sorted(line.split(",")[0] for line in lines[1:]) == ["a.png", "b.png", "c.png", "new.png"]
    assert pytest.importorskip("pyarrow.parquet").read_table(out / PARQUET).num_rows == 4
    draw(folder / "d.png")
    assert licm("restore", small_run, folder, out, "--resume").returncode == 0
    assert not (out / "skipped.csv").exists()
    after = images_in(out)
    assert len(after) == 5
    assert {path: after[path] for path in before} == before
    assert licm("restore", small_run, folder, out, "--resume", "-q").returncode == 0
    assert images_in(out) == after
    restore_files(small_run, folder, tmp_path / "at once")
    whole = contents(tmp_path / "at once")
    assert {name: content for name, content in contents(out).items() if name.endswith("png")} == {
        name: content for name, content in whole.items() if name.endswith("png")
    }


def test_what_lies_where_a_new_image_would_come_is_not_overwritten(small_run, tmp_path):
    (tmp_path / "in").mkdir()
    draw(tmp_path / "in" / "a.png")
    restore_files(small_run, tmp_path / "in", tmp_path / "out")
    draw(tmp_path / "in" / "mine.png")
    (tmp_path / "out" / "mine.png").write_text("precious")
    before = contents(tmp_path / "out")
    line = refused("restore", small_run, tmp_path / "in", tmp_path / "out", "--resume", "-q")
    assert "out/mine.png' is there, and was not restored here: move it away" in line
    assert contents(tmp_path / "out") == before


def test_a_table_of_somebody_else_is_not_taken_for_an_end(small_run, many, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ASSIGNMENTS).write_text("path,expert,score,margin\n")
    line = refused("restore", small_run, many, tmp_path / "out", "--resume")
    assert f"{ASSIGNMENTS}' was not left by a restoring, whose restoring.json is beside it: choose a new" in line
    assert os.listdir(tmp_path / "out") == [ASSIGNMENTS]


def _hold(folder: Path, held, over) -> None:  # type: ignore[no-untyped-def]
    with hold(folder):
        held.set()
        over.wait(30)


def test_two_writers_into_one_output(small_run, many, tmp_path):
    context = multiprocessing.get_context("fork")
    held, over = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "out" / UNFINISHED, held, over))
    other.start()
    try:
        assert held.wait(30)
        line = refused("restore", small_run, many, tmp_path / "out")
        assert f"folder {str(tmp_path / 'out')!r} is in use by process {other.pid}; wait for its end or choose" in line
    finally:
        over.set()
        other.join()
    assert licm("restore", small_run, many, tmp_path / "out", "--quiet").returncode == 0


def test_parquet(small_run, many, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(assignments, "_ROWS", 100)
    restore_files(small_run, many, tmp_path / "out", parquet=True)
    lines = (tmp_path / "out" / ASSIGNMENTS).read_text().splitlines()
    table = parquet.read_table(tmp_path / "out" / PARQUET)
    assert table.column_names == lines[0].split(",") == list(assignments.Assignment._fields)
    rows = [",".join(map(str, row.values())) for row in table.to_pylist()]
    assert rows == lines[1:]
    restore_files(small_run, many, tmp_path / "later")
    restore_files(small_run, many, tmp_path / "later", resume=True, parquet=True)
    assert parquet.read_table(tmp_path / "later" / PARQUET).equals(table)
    monkeypatch.setattr(assignments, "find_spec", lambda name: None)
    line = refused("restore", small_run, many, tmp_path / "none", "--parquet")
    assert "writing Parquet needs pyarrow: pip install 'licm[data]'" in line
    assert not (tmp_path / "none").exists()
    assert os.listdir(tmp_path / "later") != []

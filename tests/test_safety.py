"""Against files, folders and models made to do harm, and against loss of power: refused in one line, nothing lost."""

import csv
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

from licm import MechanismInverter, assignments, reading, restoring
from licm import checkpoint as files
from licm.assignments import ASSIGNMENTS, RESTORING, SKIPPED, UNFINISHED
from licm.confidence import CALIBRATION, read_calibration, save_calibration
from licm.console import run_app
from licm.restoring import restore_files
from licm.saving import load_run
from licm.sharing.exporting import export_model
from licm.writing import whole_folder, write_text
from tests.commands import licm, refused
from tests.problems import bars


def draw(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((bars(1) * 255).to(torch.uint8).numpy()[0, 0]).save(path, "PNG")
    return path


@pytest.fixture
def damaged(tmp_path) -> Path:
    for name in ("a.png", "b/c.png", "b/d.png"):
        draw(tmp_path / "in" / name)
    return tmp_path / "in"


# The output folder


@pytest.mark.parametrize("name", ["new", "lock", "plan.json", "plan.json.new", "journal.jsonl", "", "folder"])
def test_an_output_folder_that_another_prepared_writes_nothing_elsewhere(small_run, damaged, tmp_path, name):
    precious, state = tmp_path / "precious", tmp_path / "out" / UNFINISHED
    precious.write_text("mine")
    if name == "":
        state.parent.mkdir()
        (tmp_path / "elsewhere").mkdir()
        state.symlink_to(tmp_path / "elsewhere")
    elif name == "folder":
        (state / name).mkdir(parents=True)
    else:
        state.mkdir(parents=True)
        (state / name).symlink_to(precious)
    for more in ([], ["--resume"]):
        line = refused("restore", small_run, damaged, tmp_path / "out", *more)
        assert "/.restoring' was not left by a restoring: remove it, or choose another folder" in line
    assert precious.read_text() == "mine"
    assert name or not list((tmp_path / "elsewhere").iterdir())


def test_a_link_in_an_output_that_was_begun_leads_nothing_out(small_run, damaged, tmp_path, monkeypatch):
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(restoring, "_restore", killed)
    with pytest.raises(KeyboardInterrupt):
        restore_files(small_run, damaged, out)
    monkeypatch.undo()
    (out / "b").symlink_to(elsewhere)
    line = refused("restore", small_run, damaged, out, "--resume")
    assert "out/b/c.png' cannot be written: a link leads it out of the folder" in line
    assert not list(elsewhere.iterdir())
    (out / "b").unlink()
    assert licm("restore", small_run, damaged, out, "--resume").returncode == 0


def test_folders_that_are_named_like_the_tables(small_run, damaged, tmp_path):
    for name in (ASSIGNMENTS, SKIPPED, RESTORING):
        draw(damaged / name / "e.png")
    done = licm("restore", small_run, damaged, tmp_path / "out")
    assert done.returncode == 3
    assert "skipped 'assignments.csv/e.png': its folder has the name of a table that comes beside" in done.stderr
    assert [row.path for row in rows_of(tmp_path / "out")] == ["a.png", "b/c.png", "b/d.png"]
    assert licm("restore", small_run, damaged, tmp_path / "out", "--resume", "-q").returncode == 3


def rows_of(out: Path) -> list[assignments.Assignment]:
    return list(assignments.Output(out).restored())


def test_a_finished_output_is_not_taken_for_that_of_another_run(small_run, damaged, tmp_path, monkeypatch):
    restore_files(small_run, damaged, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert json.loads((tmp_path / "out" / RESTORING).read_text())["images"] == str(damaged)
    line = refused("restore", small_run, damaged / "b", tmp_path / "out", "--resume")
    assert f"was begun with another images, {str(damaged)!r}: go on with that, or choose another folder" in line
    assert "another routed, False" in refused("restore", small_run, damaged, tmp_path / "out", "--resume", "--routed")
    assert licm("restore", small_run, damaged, tmp_path / "out", "--resume").returncode == 0
    monkeypatch.setattr(restoring, "_weights", lambda run: "others")
    assert "was begun with another run, '" in refused("restore", small_run, damaged, tmp_path / "out", "--resume")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    for content in ("path,expert,score,margin\na.png,one,0.5,\n", "path,expert\na.png\n", "path\n\0\n"):
        (tmp_path / "out" / ASSIGNMENTS).write_text(content)
        line = refused("restore", small_run, damaged, tmp_path / "out", "--resume", "--quiet")
        assert "assignments.csv' is damaged: restore to another folder" in line
    (tmp_path / "out" / ASSIGNMENTS).write_bytes(before[tmp_path / "out" / ASSIGNMENTS])
    (tmp_path / "out" / SKIPPED).write_text("path,reason\na.png\n")
    line = refused("restore", small_run, damaged, tmp_path / "out", "--resume", "--quiet")
    assert "skipped.csv' is damaged: restore to another folder" in line


@pytest.mark.parametrize("line", ["[[[1]], []]", "\0\0", "[" * 100_000, "{}"])
def test_a_damaged_journal_is_named(small_run, damaged, tmp_path, line, monkeypatch):
    monkeypatch.setattr(assignments.Output, "finish", lambda output, parquet: output.missing)
    with pytest.raises(AttributeError):
        restore_files(small_run, damaged, tmp_path / "out")
    monkeypatch.undo()
    journal = tmp_path / "out" / UNFINISHED / "journal.jsonl"
    journal.write_text(line + "\n" + journal.read_text())
    told = refused("restore", small_run, damaged, tmp_path / "out", "--resume")
    assert "journal.jsonl' is damaged: restore to another folder" in told


def test_a_shard_is_noted_when_its_images_would_survive_a_loss_of_power(small_run, damaged, tmp_path, monkeypatch):
    monkeypatch.setattr(restoring, "SHARD_IMAGES", 2)
    out, synced = tmp_path / "out", list[str]()
    journal = out / UNFINISHED / "journal.jsonl"
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path).as_posix()
        noted = journal.read_text() if journal.exists() else ""
        assert not (path.endswith(".png") and path.removeprefix("out/") in noted)
        synced.append(path)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    restore_files(small_run, damaged, out)
    assert {"out/a.png", "out/b/c.png", "out/b/d.png", "out/b", "out"} < set(synced)
    assert synced.index("out/b/c.png") < synced.index("out/.restoring/journal.jsonl") < synced.index("out/b/d.png")
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(str(descriptor)))
    before = len(synced)
    write_text(tmp_path / "text", "text")
    assert len(synced) == before + 2, "the file, and its name in the folder"


@pytest.mark.parametrize("hard", [False, True])
def test_a_link_under_the_name_that_a_file_has_while_it_is_written(small_run, damaged, tmp_path, hard, monkeypatch):
    def link(path: Path) -> None:
        path.hardlink_to(precious) if hard else path.symlink_to(precious)

    def note(output: assignments.Output, *rows: object) -> None:
        for name in (f"{RESTORING}.new", f"{UNFINISHED}/new"):
            link(output.folder / name)
        real(output, *rows)

    precious, real = tmp_path / "precious", assignments.Output.note
    precious.write_text("mine")
    for name in ("description.json.new", f"{files.CHECKPOINT}.new", f"{files.PREVIOUS}.new"):
        link(small_run / name)
    assert licm("describe", small_run).returncode == 0
    files.save_checkpoint(small_run, *files.load_checkpoint(small_run))
    monkeypatch.setattr(assignments.Output, "note", note)
    assert licm("restore", small_run, damaged, tmp_path / "out").returncode == 0
    assert precious.read_text() == "mine"
    assert not list(tmp_path.rglob("*.new"))
    assert json.loads((tmp_path / "out" / RESTORING).read_text())["routed"] is False
    assert load_run(small_run).step == 4


def test_a_history_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / files.HISTORY).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"history.jsonl' cannot be written: it is a link, which nothing here makes"):
        files.append_history(tmp_path, {"kind": "step", "step": 1})
    assert (tmp_path / "precious").read_text() == "mine"


# What is printed


def test_names_do_not_steer_the_terminal(tmp_path):
    own = ["--canonical", draw(tmp_path / "clean" / "a.png").parent, "--transformed"]
    for name in ("esc\x1b[2J\x07.png", "\u202egnp.exe.png"):
        draw(tmp_path / "in" / name).write_bytes(b"")
        line = refused("train", "--out", tmp_path / "run", *own, tmp_path / "in")
        assert ascii(name)[1:-1] in line
        assert line.strip().isprintable()
        (tmp_path / "in" / name).unlink()


def test_a_name_that_is_no_text_is_printed(monkeypatch):
    app, printed = typer.Typer(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    app.command()(lambda: typer.echo(f"saved: {os.fsdecode(b'o' + bytes([255]))}"))
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "argv", ["licm"])
    with pytest.raises(SystemExit) as end:
        run_app(app)
    printed.flush()
    assert (end.value.code, printed.buffer.getvalue()) == (0, rb"saved: o\udcff" + b"\n")


# Models and runs that others made


STATES = {
    "list": ([], ""),
    "deep": ("[" * 100_000, "checkpoint.safetensors is damaged"),
    "shape": ({"image_shape": [1, 10**9]}, "it holds 3 experts for images of 1 x 1000000000 x 1000000000"),
    "shape type": ({"image_shape": ["a", "b"]}, ""),
    "short": ({"image_shape": [1]}, ""),
    "retired": ({"retired": [99]}, ""),
    "routing": ({"routing": [[]]}, ""),
    "health": ({"health": 3}, ""),
    "revival": ({"revival": "x"}, ""),
    "usual error": ({"usual_error": {"a": 1}}, ""),
}


@pytest.mark.parametrize("case", STATES)
def test_a_hostile_state_of_a_checkpoint(small_run, damaged, tmp_path, case):
    changes, message = STATES[case]
    tensors, state = files.load_checkpoint(small_run)
    if isinstance(changes, str):
        text = changes
    else:
        text = json.dumps(state | changes if isinstance(changes, dict) else changes)
    save_file(tensors, small_run / files.CHECKPOINT, metadata={"state": text})
    (small_run / files.PREVIOUS).unlink(missing_ok=True)
    line = refused("restore", small_run, damaged, tmp_path / "out")
    assert (message or "run' does not fit its configuration: ") in line
    with pytest.raises(ValueError, match="checkpoint"):
        MechanismInverter.load(small_run)


def test_weights_that_are_no_numbers_are_refused(small_run, damaged, tmp_path):
    tensors, state = files.load_checkpoint(small_run)
    next(tensors[name] for name in tensors if name.startswith("bank."))[:] = torch.nan
    files.save_checkpoint(small_run, tensors, state)
    line = refused("restore", small_run, damaged, tmp_path / "out")
    assert "does not fit its configuration: it holds numbers that are not finite" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8 + b"{",
        (8).to_bytes(8, "little") + b"{" * 8,
        (2**40).to_bytes(8, "little"),
        b"\x80\x04cos\nsystem\n.",
    ],
)
def test_a_hostile_header_of_a_checkpoint(small_run, damaged, tmp_path, header):
    (small_run / files.CHECKPOINT).write_bytes(header)
    (small_run / files.PREVIOUS).unlink(missing_ok=True)
    line = refused("restore", small_run, damaged, tmp_path / "out")
    assert "can be read: checkpoint.safetensors is damaged" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['touch owned']", "not valid YAML: line 1, column 1: could not determine a"),
        ("seed: !!python/name:os.system", "not valid YAML"),
        ("[" * 100_000, "not valid YAML: nested too deeply"),
        (
            "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefghij", "bcdefghijk")),
            "unknown",
        ),
    ],
)
def test_a_hostile_configuration(small_run, damaged, tmp_path, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (small_run / files.CONFIG).write_text(text)
    assert message in refused("restore", small_run, damaged, tmp_path / "out")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", [files.RUN, files.HISTORY])
def test_records_nested_beyond_measure(small_run, name):
    (small_run / name).write_text("[" * 100_000 + "\n{}\n")
    assert f"{name}' is " in refused("train", "--out", small_run, "--resume")


def test_samples_made_to_fill_the_memory(small_run, monkeypatch):
    np.savez_compressed(small_run / "samples.npz", inputs=np.zeros((1000, 1000), np.uint8))
    monkeypatch.setattr(reading, "ROOM", 1 << 16)
    assert "samples.npz' is damaged; write it again with: licm evaluate" in refused("report", small_run)


# Run folders and folders to share


def test_what_a_link_in_a_run_folder_leads_to_is_not_handed_on(small_run, tmp_path):
    (tmp_path / "secret").write_text("TOP SECRET")
    for name in (CALIBRATION, files.HISTORY):
        (small_run / name).unlink()
        (small_run / name).symlink_to(tmp_path / "secret")
    export_model(small_run, tmp_path / "exported")
    MechanismInverter.load(small_run).save(tmp_path / "saved")
    for copied in ("exported", "saved"):
        found = [path for path in (tmp_path / copied).rglob("*") if path.is_file()]
        assert len(found) >= 4
        assert not any(b"SECRET" in path.read_bytes() for path in found)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes")
@pytest.mark.parametrize("name", [CALIBRATION, files.HISTORY, files.CHECKPOINT])
def test_a_pipe_in_a_run_folder_is_not_waited_for(small_run, name):
    (small_run / name).unlink()
    os.mkfifo(small_run / name)
    if name == files.CHECKPOINT:
        with pytest.raises(ValueError, match="has no checkpoint yet"):
            MechanismInverter.load(small_run)
    else:
        assert MechanismInverter.load(small_run).calibration_ is None or name == files.HISTORY


def test_images_that_change_while_they_are_restored(small_run, damaged, tmp_path, monkeypatch):
    """What is left as it was is what was read and judged, whatever lies under its name by then."""
    calibration = read_calibration(small_run, load_run(small_run))
    save_calibration(replace(calibration, clean_score=-1e9, line=[1e9] * len(calibration.line)), small_run)
    before = {path.relative_to(damaged): path.read_bytes() for path in damaged.rglob("*.png")}
    (tmp_path / "secret").write_text("TOP SECRET")
    alike = restoring._restore_alike

    def changed(work, pictures):
        (damaged / "a.png").unlink(missing_ok=True)
        (damaged / "b" / "c.png").unlink(missing_ok=True)
        (damaged / "b" / "c.png").symlink_to(tmp_path / "secret")
        return alike(work, pictures)

    monkeypatch.setattr(restoring, "_restore_alike", changed)
    restore_files(small_run, damaged, tmp_path / "out")
    with (tmp_path / "out" / ASSIGNMENTS).open() as table:
        assert [row["abstained"] for row in csv.DictReader(table)] == ["clean"] * 3
    assert {path: (tmp_path / "out" / path).read_bytes() for path in before} == before


def test_a_lock_that_is_a_link(damaged, tmp_path):
    (tmp_path / "precious").write_text("1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / files.LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="lock' is a link, which nothing here makes"), files.hold(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "1"


def test_a_run_folder_among_the_images_is_refused(damaged, tmp_path):
    for run in (damaged, damaged / "b" / "run"):
        clean = draw(tmp_path / "clean" / "a.png").parent
        line = refused("train", "--out", run, "--canonical", clean, "--transformed", damaged / "b")
        assert "exists already and is no run" in line or "choose a run folder outside of the images" in line
        assert not (damaged / "b" / "run").exists()


def test_heaps_of_which_one_holds_the_other_are_refused(damaged, tmp_path):
    for clean, spoilt in ((damaged, damaged), (damaged, damaged / "b"), (damaged / "b", damaged)):
        line = refused("train", "--out", tmp_path / "run", "--canonical", clean, "--transformed", spoilt)
        assert "canonical and transformed images are to be apart, but" in line
        assert not (tmp_path / "run").exists()


def test_a_folder_is_made_whole_whatever_it_is_called_and_whatever_was_left(small_run, tmp_path):
    name = "n" * 240
    left = tmp_path / f".saved.{os.getpid()}.unfinished"  # by a process with this number that was killed
    shutil.copytree(small_run, left)
    with whole_folder(tmp_path / name) as fresh:
        (fresh / "file").touch()
    assert [path.name for path in (tmp_path / name).iterdir()] == ["file"]
    assert (tmp_path / name).stat().st_mode == small_run.stat().st_mode
    MechanismInverter.load(small_run).save(tmp_path / "saved")
    assert not (tmp_path / "saved" / files.PREVIOUS).exists()
    assert load_run(tmp_path / "saved").step == 4
    assert not list(tmp_path.glob(".unfinished*"))

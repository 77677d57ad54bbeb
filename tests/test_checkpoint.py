"""The run folder: atomic, keeps the one before, refuses what it cannot read in one line."""

import json
import logging
import os

import pytest
import torch

from licm import checkpoint as files
from licm.config import make_config

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}


def saved(folder, *, step: int = 1) -> None:
    files.save_checkpoint(folder, {name: tensor + step for name, tensor in TENSORS.items()}, {"step": step})


def step_in(folder) -> int:
    return files.load_checkpoint(folder)[1]["step"]


def test_round_trip_keeps_bits(tmp_path):
    state = {"step": 3, "score": 0.1 + 0.2, "list": [1e-17, 2]}
    odd = {
        "nan": torch.tensor([float("nan"), -0.0]),
        "strided": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    files.save_checkpoint(tmp_path, odd, state)
    tensors, loaded = files.load_checkpoint(tmp_path)
    assert loaded == state
    assert tensors["nan"].numpy().tobytes() == odd["nan"].numpy().tobytes()
    assert torch.equal(tensors["strided"], odd["strided"])


def test_each_save_keeps_the_one_before_and_nothing_else(tmp_path):
    for step in (1, 2, 3):
        saved(tmp_path, step=step)
    assert sorted(p.name for p in tmp_path.iterdir()) == [files.PREVIOUS, files.CHECKPOINT]
    assert step_in(tmp_path) == 3
    (tmp_path / files.CHECKPOINT).unlink()
    assert step_in(tmp_path) == 2


def test_who_may_read_the_folder_may_read_the_checkpoint(tmp_path):
    files.create_run(tmp_path, make_config())
    saved(tmp_path, step=1)
    assert (tmp_path / files.CHECKPOINT).stat().st_mode == (tmp_path / files.CONFIG).stat().st_mode


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "overwritten": lambda content: b"\xff" * len(content),
    "a bit of a tensor": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "a digit of the state": lambda content: content.replace(b"step", b"stop"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_previous_which_is_named(tmp_path, caplog, damage):
    saved(tmp_path, step=1)
    saved(tmp_path, step=2)
    path = tmp_path / files.CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert step_in(tmp_path) == 1
    assert files.CHECKPOINT in caplog.text
    (tmp_path / files.PREVIOUS).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no checkpoint of .* can be read"):
        files.load_checkpoint(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_leaves_a_whole_checkpoint(tmp_path, monkeypatch, call):
    saved(tmp_path, step=1)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(OSError, match="cannot be written: no space left on device; the one before is whole"):
        saved(tmp_path, step=2)
    monkeypatch.undo()
    assert step_in(tmp_path) == 1


def test_a_file_system_without_links_is_served_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("links are not supported")

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2):
        saved(tmp_path, step=step)
    assert step_in(tmp_path) == 2
    (tmp_path / files.CHECKPOINT).unlink()
    assert step_in(tmp_path) == 1


def test_no_checkpoint_yet(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        files.load_checkpoint(tmp_path)


def test_config_and_format(tmp_path):
    files.create_run(tmp_path / "run", make_config(overrides={"steps": 3}))
    assert files.read_config(tmp_path / "run").training.steps == 3
    run = json.loads((tmp_path / "run" / files.RUN).read_text())
    (tmp_path / "run" / files.RUN).write_text(json.dumps({**run, "format": 99}))
    with pytest.raises(ValueError, match=f"has run format 99, this version reads {files.FORMAT}"):
        files.read_config(tmp_path / "run")
    (tmp_path / "run" / files.RUN).write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        files.read_config(tmp_path / "run")
    (tmp_path / "run" / files.RUN).write_text(json.dumps(run))
    for damage in (b"", b"\xff\xfe"):
        (tmp_path / "run" / files.CONFIG).write_bytes(damage)
        with pytest.raises(ValueError, match=r"config.yaml' is damaged: it holds no configuration"):
            files.read_config(tmp_path / "run")
    with pytest.raises(ValueError, match=r"is not a run folder: config.yaml is missing"):
        files.read_config(tmp_path)
    with pytest.raises(ValueError, match=r"run.json' is not a run folder: it is a file"):
        files.read_config(tmp_path / "run" / files.RUN)


def test_history_is_cut_at_a_step_and_survives_a_torn_last_line(tmp_path):
    records = [{"kind": "step", "step": step} for step in range(4)]
    for record in records:
        files.append_history(tmp_path, record)
    with (tmp_path / files.HISTORY).open("a") as file:
        file.write('{"kind": "step", "step": 4, "lo')
    assert files.read_history(tmp_path) == records
    files.cut_history(tmp_path, 2)
    assert files.read_history(tmp_path) == records[:3]


@pytest.mark.parametrize("line", ["{}", "5", "{", "\udcff"])
def test_a_damaged_history_is_named(tmp_path, line):
    whole = json.dumps({"kind": "step", "step": 1})
    (tmp_path / files.HISTORY).write_text(f"{line}\n{whole}\n", errors="surrogateescape")
    with pytest.raises(ValueError, match=r"history.jsonl' is damaged: line 1 is not a record"):
        files.read_history(tmp_path)

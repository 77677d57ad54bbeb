"""Whatever is typed or fed in: one clear line, a non-zero exit status, nothing lost, nothing left behind."""

import errno
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

from licm import checkpoint as files
from licm import training
from licm.config import make_config
from tests.commands import licm, refused
from tests.conftest import SMALL_RUN

SMALL = [word for key, value in SMALL_RUN.items() for word in ("--set", f"{key}={json.dumps(value)}")]
STRIPES = np.tile(np.array([0, 255], np.uint8), (12, 6))  # 12x12


def save_images(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        Image.fromarray(array).save(folder / name)
    return folder


def stripes(folder: Path, count: int = 9) -> Path:
    return save_images(folder, {f"{i}.png": STRIPES for i in range(count)})


def cut(path: Path, kept: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    return path


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def empty(folder: Path) -> Path:
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    return folder


def mixed(folder: Path) -> Path:
    return save_images(folder, {"a.png": STRIPES, "b.png": STRIPES[:, :10]})


def npz(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder.with_suffix(".npz"), **arrays)
    return folder.with_suffix(".npz")


def idx(folder: Path) -> Path:
    folder.write_bytes(bytes([0, 0, 8, 3]) + np.array([9, 12, 12], ">u4").tobytes() + STRIPES.tobytes() * 9)
    return folder


def truncated_png(folder: Path) -> Path:
    stripes(folder, count=1)
    noise = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    (folder / "0.png").write_bytes(png(noise))
    cut(folder / "0.png")
    return folder


def truncated_gzip(folder: Path) -> Path:
    idx(folder).write_bytes(gzip.compress(folder.read_bytes()))
    return cut(folder, 0.8)


IMAGES = np.stack([STRIPES] * 9)
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda f: f, "bad: cannot be read: no such file or directory"),
    "empty": (empty, "bad: expected images (.png .jpg"),
    "mixed sizes": (mixed, "expected images of one size, got 12x12 in"),
    "no images": (lambda f: npz(f, pictures=IMAGES), "bad.npz: expected an array 'images', got ['pictures']"),
    "range": (lambda f: npz(f, images=IMAGES * 1.0), "images: expected values in [0, 1], got values from 0 to 255"),
    "dtype": (lambda f: npz(f, images=IMAGES.astype(int)), "images: expected uint8 or floating-point, got int64"),
    "NaN": (lambda f: npz(f, images=IMAGES * np.nan), "bad.npz: images: expected values in [0, 1], got NaN"),
    "one colour": (lambda f: npz(f, images=IMAGES * 0), "canonical: every image is of one colour"),
    "truncated PNG": (truncated_png, "0.png: cannot be read: damaged"),
    "truncated IDX": (lambda f: cut(idx(f)), "bad: damaged: its header states sizes [9, 12, 12]"),
    "truncated gzip": (truncated_gzip, "bad: cannot be read: damaged, or not of the kind expected (Compressed"),
    "truncated npz": (lambda f: cut(npz(f, images=IMAGES)), "bad.npz: cannot be read: damaged, or not of the kind"),
    "other size": (
        lambda f: save_images(f, {f"{i}.png": STRIPES[:8] for i in range(9)}),
        "expected images like those of data.canonical, 12x8 px grey, got 12x12 px grey",
    ),
    "oblong": (lambda f: npz(f, images=IMAGES[:, :8]), "of data.canonical, 12x8 px grey, got 12x12 px grey"),
    "few": (lambda f: stripes(f, 7), "canonical: 7 images are fewer than training.batch_size, 8"),
    "device": (lambda f: Path("/dev/zero"), "/dev/zero: cannot be read: it is not a regular file"),
    "16-bit colour run": (
        lambda f: save_images(f, {"a.png": STRIPES.astype(np.uint16), "b.png": np.dstack([STRIPES] * 3)}),
        "expected images like those of data.canonical, 12x12 px colour, got 12x12 px grey",
    ),
    "float": (
        lambda f: save_images(f, {"a.tif": STRIPES.astype(np.float32)}),
        "a.tif: expected a still image, 8-bit or 16-bit grey or 8-bit colour, got mode F",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_images_that_cannot_be_trained_on(tmp_path, case):
    make, message = BAD[case]
    bad, good = make(tmp_path / "bad"), stripes(tmp_path / "good")
    line = refused("train", "--out", tmp_path / "run", "--canonical", bad, "--transformed", good, *SMALL)
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    real = os.scandir

    def scandir(path):
        if Path(path).name == "bad":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    bad, good = stripes(tmp_path / "bad"), stripes(tmp_path / "good")
    monkeypatch.setattr(os, "scandir", scandir)  # as root, file modes would not do
    line = refused("train", "--out", tmp_path / "run", "--canonical", bad, "--transformed", good, *SMALL)
    assert "bad: cannot be read: permission denied" in line


def test_a_truncated_zip_as_source(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "o.zip", "w") as archive:
        for index in range(20):
            archive.writestr(f"set/A/c/{index}.png", png(np.zeros((105, 105), np.uint8)))
    cut(tmp_path / "o.zip")
    line = refused("train", "--out", tmp_path / "run", "--set", f"data.source={tmp_path / 'o.zip'}")
    assert "o.zip: cannot be read: damaged, or not of the kind expected (File is not a zip file)" in line


def test_an_unknown_source_names_what_there_is(tmp_path):
    assert "nowhere: cannot be read: no such file" in refused(
        "train", "--out", tmp_path / "run", "--set", "data.source=nowhere"
    )


# The run folder


def test_a_run_folder_that_exists_is_left_alone(small_run):
    before = {path.name: path.read_bytes() for path in small_run.iterdir()}
    line = refused("train", "--out", small_run)
    assert "exists already: go on with it (--resume) or choose another" in line
    assert {path.name: path.read_bytes() for path in small_run.iterdir()} == before


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    line = refused("train", "--out", tmp_path)
    assert "exists already and is no run: choose a new or empty folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert "exists already and is no run" in refused("train", "--out", tmp_path / "mine.txt")


def all_commands(run: Path, tmp_path: Path) -> dict[str, list[object]]:
    return {
        "train": ["train", "--out", run, "--resume"],
        "evaluate": ["evaluate", run],
        "restore": ["restore", run, stripes(tmp_path / "in"), tmp_path / "out"],
        "compare": ["compare", run],
    }


@pytest.mark.parametrize("command", ["train", "evaluate", "restore", "compare"])
def test_a_run_of_another_version_and_what_is_no_run(small_run, tmp_path, command):
    record = json.loads((small_run / files.RUN).read_text())
    (small_run / files.RUN).write_text(json.dumps({**record, "format": 99}))
    line = refused(*all_commands(small_run, tmp_path)[command])
    assert f"has run format 99, this version reads {files.FORMAT}" in line
    (tmp_path / "nothing").mkdir()
    line = refused(*all_commands(tmp_path / "nothing", tmp_path)[command])
    assert "is not a run folder: config.yaml is missing" in line
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "nothing").iterdir()) == []


@pytest.mark.parametrize("command", ["train", "evaluate", "restore"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_which_is_named(small_run, tmp_path, command):
    shutil.copy(small_run / files.CHECKPOINT, small_run / files.PREVIOUS)
    cut(small_run / files.CHECKPOINT)
    done = licm(*all_commands(small_run, tmp_path)[command])
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("licm: warning: checkpoint '")
    assert "checkpoint.safetensors' is damaged (" in warnings[0]
    assert warnings[0].endswith("; the one before, 'checkpoint.previous.safetensors', is used instead")
    cut(small_run / files.CHECKPOINT, 0.5)
    cut(small_run / files.PREVIOUS, 0.5)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    line = refused(*all_commands(small_run, tmp_path)[command])
    assert "can be read: checkpoint.safetensors and checkpoint.previous.safetensors are damaged" in line


def test_a_source_that_is_gone_when_the_run_is_evaluated(small_run, tmp_path):
    path = small_run / files.CONFIG
    text = path.read_text().splitlines()
    gone = tmp_path / "gone.npz"
    path.write_text("\n".join(f"  source: {gone}" if line.startswith("  source:") else line for line in text))
    assert "gone.npz: cannot be read: no such file or directory" in refused("evaluate", small_run)


# No space left


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_no_space_for_the_run_leaves_nothing(tmp_path, monkeypatch):
    good, others = stripes(tmp_path / "good"), stripes(tmp_path / "others")
    monkeypatch.setattr(os, "replace", full)
    line = refused("train", "--out", tmp_path / "run", "--canonical", good, "--transformed", others, *SMALL)
    assert "run/config.yaml' cannot be written: no space left on device" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["system", "safetensors"])
def test_no_space_for_a_checkpoint_keeps_the_one_before(tmp_path, small_config, monkeypatch, kind):
    config = small_config.model_copy(update={"training": small_config.training.model_copy(update={"save_every": 2})})
    real, saves = files.save_file, []

    def save_file(*arguments, **options):
        saves.append(1)
        if len(saves) == 2:
            if kind == "system":
                full()
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(*arguments, **options)

    monkeypatch.setattr(files, "save_file", save_file)
    with pytest.raises(
        OSError, match=r"checkpoint.safetensors' cannot be written: no space left on device; the one before is whole"
    ):
        training.train(config, tmp_path / "run")
    assert files.load_checkpoint(tmp_path / "run")[1]["step"] == 2
    assert not (tmp_path / "run" / f"{files.CHECKPOINT}.new").exists()
    monkeypatch.undo()
    assert training.train(config, tmp_path / "run", resume=True).step == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_space_for_the_history(tmp_path, monkeypatch):
    real = os.open
    monkeypatch.setattr(os, "open", lambda name, flags, mode=0o777: real("/dev/full", os.O_WRONLY))
    with pytest.raises(OSError, match=r"history.jsonl' cannot be written: no space left on device"):
        files.append_history(tmp_path, {"kind": "step", "step": 1})


# Two processes in one run folder


def test_two_processes_in_one_run_folder(tmp_path, small_config):
    run = tmp_path / "run"
    training.train(small_config, run)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.name != files.LOCK}
    script = (
        "import sys; from pathlib import Path; from licm.checkpoint import hold\n"
        "with hold(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            line = refused("train", "--out", run, "--resume")
            assert f"is in use by process {other.pid}; wait for its end or choose another folder" in line
        finally:
            other.kill()  # leaves its lock file behind
    assert (run / files.LOCK).read_text().strip() == str(other.pid)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name != files.LOCK} == before
    assert licm("train", "--out", run, "--resume", "--quiet").returncode == 0


def test_a_folder_that_stayed_empty_is_not_left_behind(tmp_path):
    with files.hold(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
    with files.hold(tmp_path / "run"):
        files.create_run(tmp_path / "run", make_config())
    with files.hold(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / files.RUN).exists()


# What is typed wrongly, and errors that nobody foresaw


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? (see licm --help)"),
        (["train"], "Missing option '--out'"),
        (["train", "--sed", "1"], "No such option: --sed"),
        (["train", "--out"], "Option '--out' requires an argument (see licm --help)"),
        (["train", "--out", "x", "--seed", "two"], "Invalid value for '--seed': Input should be a valid integer"),
        (["restore", "x"], "Missing argument 'IN'"),
        (["evaluate", "x", "y"], "unexpected extra argument"),
        (["compare"], "Missing argument 'RUN'"),
    ],
)
def test_usage_is_refused_in_one_line(arguments, message):
    line = refused(*arguments, code=2)
    assert message in line
    assert line.rstrip().endswith("--help)")


def test_what_nobody_foresaw_is_one_line_too_and_whole_when_asked_for(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("odd")

    monkeypatch.setattr("licm.checkpoint.read_config", broken)
    line = refused("train", "--out", tmp_path, "--resume")
    assert line == "licm: error: unexpected KeyError: 'odd'; LICM_DEBUG=1 shows where\n"
    monkeypatch.setenv("LICM_DEBUG", "1")
    with pytest.raises(KeyError, match="odd"):
        licm("train", "--out", tmp_path, "--resume")


def test_a_place_that_cannot_be_is_named_without_numbers(tmp_path, bars_file):
    (tmp_path / "file").write_text("")
    line = refused("train", "--out", tmp_path / "file" / "run", "--set", f"data.source={bars_file}", *SMALL)
    assert "file/run' cannot be written: not a directory" in line
    line = refused("train", "--out", tmp_path / "run", "--set", f"data.source={'x' * 5000}")
    assert line.startswith("licm: error: '/")
    assert "/xxx" in line
    assert line.endswith("': file name too long\n")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 36 bytes")])
def test_no_memory_is_called_so(tmp_path, monkeypatch, error):
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("licm.checkpoint.read_config", full)
    line = refused("train", "--out", tmp_path, "--resume")
    assert line == "licm: error: not enough memory; take smaller images, or fewer or narrower experts\n"


def test_a_damaged_configuration_is_named(small_run, tmp_path):
    path = small_run / files.CONFIG
    path.write_text(path.read_text().replace("revival:", "revifal:"))
    for arguments in all_commands(small_run, tmp_path).values():
        line = refused(*arguments)
        assert "config.yaml: unknown configuration key 'revifal': did you mean 'revival'?" in line


def test_no_space_for_what_is_printed(monkeypatch):
    monkeypatch.setattr("licm.catalogue.presets_table", full)
    assert refused("presets") == "licm: error: no space left on device\n"


def test_an_interrupt_is_one_line(monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("licm.catalogue.presets_table", interrupted)
    done = licm("presets")
    assert (done.returncode, done.stderr) == (130, "licm: interrupted\n")

"""The commands as typed: what they print, save and refuse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from licm.config import to_yaml
from tests.conftest import SMALL_RUN


def licm(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "licm", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=55,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
    )


@pytest.fixture
def settings(bars_file) -> list[str]:
    changes = {**SMALL_RUN, "data.source": str(bars_file)}
    return [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def test_train_evaluate_resume(tmp_path, settings):
    run = tmp_path / "run"
    done = licm("train", "--out", run, *settings, "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert "identity start (trained): mean squared error at most" in done.stderr
    assert "step 4 of 4: wins" in done.stderr
    assert "step 4: on validation matched share" in done.stderr
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["seed"], config["training"]["steps"], config["num_experts"]) == (3, 4, 3)
    done = licm("evaluate", run)
    assert done.returncode == 0, done.stderr
    assert "20 test images, 3 experts" in done.stdout
    assert "shift(dx=2)" in done.stdout
    done = licm("evaluate", run, "--json", "--split", "validation")
    record = json.loads(done.stdout)
    assert record["split"] == "validation"
    assert json.loads((run / "evaluation.validation.json").read_text()) == record
    assert json.loads((run / "evaluation.json").read_text())["split"] == "test"
    assert licm("train", "--out", run, "--resume").returncode == 0


def test_a_file_a_preset_and_settings(tmp_path, small_config):
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(small_config))
    done = licm("train", "--out", tmp_path / "run", "--config", path, "--set", "steps=1", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "experts.widht=3"], "unknown configuration key 'experts.widht': did you mean 'experts.width'?"),
        (["--set", "steps"], "setting 'steps': expected KEY=VALUE"),
        (["--preset", "papr"], "unknown preset 'papr': did you mean 'paper'?"),
        (["--set", "mechanisms=[inver]"], "unknown mechanism 'inver': did you mean 'invert'?"),
        (["--canonical", "nowhere"], "canonical and transformed go together"),
        (["--canonical", "nowhere", "--transformed", "nowhere"], "nowhere"),
        (["--config", "nowhere.yaml"], "configuration file 'nowhere.yaml': cannot be read"),
        (["--resume"], "is not a run folder: config.yaml is missing"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        (["--set", "experts.dilations=[1, 2]"], "dilations: expected 5 numbers, one per convolution"),
        (["--set", "discriminator.widths=[4, 4, 4, 4, 4]"], "image_size: 5 poolings need at least 32 px, got 28"),
        (["--set", "batch_size=20000"], "are fewer than training.batch_size, 20000"),
    ],
)
def test_a_users_error_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    done = licm("train", "--out", tmp_path / "run", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("licm: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_evaluate_refuses_what_is_no_run_or_split(tmp_path, small_run):
    done = licm("evaluate", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is not a run folder" in done.stderr
    done = licm("evaluate", small_run, "--split", "tset")
    assert "unknown split 'tset': did you mean 'test'?" in done.stderr


def test_evaluate_leaves_samples_and_report_draws_them(small_run, tmp_path):
    assert licm("evaluate", small_run, "--quiet").returncode == 0
    assert (small_run / "samples.npz").exists()
    done = licm("report", small_run, "--out", tmp_path / "pages" / "one.html", "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    assert written["report"] == str(tmp_path / "pages" / "one.html")
    names = ("winners", "samples", "specialisation", "win_shares", "learning", "identity", "health", "summary")
    expected = {str(tmp_path / "pages" / "figures" / f"{n}.{kind}") for n in names for kind in ("png", "svg")}
    assert set(written["figures"]) == expected
    for path in (written["report"], *written["figures"]):
        assert Path(path).stat().st_size > 1000
    done = licm("report", tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "is not a run folder" in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = licm("evaluate", tmp_path, LICM_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_ctrl_c_saves_and_exits_cleanly(tmp_path, settings):
    import os
    import signal
    import time

    run = tmp_path / "run"
    command = [sys.executable, "-m", "licm", "train", "--out", str(run), *settings, "--set", "steps=100000"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    )
    history = run / "history.jsonl"
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and not (history.exists() and '"kind": "step"' in history.read_text()):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "and saved; go on with: licm train --out" in errors
    assert "Traceback" not in errors
    assert (run / "checkpoint.safetensors").exists()


def test_help_and_import_do_not_load_torch_or_scikit_learn():
    script = (
        "import sys, licm, licm.cli\n"
        "from typer.testing import CliRunner\n"
        "for words in ([], ['train'], ['evaluate'], ['report']):\n"
        "    assert CliRunner().invoke(licm.cli.app, [*words, '--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'PIL', 'matplotlib', 'jinja2') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=55)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("command", ["train", "evaluate", "report"])
def test_help_has_an_example(command):
    done = licm(command, "--help")
    assert done.returncode == 0
    assert f"Example: licm {command}" in done.stdout

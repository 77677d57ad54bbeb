"""The commands as typed: what they print, save and refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from licm import __version__
from licm.cli import app
from licm.config import to_yaml
from tests.commands import licm as typed
from tests.commands import refused
from tests.conftest import SMALL_RUN


def licm(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "licm", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
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
        (["--set", "experts=3"], "configuration key 'experts' is a section: set a key in it, one of "),
        (
            ["--set", "mechanisms=[rotate(degree=3)]"],
            "mechanism 'rotate': unknown parameter 'degree': did you mean 'deg",
        ),
        (
            ["--set", "mechanisms=invert"],
            "unknown mechanism set 'invert': Valid: paper, or a list such as [invert, shift(dx=4)]",
        ),
        (["--set", "steps"], "setting 'steps': expected KEY=VALUE"),
        (["--preset", "papr"], "unknown preset 'papr': did you mean 'paper'?"),
        (["--set", "mechanisms=[inver]"], "unknown mechanism 'inver': did you mean 'invert'?"),
        (["--canonical", "nowhere"], "canonical and transformed go together"),
        (["--canonical", "nowhere", "--transformed", "nowhere"], "nowhere"),
        (["--config", "nowhere.yaml"], "configuration file 'nowhere.yaml': cannot be read"),
        (["--resume"], "is not a run folder: there is no such folder"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        (["--set", "experts.dilations=[1, 2]"], "dilations: expected 5 numbers, one per convolution"),
        (["--set", "discriminator.widths=[4, 4, 4, 4, 4]"], "image_size: 5 poolings need at least 32 px, got 28"),
        (["--set", "batch_size=20000"], "are fewer than training.batch_size, 20000"),
    ],
)
def test_a_users_error_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    assert message in refused("train", "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_evaluate_refuses_what_is_no_run_or_split(tmp_path, small_run):
    assert "is not a run folder" in refused("evaluate", tmp_path)
    assert "unknown split 'tset': did you mean 'test'?" in refused("evaluate", small_run, "--split", "tset")


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
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "and saved; go on with: licm train --out" in errors
    assert "Traceback" not in errors
    assert (run / "checkpoint.safetensors").exists()


COMMANDS = [
    "export",
    "models",
    *("train", "evaluate", "report", "describe", "restore", "compare"),
    *("data", "presets", "mechanisms", "structure", "reproduce"),
]


def test_help_lists_and_completion_do_not_load_torch_or_scikit_learn():
    """`licm.config` too: what names can be set is known without torch."""
    script = (
        "import sys, licm, licm.cli, licm.config\n"
        "from tests.commands import licm as typed\n"
        "heavy = ('torch', 'sklearn', 'scipy', 'matplotlib', 'PIL', 'torchmetrics', 'jinja2')\n"
        f"for words in ([], *([name] for name in {COMMANDS})):\n"
        "    assert typed(*words, '--help').returncode == 0\n"
        "for words in (['data'], ['presets'], ['models'], ['models', 'mnist-10'], ['--version']):\n"
        "    assert typed(*words).returncode == 0\n"
        "import os\n"
        "os.environ |= {'_LICM_COMPLETE': 'complete_bash', 'COMP_CWORD': '3', 'COMP_WORDS': 'licm train --preset pa'}\n"
        "assert 'paper' in typed().stdout\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    done = typed(command, "--help")
    assert done.returncode == 0
    assert f"Example: licm {command}" in done.stdout


def test_every_command_is_tested_for_its_help():
    assert sorted(COMMANDS) == sorted(command.callback.__name__ for command in app.registered_commands)


def test_licm_alone_shows_what_there_is():
    done = typed()
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)
    assert typed("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("typed_so_far", "offered"),
    [
        ("licm tr", ["train"]),
        ("licm train --preset ", ["default", "paper"]),
        ("licm train --set experts.wi", ["experts.width="]),
        ("licm train --device c", ["cpu", "cuda"]),
        ("licm evaluate runs/a --split v", ["validation"]),
        ("licm data fas", ["fashion-mnist"]),
        ("licm presets p", ["paper"]),
        ("licm mechanisms flip", ["flip_horizontal", "flip_vertical"]),
    ],
)
def test_the_shell_completes(monkeypatch, typed_so_far, offered):
    monkeypatch.setenv("_LICM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed_so_far)
    monkeypatch.setenv("COMP_CWORD", str(typed_so_far.count(" ")))
    done = typed()
    assert done.stdout.split() == offered, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_and_installed(tmp_path, monkeypatch, shell):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: (shell, f"/bin/{shell}"))
    assert "_LICM_COMPLETE" in typed("--show-completion").stdout
    done = typed("--install-completion")
    assert done.returncode == 0
    assert "completion installed in" in done.stdout
    assert any("_LICM_COMPLETE" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_what_a_reader_does_not_want_is_no_error():
    script = "import os; from licm import cli; cli.main()"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, "presets", "paper"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=240,
        )
    finally:
        os.close(writer)
    assert done.stderr == ""

"""Several runs side by side: read from records alone, marked where they are not done, drawn in one figure."""

import json
import shutil
import statistics
from pathlib import Path
from xml.etree import ElementTree

import pytest

from licm import checkpoint as files
from licm.comparison import compare_runs, comparison_figure, comparison_table, save_figure, state_of
from licm.records import _EVALUATION_KEYS
from tests.commands import licm, refused


@pytest.fixture
def runs(small_run, tmp_path) -> list[Path]:
    """Four runs of one configuration but for the seed: three evaluated, the fourth stopped at step 2 of 4."""
    folders = [Path(shutil.copytree(small_run, tmp_path / f"seed-{seed}")) for seed in range(4)]
    for seed, folder in enumerate(folders):
        text = (folder / files.CONFIG).read_text()
        (folder / files.CONFIG).write_text(text.replace("seed: 0", f"seed: {seed}"))
        if seed < 3:
            record = dict.fromkeys(_EVALUATION_KEYS)
            record |= {"steps": 4, "matched_share": 0.7 + 0.1 * seed, "psnr": 15.0 + seed}
            (folder / "evaluation.json").write_text(json.dumps(record))
    files.cut_history(folders[3], 2)
    return folders


def test_records_of_several_runs(runs):
    comparison = compare_runs(runs)
    assert [run["seed"] for run in comparison["runs"]] == [0, 1, 2, 3]
    assert [run["finished"] for run in comparison["runs"]] == [True, True, True, False]
    assert [run["evaluated_step"] for run in comparison["runs"]] == [4, 4, 4, None]
    assert comparison["runs"][3]["validation"]["step"] == [2]
    assert comparison["differences"] == {"seed": [0, 1, 2, 3]}
    shares = comparison["summary"]["matched_share"]
    assert (shares["mean"], shares["std"]) == pytest.approx((0.8, statistics.stdev([0.7, 0.8, 0.9])))
    assert (shares["min"], shares["max"], shares["count"]) == (0.7, pytest.approx(0.9), 3)
    assert "accuracy_restored" not in comparison["summary"]
    assert json.loads(json.dumps(comparison)) == comparison


def test_what_is_unfinished_or_evaluated_earlier_is_marked_and_not_in_the_mean(runs):
    record = json.loads((runs[2] / "evaluation.json").read_text())
    (runs[2] / "evaluation.json").write_text(json.dumps({**record, "steps": 3, "matched_share": 0.0}))
    (runs[3] / "evaluation.json").write_text(json.dumps({**record, "steps": 2, "matched_share": 0.0}))
    comparison = compare_runs(runs)
    assert [state_of(run) for run in comparison["runs"]] == [
        "finished",
        "finished",
        "finished; evaluated at step 3",
        "unfinished, step 2 of 4",
    ]
    assert comparison["summary"]["matched_share"]["mean"] == pytest.approx(0.75)
    assert compare_runs(runs[:1])["summary"] == {}


def test_the_table(runs):
    lines = comparison_table(compare_runs(runs)).splitlines()
    assert lines[0].split() == ["run", "seed", "matched", "share", "PSNR,", "dB", "state"]
    assert lines[2].split() == [str(runs[1]), "1", "0.800", "16.0", "finished"]
    assert lines[4].split()[1:4] == ["3", "-", "-"]
    assert lines[4].endswith("unfinished, step 2 of 4; not evaluated")
    assert lines[5].split()[:3] == ["mean", "0.800", "16.0"]
    assert lines[6].split()[:3] == ["std", "0.100", "1.0"]
    assert lines[5].endswith("of the 3 finished and evaluated")
    assert lines[-1] == "seed: 0, 1, 2, 3"


def test_the_figure(runs):
    figure = comparison_figure(compare_runs(runs))
    course, share, psnr = figure.axes
    drawn = [line for line in course.lines if len(line.get_xdata())]
    assert [line.get_linestyle() for line in drawn] == ["-", "-", "-", "--"]
    history = [r for r in files.read_history(runs[0]) if r["kind"] == "validation"]
    assert drawn[0].get_ydata().tolist() == [record["matched_share"] for record in history]
    assert [line.get_ydata()[0] for line in share.lines] == pytest.approx([0.7, 0.8, 0.9, 0.8])  # the last is the mean
    assert psnr.get_ylabel() == "PSNR, dB"
    assert share.get_title() == "0.8 ± 0.1, 3 runs"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[3] == f"{runs[3]} (unfinished, step 2 of 4; not evaluated)"


def test_on_the_command_line(runs, tmp_path):
    done = licm("compare", *runs, "--out", tmp_path / "c.svg")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"saved: {tmp_path / 'c.svg'}"
    assert ElementTree.parse(tmp_path / "c.svg").getroot().tag.endswith("svg")
    assert json.loads(licm("compare", *runs, "--json").stdout) == compare_runs([str(run) for run in runs])
    done = licm("compare", *runs, "--quiet", "--out", tmp_path / "c.png")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_the_same_records_give_the_same_svg(runs, tmp_path):
    for name in ("a.svg", "b.svg"):
        save_figure(compare_runs(runs), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_what_is_refused(runs, tmp_path):
    assert "is given twice" in refused("compare", runs[0], runs[1], runs[0] / ".")
    line = refused("compare", runs[0], "--out", tmp_path / "c.pdf")
    assert "c.pdf': expected a name that ends in .png or .svg" in line
    (tmp_path / "c.png").write_bytes(b"mine")
    line = refused("compare", runs[0], "--out", tmp_path / "c.png")
    assert "exists already: choose another name, nothing is overwritten" in line
    assert (tmp_path / "c.png").read_bytes() == b"mine"
    (runs[3] / files.HISTORY).unlink()
    line = refused("compare", runs[3], "--out", tmp_path / "d.png")
    assert "there is nothing to draw: no run was evaluated (licm evaluate RUN)" in line
    (runs[1] / "evaluation.json").write_text("{")
    assert "evaluation.json' is damaged; write it again with: licm evaluate" in refused("compare", *runs)
    (runs[0] / files.HISTORY).write_text("{}\n{}\n")
    assert "history.jsonl' is damaged: line 1 is not a record" in refused("compare", runs[0])
    with pytest.raises(ValueError, match="expected at least one run folder"):
        compare_runs([])

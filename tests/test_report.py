"""The page: what it says of known records, that it needs nothing beside it, and runs that lack some records."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinyhtml5
import torch
from PIL import Image
from tinyhtml5.parser import HTMLParser

from licm import checkpoint as files
from licm.captions import ALTERNATIVES, headlines, what_was_learnt
from licm.config import make_config
from licm.describing import describe_and_save
from licm.drawing import DARK, mosaic, render
from licm.evaluation import evaluate, take_samples
from licm.figures import FIGURES, sample_grid, summary, winner_heatmap
from licm.records import EVALUATION, SAMPLES, Records, Samples, load_samples, read_records, save_samples
from licm.report import write_report
from licm.run import restore_images
from licm.saving import load_run
from licm.training import train
from tests.commands import refused
from tests.conftest import SMALL_RUN
from tests.problems import bars

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


def evaluated(folder: Path) -> Path:
    files.write_text(folder / EVALUATION, json.dumps(evaluate(folder)))
    save_samples(folder / SAMPLES, take_samples(folder))
    return folder


@pytest.fixture(scope="module")
def drawn(_trained, tmp_path_factory) -> Path:
    """An evaluated run without its weights, and its report: nothing but records is needed."""
    folder = Path(shutil.copytree(_trained, tmp_path_factory.mktemp("drawn") / "run"))
    evaluated(folder)
    describe_and_save(folder)
    for weights in folder.glob("checkpoint*"):
        weights.unlink()
    write_report(folder)
    return folder


def text_of(folder: Path) -> str:
    """What a person reads on the page."""
    page = (folder / "report.html").read_text()
    body = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(body.replace("&#39;", "'").split())


def elements(folder: Path, tag: str) -> list[dict[str, str]]:
    tree = tinyhtml5.parse((folder / "report.html").read_text(), namespace_html_elements=False)
    return [dict(element.attrib) for element in tree.iter(tag)]


def records_with(winners: list[list[float]], **changes: Any) -> Records:
    """Records of two mechanisms, three experts and one validation, with known answers."""
    config = make_config(overrides={"num_experts": 3, "mechanisms": ["invert", "shift(dx=2)"], **changes})
    validation = {
        "step": 20,
        "matched_share": 0.75,
        "psnr": 15.25,
        "accuracy_restored": 0.9,
        "winner_matrix": winners,
        "score_matrix": [[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]],
    }
    judge = {"step": 0, "accuracy_clean": 0.98, "accuracy_transformed": 0.5}
    history = {"identity": [], "judge": [judge], "step": [], "validation": [validation], "revival": []}
    return Records(Path("runs/x"), config, {}, history)


def test_what_was_learnt_says_who_owns_what():
    whole = records_with([[0, 0, 1], [0.96, 0.04, 0]])
    assert what_was_learnt(whole).startswith("Each of the 2 mechanisms has an expert of its own")
    assert whole.expert_order == [2, 0, 1]
    part = records_with([[0, 0, 1], [0.5, 0.46, 0.04]])
    assert what_was_learnt(part) == (
        "1 of 2 mechanisms has an expert of its own, which wins at least 95 % of its images. "
        "The others: shift(dx=2) is won by expert 0 (50 %) and expert 1 (46 %)."
    )


def test_headlines_name_their_bounds():
    found = {line.name: line for line in headlines(records_with([[0, 0, 1], [1, 0, 0]]))}
    assert (found["matched share"].value, found["PSNR"].value) == ("0.750", "15.2 dB")
    assert found["accuracy, restored"].value == "0.900"
    assert "on clean images on 0.980, on the transformed ones, before restoring, on 0.500" in (
        found["accuracy, restored"].meaning
    )
    few = headlines(records_with([[1], [0.5]], num_experts=1))
    assert few[0].name == "coverage"


def test_alternative_texts_state_what_is_on_the_figures():
    records = records_with([[0, 0, 1], [0.96, 0.04, 0]])
    words = ALTERNATIVES["winners"](records)
    assert "2 mechanisms by 3 experts, over the validation images at step 20" in words
    assert "invert: expert 2 (100 %); shift(dx=2): expert 0 (96 %)" in words
    words = ALTERNATIVES["specialisation"](records)
    assert "invert: expert 2, 0.70 against 0.20 of the next, settled at step 20" in words
    assert "accuracy from 0.900 to 0.900, between 0.500 on transformed and 0.980" in ALTERNATIVES["learning"](records)


def test_samples_are_what_the_experts_make_of_the_test_images(small_run):
    samples, run = take_samples(small_run, each=2), load_run(small_run)
    assert samples.inputs.shape == samples.originals.shape == (4, 1, 12, 12)
    assert samples.mechanism.tolist() == [0, 0, 1, 1]
    inputs = torch.from_numpy(samples.inputs) / 255
    assert torch.equal(torch.from_numpy(samples.inputs[:2]), 255 - torch.from_numpy(samples.originals[:2])), "invert"
    scores, winners, restored = restore_images(run, inputs)
    assert samples.winners.tolist() == winners.tolist() == samples.scores.argmax(axis=1).tolist()
    assert samples.scores == pytest.approx(scores.T.numpy(), abs=1e-3)
    won = samples.outputs[np.arange(4), samples.winners]
    assert won / 255 == pytest.approx(restored.numpy(), abs=0.01)


def test_samples_come_back_as_saved(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    saved = Samples(images, np.stack([images, images], axis=1), np.eye(2, dtype=np.float32), np.array([0, 1]))
    save_samples(tmp_path / "s.npz", saved)
    found = load_samples(tmp_path / "s.npz")
    assert found.mechanism is found.originals is None
    assert all(np.array_equal(getattr(found, name), value) for name, value in vars(saved).items() if value is not None)
    save_samples(tmp_path / "s.npz", Samples(images, images[None], np.eye(2, dtype=np.float32), np.array([0, 1])))
    with pytest.raises(ValueError, match=r"s.npz' is damaged; write it again with: licm evaluate"):
        load_samples(tmp_path / "s.npz")


def test_the_grid_shows_the_saved_pixels():
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 1, 4, 4), dtype=np.uint8)
    ground, lefts, uppers = mosaic(images, [0, 5, 1], 2)
    assert (lefts, uppers, ground.shape) == ([0, 9, 14], [0, 6], (10, 18, 4))
    assert np.array_equal(ground[6:10, 9:13, 1], images[1, 1, 0])
    assert ground[4:6].max() == ground[:, 4:9].max() == 0, "gaps are transparent"


def test_the_page_is_valid_and_loads_nothing(drawn):
    parser = HTMLParser()
    page = (drawn / "report.html").read_text()
    parser.parse(page)
    assert parser.errors == []
    images, sources = elements(drawn, "img"), elements(drawn, "source")
    assert len(images) == len(sources) == 8
    assert all(len(image["alt"]) > 60 and image["src"].startswith("data:image/svg+xml;base64,") for image in images)
    assert all(source["srcset"].startswith("data:image/svg+xml;base64,") for source in sources)
    assert not any(elements(drawn, tag) for tag in ("script", "link", "iframe", "object", "a"))
    assert "@import" not in page
    assert "url(" not in page
    pictures = [base64.b64decode(image["src"].partition(",")[2]).decode() for image in images]
    loaded = [target for svg in pictures for target in re.findall(r'(?:href|src)="([^"]*)"', svg)]
    assert loaded
    assert all(target.startswith(("#", "data:")) for target in loaded)


def test_the_page_says_what_the_records_say(drawn):
    text, record = text_of(drawn), json.loads((drawn / EVALUATION).read_text())
    assert "Finished after 4 steps" in text
    assert f"matched share {record['matched_share']:.3f}" in text
    assert f"on clean images on {record['accuracy_clean']:.3f}" in text
    assert "Over 20 test images, which training never saw; each under one of 2 mechanisms." in text
    assert "changed: num_experts = 3 , mechanisms = ['invert', 'shift(dx=2)']" in text
    assert f"licm train --config {drawn}/config.yaml --out runs/again" in text
    assert "No expert was revived." in text
    assert "1 thread on cpu" in text
    assert (drawn / "config.yaml").read_text().split() == text.split("config.yaml :")[1].split("Drawn from")[0].split()


def test_drawn_again_it_is_the_same_to_the_byte(drawn, tmp_path):
    again = write_report(drawn, tmp_path / "report.html")
    first = [drawn / path.relative_to(tmp_path) for path in again]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert {path.suffix for path in again} == {".html", ".png", ".svg"}


def test_a_report_in_a_new_place_overwrites_no_figures(drawn, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "winners.png").write_text("mine")
    taken = refused("report", drawn, "--out", tmp_path / "a.html")
    assert "winners.png' exists already: choose another folder, nothing is overwritten" in taken
    assert (tmp_path / "figures" / "winners.png").read_text() == "mine"
    assert not (tmp_path / "a.html").exists()


def test_what_is_no_report_is_not_overwritten(drawn, tmp_path):
    (tmp_path / "thesis.html").write_text("<html>mine</html>")
    (tmp_path / "report.html").mkdir()
    for place in (tmp_path / "thesis.html", tmp_path / "report.html", Path("/dev/null")):
        line = refused("report", drawn, "--out", place)
        assert f"{str(place)!r} exists already and is no report: choose another name, nothing is overwritten" in line
    assert (tmp_path / "thesis.html").read_text() == "<html>mine</html>"
    (tmp_path / "report.html").rmdir()
    (tmp_path / "figures").write_text("mine")
    line = refused("report", drawn, "--out", tmp_path / "report.html")
    assert "figures' cannot be written: file exists" in line


def test_before_the_evaluation_it_says_what_to_type(small_run):
    written = write_report(small_run)
    assert not any("samples" in path.name for path in written)
    assert (small_run / "figures" / "winners.png").exists(), "of the last validation"
    text = text_of(small_run)
    assert f"Not yet: type licm evaluate {small_run} and then licm report {small_run}" in text
    assert "Over the validation images at step 4" in text


def test_an_unfinished_run_has_a_page_too(small_run):
    history = (small_run / files.HISTORY).read_text().splitlines(keepends=True)
    (small_run / files.HISTORY).write_text("".join(history[:3]))  # identity, judge, one step
    assert {p.stem for p in write_report(small_run)} == {"report", "win_shares", "identity", "health"}
    text = text_of(small_run)
    assert f"Not finished: 1 of 4 steps. Go on with: licm train --out {small_run} --resume" in text
    assert "Not yet: the first validation comes at step 2." in text
    (small_run / files.HISTORY).write_text("")
    assert [p.name for p in write_report(small_run)] == ["report.html"]
    assert "has not come to the end of its identity start" in text_of(small_run)


def test_an_old_evaluation_is_called_old(small_run):
    evaluated(small_run)
    record = json.loads((small_run / EVALUATION).read_text())
    (small_run / EVALUATION).write_text(json.dumps({**record, "steps": 2}))
    write_report(small_run)
    assert "The evaluation is of step 2. For a fresh one type" in text_of(small_run)


def test_images_of_ones_own_leave_out_what_nobody_knows(tmp_path):
    for name, images in (("clean", bars(40)), ("spoilt", 1 - bars(30, seed=1))):
        np.savez(tmp_path / f"{name}.npz", images=(images * 255).to(torch.uint8).numpy())
    paths = {"data.canonical": str(tmp_path / "clean.npz"), "data.transformed": str(tmp_path / "spoilt.npz")}
    train(make_config(overrides={**SMALL_RUN, **paths}), tmp_path / "run")
    evaluated(tmp_path / "run")
    samples = load_samples(tmp_path / "run" / SAMPLES)
    assert samples.originals is samples.mechanism is None
    written = {path.stem for path in write_report(tmp_path / "run")}
    assert written == {"report", "samples", "win_shares", "identity", "health"}
    text = text_of(tmp_path / "run")
    assert text.count("Left out: what happened to images of your own is not known") == 3
    assert "Over 30 images of your own" in text
    records = read_records(tmp_path / "run")
    for draw in (winner_heatmap, summary):
        with pytest.raises(ValueError, match="records: no winner matrix, which needs known mechanisms"):
            draw(records)


def test_without_labels_the_accuracy_is_left_out(small_run):
    lines = (small_run / files.HISTORY).read_text().splitlines()
    kept = [json.loads(line) for line in lines if '"judge"' not in line]
    kept = [{**r, "accuracy_restored": None} if r["kind"] == "validation" else r for r in kept]
    (small_run / files.HISTORY).write_text("".join(json.dumps(r) + "\n" for r in kept))
    write_report(small_run)
    assert "Accuracy is left out" in text_of(small_run)
    assert "accuracy, restored" not in text_of(small_run)


def test_a_grid_needs_samples(small_run):
    with pytest.raises(ValueError, match=r"records: no samples; write them with: licm evaluate"):
        sample_grid(read_records(small_run))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (EVALUATION, b"{", r"evaluation.json' is damaged; write it again with: licm evaluate"),
        (EVALUATION, b'{"split": "test"}', r"written by another version: the record lacks num_images"),
        (SAMPLES, b"PK\x03\x04 cut", r"samples.npz' is damaged; write it again"),
        (files.HISTORY, b'{"kind": "step", "step": 1}\n', r"a record of kind 'step' lacks discriminator_loss"),
    ],
)
def test_damaged_records_are_named(small_run, name, content, message):
    (small_run / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        write_report(small_run)
    assert not (small_run / "report.html").exists()


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_a_dark_side(drawn, name):
    """The background is the theme's, and something stands out against it."""
    image = Image.open(io.BytesIO(render(FIGURES[name](read_records(drawn), theme=DARK), "png"))).convert("L")
    assert image.getpixel((0, 0)) < 40
    assert image.getextrema()[1] > 200


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", "--disable-background-networking", "--disable-component-update"]
    return subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=240, check=True)


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_a_browser_shows_the_page_and_forbids_it_to_load_anything(drawn, tmp_path):
    """The page's own policy forbids every request; a browser that keeps it has nothing to complain of."""
    screenshot = tmp_path / "page.png"
    done = browse(drawn / "report.html", tmp_path, "--window-size=1150,2000", f"--screenshot={screenshot}")
    assert "CONSOLE" not in done.stderr
    shown = np.asarray(Image.open(screenshot).convert("RGB")).reshape(-1, 3)
    assert (shown == (255, 255, 255)).all(axis=1).mean() > 0.5
    assert (shown == (0, 114, 178)).all(axis=1).sum() > 1000, "the accent of the figures"
    page = (drawn / "report.html").read_text()
    (tmp_path / "leak.html").write_text(page.replace("</main>", '<img src="https://example.org/x.png"></main>'))
    done = browse(tmp_path / "leak.html", tmp_path, "--dump-dom")
    assert "CONSOLE" in done.stderr, "a request from the page would have been seen"
    # Without the policy a script may count the images that were decoded.
    probe = "onload = () => document.body.dataset.drawn = [...document.images].filter(i => i.naturalWidth).length"
    free = re.sub(r"<meta http-equiv.*?>", "", page).replace("</body>", f"<script>{probe}</script></body>")
    (tmp_path / "probe.html").write_text(free)
    assert 'data-drawn="8"' in browse(tmp_path / "probe.html", tmp_path, "--dump-dom").stdout

"""Cards of experts: known answers for known experts, no label read, what is saved and drawn, what is refused."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from licm.checkpoint import read_config
from licm.confidence import CALIBRATION
from licm.describing import describe, describe_run, guess_mechanism, make_probes, read_answers
from licm.drawing import LIGHT, render
from licm.figures import expert_cards
from licm.mechanisms import Mechanism, parse_mechanism
from licm.operators import Operator
from licm.records import DESCRIPTION, PICTURES, Pictures, load_pictures, read_records
from licm.report import write_report
from licm.run import restore_images
from licm.saving import load_run
from licm.seeding import generator
from tests.commands import licm, refused
from tests.problems import bars

CLEAN = bars(40)
UNDONE = {  # mechanism -> in words, as its notation or None
    "shift(dy=-2, dx=1)": "a movement by 2 px up and 1 px right",
    "invert": "an inversion of the contrast",
    "gain(factor=0.50, offset=0.20)": "a change of gain and offset",
    "identity": "nothing",
}


@pytest.mark.parametrize("notation", UNDONE)
def test_a_perfect_expert_tells_its_mechanism(notation):
    """Images whose originals come back exactly, wherever the mechanism lost nothing."""
    seen = parse_mechanism(notation)(CLEAN)
    guess = guess_mechanism(seen, CLEAN, radius=4)
    assert (guess["mechanism"], guess["undone"], guess["fit"]) == (notation, UNDONE[notation], "well")
    assert guess["quality"] > 0.99
    assert guess["unexplained"] < 0.01
    assert guess["forward"] is None
    with_forward = guess_mechanism(seen, CLEAN, seen, radius=4)
    assert with_forward["forward"]["quality"] > 0.99
    assert with_forward["mechanism"] == notation


def test_noise_is_what_the_output_does_not_tell():
    seen = Mechanism("noise", {"variance": 0.25})(CLEAN, generator(0, "noise"))
    for back in (None, seen.mean(dim=0, keepdim=True).expand_as(seen)):
        guess = guess_mechanism(seen, CLEAN, back, radius=4)
        assert (guess["mechanism"], guess["undone"]) == ("noise", "noise")
        assert guess["unexplained"] > 0.2
        assert guess["does"].startswith("smooths")


def test_an_expert_that_has_collapsed_undoes_nothing():
    flat = Operator(texture="smoothed", sigma=2.0, tone="scaled", gain=0.04, offset=0.47)(CLEAN)
    guess = guess_mechanism(CLEAN, flat, radius=4)
    assert (guess["mechanism"], guess["undone"]) == (
        None,
        "nothing that can be told: what it gives is nearly flat",
    )


def test_blur_and_its_opposite():
    grey = Operator(texture="smoothed", sigma=1.0)(CLEAN) * 0.6 + 0.2
    blurred = Operator(texture="smoothed", sigma=1.0)(grey)
    guess = guess_mechanism(blurred, grey, radius=4)
    assert (guess["mechanism"], guess["undone"]) == ("blur(sigma=1)", "a blur")
    assert guess["does"].startswith("sharpens")
    other = guess_mechanism(grey, blurred, radius=4)
    assert (other["mechanism"], other["undone"]) == (None, "a sharpening")


def test_what_is_smoothed_on_the_way_there_and_back_is_the_networks_own():
    smooth = Operator(texture="smoothed", sigma=0.75)
    original = CLEAN * 0.6 + 0.2
    seen = Mechanism("shift", {"dy": 2})(original)
    made = smooth(original)
    alone = guess_mechanism(seen, made, radius=4)
    assert alone["does"] == "moves by 2 px up, smooths (sigma 0.75 px)"
    back = Mechanism("shift", {"dy": 2})(smooth(made))
    guess = guess_mechanism(seen, made, back, radius=4)
    assert guess["forward"]["does"] == "moves by 2 px down, smooths (sigma 0.75 px)"
    assert (guess["mechanism"], guess["undone"]) == ("shift(dy=2)", "a movement by 2 px down")


def test_a_forward_network_that_tells_nothing_makes_no_noise():
    seen = Mechanism("shift", {"dx": 2})(CLEAN)
    dead = 0.01 * torch.rand(CLEAN.shape, generator=generator(0, "dead"))
    guess = guess_mechanism(seen, Operator(texture="smoothed", sigma=0.5)(CLEAN), dead, radius=4)
    assert guess["unexplained"] < 0.15 < (seen - dead).std()
    assert guess["undone"] != "noise"
    assert guess["forward"]["quality"] < 0.1, "what the card says of it stays"


def test_two_parts_are_told_together():
    guess = guess_mechanism(parse_mechanism("shift(dx=2) | invert")(CLEAN), CLEAN, radius=4)
    assert guess["undone"] == "a movement by 2 px right and an inversion of the contrast"
    assert guess["mechanism"] == "shift(dx=2) | invert"


def test_experts_of_which_little_can_be_said():
    assert set(guess_mechanism(CLEAN[:1], CLEAN[:1], radius=4).values()) == {None}
    one_colour = guess_mechanism(CLEAN, torch.full_like(CLEAN, 0.3), radius=4)
    assert one_colour["does"] == "gives one and the same colour, whatever it sees"
    assert one_colour["mechanism"] is one_colour["quality"] is None
    mixed = torch.cat([CLEAN[:20], CLEAN[20:].transpose(-1, -2)])
    assert guess_mechanism(mixed, CLEAN, radius=2)["fit"] in ("roughly", "poorly"), "one half is turned over"


def test_answers_to_dot_edge_and_flat_field():
    probes = make_probes(20, 1)
    same = read_answers(probes, probes)
    assert same["dot"] == {"dy": 0, "dx": 0, "spread": 1.15}
    assert (same["edge"]["dark"], same["edge"]["bright"]) == (0, 1)
    assert same["flat"] == {"mean": 0.5, "std": 0}
    moved = read_answers(probes, Operator(dy=3, dx=-2, tone="inverted", gain=-1, offset=1)(probes))
    assert (moved["dot"]["dy"], moved["dot"]["dx"]) == (3, -2)
    assert (moved["edge"]["dark"], moved["edge"]["bright"]) == (1, 0)
    soft = read_answers(probes, Operator(texture="smoothed", sigma=1.5)(probes))
    assert soft["dot"]["spread"] > 1.5
    assert soft["edge"]["width"] == pytest.approx(2 * 0.8416 * 1.5, abs=0.3), "a fifth to four fifths of a Gaussian"
    gone = read_answers(probes, torch.full_like(probes, 0.2))
    assert gone["dot"] is gone["edge"]["width"] is None


def test_a_run_is_described_by_what_its_experts_win(small_run):
    run = load_run(small_run)
    images = 1 - bars(30, seed=2)
    record, pictures = describe_run(run, images)
    _, winners, restored = restore_images(run, images)
    assert [card["share"] for card in record["experts"]] == pytest.approx(
        [(winners == j).sum().item() / 30 for j in range(3)]
    )
    assert json.loads(json.dumps(record))["num_images"] == 30
    for j, count in enumerate(pictures.shown):
        won = (winners == j).nonzero().flatten()[:4]
        assert count == len(won)
        assert (np.abs(pictures.outputs[j, :count] / 255.0 - restored[won].numpy()) < 0.01).all()
    assert describe(small_run, images=images)["experts"] == record["experts"]


def test_no_label_is_read(small_run, monkeypatch):
    """With labels and mechanisms' numbers spoilt, the description is the same."""
    from licm import describing

    before = describe(small_run)
    load = describing.load_training_data

    def spoilt(**keywords):
        data = load(**keywords)
        return SimpleNamespace(transformed=data.transformed)

    monkeypatch.setattr(describing, "load_training_data", spoilt)
    assert describe(small_run)["experts"] == before["experts"]


def test_on_the_command_line_and_in_the_report(small_run, tmp_path):
    assert read_config(small_run).num_experts == 3
    write_report(small_run)
    assert f"licm describe {small_run}" in (small_run / "report.html").read_text()
    done = licm("describe", small_run)
    assert (done.returncode, done.stderr) == (0, "")
    assert "what it does" in done.stdout
    record = json.loads((small_run / DESCRIPTION).read_text())
    assert json.loads(licm("describe", small_run, "--json").stdout) == record
    assert licm("describe", small_run, "--quiet").stdout == ""
    np.savez(tmp_path / "others.npz", images=bars(7).numpy())
    assert (
        json.loads(licm("describe", small_run, "--json", "--images", tmp_path / "others.npz").stdout)["num_images"] == 7
    )
    write_report(small_run)
    page, record = (small_run / "report.html").read_text(), json.loads((small_run / DESCRIPTION).read_text())
    assert all(card["does"] in page for card in record["experts"] if card["does"])
    records = read_records(small_run)
    assert records.pictures.responses.shape == (3, 3, 1, 12, 12)
    assert len(expert_cards(records, theme=LIGHT).axes) == 1


def test_no_name_of_an_expert_is_cut():
    def black(*shape):
        return np.zeros((*shape, 1, 28, 28), np.uint8)

    cards = [{"expert": e, "share": 0.1, "does": "moves by 4 px down and 4 px right"} for e in range(10)]
    pictures = Pictures(black(10, 4), black(10, 4), np.full(10, 4), black(3), black(10, 3))
    records = SimpleNamespace(description={"experts": cards}, pictures=pictures, expert_order=list(range(10)))
    with Image.open(io.BytesIO(render(expert_cards(records), "png"))) as drawn:
        left = np.asarray(drawn.convert("L"))[:, 0]
    assert (left == left[0]).all()


def test_what_cannot_be_described_is_refused(small_run, tmp_path):
    assert "is not a run folder" in refused("describe", tmp_path / "none")
    np.savez(tmp_path / "small.npz", images=np.zeros((3, 10, 10), np.uint8))
    assert "the discriminator takes 12x12 px, got 10x10" in refused(
        "describe", small_run, "--images", tmp_path / "small.npz"
    )
    with pytest.raises(ValueError, match="records: no description; write it with: licm describe"):
        expert_cards(read_records(small_run))
    licm("describe", small_run)
    (small_run / PICTURES).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"description.npz' is damaged; write it again with: licm describe"):
        load_pictures(small_run / PICTURES)
    (small_run / DESCRIPTION).write_text("{")
    with pytest.raises(ValueError, match=r"description.json' is damaged; write it again with: licm describe"):
        read_records(small_run)
    (small_run / DESCRIPTION).write_text('{"steps": 4, "num_images": 3, "experts": [{"share": 1}]}')
    with pytest.raises(ValueError, match=r"by another version: the card of an expert lacks does, undone"):
        read_records(small_run)


# --- Forward mechanisms -------------------------------------------------------------------------------------


def test_a_run_applies_its_forward_networks(small_run):
    run, images = load_run(small_run), bars(300)
    made = run.apply(images, mechanism=2)
    expected = run.competition.forward[2](images)
    assert made.shape == images.shape
    assert torch.allclose(made, expected, atol=1e-6)
    assert not made.requires_grad
    assert torch.equal(made, run.apply(images, mechanism=np.int64(2))), "as predict gives it"
    assert torch.equal(made, run.apply(images.double(), mechanism=2)), "float64 is what NumPy gives"
    for wrong in (3, -1, np.int64(3), 0.0, True, np.True_):
        with pytest.raises(ValueError, match=r"mechanism: expected the number of an expert, 0 to 2, got"):
            run.apply(images, mechanism=wrong)
    with pytest.raises(ValueError, match=r"images: expected 1 channel\(s\), got 3"):
        run.apply(images.expand(-1, 3, -1, -1), mechanism=0)
    run.experts.retire([2])
    with pytest.raises(ValueError, match="mechanism: expert 2 has retired, and stands for none; left are 0, 1"):
        run.apply(images, mechanism=2)
    run.competition.forward = None
    with pytest.raises(ValueError, match=r"no forward networks.*competition\.cycle_weight above 0"):
        run.apply(images, mechanism=0)


def test_forward_psnr_is_that_of_the_matched_mechanism(small_run, monkeypatch):
    """Forward networks that are the mechanisms themselves have a perfect figure, in the place of their experts."""
    from licm import evaluation
    from tests.test_evaluation import oracle

    class Known(nn.Module):
        def __init__(self, notation: str) -> None:
            super().__init__()
            self.mechanism = parse_mechanism(notation)

        def forward(self, images):
            return self.mechanism(images)

    def load(folder, device):
        run = load_run(folder, device=device)
        run.competition.forward = nn.ModuleList(map(Known, ["identity", "invert", "shift(dx=2)"]))
        return run

    monkeypatch.setattr(evaluation, "restore_images", oracle(lambda m: m + 1, lambda mixture: mixture.originals))
    assert all(value < 59 for value in evaluation.evaluate(small_run)["forward_psnr"][1:])
    monkeypatch.setattr(evaluation, "load_image_run", load)
    assert evaluation.evaluate(small_run)["forward_psnr"] == [None, pytest.approx(60), pytest.approx(60)]
    (small_run / CALIBRATION).unlink()  # of a run that had them
    monkeypatch.setattr(
        evaluation, "load_image_run", lambda folder, device: _without_forward(load_run(folder, device=device))
    )
    assert evaluation.evaluate(small_run)["forward_psnr"] is None


def _without_forward(run):
    run.competition.forward = None
    return run

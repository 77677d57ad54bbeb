"""Trained models: the one of the package keeps what its card says, and an export is small, whole and no pickle."""

import json
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from licm import MechanismInverter, load_originals, load_run, parse_mechanisms
from licm.checkpoint import CHECKPOINT, read_history
from licm.config import make_config
from licm.datasets import evaluation_mixture
from licm.metrics import psnr
from licm.run import build_run, restore_images
from licm.saving import save_weights
from licm.sharing import hub
from licm.sharing.cards import CARD, README, card_text, list_pretrained, read_card, readme_text
from licm.sharing.exporting import MODEL_FILES, export_model
from licm.sharing.onnx import export_onnx
from licm.shipped import SHIPPED
from tests.commands import licm, refused
from tests.conftest import SMALL_RUN
from tests.problems import bars

ROOT = Path(__file__).parents[1]
ON_A_BUSY_MACHINE = pytest.mark.timeout(300)  # these take some seconds of computing, nearly all of it imports


@pytest.fixture(scope="module")
def damaged():
    """The first 200 of the images that the card of mnist-10 speaks of."""
    card = read_card("mnist-10")
    mixture = evaluation_mixture(load_originals("embedded", seed=0).test, parse_mechanisms(card["data"]["mechanisms"]))
    return mixture.select(torch.arange(len(mixture.images)) < 200)


@pytest.fixture
def evaluated(small_run) -> Path:
    assert licm("evaluate", small_run).returncode == 0
    return small_run


def test_the_model_of_the_package_does_what_its_card_says(damaged):
    card = read_card("mnist-10")
    run = MechanismInverter.from_pretrained("mnist-10").run_
    _, winners, restored = restore_images(run, damaged.images)
    owners = torch.tensor(card["metrics"]["winner_matrix"]).argmax(dim=1)
    assert sorted(owners.tolist()) == list(range(10))
    assert (owners[damaged.mechanism] == winners).float().mean() > card["metrics"]["matched_share"] - 0.02
    # of 200 images PSNR has a mean with a standard error of about 0.2 dB
    assert abs(psnr(restored, damaged.originals).mean().item() - card["metrics"]["psnr"]) < 0.8
    routed = restore_images(run, damaged.images, routed=True)[1]
    assert (routed == winners).float().mean() > card["metrics"]["router_agreement"] - 0.03
    inverted = run.apply(damaged.originals[:20], mechanism=int(owners[8]))
    assert psnr(inverted, 1 - damaged.originals[:20]).mean() > 15


@pytest.mark.parametrize("name", SHIPPED)
def test_a_model_of_the_package_is_small_whole_and_told_of(name):
    folder = SHIPPED[name]
    assert sorted(path.name for path in folder.iterdir()) == sorted(MODEL_FILES)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    card = read_card(name)
    assert card["name"] == name
    assert card["licence"]
    assert card["metrics"]
    assert (folder / README).read_text().endswith(card_text(card))
    assert card in list_pretrained()
    assert card["model"]["image_shape"] == list(MechanismInverter.from_pretrained(name).image_shape_)


@ON_A_BUSY_MACHINE
def test_the_wheel_holds_the_models_which_need_neither_network_nor_environment(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {f"licm/data/models/mnist-10/{file}" for file in MODEL_FILES} <= set(names)
    script = (
        "import sys, socket, os\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "def refuse(*a, **k): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import licm, numpy, torch\n"
        "torch.set_num_threads(1)\n"
        "images = numpy.zeros((2, 28, 28), numpy.uint8)\n"
        "images[:, 9:19, 12:16] = 255\n"
        "print(licm.__file__, licm.MechanismInverter.from_pretrained('mnist-10').transform(images).shape)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], env={}, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == f"{tmp_path / 'site' / 'licm' / '__init__.py'} (2, 28, 28)", done.stderr


def test_an_exported_run_restores_like_the_run(small_run, tmp_path):
    run, images = load_run(small_run), 1 - bars(20, seed=3)
    scores, winners, restored = restore_images(run, images)
    for half, tolerance in ((False, 0.0), (True, 2e-3)):  # float16 has 11 bits; a score moves by a few of the last
        card = export_model(small_run, tmp_path / str(half), half=half)
        got = restore_images(load_run(tmp_path / str(half)), images)
        assert (got[0] - scores).abs().max() <= tolerance
        assert ((got[2] - restored).abs().amax(dim=(1, 2, 3))[got[1] == winners] <= tolerance).all()
        assert card["model"]["precision"] == ("float16" if half else "float32")


def test_an_exported_run_is_weights_alone_and_no_pickle(small_run, tmp_path):
    out = tmp_path / "shared"
    export_model(small_run, out)
    assert sorted(path.name for path in out.iterdir()) == sorted(MODEL_FILES)
    with safe_open(out / CHECKPOINT, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name.split(".")[0] for name in found} == {"bank", "discriminator", "forward", "router"}
    assert {str(tensor.dtype) for tensor in found.values()} == {"torch.float16", "torch.int64"}
    assert not any(path.read_bytes().startswith((b"PK", b"\x80")) for path in out.iterdir())
    assert (out / CHECKPOINT).stat().st_size < (small_run / CHECKPOINT).stat().st_size / 3
    assert [record["step"] for record in read_history(out) if record["kind"] == "step"] == [4]


def test_who_is_retired_stays_so(small_run, tmp_path):
    run = load_run(small_run)
    run.experts.retire([1])
    save_weights(run, small_run)
    export_model(small_run, tmp_path / "shared")
    assert load_run(tmp_path / "shared").experts.competing.tolist() == [True, False, True]


def test_what_float16_cannot_hold_stays_as_it_is(small_run, tmp_path):
    run = load_run(small_run)
    with torch.no_grad():
        run.discriminator.logit.bias.fill_(1e6)
    save_weights(run, small_run)
    with safe_open(small_run / CHECKPOINT, framework="pt") as file:
        assert file.get_tensor("discriminator.logit.bias").item() == 1e6
        assert file.get_tensor("discriminator.logit.weight").dtype == torch.float16


def test_training_can_go_on_from_a_model(small_run, tmp_path):
    export_model(small_run, tmp_path / "shared")
    inverter = MechanismInverter.from_pretrained(tmp_path / "shared")
    before = inverter.transform(bars(8))
    inverter.partial_fit(1 - bars(20), canonical=bars(20, seed=1))
    assert (inverter.run_.step, inverter.n_iter_) == (4, 8)
    assert not torch.equal(inverter.transform(bars(8)), before)


def test_the_card_has_the_figures_of_the_evaluation(evaluated, tmp_path):
    record = json.loads((evaluated / "evaluation.json").read_text())
    done = licm("export", evaluated, tmp_path / "own", "--licence", "MIT", "--note", "Bars of mine.", "--json")
    card = json.loads(done.stdout)
    assert card == read_card(tmp_path / "own")
    assert (card["name"], card["licence"]) == ("own", "MIT")
    assert {key: record[key] for key in card["metrics"]} == card["metrics"]
    assert "psnr" in card["metrics"]
    assert card["measured_with"] == record["provenance"]
    assert card["training"]["trained_with"] == record["trained_with"]
    _, header, text = (tmp_path / "own" / README).read_text().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "mit"
    assert "Bars of mine." in text
    assert f"| PSNR of the restored images, dB | {record['psnr']:.2f} |" in text
    assert licm("models", tmp_path / "own").stdout.strip() == text.strip()
    again = export_model(tmp_path / "own", tmp_path / "again")
    assert again == card


def test_a_card_tells_no_paths(small_run, bars_file, tmp_path):
    export_model(small_run, tmp_path / "shared")
    assert str(bars_file) in (small_run / "config.yaml").read_text()
    for path in (tmp_path / "shared").iterdir():
        assert str(bars_file.parent).encode() not in path.read_bytes(), path.name
    assert read_card(tmp_path / "shared")["data"]["source"] == f"…/{bars_file.name}"


def test_a_path_that_ends_like_a_known_source_does_not_become_it(small_run, bars_file, tmp_path):
    """Or the export would be measured on another data set, and its card would name that."""
    text = (small_run / "config.yaml").read_text()
    assert str(bars_file) in text
    (small_run / "config.yaml").write_text(text.replace(str(bars_file), "/mine/mnist"))
    card = export_model(small_run, tmp_path / "shared")
    assert card["data"]["source"] == "…/mnist"


def test_a_figure_of_nought_is_on_the_card(evaluated, tmp_path):
    record = json.loads((evaluated / "evaluation.json").read_text())
    (evaluated / "evaluation.json").write_text(json.dumps(record | {"ari": 0.0}))
    assert "| ARI of winner against mechanism | 0.0000 |" in readme_text(export_model(evaluated, tmp_path / "shared"))


def test_what_export_refuses(evaluated, tmp_path):
    assert "exists already and is no run" in refused("export", evaluated, tmp_path)
    assert "an ONNX file has no card" in refused("export", evaluated, tmp_path / "a.onnx", "--licence", "MIT")
    record = json.loads((evaluated / "evaluation.json").read_text())
    (evaluated / "evaluation.json").write_text(json.dumps({**record, "steps": 2}))
    assert "not of step 4: write it with licm evaluate" in refused("export", evaluated, tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_a_card_without_figures_says_so(small_run, tmp_path):
    done = licm("export", small_run, tmp_path / "own")
    assert "the card has no figures: evaluate first" in done.stderr
    assert "Not measured." in (tmp_path / "own" / README).read_text()
    (tmp_path / "own" / CARD).write_text("{}")
    assert "card.json' is damaged, or was written by another version" in refused("models", tmp_path / "own")
    assert "has no card: it is no model to share" in refused("models", small_run)


def test_names(small_run, tmp_path):
    with pytest.raises(ValueError, match="unknown model 'mnist-11': did you mean 'mnist-10'"):
        MechanismInverter.from_pretrained("mnist-11")
    assert MechanismInverter.from_pretrained(small_run).n_iter_ == 4
    assert "unknown model 'mnits-10': did you mean 'mnist-10'?" in refused("models", "mnits-10")
    assert "there is no such folder; did you mean 'mnist-10'?" in refused("evaluate", "mnist_10")
    for command in ("evaluate", "describe", "report", "compare"):
        assert "licm export mnist-10 FOLDER makes a copy of the model" in refused(command, "mnist-10")
    assert [line.split()[0] for line in licm("models").stdout.splitlines()[1:]] == list(SHIPPED)
    assert json.loads(licm("models", "--json").stdout) == list_pretrained()
    assert licm("models", "mnist-10").stdout.startswith("# mnist-10\n")


def test_restoring_by_the_name_of_a_model(damaged, tmp_path):
    index = int((damaged.mechanism == 8).nonzero()[0])  # an inverted one
    Image.fromarray((damaged.images[index, 0] * 255).byte().numpy()).save(tmp_path / "inverted.png")
    done = licm("restore", "mnist-10", tmp_path / "inverted.png", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    restored = torch.from_numpy(np.array(Image.open(tmp_path / "out" / "inverted.png"))) / 255
    assert psnr(restored[None, None], damaged.originals[index : index + 1]).item() > 15
    wrong = refused("restore", "mnist10", tmp_path / "inverted.png", tmp_path / "other")
    assert "there is no such folder; did you mean 'mnist-10'?" in wrong


@pytest.fixture
def on_hub(small_run, tmp_path, monkeypatch):
    """A hub of one model, `me/bars`, with a pickle among its files; it gives and takes what is asked for."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    place = tmp_path / "hub"
    export_model(small_run, place)
    (place / "weights.pkl").write_bytes(b"\x80evil")

    def give(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        if repo_id != "me/bars":
            raise huggingface_hub.errors.HFValidationError(f"Repository Not Found: {repo_id}\nmore")
        cache = tmp_path / f"cache-{revision}"
        cache.mkdir()
        for path in place.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                copy(path, cache)
        return str(cache)

    class Taker:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            self.made = (repo_id, private, exist_ok)

        def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str]) -> str:
            assert self.made == (repo_id, True, True)
            taken = [path.name for path in sorted(folder_path.iterdir()) if path.name in allow_patterns]
            return f"{repo_id}: {' '.join(taken)}"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    monkeypatch.setattr(huggingface_hub, "HfApi", Taker)
    return place


def test_a_model_of_the_hub(on_hub, small_run, tmp_path):
    inverter = MechanismInverter.from_pretrained("me/bars", revision="v1")
    assert sorted(path.name for path in (tmp_path / "cache-v1").iterdir()) == sorted(MODEL_FILES)  # no pickle
    expected = MechanismInverter.from_pretrained(on_hub)
    assert torch.equal(inverter.transform(bars(4)), expected.transform(bars(4)))
    with pytest.raises(ValueError, match=r"'me/none', and the hub gives no such model: Repository Not Found: me/none$"):
        MechanismInverter.from_pretrained("me/none")
    (on_hub / CHECKPOINT).unlink()
    with pytest.raises(ValueError, match=r"'me/bars' on the hub is no model of this library: checkpoint.safetensors"):
        MechanismInverter.from_pretrained("me/bars")


def test_a_model_to_the_hub(on_hub, small_run):
    assert hub.upload_model(on_hub, "me/new") == f"me/new: {' '.join(sorted(MODEL_FILES))}"
    with pytest.raises(ValueError, match="has no card: make a model to share of a run with licm export"):
        hub.upload_model(small_run, "me/new")


def test_extras_that_are_missing(small_run, tmp_path, monkeypatch):
    for module in ("hub", "onnx"):
        monkeypatch.setattr(f"licm.sharing.{module}.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"the hub needs huggingface_hub: pip install 'licm\[hub\]'"):
        MechanismInverter.from_pretrained("me/bars")
    with pytest.raises(ValueError, match=r"the hub needs huggingface_hub: pip install 'licm\[hub\]'"):
        hub.upload_model(small_run, "me/bars")
    assert "needs onnx and onnxscript: pip install 'licm[onnx]'" in refused("export", small_run, tmp_path / "a.onnx")


def parity(run, path: Path, images: torch.Tensor) -> None:
    """The graph gives what the run gives, for batches of any size."""
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    for batch in images.split([1, len(images) - 1]):
        scores, winners, restored = session.run(None, {"images": batch.numpy()})
        expected = restore_images(run, batch)
        assert np.abs(scores.T - expected[0].numpy()).max() < 1e-4
        assert winners.dtype == np.int64
        assert (winners == expected[1].numpy()).all()
        assert np.abs(restored - expected[2].numpy()).max() < 1e-4


def test_onnx_gives_the_same(tmp_path):
    pytest.importorskip("onnxscript")
    other = {"experts.normalization": "layer", "experts.head": "residual", "experts.coordinates": True}
    run = build_run(make_config(overrides=SMALL_RUN | other), channels=3, image_size=12)
    run.experts.retire([0])
    export_onnx(run, tmp_path / "a.onnx")
    parity(run, tmp_path / "a.onnx", torch.rand(9, 3, 12, 12, generator=torch.Generator().manual_seed(0)))


@ON_A_BUSY_MACHINE
def test_the_model_of_the_package_as_onnx(damaged, tmp_path):
    pytest.importorskip("onnxscript")
    path = tmp_path / "mnist-10.onnx"
    assert licm("export", "mnist-10", path).stdout == f"saved: {path}\n"
    parity(load_run(SHIPPED["mnist-10"]), path, damaged.images[:20])
    assert "exists already: choose another name" in refused("export", "mnist-10", path)
    with pytest.raises(ValueError, match=r"expected a name that ends in .onnx"):
        export_onnx(load_run(SHIPPED["mnist-10"]), tmp_path / "a.bin")

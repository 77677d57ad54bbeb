"""The estimator on paths: folders are read as for the fit, and of a fit on crops whole images come back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import licm
from licm import MechanismInverter
from licm.restoring import restore_files
from tests.test_estimator import BYTES, CLEAN, SPOILT, TINY, inverter, paths


@pytest.fixture(scope="module")
def fitted() -> MechanismInverter:
    return inverter().fit(SPOILT, canonical=CLEAN)


def test_paths_are_read_and_named_in_the_run(tmp_path):
    path = paths(tmp_path)
    np.savez(tmp_path / "clean.npz", images=CLEAN.numpy())
    fitted = inverter().fit(path, canonical=tmp_path / "clean.npz")
    assert fitted.run_.config.data.transformed == path
    fitted.save(tmp_path / "run")
    assert json.loads(json.dumps(licm.evaluate(tmp_path / "run")))["num_images"] == 24


def test_a_relative_path_is_kept_whole(tmp_path, monkeypatch):
    """Or what is in a folder of the same name elsewhere would be taken for the images of training."""
    path = Path(paths(tmp_path))
    monkeypatch.chdir(path.parent)
    fitted = inverter().fit(path.name, canonical=CLEAN)
    monkeypatch.chdir("/")
    assert fitted.run_.config.data.transformed == str(path)
    assert fitted.partial_fit(str(path), canonical=CLEAN).n_iter_ == 6


def test_folders_of_images_of_any_sizes_are_fitted_on_by_crops(tmp_path):
    places = {name: tmp_path / name for name in ("clean", "spoilt")}
    for path, colour in zip(places.values(), (0, 255)):
        path.mkdir()
        for side in range(12, 20):
            pixels = np.full((side, side + 1), colour, np.uint8)
            pixels[2:6, side // 2] = 255 - colour
            Image.fromarray(pixels).save(path / f"{side}.png")
    settings = {**TINY, "data.crop_size": 12}
    fitted = inverter(settings=settings).fit(places["spoilt"], canonical=str(places["clean"]))
    assert fitted.image_shape_ == (1, 12, 12)
    assert fitted.transform(SPOILT).shape == SPOILT.shape
    assert fitted.partial_fit(str(places["spoilt"]), canonical=places["clean"]).n_iter_ == 6
    fitted.save(tmp_path / "run")
    assert MechanismInverter.load(tmp_path / "run").settings["data.crop_size"] == 12
    restore_files(tmp_path / "run", places["spoilt"], tmp_path / "out")
    for path in places["spoilt"].iterdir():
        with Image.open(path) as before, Image.open(tmp_path / "out" / path.name) as after:
            assert before.size == after.size
    for each in (fitted, MechanismInverter.load(tmp_path / "run")):
        whole, names = each.transform(places["spoilt"]), sorted(path.name for path in places["spoilt"].iterdir())
        record = restore_files(tmp_path / "run", places["spoilt"], tmp_path / f"whole-{id(each)}", keep="none")
        for restored, name in zip(whole, names, strict=True):
            with Image.open(tmp_path / f"whole-{id(each)}" / name) as image:
                assert np.array_equal(restored, np.asarray(image)[None]), "what licm restore writes"
        scores, winners = each.decision_function(places["spoilt"]), each.predict(places["spoilt"])
        assert scores.shape == (8, 2)
        assert np.array_equal(scores.argmax(axis=1), winners)
        assert np.bincount(winners, minlength=2).tolist() == record["wins"]
        assert each.score(places["spoilt"]) == pytest.approx(record["mean_score"], abs=1e-5)
        assert each.predict_proba(places["spoilt"]).shape == (8, 2)
        assert each.abstain(places["spoilt"]).shape == (8,)
        assert [array.shape for array in each.apply(places["clean"], mechanism=1)] == [a.shape for a in whole]
        assert np.array_equal(each.transform(places["spoilt"] / "15.png")[0], whole[3])
    Image.fromarray(np.zeros((9, 9, 3), np.uint8) + np.uint8([0, 0, 9])).save(places["spoilt"] / "colour.png")
    with pytest.raises(ValueError, match=r"colour.png: expected a grey image, as the run was trained on, got colour$"):
        fitted.predict(places["spoilt"])
    (places["spoilt"] / "colour.png").unlink()
    with pytest.raises(ValueError, match=r"^settings: 'data.crop_size' is for a fit on two paths of images"):
        inverter(settings=settings).fit(SPOILT, canonical=places["clean"])
    with pytest.raises(ValueError, match=r"^X: expected images like those of the fit"):
        fitted.set_params(settings={**settings, "data.crop_size": 8}).partial_fit(
            places["spoilt"], canonical=places["clean"]
        )


def folder_of(path: Path, images: torch.Tensor, *, colour: bool) -> Path:
    path.mkdir()
    for index, image in enumerate(images):
        pixels = Image.fromarray((image[0] * 255).round().to(torch.uint8).numpy())
        (pixels.convert("RGB") if colour else pixels).save(path / f"{index:02}.png")
    return path


def test_a_folder_is_read_in_the_channels_of_the_fit(fitted, tmp_path):
    grey, colour = (folder_of(tmp_path / name, SPOILT, colour=name == "colour") for name in ("grey", "colour"))
    clean = folder_of(tmp_path / "clean", CLEAN, colour=True)
    as_grey = inverter(settings={**TINY, "data.channels": 1}).fit(colour, canonical=clean)
    as_grey.save(tmp_path / "run")
    for each in (as_grey, MechanismInverter.load(tmp_path / "run")):
        assert each.transform(colour).shape == (24, 1, 12, 12)
        assert np.array_equal(each.predict(colour), each.predict(grey))
    in_colour = inverter().fit(colour, canonical=clean)
    assert in_colour.transform(grey).shape == (24, 3, 12, 12)
    with pytest.raises(ValueError, match=r"^X: expected images like those of the fit, 1 x 12 x 12, got 3 x 12 x 12$"):
        fitted.transform(colour)


def test_the_path_of_one_image_is_one_image(fitted, tmp_path):
    folder = folder_of(tmp_path / "in", SPOILT, colour=False)
    whole = fitted.transform(folder)
    for path in (folder / "03.png", str(folder / "03.png")):
        assert np.array_equal(fitted.transform(path), whole[3:4])
        assert fitted.predict(path).tolist() == fitted.predict(folder)[3:4].tolist()
    with pytest.raises(ValueError, match=r"gone.png: cannot be read: no such file or directory"):
        fitted.transform(folder / "gone.png")


def test_a_bad_image_is_left_out_of_the_fit_and_named_where_its_row_would_be_missing(fitted, tmp_path, caplog):
    spoilt, clean = (folder_of(tmp_path / str(len(each)), each, colour=False) for each in (SPOILT, CLEAN))
    (spoilt / "bad.png").write_text("no image")
    (clean / "link.png").symlink_to(spoilt / "00.png")
    again = inverter().fit(spoilt, canonical=clean)
    assert torch.equal(
        again.transform(BYTES), inverter().fit(BYTES, canonical=(CLEAN * 255).round().byte()).transform(BYTES)
    )
    assert again.partial_fit(spoilt, canonical=clean).n_iter_ == 6
    assert sum("bad.png: cannot be read: not an image" in line for line in caplog.messages) == 2
    assert sum("link.png: it is a link out of the folder" in line for line in caplog.messages) == 2
    with pytest.raises(ValueError, match=r"bad.png: cannot be read: not an image"):
        again.transform(spoilt)

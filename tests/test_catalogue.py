"""The lists of what can be chosen by name are what the library knows."""

import json

import pytest
import yaml

from licm import downloads
from licm.catalogue import SOURCES, config_keys, list_mechanisms, list_presets, list_sources, one_mechanism
from licm.config import make_config, parse_overrides
from licm.mechanisms import MECHANISM_SETS, MECHANISMS, parse_mechanism
from licm.presets import PRESETS
from tests.commands import licm, refused


def test_presets():
    assert [row["name"] for row in list_presets()] == list(PRESETS)
    assert json.loads(licm("presets", "--json").stdout) == json.loads(json.dumps(list_presets()))
    lines = licm("presets").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)


def test_a_preset_as_a_file(tmp_path):
    for name in PRESETS:
        text = licm("presets", name).stdout
        assert yaml.safe_load(text) == make_config(name).model_dump(mode="json")
        assert json.loads(licm("presets", name, "--json").stdout) == yaml.safe_load(text)
    assert "unknown preset 'papre': did you mean 'paper'?" in refused("presets", "papre")


def test_every_key_can_be_set():
    for key, _ in config_keys():
        value = make_config().model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
        assert make_config(overrides=parse_overrides([f"{key}={json.dumps(value)}"])) == make_config()


def test_mechanisms():
    listed = list_mechanisms()
    assert [kind["name"] for kind in listed["kinds"]] == list(MECHANISMS)
    assert listed["sets"] == {name: list(members) for name, members in MECHANISM_SETS.items()}
    for kind in listed["kinds"]:
        assert kind["about"].endswith(".")
        assert all(str(parse_mechanism(level)) == level for level in kind["levels"])
    assert json.loads(licm("mechanisms", "--json").stdout) == listed
    text = licm("mechanisms").stdout
    assert all(f"\n{name}" in text for name in MECHANISMS)
    assert "\npaper: shift(dy=-4), " in text


def test_one_mechanism():
    text = licm("mechanisms", "gain").stdout
    assert "factor         0.5  -100  100" in text
    assert "from weak to strong: gain(factor=0.9), gain(factor=0.5), gain(factor=0.25)" in text
    assert licm("mechanisms", "invert").stdout.splitlines()[-1] == "exact inverse: where the parameters allow"
    assert json.loads(licm("mechanisms", "gain", "--json").stdout) == one_mechanism("gain")
    assert "unknown mechanism 'rotat': did you mean 'rotate'?" in refused("mechanisms", "rotat")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No copy of any data set, and an empty cache."""
    monkeypatch.delenv("LICM_DATA_DIR", raising=False)
    monkeypatch.setattr(downloads.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(downloads, "FOLDERS", {name: ("mine",) for name in downloads.FOLDERS})


def test_sources(nowhere, tmp_path, monkeypatch):
    assert list(SOURCES) == ["embedded", *downloads.SHA256]
    embedded, mnist, *_ = list_sources()
    assert (embedded["present"], embedded["download_megabytes"]) == (True, 0)
    assert (mnist["present"], mnist["missing"]) == (False, list(downloads.SHA256["mnist"]))
    assert mnist["download_megabytes"] == downloads.DOWNLOAD_MEGABYTES["mnist"]
    assert json.loads(licm("data", "--json").stdout) == list_sources()
    assert "not here: about 11.6 MB would be downloaded when first used" in licm("data").stdout
    (tmp_path / "mine").mkdir()
    for file in downloads.IDX_FILES:
        (tmp_path / "mine" / file).write_bytes(b"")
    monkeypatch.setenv("LICM_DATA_DIR", str(tmp_path))
    mnist = list_sources()[1]
    assert (mnist["present"], mnist["folders"]) == (True, [str(tmp_path / "mine")])
    (tmp_path / "mine" / downloads.IDX_FILES[0]).unlink()
    assert f"partly in {tmp_path / 'mine'}; not here" in licm("data").stdout


def test_fetching(nowhere, tmp_path, monkeypatch):
    done = licm("data", "embedded")
    assert (done.returncode, done.stdout.startswith("embedded is here and whole: ")) == (0, True)
    assert "unknown data source 'mnits': did you mean 'mnist'?" in refused("data", "mnits")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / downloads.OMNIGLOT_FILE).write_bytes(b"damaged")
    monkeypatch.setenv("LICM_DATA_DIR", str(tmp_path))
    assert "images_background_small1.zip: expected unpacked content with sha256" in refused("data", "omniglot")
    monkeypatch.setenv("LICM_DATA_DIR", str(tmp_path / "absent"))
    assert "LICM_DATA_DIR: expected an existing folder" in refused("data")
    with pytest.raises(ValueError, match="unknown data set 'mnit': did you mean 'mnist'"):
        downloads.locate("mnit")


def test_a_fetch_says_what_it_downloads_unless_quiet(nowhere, monkeypatch):
    monkeypatch.setitem(downloads.MIRRORS, "omniglot", ("http://127.0.0.1:9/",))
    monkeypatch.setattr(downloads.pooch, "HTTPDownloader", lambda **_: _no_network)
    done = licm("data", "omniglot")
    assert done.stderr.splitlines()[0] == "licm: downloading http://127.0.0.1:9/images_background_small1.zip"
    assert "no mirror gave images_background_small1.zip" in done.stderr.splitlines()[1]
    assert licm("data", "omniglot", "--quiet").stderr.count("\n") == 1


def _no_network(*_: object) -> None:
    raise ConnectionError("no network")

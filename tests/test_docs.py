"""What the pages promise: code that runs, a results page made from its records, settings that exist."""

import re
from pathlib import Path

from benchmarks import core

import licm
from licm.config import Config
from licm.evaluation import take_samples
from licm.mechanisms import MECHANISM_SETS, MECHANISMS
from licm.records import SAMPLES, save_samples

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readmes_python_runs(tmp_path, monkeypatch, small_config):
    """As written, but for the size of the run."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    real = licm.config.make_config

    def small(preset, overrides):
        assert real(preset, overrides=overrides).preset == "default"
        return small_config

    monkeypatch.setattr(licm, "make_config", small, raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(blocks[0], names)
    names["images"] = licm.load_training_data(
        source=small_config.data.source, mechanisms=["invert"], seed=0
    ).transformed
    exec(blocks[1], names)
    assert names["restored"].shape == names["images"].shape


def test_the_results_page_is_what_its_records_say():
    assert core.TABLE.read_text() == core.make_table()


def test_every_mechanism_and_set_has_its_line():
    text = (ROOT / "docs" / "mechanisms.md").read_text()
    for name in [*MECHANISMS, *MECHANISM_SETS]:
        assert re.search(rf"^\|.*`{name}`", text, flags=re.MULTILINE), name


def test_settings_named_in_the_pages_exist():
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    for page in PAGES:
        for section, key in re.findall(r"`(\w+)\.(?!py\b)(\w+)[:`= ]", page.read_text()):
            if hasattr(sections.get(section), "model_fields"):
                assert key in sections[section].model_fields, f"{page.name}: {section}.{key}"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_report_pages_python_runs(tmp_path, monkeypatch, small_run):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "report.md").read_text(), flags=re.DOTALL)
    save_samples(small_run / SAMPLES, take_samples(small_run))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    small_run.rename(tmp_path / "runs" / "first")
    exec(block, {})
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["heat-map-and-samples.png", "more-samples.png"]

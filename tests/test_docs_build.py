"""The built documentation: no warning, formulas drawn, nothing asked of another machine. The notebook: it runs."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import licm
from licm.config import make_config
from licm.presets import PRESETS

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "competing_experts.ipynb"
# What a browser fetches by itself when it opens a page, as (tag, attribute); links are followed by people.
FETCHED = {
    ("img", "src"),
    ("script", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("link", "href"),
    ("object", "data"),
}


class Fetches(HTMLParser):
    """Collects what a page fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.found += [value or "" for name, value in attributes if (tag, name) in FETCHED]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """What `make docs` builds."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "build", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run(
        [*command, "-d", folder / "cache", ROOT / "docs", folder / "html"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def test_pages_fetch_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        fetches = Fetches()
        fetches.feed(page.read_text(encoding="utf-8"))
        assert fetches.found, page.name
        assert [target for target in fetches.found if re.match(r"(\w+:)?//", target)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")) == [], (
            sheet.name
        )


def test_formulas_are_mathml(site):
    for name, least in (("method.html", 7), ("measures.html", 1)):
        page = (site / name).read_text(encoding="utf-8")
        assert page.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') >= least
        assert not re.search(r"\\(mathbb|frac|log|max|sum)", page), "TeX that was not understood"


def test_the_reference_has_every_public_name_key_and_command(site):
    index = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in licm.__all__:
        assert f'#{licm._MODULE_OF[name]}.{name}"' in index, name
    keys = (site / "api" / "configuration.html").read_text(encoding="utf-8")
    for section, values in make_config().model_dump().items():
        for key in values if isinstance(values, dict) else []:
            assert f"{section}.{key}<" in keys
    assert all(preset in keys for preset in PRESETS)
    commands = (site / "api" / "commands.html").read_text(encoding="utf-8")
    assert all(word in commands for word in ("licm train", "licm evaluate", "licm report", "--tensorboard"))


def test_the_method_links_equations_to_functions(site):
    page = (site / "method.html").read_text(encoding="utf-8")
    for name in ("objective.discriminator_loss", "objective.output_weights", "identity.train_identity"):
        module = f"licm.{name.split('.')[0]}"
        assert f'href="api/{module}.html#licm.{name}"' in page
        assert f'id="licm.{name}"' in (site / "api" / f"{module}.html").read_text(encoding="utf-8")


def matched_share(notebook: nbformat.NotebookNode) -> float:
    """The last one a notebook printed."""
    printed = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return float(re.findall(r"matched share ([\d.]+)", "".join(printed))[-1])


def test_the_notebook_runs_and_its_experts_part(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert matched_share(notebook) > 0.8  # 1/3 is chance; settings and seeds near these ended between 0.96 and 1.00


def test_the_committed_notebook_has_its_pictures():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 5
    assert matched_share(notebook) > 0.95
    assert NOTEBOOK.stat().st_size < 600_000

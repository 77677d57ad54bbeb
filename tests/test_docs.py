"""What the pages promise: code that runs, a results page made from its records, settings that exist."""

import json
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from unittest import SkipTest
from unittest.mock import patch

import pytest
from benchmarks import core, speed
from PIL import Image
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from licm.cli import main
from licm.config import Config
from licm.mechanisms import MECHANISM_SETS, MECHANISMS
from licm.models import EXPERTS
from licm.presets import PRESETS
from tests.commands import licm as typed
from tests.problems import bars

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *(page for folder in (".", "howto", "results") for page in sorted((DOCS / folder).glob("*.md"))),
]


@pytest.fixture
def workshop(tmp_path, monkeypatch, small_config) -> Path:
    """A directory to work in: small presets, a folder of clean images and one of damaged ones."""
    small = small_config.model_dump(exclude={"preset"})
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, small)
    for registry in (EXPERTS, MECHANISMS):
        for name in ("unet", "veil"):
            monkeypatch.setitem(registry, name, None)  # put back as it was, whatever a page registers
            monkeypatch.delitem(registry, name)
    for folder, images in (("clean", bars(20)), ("damaged", 1 - bars(20, seed=1))):
        (tmp_path / folder).mkdir()
        for index, image in enumerate(images):
            Image.fromarray((image[0] * 255).byte().numpy()).save(tmp_path / folder / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_commands(example: Example) -> None:
    """Runs the lines of a console block, which are commands of this library and must succeed.

    A transcript, with `$ ` before the commands and their output between, is for a test of its own.
    """
    if example.parsed.startswith("$ "):
        return
    for line in example.parsed.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "licm", f"{line}: only licm is run; skip the block, with a reason"
        with patch.object(sys, "argv", words), pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (None, 0), line


@pytest.mark.parametrize("page", [page for page in PAGES if "```" in page.read_text()], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, workshop):
    """As written, from the top, but for the size of the runs."""
    parsers = [PythonCodeBlockParser(), CodeBlockParser("console", run_commands), SkipParser()]
    document = Sybil(parsers).parse(page)
    document.namespace["images"] = bars(5)
    for example in document.examples():
        with suppress(SkipTest):
            example.evaluate()


def test_every_block_is_run_or_is_said_to_be_something_else():
    for page in PAGES:
        kinds = re.findall(r"^```(\S*)\n(?=.)", page.read_text(), flags=re.MULTILINE)
        opened = [kind for kind in kinds if kind]
        assert set(opened) <= {"python", "console", "text", "{toctree}"}, page.name
        assert len(re.findall(r"^```$", page.read_text(), flags=re.MULTILINE)) == len(opened), page.name
        for skipped in re.findall(r"<!-- skip.*", page.read_text()):
            assert re.fullmatch(r'<!-- skip: next ".+" -->', skipped), f"{page.name}: a reason for {skipped}"


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
            made = "api/" in target  # by `make docs`, which checks it
            assert made or (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_the_page_on_the_command_line_shows_is_what_is_printed():
    """Where the output depends on nothing but the code."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / "command-line.md").read_text(), flags=re.DOTALL)
    shown = [part.split("\n", 1) for block in blocks for part in block.removeprefix("$ ").split("\n$ ")]
    checked = [(command, text) for command, text in shown if re.match("licm (presets|mechanisms|trian)", command)]
    assert len(checked) == 4
    for command, text in checked:
        done = typed(*command.split()[1:])
        assert (done.stdout + done.stderr).strip() == text.strip()


def test_the_speed_page_is_what_its_record_says():
    assert speed.PAGE.read_text() == speed.make_page(json.loads(speed.RECORD.read_text()))

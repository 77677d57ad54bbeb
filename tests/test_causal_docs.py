"""The walk-through runs as written, block after block; the results page is what its record says."""

import json
import re
from pathlib import Path

from benchmarks import structure
from benchmarks.structure_page import make_page

PAGE = Path(__file__).parents[1] / "docs" / "causal-graph.md"


def test_the_walk_through_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 10
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    printed = capsys.readouterr().out
    assert "3 targets: the truth has tied rank 1.0" in printed
    assert "['river']" in printed
    assert (tmp_path / "changes.svg").exists()


def test_the_results_page_is_what_its_record_says():
    assert structure.PAGE.read_text() == make_page(json.loads(structure.RECORD.read_text()))

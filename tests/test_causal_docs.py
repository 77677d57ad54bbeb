"""The results of the causal-graph half: the page is what its record says, and the benchmark makes such a record."""

import json
import sys

from benchmarks import structure
from benchmarks.structure_page import make_page


def test_the_results_page_is_what_its_record_says():
    record = json.loads(structure.RECORD.read_text())
    assert structure.PAGE.read_text() == make_page(record)
    assert record["headlines"] == structure.headlines(record)


def test_the_benchmark_makes_a_record_and_goes_on_with_it(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    monkeypatch.setattr(structure, "_in_own_process", lambda call: eval(call, vars(structure)))

    def measure(*arguments: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["structure", "--json", str(path), *arguments])
        structure.main()
        return json.loads(path.read_text())

    first = measure("--quick", "--parts", "invariance", "scaling")
    assert first["headlines"]["invariance_recall"] == first["invariance"]["invariance_recall"] == 1
    assert first["headlines"]["chow_liu_seconds_10000"] is None
    record = measure("--parts", "scaling", "approximate", "--sizes", "30")
    assert [row["size"] for row in record["scaling"]["rows"]] == [20, 30]
    assert record["scaling"]["rows"][0] == first["scaling"]["rows"][0]
    assert record["invariance"] == first["invariance"]
    for row in (*record["scaling"]["rows"], *record["approximate"]["rows"]):
        assert row["recall"] == 1
        assert row["total"] > 0
    text = make_page(record)
    assert "## Exact trees" in text
    assert "## pgmpy" not in text
    assert "| `approx_recall_100000` | not measured |" in text

"""`licm structure`: tables from files, the tree printed and drawn, and one clear line for what cannot be read."""

import json
import subprocess
import sys

import numpy as np
import pytest

from licm.causal.chow_liu import ChowLiu
from licm.causal.table_files import read_table
from tests.commands import licm, refused

CSV = """sky,ground,height
grey,wet,1.5
blue,dry,0.25
grey,wet,1.75
blue,wet,0.5
blue,dry,0.125
grey,wet,2
"""


@pytest.fixture
def survey(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "survey.csv"
    path.write_text(CSV)
    return path


def run(*arguments: object) -> str:
    done = licm("structure", *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_the_tree_is_printed_and_drawn(survey, tmp_path):
    lines = run("survey.csv", "--root", "sky").splitlines()
    assert lines[0].startswith("3 mixed variables, 6 rows, ")
    assert lines[1] == "sky"
    assert lines[-1] == "saved: survey.tree.png"
    assert (tmp_path / "survey.tree.png").read_bytes().startswith(b"\x89PNG")
    assert "%" in run("survey.csv", "--bootstrap", 5, "--out", "t.svg")
    assert "<svg" in (tmp_path / "t.svg").read_text()
    assert run("survey.csv", "--quiet") == ""


def test_json_has_the_tree_of_the_library(survey):
    record = json.loads(run("survey.csv", "--kind", "discrete", "--bias-correction", "--bootstrap", 4, "--json"))
    model = ChowLiu(kind="discrete", bias_correction=True).fit(read_table(survey))
    assert record["variables"] == ["sky", "ground", "height"]
    assert (record["rows"], record["kind"], record["root"]) == (6, "discrete", model.root_)
    assert record["nats"] == model.total_weight_ == pytest.approx(sum(edge["nats"] for edge in record["edges"]))
    assert [(edge["parent"], edge["child"]) for edge in record["edges"]] == list(model.to_networkx().edges)
    assert all(edge["confidence"] in (0, 0.25, 0.5, 0.75, 1) for edge in record["edges"])
    assert record["picture"] == "survey.tree.png"
    again = json.loads(run("survey.csv", "--kind", "discrete", "--bias-correction", "--bootstrap", 4, "--json"))
    assert again == record


def test_a_large_tree_is_drawn_without_names_and_may_be_approximate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = np.random.default_rng(0).integers(0, 2, (30, 90))
    text = "\n".join(",".join(map(str, row)) for row in [[f"v{k}" for k in range(90)], *columns.tolist()])
    (tmp_path / "many.csv").write_text(text)
    assert len(run("many.csv", "--approximate").splitlines()) == 92
    assert (tmp_path / "many.tree.png").exists()


def test_columns_that_do_not_vary_hang_on_with_no_weight(survey):
    survey.write_text("a,b,c\n1,7,x\n2,7,y\n1,7,x\n")
    record = json.loads(run("survey.csv", "--json"))
    assert sorted(edge["nats"] for edge in record["edges"]) == [0, pytest.approx(np.log(3) - 2 / 3 * np.log(2))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n\n3\n", "bad.csv: line 4 has 1 values, the first has 2 names"),
        (b"a,a\n1,2\n", "bad.csv: two columns are named 'a'"),
        (b"a,\n1,2\n", "bad.csv: column 2 has no name"),
        (b"a,b\n", "bad.csv: expected a line of names and at least one of values, got 1 line(s)"),
        (b"", "bad.csv: expected a line of names and at least one of values, got 0 line(s)"),
        (
            b"a b\n1 2\n",
            "bad.csv: expected at least two columns, got 1 (in CSV, commas, semicolons or tabs are between",
        ),
        (b"a,b\n1,\0\n", "bad.csv: cannot be read: damaged, or not of the kind expected (it has null characters)"),
        (
            "größe,b\n1,2\n".encode("latin-1"),
            "bad.csv: cannot be read: damaged, or not of the kind expected (expected text in UTF-8",
        ),
        (b'a,b\n"1,2\n', "bad.csv: cannot be read: damaged, or not of the kind expected"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "bad.csv: cannot be read: damaged, or not of the kind expected"),
        (b"a,b\n1,\n2,3\n", "column 'b' has 1 missing value(s); set missing to 'pairwise' or 'category'"),
        (b"a,b\n1,NaN\n2,nan\n", "column 'b' has no values"),
        (b"a,b\n1,inf\n2,3\n", "column 'b' has infinite values"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_bytes(content)
    assert message in refused("structure", "bad.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "nowhere.csv: cannot be read: no such file or directory"),
        (["folder.csv"], "folder.csv: cannot be read: it is a folder"),
        (["table.xlsx"], "table.xlsx: expected a table, a name that ends in .csv or .parquet"),
        (["survey.csv", "--out", "tree.bmp"], "'tree.bmp': expected a name that ends in .png or .svg"),
        (["survey.csv", "--out", "old.png"], "'old.png' exists already: choose another name, nothing is overwritten"),
        (["survey.csv", "--kind", "gauss"], "unknown kind 'gauss': did you mean 'gaussian'?"),
        (["survey.csv", "--kind", "gaussian"], "kind: gaussian needs numbers, column 'sky' has none"),
        (["survey.csv", "--root", "ski"], "unknown root 'ski': did you mean 'sky'?"),
        (["survey.csv", "--out", "no/folder.png"], "'no/folder.png' cannot be written: no such file or directory"),
    ],
)
def test_a_users_error_is_one_line(survey, arguments, message):
    (survey.parent / "folder.csv").mkdir()
    (survey.parent / "old.png").touch()
    assert message in refused("structure", *arguments)


def test_numbers_words_and_missing_values_of_csv(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeffi, f,w,gone\n1,1.5,x,NA\n-2,2,?,3\n\n3,1e3,z,\n", encoding="utf-8")
    table = read_table(path)
    assert list(table) == ["i", "f", "w", "gone"]
    assert table["i"].dtype.kind == "i"
    assert table["i"].tolist() == [1, -2, 3]
    assert table["f"].tolist() == [1.5, 2, 1000]
    assert table["w"].tolist() == ["x", "", "z"]
    np.testing.assert_array_equal(table["gone"], [np.nan, 3, np.nan])


@pytest.mark.parametrize(("separator", "point"), [(",", "."), (";", ","), (";", "."), ("\t", ".")])
def test_tables_of_other_programs(tmp_path, separator, point):
    """Semicolons and decimal commas as spreadsheets write them; tabs; a comma or semicolon within a name or a value."""
    path = tmp_path / "t.csv"
    rows = [["height (m)", '"a; or\nb, c"', "w"], [f"1{point}5", "x y", "u"], [f"-2{point}25", "x, z", "v"]]
    if separator == ",":
        rows[2][1] = '"x, z"'
    path.write_text("\r\n".join(separator.join(row) for row in rows))
    table = read_table(path)
    assert list(table) == ["height (m)", "a; or b, c", "w"]
    assert table["height (m)"].tolist() == [1.5, -2.25]
    assert table["a; or b, c"].tolist() == ["x y", "x, z"]


def test_a_column_that_numbers_the_rows_is_warned_of_unless_quiet(survey):
    survey.write_text("id,a,b\n" + "\n".join(f"p{k},{k % 2},{k // 2 % 2}" for k in range(20)))
    done = licm("structure", "survey.csv")
    assert done.returncode == 0
    assert done.stderr.startswith("licm: warning: column 'id' has 20 different values in 20 rows")
    assert "leave it out" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    survey.write_text("id,a\n" + "\n".join(f"p{k % 10},{k % 2}" for k in range(20)))
    assert licm("structure", "survey.csv").stderr == ""


def test_strange_names_are_drawn_as_they_are(survey):
    """No mathematics, no second line, and no warning of a script that the font lacks."""
    survey.write_text(
        '"$x_{$","a\nb",变量,' + "y" * 40 + "\n" + "\n".join(f"{k % 2},{k % 2},{k // 2},1" for k in range(8))
    )
    lines = run("survey.csv", "--bootstrap", 2).splitlines()
    assert len(lines) == 6
    assert {line.split("─ ")[-1].split("  ")[0] for line in lines[1:5]} == {"$x_{$", "a b", "变量", "y" * 23 + "…"}


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    columns = {"i": [1, 2, None], "f": [0.5, 1.5, 2.0], "w": ["x", None, "y"], "b": [True, False, True]}
    table = pyarrow.table({**columns, "c": pyarrow.array(["u", "v", "u"]).dictionary_encode()})
    parquet.write_table(table, path)
    found = read_table(path)
    np.testing.assert_array_equal(found["i"], [1, 2, np.nan])
    assert found["f"].tolist() == [0.5, 1.5, 2.0]
    assert found["w"].tolist() == ["x", "", "y"]
    assert found["b"].tolist() == [True, False, True]
    assert found["c"].tolist() == ["u", "v", "u"]
    parquet.write_table(pyarrow.table({"when": [[1], [2]], "x": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"column 'when' is of type list.*expected numbers, booleans or words"):
        read_table(path)
    parquet.write_table(pyarrow.table({"a": pyarrow.array([], "int64"), "b": pyarrow.array([], "int64")}), path)
    with pytest.raises(ValueError, match="expected at least one row, got none"):
        read_table(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: cannot be read: damaged, or not of the kind expected"):
        read_table(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"Parquet needs pyarrow: pip install 'licm\[data\]'"):
        read_table(tmp_path / "t.parquet")


def test_it_loads_neither_torch_nor_scikit_learn(survey):
    code = (
        "import sys; sys.argv = ['licm', 'structure', 'survey.csv']\n"
        "from licm.cli import main\n"
        "try:\n    main()\nfinally:\n    print([m for m in ('torch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=survey.parent)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr

"""`licm structure`: tables from files, the tree printed and drawn, and one clear line for what cannot be read."""

import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from licm.causal.table_files import read_table
from licm.cli import app, main

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
    done = CliRunner().invoke(app, ["structure", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_tree_is_printed_and_drawn(survey, tmp_path):
    printed = run(survey, "--root", "sky")
    lines = printed.splitlines()
    assert lines[0].startswith("3 mixed variables, 6 rows, ")
    assert lines[1] == "sky"
    assert lines[-1] == "saved: survey.tree.png"
    assert (tmp_path / "survey.tree.png").read_bytes().startswith(b"\x89PNG")
    printed = run(survey, "--bootstrap", 5, "--picture", "t.svg")
    assert "%" in printed
    assert "<svg" in (tmp_path / "t.svg").read_text()
    assert run(survey, "--no-picture", "--quiet") == ""


def test_a_large_tree_is_drawn_without_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = np.random.default_rng(0).integers(0, 2, (30, 90))
    text = "\n".join(",".join(map(str, row)) for row in [[f"v{k}" for k in range(90)], *columns.tolist()])
    (tmp_path / "many.csv").write_text(text)
    assert len(run("many.csv").splitlines()) == 92
    assert (tmp_path / "many.tree.png").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3\n", "row 3 has 1 values, the first has 2 names"),
        ("a,a\n1,2\n", "two columns are named 'a'"),
        ("a,\n1,2\n", "column 2 has no name"),
        ("a,b\n", "expected a row of names and at least one of values, got 1"),
        ("", "expected a row of names and at least one of values, got 0"),
        ('a,b\n"1,2\n', "cannot be read as CSV"),
        ("a,b\n1,\n2,3\n", "column 'b' has 1 missing value(s); choose missing='pairwise'"),
        ("a,b\n1,inf\n2,3\n", "column 'b' has infinite values"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, monkeypatch, capsys, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text(content)
    monkeypatch.setattr(sys, "argv", ["licm", "structure", "bad.csv"])
    with pytest.raises(SystemExit) as stopped:
        main()
    errors = capsys.readouterr().err
    assert stopped.value.code == 1
    assert errors.startswith("licm: error: ")
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "table 'nowhere.csv': there is no such file"),
        (["table.xlsx"], "table 'table.xlsx': expected a name that ends in .csv or .parquet"),
        (["survey.csv", "--picture", "tree.bmp"], "picture 'tree.bmp': expected a name that ends in .png, .svg, .pdf"),
        (["survey.csv", "--kind", "gauss"], "kind: expected auto, discrete, gaussian or mixed, got 'gauss'"),
        (["survey.csv", "--root", "ski"], "unknown root 'ski': did you mean 'sky'?"),
        (["survey.csv", "--picture", "no/such/folder.png"], "no/such/folder.png"),
    ],
)
def test_a_users_error_is_one_line(survey, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["licm", "structure", *arguments])
    with pytest.raises(SystemExit):
        main()
    errors = capsys.readouterr().err
    assert errors.startswith("licm: error: ")
    assert len(errors.splitlines()) == 1
    assert message in errors


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
    parquet.write_table(pyarrow.table({"when": [[1], [2]]}), path)
    with pytest.raises(ValueError, match=r"column 'when' is of type list.*expected numbers, booleans or words"):
        read_table(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_table(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"Parquet needs pyarrow: pip install 'licm\[data\]'"):
        read_table(tmp_path / "t.parquet")


def test_it_loads_neither_torch_nor_scikit_learn(survey):
    code = (
        "import sys; sys.argv = ['licm', 'structure', 'survey.csv', '--no-picture']\n"
        "from licm.cli import main\n"
        "try:\n    main()\nfinally:\n    print([m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=55, cwd=survey.parent)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr

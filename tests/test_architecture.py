"""The rooms of the house: one direction of imports, small files, a small front door."""

import ast
import re
from pathlib import Path

import pytest

import licm

SOURCE = Path(licm.__file__).parent
DOCS = SOURCE.parents[1] / "docs" / "architecture.md"


def order() -> list[str]:
    """The modules in the order of the table in docs/architecture.md."""
    rows = re.findall(r"^\| `([\w/]+)\.py` \|", DOCS.read_text(), flags=re.MULTILINE)
    return [row.replace("/", ".") for row in rows]


def modules() -> dict[str, Path]:
    """The path of each module but the packages' own, by its name below licm."""
    paths = {".".join(p.relative_to(SOURCE).with_suffix("").parts): p for p in SOURCE.rglob("*.py")}
    return {name: path for name, path in paths.items() if name.rsplit(".")[-1] not in ("__init__", "__main__")}


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "licm":
            base = str(node.module).removeprefix("licm").removeprefix(".")
            below = {f"{base}.{alias.name}".strip(".") for alias in node.names}
            found |= below & set(modules()) or ({base} if base else set())
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("licm.") for alias in node.names if alias.name.startswith("licm.")}
    return found


def test_the_documented_order_has_every_module():
    assert set(order()) == set(modules())


@pytest.mark.parametrize("name", order())
def test_a_module_imports_only_from_those_above_it(name):
    above = set(order()[: order().index(name)])
    assert imports_of(modules()[name]) <= above


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_every_public_name_is_there_and_there_are_at_most_25():
    assert len(licm.__all__) <= 25
    for name in licm.__all__:
        assert getattr(licm, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = licm.nothing

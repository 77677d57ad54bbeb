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
    return re.findall(r"^\| `(\w+)\.py` \|", DOCS.read_text(), flags=re.MULTILINE)


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "licm":
            found |= {alias.name for alias in node.names if (SOURCE / f"{alias.name}.py").exists()}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("licm."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("licm.")}
    return found


def test_the_documented_order_has_every_module():
    assert set(order()) == {p.stem for p in SOURCE.glob("*.py")} - {"__init__", "__main__"}


@pytest.mark.parametrize("name", order())
def test_a_module_imports_only_from_those_above_it(name):
    above = set(order()[: order().index(name)])
    assert imports_of(SOURCE / f"{name}.py") <= above


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*.py")), ids=lambda p: p.name)
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_every_public_name_is_there_and_there_are_at_most_25():
    assert len(licm.__all__) <= 25
    for name in licm.__all__:
        assert getattr(licm, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = licm.nothing

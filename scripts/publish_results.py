"""Takes the records of `licm reproduce` into docs/results, and makes the pages there from them alone.

    python scripts/publish_results.py runs/slides
    python scripts/publish_results.py runs/quick --page reproduction_quick

Leaves docs/results/PAGE/ (records and figures), and PAGE.json and PAGE.md beside it. What was planned and is not there
yet is said in both.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from licm.reproduction.page import FIGURES, MARKDOWN, PAGE, RESULTS, TITLE, write_results
from licm.reproduction.running import RECORDS, plan

DOCS = Path(__file__).parents[1] / "docs" / "results"


@dataclass(frozen=True)
class Published:
    """A page of results: what was typed, and of what."""

    title: str
    command: str
    names: tuple[str, ...] = ()
    budget: str = "full"


PAGES = {
    "reproduction": Published(TITLE, "licm reproduce --out runs/slides"),
    "reproduction_quick": Published(
        "Ablation and weak mechanisms at the quick budget",
        "licm reproduce --only ablation --only weak --budget quick --out runs/quick",
        ("ablation", "weak"),
        "quick",
    ),
}


def publish(source: Path, name: str = "reproduction", docs: Path = DOCS) -> None:
    """Copies the records in a folder of `licm reproduce`, and writes results, page and figures beside them."""
    folder, published = docs / name, PAGES[name]
    shutil.copytree(source / RECORDS, folder / RECORDS, dirs_exist_ok=True)
    rows = plan(published.names, budget=published.budget)
    write_results(rows, folder, command=published.command, title=published.title)
    (folder / RESULTS).replace(docs / f"{name}.json")
    page = (folder / MARKDOWN).read_text(encoding="utf-8").replace(f"]({FIGURES}/", f"]({name}/{FIGURES}/")
    (docs / f"{name}.md").write_text(page, encoding="utf-8")
    for unused in (MARKDOWN, PAGE):
        (folder / unused).unlink()
    if not any((folder / FIGURES).iterdir()):
        (folder / FIGURES).rmdir()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder made by `licm reproduce`")
    parser.add_argument("--page", choices=PAGES, default="reproduction", help="which page to make")
    arguments = parser.parse_args()
    publish(arguments.source, arguments.page)


if __name__ == "__main__":
    main()

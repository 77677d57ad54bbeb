"""Takes the records of `licm reproduce` into docs/results, and makes the pages there from them alone.

    python scripts/publish_results.py runs/slides
    python scripts/publish_results.py runs/quick --page reproduction_quick

Leaves docs/results/PAGE/ (records and figures), and PAGE.json and PAGE.md beside it. What was planned and is not there
yet is said in both.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from licm.reproduction.experiments import EXPERIMENTS
from licm.reproduction.page import FIGURES, MARKDOWN, PAGE, RESULTS, TITLE, write_results
from licm.reproduction.running import RECORDS, plan

DOCS = Path(__file__).parents[1] / "docs" / "results"


@dataclass(frozen=True)
class Published:
    """A page of results: its title, and what `licm reproduce` was asked for; no names are all."""

    title: str
    out: str
    names: tuple[str, ...] = ()
    budget: str = "full"

    @property
    def command(self) -> str:
        """What makes the records."""
        only = [f"--only {name}" for name in self.names]
        return " ".join(["licm reproduce", *only, f"--budget {self.budget}", f"--out {self.out}"])


PAGES = {
    "reproduction": Published(TITLE, "runs/slides"),
    "reproduction_quick": Published(
        "Ablation and weak mechanisms at the quick budget", "runs/quick", ("ablation", "weak"), "quick"
    ),
}


def publish(source: Path, name: str = "reproduction", docs: Path = DOCS) -> None:
    """Copies the records in a folder of `licm reproduce`, and writes results, page and figures beside them.

    Raises:
        ValueError: If no record of the page is there.
    """
    published, folder = PAGES[name], docs / name
    rows = plan(published.names or list(EXPERIMENTS), budget=published.budget)
    planned = {f"{job.name}.json" for row in rows for job in row.jobs}
    if not (found := [path for path in (source / RECORDS).glob("*.json") if path.name in planned]):
        raise ValueError(f"{str(source)!r} has no record of {name!r}, which is made by: {published.command}")
    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    for path in found:
        (folder / RECORDS / path.name).write_bytes(path.read_bytes())
    write_results(rows, folder, command=published.command, title=published.title)
    (folder / RESULTS).replace(docs / f"{name}.json")
    page = (folder / MARKDOWN).read_text(encoding="utf-8").replace(f"]({FIGURES}/", f"]({name}/{FIGURES}/")
    (docs / f"{name}.md").write_text(page, encoding="utf-8")
    for unused in (MARKDOWN, PAGE):
        (folder / unused).unlink()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder made by `licm reproduce`")
    parser.add_argument("--page", choices=PAGES, default="reproduction", help="which page to make")
    arguments = parser.parse_args()
    try:
        publish(arguments.source, arguments.page)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()

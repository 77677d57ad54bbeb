"""Takes the records of `licm reproduce` into docs/results, and makes the pages there from them alone.

    python scripts/publish_results.py runs/slides

Leaves docs/results/reproduction/ (records and figures), and reproduction.json and reproduction.md beside it. What was
planned and is not there yet is said in both.
"""

import argparse
import shutil
from pathlib import Path

from licm.reproduction.page import FIGURES, MARKDOWN, PAGE, RESULTS, write_results
from licm.reproduction.running import RECORDS, plan

DOCS = Path(__file__).parents[1] / "docs" / "results"


def publish(source: Path, docs: Path = DOCS) -> None:
    """Copies the records in a folder of `licm reproduce`, and writes results, page and figures beside them."""
    folder = docs / "reproduction"
    shutil.copytree(source / RECORDS, folder / RECORDS, dirs_exist_ok=True)
    write_results(plan(), folder, command="licm reproduce --out runs/slides")
    (folder / RESULTS).replace(docs / "reproduction.json")
    page = (folder / MARKDOWN).read_text(encoding="utf-8").replace(f"]({FIGURES}/", f"](reproduction/{FIGURES}/")
    (docs / "reproduction.md").write_text(page, encoding="utf-8")
    for name in (MARKDOWN, PAGE):
        (folder / name).unlink()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder made by `licm reproduce`")
    publish(parser.parse_args().source)


if __name__ == "__main__":
    main()

"""How often `licm describe`, which reads no label, names the mechanism that an expert undoes.

    python -m benchmarks.describe runs/core/default-seed0 runs/core/default-seed1 ... --json docs/results/describe.json

The runs are finished ones on a source under known mechanisms. An expert's true mechanism is the one matched to it by
the winner matrix of the run's evaluation, or else of its last validation; experts that win less than 95 % of it are
told apart. A shift is right if both numbers are, an inversion by name, noise by name whatever its variance.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from licm.checkpoint import provenance
from licm.describing import describe_run, load_for_description
from licm.records import read_records

OWNED = 0.95


def is_right(guess: str | None, truth: str) -> bool:
    """Whether a guess names the mechanism, but for the variance of noise.

    >>> [is_right("noise", "noise(variance=0.25)"), is_right("shift(dx=4)", "shift(dx=-4)"), is_right(None, "invert")]
    [True, False, False]
    """
    return guess is not None and (guess == truth or guess == "noise" == truth.partition("(")[0])


def measure(folder: Path, images: int) -> list[dict[str, Any]]:
    """Returns for each expert of a run that is matched to a mechanism what is said of it, and whether that is right."""
    run, seen = load_for_description(folder)
    record, _ = describe_run(run, seen[:images])
    cards = record["experts"]
    return [
        {
            "run": folder.name,
            "expert": expert,
            "mechanism": truth,
            "share_of_it": share,
            "guess": cards[expert]["mechanism"],
            "right": is_right(cards[expert]["mechanism"], truth),
            **{key: cards[expert][key] for key in ("does", "quality", "forward", "unexplained")},
        }
        for truth, expert, share in true_mechanisms(folder)
    ]


def true_mechanisms(folder: Path) -> list[tuple[str, int, float]]:
    """Returns each mechanism with the expert matched to it, and the share of its images the expert wins."""
    records = read_records(folder)
    if records.mechanisms is None or records.winners is None:
        raise ValueError(f"{str(folder)!r} is no validated run on a source under known mechanisms")
    return [(records.mechanisms[m], j, float(records.winners[m, j])) for m, j in zip(*records.matching)]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the shares of right guesses: of all experts, and of those that own their mechanism."""
    owners = [row for row in rows if row["share_of_it"] >= OWNED]
    return {
        "experts": len(rows),
        "right": sum(row["right"] for row in rows) / len(rows),
        "owners": len(owners),
        "right_of_owners": sum(row["right"] for row in owners) / max(len(owners), 1),
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--images", type=int, default=1000, help="of each run that the experts compete for")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.runs:
        rows += measure(folder, arguments.images)
        print(folder, summary([row for row in rows if row["run"] == folder.name]), flush=True)
    record = {**summary(rows), "images": arguments.images, "provenance": provenance(), "guesses": rows}
    print(summary(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

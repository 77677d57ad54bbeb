"""A JSON file of records that a benchmark adds to, each when it is made, of runs that came to their end alone.

What is there is not made again.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from licm.run import Run

Record = dict[str, Any]


def add_records(path: Path | None, jobs: Iterable[tuple[Mapping[str, Any], Callable[[list[Record]], Record]]]) -> None:
    """Makes the records that are not there yet.

    Args:
        path: The file, a list of records; None prints them at the end.
        jobs: Of each record the values that it is known by, and a function that makes it, given those before it.
    """
    known: list[Record] = json.loads(path.read_text()) if path and path.exists() else []
    for values, make in jobs:
        if any(all(each[key] == value for key, value in values.items()) for each in known):
            continue
        known.append(make(known))
        if path:
            path.write_text(json.dumps(known) + "\n")
    if not path:
        print(json.dumps(known, indent=1))


def finished_or_stop(run: Run) -> Run:
    """Returns a trained run; one that a signal stopped half-way must not become a record."""
    if not run.finished:
        raise SystemExit(f"stopped after step {run.step}: nothing is recorded")
    return run


def commits_of(records: Iterable[Record]) -> str:
    """Names the commits that made the records, for the foot of a page."""
    return ", ".join(sorted({str(each["provenance"]["commit"]) for each in records}))

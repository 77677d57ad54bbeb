"""Who restored what: noted shard by shard while a folder is restored, and put together at its end.

While it lasts, the output folder has a hidden one, `.restoring`:

    lock           who restores here; one left behind keeps nobody out
    plan.json      which run restores which images: going on with others is refused
    journal.jsonl  one line a shard, written when all its images are in place
    new            the image that is being written, moved to its name when whole

A shard is noted once its images would survive a loss of power. At the end the plan becomes `restoring.json`,
`assignments.csv` appears, and the hidden folder is removed, the plan first: without it all is done. Where more is to be
done later, for images that are new or were skipped, the journal is written again from the table, and then the plan.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from licm.checkpoint import LOCK, hold
from licm.reading import read_object
from licm.writing import append_line, create, move, sync, write_text, writing

ASSIGNMENTS, PARQUET, SKIPPED = "assignments.csv", "assignments.parquet", "skipped.csv"
RESTORING = "restoring.json"
OWN_FILES = (ASSIGNMENTS, PARQUET, SKIPPED, RESTORING)
UNFINISHED = ".restoring"
_PLAN, _JOURNAL, _NEW = "plan.json", "journal.jsonl", "new"
_WAITING = 32  # files at a time
_ROWS = 1 << 16  # of a table, in memory at a time
_KEPT = "; what was restored so far is kept, go on with --resume"


class Assignment(NamedTuple):
    """A restored image: its path within the folder of images, with `/`, and what the competition said of it."""

    path: str
    expert: int
    """The winner."""
    score: float
    """D's mean score of the winner's output, in [0, 1]."""
    margin: float | None
    """By how much the best other expert's score is lower; None where no other was asked."""
    abstained: str = ""
    """Why nothing is claimed of it, "clean" or "unknown" (`licm.confidence`); empty where something is."""
    confidence: float | None = None
    """How sure the run is of the winner, in [0, 1] (`licm.confidence`); None where it is not calibrated, where no other
    was asked, and of an image that a version restored which did not tell."""


class Skipped(NamedTuple):
    """An image that was not restored, and why."""

    path: str
    reason: str


class Output:
    """The folder that restored images go to; made by `open_output`.

    Attributes:
        folder: The folder.
        finished: Whether all was done before, and nothing is begun anew.
        done: The paths of the images that are restored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._state, self._root = folder, folder / UNFINISHED, folder.resolve()
        self._unsynced: set[Path] = set()
        self.finished = (folder / ASSIGNMENTS).exists() and not (self._state / _PLAN).exists()
        self.done = {row.path for row in self.restored()}

    def begin(self, plan: Mapping[str, Any], names: Iterable[str] = ()) -> None:
        """Begins, or goes on with, what was not done; what was skipped counts as not done.

        Args:
            plan: JSON values; see `open_output`.
            names: The images to come; where all was done before, none may be there.

        Raises:
            ValueError: If one is there.
            OSError: If it cannot be written.
        """
        for path in (self.folder / name for name in names if self.finished):
            if os.path.lexists(path):
                raise ValueError(f"{str(path)!r} is there, and was not restored here: move it away")
        journal, new = self._state / _JOURNAL, self._state / _NEW
        with writing(journal, _KEPT):
            with create(new, "t", encoding="utf-8") as file:
                for rows in _parts(self.restored()):
                    file.write(json.dumps([rows, []]) + "\n")
            move(new, journal)
        if not (self._state / _PLAN).exists():
            write_text(self._state / _PLAN, json.dumps(plan, indent=1))
        self.finished = False

    def write_image(self, name: str, content: bytes) -> None:
        """Puts an image in its place, whole or not at all.

        Raises:
            ValueError: If a link leads that place out of the folder.
            OSError: If it cannot be written.
        """
        path, new = self.folder / name, self._state / _NEW
        if not path.parent.resolve().is_relative_to(self._root):
            raise ValueError(f"{str(path)!r} cannot be written: a link leads it out of the folder{_KEPT}")
        with writing(path, _KEPT):
            path.parent.mkdir(parents=True, exist_ok=True)
            with create(new) as file:
                file.write(content)
            os.replace(new, path)
        self._unsynced.add(path)

    def note(self, restored: Sequence[Assignment], skipped: Sequence[Skipped]) -> None:
        """Notes a shard whose images are all in place, and lasting; raises `OSError` if it cannot be written."""
        path = self._state / _JOURNAL
        with writing(path, _KEPT):
            with ThreadPoolExecutor(_WAITING) as waiting:  # those that wait together share the disk's commits
                list(waiting.map(sync, self._unsynced))
            for folder in {above for image in self._unsynced for above in image.parents}:
                if folder.is_relative_to(self.folder):
                    sync(folder)
        append_line(path, json.dumps([restored, skipped]), _KEPT)
        with writing(path, _KEPT):
            sync(path)
        self._unsynced.clear()
        self.done.update(row.path for row in restored)

    def restored(self) -> Iterator[Assignment]:
        """Yields what is noted of restored images, in their order."""
        if not self.finished:
            yield from (row for restored, _ in self._shards() for row in restored)
            return
        try:
            for path, expert, score, margin, *told in _read_rows(self.folder / ASSIGNMENTS):  # once there was less told
                abstained, confidence = (*told, "", "")[:2]
                yield Assignment(path, int(expert), float(score), _number(margin), abstained, _number(confidence))
        except (ValueError, csv.Error):
            raise ValueError(f"{str(self.folder / ASSIGNMENTS)!r} is damaged: restore to another folder") from None

    def skipped(self) -> Iterator[Skipped]:
        """Yields what is noted of skipped images."""
        if not self.finished:
            yield from (row for _, skipped in self._shards() for row in skipped)
        elif (self.folder / SKIPPED).exists():
            try:
                yield from (Skipped(*row) for row in _read_rows(self.folder / SKIPPED))
            except (ValueError, TypeError, csv.Error):
                raise ValueError(f"{str(self.folder / SKIPPED)!r} is damaged: restore to another folder") from None

    def finish(self, *, parquet: bool = False) -> None:
        """Writes the tables, `assignments.csv` last, and removes the hidden folder; raises `OSError` if it cannot."""
        there = (self.folder / PARQUET).exists()
        if (parquet and not there) or (there and not self.finished):
            check_parquet()
            with writing(self.folder / PARQUET, _KEPT):
                _write_parquet(self._state / _NEW, self.restored())
                move(self._state / _NEW, self.folder / PARQUET)
        if not self.finished:
            if next(self.skipped(), None):
                self._write_table(SKIPPED, Skipped._fields, self.skipped())
            else:
                (self.folder / SKIPPED).unlink(missing_ok=True)  # of a former end
            write_text(self.folder / RESTORING, (self._state / _PLAN).read_text(encoding="utf-8"))
            self._write_table(ASSIGNMENTS, Assignment._fields, self.restored())
            (self._state / _PLAN).unlink()
            sync(self._state)
        self.finished = True
        for path in self._state.iterdir():  # the lock goes with its holder
            if path.name != LOCK:
                path.unlink()

    def _write_table(self, name: str, fields: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        new = self._state / _NEW
        with writing(self.folder / name, _KEPT):
            # names that are not text in this file system's encoding keep their bytes
            with create(new, "t", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.writer(file)
                writer.writerow(fields)
                writer.writerows(rows)
            move(new, self.folder / name)

    def _shards(self) -> Iterator[tuple[list[Assignment], list[Skipped]]]:
        path = self._state / _JOURNAL
        if not path.exists() or not (self._state / _PLAN).exists():
            return
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    if not line.endswith("\n"):  # the last one, cut short by a kill
                        return
                    restored, skipped = json.loads(line)
                    yield [Assignment(*row) for row in restored], [Skipped(*row) for row in skipped]
        except (ValueError, TypeError, RecursionError):
            raise ValueError(f"{str(path)!r} is damaged: restore to another folder") from None


@contextmanager
def open_output(folder: Path, plan: Mapping[str, Any], *, resume: bool) -> Iterator[Output]:
    """Keeps other processes out of an output folder, new or (with `resume`) begun or finished before.

    What was not finished goes on; what was is as it was, unless `Output.begin` is called.

    Args:
        folder: Where restored images go.
        plan: JSON values; what was begun with another plan is not gone on with.
        resume: Go on with what is there; where nothing is, begin.

    Raises:
        ValueError: If the folder is in use, or holds other things than this restoring.
        OSError: If it cannot be written.
    """
    check_output(folder, resume=resume)
    new, state = not folder.exists(), folder / UNFINISHED
    try:
        with hold(state, called=f"folder {str(folder)!r}"):
            check_output(folder, resume=resume)  # another process may have come and gone
            for path in (state / _PLAN, folder / RESTORING):
                if path.exists():
                    _check_plan(folder, path, plan)
            output = Output(folder)
            if not output.finished:
                output.begin(plan)
            yield output
    finally:
        if new:
            with suppress(OSError):  # nothing has come into it
                folder.rmdir()


def check_output(folder: Path, *, resume: bool) -> None:
    """Raises a `ValueError` if restored images cannot go to a folder."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file: restored images go to a new or empty folder")
    _check_state(folder / UNFINISHED)
    with writing(folder):
        found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    begun = (folder / UNFINISHED / _PLAN).exists()
    if resume and ASSIGNMENTS in found and RESTORING not in found:
        raise ValueError(
            f"{str(folder / ASSIGNMENTS)!r} was not left by a restoring, whose {RESTORING} is beside it: "
            "choose a new or empty folder"
        )
    if resume and (not found or begun or ASSIGNMENTS in found):
        return
    if begun:
        raise ValueError(
            f"folder {str(folder)!r} holds an unfinished restoring: go on with it (--resume), or choose another"
        )
    if found - {UNFINISHED}:
        raise ValueError(f"folder {str(folder)!r} is not empty: choose a new or empty one, nothing is overwritten")


def _check_state(state: Path) -> None:
    """Refuses a hidden folder that no restoring left: through a link in it, a file elsewhere would be written."""
    if not os.path.lexists(state):
        return
    whole = not state.is_symlink() and state.is_dir()
    if not whole or [entry for entry in os.scandir(state) if not entry.is_file(follow_symlinks=False)]:
        raise ValueError(f"{str(state)!r} was not left by a restoring: remove it, or choose another folder")


def check_parquet() -> None:
    """Raises a `ValueError` if Parquet cannot be written here."""
    if find_spec("pyarrow") is None:
        raise ValueError("writing Parquet needs pyarrow: pip install 'licm[data]'")


def _check_plan(folder: Path, path: Path, plan: Mapping[str, Any]) -> None:
    if (former := read_object(path)) is None:
        raise ValueError(f"{str(path)!r} is damaged: restore to another folder")
    if differs := [key for key in plan if former.get(key) != plan[key]]:
        raise ValueError(
            f"folder {str(folder)!r} was begun with another {differs[0]}, {former.get(differs[0])!r}: "
            "go on with that, or choose another folder"
        )


def _parts(rows: Iterator[Assignment]) -> Iterator[list[Assignment]]:
    while part := list(islice(rows, _ROWS)):
        yield part


def _number(text: str) -> float | None:
    return float(text) if text else None


def _read_rows(path: Path) -> Iterator[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file)
        next(rows, None)
        yield from rows


def _write_parquet(path: Path, rows: Iterator[Assignment]) -> None:
    import pyarrow
    import pyarrow.parquet

    text, number = pyarrow.string(), pyarrow.float64()
    schema = pyarrow.schema(list(zip(Assignment._fields, (text, pyarrow.int32(), number, number, text, number))))
    with create(path) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for part in _parts(rows):
            named = [row._replace(path=os.fsencode(row.path).decode(errors="backslashreplace")) for row in part]
            writer.write_batch(pyarrow.record_batch([list(column) for column in zip(*named)], schema=schema))

"""Files written whole or not at all, never through a link, and the wording of the errors when they cannot be."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError


@contextmanager
def writing(path: Path, hint: str = "") -> Iterator[None]:
    """Words the error of a write that fails, which by itself would not name the file."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        told = re.sub(r".*I/O error: (.*) \(os error \d+\)", r"\1", " ".join(str(error).split()))
        reason = (getattr(error, "strerror", None) or told).lower()
        raise OSError(f"{str(path)!r} cannot be written: {reason}{hint}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically; raises `OSError` if it cannot be written."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically; raises `OSError` if it cannot be written."""
    new = path.with_name(path.name + ".new")
    with writing(path):
        try:
            with create(new) as file:
                file.write(content)
            move(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


def create(path: Path, mode: str = "b", **options: Any) -> IO[Any]:
    """Opens a file that is new: what lies under its name, perhaps a link to another's file, is removed, not written to.

    Args:
        path: The file.
        mode: Of `open`, without the "w".
        **options: Of `open`.
    """
    path.unlink(missing_ok=True)
    return path.open(f"x{mode}", **options)


def append_line(path: Path, line: str, hint: str = "") -> None:
    """Adds a line to a file, which is made if need be; raises `OSError` if it cannot, or if the file is a link."""

    def opener(name: str, flags: int) -> int:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link, which nothing here makes")
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    with writing(path, hint), open(path, "a", encoding="utf-8", opener=opener) as file:
        file.write(line + "\n")


def move(new: Path, path: Path) -> None:
    """Gives a written file its name, atomically: even a loss of power leaves it whole, or what was there before."""
    sync(new)
    os.replace(new, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file is on the disk, or the names in a folder, where the system can wait for those."""
    if path.is_dir():
        with suppress(OSError):
            _sync(path, os.O_RDONLY)
    else:
        _sync(path, os.O_RDWR)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_folder(folder: Path, hint: str = "") -> Iterator[Path]:
    """Gives a hidden folder beside `folder` to fill, which takes its place at the end, or is removed if anything fails.

    What stands in its place must by then be an empty folder or nothing.

    Raises:
        OSError: If the folder cannot be made, or something has come into its place.
    """
    parent = folder.absolute().parent
    with writing(folder, hint):
        parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    fresh = hidden / "folder"
    try:
        with writing(folder, hint):
            fresh.mkdir()
        yield fresh
        with writing(folder, hint):
            if folder.exists():
                folder.rmdir()  # it was empty; if it no longer is, this refuses
            fresh.rename(folder)
            sync(parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)

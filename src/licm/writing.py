"""Files written whole or not at all, and the wording of the errors when they cannot be."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
            new.write_bytes(content)
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


@contextmanager
def whole_folder(folder: Path, hint: str = "") -> Iterator[Path]:
    """Gives a hidden folder beside `folder` to fill, which takes its place at the end, or is removed if anything fails.

    What stands in its place must by then be an empty folder or nothing.

    Raises:
        OSError: If the folder cannot be made, or something has come into its place.
    """
    place = folder.absolute()
    fresh = place.with_name(f".{place.name}.{os.getpid()}.unfinished")
    try:
        with writing(folder, hint):
            fresh.mkdir(parents=True, exist_ok=True)
        yield fresh
        with writing(folder, hint):
            if folder.exists():
                folder.rmdir()  # it was empty; if it no longer is, this refuses
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)

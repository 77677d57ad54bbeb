"""What is in a file: its bytes, unpacked where it is packed, and never more than such a file honestly holds.

Whatever is damaged, cut short, of another kind or made to fill the memory ends in one `ValueError` that names the
file.
"""

import errno
import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

ROOM, RATIO = 1 << 28, 100  # bytes that any packed file may hold, and per byte of a larger one


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_object(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in a file, None if there is no file, it cannot be read or holds something else."""
    try:
        check_regular(path)
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def refuse(name: str | Path, error: Exception) -> NoReturn:
    """Raises the one-line `ValueError` for a file or folder that cannot be read."""
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror.lower()
    elif isinstance(error, MemoryError):
        reason = "there is not enough memory"
    else:
        reason = f"damaged, or not of the kind expected ({' '.join(str(error).split()) or type(error).__name__})"
    raise ValueError(f"{name}: cannot be read: {reason}") from error


def check_regular(path: Path) -> None:
    """Raises an error for what is there but is no file, such as a folder, a device or a pipe."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a folder" if path.is_dir() else "it is not a regular file")


def read_content(path: str | Path, sha256: str | None = None) -> bytes:
    """Returns what is in a file, unpacked if it is gzip, and verified if there is a hash.

    Raises:
        ValueError: If the file cannot be read, is not a regular file, unpacks to too much, or has another hash.
    """
    path = Path(path)
    try:
        check_regular(path)
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(content)) as file:
                content = _read_bounded(file, limit_of(len(content)))
    except Exception as error:  # gzip raises many kinds for damaged files
        refuse(path, error)
    if sha256 is not None and (got := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path}: expected unpacked content with sha256 {sha256}, got {got}")
    return content


def limit_of(size: int) -> int:
    """Returns how many bytes a packed file of `size` bytes may unpack to.

    >>> limit_of(1000) == ROOM, limit_of(ROOM) == RATIO * ROOM
    (True, True)
    """
    return max(ROOM, RATIO * size)


def read_zip(source: str | Path | bytes, name: str | Path, *, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yields the files in a zip whose names end with `suffix`: their names and contents.

    Args:
        source: The zip's path or content.
        name: What to call it in an error.
        suffix: The end of the wanted names.

    Raises:
        ValueError: If the zip or a file in it is damaged, packed in a way that is not read here, or too large.
    """
    entry = str(name)
    try:
        if not isinstance(source, bytes):
            check_regular(Path(source))
        room = limit_of(len(source) if isinstance(source, bytes) else Path(source).stat().st_size)
        archive = zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Exception as error:  # zipfile raises many kinds for damaged files
        refuse(entry, error)
    with archive:
        for info in archive.infolist():
            if not info.filename.endswith(suffix):
                continue
            try:
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("packed neither as stored nor as deflated")
                with archive.open(info) as file:
                    content = _read_bounded(file, room)
            except Exception as error:
                refuse(f"{entry}: {info.filename}", error)
            room -= len(content)
            yield info.filename, content


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays in a `.npz` file, by name; none may hold Python objects.

    Raises:
        ValueError: If the file is missing, damaged, or an array states more bytes than the file has.
    """
    arrays = {}
    for name, content in read_zip(path, path, suffix=".npy"):
        try:
            arrays[name.removesuffix(".npy")] = _parse_npy(content)
        except Exception as error:  # NumPy raises many kinds for damaged arrays
            refuse(f"{path}: {name}", error)
    return arrays


def _parse_npy(content: bytes) -> np.ndarray:
    """Reads an array once its header is known not to ask for more memory than there are bytes."""
    stream, reader = io.BytesIO(content), np.lib.format
    first = reader.read_magic(stream) == (1, 0)
    shape, _, dtype = (reader.read_array_header_1_0 if first else reader.read_array_header_2_0)(stream)
    if min(shape, default=1) < 0 or prod(shape) * max(dtype.itemsize, 1) > len(content):
        raise ValueError(f"its header states {dtype} {list(shape)}, which is more than the {len(content)} bytes there")
    stream.seek(0)
    return reader.read_array(stream, allow_pickle=False)


def _read_bounded(stream: _Stream, limit: int) -> bytes:
    content = bytearray()
    while part := stream.read(1 << 20):
        content += part
        if len(content) > limit:
            raise ValueError(f"it unpacks to more than {limit} bytes")
    return bytes(content)

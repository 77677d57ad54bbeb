"""Image files in, restored image files out: through the experts of a run, a batch at a time.

The result appears at once when all is done: until then it lies beside its place, in a hidden folder that is removed
if anything fails. The input is read only.
"""

import csv
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from licm.datasets import to_float, top_left
from licm.run import Run, load_run, restore_images
from licm.sources import find_images, read_image
from licm.writing import whole_folder, writing

ASSIGNMENTS = "assignments.csv"
_LOST = "; nothing is kept of what was restored so far"
_FORMATS: dict[str, dict[str, Any]] = {  # by suffix, what keeps most of an image; the others lose nothing anyway
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
    ".png": {"format": "PNG"},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
}


def restore_files(
    run_folder: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    device: str = "cpu",
    batch_size: int = 256,
    callback: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Restores an image, or all images in a folder and its subfolders, as the run's experts do.

    For each image the experts compete, and the winner's output is written under the image's own name (its path within
    `source`) and format. `assignments.csv` has a line for each: path, the winning expert, and the discriminator's
    score of its output, the probability in 0..1 that it is a canonical image. No image is written before all have
    been read once.

    Args:
        run_folder: The run.
        source: An image or a folder of images of the size that the run was trained on, or up to `data.image_size` if
            that is set: they are then padded as in training, and what is written has their own size.
        out: A folder that is new or empty, and not within `source`.
        device: Where to compute.
        batch_size: Images held in memory at a time.
        callback: Told how many images of how many are done, after each batch.

    Returns:
        JSON values: `out`, `images` (how many), `wins` (how many by each expert) and `mean_score`.

    Raises:
        ValueError: If `out` is taken or within `source`, if there is no image, if one cannot be read or has another
            size or kind than the run was trained on, or if the run cannot be read.
        OSError: If `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    _check_out(out, source)
    run = load_run(run_folder, device=device)
    if not run.finished:
        logging.getLogger(__name__).warning(
            "warning: run %r is unfinished: it stopped at step %d", str(run_folder), run.step
        )
    paths = find_images(source) if source.is_dir() else [source]
    base = source if source.is_dir() else source.parent
    for path in paths:
        _read(path, run)
    rows = []
    with whole_folder(out, _LOST) as fresh:
        for path, image, expert, score in _restore(run, paths, batch_size):
            name = path.relative_to(base)
            with writing(out / name, _LOST):
                _write(fresh / name, image)
            rows.append((name.as_posix(), expert, round(score, 6)))
            if len(rows) % batch_size == 0 or len(rows) == len(paths):
                callback(len(rows), len(paths))
        with writing(out / ASSIGNMENTS, _LOST):
            _write_assignments(fresh / ASSIGNMENTS, rows)
    wins = np.bincount([expert for _, expert, _ in rows], minlength=len(run.experts))
    mean_score = float(np.mean([score for *_, score in rows]))
    return {"out": str(out), "images": len(rows), "wins": wins.tolist(), "mean_score": mean_score}


def _check_out(out: Path, source: Path) -> None:
    if not source.exists():
        raise ValueError(f"{source}: cannot be read: no such file or directory")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{str(out)!r} is a file: restored images go to a new or empty folder")
    if out.is_symlink() or out.name in ("", ".."):
        raise ValueError(f"{str(out)!r} is a link or the folder you are in: name a folder, which is made anew")
    if source.is_dir() and source.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"{str(out)!r} is within {str(source)!r}: choose a folder outside of the images to restore")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"folder {str(out)!r} is not empty: choose a new or empty one, nothing is overwritten")


def _read(path: Path, run: Run) -> np.ndarray:
    """Reads an image as uint8 [c, h, w] if the run can restore it."""
    channels = next(run.discriminator.parameters()).shape[1]  # of the first convolution
    size, padded = run.discriminator.image_size, run.config.data.image_size is not None
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path}: expected a folder of images, or an image whose name ends in {' '.join(_FORMATS)}")
    image = read_image(path)
    if channels == 1 and run.config.data.channels is None and not _is_grey(image):
        raise ValueError(f"{path}: expected a grey image, as the run was trained on, got colour")
    fits = max(image.size) <= size if padded else image.size == (size, size)
    if not fits:
        most = "at most " if padded else ""
        raise ValueError(
            f"{path}: expected {most}{size}x{size} px, as the run was trained on, got {image.width}x{image.height}"
        )
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _is_grey(image: Image.Image) -> bool:
    """Whether an image is grey, be it in the colours' way of WebP, which knows no other."""
    array = np.asarray(image)
    return image.mode == "L" or bool((array == array[..., :1]).all())


def _restore(run: Run, paths: Sequence[Path], batch_size: int) -> Iterator[tuple[Path, np.ndarray, int, float]]:
    """Yields each path with its restored image, uint8 [c, h, w], the winner and its score."""
    size = run.discriminator.image_size
    for start in range(0, len(paths), batch_size):
        chosen = paths[start : start + batch_size]
        images = [_read(path, run) for path in chosen]
        frames = np.zeros((len(images), len(images[0]), size, size), np.uint8)
        places = [_place(image, size) for image in images]
        for frame, image, (rows, columns) in zip(frames, images, places):
            frame[:, rows, columns] = image
        scores, winners, restored = restore_images(run, to_float(torch.from_numpy(frames)))
        outputs = restored.mul(255).round().to(torch.uint8).numpy()
        best = scores.amax(dim=0)
        for index, (path, (rows, columns)) in enumerate(zip(chosen, places)):
            yield path, outputs[index, :, rows, columns], int(winners[index]), float(best[index])


def _place(image: np.ndarray, size: int) -> tuple[slice, slice]:
    """Where an image lies in a frame of a run's size: padded as in training."""
    height, width = image.shape[1:]
    top, left = top_left(height, width, size)
    return slice(top, top + height), slice(left, left + width)


def _write(path: Path, image: np.ndarray) -> None:
    buffer = io.BytesIO()
    array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, **_FORMATS[path.suffix.lower()])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def _write_assignments(path: Path, rows: Sequence[tuple[str, int, float]]) -> None:
    # names that are not text in this file system's encoding keep their bytes
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "expert", "score"])
        writer.writerows(rows)

"""Image files in, restored image files out: through the experts of a run, a shard at a time.

A shard is as many images, in the order of their names, as are held in memory at once. When all its images are in their
places, on the disk, it is noted, so that a kill or a loss of power costs no more than one. The input is read only.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from licm.assignments import OWN_FILES, Assignment, Output, Skipped, check_output, check_parquet, open_output
from licm.checks import is_out_of_memory, unknown_name
from licm.confidence import CLEAN, UNKNOWN, Calibration, gather_evidence, read_calibration
from licm.full_size import TILE_PIXELS, restore_full_size
from licm.pictures import (
    IMAGE_SUFFIXES,
    Listing,
    Picture,
    encode,
    list_images,
)
from licm.routing import Router
from licm.run import Run
from licm.saving import load_image_run
from licm.whole_images import as_batch, as_pixels, padded_size, read_for

SHARD_IMAGES, SHARD_PIXELS = 128, 1 << 21  # the images of a shard: at most so many, or (but for the last) so large

KEEP = {"none": (), "clean": (CLEAN,), "all": (CLEAN, UNKNOWN)}
"""Which images that the run abstains from are left as they are."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    """What is the same for all shards."""

    run: Run
    base: Path
    output: Output
    router: Router | None
    calibration: Calibration | None
    kept: tuple[str, ...]
    tile_pixels: int


def restore_files(
    run_folder: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    parquet: bool = False,
    routed: bool = False,
    keep: str = "clean",
    device: str = "cpu",
    tile_pixels: int = TILE_PIXELS,
    callback: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Restores an image, or all images in a folder and its subfolders, as the run's experts do.

    For each image the experts compete: each is scored by D's mean over crops, of the size it was trained on, of the
    expert's output. The winner's output is written under the image's own name (its path within `source`), in its
    format, size and depth. At the end `assignments.csv` has a line for each: path, the winning expert, its score, the
    margin to the best other expert, whether the run abstains ("clean" for an image that is clean already, "unknown" for
    one under none of its mechanisms), and how sure it is of the winner, as `MechanismInverter.predict_proba` says. Of a
    run without calibration these two are empty, with a warning (see `licm.confidence`).
    An image that cannot be restored is named in a warning and in `skipped.csv`, and the others are restored.

    Args:
        run_folder: The run.
        source: An image or a folder of images, of any sizes; see `licm.pictures` for kinds.
        out: A folder that is new or empty, and not within `source`; with `resume`, also one that was begun or finished.
        resume: Go on where a process that was killed or failed has stopped, and with images that are new or were
            skipped; begin if it has not begun.
        parquet: Write `assignments.parquet` too, which needs pyarrow.
        routed: Ask only the expert that the run's router names for each image: several times faster; no margins.
        keep: Which images that the run abstains from are copied as they are, byte by byte: "clean" for those alone,
            "all", or "none".
        device: Where to compute.
        tile_pixels: Larger images go through the experts in tiles; see `licm.full_size.apply_expert`.
        callback: Told how many images of how many are done, after each shard.

    Returns:
        JSON values: `out`, `images` (how many are restored or kept), `skipped` (how many are not), `wins` (how many by
        each expert), `mean_score`, None without images, `abstained` (how many for each reason), and `passed_over` (how
        many files without an image's name are in `source`, by suffix).

    Raises:
        ValueError: If `out` is taken, in use or within `source`, was begun or finished with another run, source or
            router, was prepared by others, there is no image, the run has no router to ask, the run cannot be read, or
            `keep` is none of the three.
        OSError: If `out` cannot be written; what is restored so far is kept.
    """
    source, out = Path(source), Path(out)
    if keep not in KEEP:
        raise ValueError(unknown_name("keep", keep, KEEP))
    _check_places(source, out)
    check_output(out, resume=resume)
    if parquet:
        check_parquet()
    run = load_image_run(run_folder, device=device)
    if not run.finished:
        logger.warning("warning: run %r is unfinished: it stopped at step %d", str(run_folder), run.step)
    router, calibration = run.router if routed else None, read_calibration(Path(run_folder), run)
    if calibration is None:
        logger.warning("warning: run %r is not calibrated: it never abstains (see licm evaluate)", str(run_folder))
    base = source if source.is_dir() else source.parent
    listing = list_images(source) if source.is_dir() else Listing([source.name], {}, {})
    listing.require(source)
    names, refused, others = listing
    taken = [name for name in names if name.split("/")[0] in OWN_FILES]
    refused |= dict.fromkeys(taken, "its folder has the name of a table that comes beside the images: rename it")
    names = [name for name in names if name not in refused]
    plan = {"run": _weights(run), "images": str(source.resolve()), "routed": routed, "keep": keep}
    with open_output(out, plan, resume=resume) as output:
        if others:
            logger.info("%s passed over", listing.others_in_words())
        todo = [name for name in names if name not in output.done]
        if output.finished and not todo and {row.path for row in output.skipped()} == set(refused):
            logger.info("%r was finished before: nothing is restored anew", str(out))
        else:
            if output.finished:
                logger.info("%r was finished before: now %d image(s) that are new or were skipped", str(out), len(todo))
                output.begin(plan, todo)
            _note_refused(output, refused)
            before = len(names) - len(todo)
            work = _Work(run, base, output, router, calibration, KEEP[keep], tile_pixels)
            for done in _restore(work, todo):
                callback(before + done, len(names))
        output.finish(parquet=parquet)
        return {"out": str(out), **_summary(output, len(run.experts)), "passed_over": others}


def _check_places(source: Path, out: Path) -> None:
    if not source.exists():
        raise ValueError(f"{source}: cannot be read: no such file or directory")
    if not source.is_dir() and not source.name.lower().endswith(IMAGE_SUFFIXES):
        expected = f"a folder of images, or an image whose name ends in {' '.join(IMAGE_SUFFIXES)}"
        raise ValueError(f"{source}: expected {expected}")
    try:
        real, place = source.resolve(), out.resolve()
    except (OSError, RuntimeError):
        raise ValueError(f"{str(out)!r} is a link that leads nowhere: choose a new or empty folder") from None
    if source.is_dir() and real in (place, *place.parents):
        raise ValueError(f"{str(out)!r} is within {str(source)!r}: choose a folder outside of the images to restore")


def _weights(run: Run) -> str:
    """Tells runs, and steps of one, apart by what restores: the experts' and the discriminator's weights."""
    digest = hashlib.sha256()
    for module in (run.experts, run.discriminator):
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()[:16]


def _note_refused(output: Output, refused: dict[str, str]) -> None:
    if skipped := [_skip(name, reason) for name, reason in sorted(refused.items()) if name not in output.done]:
        output.note([], skipped)


def _skip(name: str, reason: str) -> Skipped:
    skipped = Skipped(name, " ".join(reason.split()))
    logger.warning("warning: skipped %r: %s", *skipped)
    return skipped


def _restore(work: _Work, names: Iterable[str]) -> Iterator[int]:
    """Restores images shard by shard, and yields how many are done or skipped."""
    pictures: dict[str, Picture] = {}
    skipped: list[Skipped] = []
    pixels = done = 0

    def finish_shard() -> None:
        restored, failed = _restore_shard(work, pictures)
        work.output.note(restored, [*skipped, *failed])
        pictures.clear()
        skipped.clear()

    for name in names:
        try:
            pictures[name] = read_for(work.run, work.base / name, keep_content=bool(work.kept))
            pixels += padded_size(work.run, pictures[name])
        except (ValueError, MemoryError) as error:
            reason = str(error).removeprefix(f"{work.base / name}: ")
            skipped.append(_skip(name, reason or "there is not enough memory to read it"))
        done += 1
        if len(pictures) + len(skipped) == SHARD_IMAGES or pixels >= SHARD_PIXELS:
            finish_shard()
            pixels = 0
            yield done
    if pictures or skipped:
        finish_shard()
        yield done


def _restore_shard(work: _Work, pictures: dict[str, Picture]) -> tuple[list[Assignment], list[Skipped]]:
    """Restores the images of a shard, those of a size together, or one by one where memory does not suffice."""
    of_size: dict[tuple[int, ...], list[str]] = {}
    for name, picture in pictures.items():
        of_size.setdefault(picture.pixels.shape, []).append(name)
    found: dict[str, Assignment] = {}
    skipped = []
    for names in of_size.values():
        with _memory_may_fail():
            found |= _restore_alike(work, {name: pictures[name] for name in names})
        for name in names:
            if name not in found:
                with _memory_may_fail():
                    found |= _restore_alike(work, {name: pictures[name]})
            if name not in found:
                skipped.append(_skip(name, "there is not enough memory to restore it"))
    return [found[name] for name in pictures if name in found], skipped


@contextmanager
def _memory_may_fail() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise


def _restore_alike(work: _Work, pictures: dict[str, Picture]) -> dict[str, Assignment]:
    """Restores images of one size together, and writes them; what is said of each by its name."""
    run, router, names = work.run, work.router, list(pictures)
    images = as_batch(list(pictures.values())).to(run.device)
    scores, winners, restored = restore_full_size(
        run.experts, run.discriminator, images, router=router, tile_pixels=work.tile_pixels
    )
    reasons = [""] * len(names)
    if work.calibration is not None:
        evidence = gather_evidence(run, images, scores, winners, restored, tile_pixels=work.tile_pixels)
        reasons = work.calibration.reasons(evidence)
    sure: list[float | None] = [None] * len(names)
    if work.calibration is not None and router is None:
        shares = work.calibration.confidences(scores).gather(1, winners[:, None])[:, 0]
        sure = [round(share, 6) for share in shares.tolist()]
    best, alone = scores.topk(min(2, len(scores)), dim=0).values, int(run.experts.competing.sum()) == 1
    shown = zip(pictures.values(), restored, reasons)
    contents = [_content(work, picture, image, reason) for picture, image, reason in shown]
    found = {}
    for index, (name, content) in enumerate(zip(names, contents)):
        work.output.write_image(name, content)
        score, margin = best[0, index].item(), (best[0] - best[-1])[index].item()
        rounded = None if router is not None or alone else round(margin, 6)
        found[name] = Assignment(name, int(winners[index]), round(score, 6), rounded, reasons[index], sure[index])
    return found


def _content(work: _Work, picture: Picture, restored: Tensor, reason: str) -> bytes:
    """Returns what is to be written of an image: as it is where the run abstains from it, else restored."""
    if reason in work.kept:
        return picture.content
    return encode(replace(picture, pixels=as_pixels(restored, picture)))


def _summary(output: Output, num_experts: int) -> dict[str, Any]:
    wins, total, abstained = [0] * num_experts, 0.0, {CLEAN: 0, UNKNOWN: 0}
    for row in output.restored():
        wins[row.expert] += 1
        total += row.score
        if row.abstained:
            abstained[row.abstained] += 1
    images, skipped = sum(wins), sum(1 for _ in output.skipped())
    mean_score = total / images if images else None
    return {"images": images, "skipped": skipped, "wins": wins, "mean_score": mean_score, "abstained": abstained}

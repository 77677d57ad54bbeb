"""Folders of PNG files, end to end: digits go out as files, are learned from and restored as a user would.

    python -m benchmarks folders --seeds 0 1 2 --json docs/results/folders.json
    python -m benchmarks folders --table
    python -m benchmarks folders --model mnist-10 --kills 20

For each seed the embedded digits are written as PNG files, clean ones and transformed ones of other originals; a run
of the defaults learns from the two folders alone, and the official test digits under the mechanisms, PNG files too, are
restored by `licm restore`'s function, exactly and routed. Only then the hidden mechanisms and originals are looked at.
Beside it the time of restoring over that of reading and writing the same files, in turn. What is in the file is not
made again; `--table` makes docs/results/folders.md from it. With `--model` nothing is trained: a model of the package
restores the test digits, for its speed alone, and with `--kills` its process is killed at random moments of its life,
each time resumed.
"""

import argparse
import csv
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.keeping import add_records, commits_of, finished_or_stop
from licm import metrics
from licm.assignments import ASSIGNMENTS
from licm.checkpoint import provenance, read_config
from licm.classifier import accuracy, train_classifier
from licm.config import Config, make_config
from licm.datasets import load_training_data, to_bytes, to_float
from licm.evaluation import load_evaluated
from licm.pictures import encode, list_images, read_picture
from licm.restoring import restore_files
from licm.shipped import find_run
from licm.tables import markdown
from licm.training import train

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECORD, PAGE = RESULTS / "folders.json", RESULTS / "folders.md"
ROUNDS = 5
FIGURES = ("matched_share", "psnr", "accuracy_clean", "accuracy_restored", "routed_agreement", "train_seconds")
SPEEDS = ("exact_images_per_second", "routed_images_per_second", "routed_over_reading_and_writing")


def write_pngs(folder: Path, images: Tensor) -> Path:
    """Writes images, [n, 1, h, w] in [0, 1], as PNG files whose names are in their order."""
    folder.mkdir(parents=True)
    for index, image in enumerate(to_bytes(images)):
        Image.fromarray(image[0]).save(folder / f"{index:06d}.png")
    return folder


def read_back(folder: Path) -> tuple[Tensor, Tensor]:
    """Returns restored images, [n, 1, h, w] in [0, 1], and their winners, int64 [n], in the order of the names."""
    with (folder / ASSIGNMENTS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = np.stack([read_picture(folder / row["path"]).pixels for row in rows])
    return to_float(torch.from_numpy(images)), torch.tensor([int(row["expert"]) for row in rows])


def measure(config: Config, place: Path) -> dict[str, Any]:
    """Trains and restores by folders in `place`, then compares with what was hidden."""
    known = load_training_data(**config.data.model_dump(), mechanisms=config.mechanisms, seed=config.seed)
    clean, damaged = (write_pngs(place / name, getattr(known, name)) for name in ("canonical", "transformed"))
    own = config.data.model_copy(update={"canonical": str(clean), "transformed": str(damaged)})
    run = finished_or_stop(train(config.model_copy(update={"data": own}), place / "run"))
    originals, mixture = load_evaluated(config, "test")
    inputs = write_pngs(place / "inputs", mixture.images)
    restore_files(place / "run", inputs, place / "restored", keep="none")
    restore_files(place / "run", inputs, place / "routed", routed=True, keep="none")
    restored, winners = read_back(place / "restored")
    count = int(mixture.mechanism.max()) + 1
    matrix = metrics.winner_matrix(mixture.mechanism, winners, num_mechanisms=count, num_experts=config.num_experts)
    record: dict[str, Any] = {
        "seed": config.seed,
        "steps": run.step,
        "train_seconds": round(run.seconds, 1),
        "matched_share": metrics.matched_share(matrix),
        "psnr": metrics.mean_per_mechanism(metrics.psnr(restored, mixture.originals), mixture.mechanism, count)
        .mean()
        .item(),
        "routed_agreement": (read_back(place / "routed")[1] == winners).double().mean().item(),
    }
    if originals.canonical.labels is not None and mixture.labels is not None:
        judge = train_classifier(to_float(originals.canonical.images), originals.canonical.labels)
        for name, images in (("clean", mixture.originals), ("restored", restored)):
            record[f"accuracy_{name}"] = accuracy(judge, images, labels=mixture.labels)
    return {**record, **time_files(place / "run", inputs, place / "timed"), "provenance": provenance()}


def time_files(run: Path, inputs: Path, out: Path) -> dict[str, float]:
    """Times restoring a folder, exactly and routed, against reading and writing it, in turn; medians."""
    names = list_images(inputs)[0]
    seconds: dict[str, list[float]] = {"exact": [], "routed": [], "files": []}
    for _ in range(ROUNDS):
        for kind, times in seconds.items():
            start = time.perf_counter()
            if kind == "files":
                out.mkdir()
                for name in names:
                    (out / name).write_bytes(encode(read_picture(inputs / name)))
            else:
                restore_files(run, inputs, out, routed=kind == "routed")
            times.append(time.perf_counter() - start)
            shutil.rmtree(out)
    median = {kind: statistics.median(times) for kind, times in seconds.items()}
    return {
        "exact_images_per_second": len(names) / median["exact"],
        "routed_images_per_second": len(names) / median["routed"],
        "routed_over_reading_and_writing": median["routed"] / median["files"],
    }


def kill_and_resume(run: Path, inputs: Path, place: Path, *, kills: int, seed: int = 0) -> dict[str, int]:
    """Kills a restoring at random moments, from its start to its end, and resumes it, in a new output each time.

    Returns:
        How often it was killed before its end, how many of the outputs then were, byte by byte, what comes without a
        kill, and how many images at most were written twice.
    """
    command = [sys.executable, "-m", "licm", "restore", str(run), str(inputs), "--quiet"]
    start = time.perf_counter()
    subprocess.run([*command, str(place / "whole")], check=True)
    seconds, whole = time.perf_counter() - start, _contents(place / "whole")
    record, draws = {"kills": 0, "whole": 0, "most_written_twice": 0}, random.Random(seed)
    for index in range(kills):
        out = place / f"killed-{index}"
        process = subprocess.Popen([*command, str(out)])
        try:
            process.wait(draws.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            record["kills"] += 1
        process.wait()
        before = {path: path.stat().st_ino for path in out.rglob("*.png")}
        subprocess.run([*command, str(out), "--resume"], check=True)
        again = sum(path.stat().st_ino != number for path, number in before.items())
        record["whole"] += _contents(out) == whole
        record["most_written_twice"] = max(record["most_written_twice"], again)
        shutil.rmtree(out)
    return record


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def try_model(name: str, place: Path, *, kills: int, images: int | None = None) -> dict[str, Any]:
    """Restores files with a trained model: its speed, and what comes of it if it is killed."""
    run = find_run(name)
    config = read_config(run)
    inputs = write_pngs(place / "inputs", load_evaluated(config, "test")[1].images[:images])
    record: dict[str, Any] = {"model": name, "images": len(list_images(inputs)[0])}
    if kills:
        record |= kill_and_resume(run, inputs, place, kills=kills)
    return {**record, **time_files(run, inputs, place / "timed"), "provenance": provenance()}


def make_page(records: list[dict[str, Any]]) -> str:
    """Returns the results page, from the records alone."""
    titles = ("matched share", "PSNR, dB", "accuracy clean", "restored", "routed as exact", "training, s")
    speeds = ("exact, images/s", "routed, images/s", "routed over reading and writing")
    rows = [
        [str(each["seed"]), *(f"{each[name]:.4g}" for name in FIGURES), *(f"{each[name]:.3g}" for name in SPEEDS)]
        for each in sorted(records, key=lambda each: each["seed"])
    ]
    where = records[0]["provenance"]
    lines = [
        "# Folders of images",
        "",
        "Made by `python -m benchmarks folders --table` from `folders.json`: digits as PNG files, learned",
        "from and restored by folders; official test digits, every seed that was run.",
        "",
        markdown([["seed", *titles, *speeds], *rows]),
        "",
        f"{where['threads']} threads, {where['machine']}, commits {commits_of(records)}.",
    ]
    return "\n".join(lines) + "\n"


def measure_seed(known: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any]:
    """Measures a seed, whatever records are known."""
    with tempfile.TemporaryDirectory() as place:
        return measure(make_config(overrides={"seed": seed}), Path(place))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write; printed otherwise")
    parser.add_argument("--table", action="store_true", help="make docs/results/folders.md and stop")
    parser.add_argument("--model", help="try this one alone: a name of licm models, or a run folder on known data")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="with --model: kill and resume N times")
    arguments = parser.parse_args()
    if arguments.model:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(try_model(arguments.model, Path(place), kills=arguments.kills), indent=1))
        return
    if arguments.table:
        PAGE.write_text(make_page(json.loads(RECORD.read_text())))
        return
    jobs = (({"seed": seed}, partial(measure_seed, seed=seed)) for seed in arguments.seeds)
    add_records(arguments.json, jobs)


if __name__ == "__main__":
    main()

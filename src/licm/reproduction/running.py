"""From experiments to records: what is already there is skipped, what was killed goes on."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from licm.checkpoint import CONFIG, FolderInUse, has_checkpoint, hold, provenance
from licm.checks import unknown_name
from licm.confidence import read_calibration
from licm.config import Config, flat, make_config
from licm.downloads import locate
from licm.health import Diverged
from licm.progress import Progress
from licm.reading import read_object
from licm.reproduction.experiments import BUDGETS, EXPERIMENTS, Budget, Condition, Experiment
from licm.reproduction.measuring import MEASURES, watch_recovery
from licm.saving import load_run
from licm.training import train
from licm.writing import write_text, writing

RECORDS, RUNS, IN_WORK = "records", "runs", "in_work"

LATER_KEYS: tuple[str, ...] = ("training.compile",)
"""Keys of the configuration that came after the first records and at their defaults change nothing: then they are no
part of a name, and the records from before they came still count."""


def _values(config: Config) -> dict[str, Any]:
    """What a run is known by, by dotted keys."""
    values, defaults = flat(config), flat(make_config(config.preset))
    return {key: each for key, each in values.items() if key not in LATER_KEYS or each != defaults[key]}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """One measure of one run; jobs of several experiments that ask the same are the same.

    Attributes:
        measure: A name in `MEASURES`.
        config: The run's configuration.
        settings: What else the measure depends on.
    """

    measure: str
    config: Config
    settings: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        """Of the record: the measure and a hash of all it depends on."""
        read = MEASURES[self.measure].reads
        config = {key: each for key, each in _values(self.config).items() if read is None or key.split(".")[0] in read}
        return f"{self.measure}-{_hash([self.measure, config, dict(self.settings)])}"

    @cached_property
    def run(self) -> str:
        """Of the run's folder: a hash of its configuration, so that measures share runs."""
        return _hash(_values(self.config))


@dataclass(frozen=True)
class Row:
    """A condition under one seed, with its jobs in their order."""

    experiment: str
    condition: str
    seed: int
    jobs: tuple[Job, ...]
    representable: float | None


def plan(
    names: Sequence[str] = (),
    *,
    seeds: int | None = None,
    budget: str = "full",
    overrides: Mapping[str, Any] | None = None,
    experiments: Mapping[str, Experiment] = EXPERIMENTS,
) -> list[Row]:
    """Lists what there is to do.

    Args:
        names: Of experiments; none for all. Then data sets that would have to be given by hand are left out.
        seeds: Runs of each condition; None for what the budget has.
        budget: A name in `BUDGETS`.
        overrides: Dotted keys to values, for every run, over all else.
        experiments: To choose from.

    Raises:
        ValueError: If an experiment, the budget or a key is unknown, `seeds` is below 1, or `overrides` make two
            conditions of an experiment the same.
    """
    if budget not in BUDGETS:
        raise ValueError(unknown_name("budget", budget, BUDGETS))
    if "seed" in (overrides or {}):
        raise ValueError("seed: each condition is run under seeds 0, 1, ...; say how many with seeds")
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    for name in names:
        if name not in experiments:
            raise ValueError(unknown_name("experiment", name, experiments))
    chosen = BUDGETS[budget]
    rows = []
    for name in dict.fromkeys(names or experiments):
        experiment = experiments[name]
        if not names and not all(_is_at_hand(condition) for condition in experiment.conditions.values()):
            continue
        count = seeds or min(experiment.seeds, chosen.seeds or experiment.seeds)
        for seed in range(count):
            for label, condition in experiment.conditions.items():
                jobs = tuple(_jobs(condition, seed, chosen, overrides or {}))
                rows.append(Row(name, label, seed, jobs, condition.representable))
    _check_distinct(rows)
    return rows


def _check_distinct(rows: Sequence[Row]) -> None:
    known: dict[tuple[str, ...], Row] = {}
    for row in rows:
        same = known.setdefault((row.experiment, *(job.name for job in row.jobs)), row)
        if same is not row:
            raise ValueError(
                f"overrides: they make {same.condition!r} and {row.condition!r} of {row.experiment} the same"
            )


def _is_at_hand(condition: Condition) -> bool:
    """Fashion-MNIST is large: it is used where it is present; what else is missing is downloaded."""
    return condition.source != "fashion-mnist" or None not in locate(condition.source).values()


def _jobs(condition: Condition, seed: int, budget: Budget, overrides: Mapping[str, Any]) -> Iterator[Job]:
    merged = {**condition.overrides, **budget.overrides, **overrides, "seed": seed}
    config = make_config(condition.preset, overrides=merged)
    known = {"paired_steps": budget.paired_steps, "source": condition.source}
    known |= {"centred": True} if condition.centred else {}
    for measure in condition.measures:
        yield Job(measure, config, {name: known[name] for name in MEASURES[measure].settings if name in known})


def reproduce(
    rows: Sequence[Row], out: str | Path, *, say: Callable[[str], None] = lambda line: None, quiet: bool = False
) -> bool:
    """Makes the records of a plan that are not there yet, each written when done.

    Several processes may work on one folder, such as one for each core: each passes over the runs that others hold.

    Args:
        rows: The plan.
        out: The folder; records go into `records`, runs into `runs`.
        say: Told what is being done, a line at a time.
        quiet: Show no progress of the runs.

    Returns:
        Whether all is done or in work by others; False if a run was stopped by a signal, which the same call goes on
        with.

    Raises:
        ValueError: If something in the folder is damaged.
        OSError: If it cannot be written.
    """
    out = Path(out)
    with writing(out):
        for folder in (RECORDS, RUNS, IN_WORK):
            (out / folder).mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows, start=1):
        if all(_is_done(job, out) for job in row.jobs):
            continue
        name = f"{number} of {len(rows)}: {row.experiment}, {row.condition}, seed {row.seed}"
        try:
            with hold(out / IN_WORK / row.jobs[0].run):
                for job in row.jobs:
                    if _is_done(job, out):
                        continue
                    if MEASURES[job.measure].needs_run and (not may_compete(row, out) or why_failed(row, out)):
                        break
                    with hold(out / IN_WORK / job.name):  # rows of different runs may ask the same of what is paired
                        say(f"{name}: {job.measure}")
                        if not _is_done(job, out) and not _do(job, out, quiet=quiet):
                            return False
        except FolderInUse:
            say(f"{name}: in work by another process")
    return True


def _is_done(job: Job, out: Path) -> bool:
    return (out / RECORDS / f"{job.name}.json").exists()


def may_compete(row: Row, out: Path) -> bool:
    """Whether paired experts have shown that the row's mechanisms can be undone, where that is asked for."""
    if row.representable is None:
        return True
    paired = read_record(next(job for job in row.jobs if job.measure == "supervised"), out)
    return paired is None or min(paired["per_mechanism"]["psnr"]) >= row.representable


def why_failed(row: Row, out: Path) -> str | None:
    """Why the row's run cannot be had, if it has diverged: the same seed would diverge again."""
    records = (read_record(job, out) for job in row.jobs)
    return next((record["failed"] for record in records if record is not None and "failed" in record), None)


def _is_trained(folder: Path) -> bool:
    """Whether a run has come to its end, calibration and all."""
    if not has_checkpoint(folder):
        return False
    run = load_run(folder)
    return run.finished and read_calibration(folder, run) is not None


def _do(job: Job, out: Path, *, quiet: bool) -> bool:
    measure, folder, diverged = MEASURES[job.measure], out / RUNS / job.run, None
    if measure.needs_run and not _is_trained(folder):
        try:
            with Progress(job.config, quiet=quiet) as progress:
                resume = (folder / CONFIG).exists()
                watchers = [watch_recovery(folder)]
                run = train(job.config, folder, resume=resume, callbacks=[progress], watchers=watchers)
        except Diverged as error:
            diverged = str(error)
        if diverged is None and not run.finished:
            return False
    head = {
        "measure": job.measure,
        "config": job.config.model_dump(mode="json"),
        "settings": dict(job.settings),
        "seed": job.config.seed,
        "provenance": provenance(),
    }
    values = {"failed": diverged} if diverged else measure.take(job.config, folder, job.settings)
    write_text(out / RECORDS / f"{job.name}.json", json.dumps({**head, **values}) + "\n")
    return True


def read_record(job: Job, out: Path) -> dict[str, Any] | None:
    """Reads the record of a job, None if it is not there yet.

    Raises:
        ValueError: If it is damaged.
    """
    path = out / RECORDS / f"{job.name}.json"
    if not path.exists():
        return None
    record = read_object(path)
    if record is None or record.get("measure") != job.measure:
        raise ValueError(f"{str(path)!r} is damaged: remove it, and the same command makes it again")
    return record

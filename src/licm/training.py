"""The loop: batches in, steps, health, revival, schedule, records and checkpoints out.

Nothing here knows the mathematics of a step (`licm.competition`) or the true mechanisms: the validation record
is for people and decides nothing. All randomness is derived from (seed, purpose, step), so the state of a run
is its tensors and a few numbers, and a resumed run gives the bits of the uninterrupted one.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from licm import checkpoint as files
from licm.checks import BY_CROPS, KINDS, check_images
from licm.competition import StepRecord
from licm.confidence import calibrate, save_calibration
from licm.config import Config, flat, to_yaml
from licm.datasets import IN_MEMORY, Mixture, TrainingData, load_training_data
from licm.health import HEALTHY_MARGIN, Diverged
from licm.history import judge_record, step_record, train_judge, validation_record
from licm.identity import analytic_identity, copy_with_noise, identity_errors, train_identity
from licm.models import placed
from licm.retirement import retire
from licm.run import Run, build_run
from licm.saving import load_run, save_run, with_paths
from licm.seeding import generator

Callback = Callable[[dict[str, Any]], None]
Watcher = Callable[[Run, TrainingData], Callback]

LOOK = 1000  # transformed images by which expendable experts are found, and of the router's last lesson


def start_identity(
    run: Run,
    transformed: Tensor,
    *,
    callback: Callback = lambda record: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Brings the experts near the identity.

    Args:
        run: The run before its first step.
        transformed: Transformed images, signals or vectors, in [0, 1].
        callback: Told of each expert that is ready.
        stopped: Asked before each expert whether to give up.

    Returns:
        A record of how near they are, or None if given up.
    """
    config = run.config
    steps = []
    for index, expert in enumerate(run.experts):
        if stopped():
            return None
        if config.identity.start == "copied" and index > 0:
            noise = config.identity.noise
            copy_with_noise(expert, run.experts[0], noise=noise, seed=config.seed, index=index)
        if config.identity.start in ("trained", "copied"):
            steps.append(
                train_identity(
                    expert,
                    transformed,
                    seed=config.seed,
                    index=index,
                    tolerance=config.identity.tolerance,
                    max_steps=config.identity.max_steps,
                    batch_size=config.training.batch_size,
                    learning_rate=config.identity.learning_rate,
                )
            )
        elif config.identity.start == "analytic":
            analytic_identity(expert, seed=config.seed, index=index)
        callback({"kind": "identity progress", "step": 0, "expert": index})
    sample = transformed[:256]
    errors = identity_errors(run.experts, sample)
    start, dims = config.identity.start, run.discriminator.dims
    return {"kind": "identity", "step": 0, "start": start, "steps": steps, "errors": errors, "dims": dims}


def advance(run: Run, data: TrainingData) -> StepRecord:
    """Does one step: batch, learning rate, competition, health, revival."""
    config = run.config
    canonical, transformed = (
        placed(batch, run.device) for batch in data.batch(run.step, config.training.batch_size, seed=config.seed)
    )
    run.learning_rate_factor = next_learning_rate_factor(run)
    run.competition.set_learning_rate_factor(run.learning_rate_factor)
    run.competition.cycle_pulls = run.decay_start is not None
    told_apart = run.health.margin >= HEALTHY_MARGIN
    run.competition.mean_margin = run.health.margin if told_apart else 0.0  # before, all is a tie
    record = run.competition.step(canonical, transformed, generator(config.seed, "losers", run.step))
    if not math.isfinite(record.discriminator_loss + record.expert_loss):
        raise Diverged(run.step + 1)
    run.step += 1
    run.health.update(record)
    rule, run.events = config.revival, []
    retirement_is_due = rule.retire and run.retirement_step is None and _is_half_done(run)
    if rule.enabled:
        may_revive = _revives(run) and run.step + rule.trial_steps <= run.end
        may_revive = may_revive and not retirement_is_due and run.retirement_step is None
        run.events = run.revival.step(run.step, run.competition, run.health, may_revive=may_revive)
    if retirement_is_due and not run.revival.trials:
        run.retirement_step = run.step
        images = data.transformed[:LOOK].to(run.device)
        for one in retire(run.competition, images, below=rule.idle_below):
            run.events.append({"event": "retired", "expert": one.expert, "donor": one.successor, "lead": one.lead})
    _update_schedule(run)
    return record


def _revives(run: Run) -> bool:
    """Whether experts may still be revived, as far as the number of steps goes."""
    rule = run.config.revival
    return rule.enabled and run.step < rule.until * run.config.training.steps


def _is_half_done(run: Run) -> bool:
    return run.decay_start is not None or run.step >= run.config.training.steps // 2


def next_learning_rate_factor(run: Run) -> float:
    """Returns the factor of the next step: 1, then from `decay_start` linearly to 0 over half the limit."""
    if run.decay_start is None:
        return 1.0
    return max(0.0, 1 - (run.step - run.decay_start) / run.decay_length)


def _update_schedule(run: Run) -> None:
    """The decay begins when health has held, or when half the limit is spent and no expert waits for its work.

    Who is revived late needs the full rate to part from its donor, so as long as there may be revivals one of them, on
    trial or about to be, holds the decay back.
    """
    training, rule, competing = run.config.training, run.config.revival, run.experts.competing
    limits = {"idle_below": rule.idle_below, "overloaded_above": rule.overloaded_above}
    run.health.judge(given_up=run.revival.given_up(), competing=competing, **limits)
    if training.decay and run.decay_start is None:
        held = run.health.healthy_steps >= training.healthy_steps and not run.revival.trials
        may_wait = _revives(run) and not rule.retire
        if held or (_is_half_done(run) and not (may_wait and run.revival.has_work(run.health, competing))):
            run.decay_start = run.step


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    callbacks: Sequence[Callback] = (),
    watchers: Sequence[Watcher] = (),
    data: TrainingData | None = None,
) -> Run:
    """Trains a run, leaving its folder; Ctrl-C and a termination signal save and stop it after the step.

    During the identity start there is nothing to save yet: resuming then starts again.

    Args:
        config: The configuration; when resuming, it must be the run's own.
        out: The run folder: new or empty, or with `resume` an existing run.
        resume: Go on from the last checkpoint; without one, from the start.
        device: Where to compute.
        callbacks: Each is given every history record, and records of kind "identity progress".
        watchers: For those who look at more than records: each is given the run and its data before the first record,
            to look at and not to change, and returns a callback.
        data: What to train on: images, signals or vectors; None loads what the configuration names. Where these
            are no images, or nothing is known of their mechanisms, the run folder says that they were in memory.

    Returns:
        The run; `finished` tells whether it came to its end.

    Raises:
        ValueError: If the folder is taken, among the images, in use by another process or not a run, the configuration
            differs from the run's, the device or the data cannot be used, or training diverges.
        OSError: If the folder cannot be written; what was saved before is still there.
    """
    folder, config = Path(out), _with_absolute_paths(config)
    if data is not None and config.data.canonical is None and (data.validation is None or data.canonical.ndim != 4):
        config = _of_data_in_memory(config)
    if resume:
        _check_resumable(_with_absolute_paths(files.read_config(folder)), config, folder)
    else:
        files.check_free(folder)
    if data is None:
        if not resume:
            _check_places(folder, config)
        data = load_training_data(**config.data.model_dump(), mechanisms=config.mechanisms, seed=config.seed)
    _check_data(data, config)
    started = resume and files.has_checkpoint(folder)
    if started:
        run = load_run(folder, device=device)
        run.config = config  # the limit may have been raised
    else:
        _, channels, *sizes = data.canonical.shape
        size = sizes[-1] if sizes else 1
        run = build_run(config, channels=channels, image_size=size, dims=len(sizes), device=device)
    listeners = list(callbacks)

    def emit(record: dict[str, Any], *, keep: bool = True) -> None:
        if keep:
            files.append_history(folder, record)
        for callback in listeners:
            callback(record)

    clock, before = time.perf_counter(), run.seconds
    validation = _watched(data, config)
    with files.hold(folder), _stop_on_signal() as stop:
        if resume:
            files.write_text(folder / files.CONFIG, to_yaml(config))
        else:
            files.create_run(folder, config, device=device)
        listeners += [watch(run, data) for watch in watchers]  # they may write into the folder
        if started:
            files.cut_history(folder, run.step)
        else:
            files.write_text(folder / files.HISTORY, "")
            told = partial(emit, keep=False)
            identity = start_identity(run, data.transformed.to(device), callback=told, stopped=stop.is_set)
            if identity is None:
                return run
            emit(identity)
        judge = None if validation is None or run.finished else train_judge(data, validation)
        if validation is not None and judge is not None and not started:
            emit(judge_record(judge, validation))
        while not run.finished and not stop.is_set():
            record = advance(run, data)
            run.seconds = before + time.perf_counter() - clock
            emit(step_record(run, record))
            for event in run.events:
                emit({"kind": "revival", "step": run.step, **event})
            if run.finished:
                run.competition.settle_router(data.transformed[:LOOK].to(run.device), generator(config.seed, "router"))
            if validation is not None and (run.step % config.training.validate_every == 0 or run.finished):
                emit(validation_record(run, validation, judge))
            if run.step % config.training.save_every == 0:
                save_run(run, folder)
        run.seconds = before + time.perf_counter() - clock
        save_run(run, folder)
        if run.finished and run.discriminator.dims == 2:
            save_calibration(calibrate(run, data.canonical, data.transformed), folder)
    return run


def _of_data_in_memory(config: Config) -> Config:
    """So that the run is neither gone on with nor measured on the source that the configuration would name."""
    return config.model_copy(
        update={"data": config.data.model_copy(update={"canonical": IN_MEMORY, "transformed": IN_MEMORY})}
    )


def _with_absolute_paths(config: Config) -> Config:
    """So that the run is gone on with, and looked at, on its own images, from whatever folder that is done."""
    return with_paths(config, lambda path: str(path.absolute()))


def _check_places(folder: Path, config: Config) -> None:
    """Refuses heaps of which one holds the other, and a run folder among the images, which would hold its figures."""
    own = config.data.canonical, config.data.transformed
    places = [Path(each).resolve() for each in own if each is not None]
    for inner, outer in (places, places[::-1]) if len(places) == 2 else ():
        if outer in (inner, *inner.parents):
            found = f"{str(inner)!r} is both" if inner == outer else f"{str(inner)!r} is within {str(outer)!r}"
            raise ValueError(f"data: canonical and transformed images are to be apart, but {found}")
    for place in places:
        if place.is_dir() and place in (folder.resolve(), *folder.resolve().parents):
            raise ValueError(f"{str(folder)!r} is within {str(place)!r}: choose a run folder outside of the images")


def _check_resumable(former: Config, config: Config, folder: Path) -> None:
    """A run goes on with its own configuration; where nothing depends on the limit, that may be raised."""
    if config == former:
        return
    steps = config.training.steps
    bound = config.training.decay or config.revival.enabled or config.revival.retire or config.router.proposals > 0
    free = not bound and steps > former.training.steps
    raised = former.training.model_copy(update={"steps": steps})
    if not (free and former.model_copy(update={"training": raised}) == config):
        changed = [key for key, value in flat(config).items() if value != flat(former).get(key)]
        raise ValueError(
            f"run folder {str(folder)!r} has another configuration: it differs in {', '.join(changed)}; "
            "only training.steps may be raised, and only without decay, revival, retirement and router.proposals"
        )


def _check_data(data: TrainingData, config: Config) -> None:
    for name, images in (("canonical", data.canonical), ("transformed", data.transformed)):
        check_images(images, name, dims=None)
        kind = KINDS[images.ndim - 2]
        if images.ndim == 4 and images.shape[1] not in (1, 3):
            raise ValueError(f"{name}: expected 1 channel, grey, or 3, colour, got {images.shape[1]}")
        if images.ndim == 4 and images.shape[-1] != images.shape[-2]:
            height, width = images.shape[-2:]
            raise ValueError(f"{name}: expected square images, got {width}x{height} px; {BY_CROPS}")
        if len(images) < config.training.batch_size and data.heaps is None:
            raise ValueError(
                f"{name}: {len(images)} {kind} are fewer than training.batch_size, {config.training.batch_size}; "
                f"give more {kind} or set a smaller batch_size"
            )
        if images.ndim == 2:
            if (images == images[0]).all():
                raise ValueError(f"{name}: every vector is the same, so there is nothing to learn from")
        elif (images.flatten(1).amax(1) == images.flatten(1).amin(1)).all():
            what = "image is of one colour" if images.ndim == 4 else "signal is constant"
            raise ValueError(f"{name}: every {what}, so there is nothing to learn from")
    shapes = [tuple(images.shape[1:]) for images in (data.canonical, data.transformed)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"transformed: expected the shape of canonical, {shapes[0]}, got {shapes[1]}")
    if data.labels is not None and data.labels.min() < 0:
        raise ValueError(f"labels: expected integers of at least 0, got {int(data.labels.min())}")
    watched = _watched(data, config)
    if watched is not None and data.validation is not None:
        present, known = len(watched.mechanism.unique()), len(data.validation.mechanism.unique())
        if present < known:
            raise ValueError(
                f"training.validation_images: {len(watched.mechanism)} validation images are under only {present} "
                f"of {known} mechanisms; watch more"
            )


def _watched(data: TrainingData, config: Config) -> Mixture | None:
    """The part of the validation mixture that the history reports on."""
    return None if data.validation is None else data.validation.select(slice(config.training.validation_images))


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Turns SIGINT and SIGTERM into an event, where this thread may."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    former = {number: signal.signal(number, lambda *_: stop.set()) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

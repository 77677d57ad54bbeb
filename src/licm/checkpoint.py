"""The run folder: configuration, checkpoint, history; nothing in it is a pickle.

    config.yaml                       the configuration, as it was run
    run.json                          format, versions, commit, device
    checkpoint.safetensors            all tensors, and the plain state as JSON in the header
    checkpoint.previous.safetensors   the one before, used when the newest cannot be read
    history.jsonl                     one record a line
    lock                              who trains here, while it does; one left behind keeps nobody out

A checkpoint is written beside its place, waited for until the disk has it and moved there in one operation, so that a
kill or a loss of power at any moment leaves a whole one, with the history up to it. Each write keeps the one before.
"""

import json
import logging
import os
import platform
import subprocess
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from licm.config import Config, from_yaml, to_yaml
from licm.shipped import hint
from licm.writing import append_line, move, sync, write_text, writing

FORMAT = 2  # 2: forward networks
CONFIG, RUN, HISTORY = "config.yaml", "run.json", "history.jsonl"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
LOCK = "lock"

logger = logging.getLogger(__name__)


def check_free(folder: Path) -> None:
    """Raises a `ValueError` unless a run folder can be made there: nothing is there yet, or an empty folder."""
    if (folder / RUN).exists():
        raise ValueError(f"run folder {str(folder)!r} exists already: go on with it (--resume) or choose another")
    if folder.exists() and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
        raise ValueError(f"{str(folder)!r} exists already and is no run: choose a new or empty folder for the run")


class FolderInUse(ValueError):
    """Another process holds a folder."""


@contextmanager
def hold(folder: Path, *, called: str | None = None) -> Iterator[None]:
    """Makes the folder if need be and keeps other processes out of it; leaves none behind that stayed empty.

    The lock is one of the system, which frees it when the process ends, however it ends: a lock file that a killed
    process left behind keeps nobody out.

    Args:
        folder: The folder.
        called: What the message calls it; None for a run folder.

    Raises:
        FolderInUse: If another process holds the folder.
        ValueError: If the lock is a link.
        OSError: If it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    if path.is_symlink():
        raise ValueError(f"{str(path)!r} is a link, which nothing here makes: remove it, or choose another folder")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = ""
        with suppress(OSError, UnicodeDecodeError):
            holder = path.read_text(encoding="utf-8").strip()
        by = f"process {holder}" if holder.isdigit() else "another process"
        raise FolderInUse(
            f"{called or f'run folder {str(folder)!r}'} is in use by {by}; wait for its end or choose another folder"
        ) from None
    try:
        with suppress(OSError, UnicodeDecodeError):  # who holds it, for the message above
            if not (former := path.read_text(encoding="utf-8").strip()) or former.isdigit():
                path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        if all(entry.name == LOCK for entry in folder.iterdir()):
            with suppress(OSError):
                path.unlink(missing_ok=True)
                folder.rmdir()
        lock.release()


def create_run(folder: Path, config: Config, *, device: str = "cpu") -> None:
    """Makes a run folder, whole or not at all.

    Raises:
        ValueError: If the folder exists and is not empty.
        OSError: If it cannot be written.
    """
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = {"format": FORMAT, **provenance(), "device": device}
    try:
        write_text(folder / CONFIG, to_yaml(config))
        write_text(folder / RUN, run_text(run))
    except BaseException:
        (folder / CONFIG).unlink(missing_ok=True)
        raise


def read_run(folder: Path) -> dict[str, Any]:
    """Reads where a run was trained: versions, commit, machine, device.

    Raises:
        ValueError: If the folder is not a run, or was written in another format.
    """
    if folder.is_file():
        raise ValueError(f"{str(folder)!r} is not a run folder: it is a file")
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is not a run folder: there is no such folder{hint(folder)}")
    for name in (CONFIG, RUN):
        if not (folder / name).is_file():
            raise ValueError(f"{str(folder)!r} is not a run folder: {name} is missing")
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{str(folder / RUN)!r} is not valid JSON") from None
    found = run.get("format") if isinstance(run, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{str(folder)!r} has run format {found}, this version reads {FORMAT}: "
            f"use the version that wrote it ({RUN} names it), or train anew"
        )
    return run


def read_config(folder: Path) -> Config:
    """Reads the configuration of a run.

    Raises:
        ValueError: If the folder is not a run, was written in another format, or its configuration is damaged.
    """
    read_run(folder)
    path = folder / CONFIG
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text.strip():
        raise ValueError(f"{str(path)!r} is damaged: it holds no configuration")
    return from_yaml(text, name=str(path))


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has a checkpoint, the newest or the one before."""
    return any((folder / name).is_file() for name in (CHECKPOINT, PREVIOUS))


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Writes a checkpoint atomically and keeps the one before.

    Args:
        folder: The run folder.
        tensors: By name.
        state: JSON values; floats come back exactly.

    Raises:
        OSError: If it cannot be written; the one before is then still there.
    """
    new, current, previous = (folder / name for name in (f"{CHECKPOINT}.new", CHECKPOINT, PREVIOUS))
    with writing(current, "; the one before is whole" if has_checkpoint(folder) else ""):
        try:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            text = json.dumps(state)
            new.unlink(missing_ok=True)  # a link under this name would be written through
            save_file(whole, new, metadata={"state": text, "crc32": _crc32(whole, text)})
            umask = os.umask(0o077)
            os.umask(umask)
            new.chmod(0o666 & ~umask)  # safetensors leaves it to its owner alone, unlike the rest of the folder
            sync(new)
            if (folder / HISTORY).exists():
                sync(folder / HISTORY)  # whoever goes on from this checkpoint finds the records up to it
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        if current.exists():
            link = folder / f"{PREVIOUS}.new"
            link.unlink(missing_ok=True)
            try:
                os.link(current, link)
                os.replace(link, previous)
            except OSError:  # a file system without links: for a moment only the previous one is there
                os.replace(current, previous)
        move(new, current)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the newest checkpoint that is whole.

    Returns:
        The tensors by name (on the CPU) and the state.

    Raises:
        ValueError: If there is none, or none can be read.
    """
    found = [folder / name for name in (CHECKPOINT, PREVIOUS) if (folder / name).is_file()]
    if not found:
        raise ValueError(f"{str(folder)!r} has no checkpoint yet")
    problem = ""
    for path in found:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                state = json.loads(metadata["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("crc32") not in (None, _crc32(tensors, metadata["state"])):  # None: in early runs
                raise ValueError("what it holds is not what was saved")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            problem = problem or f"checkpoint {str(path)!r} is damaged ({' '.join(str(error).split())})"
            continue
        if problem:
            logger.warning("warning: %s; the one before, %r, is used instead", problem, path.name)
        return tensors, state
    damaged = " and ".join(path.name for path in found) + (" is" if len(found) == 1 else " are")
    raise ValueError(f"no checkpoint of {str(folder)!r} can be read: {damaged} damaged")


def check_plausible(tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, num_experts: int) -> None:
    """Refuses what no training saves, before memory is taken for it.

    Raises:
        ValueError: If the images' shape is beyond all use, the experts are not as many, or a number is not finite.
    """
    channels, size = (int(each) for each in state["image_shape"])
    dims = state.get("dims", 2)  # none was saved when there were images alone
    fits = channels in (1, 3) and 1 <= size <= 4096 if dims == 2 else dims in (0, 1) and 1 <= channels * size < 1 << 20
    experts = {name.split(".")[2] for name in tensors if name.startswith("bank.experts.")}
    if not fits or len(experts) != num_experts:
        raise ValueError(f"it holds {len(experts)} experts for images of {channels} x {size} x {size}")
    step, retired = state["step"], state.get("retired", [])
    if type(step) is not int or step < 0 or not set(retired) < set(range(num_experts)):
        raise ValueError(f"it is of step {step!r}, with experts {retired!r} of {num_experts} retired")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("it holds numbers that are not finite")


def texts_of(folder: Path) -> dict[str, str]:
    """Returns the run's files that are text, by name, made anew from what is understood of them.

    So a copy of the folder holds nothing else, wherever a link in it may lead; errors are those of the readers.
    """
    history = "".join(json.dumps(record) + "\n" for record in read_history(folder))
    return {CONFIG: to_yaml(read_config(folder)), RUN: run_text(read_run(folder)), HISTORY: history}


def run_text(run: Mapping[str, Any]) -> str:
    """Returns what `read_run` reads, as the file has it."""
    return json.dumps(run, indent=2) + "\n"


def _crc32(tensors: Mapping[str, Tensor], state: str) -> str:
    """Changes with any bit of a checkpoint; safetensors itself checks no more than names and sizes."""
    value = zlib.crc32(state.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes(), value)
    return f"{value:08x}"


def append_history(folder: Path, record: Mapping[str, Any]) -> None:
    """Adds one record to the history; raises `OSError` if it cannot be written."""
    append_line(folder / HISTORY, json.dumps(record))


def read_history(folder: Path, *, until: int | None = None) -> list[dict[str, Any]]:
    """Reads the history; a last line cut short by a kill is left out.

    Args:
        folder: The run folder.
        until: Leave out the records of later steps, which a killed run has noted and not saved.

    Raises:
        ValueError: If another line is not a record.
    """
    path = folder / HISTORY
    lines = path.read_bytes().splitlines() if path.is_file() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records.append({"kind": record["kind"], "step": int(record["step"]), **record})
        except (ValueError, KeyError, TypeError, RecursionError):
            if number < len(lines):
                raise ValueError(f"{str(path)!r} is damaged: line {number} is not a record") from None
    return [record for record in records if until is None or record["step"] <= until]


def cut_history(folder: Path, step: int) -> None:
    """Drops records later than `step`, which a resumed run will write again."""
    kept = read_history(folder, until=step)
    write_text(folder / HISTORY, "".join(json.dumps(record) + "\n" for record in kept))


def provenance() -> dict[str, Any]:
    """Returns the versions, the commit where there is one, the machine class and the thread count."""
    import licm

    return {
        "licm": licm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    here = Path(__file__).resolve()
    if len(here.parents) < 3 or not (here.parents[2] / ".git").exists():
        return None  # installed as a package
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here.parents[2],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

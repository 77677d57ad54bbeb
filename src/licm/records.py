"""The records of a run, read together: what figures and reports are made from, without model or training."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from licm.checkpoint import HISTORY, read_config, read_history, read_run
from licm.config import Config
from licm.mechanisms import parse_mechanisms
from licm.metrics import match_experts
from licm.reading import read_npz, read_object
from licm.writing import write_bytes

EVALUATION, SAMPLES = "evaluation.json", "samples.npz"
DESCRIPTION, PICTURES = "description.json", "description.npz"

# What is read of each kind of record, so that one by another version is refused by name.
_EVALUATION_KEYS = (
    *("split", "num_images", "steps", "num_experts", "matched_share", "ari", "psnr", "win_share", "winner_margin"),
    *("accuracy_clean", "accuracy_transformed", "accuracy_restored", "dead_experts", "duplicate_experts", "real_score"),
)
_CARD_KEYS = ("share", "does", "undone", "quality", "fit", "forward", "unexplained", "dot", "edge", "flat")
_HISTORY_KEYS = {
    "identity": ("start", "steps", "errors"),
    "judge": ("accuracy_clean", "accuracy_transformed"),
    "step": (
        *("discriminator_loss", "expert_loss", "margin", "win_share", "idle_experts", "duplicates", "end"),
        *("learning_rate_factor", "seconds"),
    ),
    "validation": ("matched_share", "psnr", "winner_matrix", "score_matrix"),
    "revival": ("event", "expert", "donor"),
}


@dataclass(frozen=True, eq=False)
class Samples:
    """A few images with every expert's output, so that the competition can be looked at again.

    Attributes:
        inputs: What the experts saw, uint8 [k, c, h, w].
        outputs: What each made of it, uint8 [k, N', c, h, w].
        scores: D's probability for each output, float32 [k, N'].
        winners: The winning expert of each image, int64 [k].
        mechanism: The mechanism each image is under, int64 [k], or None if unknown.
        originals: The hidden originals, uint8 [k, c, h, w], or None if unknown.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    scores: np.ndarray
    winners: np.ndarray
    mechanism: np.ndarray | None = None
    originals: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Pictures:
    """What is to be seen on the experts' cards.

    Attributes:
        inputs: The first images each expert wins, uint8 [N', k, c, h, w]; black where it wins fewer.
        outputs: What it makes of them, likewise.
        shown: How many of the k there are, int64 [N'].
        probes: A dot, an edge and a flat field, uint8 [3, c, h, w].
        responses: What each expert makes of them, uint8 [N', 3, c, h, w].
    """

    inputs: np.ndarray
    outputs: np.ndarray
    shown: np.ndarray
    probes: np.ndarray
    responses: np.ndarray


Arrays = TypeVar("Arrays", Samples, Pictures)


def save_samples(path: Path, samples: Samples | Pictures) -> None:
    """Writes samples, or pictures, to a `.npz` file, without pickles and atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: array for name, array in vars(samples).items() if array is not None})
    write_bytes(path, buffer.getvalue())


def load_samples(path: Path) -> Samples:
    """Reads what `save_samples` wrote.

    Raises:
        ValueError: If the file cannot be read or its arrays do not fit each other.
    """
    return _load_arrays(path, Samples, _fit_each_other, "evaluate")


def load_pictures(path: Path) -> Pictures:
    """Reads the pictures that `save_samples` wrote.

    Raises:
        ValueError: If the file cannot be read or its arrays do not fit each other.
    """
    return _load_arrays(path, Pictures, _are_cards, "describe")


def _load_arrays(path: Path, kind: Callable[..., Arrays], is_whole: Callable[[Arrays], bool], command: str) -> Arrays:
    try:
        found = kind(**read_npz(path))
        whole = is_whole(found)
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{str(path)!r} is damaged; write it again with: licm {command} {path.parent}")
    return found


def _are_cards(pictures: Pictures) -> bool:
    count, _, *shape = pictures.inputs.shape
    answers = (count, len(pictures.probes), *shape)
    shapes = [pictures.outputs.shape, pictures.shown.shape, pictures.probes.shape[1:], pictures.responses.shape]
    return shapes == [pictures.inputs.shape, (count,), tuple(shape), answers]


def _fit_each_other(samples: Samples) -> bool:
    count, *shape = samples.inputs.shape
    experts = samples.scores.shape[-1]
    expected = {"inputs": (count, *shape), "outputs": (count, experts, *shape), "scores": (count, experts)}
    expected |= {"winners": (count,), "mechanism": (count,), "originals": (count, *shape)}
    return all(array is None or array.shape == expected[name] for name, array in vars(samples).items())


@dataclass(frozen=True)
class Records:
    """All that a run folder tells of its run.

    Attributes:
        folder: The run folder.
        config: The configuration.
        trained_with: Versions, commit, machine, device.
        history: The records of each kind, in the order of their steps.
        evaluation: The record of `licm evaluate`, or None.
        samples: The samples it left, or None.
        description: The record of `licm describe`, or None.
        pictures: The pictures it left, or None.
    """

    folder: Path
    config: Config
    trained_with: dict[str, Any]
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    samples: Samples | None = None
    description: dict[str, Any] | None = None
    pictures: Pictures | None = None

    @cached_property
    def mechanisms(self) -> list[str] | None:
        """The mechanisms' notations; None for images of one's own, where nobody knows them."""
        if self.config.data.canonical is not None:
            return None
        return [str(mechanism) for mechanism in parse_mechanisms(self.config.mechanisms)]

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.history["step"][-1]["step"] if self.history["step"] else 0

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.steps > 0 and self.steps >= self.history["step"][-1]["end"]

    @cached_property
    def winners(self) -> np.ndarray | None:
        """W, [N, N'], of the evaluation, or else of the last validation; None without known mechanisms."""
        if self.evaluation is not None and "winner_matrix" in self.evaluation:
            return np.array(self.evaluation["winner_matrix"])
        validations = self.history["validation"]
        return np.array(validations[-1]["winner_matrix"]) if validations else None

    @property
    def winners_of(self) -> str:
        """In words, the images that `winners` speaks of."""
        if self.evaluation is not None:
            if self.mechanisms is None:
                return f"{self.evaluation['num_images']} images of your own"
            return f"{self.evaluation['num_images']} {self.evaluation['split']} images"
        if self.history["validation"]:
            return f"the validation images at step {self.history['validation'][-1]['step']}"
        return "no images yet"

    @cached_property
    def matching(self) -> tuple[list[int], list[int]]:
        """Mechanisms and the expert matched to each, as far as mechanisms are known."""
        return ([], []) if self.winners is None else match_experts(self.winners)

    @cached_property
    def expert_order(self) -> list[int]:
        """Experts in the order of the mechanisms they are matched to, then the others."""
        matched = self.matching[1]
        return matched + [expert for expert in range(self.config.num_experts) if expert not in matched]

    @cached_property
    def owners(self) -> list[int]:
        """The expert that wins most of each mechanism, as far as mechanisms are known."""
        return [] if self.winners is None else self.winners.argmax(axis=1).tolist()


def read_records(folder: str | Path) -> Records:
    """Reads the records of a run, which need not be finished or evaluated.

    Raises:
        ValueError: If the folder is not a run, or one of its records is damaged or of another version.
    """
    folder = Path(folder)
    config, trained_with = read_config(folder), read_run(folder)
    history: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _HISTORY_KEYS}
    for record in read_history(folder):
        if record["kind"] in history:
            _check_keys(record, _HISTORY_KEYS[record["kind"]], folder / HISTORY, f"a record of kind {record['kind']!r}")
            history[record["kind"]].append(record)
    evaluation = _read_record(folder / EVALUATION, _EVALUATION_KEYS, "evaluate")
    samples = load_samples(folder / SAMPLES) if (folder / SAMPLES).exists() else None
    description = _read_record(folder / DESCRIPTION, ("steps", "num_images", "experts"), "describe")
    for card in [] if description is None else description["experts"]:
        _check_keys(card, _CARD_KEYS, folder / DESCRIPTION, "the card of an expert")
    pictures = load_pictures(folder / PICTURES) if (folder / PICTURES).exists() else None
    return Records(folder, config, trained_with, history, evaluation, samples, description, pictures)


def _read_record(path: Path, keys: tuple[str, ...], command: str) -> dict[str, Any] | None:
    """Reads what a command left, if it did."""
    if not path.exists():
        return None
    record = read_object(path)
    if record is None:
        raise ValueError(f"{str(path)!r} is damaged; write it again with: licm {command} {path.parent}")
    _check_keys(record, keys, path, "the record")
    return record


def _check_keys(record: dict[str, Any], keys: tuple[str, ...], path: Path, what: str) -> None:
    missing = [key for key in keys if key not in record]
    if missing:
        raise ValueError(f"{str(path)!r} was written by another version: {what} lacks {', '.join(missing)}")

"""How sure a run is of its winners, and when it should not decide: label-free, from what a practitioner has.

Confidence is softmax_j(logit of j's score / T), one temperature T for a run (Guo, Pleiss, Sun and Weinberger, *On
Calibration of Modern Neural Networks*, ICML 2017). They fit T on labels; here the winner of an image, moved by a pixel,
takes the label's place: what a pixel changes was not sure. An image is left undecided for one of two reasons:

- *clean*: D scores the image itself as it does canonical ones, and some expert keeps it so;
- *unknown*: it is none of the mechanisms that the experts undo. Four signs tell, each against the training mixture.
  No expert restores it: the winner's score is low, or the cycle error |F_j(E_j(x')) - x'|^2 is large for this winner.
  Or it is foreign to the mixture: the cycle error is small for this winner (the expert of noise has won what holds too
  little noise), or the image itself has a better score than images of the mixture have.

What is fitted is a `Calibration`, which training leaves in the run folder.
"""

import json
import math
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from licm.competition import compete
from licm.datasets import load_training_data
from licm.full_size import TILE_PIXELS, crop_scores, cycle_errors
from licm.reading import read_object
from licm.run import Run, restore_images
from licm.saving import load_image_run
from licm.writing import write_text

CALIBRATION = "calibration.json"
MAX_IMAGES = 1000  # of each heap
CLEAN, UNKNOWN = "clean", "unknown"
LEVEL = 0.05  # share of canonical images that are not called clean, and of the mixture's called unknown, at most


@dataclass(frozen=True)
class Evidence:
    """What is known of images once the experts have competed for them.

    Attributes:
        own: D's scores of the images themselves, [n] in [0, 1].
        winning: D's scores of the winners' outputs, [n] in [0, 1].
        winners: int64 [n].
        cycle_error: Mean squared error a pixel of F_j(E_j(x')) for the winner j, [n]; None without forward networks.
    """

    own: Tensor
    winning: Tensor
    winners: Tensor
    cycle_error: Tensor | None = None


@dataclass(frozen=True)
class Calibration:
    """What is fitted to a run, without labels.

    Attributes:
        step: The step of the run that it was fitted to.
        temperature: T.
        clean_score: D's logit above which an image is like a canonical one.
        usual_error: Mean and standard deviation of the log cycle error of the images that each expert wins; None
            without forward networks.
        middle: The median over the mixture of each sign of an unknown mechanism.
        line: The value of each beyond which an image is unknown.
    """

    step: int
    temperature: float
    clean_score: float
    usual_error: list[tuple[float, float]] | None
    middle: list[float]
    line: list[float]

    def confidences(self, scores: Tensor) -> Tensor:
        """Returns how sure it is of each expert, float64 [n, N'] with rows of sum 1, from D's scores, [N', n]."""
        return confidences(scores, self.temperature)

    def strangeness(self, evidence: Evidence) -> Tensor:
        """Returns how far images are from those of the mixture, float64 [n]: 0 is usual, above 1 is unknown.

        It is the largest of the signs, each in units of the way from its median to its line.
        """
        return self._signs(evidence).amax(dim=0)

    def reasons(self, evidence: Evidence) -> list[str]:
        """Returns for each image why it is left undecided, "clean" or "unknown", or "" where it is not.

        What no expert restores is unknown, whatever D thinks of it as it is.
        """
        badly, foreign = ((signs > 1).any(dim=0) for signs in self._signs(evidence).chunk(2))
        clean = ~badly & (_logit(evidence.own) >= self.clean_score)
        unknown = ~clean & (badly | foreign)
        return [CLEAN if one else UNKNOWN if other else "" for one, other in zip(clean.tolist(), unknown.tolist())]

    def _signs(self, evidence: Evidence) -> Tensor:
        middle, line = (torch.tensor(each, dtype=torch.float64)[:, None] for each in (self.middle, self.line))
        return (_raw_signs(evidence, self.usual_error) - middle) / (line - middle)


def confidences(scores: Tensor, temperature: float) -> Tensor:
    """Returns softmax over the experts of their logits / T, float64 [n, N'] with rows of sum 1.

    Args:
        scores: D's probabilities of the experts' outputs, [N', n]; 0 for an expert that was not asked.
        temperature: T, above 0; 1 gives each expert a share as its output's odds.

    Raises:
        ValueError: If the temperature is not above 0.

    >>> confidences(torch.tensor([[0.9], [0.5]]), 1.0).round(decimals=3).tolist()
    [[0.9, 0.1]]
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    not_asked = (scores == 0) & (scores > 0).any(dim=0)  # where all are 0, all outputs are beyond hope alike
    return (_logit(scores).masked_fill(not_asked, -torch.inf) / temperature).softmax(dim=0).T


def calibration_error(confidence: Tensor, expert: Tensor) -> float:
    """Returns the expected calibration error (Guo et al. 2017): mean gap of confidence and accuracy over 15 bins.

    Args:
        confidence: [n, N'], rows of sum 1.
        expert: The expert that should win each image, int64 [n]; -1 where none should.

    >>> calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
    0.0
    """
    with_none = F.pad(confidence, (1, 0))  # a class of its own, of which no expert is ever sure
    return multiclass_calibration_error(with_none, expert + 1, num_classes=with_none.shape[1], n_bins=15).item()


def fit_temperature(scores: Tensor, again: Tensor) -> float:
    """Finds the temperature under which confidence foretells best who wins each image when it is a little different.

    It minimises the mean of -log confidence in that winner. As in Platt's scaling (1999), which counts one more of
    each outcome than was seen, there is one more image of which nothing is known: winners that never change would
    give T = 0.

    Args:
        scores: D's scores, [N', n] in [0, 1].
        again: Who wins each image when it is a little different, int64 [n].

    >>> scores = torch.tensor([[0.6, 0.6, 0.6, 0.6], [0.4, 0.4, 0.4, 0.4]])
    >>> fit_temperature(scores, torch.zeros(4, dtype=torch.int64)) < 1 < fit_temperature(scores, torch.arange(4) % 2)
    True
    """
    competing = (scores > 0).any(dim=1)
    logits, position = _logit(scores[competing]).T, (competing.cumsum(dim=0) - 1)[again]

    def loss(temperature: float) -> float:
        told = (logits / temperature).log_softmax(dim=1)
        return F.nll_loss(told, position, reduction="sum").item() - told.mean().item()

    return min(torch.logspace(-2, 2, 401, dtype=torch.float64).tolist(), key=loss)


def gather_evidence(
    run: Run,
    images: Tensor,
    scores: Tensor,
    winners: Tensor,
    restored: Tensor,
    *,
    tile_pixels: int = TILE_PIXELS,
) -> Evidence:
    """Looks at images of any size, for which the experts have competed, and at what became of them.

    Args:
        run: The run.
        images: [n, c, h, w] in [0, 1].
        scores: D's scores of the outputs, [N', n].
        winners: int64 [n].
        restored: The winners' outputs, [n, c, h, w].
        tile_pixels: See `licm.full_size.apply_expert`.
    """
    images, restored, winners = (each.to(run.device) for each in (images, restored, winners))
    forward = run.competition.forward
    errors = None
    if forward is not None:
        errors = cycle_errors(forward, restored, images, winners, tile_pixels=tile_pixels).cpu()
    own = crop_scores(run.discriminator, images)
    return Evidence(own, scores.cpu().gather(0, winners.cpu()[None])[0], winners.cpu(), errors)


def calibrate(run: Run, canonical: Tensor, transformed: Tensor) -> Calibration:
    """Fits temperature and lines to a run on heaps such as those of its training; at most 1,000 images of each.

    Args:
        run: The run.
        canonical: [n, c, h, w] in [0, 1].
        transformed: [m, c, h, w] in [0, 1].

    Raises:
        TypeError: If the images are not a floating-point tensor.
        ValueError: If they are not a batch in [0, 1] with D's channels and size.
    """
    clean, mixture = (images[:: max(1, -(-len(images) // MAX_IMAGES))] for images in (canonical, transformed))
    scores, winners, restored = restore_images(run, mixture)
    again = compete(run.experts, run.discriminator, nudge(mixture).to(run.device))[1].cpu()
    seen = gather_evidence(run, mixture, scores, winners, restored)
    real = _logit(crop_scores(run.discriminator, clean.to(run.device)))
    usual = None if seen.cycle_error is None else _usual_errors(seen, len(run.experts))
    signs = _raw_signs(seen, usual)
    middle, line = signs.quantile(0.5, dim=1), signs.quantile(1 - LEVEL / len(signs), dim=1)
    return Calibration(
        step=run.step,
        temperature=fit_temperature(scores, again),
        clean_score=real.quantile(LEVEL).item(),
        usual_error=usual,
        middle=middle.tolist(),
        line=line.clamp(min=middle + 1e-6).tolist(),
    )


def nudge(images: Tensor) -> Tensor:
    """Moves images by one pixel, in turn right, left, down and up; the pixels at the edge are repeated.

    >>> nudge(torch.tensor([0.0, 0.5, 1.0]).expand(2, 1, 3, 3))[:, 0, 0].tolist()
    [[0.0, 0.0, 0.5], [0.5, 1.0, 1.0]]
    """
    moved = images.clone()
    for turn, (top, left) in enumerate([(1, 0), (1, 2), (0, 1), (2, 1)]):
        padded = F.pad(images[turn::4], (1, 1, 1, 1), mode="replicate")
        height, width = images.shape[-2:]
        moved[turn::4] = padded[..., top : top + height, left : left + width]
    return moved


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Writes a calibration into a run folder; raises `OSError` if it cannot be written."""
    write_text(folder / CALIBRATION, json.dumps(asdict(calibration), indent=1) + "\n")


def read_calibration(folder: Path, run: Run) -> Calibration | None:
    """Reads what was fitted to a run as it is; None if that is nothing, damaged, or of another step or other signs."""
    found = read_object(folder / CALIBRATION)
    try:
        calibration = Calibration(**(found or {}))
        usual, signs = calibration.usual_error, [calibration.middle, calibration.line]
        numbers = [calibration.temperature, calibration.clean_score, *chain(*signs), *chain(*(usual or []))]
        of_now = [len(each) for each in signs] == [2 if usual is None else 4] * 2
        of_now &= usual is None or [len(each) for each in usual] == [2] * len(run.experts)
        of_now &= all(math.isfinite(number) for number in numbers) and calibration.temperature > 0
    except TypeError:
        return None
    return calibration if of_now and calibration.step == run.step else None


def needed(calibration: Calibration | None) -> Calibration:
    """Returns it, or raises a `ValueError` that says how to make one."""
    if calibration is None:
        raise ValueError(f"this run has no {CALIBRATION} of its last step: make one with licm evaluate RUN")
    return calibration


def ensure_calibration(folder: Path, *, device: str = "cpu") -> Calibration:
    """Reads the calibration of a run, or makes one on the data of its training and leaves it in the folder.

    Raises:
        ValueError: If the run or its data cannot be read.
        OSError: If it cannot be written.
    """
    run = load_image_run(folder, device=device)
    if (found := read_calibration(folder, run)) is not None:
        return found
    config = run.config
    data = load_training_data(**config.data.model_dump(), mechanisms=config.mechanisms, seed=config.seed)
    calibration = calibrate(run, data.canonical, data.transformed)
    save_calibration(calibration, folder)
    return calibration


def _logit(scores: Tensor) -> Tensor:
    """float64, and finite at 0 and 1."""
    return scores.double().clamp(1e-12, 1 - 1e-9).logit()


def _log_error(evidence: Evidence) -> Tensor:
    assert evidence.cycle_error is not None
    return evidence.cycle_error.double().clamp(min=1e-12).log()


def _usual_errors(evidence: Evidence, num_experts: int) -> list[tuple[float, float]]:
    """Of experts with few wins, those of all images: a spread needs a few."""
    errors = _log_error(evidence)
    won = [errors[evidence.winners == j] for j in range(num_experts)]
    own = [each if len(each) >= 10 else errors for each in won]
    return [(each.mean().item(), max(each.std(correction=0).item(), 1e-3)) for each in own]


def _raw_signs(evidence: Evidence, usual: list[tuple[float, float]] | None) -> Tensor:
    """The signs of an unknown mechanism, [2 or 4, n], the larger the stranger.

    The first half of them says that it is not restored, the other half that it is foreign to the mixture.
    """
    unlike, real = -_logit(evidence.winning), _logit(evidence.own)
    if usual is None:
        return torch.stack([unlike, real])
    mean, spread = torch.tensor(usual, dtype=torch.float64)[evidence.winners].T
    error = (_log_error(evidence) - mean) / spread
    return torch.stack([unlike, error, -error, real])

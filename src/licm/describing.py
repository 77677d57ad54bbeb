"""What each expert of a run does, without labels: a card per expert with numbers, words and pictures.

An expert is described by what it does to the images it wins, x' -> E_j(x'): the simple operator nearest to that, and
what must have happened to the images for it to be right. Where there is a forward network F_j, its own account
of what happened is compared with it. Beside it stand the answers to a dot, an edge and a flat field.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from licm import checkpoint as files
from licm.competition import compete
from licm.crops import Heap
from licm.datasets import load_training_data, to_bytes, to_float
from licm.mechanisms import Mechanism
from licm.operators import FITS_ROUGHLY, FITS_WELL, Fit, fit_operator, to_where
from licm.records import DESCRIPTION, PICTURES, Pictures, save_samples
from licm.run import Run
from licm.saving import load_image_run
from licm.sources import load_images
from licm.writing import write_text

MAX_IMAGES = 1000  # that the experts compete for
MAX_FITTED = 48  # of an expert's wins
EXAMPLES = 4
NEARLY_FLAT = 0.1  # of the contrast that is left; an expert that leaves less has collapsed, and undoes nothing
NOISE = 0.15  # standard deviation of what an output does not tell about its input, from which it is called noise


def describe(folder: str | Path, *, images: str | Path | Tensor | None = None, device: str = "cpu") -> dict[str, Any]:
    """Describes what each expert of a run does; see `describe_run` for the record.

    Args:
        folder: The run folder.
        images: Images that the experts compete for: a path (folder, `.npz`, IDX) or a tensor [n, c, h, w] in [0, 1].
            None for the transformed images of its training; of many, every so-manieth.
        device: Where to compute.

    Raises:
        ValueError: If the folder is not a run, has no readable checkpoint, or the images cannot be read.
    """
    return describe_run(*load_for_description(folder, images=images, device=device))[0]


def describe_and_save(folder: str | Path, **options: Any) -> dict[str, Any]:
    """Describes a run and leaves `description.json` and `description.npz` in its folder, for the report.

    Arguments, result and errors are those of `describe`; `OSError` if a file cannot be written.
    """
    record, pictures = describe_run(*load_for_description(folder, **options))
    write_text(Path(folder) / DESCRIPTION, json.dumps(record, indent=1) + "\n")
    save_samples(Path(folder) / PICTURES, pictures)
    return record


def load_for_description(
    folder: str | Path, *, images: str | Path | Tensor | None = None, device: str = "cpu"
) -> tuple[Run, Tensor]:
    """Returns a run and at most 1,000 images for `describe_run`; arguments and errors are those of `describe`."""
    run = load_image_run(folder, device=device)
    config = run.config
    if images is None:
        known = config.data.model_dump()
        images = load_training_data(**known, mechanisms=config.mechanisms, seed=config.seed).transformed
    elif not isinstance(images, Tensor) and config.data.crop_size is not None:
        heap = Heap(images, size=config.data.crop_size, channels=run.discriminator.channels)
        images = heap.sample(purpose="transformed sample")
    elif not isinstance(images, Tensor):
        images = to_float(load_images(images, channels=config.data.channels, usable_only=True).images)
    every = max(1, -(-len(images) // MAX_IMAGES))
    return run, images[::every]


@torch.no_grad()
def describe_run(run: Run, images: Tensor) -> tuple[dict[str, Any], Pictures]:
    """Describes what each expert does.

    Args:
        run: The run.
        images: Transformed images, [n, c, h, w] in [0, 1], which the experts compete for.

    Returns:
        The record, of JSON values, and the pictures. In the record: `steps`, `num_images`, and under `experts` for
        each `expert` its `share` of the images in [0, 1]; `does` and `undone`, what it does and what it undoes in
        words, with `mechanism`, the latter in the notation of mechanisms where it has one; `quality`, the share of
        the outputs' variance that is explained, and `fit` ("well", "roughly" or "poorly"); `forward`, the same of
        the forward network, and `unexplained`, the standard deviation of what the output does not tell about
        the input, by the forward network or by the simple operator that leads back, whichever tells more; and `dot`,
        `edge` and `flat`, its answers to these. What cannot be said is None.

    Raises:
        TypeError: If the images are not a floating-point tensor.
        ValueError: If they are not a batch in [0, 1] with D's channels and size.
    """
    moved = images.to(run.device)
    winners = compete(run.experts, run.discriminator, moved)[1]
    probes = make_probes(run.discriminator.image_size, run.discriminator.channels)
    forward = run.competition.forward
    inputs = torch.zeros(len(run.experts), EXAMPLES, *images.shape[1:])
    outputs, responses = torch.zeros_like(inputs), torch.zeros(len(run.experts), *probes.shape)
    shown = torch.bincount(winners.cpu(), minlength=len(run.experts)).clamp(max=EXAMPLES)
    cards = []
    for index, expert in enumerate(run.experts.eval()):
        won = moved[winners == index][:MAX_FITTED]
        made = expert(won) if len(won) else won
        back = forward[index].eval()(made).cpu() if forward is not None and len(won) else None
        radius = getattr(expert, "receptive_radius", probes.shape[-1] // 4)
        responses[index] = expert(probes.to(run.device)).cpu()
        card = guess_mechanism(won.cpu(), made.cpu(), back, radius=radius)
        share = (winners == index).sum().item() / len(winners)
        cards.append({"expert": index, "share": share, **card, **read_answers(probes, responses[index])})
        inputs[index, : shown[index]], outputs[index, : shown[index]] = won[:EXAMPLES].cpu(), made[:EXAMPLES].cpu()
    record = {"steps": run.step, "num_images": len(winners), "experts": cards, "provenance": files.provenance()}
    pictures = Pictures(
        inputs=to_bytes(inputs),
        outputs=to_bytes(outputs),
        shown=shown.numpy(),
        probes=to_bytes(probes),
        responses=to_bytes(responses),
    )
    return record, pictures


def guess_mechanism(inputs: Tensor, outputs: Tensor, back: Tensor | None = None, *, radius: int) -> dict[str, Any]:
    """Guesses in words what turns inputs into outputs, and what that undoes.

    Args:
        inputs: x', what an expert won, [n, c, h, w] in [0, 1].
        outputs: E(x'), the same shape and range.
        back: F(E(x')), likewise, or None.
        radius: How far the expert sees, in pixels.

    Returns:
        `does`, `undone`, `mechanism`, `quality`, `fit`, `forward` and `unexplained` of `describe_run`.
    """
    nothing = dict.fromkeys(("does", "undone", "mechanism", "quality", "fit", "forward", "unexplained"))
    if len(inputs) < 2:
        return nothing
    if outputs.amax() - outputs.amin() < 1e-3:
        return {**nothing, "does": "gives one and the same colour, whatever it sees"}
    fit = fit_operator(inputs, outputs, radius=radius)
    reverse = _fit_unless_flat(outputs, inputs, radius)
    account = None if back is None else _fit_unless_flat(outputs, back, radius)
    told = [outputs if reverse is None else reverse.operator(outputs), *([] if back is None else [back])]
    unexplained = min((inputs - each).std().item() for each in told)
    mechanism, undone = undoing(fit, account or reverse, unexplained)
    return {
        "does": str(fit.operator),
        "undone": undone,
        "mechanism": mechanism,
        "quality": fit.quality,
        "fit": "well" if fit.quality >= FITS_WELL else "roughly" if fit.quality >= FITS_ROUGHLY else "poorly",
        "forward": account and {"does": str(account.operator), "quality": account.quality},
        "unexplained": unexplained,
    }


def _fit_unless_flat(inputs: Tensor, outputs: Tensor, radius: int) -> Fit | None:
    return fit_operator(inputs, outputs, radius=radius) if outputs.amax() - outputs.amin() >= 1e-3 else None


def undoing(fit: Fit, forward: Fit | None, unexplained: float) -> tuple[str | None, str]:
    """Says what an operator undoes.

    Args:
        fit: What is done.
        forward: What does the reverse, or None. If that smooths too, the smoothing is the networks' own, and undoes
            nothing: a sharpening would be undone by one and done again by the other.
        unexplained: See `describe_run`; where much is, what is smoothed away is noise.

    Returns:
        A mechanism in its notation, None where it has no name, and the same in words.
    """
    operator = fit.operator
    if operator.tone == "scaled" and abs(operator.gain) < NEARLY_FLAT:
        return None, "nothing that can be told: what it gives is nearly flat"
    named: list[str | None] = []
    said = []
    if operator.moves:
        named.append(str(Mechanism("shift", {name: -d for name, d in (("dy", operator.dy), ("dx", operator.dx)) if d})))
        said.append(f"a movement by {to_where(-operator.dy, -operator.dx)}")
    reverse = "as it is" if forward is None else forward.operator.texture
    noisy = operator.texture == "smoothed" and unexplained >= NOISE
    if noisy:
        named.append("noise")
        said.append("noise")
    elif operator.texture == "smoothed" and reverse != "smoothed":
        named.append(None)
        said.append("a sharpening")
    elif operator.texture == "sharpened":
        sigma = forward.operator.sigma if forward is not None and reverse == "smoothed" else operator.sigma
        named.append(f"blur(sigma={sigma:g})")
        said.append("a blur")
    if operator.tone == "inverted":
        named.append("invert")
        said.append("an inversion of the contrast")
    elif operator.tone == "scaled" and not noisy:
        factor, offset = 1 / operator.gain, -operator.offset / operator.gain
        named.append(f"gain(factor={factor:.2f}, offset={offset:.2f})")
        said.append("a change of gain and offset" if factor > 0 else "an inversion with a change of gain and offset")
    if not said:
        return "identity", "nothing"
    return (None if None in named else " | ".join(map(str, named))), " and ".join(said)


def make_probes(size: int, channels: int) -> Tensor:
    """Returns a bright dot of 3x3 px on black, an edge from black to white and a flat mid-grey: [3, c, size, size]."""
    probes = torch.zeros(3, channels, size, size)
    middle = size // 2
    probes[0, :, middle - 1 : middle + 2, middle - 1 : middle + 2] = 1
    probes[1, :, :, middle:] = 1
    probes[2] = 0.5
    return probes


def read_answers(probes: Tensor, answers: Tensor) -> dict[str, Any]:
    """Measures what becomes of the probes.

    Args:
        probes: From `make_probes`.
        answers: What an expert makes of them, the same shape.

    Returns:
        `dot`: by how many pixels its centre moves, `dy` down and `dx` right, and its `spread`, the root mean square
        distance from there (a dot of 3x3 px has 1.15); None where it vanishes. `edge`: the levels to its left, `dark`,
        and right, `bright`, and its `width` in pixels, from a fifth to four fifths of the way between them (None where
        no step is left). `flat`: `mean` and `std` of the field. Edge and field are measured in the middle of the frame.
    """
    size = probes.shape[-1]
    middle = slice(size // 4, size - size // 4)
    dot, edge, flat = answers.mean(dim=1)
    weights = (dot - dot.median()).abs()
    weights = torch.where(weights >= 0.25 * weights.max(), weights, 0)
    centre = _centre(probes[0].mean(dim=0))
    spot = None
    if weights.max() >= 0.1:
        place = _centre(weights)
        away = [(torch.arange(size) - c).square() for c in place]
        spread = ((weights * (away[0][:, None] + away[1])).sum() / weights.sum()).sqrt()
        dy, dx = (round(found - given, 2) for found, given in zip(place, centre))
        spot = {"dy": dy, "dx": dx, "spread": round(spread.item(), 2)}
    profile = edge[middle].mean(dim=0)[middle]
    low, high = profile[:2].mean().item(), profile[-2:].mean().item()
    return {
        "dot": spot,
        "edge": {"dark": round(low, 3), "bright": round(high, 3), "width": _width(profile, low, high)},
        "flat": {
            "mean": round(flat[middle, middle].mean().item(), 3),
            "std": round(flat[middle, middle].std().item(), 3),
        },
    }


def _centre(weights: Tensor) -> tuple[float, float]:
    """The centre of mass (y, x) of [h, w]."""
    rows, columns = (weights.sum(dim=dim) / weights.sum() for dim in (1, 0))
    return tuple(float(each @ torch.arange(len(each), dtype=each.dtype)) for each in (rows, columns))  # type: ignore


def _width(profile: Tensor, low: float, high: float) -> float | None:
    """How many pixels a step from low to high takes, from a fifth to four fifths of it."""
    if abs(high - low) < 0.1:
        return None
    level = (profile - low) / (high - low)
    above = [int((level >= share).nonzero()[0]) for share in (0.2, 0.8)]
    ends = []
    for index, share in zip(above, (0.2, 0.8)):
        if index == 0:
            return None
        before, after = level[index - 1].item(), level[index].item()
        ends.append(index - 1 + (share - before) / (after - before))
    return round(ends[1] - ends[0], 2)

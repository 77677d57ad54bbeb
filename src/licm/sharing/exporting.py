"""A run to a folder to share: weights, configuration, a thinned history, and a card. No file of it is a pickle.

Such a folder is a run folder, which `load_run` and the commands read.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from licm import checkpoint as files
from licm.confidence import CALIBRATION, read_calibration, save_calibration
from licm.config import Config, to_yaml
from licm.mechanisms import parse_mechanisms
from licm.reading import read_object
from licm.records import EVALUATION
from licm.run import Run
from licm.saving import load_image_run, save_weights, with_paths
from licm.sharing.cards import CARD, README, read_card, readme_text
from licm.shipped import find_run
from licm.writing import whole_folder, write_text

MODEL_FILES = (files.CONFIG, files.RUN, files.HISTORY, files.CHECKPOINT, CALIBRATION, CARD, README)
"""All there is in such a folder."""

HISTORY_EVERY = 25  # steps from one record that is kept to the next

_METRICS = (
    *("split", "num_images", "matched_share", "ari", "nmi", "accuracy_clean", "accuracy_transformed"),
    *(
        "accuracy_restored",
        "psnr",
        "psnr_transformed",
        "ssim",
        "ssim_transformed",
        "winner_margin",
        "num_dead_experts",
        "num_competing",
    ),
    *("forward_psnr", "router_agreement", "mechanisms", "winner_matrix", "per_mechanism"),
)
_INTENDED_USE = (
    "To restore images like those it was trained on, each under one of its mechanisms, and to tell which; to teach, to "
    "compare with and to start from."
)
_LIMITS = (
    "It undoes its own mechanisms, at the strengths it has seen, one at a time. Whatever else it is given, some expert "
    "wins it too and makes it look like a clean image: look at the scores.",
    "Where information is gone it invents. It is not for medicine, law or measurement.",
    "It was measured on images like those of its training alone.",
)

logger = logging.getLogger(__name__)


def export_model(
    run_folder: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    licence: str | None = None,
    note: str | None = None,
    half: bool = True,
) -> dict[str, Any]:
    """Makes a folder to share of a run: what using it takes, and a card with the figures of `licm evaluate`.

    Of paths to images of one's own only the last name is kept. Training can go on from such a folder, with new
    optimisers.

    Args:
        run_folder: The run, evaluated or not; or such a folder, or the name of a model of the package, whose card is
            then gone on with.
        out: A new or empty folder.
        name: What the model is called; None for the name of `out`, or what it was called before.
        licence: Under which it is given, as an SPDX identifier such as MIT or CC-BY-SA-4.0.
        note: A sentence of one's own for the card.
        half: Store the weights as float16; see `licm.saving.save_weights`.

    Returns:
        The card; see `licm.sharing.cards`.

    Raises:
        ValueError: If `out` is taken, the run cannot be read, or was evaluated at another step than it is saved at.
        OSError: If it cannot be written; nothing of it is then left.
    """
    folder, out = find_run(run_folder), Path(out)
    files.check_free(out)
    run = load_image_run(folder)
    if not run.finished:
        logger.warning("warning: run %r is unfinished: it stopped at step %d", str(run_folder), run.step)
    former = read_card(folder) if (folder / CARD).exists() else {}
    evaluation = _read_evaluation(folder, run) or former
    if not evaluation.get("metrics"):
        logger.warning("warning: the card has no figures: evaluate first, with licm evaluate %s", run_folder)
    config = _without_places(run.config)
    card = {
        "name": name or former.get("name") or out.absolute().name,
        "licence": licence or former.get("licence"),
        "note": note or former.get("note"),
        "model": _describe_model(run, "float16" if half else "float32"),
        "data": _describe_data(config),
        "training": {"preset": config.preset, "seed": config.seed, "trained_with": files.read_run(folder)},
        "metrics": evaluation.get("metrics"),
        "measured_with": evaluation.get("measured_with"),
        "intended_use": _INTENDED_USE,
        "limits": list(_LIMITS),
    }
    with whole_folder(out) as fresh:
        write_text(fresh / files.CONFIG, to_yaml(config))
        write_text(fresh / files.RUN, files.run_text(files.read_run(folder)))
        if (calibration := read_calibration(folder, run)) is not None:
            save_calibration(calibration, fresh)
        for record in files.read_history(folder, until=run.step):
            if record["kind"] != "step" or record["step"] % HISTORY_EVERY == 0 or record["step"] == run.step:
                files.append_history(fresh, record)
        save_weights(run, fresh, half=half)
        write_text(fresh / CARD, json.dumps(card, indent=1) + "\n")
        write_text(fresh / README, readme_text(card))
    return card


def _read_evaluation(folder: Path, run: Run) -> dict[str, Any] | None:
    """The metrics that `licm evaluate` left of the run, and with what they were measured."""
    path = folder / EVALUATION
    if not path.exists():
        return None
    record = read_object(path)
    if record is None or record.get("steps") != run.step:
        raise ValueError(f"{str(path)!r} is damaged or not of step {run.step}: write it with licm evaluate {folder}")
    return {"metrics": {key: record[key] for key in _METRICS if key in record}, "measured_with": record["provenance"]}


def _without_places(config: Config) -> Config:
    """The configuration with the last name alone of each path to images, which is nobody else's business.

    What is left, `…/mnist`, is neither a known source nor a folder that somebody else might have.
    """
    return with_paths(config, lambda path: f"…/{path.name}")


def _describe_model(run: Run, precision: str) -> dict[str, Any]:
    competition = run.competition
    networks: list[torch.nn.Module] = [run.experts, run.discriminator]
    networks += [each for each in (competition.forward, competition.routing and competition.routing.router) if each]
    return {
        "experts": len(run.experts),
        "image_shape": list(run.discriminator.input_shape),
        "parameters": sum(parameter.numel() for network in networks for parameter in network.parameters()),
        "precision": precision,
        "forward_networks": competition.forward is not None,
        "router": competition.routing is not None,
        "steps": run.step,
        "finished": run.finished,
    }


def _describe_data(config: Config) -> dict[str, Any]:
    own = config.data.canonical is not None
    return {
        "source": None if own else config.data.source,
        "canonical": config.data.canonical,
        "transformed": config.data.transformed,
        "mechanisms": None if own else [str(mechanism) for mechanism in parse_mechanisms(config.mechanisms)],
    }

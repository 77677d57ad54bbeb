"""Model cards: what a trained model is, what it was trained on and achieves, and under which licence it is given.

A card is an object of JSON values (`card.json`), and the same as Markdown for people and hubs (`README.md`).
"""

from pathlib import Path
from typing import Any

import yaml

from licm.catalogue import SOURCES
from licm.checks import unknown_name
from licm.reading import read_object
from licm.shipped import SHIPPED, find_run
from licm.tables import aligned, markdown

CARD, README = "card.json", "README.md"
KEYS = ("name", "licence", "note", "model", "data", "training", "metrics", "measured_with", "intended_use", "limits")

_MEASURES = {  # what is told of the metrics, in words and digits
    "matched_share": ("images that go to the expert of their mechanism", "{:.4f}"),
    "ari": ("ARI of winner against mechanism", "{:.4f}"),
    "psnr_transformed": ("PSNR of the transformed images, dB", "{:.2f}"),
    "psnr": ("PSNR of the restored images, dB", "{:.2f}"),
    "ssim_transformed": ("SSIM of the transformed images", "{:.4f}"),
    "ssim": ("SSIM of the restored images", "{:.4f}"),
    "accuracy_clean": ("accuracy of a classifier of clean images, on clean images", "{:.4f}"),
    "accuracy_transformed": ("the same on the transformed images", "{:.4f}"),
    "accuracy_restored": ("the same on the restored images", "{:.4f}"),
}


def read_card(folder: str | Path) -> dict[str, Any]:
    """Reads the card of a model.

    Args:
        folder: The model's folder, or the name of a model of the package.

    Raises:
        ValueError: If there is no such model, it has no card, or the card is damaged.
    """
    place = find_run(folder)
    if not place.exists():
        raise ValueError(unknown_name("model", str(folder), SHIPPED))
    path = place / CARD
    if not path.exists():
        raise ValueError(f"{str(folder)!r} has no card: it is no model to share; licm export makes one of a run")
    card = read_object(path)
    if card is None or any(key not in card for key in KEYS):
        raise ValueError(f"{str(path)!r} is damaged, or was written by another version")
    return card


def list_pretrained() -> list[dict[str, Any]]:
    """Returns the cards of the models that come with the package."""
    return [read_card(folder) for folder in SHIPPED.values()]


def models_table() -> str:
    """Returns the models that come with the package as text."""
    rows = [["model", "experts", "images", "trained on", "matched share", "PSNR, dB", "licence"]]
    for card in list_pretrained():
        metrics, size = card["metrics"], " x ".join(map(str, card["model"]["image_shape"]))
        figures = [f"{metrics['matched_share']:.3f}", f"{metrics['psnr']:.1f}"]
        rows.append(
            [card["name"], str(card["model"]["experts"]), size, card["data"]["source"], *figures, card["licence"]]
        )
    return aligned(rows, left=(0, 3, 6))


def card_text(card: dict[str, Any]) -> str:
    """Returns a card as Markdown."""
    model, data, training, metrics = (card[key] for key in ("model", "data", "training", "metrics"))
    size = " x ".join(map(str, model["image_shape"]))
    also = [word for key, word in (("forward_networks", "forward networks"), ("router", "a router")) if model[key]]
    facts = {
        "experts": f"{model['experts']}, for images of {size}; with {', '.join(['a discriminator', *also])}",
        "weights": f"{model['parameters']:,} numbers, stored as {model['precision']}, in safetensors",
        "data": ": ".join(filter(None, (data["source"], SOURCES.get(data["source"]))))
        or f"{data['canonical']} (clean) and {data['transformed']} (transformed), of the maker's own",
        "mechanisms": ", ".join(f"`{name}`" for name in data["mechanisms"] or ()) or "unknown",
        "training": f"preset `{training['preset']}`, seed {training['seed']}, {model['steps']} steps"
        + ("" if model["finished"] else " (unfinished)"),
        "made with": _versions(training["trained_with"]),
        "licence": card["licence"] or "not stated",
    }
    parts = [
        f"# {card['name']}",
        "Experts that each undo one of several unknown mechanisms in images, learned without pairs or labels by "
        "competition (Parascandolo, Kilbertus, Rojas-Carulla and Schölkopf, ICML 2018), and the discriminator that "
        "names the winner.",
        *([card["note"]] if card["note"] else []),
        markdown([("", ""), *facts.items()], left=(0, 1)),
        f'```python\nimport licm\n\ninverter = licm.MechanismInverter.from_pretrained("{card["name"]}")  '
        "# or the path of this folder\nrestored = inverter.transform(images)\nexperts = inverter.predict(images)\n```",
        "## What it achieves",
        "Not measured." if metrics is None else _metrics_text(metrics, card["measured_with"]),
        "## What it is for",
        card["intended_use"],
        "## What it cannot do",
        "\n".join(f"- {limit}" for limit in card["limits"]),
    ]
    return "\n\n".join(parts) + "\n"


def readme_text(card: dict[str, Any]) -> str:
    """Returns a card as Markdown under the header of YAML that the Hugging Face hub reads."""
    header: dict[str, Any] = {"library_name": "licm", "pipeline_tag": "image-to-image"}
    header |= {"license": card["licence"].lower()} if card["licence"] else {}
    header["tags"] = ["independent-causal-mechanisms", "mixture-of-experts", "image-restoration"]
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{card_text(card)}"


def _metrics_text(metrics: dict[str, Any], measured_with: dict[str, Any]) -> str:
    known = {key: value for key, value in metrics.items() if value is not None}
    told = {words: digits.format(known[key]) for key, (words, digits) in _MEASURES.items() if key in known}
    text = f"On {metrics['num_images']} {metrics['split']} images, by `licm evaluate` of {_versions(measured_with)}."
    text += f"\n\n{markdown([('measure', 'value'), *told.items()])}"
    if "per_mechanism" in metrics:
        each, matrix = metrics["per_mechanism"], metrics["winner_matrix"]
        rows = [
            (f"`{name}`", str(shares.index(max(shares))), f"{max(shares):.3f}", f"{before:.1f}", f"{after:.1f}")
            for name, shares, before, after in zip(
                metrics["mechanisms"], matrix, each["psnr_transformed"], each["psnr"]
            )
        ]
        head = ("mechanism", "best expert", "its share", "PSNR before, dB", "PSNR restored, dB")
        text += f"\n\n{markdown([head, *rows])}"
    return text


def _versions(provenance: dict[str, Any]) -> str:
    commit = provenance["commit"] or "not recorded"
    return f"licm {provenance['licm']} (commit {commit}), torch {provenance['torch']}"

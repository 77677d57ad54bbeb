"""What can be chosen by name: presets, mechanisms and data sources, as JSON values and as text."""

import inspect
from pathlib import Path
from typing import Any

from licm.checks import unknown_name
from licm.config import Config, make_config, to_yaml
from licm.downloads import DOWNLOAD_MEGABYTES, MIRRORS, cache_of, locate, obtain
from licm.presets import PRESET_NOTES, PRESETS
from licm.tables import aligned

SOURCES = {
    "embedded": "21,000 MNIST digits for training and 2,000 for the test, 28x28, labelled",
    "mnist": "60,000 digits for training and 10,000 for the test, 28x28, labelled",
    "fashion-mnist": "60,000 articles of clothing for training and 10,000 for the test, 28x28, labelled",
    "omniglot": "2,720 drawings of letters in five alphabets, 28x28",
}


def list_presets() -> list[dict[str, Any]]:
    """Returns for each preset its name, what it is for, and what it changes from the defaults."""
    return [{"name": name, "about": PRESET_NOTES[name], "changes": changes} for name, changes in PRESETS.items()]


def presets_table() -> str:
    """Returns the presets as text."""
    return aligned([["preset", "about"], *([row["name"], row["about"]] for row in list_presets())], left=(0, 1))


def preset_yaml(name: str) -> str:
    """Returns a preset as a configuration file, each key with its value.

    Raises:
        ValueError: If the preset is unknown.
    """
    return to_yaml(make_config(name))


def config_keys() -> list[tuple[str, str]]:
    """Returns each key that can be set, dotted, with a word on it where there is one."""
    found = []
    for name, field in Config.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        keys = {f"{name}.{key}": value for key, value in inner.items()} if inner else {name: field}
        found += [(key, value.description or "") for key, value in keys.items() if key != "preset"]
    return found


def list_mechanisms() -> dict[str, Any]:
    """Returns the `kinds` of mechanisms, with parameters, defaults, bounds and levels, and the named `sets`."""
    from licm.mechanisms import MECHANISM_SETS, MECHANISMS, Mechanism

    kinds = []
    for name, kind in MECHANISMS.items():
        parameters = list(inspect.signature(kind.transform).parameters.values())[2:]
        kinds.append(
            {
                "name": name,
                "about": (inspect.getdoc(kind.transform) or "").split("\n")[0],
                "parameters": {parameter.name: parameter.default for parameter in parameters},
                "bounds": {parameter: list(limits) for parameter, limits in kind.bounds.items()},
                "levels": [str(Mechanism(name, level)) for level in kind.levels],
                "exact_inverse": kind.inverse is not None,
            }
        )
    return {"kinds": kinds, "sets": {name: list(members) for name, members in MECHANISM_SETS.items()}}


def mechanisms_table() -> str:
    """Returns the mechanisms and their sets as text."""
    listed = list_mechanisms()
    rows = [["mechanism, with its defaults", "what it does"]]
    for kind in listed["kinds"]:
        inner = ", ".join(f"{name}={default}" for name, default in kind["parameters"].items())
        rows.append([f"{kind['name']}({inner})" if inner else kind["name"], kind["about"]])
    sets = [f"{name}: {', '.join(members)}" for name, members in listed["sets"].items()]
    return "\n".join([aligned(rows, left=(0, 1)), "", "sets, to be named instead of a list:", *sets])


def one_mechanism(name: str) -> dict[str, Any]:
    """Returns what `list_mechanisms` tells of one kind.

    Raises:
        ValueError: If there is none of that name.
    """
    kinds = {kind["name"]: kind for kind in list_mechanisms()["kinds"]}
    if name not in kinds:
        raise ValueError(unknown_name("mechanism", name, kinds))
    return kinds[name]


def mechanism_text(name: str) -> str:
    """Returns all that is told of one kind of mechanism, as text.

    Raises:
        ValueError: If there is none of that name.
    """
    kind = one_mechanism(name)
    rows = [["parameter", "default", "from", "to"]]
    for parameter, default in kind["parameters"].items():
        low, high = kind["bounds"].get(parameter, ("any", "any"))
        rows.append([parameter, str(default), str(low), str(high)])
    lines = [f"{name}: {kind['about']}"]
    if kind["parameters"]:
        lines += [aligned(rows, left=(0,)), f"from weak to strong: {', '.join(kind['levels'])}"]
    lines.append(f"exact inverse: {'where the parameters allow' if kind['exact_inverse'] else 'no'}")
    return "\n".join(lines)


def list_sources() -> list[dict[str, Any]]:
    """Returns for each data source its name, what it holds, where it is, and what would be downloaded from where.

    Raises:
        ValueError: If `LICM_DATA_DIR` names no folder.
    """
    rows = []
    for name, about in SOURCES.items():
        if name == "embedded":
            found: dict[str, Path | None] = {"": Path(__file__).parent / "data"}
        else:
            found = locate(name)
        folders = sorted({str(path.parent if file else path) for file, path in found.items() if path is not None})
        missing = [file for file, path in found.items() if path is None]
        rows.append(
            {
                "name": name,
                "about": about,
                "present": not missing,
                "folders": folders,
                "missing": missing,
                "download_megabytes": DOWNLOAD_MEGABYTES[name] if missing else 0.0,
                "download_from": list(MIRRORS[name]) if missing else [],
                "download_to": str(cache_of(name)) if missing else None,
            }
        )
    return rows


def sources_table() -> str:
    """Returns the data sources as text."""
    rows = [["source", "what is in it", "where it is"]]
    for row in list_sources():
        place = ", ".join(row["folders"])
        if not row["present"]:
            some = f"partly in {place}; " if place else ""
            place = f"{some}not here: about {row['download_megabytes']:g} MB would be downloaded when first used"
        rows.append([row["name"], row["about"], "in the package" if row["name"] == "embedded" else place])
    own = "A source is also the path of your own: a folder of equally sized images, a .npz file or an IDX file."
    return f"{aligned(rows, left=(0, 1, 2))}\n{own}"


def fetch(name: str) -> dict[str, Any]:
    """Makes sure that a data source is here and whole: downloads what is missing, verifies every file.

    Raises:
        ValueError: If the name is unknown, or a copy that is here is not the official one.
        ConnectionError: If no mirror gives a missing file.
    """
    if name not in SOURCES:
        raise ValueError(unknown_name("data source", name, SOURCES))
    if name == "embedded":
        from licm.sources import load_embedded

        load_embedded()
    else:
        for file in locate(name):
            obtain(name, file)
    return next(row for row in list_sources() if row["name"] == name)

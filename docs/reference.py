"""Writes `api/`, the pages that are made from the code: public names, commands, configuration, modules."""

from collections.abc import Iterator
from pathlib import Path
from pkgutil import walk_packages
from typing import Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

import licm
from licm.cli import app
from licm.config import Config, make_config
from licm.presets import PRESETS

NOT_MODULES = {"licm.__main__", "licm.cli"}  # the commands have a page of their own

INDEX = """API reference
=============

The public names, each looked up as ``licm.NAME`` and loaded when first used:

.. autosummary::
   :nosignatures:

{public}
All modules; the table of :doc:`/architecture` has them in the order in which they build on each other.

.. toctree::
   :maxdepth: 1

{pages}"""


def write_reference(folder: Path) -> None:
    """Writes all pages, and removes those of modules that are no more."""
    folder.mkdir(exist_ok=True)
    pages = {"index.rst": index(), "commands.md": commands(), "configuration.md": configuration()}
    pages |= {f"{name}.rst": module_page(name) for name in modules()}
    for old in set(folder.iterdir()) - {folder / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def modules() -> list[str]:
    """The modules there are."""
    return sorted({found.name for found in walk_packages(licm.__path__, "licm.")} - NOT_MODULES)


def module_page(name: str) -> str:
    """A module's page: all that has a docstring."""
    return f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :members:\n"


def index() -> str:
    """The public names where they are at home, and the list of modules."""
    public = [f"   ~{module}.{name}\n" for module, names in licm._HOME.items() for name in names]
    return INDEX.format(public="".join(public), pages="".join(f"   {name}\n" for name in modules()))


def commands() -> str:
    """What each command says of itself."""
    text = "# Commands\n\n`licm --help` lists them; a failed command is one line and a non-zero exit.\n"
    for command in app.registered_commands:
        name = command.name or str(getattr(command.callback, "__name__", "")).replace("_", "-")
        shown = CliRunner(env={"COLUMNS": "88"}).invoke(app, [name, "--help"], prog_name="licm").output
        text += f"\n## licm {name}\n\n```text\n{shown.strip()}\n```\n"
    return text


def configuration() -> str:
    """Every key with its value in each preset."""
    presets = {name: make_config(name) for name in PRESETS}
    text = "# Configuration\n\nKeys of `config.yaml` and of `--set`, and their values in the presets.\n\n"
    text += f"| key | {' | '.join(f'`{name}`' for name in presets)} | |\n| --- |{' --- |' * (len(presets) + 1)}\n"
    for key, description in keys(Config):
        values = " | ".join(f"`{value_of(config, key)}`" for config in presets.values())
        text += f"| `{key}` | {values} | {description} |\n"
    return text


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted keys below a section, with their descriptions."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        elif prefix + name != "preset":
            choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            yield prefix + name, field.description or " or ".join(f"`{choice}`" for choice in choices)


def value_of(config: Config, key: str) -> str:
    """A value as it is written in YAML."""
    value = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()

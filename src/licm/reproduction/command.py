"""The command `licm reproduce`; nothing heavy is imported before it is called."""

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from licm.completion import complete_setting
from licm.console import fail, log
from licm.options import AsJson, Quiet


def reproduce(
    out: Annotated[Path, typer.Option(help="The folder of records, runs and results, new or to go on with.")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="This result alone; may be repeated.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each condition. [what the budget has]", min=1)] = None,
    budget: Annotated[str, typer.Option(help="quick (embedded digits, a seed) or full (MNIST).")] = "full",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of every run.", autocompletion=complete_setting),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make the results of the founding slides again: records, then results.json, figures and a page.

    Hours at the full budget. What is in OUT already is not made again, so a stopped command is simply repeated.

    Example: licm reproduce --only specialisation --budget quick --out runs/slides
    """
    from licm.config import parse_overrides
    from licm.reproduction.page import PAGE, write_results
    from licm.reproduction.running import plan
    from licm.reproduction.running import reproduce as make_records

    log(quiet=quiet)
    rows = plan(only or (), seeds=seeds, budget=budget, overrides=parse_overrides(settings or []))
    say = (lambda line: None) if quiet else partial(typer.echo, err=True)
    done = make_records(rows, out, say=say, quiet=quiet)
    options = {"--only": only or (), "--seeds": [str(seeds)] * (seeds is not None), "--budget": [budget]}
    options |= {"--set": settings or (), "--out": [str(out)]}
    typed = [word for option, values in options.items() for value in values for word in (option, value)]
    results = write_results(rows, out, command=shlex.join(["licm", "reproduce", *typed]))
    if as_json:
        typer.echo(json.dumps(results))
    elif not quiet:
        typer.echo(f"saved: {out / PAGE}")
    if not done:
        fail("stopped, and what is done is kept; go on with the same command", code=130)

"""Options that several commands take."""

from typing import Annotated

import typer

from licm.completion import complete_device

Device = Annotated[
    str,
    typer.Option(help="Where to compute: cpu, cuda, mps.", autocompletion=complete_device),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and warnings.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a machine to read.")]

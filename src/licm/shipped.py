"""The trained models that come with the package: small run folders, by name. Nothing is loaded to list them."""

from difflib import get_close_matches
from pathlib import Path

SHIPPED = {folder.name: folder for folder in sorted((Path(__file__).parent / "data" / "models").iterdir())}
"""The folder of each model."""


def find_run(name: str | Path) -> Path:
    """Returns a path as it is, unless nothing is there and it is the name of a model of the package.

    >>> find_run("runs/first").as_posix(), find_run("mnist-10").is_dir()
    ('runs/first', True)
    """
    path = Path(name)
    return path if path.exists() else SHIPPED.get(str(name), path)


def hint(name: str | Path) -> str:
    """Says, after the words that there is no such folder, what the name has to do with the models of the package.

    >>> hint("mnist10")
    "; did you mean 'mnist-10'?"
    >>> hint("runs/first")
    ''
    """
    if str(name) in SHIPPED:
        return f"; this needs one of your own: licm export {name} FOLDER makes a copy of the model"
    close = get_close_matches(str(name), SHIPPED, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""

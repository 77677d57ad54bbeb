"""Models by name: of the package, in a folder, or on the Hugging Face hub (the extra `hub`)."""

import re
from importlib.util import find_spec
from pathlib import Path

from licm.checkpoint import CHECKPOINT
from licm.checks import unknown_name
from licm.sharing.cards import CARD
from licm.sharing.exporting import MODEL_FILES
from licm.shipped import SHIPPED, find_run

_ON_HUB = r"\w[\w.-]*/\w[\w.-]*"


def obtain_model(name: str | Path, *, revision: str | None = None) -> Path:
    """Returns the folder of a model; nothing is asked of the network but for what is `owner/name` and no folder here.

    Args:
        name: The path of a folder (a run, or what `licm export` made), the name of a model of the package, or
            `owner/name` on the hub.
        revision: Of a model on the hub: a branch, tag or commit.

    Raises:
        ValueError: If there is no such model, or it cannot be had.
    """
    folder = find_run(name)
    if folder.exists():
        return folder
    if re.fullmatch(_ON_HUB, str(name)):
        return download_model(str(name), revision=revision)
    raise ValueError(unknown_name("model", str(name), SHIPPED))


def download_model(name: str, *, revision: str | None = None) -> Path:
    """Downloads a model, or finds it in the hub's cache; of its files only those of such a model, none a pickle.

    Args:
        name: `owner/name`.
        revision: A branch, tag or commit; None for the newest.

    Returns:
        Its folder in the cache of `huggingface_hub`, to be read only.

    Raises:
        ValueError: If `huggingface_hub` is not installed, or the hub does not give a model of this library.
    """
    if find_spec("huggingface_hub") is None:
        raise ValueError(f"there is no folder {name!r}, and the hub needs huggingface_hub: pip install 'licm[hub]'")
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(MODEL_FILES))
    except (OSError, ValueError) as error:  # all that huggingface_hub raises is one of them
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"there is no folder {name!r}, and the hub gives no such model: {reason}") from error
    if not (Path(folder) / CHECKPOINT).is_file():
        raise ValueError(f"{name!r} on the hub is no model of this library: {CHECKPOINT} is missing")
    return Path(folder)


def upload_model(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Uploads a model, as one commit, to the hub; who is logged in is for `huggingface_hub` to know.

    Args:
        folder: What `licm export` made; nothing but its own files is uploaded.
        name: `owner/name`, made if need be.
        private: Whether it is then hidden from others.

    Returns:
        The address of the commit.

    Raises:
        ValueError: If `huggingface_hub` is not installed, or the folder has no card.
    """
    if find_spec("huggingface_hub") is None:
        raise ValueError("the hub needs huggingface_hub: pip install 'licm[hub]'")
    if not (Path(folder) / CARD).is_file():
        raise ValueError(f"{str(folder)!r} has no card: make a model to share of a run with licm export")
    from huggingface_hub import HfApi

    hub = HfApi()
    hub.create_repo(name, private=private, exist_ok=True)
    return str(hub.upload_folder(repo_id=name, folder_path=Path(folder), allow_patterns=list(MODEL_FILES)))

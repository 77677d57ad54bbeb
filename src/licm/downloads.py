"""Known data sets: where a copy may lie, where it can be had, and what its files must hash to.

A copy is looked for under the folder that `LICM_DATA_DIR` names, then in the cache; what is nowhere is downloaded
into the cache. Nothing is used unverified.
"""

import logging
import os
import tempfile
from pathlib import Path

import pooch

from licm.checks import unknown_name
from licm.reading import read_content

MIRRORS = {  # the file's name is appended; IDX files as `.gz`
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    "omniglot": ("https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",),
}
FOLDERS = {  # where an existing copy may lie: under LICM_DATA_DIR or, if absolute, where Debian puts it
    "mnist": ("mnist", "MNIST/raw", "."),
    "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),
    "omniglot": ("omniglot", "."),
}
OMNIGLOT_FILE = "images_background_small1.zip"
SHA256 = {  # of the unpacked IDX files, as gzip copies differ from mirror to mirror; of the zip as it is
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {  # computed from Debian's dataset-fashion-mnist 0.0~git20200523.55506a9-1
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "omniglot": {OMNIGLOT_FILE: "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"},
}
DOWNLOAD_MEGABYTES = {"mnist": 11.6, "fashion-mnist": 30.9, "omniglot": 1.3}  # all files, as the mirrors pack them
IDX_FILES = tuple(SHA256["mnist"])


def locate(name: str) -> dict[str, Path | None]:
    """Returns where each file of a known data set lies, None for what would be downloaded.

    Raises:
        ValueError: If the name is unknown, or `LICM_DATA_DIR` names no folder.
    """
    if name not in SHA256:
        raise ValueError(unknown_name("data set", name, SHA256))
    base = os.environ.get("LICM_DATA_DIR")
    if base and not Path(base).is_dir():
        raise ValueError(f"LICM_DATA_DIR: expected an existing folder, got {base!r}")
    places = [Path(base or "", place) for place in FOLDERS[name] if base or os.path.isabs(place)]
    folders = (*places, cache_of(name))
    return {
        file: next((path for folder in folders if (path := find_file(folder, file))), None) for file in SHA256[name]
    }


def cache_of(name: str) -> Path:
    """Returns the folder into which a known data set is downloaded."""
    return Path(pooch.os_cache("licm"), name)


def obtain(name: str, file: str) -> bytes:
    """Returns the verified content of a file of a known data set: existing, cached or downloaded.

    Raises:
        ValueError: If the name is unknown or an existing copy is not the official one.
        ConnectionError: If no mirror gives the official file.
    """
    path, sha256 = locate(name)[file], SHA256[name][file]
    if path is not None:
        return read_content(path, sha256)
    cache = cache_of(name)
    cache.mkdir(parents=True, exist_ok=True)
    packed = file if file.endswith(".zip") else f"{file}.gz"
    problems = []
    with tempfile.TemporaryDirectory(dir=cache) as fresh:  # wrong content never enters the cache
        for url in (mirror + packed for mirror in MIRRORS[name]):
            logging.getLogger(__name__).info("downloading %s", url)
            try:
                pooch.HTTPDownloader(chunk_size=1 << 16)(url, f"{fresh}/{packed}", None)
                content = read_content(f"{fresh}/{packed}", sha256)
            except OSError as error:
                problems.append(f"{url} ({type(error).__name__})")
            except ValueError:
                problems.append(f"{url} (wrong content)")
            else:
                os.replace(f"{fresh}/{packed}", cache / packed)
                return content
    told = f"LICM_DATA_DIR can name a folder that has it; tried {', '.join(problems)}"
    raise ConnectionError(f"{name}: no mirror gave {file}; {told}")


def find_file(folder: Path, name: str) -> Path | None:
    """Returns the file of that name in a folder, packed or not."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)

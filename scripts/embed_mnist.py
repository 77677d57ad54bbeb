"""Draws the MNIST subset that lies in the package from the original IDX files.

Usage: python scripts/embed_mnist.py [IDX_FOLDER] [--out FILE]

The default folder is the MNIST under `LICM_DATA_DIR`. The checksum it prints is `EMBEDDED_SHA256` in
`licm.sources`.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch

from licm.downloads import SHA256
from licm.seeding import generator
from licm.sources import EMBEDDED_FILE, ImageSet, checksum_arrays, load_idx_folder

SEED = 0
TRAIN_PARTS = {"canonical": 10_000, "to_transform": 10_000, "validation": 1_000}
TEST_PARTS = {"test": 2_000}


def draw_parts(source: ImageSet, sizes: dict[str, int], purpose: str) -> dict[str, np.ndarray]:
    """Draws disjoint parts of a data set.

    Args:
        source: Images [n, 1, h, w] with labels.
        sizes: The number of originals in each part.
        purpose: Names the random stream.

    Returns:
        For each part `{part}_images` [k, h, w], `{part}_labels` [k] and `{part}_indices` [k], the place of
        each original in its source.
    """
    order = torch.randperm(len(source), generator=generator(SEED, "embedded", purpose))
    arrays = {}
    for part, indices in zip(sizes, order.split([*sizes.values(), len(source) - sum(sizes.values())])):
        chosen = source.select(indices)
        assert chosen.labels is not None
        arrays[f"{part}_images"] = chosen.images[:, 0].numpy()
        arrays[f"{part}_labels"] = chosen.labels.numpy().astype(np.uint8)
        arrays[f"{part}_indices"] = indices.numpy().astype("<u4")
    return arrays


def build_arrays(folder: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the embedded file, drawn from the official MNIST files in `folder`."""
    train, test = load_idx_folder(folder, sha256=SHA256["mnist"])
    return {**draw_parts(train, TRAIN_PARTS, "train"), **draw_parts(test, TEST_PARTS, "test")}


def main() -> int:
    """Writes the file and prints its checksum; returns the exit code."""
    parser = argparse.ArgumentParser(description="Draw the embedded MNIST subset from the original IDX files.")
    parser.add_argument("folder", nargs="?", default=os.environ.get("LICM_DATA_DIR"), help="IDX files")
    parser.add_argument("--out", type=Path, default=EMBEDDED_FILE)
    arguments = parser.parse_args()
    if arguments.folder is None:
        parser.error("IDX_FOLDER: expected a folder, got none, and LICM_DATA_DIR is not set")
    try:
        arrays = build_arrays(arguments.folder)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("wb") as file:  # given a name, NumPy may append a suffix
            np.savez_compressed(file, **arrays)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes, arrays sha256 {checksum_arrays(arrays)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where images come from: the embedded MNIST subset, IDX files, Omniglot, folders of images and `.npz` files.

Every source gives an `ImageSet` of 8-bit images; scaling to [0, 1] and the transformations come later.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from licm.checks import BY_CROPS, unknown_name
from licm.downloads import IDX_FILES, OMNIGLOT_FILE, find_file, obtain
from licm.pictures import Picture, decode, find_images, read_picture, with_channels
from licm.reading import read_content, read_npz, read_zip
from licm.usable import UsableImages

EMBEDDED_FILE = Path(__file__).parent / "data" / "mnist_embedded.npz"
EMBEDDED_SHA256 = "311adea4e867ddb48abe08b85fff55b1227a13bf13878f2956e5b9706b49b4c8"  # by `checksum_arrays`
EMBEDDED_PARTS = ("canonical", "to_transform", "validation", "test")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size, with labels where they are known.

    Attributes:
        images: Tensor [n, c, h, w], uint8 in 0..255.
        labels: Tensor [n], int64, or None.
        label_names: What each label stands for, or None.
    """

    images: Tensor
    labels: Tensor | None = None
    label_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images: expected uint8 [n, c, h, w], got {images.dtype} {list(images.shape)}")
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != images.shape[:1]):
            raise ValueError(f"labels: expected int64 [{len(self)}], got {labels.dtype} {list(labels.shape)}")

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor | Sequence[int]) -> "ImageSet":
        """Returns the images, and labels, at `indices` [k], in that order."""
        index = torch.as_tensor(indices)
        index = index if index.dtype == torch.bool else index.long()
        labels = None if self.labels is None else self.labels[index]
        return ImageSet(self.images[index], labels, self.label_names)


def checksum_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 over the name, shape and bytes of each array, in the order of their names.

    >>> checksum_arrays({"a": np.zeros(2)}) == checksum_arrays({"a": np.zeros((1, 2))})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def load_embedded() -> dict[str, ImageSet]:
    """Loads the MNIST subset that comes with the package.

    Returns:
        `canonical` (10,000), `to_transform` (10,000) and `validation` (1,000), disjoint originals of MNIST's
        training set, and `test` (2,000) of its test set: images [n, 1, 28, 28] with labels.

    Raises:
        ValueError: If the file is damaged.
    """
    arrays = read_npz(EMBEDDED_FILE)
    if (got := checksum_arrays(arrays)) != EMBEDDED_SHA256:
        raise ValueError(f"{EMBEDDED_FILE}: expected arrays with sha256 {EMBEDDED_SHA256}, got {got}")
    return {name: _image_set(arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in EMBEDDED_PARTS}


def read_idx(path: str | Path) -> np.ndarray:
    """Reads one IDX file of unsigned bytes, plain or gzip.

    Returns:
        Array uint8 of the shape that the file states.

    Raises:
        ValueError: If the file is missing, damaged, truncated, empty or not an IDX file of unsigned bytes.
    """
    return _parse_idx(read_content(path), path)


def load_idx_folder(folder: str | Path, *, sha256: dict[str, str] | None = None) -> tuple[ImageSet, ImageSet]:
    """Loads the four standard IDX files of MNIST or of a data set in its form.

    Args:
        folder: Holds the files, plain or `.gz`, itself or in `raw`, `mnist`, `MNIST/raw`, `fashion-mnist` or
            `FashionMNIST/raw`; the first place with all four counts.
        sha256: What each file's unpacked content must hash to, by standard name, or None for anything.

    Returns:
        The training set and the test set, with labels.

    Raises:
        ValueError: If files are missing or damaged, or if images and labels do not fit each other.
    """
    if not (files := find_idx_files(folder)):
        raise ValueError(f"{folder}: expected {', '.join(IDX_FILES)}, plain or .gz; not all are there")
    contents = [read_content(path, (sha256 or {}).get(name)) for name, path in zip(IDX_FILES, files)]
    arrays = [_parse_idx(content, path) for content, path in zip(contents, files)]
    try:
        return _image_set(*arrays[:2]), _image_set(*arrays[2:])
    except ValueError as error:
        raise ValueError(f"{files[0].parent}: {error}") from error


def load_mnist(name: str = "mnist") -> tuple[ImageSet, ImageSet]:
    """Loads the full MNIST or Fashion-MNIST: an existing copy (see `licm.downloads`), else downloaded into a cache.

    Args:
        name: `mnist` or `fashion-mnist`.

    Returns:
        The training set (60,000) and the test set (10,000), images [n, 1, 28, 28] with labels.

    Raises:
        ValueError: If the name is unknown or an existing copy is not the official one.
        ConnectionError: If no mirror gives the official files.
    """
    if name not in ("mnist", "fashion-mnist"):
        raise ValueError(unknown_name("data set", name, ("mnist", "fashion-mnist")))
    arrays = [_parse_idx(obtain(name, file), file) for file in IDX_FILES]
    return _image_set(*arrays[:2]), _image_set(*arrays[2:])


def load_omniglot(path: str | Path | None = None) -> ImageSet:
    """Loads Omniglot in MNIST's form: ink bright, 20x20 centred in 28x28, each image's maximum 255.

    Args:
        path: A zip of `.../alphabet/character/drawing.png`, 105x105, ink black on white; or None for
            Omniglot's five alphabets in `images_background_small1.zip`, an existing copy or downloaded.

    Returns:
        Images [n, 1, 28, 28] in the order of their names; the alphabets are the labels.

    Raises:
        ValueError: If the zip is damaged or not of that form.
        ConnectionError: If it has to be downloaded and no mirror gives it.
    """
    source = obtain("omniglot", OMNIGLOT_FILE) if path is None else path
    path = path or OMNIGLOT_FILE
    drawings = {name: png for name, png in read_zip(source, path, suffix=".png") if name.count("/") >= 2}
    if not drawings:
        raise ValueError(f"{path}: expected .../alphabet/character/drawing.png in the zip, got none")
    before = np.clip(np.linspace(0, 105, 21)[:, None] - np.arange(105), 0, 1)  # [21, 105]: share before edge i
    shares = np.diff(before, axis=0) / (105 / 20)  # [20, 105]: exact area weights
    entries = sorted(drawings)
    images = np.zeros((len(entries), 1, 28, 28), np.uint8)
    for image, entry in zip(images, entries):
        ink = 255.0 - with_channels(decode(io.BytesIO(drawings[entry]), f"{path}: {entry}"), 1).pixels[0]
        if ink.shape != (105, 105) or not ink.any():
            raise ValueError(f"{path}: {entry}: expected 105x105 with ink, got {ink.shape}, {ink.max():g}")
        small = shares @ ink @ shares.T
        image[0, 4:24, 4:24] = np.rint(small * (255 / small.max()))
    names, labels = np.unique([entry.split("/")[-3] for entry in entries], return_inverse=True)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), tuple(names.tolist()))


def load_image_folder(folder: str | Path, *, channels: int | None = None, usable_only: bool = False) -> ImageSet:
    """Loads the PNG, JPEG, BMP, TIFF and WebP images in a folder and its subfolders; see `licm.pictures`.

    Args:
        folder: All its images must have the same size; hidden files and folders are passed over. 16-bit grey is
            rounded to 8 bits.
        channels: 1 converts to grey, 3 to colour; None is 1 if all images are grey, else 3.
        usable_only: Leave out, with a warning, images that cannot be read and links out, as long as they are no more
            than half.

    Returns:
        Images [n, channels, h, w] in the order of their names (the path within the folder); no labels.

    Raises:
        ValueError: If the folder or an image cannot be read, or there is none, the sizes differ, or a link leads out.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels: expected 1, 3 or None, got {channels!r}")
    if usable_only:
        usable = UsableImages(folder)
        pictures = usable.read(_read_8_bits)
        paths = usable.paths
    else:
        paths = find_images(folder)
        pictures = [_read_8_bits(path) for path in paths]
    sizes = [f"{picture.pixels.shape[2]}x{picture.pixels.shape[1]}" for picture in pictures]
    for path, size in zip(paths, sizes):
        if size != sizes[0]:
            raise ValueError(
                f"expected images of one size, got {sizes[0]} in {paths[0]} and {size} in {path}; {BY_CROPS}"
            )
    channels = channels or max(len(picture.pixels) for picture in pictures)
    return _image_set(np.stack([with_channels(picture, channels).pixels for picture in pictures]))


def load_image_file(path: str | Path, *, channels: int | None = None) -> ImageSet:
    """Loads one image; it is read as those of `load_image_folder` are, and so are `channels` and errors."""
    return _image_set(with_channels(_read_8_bits(Path(path)), channels).pixels[None])


def load_npz(path: str | Path) -> ImageSet:
    """Loads images, and labels if there are any, from a NumPy `.npz` file.

    Args:
        path: The file, with `images` [n, h, w] or [n, c, h, w] of 1 or 3 channels, uint8 or floating-point in
            [0, 1] (rounded to 8 bits), and optionally integer `labels` [n].

    Returns:
        Images [n, c, h, w] with the labels.

    Raises:
        ValueError: If the file is missing or damaged, or its arrays are not as described.
    """
    arrays = read_npz(path)
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None:
        raise ValueError(f"{path}: expected an array 'images', got {sorted(arrays)}")
    shape = list(images.shape)
    if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[1] not in (1, 3)):
        raise ValueError(f"{path}: images: expected [n, h, w] or [n, 1 or 3, h, w], not empty, got {shape}")
    if np.issubdtype(images.dtype, np.floating):
        low, high = images.min(), images.max()
        if not (low >= 0 and high <= 1):  # also true of NaN
            got = "NaN" if np.isnan(low) else f"values from {low:g} to {high:g}"
            raise ValueError(f"{path}: images: expected values in [0, 1], got {got}")
        images = np.rint(images.astype(np.float32) * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: images: expected uint8 or floating-point, got {images.dtype}")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]):
        raise ValueError(f"{path}: expected {len(images)} integer labels, got {labels.dtype} {labels.shape}")
    return _image_set(images, labels)


def load_images(path: str | Path, *, channels: int | None = None, usable_only: bool = False) -> ImageSet:
    """Loads images from a folder (see `load_image_folder` for the rest), a `.npz` file or an IDX file.

    Raises:
        ValueError: If it is none of these, or its loader refuses it.
    """
    path = Path(path)
    if path.is_dir():
        return load_image_folder(path, channels=channels, usable_only=usable_only)
    if path.suffix == ".npz":
        return load_npz(path)
    content = read_content(path)
    if content[:4] != b"\0\0\x08\x03":
        raise ValueError(f"{path}: expected a folder of images, a .npz file or an IDX file of images, got another file")
    return _image_set(_parse_idx(content, path))


def find_idx_files(folder: str | Path) -> list[Path]:
    """Returns the four standard files that `load_idx_folder` would read, or none."""
    for place in (".", "raw", "mnist", "MNIST/raw", "fashion-mnist", "FashionMNIST/raw"):
        files = [path for name in IDX_FILES if (path := find_file(Path(folder, place), name))]
        if len(files) == len(IDX_FILES):
            return files
    return []


def _parse_idx(content: bytes, name: str | Path) -> np.ndarray:
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    if content[:3] != b"\0\0\x08" or not 8 <= start <= len(content):
        got = content[:20].hex() or "nothing"
        raise ValueError(f"{name}: not an IDX file of bytes: expected it to begin with 000008, got {got}")
    shape, size = np.frombuffer(content[4:start], ">u4").tolist(), len(content) - start
    if len(shape) > 4:
        raise ValueError(f"{name}: expected 1 to 4 sizes in its header, got {len(shape)}")
    if size != prod(shape) or size == 0:
        raise ValueError(f"{name}: damaged: its header states sizes {shape}, so {prod(shape)} bytes, got {size}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _read_8_bits(path: Path) -> Picture:
    picture = read_picture(path)
    pixels = picture.pixels
    return picture if picture.white == 255 else Picture(np.rint(pixels / 257).astype(np.uint8), picture.format)


def _image_set(images: np.ndarray, labels: np.ndarray | None = None) -> ImageSet:
    """Makes an `ImageSet` of uint8 images [n, h, w] or [n, c, h, w] and integer labels."""
    tensor = torch.from_numpy(images if images.ndim == 4 else images[:, None])
    return ImageSet(tensor, None if labels is None else torch.from_numpy(labels.astype(np.int64)))

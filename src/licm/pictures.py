"""One image file and its pixels: read within bounds, upright and opaque, and written again in its own format.

What is read: still PNG, JPEG, BMP, TIFF and WebP images, 8-bit and 16-bit grey (65535 is white) and 8-bit colour. What
is transparent is laid on black and written opaque: a mechanism may have moved what can be seen, so the transparency of
a transformed image need not fit the restored one.
"""

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from licm.reading import check_regular, refuse

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp")
_TOLD = 10  # suffixes of other files that are named
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # all that Pillow is asked to try, whatever a file's name
_KEEPING: dict[str, dict[str, Any]] = {  # what keeps most of an image; the other formats lose nothing anyway
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}
_LOSSLESS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "lzma", "zstd")  # of TIFF
_LAID_ON_BLACK = {"LA": "L", "RGBA": "RGB", "P": "RGB", "L": "L", "1": "L", "RGB": "RGB"}  # what becomes of a mode
_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262  # of TIFF


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as it is in a file, whatever its size.

    Attributes:
        pixels: uint8 or uint16 [1, h, w], or uint8 [3, h, w].
        format: What the file is, one of `FORMATS`, whatever its name says.
        compression: How a TIFF is to be packed, without loss, as Pillow calls it; None of the other formats.
        content: What is in the file, where that was asked for.
    """

    pixels: np.ndarray
    format: str
    compression: str | None = None
    content: bytes = b""

    @property
    def white(self) -> int:
        """The largest value of a pixel, 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


def read_picture(path: str | Path, *, keep_content: bool = False) -> Picture:
    """Reads one still image, upright, transparent parts laid on black.

    Raises:
        ValueError: If the file cannot be read, is too large, or is another kind of image.
    """
    try:
        check_regular(Path(path))
        with open(path, "rb") as file:
            picture = decode(file, path)
            file.seek(0)
            return replace(picture, content=file.read()) if keep_content else picture
    except OSError as error:
        refuse(path, error)


def decode(file: IO[bytes], name: str | Path) -> Picture:
    """Reads an open image file, which errors call `name`; see `read_picture`."""
    with _opened(file, name) as image:
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        return Picture(_pixels(image), kind, _compression(image) if kind == "TIFF" else None)


def measure(path: str | Path) -> tuple[int, int]:
    """Returns how many channels and how many bytes the pixels of an image have, from its header alone.

    Raises:
        ValueError: As `read_picture` does, as far as the header tells.
    """
    try:
        check_regular(Path(path))
        with open(path, "rb") as file, _opened(file, path) as image:
            channels = 1 if _is_deep(image) or _LAID_ON_BLACK[image.mode] == "L" else 3
            return channels, image.width * image.height * (2 if _is_deep(image) else channels)
    except OSError as error:
        refuse(path, error)


class _OtherKindError(Exception):
    """An image of a kind that is not read here."""


@contextmanager
def _opened(file: IO[bytes], name: str | Path) -> Iterator[Image.Image]:
    """Opens an image of a kind that is read here, not decoded yet; names the file in the error of what goes wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities in files that it reads all the same
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(file, formats=FORMATS)
            if problem := _problem_of(image):
                raise _OtherKindError(problem)
            yield image
    except _OtherKindError as error:
        expected = "expected a still image, 8-bit or 16-bit grey or 8-bit colour"
        raise ValueError(f"{name}: {expected}, got {error}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name}: cannot be read: not an image, or damaged at its start") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        refuse(name, error)


def _is_deep(image: Image.Image) -> bool:
    """Whether an image is 16-bit grey, which Pillow 10 gives as 32-bit from PNG."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _problem_of(image: Image.Image) -> str:
    """What is wrong with the kind of an image that is open and not decoded yet."""
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a JPEG with previews
    if frames > 1:
        return f"{frames} frames"
    if _is_deep(image):
        return ""
    if image.mode not in _LAID_ON_BLACK:
        return f"mode {image.mode}"
    stored = str(getattr(image, "tile", ""))
    if image.format in ("PNG", "TIFF") and ";16" in stored:  # of which Pillow would drop half the bits
        return "16-bit grey with transparency" if "LA;16" in stored else "16-bit colour"
    return ""


def _compression(image: Image.Image) -> str:
    """How a TIFF is packed; deflate in place of what loses (JPEG) or holds two levels alone (fax)."""
    found = str(image.info.get("compression", "raw"))
    return found if found in _LOSSLESS else "tiff_adobe_deflate"


def _pixels(image: Image.Image) -> np.ndarray:
    """Decodes an image: [c, h, w]."""
    white_is_zero = _is_deep(image) and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    clear = image.info.get("transparency")
    upright = ImageOps.exif_transpose(image)
    if _is_deep(image):
        array = np.array(upright, dtype=np.uint16)
        array[array == clear if isinstance(clear, int) else np.zeros_like(array, bool)] = 0
        return (65535 - array if white_is_zero else array)[None]
    mode = _LAID_ON_BLACK[upright.mode]
    if clear is not None or upright.mode in ("LA", "RGBA"):
        seen = upright.convert("RGBA")
        if seen.getchannel("A").getextrema() != (255, 255):
            upright = Image.alpha_composite(Image.new("RGBA", seen.size, "black"), seen).convert("RGB")
    array = np.array(upright.convert(mode))
    return array[None] if mode == "L" else np.ascontiguousarray(array.transpose(2, 0, 1))


def check_pixels(count: int, state: str) -> None:
    """Raises a `ValueError` if an image in this state has more pixels than one may have in a file."""
    if Image.MAX_IMAGE_PIXELS is not None and count > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{state} it has {count} pixels, more than {Image.MAX_IMAGE_PIXELS}")


def with_channels(picture: Picture, channels: int | None) -> Picture:
    """Returns the picture in grey (1) or colour (3), or as it is (None).

    Raises:
        ValueError: If 16-bit grey is to become colour, which cannot be written.
    """
    pixels = picture.pixels
    if channels is None or len(pixels) == channels:
        return picture
    if channels == 3:
        if pixels.dtype == np.uint16:
            raise ValueError("expected 8-bit, as in colour 16-bit cannot be written, got 16-bit grey")
        return replace(picture, pixels=np.repeat(pixels, 3, axis=0))
    grey = np.array(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).convert("L"))  # ITU-R 601
    return replace(picture, pixels=grey[None])


def is_grey(picture: Picture) -> bool:
    """Whether a picture is grey, be it in the colours' way of WebP, which knows no other, and rounds them."""
    off = 2 if picture.format in _KEEPING else 0  # levels by which grey comes back from a format that loses
    return bool((np.ptp(picture.pixels, axis=0) <= off).all())


def top_left(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns where the corner of an image lies that is padded to `size` in height and width."""
    return (size - height) // 2, (size - width) // 2


def encode(picture: Picture) -> bytes:
    """Returns a picture as the content of a file of its format; JPEG loses a little, the others nothing."""
    buffer, pixels = io.BytesIO(), picture.pixels
    array = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(array))
    packed = {"compression": picture.compression} if picture.compression not in (None, "raw") else {}
    image.save(buffer, picture.format, **_KEEPING.get(picture.format, {}), **packed)
    return buffer.getvalue()


class Listing(NamedTuple):
    """What is in a folder and its subfolders; names are paths within the folder, with `/`."""

    names: list[str]
    """Of the images, in their order."""
    refused: dict[str, str]
    """Of links that are not followed, with the reason."""
    others: dict[str, int]
    """How many files have no image's name, by suffix in small letters, the most frequent first."""

    def require(self, folder: str | Path) -> None:
        """Raises a `ValueError` if there is no image, and no link to one that is not followed."""
        if not self.names and not self.refused:
            got = f"a folder with none, but {self.others_in_words()}" if self.others else "a folder with none"
            raise ValueError(f"{folder}: expected images ({' '.join(IMAGE_SUFFIXES)}), got {got}")

    def others_in_words(self) -> str:
        """How many other files there are, and the most frequent suffixes."""
        told = [f"{suffix or 'without a suffix'} {count}" for suffix, count in self.others.items()]
        more = ", ..." if len(told) > _TOLD else ""
        return f"{sum(self.others.values())} other file(s) ({', '.join(told[:_TOLD])}{more})"


def list_images(folder: str | Path) -> Listing:
    """Lists the images in a folder and its subfolders.

    Hidden files and folders are passed over, and so is what has no image's name. Links are followed if they are to
    files within the folder.

    Raises:
        ValueError: If a folder cannot be read.
    """
    folder = Path(folder)
    root, names, refused = os.path.realpath(folder), list[str](), dict[str, str]()
    others = Counter[str]()
    walk = os.walk(folder, onerror=lambda error: refuse(getattr(error, "filename", None) or folder, error))
    for at, below, found in walk:
        below[:] = [name for name in below if not name.startswith(".")]
        within = Path(at).relative_to(folder).as_posix()
        prefix = "" if within == "." else f"{within}/"
        for name in below:
            if os.path.islink(os.path.join(at, name)):
                refused[prefix + name] = "it is a link to a folder, which is not followed"
        for name in found:
            if name.startswith("."):
                continue
            if not name.lower().endswith(IMAGE_SUFFIXES):
                others[os.path.splitext(name)[1].lower()] += 1
                continue
            path = os.path.join(at, name)
            if os.path.islink(path) and not os.path.realpath(path).startswith(root + os.sep):
                refused[prefix + name] = "it is a link out of the folder, which is not followed"
            else:
                names.append(prefix + name)
    return Listing(sorted(names), refused, dict(sorted(others.items(), key=lambda item: (-item[1], item[0]))))


def is_image_file(path: str | Path) -> bool:
    """Whether a path has the name of an image and is no folder."""
    return str(path).lower().endswith(IMAGE_SUFFIXES) and not Path(path).is_dir()


def find_images(folder: str | Path) -> list[Path]:
    """Returns the images in a folder and its subfolders, in the order of their names.

    Raises:
        ValueError: If a folder cannot be read, there is no image, or there are links that are not followed.
    """
    listing = list_images(folder)
    listing.require(folder)
    for name, reason in listing.refused.items():
        raise ValueError(f"{Path(folder, name)}: {reason}: copy what it leads to")
    return [Path(folder, name) for name in listing.names]

"""One image file: its pixels come back upright and opaque, are written again in kind, and other kinds are refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from licm.pictures import FORMATS, Picture, encode, find_images, is_grey, list_images, read_picture, with_channels
from licm.sources import load_image_folder

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (6, 5, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 5), np.uint16)
TURN = Image.Exif()
TURN[0x0112] = 6  # orientation: to be turned by 90 degrees clockwise


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def tiff16(path: Path, samples: np.ndarray, *, photometric: int) -> Path:
    """A plain TIFF of 16-bit samples [h, w, c], which Pillow itself does not write."""
    height, width, channels = samples.shape
    depth_at, data_at = 8 + 2 + 9 * 12 + 4, 8 + 2 + 9 * 12 + 4 + 2 * channels
    depth = (16, 0) if channels == 1 else (depth_at, 0)
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, depth[0]), (259, 3, 1, 1)]
    entries += [(262, 3, 1, photometric), (273, 4, 1, data_at), (277, 3, 1, channels), (278, 3, 1, height)]
    entries += [(279, 4, 1, samples.nbytes)]
    content = b"II*\0\x08\0\0\0" + len(entries).to_bytes(2, "little")
    for tag, kind, count, value in entries:
        content += b"".join(n.to_bytes(size, "little") for n, size in ((tag, 2), (kind, 2), (count, 4), (value, 4)))
    content += bytes(4) + (16).to_bytes(2, "little") * channels + samples.astype("<u2").tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("kind", "array"), [*((k, a) for k in FORMATS for a in (GREY, COLOUR)), ("PNG", DEEP), ("TIFF", DEEP)]
)
def test_what_is_written_is_read_again(kind, array, tmp_path):
    smooth = array // 8 + array.dtype.type(100)  # JPEG blurs
    pixels = smooth[None] if array.ndim == 2 else smooth.transpose(2, 0, 1)
    (tmp_path / "image").write_bytes(encode(Picture(pixels, kind)))
    got = read_picture(tmp_path / "image")
    assert (got.format, got.pixels.dtype, got.white) == (kind, pixels.dtype, np.iinfo(pixels.dtype).max)
    assert np.abs(got.pixels.astype(int) - pixels).max() <= (16 if kind == "JPEG" else 0)
    assert len(got.pixels) == (3 if kind == "WEBP" else len(pixels))
    assert is_grey(got) == (array is not COLOUR)


@pytest.mark.parametrize("array", [GREY, COLOUR, DEEP])
@pytest.mark.parametrize("packed", [None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "lzma", "zstd"])
def test_a_tiff_stays_packed_as_it_was(array, packed, tmp_path):
    if packed in ("lzma", "zstd") and not features.check("libtiff"):
        pytest.skip("Pillow comes without libtiff here")
    picture = read_picture(save(tmp_path / "a.tif", np.tile(array, (20, 20, 1)[: array.ndim]), compression=packed))
    (tmp_path / "b.tif").write_bytes(encode(picture))
    again = read_picture(tmp_path / "b.tif")
    assert again.compression == picture.compression == (packed or "raw")
    assert np.array_equal(again.pixels, picture.pixels)


@pytest.mark.parametrize(("mode", "packed"), [("L", "jpeg"), ("1", "group4")])
def test_a_tiff_packed_with_loss_or_for_two_levels_is_deflated(mode, packed, tmp_path):
    Image.fromarray(np.zeros((64, 64), np.uint8)).convert(mode).save(tmp_path / "a.tif", compression=packed)
    picture = read_picture(tmp_path / "a.tif")
    assert picture.compression == with_channels(picture, 3).compression == "tiff_adobe_deflate"
    assert len(encode(picture)) < 64 * 64


@pytest.mark.parametrize(
    ("name", "array"), [("a.png", GREY), ("a.jpg", GREY // 8), ("a.tif", DEEP), ("a.webp", COLOUR)]
)
def test_photographs_are_turned_upright(name, array, tmp_path):
    closely = {"lossless": True} if name == "a.webp" else {"quality": 100} if name == "a.jpg" else {}
    got = read_picture(save(tmp_path / name, array, exif=TURN, **closely)).pixels
    got = got[0] if array.ndim == 2 else got.transpose(1, 2, 0)
    assert np.abs(got.astype(int) - np.rot90(array, -1)).max() <= (3 if name == "a.jpg" else 0)


def test_sixteen_bits_of_a_tiff_in_either_order_and_either_sense(tmp_path):
    Image.frombytes("I;16B", (5, 6), DEEP.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    assert np.array_equal(read_picture(tmp_path / "big.tif").pixels[0], DEEP)
    white_is_zero = tiff16(tmp_path / "white.tif", DEEP[..., None], photometric=0)
    assert np.array_equal(read_picture(white_is_zero).pixels[0], 65535 - DEEP)


def test_what_is_transparent_is_laid_on_black(tmp_path):
    alpha = RNG.integers(0, 256, (6, 5), np.uint8)
    alpha[0], alpha[1] = 0, 255
    save(tmp_path / "a.png", np.dstack([COLOUR, alpha]))
    save(tmp_path / "b.png", np.dstack([GREY, alpha]))
    for name, array in (("a.png", COLOUR.transpose(2, 0, 1)), ("b.png", GREY[None])):
        got = read_picture(tmp_path / name).pixels
        assert got.shape == array.shape
        assert np.abs(got - array * (alpha / 255)).max() <= 1
    whole = np.full((6, 5), 255, np.uint8)
    assert np.array_equal(read_picture(save(tmp_path / "c.png", np.dstack([GREY, whole]))).pixels[0], GREY)
    flat = Image.fromarray(np.repeat([[3], [9]], 4, axis=1).astype(np.uint8))
    flat.save(tmp_path / "d.png", transparency=9)
    Image.fromarray(DEEP).save(tmp_path / "e.png", transparency=int(DEEP[2, 2]))
    palette = flat.convert("P")
    palette.putpalette([0, 0, 0] * 3 + [7, 8, 200] * 7)
    palette.save(tmp_path / "f.png", transparency=3)
    assert read_picture(tmp_path / "d.png").pixels[0].tolist() == [[3] * 4, [0] * 4]
    assert np.array_equal(read_picture(tmp_path / "e.png").pixels[0], np.where(DEEP[2, 2] == DEEP, 0, DEEP))
    assert read_picture(tmp_path / "f.png").pixels[:, :, 0].tolist() == [[0, 7], [0, 8], [0, 200]]


def test_channels(tmp_path):
    grey, colour = Picture(GREY[None], "PNG"), Picture(COLOUR.transpose(2, 0, 1), "PNG")
    assert with_channels(grey, None) is with_channels(grey, 1) is grey
    assert np.array_equal(with_channels(grey, 3).pixels, np.stack([GREY] * 3))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(with_channels(colour, 1).pixels[0] - luma).max() <= 1
    with pytest.raises(ValueError, match="expected 8-bit, as in colour 16-bit cannot be written, got 16-bit grey"):
        with_channels(Picture(DEEP[None], "PNG"), 3)


def deep_colour_png() -> bytes:
    """16-bit colour as PNG: the header of an 8-bit one with another depth; its rows are twice as long."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(5 * 6) for _ in range(6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (Image.fromarray(GREY.astype(np.float32)), "mode F"),
        (Image.fromarray(GREY.astype(np.int32)), "mode I"),
        (Image.fromarray(COLOUR).convert("CMYK"), "mode CMYK"),
    ],
)
def test_other_modes_are_refused(image, got, tmp_path):
    image.save(tmp_path / "bad.tif")
    kinds = "a still image, 8-bit or 16-bit grey or 8-bit colour"
    with pytest.raises(ValueError, match=rf"bad.tif: expected {kinds}, got {got}$"):
        read_picture(tmp_path / "bad.tif")


def test_sixteen_bit_colour_is_refused_where_pillow_would_drop_half_of_it(tmp_path):
    (tmp_path / "deep.png").write_bytes(deep_colour_png())
    tiff16(tmp_path / "deep.tif", np.zeros((6, 5, 3)), photometric=2)
    for name in ("deep.png", "deep.tif"):
        with Image.open(tmp_path / name) as image:
            assert image.mode == "RGB"
        with pytest.raises(ValueError, match=rf"{name}: expected .* or 8-bit colour, got 16-bit colour"):
            read_picture(tmp_path / name)


def test_several_frames_are_refused(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "bad.tif", save_all=True, append_images=[Image.fromarray(GREY)])
    with pytest.raises(ValueError, match=r"bad.tif: expected a still image, .*, got 2 frames"):
        read_picture(tmp_path / "bad.tif")


def test_a_picture_made_to_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
    with pytest.raises(ValueError, match=r"bomb.png: cannot be read: damaged, or .*decompression bomb"):
        read_picture(save(tmp_path / "bomb.png", GREY))
    monkeypatch.undo()
    assert Image.MAX_IMAGE_PIXELS == 89478485, "docs/command-line.md says 89 million"


def test_sixteen_bits_are_rounded_to_eight_in_a_set_of_images(tmp_path):
    save(tmp_path / "a.png", DEEP)
    assert np.abs(load_image_folder(tmp_path).images[0, 0].numpy() / 255 - DEEP / 65535).max() <= 0.5 / 255 + 1e-9


# Folders


def test_odd_names_and_what_is_passed_over(tmp_path):
    odd = ["-q.png", "a\nb.png", "ä ö.PNG", "%s.png", "sub.png/x.webp", f"{'n' * 250}.png", os.fsdecode(b"\xff.png")]
    for name in [*odd, ".hidden.png", ".thumbnails/a.png", "sub.png/.cache/b.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == (sorted(odd), {}, {})
    assert find_images(tmp_path) == [tmp_path / name for name in sorted(odd)]


def test_files_without_an_image_s_name_are_counted_by_suffix(tmp_path):
    for name in ["a.gif", "b/c.GIF", "b/notes.txt", "README", ".hidden.txt", ".git/config.txt", "d.jfif", "e.JPE"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = list_images(tmp_path)
    assert listing == (["d.jfif", "e.JPE"], {}, {".gif": 2, "": 1, ".txt": 1})
    assert list(listing.others) == [".gif", "", ".txt"]


def test_links_are_followed_to_files_within_the_folder_only(tmp_path):
    outside, inside = save(tmp_path / "secret" / "a.png", GREY), save(tmp_path / "in" / "real.png", GREY)
    (tmp_path / "in" / "near.png").symlink_to(inside)
    assert list_images(tmp_path / "in") == (["near.png", "real.png"], {}, {})
    (tmp_path / "again").symlink_to(tmp_path / "in")
    assert list_images(tmp_path / "again") == (["near.png", "real.png"], {}, {})
    (tmp_path / "in" / "far.png").symlink_to(outside)
    (tmp_path / "in" / "folder").symlink_to(outside.parent)
    names, refused, _ = list_images(tmp_path / "in")
    assert names == ["near.png", "real.png"]
    assert refused == {
        "folder": "it is a link to a folder, which is not followed",
        "far.png": "it is a link out of the folder, which is not followed",
    }
    (tmp_path / "in" / "folder").unlink()
    with pytest.raises(
        ValueError, match=r"far.png: it is a link out of the folder, which is not followed: copy what it"
    ):
        load_image_folder(tmp_path / "in")

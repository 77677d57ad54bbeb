"""Loaders fed with anything: a valid result or a `ValueError` that names the file, never a hang or a full memory."""

import contextlib
import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from licm import checkpoint, reading
from licm.sources import ImageSet, load_idx_folder, load_image_folder, load_images, load_npz, load_omniglot
from tests.test_sources import drawing, loads_or_names_the_file, omniglot_zip, pack_idx

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (7, 6, 3), np.uint8)


def as_npz(compressed: bool, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)  # type: ignore[operator]
    return buffer.getvalue()


def as_image(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, kind, **options)
    return buffer.getvalue()


IDX = pack_idx(PICTURE[..., 0][None])
ARRAYS = {"images": PICTURE[None, ..., 0], "labels": np.array([3])}
SEEDS: dict[str, list[bytes]] = {
    "idx": [IDX, gzip.compress(IDX)],
    "npz": [as_npz(False, **ARRAYS), as_npz(True, **ARRAYS), as_npz(True, images=PICTURE[None, ..., 0] / 255)],
    "png": [as_image("PNG"), as_image("JPEG"), as_image("BMP"), as_image("TIFF", compression="tiff_lzw")],
    "zip": [omniglot_zip({"A/c/1": drawing()})],
}


def load_folder_of_one(path: Path) -> ImageSet:
    folder = path.parent / "one"
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    return load_image_folder(folder)


LOADERS: dict[str, Callable[[Path], object]] = {
    "idx": load_images,
    "npz": load_npz,
    "png": load_folder_of_one,
    "zip": load_omniglot,
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A valid file after a few cuts, changed bytes, swapped numbers and insertions; or anything at all."""
    content = bytearray(draw(st.sampled_from([*seeds, b""])))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["byte", "number", "cut", "insert", "repeat"]))
        if kind == "byte":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "number":  # sizes and offsets lie in files as such
            value = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000]))
            content[place : place + 4] = struct.pack(draw(st.sampled_from(["<I", ">I"])), value)
        elif kind == "cut":
            del content[place:]
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=20))
        else:
            content += content[place:]
    return bytes(content)


@pytest.mark.parametrize("kind", SEEDS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_loaded_or_named(kind: str, scratch: Path, data: st.DataObject) -> None:
    path = scratch / f"fuzz.{kind}"
    path.write_bytes(data.draw(damaged(SEEDS[kind])))
    loads_or_names_the_file(LOADERS[kind], path, path.name)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_idx_folders(scratch: Path, data: st.DataObject) -> None:
    folder = scratch / "idx-folder"
    folder.mkdir(exist_ok=True)
    labels = pack_idx(np.array([3], np.uint8))
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (folder / name).write_bytes(data.draw(damaged([IDX])))
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        (folder / name).write_bytes(data.draw(st.sampled_from([labels, labels[:-1], IDX])))
    loads_or_names_the_file(load_idx_folder, folder, "")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_checkpoints(scratch: Path, data: st.DataObject) -> None:
    folder = scratch / "run"
    folder.mkdir(exist_ok=True)
    whole = save({"a": torch.arange(6.0)}, metadata={"state": '{"step": 1}'})
    (folder / checkpoint.CHECKPOINT).write_bytes(data.draw(damaged([whole])))
    with contextlib.suppress(ValueError):
        checkpoint.load_checkpoint(folder)


# Files made to fill the memory


def peak_of(load: Callable[[], object], match: str) -> int:
    """The most bytes that a refusal held at a time."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match):
            load()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def npy_that_states(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)


def zip_of(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", ["(100000, 1000, 1000)", "(2147483647, 2147483647, 2147483647, 9)", "(-1, 28, 28)"])
def test_an_array_that_states_more_than_there_is(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(zip_of("images.npy", npy_that_states(shape)))
    assert peak_of(lambda: load_npz(path), "bomb.npz: images.npy: cannot be read: .*its header states") < 4 << 20


def test_an_idx_file_that_states_more_than_there_is(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(100))
    assert peak_of(lambda: load_images(tmp_path / "bomb"), "bomb: damaged: its header states .* got 100") < 4 << 20


def test_packed_files_that_grow_beyond_all_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ROOM", 1 << 20)
    black = bytes(20 << 20)  # packs to a thousandth
    (tmp_path / "bomb").write_bytes(gzip.compress(black))
    (tmp_path / "bomb.npz").write_bytes(zip_of("images.npy", black))
    (tmp_path / "bomb.zip").write_bytes(zip_of("a/b/c.png", black))
    for name, load in {"bomb": load_images, "bomb.npz": load_npz, "bomb.zip": load_omniglot}.items():
        assert peak_of(lambda: load(tmp_path / name), "unpacks to more than") < 10 << 20  # noqa: B023


def test_a_picture_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert peak_of(lambda: load_image_folder(tmp_path), "bomb.png: cannot be read: .*decompression bomb") < 4 << 20


def test_ways_of_packing_that_are_not_read_here(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(zip_of("images.npy", bytes(100), zipfile.ZIP_LZMA))
    with pytest.raises(ValueError, match=r"images.npy: cannot be read: .*packed neither as stored nor as deflated"):
        load_npz(tmp_path / "a.npz")


def test_only_pictures_of_the_stated_kinds_are_tried(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # Pillow would run a program
    with pytest.raises(ValueError, match=r"a.png: cannot be read: not an image, or damaged at its start"):
        load_image_folder(tmp_path)

"""Sources: known contents come back, what is damaged is refused by name, and downloads are verified."""

import gzip
import hashlib
import importlib.util
import io
import os
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from licm import downloads, pictures, sources
from licm.sources import (
    EMBEDDED_FILE,
    EMBEDDED_SHA256,
    IDX_FILES,
    OMNIGLOT_FILE,
    ImageSet,
    checksum_arrays,
    load_embedded,
    load_idx_folder,
    load_image_folder,
    load_images,
    load_mnist,
    load_npz,
    load_omniglot,
    read_idx,
)

RNG = np.random.default_rng(0)
SCRIPT = Path(__file__).parents[1] / "scripts" / "embed_mnist.py"
DATA = os.environ.get("LICM_DATA_DIR")


def has_data(name: str) -> bool:
    return bool(DATA) and any(Path(DATA, place).is_dir() for place in downloads.FOLDERS[name][:2])


needs_mnist = pytest.mark.skipif(not has_data("mnist"), reason="LICM_DATA_DIR has no MNIST")
needs_omniglot = pytest.mark.skipif(not has_data("omniglot"), reason="LICM_DATA_DIR has no Omniglot")
needs_fashion = pytest.mark.skipif(
    not Path(downloads.FOLDERS["fashion-mnist"][-1]).is_dir(), reason="dataset-fashion-mnist not installed"
)


def pack_idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    return RNG.integers(0, 256, (count, 5, 4), np.uint8), RNG.integers(0, 10, count, np.uint8)


@pytest.fixture
def idx_contents() -> dict[str, bytes]:
    """The four files of a small data set in MNIST's form, unpacked."""
    return dict(zip(IDX_FILES, map(pack_idx, (*digits(7), *digits(3)))))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def loads_or_names_the_file(load: Callable[[Path], object], path: Path, named: str) -> None:
    """Checks that `load` gives a result or a ValueError that names the file, and nothing else."""
    try:
        load(path)
    except ValueError as error:
        message = str(error)
    else:
        return
    assert f"{named}: " in message
    assert "\n" not in message


# ImageSet


def test_image_set_selects_in_the_order_asked() -> None:
    images = ImageSet(torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1), torch.tensor([5, 6, 7, 8]), ("a",))
    chosen = images.select([2, 0])
    assert chosen.images.flatten().tolist() == [2, 0]
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [7, 5]
    assert (len(images), len(chosen), chosen.label_names) == (4, 2, ("a",))
    assert images.select(torch.tensor([True, False, False, True])).images.flatten().tolist() == [0, 3]
    assert len(images.select([])) == 0


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 3, 3), None, r"images: expected uint8 \[n, c, h, w\], got torch.float32"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), None, r"images: expected .*got torch.uint8 \[2, 3, 3\]"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3).long(), r"labels: expected int64 \[2\], got"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2), r"labels: expected int64.*got torch.float32"),
    ],
)
def test_image_set_refuses(images: torch.Tensor, labels: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels)


# The embedded subset


def test_embedded_file_is_the_one_made_by_the_script() -> None:
    with np.load(EMBEDDED_FILE) as file:
        arrays = dict(file)
    assert checksum_arrays(arrays) == EMBEDDED_SHA256
    indices = {part: arrays[f"{part}_indices"] for part in sources.EMBEDDED_PARTS}
    originals = np.concatenate([indices[part] for part in ("canonical", "to_transform", "validation")])
    assert len(np.unique(originals)) == len(originals) == 21_000  # disjoint
    assert originals.max() < 60_000
    assert len(np.unique(indices["test"])) == 2_000
    assert indices["test"].max() < 10_000
    assert EMBEDDED_FILE.stat().st_size < 5e6


def test_load_embedded() -> None:
    parts = load_embedded()
    assert {name: len(part) for name, part in parts.items()} == {
        "canonical": 10_000,
        "to_transform": 10_000,
        "validation": 1_000,
        "test": 2_000,
    }
    for part in parts.values():
        assert part.images.shape[1:] == (1, 28, 28)
        assert part.labels is not None
        # 1,000 draws of each digit's share (at least 9.04 %, MNIST's 5) lie above 5 % by 4 standard deviations.
        assert part.labels.bincount(minlength=10).min() > 0.05 * len(part)


def test_damaged_embedded_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "other.npz", canonical_images=np.zeros(3))
    monkeypatch.setattr(sources, "EMBEDDED_FILE", tmp_path / "other.npz")
    with pytest.raises(ValueError, match=rf"other.npz: expected arrays with sha256 {EMBEDDED_SHA256}, got "):
        load_embedded()


def test_checksum_depends_on_names_shapes_and_values_but_not_on_order() -> None:
    a, b = np.arange(6), np.ones(2)
    assert checksum_arrays({"a": a, "b": b}) == checksum_arrays({"b": b, "a": a})
    others = [{"a": b, "b": a}, {"a": a.reshape(2, 3), "b": b}, {"a": a + 1, "b": b}]
    assert checksum_arrays({"a": a, "b": b}) not in [checksum_arrays(other) for other in others]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("embed_mnist", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_mnist
def test_script_rebuilds_the_embedded_file(script: ModuleType) -> None:
    assert DATA is not None
    arrays = script.build_arrays(DATA)
    assert checksum_arrays(arrays) == EMBEDDED_SHA256
    train, test = load_mnist()
    for part, source in zip(sources.EMBEDDED_PARTS, (train, train, train, test)):
        original = source.select(arrays[f"{part}_indices"].astype(np.int64))
        assert np.array_equal(original.images[:, 0], arrays[f"{part}_images"])
        assert np.array_equal(original.labels, arrays[f"{part}_labels"])


def test_script_refuses_other_files_in_one_line(
    script: ModuleType,
    idx_contents: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, content in idx_contents.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr("sys.argv", ["embed_mnist.py", str(tmp_path), "--out", str(tmp_path / "out.npz")])
    assert script.main() == 1
    error = capsys.readouterr().err
    assert "train-images-idx3-ubyte: expected unpacked content with sha256 ba89" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


# IDX files


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("packed", [False, True])
def test_read_idx_gives_back_what_was_written(shape: tuple[int, ...], packed: bool, tmp_path: Path) -> None:
    array = RNG.integers(0, 256, shape, np.uint8)
    content = pack_idx(array)
    (tmp_path / "a").write_bytes(gzip.compress(content) if packed else content)
    assert np.array_equal(read_idx(tmp_path / "a"), array)


GOOD_IDX = pack_idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
PACKED_IDX = gzip.compress(GOOD_IDX, mtime=0)  # without the time: names of tests have to be the same in each process


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file of bytes: expected it to begin with 000008, got nothing"),
        (b"\0\0\x0d\x03" + GOOD_IDX[4:], "not an IDX file of bytes: expected it to begin with 000008, got 00000d03"),
        (b"\0\0\x08\x00", "not an IDX file of bytes: .* got 00000800"),
        (GOOD_IDX[:10], "not an IDX file of bytes: .* got 00000803000000020000$"),
        (GOOD_IDX[:-1], r"damaged: its header states sizes \[2, 3, 4\], so 24 bytes, got 23"),
        (GOOD_IDX + b"x", r"damaged: its header states sizes \[2, 3, 4\], so 24 bytes, got 25"),
        (
            pack_idx(np.zeros((0, 2**20), np.uint8)),
            r"damaged: its header states sizes \[0, 1048576\], so 0 bytes, got 0",
        ),
        (pack_idx(np.zeros((1,) * 40, np.uint8)), "expected 1 to 4 sizes in its header, got 40"),
        (PACKED_IDX[:-12], "cannot be read: damaged, .*Compressed file ended"),
        (PACKED_IDX[:-8] + bytes(8), "cannot be read: damaged, .*CRC check failed"),
    ],
)
def test_read_idx_refuses(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match=f"bad: {message}"):
        read_idx(tmp_path / "bad")


def test_read_idx_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent: cannot be read: no such file or directory"):
        read_idx(tmp_path / "absent")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\0\0\x08", GOOD_IDX[:16], b"\x1f\x8b", b"\x1f\x8b\x08\0"]))
def test_read_idx_gives_an_array_or_value_error(scratch: Path, tail: bytes, start: bytes) -> None:
    (scratch / "fuzz").write_bytes(start + tail)
    loads_or_names_the_file(read_idx, scratch / "fuzz", "fuzz")


@pytest.mark.parametrize("place", [".", "raw", "mnist", "MNIST/raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_load_idx_folder(place: str, suffix: str, idx_contents: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name, content in idx_contents.items():
        (tmp_path / place / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    train, test = load_idx_folder(tmp_path)
    assert (train.images.shape, test.images.shape) == ((7, 1, 5, 4), (3, 1, 5, 4))
    assert train.images.numpy().tobytes() == idx_contents[IDX_FILES[0]][16:]
    assert train.labels is not None
    assert bytes(train.labels.tolist()) == idx_contents[IDX_FILES[1]][8:]
    hashes = {name: sha256(content) for name, content in idx_contents.items()}
    assert len(load_idx_folder(tmp_path, sha256=hashes)[1]) == 3
    with pytest.raises(ValueError, match=r"t10k-labels.*expected unpacked content with sha256 0, got "):
        load_idx_folder(tmp_path, sha256=hashes | {IDX_FILES[3]: "0"})


def test_load_idx_folder_refuses(idx_contents: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in list(idx_contents.items())[:3]:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"expected train-images.*t10k-labels.*plain or .gz; not all are there"):
        load_idx_folder(tmp_path)
    (tmp_path / IDX_FILES[3]).write_bytes(pack_idx(np.zeros(2, np.uint8)))
    with pytest.raises(ValueError, match=r"labels: expected int64 \[3\], got torch.int64 \[2\]"):
        load_idx_folder(tmp_path)
    with pytest.raises(ValueError, match="no-such-folder: expected train-images"):
        load_idx_folder(tmp_path / "no-such-folder")


# Known data sets: existing copies and downloads


class Mirror:
    """A local server: `files` by path, `requests` as they came."""

    def __init__(self) -> None:
        files: dict[str, bytes] = {}
        requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                content = files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *arguments: object) -> None:
                pass

        self.files, self.requests = files, requests
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    mirror = Mirror()
    thread = threading.Thread(target=mirror.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with no existing copy in reach and no proxy in between."""
    monkeypatch.delenv("LICM_DATA_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(downloads.FOLDERS, "fashion-mnist", ("fashion-mnist",))
    monkeypatch.setattr(downloads.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "licm"


@pytest.fixture
def small_mnist(
    idx_contents: dict[str, bytes], mirror: Mirror, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """Small files stand for MNIST's; the first mirror has nothing, the second has them all."""
    hashes = {name: sha256(content) for name, content in idx_contents.items()}
    for name in ("mnist", "fashion-mnist"):
        monkeypatch.setitem(downloads.SHA256, name, hashes)
        monkeypatch.setitem(downloads.MIRRORS, name, (f"{mirror.url}/empty/", f"{mirror.url}/full/"))
    mirror.files.update({f"/full/{name}.gz": gzip.compress(content) for name, content in idx_contents.items()})
    return idx_contents


def cached_files(cache: Path) -> list[str]:
    return sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_download_falls_to_the_second_mirror_and_is_then_cached(
    name: str, small_mnist: dict[str, bytes], mirror: Mirror, cache: Path
) -> None:
    train, test = load_mnist(name)
    assert (len(train), len(test)) == (7, 3)
    assert train.images.numpy().tobytes() == small_mnist[IDX_FILES[0]][16:]
    assert mirror.requests[:2] == [f"/empty/{IDX_FILES[0]}.gz", f"/full/{IDX_FILES[0]}.gz"]
    assert cached_files(cache) == sorted(f"{name}/{file}.gz" for file in IDX_FILES)
    mirror.requests.clear()
    again, _ = load_mnist(name)
    assert again.images.equal(train.images)
    assert mirror.requests == []


@pytest.mark.parametrize("damage", ["other", "truncated", "not gzip"])
def test_wrong_download_is_refused_and_not_cached(
    damage: str, small_mnist: dict[str, bytes], mirror: Mirror, cache: Path
) -> None:
    path = f"/full/{IDX_FILES[1]}.gz"
    good = mirror.files[path]
    mirror.files[path] = {
        "other": gzip.compress(small_mnist[IDX_FILES[3]]),
        "truncated": good[:-5],
        "not gzip": b"<html>Log in to use this network</html>",
    }[damage]
    pattern = rf"mnist: no mirror gave {IDX_FILES[1]}; LICM_DATA_DIR can name .*HTTPError.*\(wrong content\)$"
    with pytest.raises(ConnectionError, match=pattern) as caught:
        load_mnist()
    assert "\n" not in str(caught.value)
    assert cached_files(cache) == [f"mnist/{IDX_FILES[0]}.gz"]
    mirror.files[path] = good
    assert len(load_mnist()[0]) == 7


def test_no_mirror_answers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]  # nobody listens there once this is closed
    monkeypatch.setitem(downloads.MIRRORS, "mnist", (f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}/b/"))
    with pytest.raises(ConnectionError, match=r"LICM_DATA_DIR can name.*ConnectionError.*ConnectionError"):
        load_mnist()


def test_damaged_cache_is_named(small_mnist: dict[str, bytes], cache: Path) -> None:
    load_mnist()
    (cache / "mnist" / f"{IDX_FILES[0]}.gz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"cache.*train-images.*expected unpacked content with sha256"):
        load_mnist()


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw", "."])
def test_existing_copy_comes_first(
    place: str, small_mnist: dict[str, bytes], mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LICM_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data" / place).mkdir(parents=True)
    for name, content in small_mnist.items():
        (tmp_path / "data" / place / name).write_bytes(content)
    assert len(load_mnist()[0]) == 7
    assert mirror.requests == []
    (tmp_path / "data" / place / IDX_FILES[2]).write_bytes(small_mnist[IDX_FILES[0]])
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte: expected unpacked content with sha256"):
        load_mnist()


def test_load_mnist_refuses_names_and_folders_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown data set 'fashion_mnist': did you mean 'fashion-mnist'"):
        load_mnist("fashion_mnist")
    monkeypatch.setenv("LICM_DATA_DIR", "no-such-folder")
    with pytest.raises(ValueError, match="LICM_DATA_DIR: expected an existing folder, got 'no-such-folder'"):
        load_mnist()


@needs_mnist
def test_official_mnist() -> None:
    train, test = load_mnist()
    assert (train.images.shape, test.images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert train.labels is not None
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@needs_fashion
def test_official_fashion_mnist() -> None:
    train, test = load_mnist("fashion-mnist")
    assert train.labels is not None
    assert train.labels.bincount().tolist() == [6_000] * 10
    assert len(test) == 10_000


# Omniglot


def omniglot_zip(drawings: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("set/", b"")
        for name, drawing in drawings.items():
            encoded = io.BytesIO()
            Image.fromarray(drawing).convert("1").save(encoded, "PNG")
            archive.writestr(f"set/{name}.png", encoded.getvalue())
    return buffer.getvalue()


def drawing() -> np.ndarray:
    return np.where(RNG.random((105, 105)) < 0.2, 0, 255).astype(np.uint8)


def test_load_omniglot_resizes_by_area(tmp_path: Path) -> None:
    drawings = {"Zulu/character01/1_1": drawing(), "Arc/character02/2_1": drawing(), "Zulu/character01/1_2": drawing()}
    (tmp_path / "small.zip").write_bytes(omniglot_zip(drawings))
    omniglot = load_omniglot(tmp_path / "small.zip")
    assert omniglot.images.shape == (3, 1, 28, 28)
    assert omniglot.label_names == ("Arc", "Zulu")
    assert omniglot.labels is not None
    assert omniglot.labels.tolist() == [0, 1, 1]
    for name, image in zip(sorted(drawings), omniglot.images[:, 0].numpy()):
        # Reference: repeat each pixel 20 times, then average blocks of 105, which is the exact area average.
        fine = np.kron(255.0 - drawings[name], np.ones((20, 20)))
        means = fine.reshape(20, 105, 20, 105).mean((1, 3))
        assert np.abs(image[4:24, 4:24] - means * 255 / means.max()).max() <= 0.5 + 1e-6  # rounding
        assert image.max() == 255
        assert image.sum() == image[4:24, 4:24].sum()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a zip", "bad.zip: cannot be read: damaged, .*File is not a zip file"),
        (omniglot_zip({}), r"bad.zip: expected .../alphabet/character/drawing.png in the zip, got none"),
        (omniglot_zip({"A/c/1": np.full((105, 105), 255, np.uint8)}), "A/c/1.png: expected 105x105 with ink, got"),
        (omniglot_zip({"A/c/1": np.zeros((20, 20), np.uint8)}), r"expected 105x105 with ink, got \(20, 20\)"),
        (omniglot_zip({"A/c/1": drawing()}).replace(b"IDAT", b"IDAx", 1), "bad.zip: set/A/c/1.png: cannot be read"),
    ],
)
def test_load_omniglot_refuses(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_omniglot(tmp_path / "bad.zip")


def test_omniglot_is_found_or_downloaded(
    mirror: Mirror, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = omniglot_zip({"Arc/character01/1_1": drawing()})
    monkeypatch.setitem(downloads.SHA256, "omniglot", {OMNIGLOT_FILE: sha256(content)})
    monkeypatch.setitem(downloads.MIRRORS, "omniglot", (f"{mirror.url}/",))
    mirror.files[f"/{OMNIGLOT_FILE}"] = content
    for _ in range(2):
        assert load_omniglot().label_names == ("Arc",)
    assert mirror.requests == [f"/{OMNIGLOT_FILE}"]
    assert cached_files(cache) == [f"omniglot/{OMNIGLOT_FILE}"]
    monkeypatch.setenv("LICM_DATA_DIR", str(tmp_path))
    (tmp_path / OMNIGLOT_FILE).write_bytes(content + b"more")
    with pytest.raises(ValueError, match=rf"{OMNIGLOT_FILE}: expected unpacked content with sha256"):
        load_omniglot()


@needs_omniglot
def test_official_omniglot() -> None:
    omniglot = load_omniglot()
    assert omniglot.label_names == ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")
    assert omniglot.labels is not None
    assert omniglot.labels.bincount().tolist() == [480, 440, 480, 800, 520]  # 20 drawings of each character


# Folders of images


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


GREY = RNG.integers(0, 256, (6, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (6, 5, 3), np.uint8)


def test_image_folder_is_recursive_and_sorted(tmp_path: Path) -> None:
    for i, name in enumerate(("b.png", "a/z.bmp", "a.TIF", "a/b/c.tiff")):
        save(tmp_path / name, GREY // 4 + i)
    save(tmp_path / ".hidden" / "x.png", GREY)
    (tmp_path / "notes.txt").write_text("not an image")
    images = load_image_folder(tmp_path)
    assert images.labels is None
    assert images.images.shape == (4, 1, 6, 5)
    order = ["a.TIF", "a/b/c.tiff", "a/z.bmp", "b.png"]
    assert [int(image[0, 0, 0]) - GREY[0, 0] // 4 for image in images.images] == [2, 3, 1, 0], order


def test_image_folder_channels(tmp_path: Path) -> None:
    save(tmp_path / "1.png", GREY)
    assert np.array_equal(load_image_folder(tmp_path).images[0, 0], GREY)
    assert np.array_equal(load_image_folder(tmp_path, channels=3).images[0], np.stack([GREY] * 3))
    save(tmp_path / "2.png", COLOUR)
    mixed = load_image_folder(str(tmp_path))
    assert np.array_equal(mixed.images[0], np.stack([GREY] * 3))
    assert np.array_equal(mixed.images[1], COLOUR.transpose(2, 0, 1))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(load_image_folder(tmp_path, channels=1).images[1, 0].numpy() - luma).max() <= 1
    with pytest.raises(ValueError, match="channels: expected 1, 3 or None, got 2"):
        load_image_folder(tmp_path, channels=2)


def test_image_folder_reads_each_kind(tmp_path: Path) -> None:
    flat = np.full((6, 5, 3), (200, 100, 50), np.uint8)  # flat, so that lossy kinds hold it closely
    for suffix in pictures.IMAGE_SUFFIXES:
        save(tmp_path / f"image{suffix}", flat)
    Image.fromarray(flat).quantize(4).save(tmp_path / "palette.png")
    Image.fromarray(flat).convert("RGBA").save(tmp_path / "opaque.png")
    images = load_image_folder(tmp_path).images.numpy()
    assert len(images) == len(pictures.IMAGE_SUFFIXES) + 2
    assert np.abs(images.astype(int) - flat.transpose(2, 0, 1)).max() <= 3
    Image.fromarray(GREY > 127).save(tmp_path / "two-level.png")
    assert load_image_folder(tmp_path).images.shape[1] == 3


def test_image_folder_refuses_different_sizes(tmp_path: Path) -> None:
    save(tmp_path / "1.png", GREY)
    save(tmp_path / "2.png", GREY[:, :4])
    with pytest.raises(ValueError, match=r"expected images of one size, got 5x6 in .*1.png and 4x6 in .*2.png"):
        load_image_folder(tmp_path)


def test_image_folder_refuses_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent: cannot be read: no such file or directory"):
        load_image_folder(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match=r"expected images \(.png .jpg .*\), got a folder with none"):
        load_image_folder(tmp_path)
    with pytest.raises(ValueError, match=r"notes.txt: cannot be read: not a directory"):
        load_image_folder(tmp_path / "notes.txt")


def test_image_folder_refuses_what_it_may_not_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)  # as root, file modes would not do
    with pytest.raises(ValueError, match="cannot be read: permission denied"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_image_folder_names_a_truncated_image(kind: str, kept: float, tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)).save(whole, kind)
    bad = tmp_path / f"bad.{kind.lower()}"
    bad.write_bytes(whole.getvalue()[: int(kept * len(whole.getvalue()))])
    with pytest.raises(ValueError, match=rf"{bad.name}: cannot be read: "):
        load_image_folder(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_image_folder_gives_images_or_value_error(scratch: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]))
    whole = io.BytesIO()
    Image.fromarray(COLOUR).save(whole, kind)
    content = bytearray(whole.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (scratch / "images").mkdir(exist_ok=True)
    (scratch / "images" / "fuzz.png").write_bytes(content)
    loads_or_names_the_file(load_image_folder, scratch / "images", "fuzz.png")


# .npz files


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 1, 5, 4), (3, 3, 5, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_load_npz(shape: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    expected = RNG.integers(0, 256, shape, np.uint8)
    images = expected if dtype is np.uint8 else (expected / 255).astype(dtype)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([4, 0, 2], np.int16))
    loaded = load_npz(tmp_path / "a.npz")
    assert np.array_equal(loaded.images, expected.reshape(3, -1, 5, 4))
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [4, 0, 2]
    np.savez_compressed(tmp_path / "b.npz", images=images)
    assert load_npz(str(tmp_path / "b.npz")).labels is None


IMAGES = np.zeros((2, 5, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, r"bad.npz: expected an array 'images', got \['pictures'\]"),
        ({"images": IMAGES[0]}, r"bad.npz: images: expected \[n, h, w\] or .* got \[5, 4\]"),
        ({"images": IMAGES[:0]}, r"not empty, got \[0, 5, 4\]"),
        ({"images": np.zeros((2, 5, 4, 3), np.uint8)}, r"\[n, 1 or 3, h, w\], not empty, got \[2, 5, 4, 3\]"),
        ({"images": IMAGES.astype(np.int64)}, "expected uint8 or floating-point, got int64"),
        ({"images": IMAGES.astype("U3")}, "expected uint8 or floating-point, got <U3"),
        ({"images": IMAGES + np.nan}, r"expected values in \[0, 1\], got NaN"),
        ({"images": IMAGES - 0.5}, r"expected values in \[0, 1\], got values from -0.5 to -0.5"),
        ({"images": IMAGES + 255.0}, r"expected values in \[0, 1\], got values from 255 to 255"),
        ({"images": IMAGES, "labels": np.zeros(3, int)}, r"expected 2 integer labels, got int64 \(3,\)"),
        ({"images": IMAGES, "labels": np.zeros(2)}, r"expected 2 integer labels, got float64 \(2,\)"),
        ({"images": np.array([None, {}])}, "bad.npz: images.npy: cannot be read: .*allow_pickle"),
    ],
)
def test_load_npz_refuses(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_npz(tmp_path / "bad.npz")


def npz_content(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=array)
    return buffer.getvalue()


def test_load_npz_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent.npz: cannot be read: no such file or directory"):
        load_npz(tmp_path / "absent.npz")
    (tmp_path / "cut.npz").write_bytes(npz_content(IMAGES)[:-30])
    with pytest.raises(ValueError, match=r"cut.npz: cannot be read: damaged, .*File is not a zip file"):
        load_npz(tmp_path / "cut.npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(ValueError, match=r"array.npz: cannot be read: damaged, or not of the kind expected"):
        load_npz(tmp_path / "array.npz")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_load_npz_gives_images_or_value_error(scratch: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([npz_content(IMAGES), npz_content(IMAGES / 2), b"PK\x03\x04"])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content += data.draw(st.binary(max_size=4))
    (scratch / "fuzz.npz").write_bytes(content)
    loads_or_names_the_file(load_npz, scratch / "fuzz.npz", "fuzz.npz")


# Whatever the path is


def test_load_images_tells_the_kinds_apart(tmp_path: Path) -> None:
    save(tmp_path / "folder" / "a.png", GREY)
    np.savez(tmp_path / "a.npz", images=GREY[None])
    (tmp_path / "plain").write_bytes(pack_idx(GREY[None]))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(pack_idx(GREY[None])))
    for name in ("folder", "a.npz", "plain", "packed.gz"):
        assert np.array_equal(load_images(tmp_path / name).images, GREY[None, None])
        assert len(load_images(str(tmp_path / name))) == 1


def test_load_images_refuses(tmp_path: Path) -> None:
    understood = "expected a folder of images, a .npz file or an IDX file of images, got another file"
    for name, content in {"labels": pack_idx(GREY[0]), "notes.txt": b"text", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: {understood}"):
            load_images(tmp_path / name)
    with pytest.raises(ValueError, match=f"one.png: {understood}"):
        load_images(save(tmp_path / "one.png", GREY))
    with pytest.raises(ValueError, match="absent: cannot be read: no such file or directory"):
        load_images(tmp_path / "absent")

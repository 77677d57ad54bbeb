"""The benchmark of photographs, on runs of a few steps."""

import json

import pytest
import torch
from benchmarks import photographs_page
from benchmarks.photographs import (
    MECHANISMS,
    PARTS,
    PICTURES,
    deal_regions,
    load_crops,
    make_photographs_config,
    measure,
    take_crops,
)

from licm.mechanisms import parse_mechanisms
from licm.reproduction.measuring import unpack
from tests.conftest import SMALL_RUN

SHAPE = {key: value for key, value in SMALL_RUN.items() if key not in ("num_experts", "mechanisms")}


@pytest.fixture(scope="module")
def record():
    return measure("seven", make_photographs_config(**SHAPE, seed=1), paired_steps=2)


def test_no_pixel_is_in_two_parts():
    """Of a photograph in which no two pixels are alike."""
    height, width = 400, 300
    photograph = torch.arange(height * width).view(1, height, width).expand(3, -1, -1)
    dealt = deal_regions(photograph, index=0)
    pixels = {part: set(regions[:, 0].flatten().tolist()) for part, regions in dealt.items()}
    assert sum(map(len, pixels.values())) == len(set().union(*pixels.values())) == 384 * 288
    assert set(pixels) == set(PARTS)
    assert min(map(len, pixels.values())) > 0


def test_crops_are_of_their_region_and_have_contrast():
    regions = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    regions[1] = 200  # nothing to see
    regions[2] //= 10
    crops = take_crops(regions, along=5, least_contrast=0.05)
    assert crops.shape == (50, 3, 32, 32)
    assert torch.equal(crops[1], regions[0, :, :32, 16:48])
    assert (crops[25].float() - regions[0, :, :2, :2].float().mean(dim=(1, 2))[:, None, None])[
        :, 0, 0
    ].abs().max() <= 0.5


@pytest.mark.parametrize(("of", "count"), [("retina", 1), ("seven", 7)])
def test_the_parts_hold_what_experts_need(of, count):
    crops = load_crops(PICTURES[of])
    assert {len(getattr(crops, part)) > 100 for part in PARTS} == {True}
    for part in PARTS:
        assert getattr(crops, part).labels.unique().tolist() == list(range(count)), "every photograph is in every part"


def test_of_the_retina_nothing_beyond_its_disc_is_seen():
    """Around the disc a fundus photograph is black."""
    crops = load_crops(PICTURES["retina"])
    assert min(int(getattr(crops, part).images[:, 0].min()) for part in PARTS) > 30


def test_the_mechanisms_are_at_least_six_and_of_colour():
    assert len(MECHANISMS) >= 6
    x = torch.rand(2, 3, 32, 32)
    for mechanism in parse_mechanisms(MECHANISMS):
        assert mechanism(x).shape == x.shape


def test_a_record_tells_what_was_measured(record):
    count = len(record["mechanisms"])
    assert (record["seed"], record["steps"], record["split"]) == (1, 4, "test")
    assert [len(row) for row in record["winner_matrix"]] == [count] * count
    assert unpack(record["gallery"]).shape == (count, 3, 3, 3, 32, 32)
    for view in ("before", "restored", "paired"):
        assert len(record[view]["psnr"]) == len(record[view]["ssim"]) == count
    assert len(record["told"]) == count
    assert 0 <= min(record["told"]) <= max(record["told"]) <= 1
    assert record["course"]["step"] == [2, 4]


def test_a_page_is_made_from_records_and_hides_no_failure(record):
    count = len(record["mechanisms"])
    good = {"psnr": [30.0] * count, "ssim": [0.9] * count}
    matrix = [[float(row == column) for column in range(count)] for row in range(count)]
    perfect = {
        **record,
        "seed": 3,
        "before": {"psnr": [10.0] * count, "ssim": [0.5] * count},
        "restored": good,
        "paired": good,
        "winner_matrix": matrix,
        "matched_share": 1.0,
    }
    page = photographs_page.make_page([perfect])
    assert page.count(": none.") == 3
    assert "| 3 | 1.000 | 10.0 | 30.0 | 4 |" in page
    worse = {**perfect, "winner_matrix": [[0.2, 0.8, *[0.0] * (count - 2)], *matrix[1:]]}
    worse["restored"] = {**good, "psnr": [*good["psnr"][:-1], 19.0]}
    page = photographs_page.make_page([perfect, {**worse, "seed": 4}])
    assert f"wins less than 0.9 of its crops): `{record['mechanisms'][0]}` (seed 4)." in page
    assert f"that a paired expert gains): `{record['mechanisms'][-1]}` (seed 4)." in page
    assert "gain below 3 dB): none." in page
    both = photographs_page.make_page([{**worse, "seed": 4}, {**perfect, "of": "retina"}])
    assert both.index("## One kind") < both.index("seven-winners-4.png"), "each of the two has its section"


def test_the_figures_are_drawn_from_a_record(record, tmp_path, monkeypatch):
    monkeypatch.setattr(photographs_page, "PAGE", tmp_path / "photographs.md")
    monkeypatch.setattr(photographs_page, "FIGURES", tmp_path / "photographs")
    photographs_page.write_page([json.loads(json.dumps(record))])
    drawn = {path.name for path in (tmp_path / "photographs").iterdir()}
    assert drawn == {"seven-gallery.png", "seven-winners-1.png"}
    assert all(f"photographs/{name}" in (tmp_path / "photographs.md").read_text() for name in drawn)

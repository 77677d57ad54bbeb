"""Images of any size through experts that were trained on small ones.

Who wins is told by crops of the size that the discriminator knows: an expert's score is D's mean over such crops of its
output. The winner is then applied to the whole image, in overlapping tiles where that is large.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licm.models import Discriminator, ExpertBank
from licm.objective import choose_winners
from licm.pictures import top_left

MAX_CROPS = 64  # per image, evenly spread: the mean over more says little more
TILE_PIXELS = 1 << 21  # of one pass: with 16 filters some 400 MB
_BATCH = 256  # crops that D sees at a time

Span = tuple[int, int]


def spread(length: int, size: int, most: int) -> list[int]:
    """Returns where pieces of `size` begin that cover `length`, or of them `most`, evenly spread from end to end.

    >>> spread(28, 28, 8), spread(60, 28, 8), spread(1000, 28, 3)
    ([0], [0, 16, 32], [0, 486, 972])
    """
    count = min(-(-length // size), most)
    return [0] if count == 1 else [round(index * (length - size) / (count - 1)) for index in range(count)]


def crop_places(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Returns the top left corners of the crops of an image, at most `MAX_CROPS`, that tell who wins it."""
    most = int(MAX_CROPS**0.5)
    rows, columns = -(-height // size), -(-width // size)
    most_rows = most if columns >= most else MAX_CROPS // columns
    most_columns = most if rows >= most else MAX_CROPS // rows
    tops, lefts = spread(height, size, most_rows), spread(width, size, most_columns)
    return [(top, left) for top in tops for left in lefts]


def reach_of(expert: nn.Module) -> int | None:
    """Returns how far, in pixels, an expert's output depends on its input, or None for experts that see all of it.

    An expert says so by `is_local` and `receptive_radius` (see `licm.models.Expert`); one that does not is taken to see
    everything.
    """
    return getattr(expert, "receptive_radius", None) if getattr(expert, "is_local", False) else None


@torch.no_grad()
def apply_expert(expert: nn.Module, images: Tensor, *, tile_pixels: int = TILE_PIXELS) -> Tensor:
    """Applies an expert in evaluation mode to whole images, in tiles where they are large.

    Of an expert with `is_local` the tiles overlap by its `receptive_radius`, and the result is the same. Of others,
    whose output depends on the whole image, it is an approximation, by tiles that overlap by an eighth of their side.

    Args:
        expert: E.
        images: [n, c, h, w] in [0, 1].
        tile_pixels: Pixels, of all n images, that go through at a time; tiles are never smaller than their overlap,
            nor than 16 px.

    Returns:
        [n, c, h, w] in [0, 1].
    """
    expert.eval()
    count, _, height, width = images.shape
    if count * height * width <= tile_pixels:
        return expert(images)
    if count > 1:
        parts = images.split(max(1, tile_pixels // (height * width)))
        return torch.cat([apply_expert(expert, part, tile_pixels=tile_pixels) for part in parts])
    side, reach = int(tile_pixels**0.5), reach_of(expert)
    overlap = side // 8 if reach is None else reach
    inner = max(side - 2 * overlap, overlap, 16)
    restored = torch.empty_like(images)
    for rows, outer_rows in _tiles(height, inner, overlap):
        for columns, outer_columns in _tiles(width, inner, overlap):
            output = expert(images[:, :, slice(*outer_rows), slice(*outer_columns)])
            top, left = rows[0] - outer_rows[0], columns[0] - outer_columns[0]
            bottom, right = top + rows[1] - rows[0], left + columns[1] - columns[0]
            restored[:, :, slice(*rows), slice(*columns)] = output[:, :, top:bottom, left:right]
    return restored


def _tiles(length: int, inner: int, overlap: int) -> Iterator[tuple[Span, Span]]:
    """Yields the spans that cover a length, each with what has to be seen for it."""
    for start in range(0, length, inner):
        stop = min(start + inner, length)
        yield (start, stop), (max(0, start - overlap), min(length, stop + overlap))


@torch.no_grad()
def mean_scores(
    bank: ExpertBank, discriminator: Discriminator, images: Tensor, *, tile_pixels: int = TILE_PIXELS
) -> Tensor:
    """Scores every expert's output by D's mean probability over crops of the size that D knows.

    Where every expert is local, only the crops and what is within their reach are computed, if that is less.

    Args:
        bank: The experts.
        discriminator: D.
        images: [n, c, h, w] in [0, 1], h and w at least D's size.
        tile_pixels: See `apply_expert`.

    Returns:
        float64 [N', n] in [0, 1], on the CPU, since not every device has that type; 0 for retired experts.
    """
    bank.eval()
    size, (height, width) = discriminator.image_size, images.shape[-2:]
    places = crop_places(height, width, size)
    reaches = [reach_of(expert) for expert in bank]
    known = [reach for reach in reaches if reach is not None]
    reach = max(known, default=0)
    windowed = len(known) == len(bank) and len(places) * (size + 2 * reach) ** 2 < height * width
    scores = torch.zeros(len(bank), len(images), dtype=torch.float64)
    for j in bank.competing.nonzero().flatten().tolist():
        expert = bank[j]
        if windowed:
            crops = [_crop_of_output(expert, images, place, size, reach) for place in places]
        else:
            output = apply_expert(expert, images, tile_pixels=tile_pixels)
            crops = [output[:, :, top : top + size, left : left + size] for top, left in places]
        scores[j] = _mean_probability(discriminator, crops)
    return scores


def _crop_of_output(expert: nn.Module, images: Tensor, place: tuple[int, int], size: int, reach: int) -> Tensor:
    """Returns a crop of a local expert's output, computed from what is within its reach."""
    tops, lefts = (max(0, start - reach) for start in place)
    seen = images[:, :, tops : place[0] + size + reach, lefts : place[1] + size + reach]
    top, left = place[0] - tops, place[1] - lefts
    return expert(seen)[:, :, top : top + size, left : left + size]


@torch.no_grad()
def route_full_size(router: nn.Module, images: Tensor, size: int) -> Tensor:
    """Says which expert wins each image by a router's mean probabilities over crops of the size of training.

    Args:
        router: See `licm.routing.Router`.
        images: [n, c, h, w] in [0, 1], h and w at least `size`.
        size: Height and width of the crops.

    Returns:
        int64 [n].
    """
    height, width = images.shape[-2:]
    places = crop_places(height, width, size)
    crops = torch.cat([images[:, :, top : top + size, left : left + size] for top, left in places])
    shares = torch.cat([router(part).softmax(dim=1) for part in crops.split(_BATCH)])
    return shares.reshape(len(places), len(images), -1).mean(dim=0).argmax(dim=1)


@torch.no_grad()
def restore_full_size(
    bank: ExpertBank,
    discriminator: Discriminator,
    images: Tensor,
    *,
    router: nn.Module | None = None,
    tile_pixels: int = TILE_PIXELS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lets experts compete for images of any size and applies the winners.

    What is smaller than D's size is padded with black, as in training, and cut again.

    Args:
        bank: The experts.
        discriminator: D.
        images: [n, c, h, w] in [0, 1], on the modules' device.
        router: Names the winners in place of the competition; only their outputs are computed and scored.
        tile_pixels: See `apply_expert`.

    Returns:
        On the CPU the mean scores, float64 [N', n] in [0, 1], 0 for who was not asked, and the winners, int64 [n];
        on the images' device their outputs, [n, c, h, w].
    """
    height, width = images.shape[-2:]
    padded, top, left = _padded(images, discriminator.image_size)
    if router is None:
        scores = mean_scores(bank, discriminator, padded, tile_pixels=tile_pixels)
        winners = choose_winners(scores)
    else:
        scores = torch.zeros(len(bank), len(padded), dtype=torch.float64)
        winners = route_full_size(router, padded, discriminator.image_size).cpu()
    restored = torch.empty_like(padded)
    for index in winners.unique().tolist():
        chosen = winners == index
        restored[chosen] = apply_expert(bank[index], padded[chosen], tile_pixels=tile_pixels)
    if router is not None:
        scores[winners, torch.arange(len(winners))] = crop_scores(discriminator, restored)
    return scores, winners, restored[:, :, top : top + height, left : left + width]


@torch.no_grad()
def crop_scores(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Returns D's mean probability over crops of images [n, c, h, w] as they are: float64 [n] in [0, 1], on the CPU."""
    size = discriminator.image_size
    images = _padded(images, size)[0]
    height, width = images.shape[-2:]
    places = crop_places(height, width, size)
    crops = [images[:, :, top : top + size, left : left + size] for top, left in places]
    return _mean_probability(discriminator, crops)


@torch.no_grad()
def cycle_errors(
    forward: ExpertBank, restored: Tensor, images: Tensor, winners: Tensor, *, tile_pixels: int = TILE_PIXELS
) -> Tensor:
    """Returns how badly the winner's forward network tells images again: mean squared error a pixel, float [n].

    Args:
        forward: The forward networks F_j.
        restored: The winners' outputs, [n, c, h, w] in [0, 1].
        images: The images themselves, of the same shape.
        winners: int64 [n].
        tile_pixels: See `apply_expert`.
    """
    told = torch.empty_like(images)
    for index in winners.unique().tolist():
        chosen = winners == index
        told[chosen] = apply_expert(forward[index], restored[chosen], tile_pixels=tile_pixels)
    return (told - images).square().flatten(1).mean(dim=1)


def _padded(images: Tensor, size: int) -> tuple[Tensor, int, int]:
    """Returns images with black around them where they are smaller than `size`, and where in them they begin."""
    height, width = images.shape[-2:]
    frame = [max(side, size) for side in (height, width)]
    top, left = top_left(height, 0, frame[0])[0], top_left(0, width, frame[1])[1]
    padded = F.pad(images, (left, frame[1] - width - left, top, frame[0] - height - top))
    return padded.contiguous(memory_format=torch.channels_last), top, left


def _mean_probability(discriminator: Discriminator, crops: Sequence[Tensor]) -> Tensor:
    logits = torch.cat([discriminator(part) for part in torch.cat(list(crops)).split(_BATCH)])
    return logits.cpu().double().sigmoid().reshape(len(crops), -1).mean(dim=0)

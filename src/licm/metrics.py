"""Measures of what a competition found: pure functions from tensors or arrays to floats and tensors.

In this order: who wins which mechanism (needs the true mechanism of each image), how close restored images
are to the hidden originals (needs those), and health as the scores alone show it (needs neither). N is the
number of mechanisms, N' of experts and n of images; a winner matrix W is [N, N'] with rows that sum to 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from licm.checks import check_images
from licm.competition import choose_winners

Values = Tensor | np.ndarray | Sequence[Any]


def winner_matrix(mechanism: Values, winner: Values, *, num_mechanisms: int, num_experts: int) -> Tensor:
    """Returns W[m, j], the share of the images under mechanism m that expert j wins.

    Args:
        mechanism: Integers [n] in [0, N), the mechanism each image went through.
        winner: Integers [n] in [0, N'), the expert that won it.
        num_mechanisms: N.
        num_experts: N'.

    Returns:
        float64 [N, N'] whose rows sum to 1.

    Raises:
        ValueError: If `mechanism` or `winner` is not as described, or a mechanism has no image.

    >>> winner_matrix([0, 0, 1, 1], [2, 2, 0, 2], num_mechanisms=2, num_experts=3).tolist()
    [[0.0, 0.0, 1.0], [0.5, 0.0, 0.5]]
    """
    winner = _indices(winner, "winner", num_experts)
    won_by = torch.nn.functional.one_hot(winner, num_experts).double()
    return _mean_rows(won_by, "winner", mechanism, num_mechanisms)


def match_experts(winners: Values) -> tuple[list[int], list[int]]:
    """Assigns experts to mechanisms one to one so that their shares in W, [N, N'], sum to the most.

    Returns:
        The min(N, N') matched mechanisms, ascending, and the expert of each (the Hungarian assignment).

    Raises:
        ValueError: If `winners` is not a winner matrix.

    >>> match_experts([[0.6, 0.4, 0.0], [0.9, 0.1, 0.0]])
    ([0, 1], [1, 0])
    """
    mechanisms, experts = linear_sum_assignment(_shares(winners, "winners").numpy(), maximize=True)
    return mechanisms.tolist(), experts.tolist()


def matched_share(winners: Values) -> float:
    """Returns the mean share, in [0, 1], of the pairs that `match_experts` finds in W, [N, N'].

    The mean is over N pairs if N' >= N. With fewer experts than mechanisms it is over N' pairs and is called
    coverage: whether each expert has a mechanism of its own, though not each mechanism can have an expert.

    Raises:
        ValueError: If `winners` is not a winner matrix.

    >>> matched_share([[0.75, 0.25, 0.0], [1.0, 0.0, 0.0]])
    0.625
    """
    return _shares(winners, "winners")[match_experts(winners)].mean().item()


def owned_mechanisms(winners: Values, *, threshold: float = 0.25) -> list[list[int]]:
    """Returns for each expert the mechanisms it owns, ascending: those of which it wins at least `threshold`.

    A quarter by default, because duplicates show only if a mechanism can have two owners: above one half it
    never has, and copies of an expert rarely split it evenly. A quarter finds splits down to 1 : 3, and lies
    above stray wins and chance (1/N'). With N' <= 4 chance alone reaches it: there, give more.

    Args:
        winners: W, [N, N'].
        threshold: Share in (0, 1].

    Raises:
        ValueError: If an argument is not as described.

    >>> owned_mechanisms([[0.7, 0.3, 0.0], [1.0, 0.0, 0.0]])
    [[0, 1], [0], []]
    """
    _check_fraction(threshold, "threshold")
    owns = _shares(winners, "winners") >= threshold
    return [column.nonzero().flatten().tolist() for column in owns.T]


def duplicate_experts(winners: Values, *, threshold: float = 0.25) -> list[tuple[int, int]]:
    """Returns the pairs of experts (i, j), i < j, that own a mechanism in common.

    Arguments and errors are those of `owned_mechanisms`.

    >>> duplicate_experts([[0.7, 0.3, 0.0], [1.0, 0.0, 0.0]])
    [(0, 1)]
    """
    owned = [set(mechanisms) for mechanisms in owned_mechanisms(winners, threshold=threshold)]
    return [(i, j) for j in range(len(owned)) for i in range(j) if owned[i] & owned[j]]


def clustering_scores(mechanism: Values, winner: Values) -> dict[str, float]:
    """Returns how well the winners, integers [n], cluster the images by mechanism, integers [n].

    Returns:
        `ari`, the adjusted Rand index (1 for equal clusterings, 0 on average for chance, can be below 0), and
        `nmi`, the mutual information over the mean of the two entropies, in [0, 1].

    Raises:
        ValueError: If either is not as described or below 0.

    >>> clustering_scores([0, 0, 1, 1], [7, 7, 3, 3])
    {'ari': 1.0, 'nmi': 1.0}
    """
    true, found = _indices(mechanism, "mechanism").numpy(), _indices(winner, "winner").numpy()
    _check_length(len(found), "winner", len(true), "mechanism")
    ari, nmi = adjusted_rand_score(true, found), normalized_mutual_info_score(true, found)
    return {"ari": float(ari), "nmi": float(nmi)}


def settled_steps(
    steps: Sequence[int], winner_matrices: Sequence[Values], *, threshold: float = 0.95
) -> list[int | None]:
    """Returns for each mechanism the first step from which its best expert's share stays high to the end.

    The best expert is the one with the largest share at the last evaluation, so a mechanism that changes
    hands counts as settled only from when its final expert holds it.

    Args:
        steps: The step of each evaluation, ascending.
        winner_matrices: W, [N, N'], at each of them.
        threshold: Share in (0, 1] that counts as high.

    Returns:
        N steps, None for a mechanism whose best expert is below `threshold` at the end.

    Raises:
        ValueError: If an argument is empty, not as described, or the two differ in length.

    >>> settled_steps([0, 10, 20], [[[0.5, 0.5]], [[0.0, 1.0]], [[0.02, 0.98]]])
    [10]
    """
    _check_fraction(threshold, "threshold")
    if len(steps) == 0 or any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"steps: expected at least one, strictly ascending, got {list(steps)}")
    matrices = [_shares(winners, "winner_matrices") for winners in winner_matrices]
    shapes = [tuple(winners.shape) for winners in matrices]
    if len(shapes) != len(steps) or len(set(shapes)) != 1:
        raise ValueError(f"winner_matrices: expected {len(steps)} of one shape, one per step, got {shapes}")
    best = matrices[-1].argmax(dim=1)
    is_high = torch.stack(matrices)[:, torch.arange(len(best)), best] >= threshold  # [evaluations, N]
    high_at_end = is_high.flip(0).cummin(dim=0).values.sum(dim=0)  # how many evaluations, without a gap
    return [int(steps[-count]) if count else None for count in high_at_end.tolist()]


def psnr(restored: Tensor, original: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of each image, 10 log10(1 / mean squared error): [n], in dB.

    The mean squared error over an image's pixels and channels is floored at 1e-6: a perfect image has 60 dB.

    Args:
        restored: [n, c, h, w] in [0, 1]; or signals [n, c, t], or vectors [n, d].
        original: The same shape and range.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If an argument has a wrong shape or values out of [0, 1].

    >>> psnr(torch.full((1, 1, 8, 8), 0.6), torch.full((1, 1, 8, 8), 0.5)).round(decimals=3)
    tensor([20.])
    """
    _check_pair(restored, original, dims=None)
    axes = tuple(range(1, original.ndim))
    decibels = peak_signal_noise_ratio(restored, original, data_range=1.0, reduction="none", dim=axes)
    return decibels.clamp(max=60.0)


def ssim(restored: Tensor, original: Tensor) -> Tensor:
    """Returns the structural similarity of each image (Wang et al. 2004): [n], in [-1, 1], 1 if equal.

    Gaussian window of sigma 1.5 px (11x11), data range 1, mean over all pixels with the border reflected.
    Arguments and errors are those of `psnr`; h and w must be at least 6.

    >>> image = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    >>> ssim(image, image)
    tensor([1.])
    """
    _check_pair(restored, original)
    height, width = original.shape[-2:]
    if min(height, width) < 6:  # the border is reflected by 5 px
        raise ValueError(f"original: SSIM's window needs images of at least 6x6 px, got {height}x{width}")
    # The mean is taken here, as torchmetrics' own excludes the border in older versions (its #2721).
    _, similarity = structural_similarity_index_measure(
        restored, original, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    return similarity.mean(dim=(1, 2, 3))


def mean_per_mechanism(values: Values, mechanism: Values, num_mechanisms: int) -> Tensor:
    """Returns the mean of a value over the images under each mechanism, float64 [N].

    The mean of the result is the mean over mechanisms: each counts the same, however many images it has.

    Args:
        values: Finite numbers or booleans [n], one per image: PSNR, SSIM, whether it was classified rightly.
        mechanism: Integers [n] in [0, N).
        num_mechanisms: N.

    Raises:
        ValueError: If an argument is not as described, or a mechanism has no image.

    >>> mean_per_mechanism([10.0, 20.0, 18.0], [0, 0, 1], 2).tolist()
    [15.0, 18.0]
    """
    numbers = _array(values, "values", 1).double()
    if not torch.isfinite(numbers).all():
        raise ValueError("values: expected finite numbers, got NaN or infinity")
    return _mean_rows(numbers[:, None], "values", mechanism, num_mechanisms).squeeze(1)


def win_shares(winner: Values, num_experts: int) -> Tensor:
    """Returns the share of the images, integers [n] in [0, N'), that each expert wins: float64 [N'], sum 1.

    Raises:
        ValueError: If `winner` is not as described.

    >>> win_shares([2, 0, 2, 2], 3).tolist()
    [0.25, 0.0, 0.75]
    """
    winner = _indices(winner, "winner", num_experts)
    return torch.bincount(winner, minlength=num_experts).double() / len(winner)


def dead_experts(win_share: Values, *, threshold: float = 0.01) -> list[int]:
    """Returns the experts whose share of wins, [N'] in [0, 1], is less than `threshold`, in (0, 1].

    Raises:
        ValueError: If an argument is not as described.

    >>> dead_experts([0.5, 0.495, 0.005])
    [2]
    """
    _check_fraction(threshold, "threshold")
    return (_fractions(win_share, "win_share", 1) < threshold).nonzero().flatten().tolist()


def score_gaps(scores: Values, winner: Values) -> Tensor:
    """Returns G[i, j], the mean of score_i - score_j over the images that expert i wins.

    How far expert j is from doing i's work: near zero if the two are interchangeable on it.

    Args:
        scores: [n, N'] in [0, 1], the discriminator's probabilities for every expert's output.
        winner: Integers [n] in [0, N').

    Returns:
        float64 [N', N'], zero on the diagonal. The whole row of an expert without a win is infinite: there is
        no work of its that another could do, and it passes no test for a small gap.

    Raises:
        ValueError: If an argument is not as described.

    >>> score_gaps([[0.75, 0.25], [0.5, 0.25]], [0, 0]).tolist()
    [[0.0, 0.375], [inf, inf]]
    """
    probabilities = _fractions(scores, "scores", 2)
    winner = _indices(winner, "winner", probabilities.shape[1])
    _check_length(len(winner), "winner", len(probabilities), "scores")
    won_by = torch.nn.functional.one_hot(winner, probabilities.shape[1]).double()  # [n, N']
    wins = won_by.sum(dim=0)[:, None]
    means = won_by.T @ probabilities / wins.clamp(min=1)  # [i, j]: score_j over the images i won
    gaps = means.diagonal()[:, None] - means
    return gaps.masked_fill(wins == 0, torch.inf)


def duplicates_without_labels(scores: Values, *, real_score: float, margin: float = 0.1) -> list[tuple[int, int]]:
    """Returns the pairs of experts (i, j), i < j, that score nearly the same on each other's images.

    Both must win an image, and both `score_gaps` between them must be below `margin * real_score`: relative,
    because the level of the discriminator's scores depends on its objective and on the progress of training.

    Args:
        scores: [n, N'] in [0, 1], the discriminator's probabilities for every expert's output.
        real_score: Its mean probability on canonical images, in (0, 1].
        margin: Share of `real_score`, in (0, 1].

    Raises:
        ValueError: If an argument is not as described.

    >>> scores = [[0.6, 0.58, 0.1], [0.59, 0.6, 0.1], [0.1, 0.1, 0.6]]
    >>> duplicates_without_labels(scores, real_score=0.7)
    [(0, 1)]
    """
    _check_fraction(real_score, "real_score")
    _check_fraction(margin, "margin")
    probabilities = _fractions(scores, "scores", 2)
    gaps = score_gaps(probabilities, choose_winners(probabilities.T))
    largest = torch.maximum(gaps, gaps.T)  # of the two directions
    return [(i, j) for j in range(len(gaps)) for i in range(j) if largest[i, j] < margin * real_score]


def winner_margin(scores: Values, real_score: float) -> float:
    """Returns the mean lead of the best score over the second best, relative to `real_score`.

    It is 0 if the winners are arbitrary. Arguments are those of `duplicates_without_labels`, N' at least 2.

    Raises:
        ValueError: If an argument is not as described.

    >>> winner_margin([[0.75, 0.25, 0.5], [0.0, 0.75, 0.5]], 0.5)
    0.5
    """
    _check_fraction(real_score, "real_score")
    probabilities = _fractions(scores, "scores", 2)
    if probabilities.shape[1] < 2:
        raise ValueError("scores: expected a column for each of at least 2 experts, got 1")
    best, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return (best - second).mean().item() / real_score


def _mean_rows(rows: Tensor, name: str, mechanism: Values, num_mechanisms: int) -> Tensor:
    """Returns the mean of rows [n, k] over the images under each mechanism, [N, k]."""
    mechanism = _indices(mechanism, "mechanism", num_mechanisms)
    _check_length(len(rows), name, len(mechanism), "mechanism")
    counts = torch.bincount(mechanism, minlength=num_mechanisms)
    if empty := (counts == 0).nonzero().flatten().tolist():
        raise ValueError(f"mechanism: expected an image under all {num_mechanisms}, got none under {empty}")
    return rows.new_zeros(num_mechanisms, rows.shape[1]).index_add(0, mechanism, rows) / counts[:, None]


def _array(values: Values, name: str, ndim: int) -> Tensor:
    tensor = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if tensor.ndim != ndim or 0 in tensor.shape:
        kind = "vector" if ndim == 1 else "matrix with a column per expert"
        raise ValueError(f"{name}: expected a non-empty {kind}, got shape {tuple(tensor.shape)}")
    return tensor


def _indices(values: Values, name: str, count: int | None = None) -> Tensor:
    """Returns int64 [n], checked to be integers in [0, count), or at least 0."""
    expected = "integers of at least 0" if count is None else f"integers in [0, {count})"
    indices = _array(values, name, 1)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"{name}: expected {expected}, got dtype {indices.dtype}")
    indices = indices.long()
    low, high = (int(value) for value in indices.aminmax())
    if low < 0 or (count is not None and high >= count):
        raise ValueError(f"{name}: expected {expected}, got values from {low} to {high}")
    return indices


def _fractions(values: Values, name: str, ndim: int) -> Tensor:
    """Returns float64, checked to lie in [0, 1]."""
    fractions = _array(values, name, ndim).double()
    low, high = (value.item() for value in fractions.aminmax())
    if not (low >= 0 and high <= 1):  # also true of NaN
        raise ValueError(f"{name}: expected values in [0, 1], got values from {low:g} to {high:g}")
    return fractions


def _shares(winners: Values, name: str) -> Tensor:
    """Returns float64 [N, N'], checked to be a winner matrix."""
    shares = _fractions(winners, name, 2)
    sums = shares.sum(dim=1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):  # records round each share to four digits
        raise ValueError(f"{name}: expected rows that sum to 1, got sums {sums.tolist()}")
    return shares


def _check_pair(restored: Tensor, original: Tensor, *, dims: int | None = 2) -> None:
    check_images(restored, "restored", dims=dims)
    check_images(original, "original", dims=dims)
    want, got = tuple(original.shape), tuple(restored.shape)
    if got != want:
        raise ValueError(f"restored: expected the shape of original, {want}, got {got}")


def _check_length(length: int, name: str, expected: int, other: str) -> None:
    if length != expected:
        raise ValueError(f"{name}: expected {expected} values, one per image as in {other}, got {length}")


def _check_fraction(value: float, name: str) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name}: expected a number in (0, 1], got {value}")

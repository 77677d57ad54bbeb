"""Measures against known answers, brute force, scikit-learn's confusion matrix and scikit-image."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import confusion_matrix

from licm import metrics

SEEDS = st.integers(0, 2**32 - 1)
slow_machine = settings(deadline=None, max_examples=50)


def random_winner_matrix(seed, num_mechanisms, num_experts):
    """Rows from a Dirichlet sparse enough that experts specialise, some exactly shared or zero."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(num_experts, 0.3), size=num_mechanisms).round(2)
    return torch.from_numpy(shares / shares.sum(axis=1, keepdims=True))


def random_images(seed, n=4, channels=1, height=28, width=28):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


# --- Who wins which mechanism


def test_shares_rounded_as_in_records_are_taken():
    shares = torch.full((2, 7), 1 / 7).double()
    rounded = torch.tensor([[round(share, 4) for share in row] for row in shares.tolist()])  # 1.0003 a row
    assert metrics.matched_share(rounded) == pytest.approx(metrics.matched_share(shares), abs=1e-4)


def test_winner_matrix_equals_scikit_learns_normalised_confusion_matrix():
    rng = np.random.default_rng(0)
    mechanism, winner = np.arange(500) % 7, rng.integers(0, 7, 500)
    shares = metrics.winner_matrix(mechanism, winner, num_mechanisms=7, num_experts=7)
    assert shares.dtype == torch.float64
    np.testing.assert_allclose(shares, confusion_matrix(mechanism, winner, normalize="true"), rtol=1e-12)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda v: torch.tensor(v, dtype=torch.uint8)])
def test_winner_matrix_takes_lists_arrays_and_tensors(kind):
    shares = metrics.winner_matrix(kind([0, 1, 1, 1]), kind([3, 0, 0, 1]), num_mechanisms=2, num_experts=4)
    assert shares.tolist() == [[0, 0, 0, 1], [2 / 3, 1 / 3, 0, 0]]


def test_read_only_arrays_are_taken_without_a_warning():
    winner = np.array([0, 1, 1])
    winner.flags.writeable = False
    assert metrics.win_shares(winner, 2).tolist() == [1 / 3, 2 / 3]


@slow_machine
@given(SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_matched_share_equals_the_best_of_all_assignments(seed, num_mechanisms, num_experts):
    shares = random_winner_matrix(seed, num_mechanisms, num_experts)
    tall = shares.numpy() if num_mechanisms >= num_experts else shares.numpy().T
    best = max(tall[list(rows), range(tall.shape[1])].sum() for rows in permutations(range(len(tall)), tall.shape[1]))
    assert metrics.matched_share(shares) == pytest.approx(best / min(num_mechanisms, num_experts))


@slow_machine
@given(SEEDS, st.integers(1, 12), st.integers(1, 12))
def test_matched_share_does_not_depend_on_the_numbering(seed, num_mechanisms, num_experts):
    shares = random_winner_matrix(seed, num_mechanisms, num_experts)
    rng = np.random.default_rng(seed)
    renumbered = shares[rng.permutation(num_mechanisms)][:, rng.permutation(num_experts)]
    assert metrics.matched_share(renumbered) == pytest.approx(metrics.matched_share(shares))


def test_match_experts_returns_a_permutation_it_was_given():
    experts = [3, 0, 2, 1]
    assert metrics.match_experts(torch.eye(4)[experts]) == ([0, 1, 2, 3], experts)


def test_matched_share_with_unused_experts_is_over_mechanisms():
    assert metrics.matched_share(torch.eye(2, 5)) == 1


def test_matched_share_with_too_few_experts_is_coverage():
    # Two experts over three mechanisms, each the only winner of one, and the third split.
    assert metrics.matched_share([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]) == 1


def test_an_expert_that_wins_everything_matches_one_mechanism_only():
    shares = torch.zeros(10, 10)
    shares[:, 3] = 1
    assert metrics.matched_share(shares) == pytest.approx(0.1)
    assert metrics.owned_mechanisms(shares)[3] == list(range(10))
    assert metrics.duplicate_experts(shares) == []


def test_a_mechanism_split_down_to_a_quarter_has_two_owners():
    shares = [[0.75, 0.25, 0.0], [0.0, 0.24, 0.76]]
    assert metrics.owned_mechanisms(shares) == [[0], [0], [1]]
    assert metrics.duplicate_experts(shares) == [(0, 1)]
    assert metrics.duplicate_experts(shares, threshold=0.24) == [(0, 1), (1, 2)]
    assert metrics.duplicate_experts(shares, threshold=0.5) == []


@slow_machine
@given(SEEDS, st.integers(1, 12), st.integers(1, 12))
def test_above_one_half_no_mechanism_has_two_owners(seed, num_mechanisms, num_experts):
    shares = random_winner_matrix(seed, num_mechanisms, num_experts)
    assert metrics.duplicate_experts(shares, threshold=0.51) == []


def test_clustering_scores_of_known_partitions():
    # The contingency table is [[2, 1, 0], [0, 1, 2]]. By hand, with 15 pairs of the 6 images: 2 pairs agree,
    # expected 6 * 3 / 15, at most (6 + 3) / 2.
    mechanism, winner = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]
    information = 2 / 3 * np.log(2)  # H(mechanism) = ln 2, of which a third is lost in the middle cluster
    scores = metrics.clustering_scores(mechanism, winner)
    assert scores["ari"] == pytest.approx((2 - 6 * 3 / 15) / ((6 + 3) / 2 - 6 * 3 / 15))
    assert scores["nmi"] == pytest.approx(information / ((np.log(2) + np.log(3)) / 2))


@slow_machine
@given(SEEDS)
def test_clustering_scores_do_not_depend_on_the_numbering(seed):
    rng = np.random.default_rng(seed)
    mechanism, winner = rng.integers(0, 5, 60), rng.integers(0, 6, 60)
    scores = metrics.clustering_scores(mechanism, winner)
    renumbered = metrics.clustering_scores(mechanism, rng.permutation(6)[winner])
    assert renumbered == pytest.approx(scores, abs=1e-12)
    assert metrics.clustering_scores(mechanism, mechanism) == pytest.approx({"ari": 1, "nmi": 1})


def test_one_expert_that_wins_all_clusters_nothing():
    assert metrics.clustering_scores([0, 0, 1, 1], [2, 2, 2, 2]) == {"ari": 0, "nmi": 0}


# --- Settled steps


def test_a_dip_restarts_the_settled_step_and_the_threshold_itself_counts():
    shares = [0.5, 0.96, 0.94, 0.95, 1.0]
    matrices = [[[share, 1 - share]] for share in shares]
    assert metrics.settled_steps([0, 10, 20, 30, 40], matrices) == [30]
    assert metrics.settled_steps([0, 10, 20, 30, 40], matrices, threshold=0.94) == [10]


def test_a_mechanism_that_changes_hands_settles_with_its_last_owner():
    assert metrics.settled_steps([10, 20, 30], [[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]]) == [20]


def test_a_mechanism_settled_from_the_first_evaluation_and_one_never():
    assert metrics.settled_steps([5, 6], [[[1.0, 0.0], [0.96, 0.04]], [[0.95, 0.05], [0.9, 0.1]]]) == [5, None]


@slow_machine
@given(SEEDS, st.integers(1, 8), st.integers(1, 4), st.integers(2, 4))
def test_settled_steps_equal_a_search_from_each_step(seed, evaluations, num_mechanisms, num_experts):
    matrices = [random_winner_matrix(seed + t, num_mechanisms, num_experts) for t in range(evaluations)]
    steps = [10 * t + 3 for t in range(evaluations)]
    expected = []
    for m in range(num_mechanisms):
        best = int(matrices[-1][m].argmax())
        holds = [t for t in range(evaluations) if all(W[m, best] >= 0.6 for W in matrices[t:])]
        expected.append(steps[holds[0]] if holds else None)
    assert metrics.settled_steps(steps, matrices, threshold=0.6) == expected


# --- Restored images


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_equals_scikit_images(channels):
    restored, original = random_images(0, channels=channels), random_images(1, channels=channels)
    expected = [peak_signal_noise_ratio(o, r, data_range=1) for r, o in zip(restored.numpy(), original.numpy())]
    np.testing.assert_allclose(metrics.psnr(restored, original), expected, rtol=1e-5)


def test_psnr_of_equal_and_of_nearly_equal_images_is_the_floors_60_db():
    image = torch.full((2, 1, 8, 8), 0.5)
    restored = image.clone()
    restored[1] += 5e-4  # mean squared error 2.5e-7, below the floor
    assert metrics.psnr(restored, image).tolist() == [60, 60]


def test_psnr_of_an_inverted_checkerboard_is_zero():
    board = (torch.arange(8)[:, None] + torch.arange(8) + 0.0).remainder(2)[None, None]
    assert metrics.psnr(1 - board, board).item() == 0


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 28, 28), (1, 12, 20)])
def test_ssim_equals_scikit_images(channels, height, width):
    noise = random_images(0, channels=channels, height=height, width=width)
    original = random_images(1, channels=channels, height=height, width=width)
    restored = 0.7 * original + 0.3 * noise
    # scikit-image leaves the 5 px of border out of its mean: padded by 5 reflected px, the mean is over the image.
    padding = ((0, 0), (0, 0), (5, 5), (5, 5))
    padded = [np.pad(x.double().numpy(), padding, mode="reflect") for x in (restored, original)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = [structural_similarity(r, o, channel_axis=0, **options) for r, o in zip(*padded)]
    np.testing.assert_allclose(metrics.ssim(restored, original), expected, atol=1e-5)


def test_ssim_is_1_for_equal_images_and_falls_with_noise():
    original = random_images(0)
    noise = random_images(1)
    values = [metrics.ssim((1 - a) * original + a * noise, original).mean().item() for a in (0, 0.1, 0.3, 1)]
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)


def test_ssim_of_two_constant_images_is_the_luminance_term():
    # (2 a b + c1) / (a^2 + b^2 + c1) with c1 = 0.01^2; contrast and structure are 1.
    black, white = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    assert metrics.ssim(white, black).item() == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-4)


def test_mean_per_mechanism_equals_numpys_group_means_in_double_precision():
    rng = np.random.default_rng(0)
    mechanism, values = rng.permutation(np.arange(300) % 7), rng.normal(size=300)
    expected = [values[mechanism == m].mean() for m in range(7)]
    np.testing.assert_allclose(metrics.mean_per_mechanism(values, mechanism, 7), expected, rtol=1e-12)


def test_mean_over_mechanisms_counts_small_ones_as_much_as_large():
    per_mechanism = metrics.mean_per_mechanism([True, True, True, False], [0, 0, 0, 1], 2)
    assert per_mechanism.mean().item() == 0.5


# --- Health without labels


def test_dead_experts_win_strictly_less_than_the_threshold():
    winner = torch.tensor([0] * 985 + [1] * 10 + [2] * 5)
    assert metrics.dead_experts(metrics.win_shares(winner, 4)) == [2, 3]
    assert metrics.dead_experts(metrics.win_shares(winner, 4), threshold=0.005) == [3]


@slow_machine
@given(SEEDS, st.integers(1, 5))
def test_score_gaps_equal_a_loop_over_experts(seed, num_experts):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(size=(12, num_experts))
    winner = rng.integers(0, num_experts, 12)
    gaps = metrics.score_gaps(scores, winner)
    assert not gaps.isnan().any()
    for i in range(num_experts):
        for j in range(num_experts):
            won = winner == i
            expected = (scores[won, i] - scores[won, j]).mean() if won.any() else np.inf
            assert gaps[i, j] == pytest.approx(expected, abs=1e-12)


@slow_machine
@given(SEEDS, st.integers(1, 5))
def test_score_gaps_of_true_winners_are_never_negative(seed, num_experts):
    scores = np.random.default_rng(seed).uniform(size=(12, num_experts))
    assert metrics.score_gaps(scores, scores.argmax(axis=1)).min() >= -1e-12


def test_a_copy_is_found_without_labels_and_specialists_are_not():
    specialists = 0.1 + 0.6 * torch.eye(3).repeat(20, 1)  # [60, 3], each expert clearly best on its own images
    assert metrics.duplicates_without_labels(specialists, real_score=0.7) == []
    wobble = torch.tensor([0.01, -0.01]).repeat(30)
    copy = (specialists[:, 1] + wobble)[:, None]
    assert metrics.duplicates_without_labels(torch.cat([specialists, copy], dim=1), real_score=0.7) == [(1, 3)]


def test_a_copy_that_never_wins_is_dead_not_a_duplicate():
    scores = [[0.6, 0.59], [0.6, 0.59]]
    assert metrics.duplicates_without_labels(scores, real_score=0.7) == []


def test_both_directions_must_be_near_and_near_means_relative_to_the_real_score():
    # Expert 1 nearly does expert 0's work (gap 0.05), but not the other way round (gap 0.3).
    assert metrics.duplicates_without_labels([[0.6, 0.55], [0.2, 0.5]], real_score=0.7) == []
    scores = [[0.6, 0.55], [0.55, 0.6]]
    assert metrics.duplicates_without_labels(scores, real_score=0.6) == [(0, 1)]
    assert metrics.duplicates_without_labels(scores, real_score=0.4) == []
    assert metrics.duplicates_without_labels(scores, real_score=0.4, margin=0.2) == [(0, 1)]


@slow_machine
@given(SEEDS, st.integers(2, 5))
def test_winner_margin_equals_the_gap_in_sorted_scores(seed, num_experts):
    scores = np.random.default_rng(seed).uniform(size=(12, num_experts))
    ordered = np.sort(scores, axis=1)
    expected = (ordered[:, -1] - ordered[:, -2]).mean() / 0.6
    assert metrics.winner_margin(torch.from_numpy(scores), 0.6) == pytest.approx(expected)


# --- Errors

EYE = [[1.0, 0.0], [0.0, 1.0]]
IMAGES = torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.winner_matrix([0, 2], [0, 0], num_mechanisms=2, num_experts=1),
            r"mechanism: expected integers in \[0, 2\), got values from 0 to 2",
        ),
        (
            lambda: metrics.winner_matrix([0, 1], [-1, 0], num_mechanisms=2, num_experts=1),
            r"winner: expected integers in \[0, 1\), got values from -1 to 0",
        ),
        (
            lambda: metrics.winner_matrix([0, 1], [0], num_mechanisms=2, num_experts=1),
            "winner: expected 2 values, one per image as in mechanism, got 1",
        ),
        (
            lambda: metrics.winner_matrix([0, 2], [0, 0], num_mechanisms=4, num_experts=1),
            r"mechanism: expected an image under all 4, got none under \[1, 3\]",
        ),
        (
            lambda: metrics.winner_matrix([0.0], [0], num_mechanisms=1, num_experts=1),
            r"mechanism: expected integers in \[0, 1\), got dtype torch.float64",
        ),
        (lambda: metrics.match_experts([0.5, 0.5]), r"winners: expected a non-empty matrix .*, got shape \(2,\)"),
        (lambda: metrics.match_experts([[0.5, float("nan")]]), r"winners: expected values in \[0, 1\], got .* nan"),
        (lambda: metrics.matched_share([[0.5, 0.25]]), r"winners: expected rows that sum to 1, got sums \[0.75\]"),
        (
            lambda: metrics.owned_mechanisms(EYE, threshold=0.0),
            r"threshold: expected a number in \(0, 1\], got 0.0",
        ),
        (lambda: metrics.duplicate_experts([[5, -4]]), r"winners: expected values in \[0, 1\], got values from -4 to"),
        (lambda: metrics.clustering_scores([0, 1], [0, -1]), "winner: expected integers of at least 0, got .* -1"),
        (lambda: metrics.clustering_scores([], []), r"mechanism: expected a non-empty vector, got shape \(0,\)"),
        (lambda: metrics.clustering_scores([0, 1], [0]), "winner: expected 2 values, one per image as in mechanism"),
        (lambda: metrics.settled_steps([], []), r"steps: expected at least one, strictly ascending, got \[\]"),
        (lambda: metrics.settled_steps([10, 10], [EYE, EYE]), r"steps: expected .* ascending, got \[10, 10\]"),
        (
            lambda: metrics.settled_steps([0, 10], [EYE]),
            r"winner_matrices: expected 2 of one shape, one per step, got \[\(2, 2\)\]",
        ),
        (lambda: metrics.settled_steps([0, 10], [EYE, [[1.0]]]), "winner_matrices: expected 2 of one shape"),
        (lambda: metrics.settled_steps([0], [EYE], threshold=95), r"threshold: expected a number in \(0, 1\], got 95"),
        (lambda: metrics.psnr(255 * IMAGES + 255, IMAGES), r"restored: expected finite values in \[0, 1\], got .* 255"),
        (
            lambda: metrics.psnr(IMAGES, IMAGES[:1]),
            r"restored: expected the shape of original, \(1, 1, 8, 8\), got \(2, 1, 8, 8\)",
        ),
        (lambda: metrics.ssim(IMAGES, IMAGES[0]), r"original: expected a non-empty batch .* got shape \(1, 8, 8\)"),
        (
            lambda: metrics.ssim(IMAGES[..., :5], IMAGES[..., :5]),
            "original: SSIM's window needs images of at least 6x6 px, got 8x5",
        ),
        (lambda: metrics.mean_per_mechanism([1.0], [0, 0], 1), "values: expected 2 values, one per image as in mech"),
        (lambda: metrics.mean_per_mechanism([1.0], [0], 2), r"mechanism: expected an image under all 2, got none .*1"),
        (lambda: metrics.mean_per_mechanism([np.inf], [0], 1), "values: expected finite numbers, got NaN or infinity"),
        (lambda: metrics.win_shares([0, 3], 3), r"winner: expected integers in \[0, 3\), got values from 0 to 3"),
        (lambda: metrics.win_shares([True], 3), r"winner: expected integers in \[0, 3\), got dtype torch.bool"),
        (lambda: metrics.dead_experts([[1.0]]), r"win_share: expected a non-empty vector, got shape \(1, 1\)"),
        (lambda: metrics.dead_experts([20, 80]), r"win_share: expected values in \[0, 1\], got values from 20 to 80"),
        (lambda: metrics.dead_experts([1.0], threshold=-1), r"threshold: expected a number in \(0, 1\], got -1"),
        (lambda: metrics.score_gaps([[-3.0, 2.0]], [1]), r"scores: expected values in \[0, 1\], got values from -3 to"),
        (lambda: metrics.score_gaps([[0.5]], [0, 0]), "winner: expected 1 values, one per image as in scores, got 2"),
        (lambda: metrics.score_gaps([[0.5]], [1]), r"winner: expected integers in \[0, 1\), got values from 1 to 1"),
        (
            lambda: metrics.duplicates_without_labels([[0.5]], real_score=0),
            r"real_score: expected a number in \(0, 1\], got 0",
        ),
        (
            lambda: metrics.duplicates_without_labels([[0.5]], real_score=1, margin=10),
            r"margin: expected a number in \(0, 1\], got 10",
        ),
        (lambda: metrics.duplicates_without_labels([], real_score=1), "scores: expected a non-empty matrix"),
        (lambda: metrics.winner_margin([[0.5]], 1), "scores: expected a column for each of at least 2 experts, got 1"),
        (lambda: metrics.winner_margin([[0.5, 0.5]], float("nan")), r"real_score: expected .* got nan"),
    ],
)
def test_errors_name_the_argument_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim])
def test_images_of_8_bit_integers_are_refused(measure):
    with pytest.raises(TypeError, match=r"restored: expected floating-point values in .* got dtype torch.uint8"):
        measure(IMAGES.to(torch.uint8), IMAGES)

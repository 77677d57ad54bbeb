"""The maximum spanning tree under mutual information: exact against every spanning tree, and what it can be asked."""

import itertools

import networkx as nx
import numpy as np
import pytest
from benchmarks.structure import random_tree
from sklearn.exceptions import NotFittedError
from sklearn.metrics import mutual_info_score

from licm.causal.chow_liu import ChowLiu
from licm.causal.columns import as_columns, is_missing, make_coding
from licm.causal.mutual_information import DiscretePairs, GaussianPairs
from licm.causal.spanning import Forest, merge_forests
from licm.causal.tree_search import Neighbours, approximate_tree, exact_tree, row_forest

STATES = np.array([1, 2, 3, 5, 2, 1, 4, 7, 2])


def discrete(rows: int = 300, missing: float = 0.0, seed: int = 0) -> np.ndarray:
    """Codes [9, rows] of 1 to 7 states, some constant, some dependent, -1 where missing."""
    source = np.random.default_rng(seed)
    codes = np.stack([source.integers(0, states, rows) for states in STATES])
    codes[2] = (codes[3] + source.integers(0, 2, rows)) % 3
    codes[8] = codes[7] % 2
    codes[source.random(codes.shape) < missing] = -1
    return codes.astype(np.int8)


def reference(codes: np.ndarray, corrected: bool) -> np.ndarray:
    """scikit-learn's mutual information of every pair, with Miller and Madow's correction by hand."""
    found = np.zeros((len(codes), len(codes)))
    for i, j in itertools.product(range(len(codes)), repeat=2):
        both = (codes[i] >= 0) & (codes[j] >= 0)
        a, b = codes[i][both], codes[j][both]
        found[i, j] = mutual_info_score(a, b)
        if corrected:
            cells = len(set(a)) + len(set(b)) - len(set(zip(a, b))) - 1
            found[i, j] += cells / (2 * both.sum())
    return found


def assemble(pairs: DiscretePairs | GaussianPairs, width: int) -> np.ndarray:
    blocks = pairs.blocks(width)
    return np.block([[pairs.tile(rows, cols) for cols in blocks] for rows in blocks])


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("width", [1, 4, 100])
def test_mutual_information_is_scikit_learns(missing, corrected, width):
    codes = discrete(missing=missing)
    pairs = DiscretePairs(codes, STATES, bias_correction=corrected)
    expected = reference(codes, corrected)
    np.testing.assert_allclose(assemble(pairs, width), expected, atol=1e-12)
    first, second = np.triu_indices(len(codes), 1)
    np.testing.assert_allclose(pairs.pairs(first, second), expected[first, second], atol=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_gaussian_information_is_that_of_the_correlation(missing):
    source = np.random.default_rng(0)
    values = source.normal(size=(6, 200)) * 10 + 100
    values[1] += values[0]
    values[source.random(values.shape) < missing] = np.nan
    values[5] = 3.7  # a constant
    expected = np.zeros((6, 6))
    for i, j in itertools.combinations(range(5), 2):
        both = ~np.isnan(values[i] + values[j])
        expected[i, j] = -0.5 * np.log(1 - np.corrcoef(values[i][both], values[j][both])[0, 1] ** 2)
    pairs = GaussianPairs(values)
    first, second = np.triu_indices(6, 1)
    np.testing.assert_allclose(assemble(pairs, 4)[first, second], expected[first, second], atol=1e-12)
    np.testing.assert_allclose(pairs.pairs(first, second), expected[first, second], atol=1e-12)


def heaviest_by_brute_force(weights: np.ndarray) -> float:
    """The greatest total weight of all labelled trees, from their Pruefer codes."""
    size = len(weights)
    totals = []
    for code in itertools.product(range(size), repeat=size - 2):
        tree = nx.from_prufer_sequence(list(code))
        totals.append(sum(weights[a, b] for a, b in tree.edges))
    assert len(totals) == size ** (size - 2)  # Cayley
    return max(totals)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["discrete", "gaussian"])
def test_the_tree_is_the_heaviest_of_all_trees(kind, seed):
    source = np.random.default_rng(seed)
    if kind == "discrete":
        pairs = DiscretePairs(discrete(100, seed=seed)[:6], STATES[:6])
    else:
        pairs = GaussianPairs(source.normal(size=(6, 6)) @ source.normal(size=(6, 40)))
    total = exact_tree(pairs, width=2).edges()[2].sum()
    assert total == pytest.approx(heaviest_by_brute_force(assemble(pairs, 100)), abs=1e-9)


def test_the_total_weight_is_pgmpys():
    pandas = pytest.importorskip("pandas")
    search = pytest.importorskip("pgmpy.estimators").TreeSearch
    codes = discrete(500, seed=3)
    table = pandas.DataFrame(codes.T, columns=[f"x{index}" for index in range(len(codes))])
    theirs = search(table, root_node="x3", n_jobs=1).estimate(estimator_type="chow-liu", show_progress=False)
    assert len(theirs.edges) == 6  # it leaves the two constant variables, whose edges weigh nothing, out
    total = sum(mutual_info_score(table[a], table[b]) for a, b in theirs.edges)
    assert ChowLiu(kind="discrete").fit(codes.T).total_weight_ == pytest.approx(total, abs=1e-9)


def test_the_tree_does_not_depend_on_blocks_nor_on_where_they_are_computed():
    """With ties: equal weights everywhere would leave any tree the heaviest."""
    codes = np.concatenate([discrete(60), discrete(60), discrete(60, seed=1)])
    pairs = DiscretePairs(codes, np.tile(STATES, 3))
    whole = exact_tree(pairs, width=1000).edges()
    for width in (1, 7, 20):
        for found in (
            exact_tree(pairs, width=width),
            merge_forests([row_forest(pairs, k, width=width) for k in reversed(range(len(pairs.blocks(width))))]),
        ):
            for ours, theirs in zip(found.edges(), whole):
                np.testing.assert_array_equal(ours, theirs)


def test_a_forest_keeps_the_tree_of_all_edges_whatever_was_dropped_on_the_way():
    source = np.random.default_rng(0)
    for _ in range(10):
        weights = source.integers(0, 8, (40, 40)).astype(float)  # many ties
        weights = np.triu(weights, 1) + np.triu(weights, 1).T
        forest = Forest(40)
        cuts = [0, 13, 26, 40]
        blocks = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        for a, rows in enumerate(blocks):
            for cols in blocks[a:]:
                forest.add_tile(rows, cols, weights[rows, cols])
                forest.edges()  # takes the tree, so that the next tile is thinned out by it
        first, second, weight = forest.edges()
        assert nx.is_tree(nx.Graph(zip(first.tolist(), second.tolist())))
        best = nx.maximum_spanning_tree(nx.from_numpy_array(weights + 1))
        assert weight.sum() == best.size(weight="weight") - 39
        np.testing.assert_array_equal(weight, weights[first, second])


def test_a_pair_that_comes_twice_counts_once_at_its_greater_weight():
    """Two machines may round differently."""
    forest = Forest(3)
    forest.add(np.array([0, 1, 0]), np.array([1, 2, 1]), np.array([2.0, 1.0, 2.0 + 1e-9]))
    first, second, weight = forest.edges()
    assert list(zip(first.tolist(), second.tolist())) == [(0, 1), (1, 2)]
    assert weight.tolist() == [2.0 + 1e-9, 1.0]


def test_a_forest_drops_what_it_outdoes():
    forest = Forest(3)
    forest.add(np.array([0, 1]), np.array([1, 2]), np.array([5.0, 4.0]))
    forest.edges()
    forest.add_tile(slice(0, 3), slice(0, 3), np.array([[0, 5, 3.0], [0, 0, 4], [0, 0, 0]]))
    assert sum(len(edges[2]) for edges in forest._pending) == 2  # (0, 2) at 3 never entered


def test_neighbours_are_the_strongest_partners():
    source = np.random.default_rng(0)
    weights = source.random((30, 30))
    weights = np.triu(weights, 1) + np.triu(weights, 1).T
    near = Neighbours(30, 4)
    blocks = [slice(0, 11), slice(11, 13), slice(13, 30)]
    for a, rows in enumerate(blocks):
        for cols in blocks[a:]:
            near.add_tile(rows, cols, weights[rows, cols])
    np.fill_diagonal(weights, -1)
    expected = {tuple(sorted((i, j))) for i in range(30) for j in np.argsort(-weights[i])[:4].tolist()}
    assert set(zip(*(half.tolist() for half in near.pairs()))) == expected


def test_the_approximate_tree_is_nearly_the_exact_one_and_spans():
    states, edges = random_tree(150, 2000, np.random.default_rng(0))
    pairs = DiscretePairs(states, np.full(150, 2))
    exact = exact_tree(pairs).edges()[2].sum()
    forest = approximate_tree(pairs, np.random.default_rng(0), sketch_rows=300, neighbours=8, width=64)
    first, second, weight = forest.edges()
    assert len(weight) == 149
    assert 0.999 * exact <= weight.sum() <= exact + 1e-9
    assert len(edges & set(zip(first.tolist(), second.tolist()))) >= 0.98 * 149
    np.testing.assert_allclose(weight, pairs.pairs(first, second))  # measured on all rows
    alone = approximate_tree(DiscretePairs(states, np.full(150, 2)), np.random.default_rng(0), neighbours=1)
    assert len(alone.edges()[2]) == 149  # one partner each leaves parts, which the sketch's tree joins


def test_recovery_grows_with_the_sample():
    shares = []
    for rows in (50, 300, 3000):
        found = []
        for seed in range(5):
            states, edges = random_tree(40, rows, np.random.default_rng(seed))
            chosen = ChowLiu(kind="discrete").fit(states.T).edges_
            found.append(len(edges & set(map(tuple, chosen.tolist()))) / len(edges))
        shares.append(np.mean(found))
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] == 1


def words(rows: int = 400) -> dict[str, np.ndarray]:
    """sky -> ground (words), sky -> sun (words), ground -> height (continuous)."""
    source = np.random.default_rng(0)
    sky = source.choice(["blue", "grey"], rows)
    ground = np.where((sky == "grey") ^ (source.random(rows) < 0.1), "wet", "dry")
    sun = np.where((sky == "blue") ^ (source.random(rows) < 0.1), "out", "gone")
    return {"sky": sky, "ground": ground, "sun": sun, "height": (ground == "wet") + source.normal(size=rows) * 0.2}


def test_kinds_roots_and_orientation():
    data = words()
    model = ChowLiu().fit(data)
    assert model.kind_ == "mixed"
    edges = {frozenset(("sky", "ground")), frozenset(("sky", "sun")), frozenset(("ground", "height"))}
    assert {frozenset(edge) for edge in model.to_networkx().edges} == edges
    assert model.root_ == "ground"  # the greatest sum of weights
    for root in data:
        tree = ChowLiu(root=root).fit(data).to_networkx()
        assert {frozenset(edge) for edge in tree.edges} == edges
        assert nx.is_arborescence(tree)
        assert tree.in_degree(root) == 0
    weights = nx.get_edge_attributes(model.to_networkx(), "nats").values()
    assert sum(weights) == pytest.approx(model.total_weight_)
    assert ChowLiu().fit({"a": np.arange(50), "b": np.arange(50) % 7 + 0.5}).kind_ == "gaussian"
    assert ChowLiu().fit({"a": np.arange(50) % 5, "b": np.arange(50) % 2 == 0}).kind_ == "discrete"


def test_the_score_is_entropy_and_information_whatever_the_root():
    """Chow and Liu: mean log-likelihood = sum of the edges' information - sum of the variables' entropies."""
    codes = discrete(500)
    entropies = sum(mutual_info_score(row, row) for row in codes)
    scores = []
    for root in ("x0", "x3", None):
        model = ChowLiu(kind="discrete", root=root).fit(codes.T)
        scores.append(model.score(codes.T))
        assert scores[-1] == pytest.approx(model.total_weight_ - entropies)


def test_a_gaussian_tree_scores_and_samples():
    source = np.random.default_rng(0)
    a = source.normal(size=4000)
    b = a + source.normal(size=4000)
    c = b - source.normal(size=4000)
    data = {"a": a, "b": b, "c": c}
    model = ChowLiu().fit(data)
    assert model.kind_ == "gaussian"
    entropies = sum(0.5 * np.log(2 * np.pi * np.e * column.var()) for column in data.values())
    assert model.score(data) == pytest.approx(model.total_weight_ - entropies)
    sample = model.sample(4000, source)
    np.testing.assert_allclose(np.cov(list(sample.values())), np.cov(list(data.values())), atol=0.35)


def test_samples_are_in_the_datas_own_values_and_follow_them():
    data = words(3000)
    model = ChowLiu().fit(data)
    sample = model.sample(3000, np.random.default_rng(1))
    assert list(sample) == list(data)
    assert set(sample["sky"]) == {"blue", "grey"}
    assert data["height"].min() <= sample["height"].min() <= sample["height"].max() <= data["height"].max()
    both = [np.mean((columns["sky"] == "grey") & (columns["ground"] == "wet")) for columns in (data, sample)]
    assert both[0] == pytest.approx(both[1], abs=0.04)
    means = [columns["height"][columns["ground"] == "wet"].mean() for columns in (data, sample)]
    assert means[0] == pytest.approx(means[1], abs=0.1)


def test_missing_values():
    source = np.random.default_rng(0)
    a = source.integers(0, 2, 500).astype(float)
    b = np.where(source.random(500) < 0.1, 1 - a, a)
    b[:100] = np.nan
    data = {"a": a, "b": b}
    with pytest.raises(ValueError, match=r"column 'b' has 100 missing value\(s\); set missing to 'pairwise'"):
        ChowLiu().fit(data)
    pairwise = ChowLiu(missing="pairwise").fit(data)
    assert pairwise.total_weight_ == pytest.approx(mutual_info_score(a[100:], b[100:]))
    with pytest.raises(ValueError, match="column 'b' has missing values, which have no likelihood"):
        pairwise.score(data)
    category = ChowLiu(missing="category").fit(data)
    assert category.total_weight_ == pytest.approx(mutual_info_score(a, np.where(np.isnan(b), 2, b)))
    assert category.score(data) < 0
    assert None in category.sample(200, source)["b"].tolist()
    with pytest.raises(ValueError, match="column 'a' has missing values, which have no likelihood"):
        category.score({"a": np.full(3, np.nan), "b": b[:3]})  # none were missing in fit
    with pytest.raises(ValueError, match="column 'b' has no values"):
        ChowLiu(missing="pairwise").fit({"a": a, "b": np.full(500, np.nan)})
    texts = {"a": np.array(["x", "", "y", "x"] * 20), "b": np.array(["u", "u", None, "v"] * 20, object)}
    assert ChowLiu(missing="pairwise").fit(texts).kind_ == "discrete"


def test_the_bias_correction_takes_away_what_independent_variables_seem_to_share():
    source = np.random.default_rng(0)
    plain, corrected = [], []
    for _ in range(50):
        data = source.integers(0, 5, (200, 2))
        plain.append(ChowLiu().fit(data).total_weight_)
        corrected.append(ChowLiu(bias_correction=True).fit(data).total_weight_)
    assert np.mean(plain) > 0.03  # (5 - 1)^2 / 2N = 0.04
    assert abs(np.mean(corrected)) < 0.01


def test_bootstrap_confidence_is_high_for_strong_edges_and_low_for_chance():
    source = np.random.default_rng(0)
    a = source.integers(0, 2, 300)
    data = {"a": a, "b": np.where(source.random(300) < 0.1, 1 - a, a)}
    data |= {f"noise{k}": source.integers(0, 2, 300) for k in range(4)}
    model = ChowLiu().fit(data)
    shares = model.confidence_by_edge(np.random.default_rng(1), repeats=40)
    edge = ("a", "b") if ("a", "b") in shares else ("b", "a")
    assert shares.pop(edge) == 1
    assert len(shares) == 4
    assert max(shares.values()) < 1
    again = model.edge_confidence(np.random.default_rng(1), repeats=40)
    assert again.max() == 1
    with pytest.raises(ValueError, match="repeats: expected at least 1, got 0"):
        model.edge_confidence(source, repeats=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 1}, "bins: expected at least 2, got 1"),
        ({"width": 0}, "width: expected at least 1, got 0"),
        ({"missing": "drop"}, "unknown missing 'drop': Valid: category, pairwise, refuse"),
        ({"method": "fast"}, "unknown method 'fast': Valid: approximate, exact"),
        ({"kind": "binary"}, "unknown kind 'binary': Valid: auto, discrete, gaussian, mixed"),
        ({"kind": "gaussian"}, "kind: gaussian needs numbers, column 'sky' has none"),
        ({"root": "sum"}, "unknown root 'sum': did you mean 'sun'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ChowLiu(**options).fit(words(50))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "data: expected at least one column, got none"),
        (np.zeros(3), r"expected a mapping of columns or an array \[n, d\], got shape \(3,\)"),
        ({"a": [1, 2], "b": [1]}, r"data: expected columns \[n\] of one length, got a: \(2,\), b: \(1,\)"),
        (np.empty((0, 2)), "data: expected at least one row, got none"),
        ({"a": [1.0, np.inf]}, "data: column 'a' has infinite values"),
        ({"a": [1.0, 2.0], "b": [None, None]}, "data: column 'b' has no values"),
    ],
)
def test_what_is_no_table_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        ChowLiu().fit(data)


def test_later_errors():
    model = ChowLiu().fit(words())
    with pytest.raises(ValueError, match="column 'sky' has the value 'green', which was not there in fit"):
        model.score({**words(), "sky": np.full(400, "green")})
    with pytest.raises(ValueError, match="data: expected the columns of fit, differs in moon"):
        model.score({**words(), "moon": np.zeros(400)})
    with pytest.raises(NotFittedError, match="this ChowLiu is not fitted"):
        ChowLiu().to_networkx()
    with pytest.raises(ValueError, match="names: expected 2 different ones, got 1"):
        ChowLiu().fit(np.zeros((3, 2)), names=["a", "a"])
    with pytest.raises(ValueError, match="bias_correction: is for discrete data"):
        ChowLiu(kind="gaussian", bias_correction=True).fit(np.random.default_rng(0).normal(size=(9, 2)))
    with pytest.raises(ValueError, match="missing: gaussian data have no categories"):
        ChowLiu(kind="gaussian", missing="category").fit(np.array([[0.1, np.nan], [0.2, 0.7]]))


def test_one_variable_is_a_tree_without_edges():
    model = ChowLiu().fit({"a": np.array([0, 1, 1])})
    assert (model.total_weight_, model.root_, list(model.to_networkx())) == (0, "a", ["a"])


def test_bins_are_equally_filled():
    values = np.random.default_rng(0).exponential(size=800)
    counts = np.bincount(make_coding(values, bins=8, missing_state=False).encode(values, "x"))
    assert counts.tolist() == [100] * 8


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_value_more_frequent_than_a_bin_has_one_of_its_own(end):
    """Zero-inflated columns, and those that stop at a greatest value, are not one bin."""
    source = np.random.default_rng(0)
    values = np.where(source.random(1000) < 0.9, end, source.uniform(0.1, 0.9, 1000))
    coding = make_coding(values, bins=8, missing_state=False)
    codes = coding.encode(values, "x")
    assert len(set(codes[values == end].tolist())) == 1
    assert not set(codes[values == end].tolist()) & set(codes[values != end].tolist())
    assert coding.decode(codes, source)[values == end] == pytest.approx(end)


def test_numbers_among_none_are_numbers():
    columns = as_columns({"n": [1, None, 2], "w": ["1", None, "b"]})
    np.testing.assert_array_equal(columns["n"], [1, np.nan, 2])
    assert columns["w"].dtype == object


def test_a_data_frame_is_taken_by_its_columns():
    class Frame:  # as pandas and polars have it: items, but no Mapping
        def items(self):
            return words(50).items()

    model = ChowLiu().fit(Frame())
    assert model.names_ == list(words())
    assert model.score(Frame()) == model.score(words(50))


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("corrected", [False, True])
def test_variables_of_thousands_of_states_are_measured_alike(missing, corrected):
    """They are sorted, not multiplied: a matrix of all their states would be most of the memory."""
    source = np.random.default_rng(0)
    states = np.array([2, 2000, 3, 1500, 1])
    codes = np.stack([source.integers(0, k, 3000) for k in states]).astype(np.int16)
    codes[0] = codes[1] % 2
    codes[source.random(codes.shape) < missing] = -1
    pairs = DiscretePairs(codes, states, bias_correction=corrected)
    assert [block.stop - block.start for block in pairs.blocks(5000)] == [1] * 5
    np.testing.assert_allclose(assemble(pairs, 5000), reference(codes, corrected), atol=1e-12)


def test_a_column_for_every_row_takes_no_square_of_the_rows():
    """Two columns of 100,000 words each: a table of both would have 10^10 cells."""
    names = np.arange(100_000)
    model = ChowLiu(kind="discrete").fit({"a": names, "b": names[::-1], "c": names % 2})
    assert model.total_weight_ == pytest.approx(np.log(100_000) + np.log(2))
    with pytest.raises(ValueError, match=r"tabular: a table of .* states is too large"):
        model.score({"a": names, "b": names, "c": names % 2})


def test_what_pandas_calls_missing_is_missing():
    class NAType:  # pandas' own refuses to be compared and asked
        def __eq__(self, other):
            return self

        def __bool__(self):
            raise TypeError("boolean value of NA is ambiguous")

        __hash__ = None

    gone = as_columns({"a": np.array(["u", NAType(), "v", np.nan, ""], object)})["a"]
    assert is_missing(gone).tolist() == [False, True, False, True, True]
    assert is_missing(np.array(["2024-01-01", "NaT"], "datetime64[D]")).tolist() == [False, True]


def test_two_columns_of_one_name_are_refused():
    class Frame:
        def items(self):
            return [("a", [1, 2]), ("a", [2, 1])]

    with pytest.raises(ValueError, match="data: two columns are named 'a'"):
        ChowLiu().fit(Frame())

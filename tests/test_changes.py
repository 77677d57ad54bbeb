"""Which mechanisms changed: error rates over seeds, power, point masses, and which graphs tell the same story."""

import itertools

import networkx as nx
import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency, f, kstest

from licm.causal.change_tests import discrete_change, holm, linear_gaussian_change
from licm.causal.changes import mechanism_changes
from licm.causal.conditionals import LinearGaussian, Tabular
from licm.causal.drawing import tidy_layout
from licm.causal.equivalence import equivalence_class
from licm.causal.factorization import CausalFactorization
from licm.causal.ranking import rank_by_changes

COLLIDER = nx.DiGraph([("a", "c"), ("b", "c"), ("c", "d")])
CHAIN = nx.DiGraph([("a", "b"), ("b", "c")])


def gaussian(graph: nx.DiGraph, source: np.random.Generator) -> CausalFactorization:
    def mechanism(parents: int) -> LinearGaussian:
        return LinearGaussian(source.uniform(0.4, 1, parents), source.normal(), source.uniform(0.5, 1.5))

    return CausalFactorization(graph, {node: mechanism(graph.in_degree(node)) for node in graph})


def tables(graph: nx.DiGraph, source: np.random.Generator, states: int = 3) -> CausalFactorization:
    def table(parents: int) -> Tabular:
        return Tabular(source.dirichlet(np.full(states, 2.0), (states,) * parents))

    return CausalFactorization(graph, {node: table(graph.in_degree(node)) for node in graph})


def test_the_likelihood_ratio_is_that_of_the_textbook():
    """Without parents and with equal variances known it is -2 log of a ratio of normal likelihoods, here by hand."""
    source = np.random.default_rng(0)
    before, after = source.normal(0, 1, 60), source.normal(0.3, 1.4, 80)
    found = linear_gaussian_change(before, np.empty((60, 0)), after, np.empty((80, 0)))
    pooled = np.concatenate([before, after])
    expected = 140 * np.log(pooled.var()) - 60 * np.log(before.var()) - 80 * np.log(after.var())
    assert found.statistic == pytest.approx(expected)
    assert (found.degrees, found.p_value) == (2, pytest.approx(chi2.sf(expected, 2)))


def test_g_is_that_of_scipy_on_one_table():
    source = np.random.default_rng(1)
    before, after = source.choice(3, 200, p=[0.2, 0.3, 0.5]), source.choice(3, 300, p=[0.3, 0.3, 0.4])
    found = discrete_change(before, np.empty((200, 0)), after, np.empty((300, 0)))
    table = [np.bincount(before), np.bincount(after)]
    reference = chi2_contingency(table, lambda_="log-likelihood", correction=False)
    assert found.statistic == pytest.approx(reference.statistic)
    assert found.p_value == pytest.approx(reference.pvalue)


def test_g_is_summed_over_the_states_of_the_parents_and_rare_values_go_together():
    source = np.random.default_rng(2)
    sides = []
    for size in (400, 500):
        parents = source.integers(0, 2, (size, 1))
        sides += [source.choice(4, size, p=[0.5, 0.49, 0.005, 0.005]), parents]
    found = discrete_change(*sides)
    by_hand = 0.0
    for state in (0, 1):
        values = [side[parents[:, 0] == state] for side, parents in (sides[:2], sides[2:])]
        counts = np.array([np.bincount(np.minimum(v, 2), minlength=3) for v in values])
        if counts[:, 2].sum() * min(map(len, values)) / sum(map(len, values)) < 5:
            counts = counts[:, :2]
        by_hand += chi2_contingency(counts, lambda_="log-likelihood", correction=False).statistic
    assert found.statistic == pytest.approx(by_hand)


@pytest.mark.parametrize("kind", [gaussian, tables])
def test_p_values_of_unchanged_mechanisms_are_uniform(kind):
    p_values = []
    for seed in range(60):
        source = np.random.default_rng(seed)
        model = kind(COLLIDER, source)
        report = mechanism_changes(COLLIDER, model.sample(800, source), model.sample(600, source))
        p_values += [change.p_value for change in report.findings.values()]
    assert kstest(p_values, "uniform").pvalue > 0.001  # 240 tests, fixed seeds


@pytest.mark.parametrize("kind", ["gaussian", "tables"])
def test_only_targets_change_along_the_causal_graph(kind):
    """All targets found; family-wise errors as chance allows at 0.05: 7 or more in 40 models has chance 0.003."""
    false = missed = 0
    for seed in range(40):
        source = np.random.default_rng(seed)
        if kind == "gaussian":
            model = gaussian(COLLIDER, source)
            changed = model.soft("c", shift=0.5 * model.conditionals["c"].deviation)
        else:
            model = tables(COLLIDER, source)
            changed = model.replace_mechanism("c", tables(COLLIDER, source).conditionals["c"])
        report = mechanism_changes(COLLIDER, model.sample(2000, source), changed.sample(2000, source), targets=["c"])
        false += bool(report.unexpected)
        missed += len(report.missed)
    assert false <= 6
    assert missed == 0


def test_along_another_graph_more_mechanisms_change():
    source = np.random.default_rng(0)
    model = gaussian(COLLIDER, source)
    before = model.sample(5000, source)
    after = model.soft("a", shift=2.0).soft("c", shift=2.0).sample(5000, source)
    assert mechanism_changes(COLLIDER, before, after).changed == ["a", "c"]
    assert len(mechanism_changes(COLLIDER.reverse(), before, after).changed) > 2


def test_members_of_the_interventional_class_tie_and_others_do_not():
    """A chain a, b, c, d intervened on at c: along equivalent graphs only c changes, along others more do."""
    graph = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "d")])
    source = np.random.default_rng(3)
    model = gaussian(graph, source)
    before, after = model.sample(20_000, source), model.soft("c", shift=1.5).sample(20_000, source)
    members = {frozenset(member.edges) for member in equivalence_class(graph, [{"c"}])}
    everyone = equivalence_class(graph)
    assert (len(members), len(everyone)) == (2, 4)
    for other in everyone:
        changed = mechanism_changes(other, before, after, alpha=0.001).changed
        if frozenset(other.edges) in members:
            assert changed == ["c"]
        else:
            assert len(changed) > 1


def test_a_hard_intervention_is_seen_as_one_and_its_children_are_unchanged():
    for kind, value in ((gaussian, 4.0), (tables, 1)):
        false = 0
        for seed in range(20):
            source = np.random.default_rng(seed)
            model = kind(COLLIDER, source)
            before, after = model.sample(1500, source), model.do(c=value).sample(1500, source)
            report = mechanism_changes(COLLIDER, before, after, targets=["c"])
            assert report.hard == ["c"]
            assert report.findings["c"].p_value == 0
            false += bool(report.unexpected)
        assert false <= 4  # of 20 at 0.05: 5 or more has chance 0.003


def test_a_held_parent_takes_a_degree_of_freedom():
    source = np.random.default_rng(0)
    x, held = source.normal(size=(500, 1)), np.full((500, 1), 3.0)
    before, after = x[:, 0] + source.normal(size=500), held[:, 0] + source.normal(size=500)
    assert linear_gaussian_change(before, x, after, held).degrees == 2
    assert linear_gaussian_change(before, x, after, x).degrees == 3


def test_values_without_noise():
    """Continuous: a point mass, or an exact function of the parents, which is one given them."""
    source = np.random.default_rng(0)
    x, z = source.normal(size=(100, 1)), np.empty((100, 0))
    exact, noisy, still = 2 * x[:, 0], 2 * x[:, 0] + source.normal(size=100), np.full(100, 3.0)
    assert linear_gaussian_change(noisy, x, still, x).hard
    assert linear_gaussian_change(still, z, noisy, z).hard
    assert linear_gaussian_change(still, x, still, x).p_value == 1
    assert linear_gaussian_change(still, x, still + 1, x).hard
    assert linear_gaussian_change(exact, x, exact, x).p_value == 1
    assert linear_gaussian_change(noisy, x, exact, x).hard
    assert linear_gaussian_change(exact, x, exact + 1, x).hard
    far = 1e9 + noisy  # noise is told from rounding far from zero too
    assert 0 < linear_gaussian_change(far, x, far[::-1], x[::-1]).p_value <= 1


def test_states_without_noise():
    z = np.empty((100, 0), int)
    coin, ones = np.arange(100) % 2, np.ones(100, int)
    assert discrete_change(coin, z, ones, z).hard
    assert discrete_change(ones, z, coin, z).hard
    assert discrete_change(ones, z, 1 - ones, z).hard
    assert discrete_change(ones, z, ones, z).p_value == 1
    nearly = np.arange(100) > 0  # 1 of 100: that none is left has chance 1/2
    assert not discrete_change(nearly, z, ones, z).hard
    assert not discrete_change(coin[:2], z[:2], ones, z).hard  # few rows make nothing incredible


@pytest.mark.parametrize("value", [0, 1])
def test_a_child_that_stands_still_since_its_parent_does_was_not_set(value):
    """A copy of its parent is constant after a do on the parent, its mechanism is what it was."""
    source = np.random.default_rng(0)
    graph = nx.DiGraph([("cause", "copy")])
    bits = source.integers(0, 2, 500)
    held = np.full(500, value)
    for scale in (1, 2.5):  # discrete, and continuous
        before = {"cause": bits if scale == 1 else source.normal(size=500)}
        before["copy"], after = scale * before["cause"], {"cause": held, "copy": scale * held}
        report = mechanism_changes(graph, before, after)
        assert (report.changed, report.hard) == (["cause"], ["cause"])
        assert report.findings["copy"].p_value == 1


def test_what_was_set_before_and_stays_set_is_unchanged():
    source = np.random.default_rng(0)
    model = gaussian(COLLIDER, source)
    before, after = model.do(c=2).sample(500, source), model.do(c=2).soft("a", shift=3.0).sample(500, source)
    assert mechanism_changes(COLLIDER, before, after).changed == ["a"]
    other = model.do(c=3).sample(500, source)
    assert mechanism_changes(COLLIDER, before, other).hard == ["c"]


def test_a_continuous_node_may_have_discrete_parents():
    source = np.random.default_rng(0)
    graph = nx.DiGraph([("group", "size")])

    def draw(effect: float) -> dict[str, np.ndarray]:
        group = source.choice(["x", "y", "z"], 1000)
        return {"group": group, "size": effect * (group == "z") + source.normal(size=1000)}

    assert mechanism_changes(graph, draw(1), draw(1)).changed == []
    assert mechanism_changes(graph, draw(1), draw(2)).changed == ["size"]
    with pytest.raises(ValueError, match="node 'group' is discrete and its parent 'size' continuous"):
        mechanism_changes(graph.reverse(), draw(1), draw(1))


def test_holm_against_its_definition():
    source = np.random.default_rng(0)
    for _ in range(20):
        p_values = source.random(6) ** 3
        for alpha in (0.01, 0.05, 0.3):
            rejected = set()
            for step, index in enumerate(np.argsort(p_values)):
                if p_values[index] > alpha / (6 - step):
                    break
                rejected.add(index)
            assert set(np.flatnonzero(holm(p_values) <= alpha)) == rejected


def test_the_report_says_it_and_draws_it(tmp_path):
    source = np.random.default_rng(0)
    model = gaussian(COLLIDER, source)
    before, after = model.sample(2000, source), model.do(a=9).soft("c", shift=3.0).sample(2000, source)
    report = mechanism_changes(COLLIDER, before, after, targets=["c", "d"])
    assert report.changed == ["a", "c"]
    assert (report.unexpected, report.missed) == (["a"], ["d"])
    assert set(report.changed_edges) == {("a", "c"), ("b", "c")}
    text = str(report)
    assert "set by hand, though no target" in text
    assert "unchanged, though a target" in text
    report.draw(tmp_path / "changes.svg")
    assert "<svg" in (tmp_path / "changes.svg").read_text()
    again = tmp_path / "again.svg"
    report.draw(again)
    assert again.read_bytes() == (tmp_path / "changes.svg").read_bytes()
    with pytest.raises(ValueError, match=r"'x.txt': expected a name that ends in .png or .svg"):
        report.draw("x.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.0}, r"alpha: expected a probability in \(0, 1\), got 1"),
        ({"targets": ["z"]}, "targets: 'z' is not a node of the graph"),
        ({"before": {"a": [1, 2]}}, "before: no column for node 'b'"),
        ({"after": {"a": [0.5, 1], "b": [np.nan, 1], "c": [1, 2]}}, "after: column 'b' has missing values"),
        ({"graph": nx.DiGraph([("a", "b"), ("b", "a")])}, "graph: expected no cycle"),
        ({"after": {"a": ["x"], "b": [0.5], "c": [1.5]}}, "column 'a' has words on one side and numbers on the other"),
        ({"before": {n: [0.5, 1] for n in "abc"}}, "node 'a': needs at least 3 observations a side, got 2"),
    ],
)
def test_users_errors_are_named(change, message):
    source = np.random.default_rng(0)
    data = gaussian(CHAIN, source).sample(20, source)
    arguments = {"graph": CHAIN, "before": data, "after": data, **change}
    with pytest.raises(ValueError, match=message):
        mechanism_changes(arguments.pop("graph"), arguments.pop("before"), arguments.pop("after"), **arguments)


def brute_force_class(graph: nx.DiGraph, targets: list[set[str]]) -> set[frozenset]:
    """All DAGs over the nodes, equal in every d-separation of the graph with its interventions as nodes."""

    def independences(dag: nx.DiGraph) -> frozenset:
        full = nx.DiGraph(dag)
        full.add_edges_from((f"I{k}", t) for k, chosen in enumerate(targets) for t in chosen)
        nodes = list(full)
        interventions = [n for n in nodes if n not in graph]
        return frozenset(
            (x, y, given)
            for x, y in itertools.combinations(nodes, 2)
            if y in graph or x in graph
            for size in range(len(nodes) - 1)
            for given in itertools.combinations([n for n in nodes if n not in (x, y)], size)
            if set(interventions) - {x, y} <= set(given)
            if nx.is_d_separator(full, {x}, {y}, set(given))
        )

    wanted, nodes, found = independences(graph), sorted(graph), set()
    pairs = list(itertools.combinations(nodes, 2))
    for directions in itertools.product((None, False, True), repeat=len(pairs)):
        other = nx.DiGraph()
        other.add_nodes_from(nodes)
        other.add_edges_from((b, a) if back else (a, b) for (a, b), back in zip(pairs, directions) if back is not None)
        if nx.is_directed_acyclic_graph(other) and independences(other) == wanted:
            found.add(frozenset(other.edges))
    return found


@pytest.mark.parametrize(
    ("edges", "targets"),
    [
        ([("a", "b"), ("b", "c")], []),
        ([("a", "b"), ("c", "b")], []),
        ([("a", "b"), ("b", "c"), ("a", "c")], []),
        ([("a", "b"), ("b", "c")], [{"a"}]),
        ([("a", "b"), ("b", "c"), ("a", "c")], [{"b"}]),
        ([("a", "b"), ("b", "c"), ("a", "c")], [{"c"}]),
        ([("a", "b"), ("b", "c")], [{"a", "c"}]),
    ],
)
def test_classes_are_those_of_equal_independences(edges, targets):
    graph = nx.DiGraph(edges)
    assert {frozenset(g.edges) for g in equivalence_class(graph, targets)} == brute_force_class(graph, targets)


def test_known_sizes_of_classes():
    complete = nx.DiGraph([(i, j) for i in range(5) for j in range(i + 1, 5)])
    assert len(equivalence_class(complete)) == 120  # all orders
    assert len(equivalence_class(COLLIDER)) == 1
    with pytest.raises(ValueError, match="at most 6 nodes, got 7"):
        equivalence_class(nx.path_graph(7, create_using=nx.DiGraph))
    with pytest.raises(ValueError, match="targets: 'z' is not a node"):
        equivalence_class(CHAIN, [{"z"}])


def test_the_truth_comes_to_the_top_as_targets_grow():
    """Of a chain's four graphs: intervening on the second node leaves two, on the third as well leaves one."""
    graph = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "d")])
    source = np.random.default_rng(1)
    model = gaussian(graph, source)
    observed = model.sample(10_000, source)
    environments = [model.soft(target, shift=2.0).sample(10_000, source) for target in "bcd"]
    ranks = [
        rank_by_changes(graph, observed, environments[:count], alpha=0.001).tied_rank(graph) for count in (1, 2, 3)
    ]
    sizes = [len(equivalence_class(graph, [{t} for t in "bcd"[:count]])) for count in (1, 2, 3)]
    assert ranks == [(size + 1) / 2 for size in sizes]
    ranking = rank_by_changes(graph, observed, environments, alpha=0.001)
    assert [set(best.edges) for best in ranking.best] == [set(graph.edges)]
    assert ranking.changes[0] == 3
    with pytest.raises(ValueError, match="graph: is not among those ranked"):
        ranking.tied_rank(COLLIDER)
    with pytest.raises(ValueError, match="environments: expected at least one, got none"):
        rank_by_changes(graph, observed, [])


def test_the_f_test_agrees_where_both_apply():
    """Chow's F-test of equal coefficients asks nearly the same: its verdict on a shift is as clear."""
    source = np.random.default_rng(4)
    x = source.normal(size=(300, 1))
    before, after = x[:, 0] + source.normal(size=300), x[:, 0] + 0.5 + source.normal(size=300)
    design = np.column_stack([np.ones(300), x])
    squares = [float(np.linalg.lstsq(d, v, rcond=None)[1][0]) for d, v in (
        (np.vstack([design, design]), np.concatenate([before, after])), (design, before), (design, after))]  # fmt: skip
    ratio = (squares[0] - squares[1] - squares[2]) / 2 / ((squares[1] + squares[2]) / 596)
    reference = f.sf(ratio, 2, 596)
    found = linear_gaussian_change(before, x, after, x)
    assert reference < 1e-6
    assert np.log(found.p_value) == pytest.approx(np.log(reference), rel=0.35)


def test_the_report_says_which_graphs_tie():
    source = np.random.default_rng(0)
    model = gaussian(CHAIN, source)
    before, after = model.sample(2000, source), model.soft("c", shift=2.0).sample(2000, source)
    for targets, given in ((["c"], "the targets"), (None, "what changed")):
        report = mechanism_changes(CHAIN, before, after, targets=targets)
        assert [set(tie.edges) for tie in report.ties] == [{("b", "a"), ("b", "c")}]
        assert f"one other graph ties, no test tells them from this one, given {given}: b -> a, b -> c" in str(report)
    assert "2 other graphs tie" in str(mechanism_changes(CHAIN, before, before))  # nothing changed, nothing is learnt
    after = model.soft("b", shift=2.0).sample(2000, source)
    assert "no other graph ties" in str(mechanism_changes(CHAIN, before, after, targets=["b"]))
    large = nx.path_graph(7, create_using=nx.DiGraph)
    data = gaussian(large, source).sample(100, source)
    report = mechanism_changes(large, data, data)
    assert report.ties is None
    assert "tie" not in str(report)


def test_too_many_states_to_count_are_named():
    graph, many = nx.DiGraph([("a", "b")]), np.array([f"w{k}" for k in range(8000)])
    with pytest.raises(
        ValueError, match="node 'b': 8000 values under 8000 states of the parents are too many to count"
    ):
        mechanism_changes(graph, {"a": many, "b": many}, {"a": many, "b": many})
    numbers = np.random.default_rng(0).normal(size=8000)
    with pytest.raises(ValueError, match="node 'b': a parent has 8000 different words or numbers, too many for"):
        mechanism_changes(graph, {"a": many, "b": numbers}, {"a": many, "b": numbers})


def test_names_in_a_picture_do_not_cover_each_other():
    """Boxes of a tree are apart whatever its shape: one node a place, a row for each leaf, columns by depth."""
    for seed in range(5):
        tree = nx.DiGraph(nx.bfs_tree(nx.random_labeled_tree(60, seed=seed), 0))
        places = tidy_layout(tree, 0)
        for (_, (x, y)), (_, (other_x, other_y)) in itertools.combinations(places.items(), 2):
            assert x != other_x or abs(y - other_y) >= 1

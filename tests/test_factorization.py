"""p(x) = prod p(x_j | pa_j): density against SciPy, sampling, interventions, and what is refused."""

import networkx as nx
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeRegressor

from licm.causal.conditionals import Blend, Estimator, LinearGaussian, PointMass, Shifted, Tabular, as_conditional
from licm.causal.factorization import CausalFactorization

CHAIN = nx.DiGraph([("a", "b"), ("b", "c"), ("a", "c")])
GAUSSIAN = {
    "a": LinearGaussian([], 1.0, 2.0),
    "b": LinearGaussian([0.5], 0.0, 1.0),
    "c": LinearGaussian([-1.0, 2.0], 3.0, 0.5),  # of a, then b: the order of the graph's nodes
}


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_linear_gaussian_density_is_the_joint_normal_one():
    """x = m + B x + e has covariance (I - B)^-1 D (I - B)^-T."""
    model = CausalFactorization(CHAIN, GAUSSIAN)
    weights = np.array([[0, 0, 0], [0.5, 0, 0], [-1, 2, 0]])
    inverse = np.linalg.inv(np.eye(3) - weights)
    joint = multivariate_normal(inverse @ [1, 0, 3], inverse @ np.diag([4, 1, 0.25]) @ inverse.T)
    points = draws().normal(size=(20, 3))
    found = model.log_density(dict(zip("abc", points.T)))
    np.testing.assert_allclose(found, joint.logpdf(points), rtol=1e-10)
    sample = model.sample(50_000, draws())
    columns = np.array([sample[name] for name in "abc"])
    np.testing.assert_allclose(columns.mean(axis=1), joint.mean, atol=0.06)
    np.testing.assert_allclose(np.cov(columns), joint.cov, rtol=0.05, atol=0.1)


def test_tables_give_the_product_of_their_entries():
    tables = {"a": [0.2, 0.8], "b": [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], "c": draws().dirichlet([1, 1], (2, 3))}
    model = CausalFactorization(CHAIN, {name: Tabular(table) for name, table in tables.items()})
    a, b, c = (values.ravel() for values in np.indices((2, 3, 2)))
    expected = np.array(tables["a"])[a] * np.array(tables["b"])[a, b] * tables["c"][a, b, c]
    density = np.exp(model.log_density({"a": a, "b": b, "c": c}))
    np.testing.assert_allclose(density, expected)
    assert density.sum() == pytest.approx(1)
    sample = model.sample(40_000, draws())
    seen = np.bincount(np.ravel_multi_index((sample["a"], sample["b"], sample["c"]), (2, 3, 2)), minlength=12) / 40_000
    np.testing.assert_allclose(seen, expected, atol=0.01)


def test_fitting_finds_the_mechanisms_again():
    data = CausalFactorization(CHAIN, GAUSSIAN).sample(20_000, draws())
    fitted = CausalFactorization(CHAIN, "linear_gaussian").fit(data)
    for name, truth in GAUSSIAN.items():
        found = fitted.conditionals[name]
        np.testing.assert_allclose(found.weights, truth.weights, atol=0.03)
        assert found.deviation == pytest.approx(truth.deviation, rel=0.03)
    assert fitted.log_density(data).mean() >= CausalFactorization(CHAIN, GAUSSIAN).log_density(data).mean()


def test_a_table_counts_and_pseudo_counts():
    values, parents = np.array([0, 1, 1, 1]), np.array([[0], [0], [0], [2]])
    table = Tabular(num_states=2).fit(values, parents).table
    np.testing.assert_allclose(table, [[1 / 3, 2 / 3], [0.5, 0.5], [0, 1]])
    table = Tabular(pseudo_count=1, num_states=2).fit(values, parents).table
    np.testing.assert_allclose(table[0], [2 / 5, 3 / 5])


def test_do_cuts_parents_and_leaves_the_other_mechanisms_the_same_objects():
    model = CausalFactorization(CHAIN, GAUSSIAN)
    changed = model.do(b=5)
    assert set(changed.graph.edges) == {("b", "c"), ("a", "c")}
    assert all(changed.conditionals[name] is model.conditionals[name] for name in "ac")
    sample = changed.sample(20_000, draws())
    assert (sample["b"] == 5).all()
    assert sample["a"].mean() == pytest.approx(1, abs=0.06)  # causes do not move
    assert sample["c"].mean() == pytest.approx(3 - 1 + 10, abs=0.06)  # effects do
    inside = changed.log_density({"a": [0.0], "b": [5], "c": [0.0]})
    assert inside == pytest.approx(norm.logpdf(0, 1, 2) + norm.logpdf(0, 13, 0.5))
    assert changed.log_density({"a": [0.0], "b": [4], "c": [0.0]})[0] == -np.inf
    assert set(model.graph.edges) == set(CHAIN.edges)  # the model itself is as it was


def test_soft_interventions_keep_listening():
    model = CausalFactorization(CHAIN, GAUSSIAN)
    shifted = model.soft("b", shift=2.0)
    assert set(shifted.graph.edges) == set(CHAIN.edges)
    point = {"a": [1.0], "b": [2.5], "c": [0.0]}
    assert shifted.terms(point)["b"] == pytest.approx(norm.logpdf(0))
    assert shifted.sample(20_000, draws())["b"].mean() == pytest.approx(2.5, abs=0.06)
    blended = model.soft("b", other=LinearGaussian([0.0], 10.0, 1.0), share=0.25)
    expected = np.log(0.75 * norm.pdf(2.5, 0.5) + 0.25 * norm.pdf(2.5, 10))
    assert blended.terms(point)["b"] == pytest.approx(expected)
    assert blended.sample(20_000, draws())["b"].mean() == pytest.approx(0.75 * 0.5 + 2.5, abs=0.15)


def test_a_shifted_mechanism_can_be_fitted():
    model = CausalFactorization(CHAIN, GAUSSIAN).soft("b", shift=2.0)
    fitted = model.fit(model.sample(20_000, draws()))
    assert fitted.conditionals["b"].inner.intercept == pytest.approx(0, abs=0.04)


def test_a_replaced_mechanism_may_have_other_parents():
    model = CausalFactorization(CHAIN, GAUSSIAN)
    changed = model.replace_mechanism("b", LinearGaussian([], 7.0, 1.0), parents=())
    assert list(changed.graph.predecessors("b")) == []
    with pytest.raises(ValueError, match=r"graph: expected no cycle, got .*a -> "):
        model.replace_mechanism("a", LinearGaussian([1.0], 0.0, 1.0), parents=("c",))


def test_parents_are_in_the_order_of_the_nodes_whatever_the_order_of_edges():
    graph = nx.DiGraph()
    graph.add_nodes_from(["x", "y", "z"])
    graph.add_edges_from([("y", "z"), ("x", "z")])
    model = CausalFactorization(graph, {"x": PointMass(1), "y": PointMass(10), "z": LinearGaussian([1, 100], 0, 1)})
    assert model.parents("z") == ("x", "y")
    for variant in (model, model.do(x=1), model.soft("y", shift=0.0 + 1e-12)):
        assert variant.sample(1000, draws())["z"].mean() == pytest.approx(1001, abs=0.2)


def test_scikit_learns_estimators_are_mechanisms():
    graph = nx.DiGraph([("x", "y"), ("y", "k")])
    source = draws()
    x = source.normal(size=4000)
    y = 2 * x + source.normal(size=4000) * 0.5
    k = np.where(source.random(4000) < 1 / (1 + np.exp(-3 * y)), "up", "down")
    model = CausalFactorization(
        graph, {"x": "linear_gaussian", "y": LinearRegression(), "k": LogisticRegression()}
    ).fit({"x": x, "y": y, "k": k})
    ours = LinearGaussian().fit(y, x[:, None])
    terms = model.terms({"x": x, "y": y, "k": k})
    np.testing.assert_allclose(terms["y"], ours.log_density(y, x[:, None]), rtol=1e-8)
    assert np.exp(terms["k"]).mean() > 0.7
    sample = model.do(x=3).sample(2000, draws())
    assert sample["y"].mean() == pytest.approx(6, abs=0.1)
    assert np.mean(sample["k"] == "up") > 0.99
    assert model.log_density({"x": [0.0], "y": [0.0], "k": ["sideways"]})[0] == -np.inf


def test_a_nonlinear_regressor():
    x = draws().uniform(-1, 1, (3000, 1))
    y = np.sign(x[:, 0]) + 0.1 * draws(1).normal(size=3000)
    fitted = Estimator(DecisionTreeRegressor(max_depth=2)).fit(y, x)
    assert fitted.deviation == pytest.approx(0.1, rel=0.05)
    assert fitted.sample(np.full((1000, 1), -0.5), draws()).mean() == pytest.approx(-1, abs=0.02)


@pytest.mark.parametrize(
    ("graph", "conditionals", "message"),
    [
        (nx.DiGraph([("a", "b"), ("b", "a")]), "tabular", "graph: expected no cycle, got a -> b -> a"),
        (nx.DiGraph(), "tabular", "graph: expected at least one node"),
        (CHAIN, {"a": "tabular", "b": "tabular"}, "conditionals: none for node 'c'"),
        (CHAIN, {**GAUSSIAN, "d": "tabular"}, "conditionals: 'd' is not a node of the graph"),
        (
            CHAIN,
            {**GAUSSIAN, "c": Tabular([0.5, 0.5])},
            r"'c' takes 0 parent\(s\), the graph gives 2 \('a', 'b'\)",
        ),
        (CHAIN, "tabulr", "unknown conditional 'tabulr': did you mean 'tabular'?"),
    ],
)
def test_what_does_not_fit_is_refused(graph, conditionals, message):
    with pytest.raises(ValueError, match=message):
        CausalFactorization(graph, conditionals)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match=r"graph: expected a networkx\.DiGraph, got Graph"):
        CausalFactorization(nx.Graph([("a", "b")]), "tabular")
    with pytest.raises(TypeError, match=r"conditional: expected one of licm\.causal, a name or an estimator, got int"):
        as_conditional(3)


def test_users_errors_are_named():
    model = CausalFactorization(CHAIN, GAUSSIAN)
    data = model.sample(50, draws())
    with pytest.raises(ValueError, match="data: no column for node 'b'"):
        model.log_density({"a": data["a"]})
    with pytest.raises(ValueError, match="data: column 'b' has missing values"):
        model.fit({**data, "b": np.where(data["b"] > 0, data["b"], np.nan)})
    with pytest.raises(ValueError, match="node 'b': linear-Gaussian: the values are an exact function of the parents"):
        CausalFactorization(CHAIN, "linear_gaussian").fit({**data, "b": 2 * data["a"]})
    with pytest.raises(ValueError, match=r"node 'a': tabular: expected states 0, 1, \.\.\., got"):
        CausalFactorization(CHAIN, "tabular").fit(data)
    with pytest.raises(ValueError, match=r"node 'a': tabular: expected states 0, 1, \.\.\., got .*'u'"):
        CausalFactorization(CHAIN, "tabular").fit({**data, "a": ["u"] * 50})
    with pytest.raises(ValueError, match="unknown node 'z'"):
        model.do(z=1)
    with pytest.raises(ValueError, match="do: expected at least one node and its value"):
        model.do()
    with pytest.raises(ValueError, match="soft: expected a shift, or another mechanism and its share"):
        model.soft("b")
    for half in ({"share": 0.5}, {"other": LinearGaussian([1.0])}):
        with pytest.raises(ValueError, match="soft: another mechanism and its share go together, got one of them"):
            model.soft("b", shift=1.0, **half)
    with pytest.raises(ValueError, match="that of 'b' takes 2"):
        model.soft("b", other=LinearGaussian([1, 1], 0, 1), share=0.5)
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        model.sample(0, draws())
    with pytest.raises(NotFittedError, match="this conditional is not fitted"):
        CausalFactorization(CHAIN, "linear_gaussian").sample(3, draws())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tabular([0.5, 0.6]), "table: expected probabilities that sum to 1"),
        (lambda: Tabular(pseudo_count=-1), "pseudo_count: expected at least 0, got -1"),
        (
            lambda: Tabular(parent_states=(2,)).fit(np.zeros(3), np.zeros((3, 2))),
            "parent_states: expected 2 numbers, got 1",
        ),
        (lambda: LinearGaussian([], 0, 0), "deviation: expected above 0, got 0"),
        (lambda: Blend(PointMass(0), PointMass(1), 1.5), r"share: expected a probability in \[0, 1\], got 1.5"),
        (lambda: Blend(PointMass(0), PointMass(1), 0.5).fit(np.zeros(1), np.zeros((1, 0))), "blend: cannot be fitted"),
        (lambda: Estimator(LinearRegression()).fit(np.zeros(3), np.empty((3, 0))), "needs at least one parent"),
    ],
)
def test_conditionals_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_shift_of_a_table_moves_its_states():
    shifted = Shifted(Tabular([1.0, 0.0]), 1)
    assert shifted.sample(np.empty((5, 0)), draws()).tolist() == [1] * 5


def test_classifiers_without_probabilities_are_refused():
    graph, source = nx.DiGraph([("x", "k")]), draws()
    x = source.normal(size=60)
    model = CausalFactorization(graph, {"x": "linear_gaussian", "k": RidgeClassifier()})
    with pytest.raises(ValueError, match="node 'k': estimator: RidgeClassifier has no predict_proba, which a density"):
        model.fit({"x": x, "k": (x > 0).astype(int)})


def test_an_estimator_sees_words_as_words_and_numbers_as_numbers():
    """Among its parents both: a column transformer tells them apart."""
    graph, source = nx.DiGraph([("k", "y"), ("x", "y")]), draws()
    data = {"k": source.choice(["up", "down"], 3000), "x": source.normal(size=3000)}
    data["y"] = 4 * (data["k"] == "up") + 3 * data["x"] + 0.1 * source.normal(size=3000)
    regressor = make_pipeline(
        make_column_transformer((OneHotEncoder(), [0]), remainder="passthrough"), LinearRegression()
    )
    model = CausalFactorization(graph, {"k": PointMass("up"), "x": "linear_gaussian", "y": regressor}).fit(data)
    assert model.conditionals["y"].deviation == pytest.approx(0.1, rel=0.1)
    assert model.do(k="down").sample(4000, source)["y"].mean() == pytest.approx(0, abs=0.2)
    with pytest.raises(ValueError, match="node 'y': linear-Gaussian: expected numbers, got "):
        CausalFactorization(graph, {"k": PointMass("up"), "x": "linear_gaussian", "y": "linear_gaussian"}).fit(data)
    model = CausalFactorization(CHAIN, GAUSSIAN).do(a="high")
    with pytest.raises(ValueError, match="node 'b': linear-Gaussian: expected numbers, got high"):
        model.sample(3, source)


def test_a_table_beyond_all_use_is_refused_before_it_fills_the_memory():
    data = {"a": np.array([0, 10**9]), "b": np.array([1, 10**6])}
    with pytest.raises(ValueError, match="node 'b': tabular: a table of 1000000001 x 1000001 states is too large"):
        CausalFactorization(nx.DiGraph([("a", "b")]), {"a": PointMass(0), "b": "tabular"}).fit(data)

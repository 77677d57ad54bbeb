"""The tie to the experts: a factorisation with a known answer, and the whole way from a small run."""

import numpy as np
import pytest

from licm.causal.conditionals import Tabular
from licm.causal.experts import GRAPH, expected_accuracy, fit_mechanism_factorization, predict_under_mixture
from licm.causal.factorization import CausalFactorization


def test_accuracy_under_a_mixture_is_that_of_the_mechanisms_weighed_by_it():
    """Mechanism 0 leaves the class as it is, mechanism 1 spreads the answer evenly over four."""
    answer = np.stack([np.eye(4), np.full((4, 4), 0.25)], axis=1)
    truth = CausalFactorization(
        GRAPH, {"class": Tabular(np.full(4, 0.25)), "mechanism": Tabular([0.5, 0.5]), "answer": Tabular(answer)}
    )
    assert expected_accuracy(truth) == pytest.approx(0.625)
    data = truth.sample(20_000, np.random.default_rng(0))
    fitted = fit_mechanism_factorization(data, num_classes=4, num_experts=2)
    assert expected_accuracy(fitted) == pytest.approx(np.mean(data["class"] == data["answer"]), abs=0.005)
    for share in (0.0, 0.2, 1.0):
        changed = fitted.replace_mechanism("mechanism", Tabular([1 - share, share]))
        new = truth.replace_mechanism("mechanism", Tabular([1 - share, share])).sample(20_000, np.random.default_rng(1))
        assert expected_accuracy(changed) == pytest.approx(np.mean(new["class"] == new["answer"]), abs=0.015)


def test_a_runs_experts_foretell_and_are_measured(small_run):
    made = predict_under_mixture(small_run, [0, 3])
    assert made.weights.tolist() == [0, 1]
    assert made.mixture.sum() == pytest.approx(1)
    assert made.mixture.shape == (3,)
    for value in (made.predicted, made.measured, made.unchanged):
        assert 0 <= value <= 1
    assert made.standard_error > 0 or made.measured in (0, 1)
    assert set(made.factorization.graph.edges) == {("class", "answer"), ("mechanism", "answer")}
    assert f"predicted {made.predicted:.3f}, measured {made.measured:.3f}" in str(made)
    # The mixture it was fitted under comes back: do(mechanism ~ p(mechanism)) changes nothing in expectation.
    same = made.factorization.conditionals["mechanism"]
    again = expected_accuracy(made.factorization.replace_mechanism("mechanism", same))
    assert again == expected_accuracy(made.factorization)
    assert predict_under_mixture(small_run, [0, 3]).measured == made.measured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [1, 2, 3]}, r"weights: expected 2 non-negative numbers with a positive sum, got \[1, 2, 3\]"),
        ({"weights": [0, 0]}, "weights: expected 2 non-negative numbers"),
        ({"weights": [1, -1]}, "weights: expected 2 non-negative numbers"),
        ({"weights": [1, 1], "images": 0}, "images: expected at least 1, got 0"),
    ],
)
def test_users_errors_are_named(small_run, arguments, message):
    with pytest.raises(ValueError, match=message):
        predict_under_mixture(small_run, **arguments)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        predict_under_mixture(tmp_path, [1, 1])

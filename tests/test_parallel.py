"""Groups of work on threads of their own."""

import threading

import pytest
import torch

from licm.parallel import in_groups
from licm.seeding import generator
from tests.problems import bars, small_competition

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_item_is_in_one_group_and_a_group_has_one_thread(threads):
    def work(group):
        return list(group), threading.get_ident(), torch.get_num_threads()

    groups = in_groups(work, range(7), CPU)
    assert [items for items, *_ in groups] == [list(range(7))[first::threads] for first in range(threads)]
    assert all(of_each == 1 for *_, of_each in groups)
    assert torch.get_num_threads() == threads, "elsewhere all is as it was"
    assert len(in_groups(work, range(1), CPU)) == 1
    assert in_groups(work, [], CPU) == []


def test_gradients_are_recorded_where_they_are_here(threads):
    weight = torch.ones(1, requires_grad=True)
    assert all(in_groups(lambda group: (weight * 2).requires_grad, range(4), CPU))
    with torch.no_grad():
        assert not any(in_groups(lambda group: (weight * 2).requires_grad, range(4), CPU))


def test_an_error_in_a_group_is_raised_here(threads):
    with pytest.raises(ZeroDivisionError):
        in_groups(lambda group: [1 / item for item in group], range(4), CPU)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_a_step_is_the_same_on_any_number_of_threads(threads, normalization):
    def three_steps():
        competition = small_competition(normalization=normalization, r1_gamma=1.0, cycle_weight=5.0)
        competition.cycle_pulls = True
        for step in range(3):
            record = competition.step(bars(16, seed=step), 1 - bars(16, seed=9 + step), generator(0, "losers", step))
        return [record.scores, *competition.bank.parameters()]

    here = three_steps()
    torch.set_num_threads(1)
    for one, other in zip(here, three_steps()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

"""The loop: same seed same bits, resume, interruption, what cannot reach training, and the records."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from licm import checkpoint as files
from licm import history
from licm.classifier import accuracy, train_classifier
from licm.config import Config, make_config
from licm.datasets import IN_MEMORY, TrainingData, load_training_data, make_mixture
from licm.health import Diverged
from licm.mechanisms import parse_mechanisms
from licm.revival import Trial
from licm.run import build_run, restore_images
from licm.saving import load_run, save_run
from licm.seeding import generator
from licm.sources import ImageSet
from licm.training import _update_schedule, next_learning_rate_factor, train
from tests.conftest import SMALL_RUN
from tests.problems import bars

SMALL = {
    **SMALL_RUN,
    "steps": 8,
    "training.validate_every": 4,
    "training.save_every": 3,
    "revival.every": 1,
    "revival.trial_steps": 3,
    "revival.idle_below": 0.99,
    "revival.overloaded_above": 1.01,
}


BOUNDS = ("accuracy_clean", "accuracy_transformed")


def small_config(**changes: Any) -> Config:
    return make_config(overrides={**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}})


def small_data(*, permute: bool = False, fresh: bool = False) -> TrainingData:
    mechanisms = parse_mechanisms(["invert", "shift(dx=2)"])
    as_set = lambda images: ImageSet((images * 255).to(torch.uint8))  # noqa: E731
    mixture = make_mixture(as_set(bars(40, seed=1)), mechanisms, draws=generator(0, "m"))
    validation = make_mixture(as_set(bars(20, seed=2)), mechanisms, draws=generator(0, "v"), round_robin=True)
    if permute:
        order = torch.randperm(20, generator=generator(0, "permute"))
        validation = replace(validation, mechanism=validation.mechanism[order])
    redraw = (lambda indices, draws: mixture.images[indices]) if fresh else None
    return TrainingData(bars(40), mixture.images, validation, redraw)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return files.load_checkpoint(folder)[0]


def assert_same_bits(
    one: Path, other: Path, *, ignored: tuple[str, ...] = ("seconds",), but_for: str = "nothing"
) -> None:
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert [name for name in different if not name.startswith(but_for)] == []
    records = []
    for folder in (one, other):
        records.append([{k: v for k, v in r.items() if k not in ignored} for r in files.read_history(folder)])
    assert records[0] == records[1]


def stop_at(step: int):
    """A callback that presses Ctrl-C after a step."""

    def callback(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return callback


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_same_seed_same_bits_and_another_seed_others(tmp_path, preset):
    config = make_config(preset, overrides={**SMALL, "data.image_size": None})
    for name in ("a", "b"):
        train(config, tmp_path / name, data=small_data())
    assert_same_bits(tmp_path / "a", tmp_path / "b")
    train(config.model_copy(update={"seed": 1}), tmp_path / "c", data=small_data())
    assert not torch.equal(
        tensors_of(tmp_path / "a")["discriminator.logit.weight"],
        tensors_of(tmp_path / "c")["discriminator.logit.weight"],
    )


@pytest.mark.parametrize("step", [1, 5, 7])
def test_a_resumed_run_gives_the_bits_of_the_uninterrupted_one(tmp_path, step):
    config = small_config()
    whole = train(config, tmp_path / "whole", data=small_data())
    assert whole.finished
    assert any(r["kind"] == "revival" for r in files.read_history(tmp_path / "whole")), "the test wants a revival"
    stopped = train(config, tmp_path / "parts", data=small_data(), callbacks=[stop_at(step)])
    assert (stopped.step, stopped.finished) == (step, False)
    train(config, tmp_path / "parts", data=small_data(), resume=True)
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


def test_a_run_killed_between_saves_repeats_what_was_lost(tmp_path):
    """Whatever was written after the checkpoint is written again, once."""
    config = small_config()
    train(config, tmp_path / "whole", data=small_data())

    def die(record: dict[str, Any]) -> None:
        if record["step"] == 5:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(config, tmp_path / "parts", data=small_data(), callbacks=[die])
    assert files.read_history(tmp_path / "parts")[-1]["step"] == 5
    with (tmp_path / "parts" / files.HISTORY).open("a") as history:
        history.write('{"kind": "st')
    train(config, tmp_path / "parts", data=small_data(), resume=True)
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


def test_a_run_killed_before_its_first_save_starts_again(tmp_path):
    def die(record: dict[str, Any]) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(small_config(), tmp_path / "run", data=small_data(), callbacks=[die])
    assert train(small_config(), tmp_path / "run", data=small_data(), resume=True).finished


def test_a_run_with_only_its_previous_checkpoint_left_goes_on_from_it(tmp_path):
    config = small_config()
    train(config, tmp_path / "whole", data=small_data())
    train(config, tmp_path / "parts", data=small_data(), callbacks=[stop_at(7)])
    (tmp_path / "parts" / files.CHECKPOINT).unlink()
    resumed = []
    train(config, tmp_path / "parts", data=small_data(), resume=True, callbacks=[resumed.append])
    assert resumed[0]["step"] == 7, "from step 6, the last but one save, and not from the start"
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


def test_interrupting_the_identity_start_stops_cleanly_and_can_be_resumed(tmp_path):
    def interrupt(record: dict[str, Any]) -> None:
        if record["kind"] == "identity progress":
            os.kill(os.getpid(), signal.SIGINT)

    run = train(small_config(), tmp_path / "run", data=small_data(), callbacks=[interrupt])
    assert (run.step, run.finished) == (0, False)
    assert train(small_config(), tmp_path / "run", data=small_data(), resume=True).finished


def test_divergence_is_named_and_the_last_checkpoint_kept(tmp_path):
    def poison(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == 4:
            small.transformed.fill_(float("nan"))

    small = small_data()
    with pytest.raises(ValueError, match="step 5: a loss is not finite, so training has diverged"):
        train(small_config(), tmp_path / "run", data=small, callbacks=[poison])
    assert load_run(tmp_path / "run").step == 3


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    train(small_config(), tmp_path / "run", data=small_data())
    before = tensors_of(tmp_path / "run")
    train(small_config(), tmp_path / "run", data=small_data(), resume=True)
    after = tensors_of(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_raising_the_limit_of_a_run_without_decay_continues_it(tmp_path):
    """Its router has had one lesson more, that of the former end."""
    free = {"training__decay": False, "revival__enabled": False}
    train(small_config(**free), tmp_path / "long", data=small_data())
    train(small_config(**free, training__steps=4), tmp_path / "raised", data=small_data())
    train(small_config(**free), tmp_path / "raised", data=small_data(), resume=True)
    assert_same_bits(tmp_path / "long", tmp_path / "raised", ignored=("seconds", "end"), but_for="router")
    assert load_run(tmp_path / "raised").config == small_config(**free)


def test_the_limit_of_a_run_that_may_retire_experts_is_not_raised(tmp_path):
    """They retire half-way to it."""
    free = {"training__decay": False, "revival__enabled": False, "revival__retire": True}
    train(small_config(**free, training__steps=4), tmp_path / "run", data=small_data())
    with pytest.raises(ValueError, match=r"it differs in training\.steps; only"):
        train(small_config(**free), tmp_path / "run", data=small_data(), resume=True)


def test_what_is_not_finite_is_never_saved(tmp_path):
    run = train(small_config(), tmp_path / "run", data=small_data())
    with torch.no_grad():
        next(run.experts.parameters()).fill_(torch.inf)
    with pytest.raises(Diverged, match="a weight or the memory of an optimiser is not finite"):
        save_run(run, tmp_path / "run")
    assert load_run(tmp_path / "run").step == run.step, "what was saved before is whole"


@pytest.mark.parametrize("changes", [{"seed": 3}, {"training__steps": 9}])
def test_resuming_with_another_configuration_is_refused(tmp_path, changes):
    train(small_config(), tmp_path / "run", data=small_data())
    with pytest.raises(ValueError, match=r"another configuration: it differs in (seed|training.steps); only"):
        train(small_config(**changes), tmp_path / "run", data=small_data(), resume=True)


def test_the_mechanisms_cannot_reach_training(tmp_path):
    """Permuting the mechanism numbers that evaluation keeps changes what it reports and no bit of the weights."""
    for name, permute in (("a", False), ("b", True)):
        train(small_config(), tmp_path / name, data=small_data(permute=permute))
    first, second = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)
    matrices = [
        [r["score_matrix"] for r in files.read_history(tmp_path / name) if r["kind"] == "validation"]
        for name in ("a", "b")
    ]
    assert matrices[0] != matrices[1]


def test_the_mixtures_mechanism_numbers_do_not_reach_training(tmp_path, bars_file, monkeypatch):
    """The same, through the loader: the numbers of D_Q itself are permuted where the mixture is made."""
    from licm import datasets

    config = make_config(overrides={**SMALL, "data.source": str(bars_file)})
    train(config, tmp_path / "a")

    def permuted(*arguments, **keywords):
        mixture = make_mixture(*arguments, **keywords)
        return replace(mixture, mechanism=1 - mixture.mechanism, labels=None)

    monkeypatch.setattr(datasets, "make_mixture", permuted)
    train(config, tmp_path / "b")
    first, second = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_validation_itself_changes_no_bit(tmp_path):
    for name, data in (("a", small_data()), ("b", replace(small_data(), validation=None))):
        train(small_config(), tmp_path / name, data=data)
    first, second = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)


def labelled_data(bars_file: Path) -> TrainingData:
    return load_training_data(source=str(bars_file), mechanisms=SMALL["mechanisms"], seed=0)


def test_the_history_judges_restored_images_by_a_classifier_of_clean_ones(tmp_path, bars_file):
    data = labelled_data(bars_file)
    run = train(small_config(), tmp_path / "run", data=data)
    history = files.read_history(tmp_path / "run")
    (bounds,) = [r for r in history if r["kind"] == "judge"]
    last = [r for r in history if r["kind"] == "validation"][-1]
    judge, seen = train_classifier(data.canonical, data.labels), data.validation
    right = lambda images: accuracy(judge, images, seen.labels)  # noqa: E731
    assert (bounds["accuracy_clean"], bounds["accuracy_transformed"]) == (right(seen.originals), right(seen.images))
    assert last["accuracy_restored"] == right(restore_images(run, seen.images)[2])


def test_labels_cannot_reach_training(tmp_path, bars_file):
    """Other labels, or none, change the accuracies that are recorded and no bit of the run."""
    data = labelled_data(bars_file)
    wrong = replace(data, labels=1 - data.labels)
    for name, each in (("a", data), ("b", wrong), ("c", replace(data, labels=None))):
        train(small_config(), tmp_path / name, data=each)
    assert_same_bits(tmp_path / "a", tmp_path / "b", ignored=("seconds", "accuracy_restored", *BOUNDS))
    first, third = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "c")
    assert all(torch.equal(first[name], third[name]) for name in first)
    clean = [r["accuracy_clean"] for n in "ab" for r in files.read_history(tmp_path / n) if r["kind"] == "judge"]
    assert clean[0] != clean[1]
    kinds = {r["kind"] for r in files.read_history(tmp_path / "c")}
    assert "judge" not in kinds, "without labels there is no judge"


def test_a_resumed_run_goes_on_judging(tmp_path, bars_file):
    train(small_config(), tmp_path / "whole", data=labelled_data(bars_file))
    train(small_config(), tmp_path / "parts", data=labelled_data(bars_file), callbacks=[stop_at(5)])
    train(small_config(), tmp_path / "parts", data=labelled_data(bars_file), resume=True)
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


def test_a_folder_that_is_taken_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="exists already"):
        train(small_config(), tmp_path / "run", data=small_data())
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_too_few_images_and_oblong_images_are_refused_before_anything_is_written(tmp_path):
    few = replace(small_data(), transformed=small_data().transformed[:7])
    with pytest.raises(ValueError, match=r"transformed: 7 images are fewer than training.batch_size, 8"):
        train(small_config(), tmp_path / "run", data=few)
    oblong = replace(small_data(), canonical=small_data().canonical[..., :10])
    with pytest.raises(
        ValueError, match=r"expected square images, got 10x12 px; two folders .* by crops \(data.crop_size\)$"
    ):
        train(small_config(), tmp_path / "run", data=oblong)
    with pytest.raises(ValueError, match="labels: expected integers of at least 0, got -1"):
        train(small_config(), tmp_path / "run", data=replace(small_data(), labels=torch.arange(40) - 1))
    with pytest.raises(ValueError, match="1 validation images are under only 1 of 2 mechanisms; watch more"):
        train(small_config(training__validation_images=1), tmp_path / "run", data=small_data())
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used here"):
        train(small_config(), tmp_path / "run", data=small_data(), device="cuda:99")
    tiny = TrainingData(torch.rand(9, 1, 7, 7), torch.rand(9, 1, 7, 7))
    with pytest.raises(ValueError, match="3 poolings need at least 8 px, got 7"):
        train(small_config(discriminator__widths=[4, 4, 4]), tmp_path / "run", data=tiny)
    assert not (tmp_path / "run").exists()


def test_records(tmp_path):
    seen: list[dict[str, Any]] = []
    config = small_config(revival__enabled=False)  # which the decay of the learning rate may wait for
    run = train(config, tmp_path / "run", data=small_data(), callbacks=[seen.append])
    history = files.read_history(tmp_path / "run")
    assert [r for r in seen if r["kind"] != "identity progress"] == history
    steps = [r for r in history if r["kind"] == "step"]
    assert [r["step"] for r in steps] == list(range(1, 9))
    assert all(sum(r["win_share"]) == pytest.approx(1, abs=1e-3) for r in steps)
    factors = [r["learning_rate_factor"] for r in steps]
    assert factors[:4] == [1.0] * 4
    assert factors[4:] == [1.0, 0.75, 0.5, 0.25]
    validations = [r for r in history if r["kind"] == "validation"]
    assert [r["step"] for r in validations] == [4, 8]
    assert torch.tensor(validations[0]["winner_matrix"]).sum(dim=1).tolist() == pytest.approx([1, 1])
    (identity,) = [r for r in history if r["kind"] == "identity"]
    assert len(identity["errors"]) == len(identity["steps"]) == 3
    assert json.loads((tmp_path / "run" / files.RUN).read_text())["torch"] == torch.__version__
    assert load_run(tmp_path / "run").step == run.step == 8


def test_decay_begins_when_health_has_held_and_the_run_then_stops_early(tmp_path):
    """One expert is told apart, alive and not overloaded by definition."""
    config = small_config(num_experts=1, training__healthy_steps=2, training__steps=40)
    run = train(config, tmp_path / "run", data=small_data())
    assert (run.decay_start, run.step, run.finished) == (2, 22, True)


def test_the_decay_waits_for_a_trial_under_way_and_then_ends_with_the_limit():
    """Half the limit is 10, revivals may begin until 14; with `retire` nothing waits."""
    for retire, starts in ((False, 14), (True, 10)):
        config = small_config(training__steps=20, revival__retire=retire)
        run = build_run(config, channels=1, image_size=12)
        run.revival.trials.append(Trial(revived=0, donor=1, step=9, score_before=0.5, former={}))
        for run.step in range(1, starts + 1):
            assert run.decay_start is None
            _update_schedule(run)
        assert (run.decay_start, run.end) == (starts, 20)
        run.step = 19
        assert next_learning_rate_factor(run) == pytest.approx(1 / (20 - starts))


def test_loaded_experts_restore_as_before(tmp_path):
    run = train(small_config(), tmp_path / "run", data=small_data())
    again = load_run(tmp_path / "run")
    images, chosen = small_data().transformed[:6], torch.tensor([0, 1, 2, 0, 1, 2])
    for each in (run, again):
        each.experts.eval()
    assert torch.equal(run.experts.restore(images, chosen), again.experts.restore(images, chosen))


def test_fresh_mixture_trains(tmp_path):
    assert train(small_config(), tmp_path / "run", data=small_data(fresh=True)).finished


def test_embedded_digits_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "JUDGE_IMAGES", 100)
    config = small_config(steps=1, mechanisms="paper", training__validation_images=20)
    run = train(config, tmp_path / "run")
    assert run.discriminator.image_size == 28
    default = load_training_data(source="embedded", mechanisms="paper", seed=0)
    assert len(default.transformed) == 10_000


@pytest.mark.accelerator
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trains_on_an_accelerator(tmp_path):
    assert train(small_config(), tmp_path / "run", data=small_data(), device="cuda").finished
    assert load_run(tmp_path / "run").step == 8


def test_data_of_ones_own_is_not_taken_for_the_source_of_the_configuration(tmp_path):
    """Or the run would be gone on with, and measured, on digits that it never saw."""
    run = train(small_config(), tmp_path / "run", data=replace(small_data(), validation=None))
    assert load_run(tmp_path / "run").config.data.canonical == run.config.data.canonical == IN_MEMORY
    again = train(small_config(), tmp_path / "run", data=replace(small_data(), validation=None), resume=True)
    assert again.finished
    with pytest.raises(ValueError, match="trained on images in memory, which its folder does not keep"):
        train(run.config, tmp_path / "run", resume=True)


def test_images_of_other_channels_are_refused_before_they_are_trained_on(tmp_path):
    """No run of them could be read again."""
    odd = TrainingData(torch.rand(20, 2, 12, 12), torch.rand(20, 2, 12, 12))
    with pytest.raises(ValueError, match=r"^canonical: expected 1 channel, grey, or 3, colour, got 2$"):
        train(small_config(), tmp_path / "run", data=odd)
    assert not (tmp_path / "run").exists()

"""`licm reproduce`: what it plans, does, skips and sums up, on runs of a few steps."""

import json
import os
import runpy
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from licm.checkpoint import hold, provenance
from licm.config import flat, make_config
from licm.drawing import LIGHT
from licm.health import Diverged
from licm.mechanisms import parse_mechanism
from licm.metrics import matched_share, psnr
from licm.models import Expert
from licm.reproduction import page, running
from licm.reproduction.drawn import figures_for
from licm.reproduction.experiments import EXPERIMENTS, FROM_PAPER_TO_DEFAULT, Condition, Experiment
from licm.reproduction.measuring import centred_by_mass, unpack
from licm.reproduction.paired import train_paired
from licm.reproduction.running import plan, read_record, reproduce
from licm.reproduction.summary import AIMS, Found, figures_of, find, summarise
from licm.sources import load_embedded
from licm.training import train
from tests.commands import licm, refused
from tests.conftest import SMALL_RUN
from tests.problems import bars

ROOT = Path(__file__).parents[1]


@pytest.fixture
def small(bars_file):
    """What makes every run of an experiment small."""
    return {**SMALL_RUN, "data.source": str(bars_file), "training.validation_images": 8}


def parameters(width: int) -> int:
    return sum(each.numel() for each in Expert(width=width).parameters())


def test_from_paper_one_change_at_a_time_leads_to_the_default():
    conditions = [c for c in EXPERIMENTS["ablation"].conditions.values() if c.preset == "paper"]
    configs = [make_config("paper", overrides=condition.overrides) for condition in conditions]
    for one, other in pairwise(map(flat, configs)):
        changed = {key for key in one if one[key] != other[key]}
        assert len(changed) == 1 or changed == {"competition.objective", "competition.loser_samples"}, "losers are its"
    assert len(configs) == len(FROM_PAPER_TO_DEFAULT), "and the default in place of the last"
    changes = {key: value for change in FROM_PAPER_TO_DEFAULT.values() for key, value in change.items()}
    last = make_config("paper", overrides=changes)
    assert last.model_dump(exclude={"preset"}) == make_config().model_dump(exclude={"preset"})


def test_the_one_network_has_the_parameters_of_ten_experts():
    width = EXPERIMENTS["baselines"].conditions["one network"].overrides["experts.width"]
    assert parameters(width) == pytest.approx(10 * parameters(make_config().experts.width), rel=0.02)


def test_every_condition_of_every_experiment_is_valid_at_each_budget():
    for budget in ("quick", "full"):
        rows = plan(list(EXPERIMENTS), budget=budget)
        assert {row.experiment for row in rows} == set(EXPERIMENTS)
    count = {name: len({row.seed for row in rows if row.experiment == name}) for name in EXPERIMENTS}
    assert (count["specialisation"], count["weak"], count["ablation"]) == (20, 1, 3)


def test_experiments_share_runs_and_records():
    first, second = plan(["specialisation"], seeds=1), plan(["classifier"], seeds=1)
    assert first[0].jobs[0].name == second[0].jobs[0].name
    assert len({job.run for row in first + second for job in row.jobs}) == 1
    weak = {row.condition: row.jobs for row in plan(["weak"])}
    alone, diverse = weak["noise 0.1"], weak["noise 0.1, diversity"]
    assert [one.name == other.name for one, other in zip(alone, diverse)] == [True, False], "the paired experts' alone"
    other = plan(["specialisation"], seeds=1, overrides={"steps": 9})
    assert other[0].jobs[0].name != first[0].jobs[0].name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["specialization"]}, "unknown experiment 'specialization': did you mean 'specialisation'"),
        ({"budget": "ful"}, "unknown budget 'ful': did you mean 'full'"),
        ({"seeds": 0}, "seeds: expected at least 1, got 0"),
        ({"overrides": {"seed": 7}}, "seed: each condition is run under seeds 0, 1, ..."),
        (
            {"names": ["too_few_6"], "overrides": {"revival.enabled": True}},
            "overrides: they make 'default' and 'without revival' of too_few_6 the same",
        ),
    ],
)
def test_a_wrong_plan_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(changes.pop("names", ()), **changes)


def test_a_result_asked_for_twice_is_made_once():
    assert plan(["weak", "weak"]) == plan(["weak"])


def test_a_paired_expert_learns_what_it_is_shown():
    images = bars(64)
    shift = parse_mechanism("shift(dx=1)")
    architecture = make_config(overrides={"experts.width": 8, "experts.depth": 3}).experts
    first, same = (train_paired(shift, images, architecture=architecture, steps=60, seed=0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters()))
    with torch.no_grad():
        restored = first(shift(images))
    assert psnr(restored, images).mean() > psnr(shift(images), images).mean() + 3


def test_centred_by_mass_leaves_digits_as_mnist_has_them():
    digits = load_embedded()["test"].images[:300]
    assert torch.equal(centred_by_mass(digits), digits)
    moved = parse_mechanism("shift(dy=2, dx=-1)")(digits)
    inside = (parse_mechanism("shift(dy=-2, dx=1)")(moved) == digits).flatten(1).all(1)
    assert inside.sum() > 250, "some ink was moved out"
    assert torch.equal(centred_by_mass(moved)[inside], digits[inside])


def test_centred_by_mass_loses_no_ink():
    images = torch.zeros(3, 1, 9, 9, dtype=torch.uint8)
    images[0, 0, 0, 0], images[0, 0, 8, 8] = 9, 1  # its middle is far to one side, and it has nowhere to go
    images[1, 0, :, 3:8] = 5  # high as the image, 3 to 7 wide: the middle, 4.5, is half a pixel to the left
    moved = centred_by_mass(images)
    assert torch.equal(moved[0], images[0])
    assert torch.equal(moved.sum((1, 2, 3)), images.sum((1, 2, 3)))
    assert not moved[2].any(), "an empty image stays one"


def test_a_condition_that_centres_has_a_record_of_its_own():
    rows = {row.condition: row.jobs for row in plan(["omniglot"], seeds=1)}
    as_drawn, centred = rows["default"], rows["centred by their ink"]
    assert [one.name == other.name for one, other in zip(as_drawn, centred)] == [True, False, False], "the run is one"
    assert dict(as_drawn[1].settings) == {"source": "omniglot"}, "and records from before this condition came count"


def test_another_script_is_centred_before_the_mechanisms(small, bars_file, tmp_path):
    with np.load(bars_file) as file:
        aside = np.zeros((len(file["images"]), 1, 12, 12), np.uint8)
        aside[..., :8, :8] = file["images"][..., 2:10, 2:10]
        np.savez(tmp_path / "aside.npz", images=aside, labels=file["labels"])
    conditions = {
        name: Condition(measures=("transfer",), source=str(tmp_path / "aside.npz"), centred=centred)
        for name, centred in (("as drawn", False), ("centred", True))
    }
    rows = plan(budget="full", overrides=small, experiments={"other": Experiment("", "", conditions, seeds=1)})
    assert reproduce(rows, tmp_path / "out", quiet=True)
    grids = [unpack(read_record(row.jobs[0], tmp_path / "out")["grid"])[:, 0] for row in rows]
    as_drawn, centred = (np.average(np.arange(12), weights=grid[1].sum(axis=(0, 1))) for grid in grids)  # shift(dx=2)
    assert centred > as_drawn + 1


def test_every_measure_leaves_a_record_and_nothing_is_done_twice(small, bars_file, tmp_path):
    measures = ("evaluation", "recovered", "supervised", "augmented", "transfer", "told", "clusters")
    experiments = {"all": Experiment("", "", {"one": Condition(measures=measures, source=str(bars_file))}, seeds=1)}
    (row,) = plan(budget="quick", overrides=small, experiments=experiments)
    row = replace(row, jobs=_fewer_steps(row.jobs))
    assert reproduce([row], tmp_path, quiet=True)
    found = {job.measure: read_record(job, tmp_path) for job in row.jobs}
    assert found["evaluation"]["num_images"] == 20
    assert [each["step"] for each in found["evaluation"]["validation"]] == [2, 4]
    assert found["recovered"]["steps"] == [0, 2, 4]
    assert len(found["supervised"]["per_mechanism"]["psnr"]) == 2
    assert 0 <= found["augmented"]["accuracy_transformed"] <= 1
    own = found["transfer"]["identification_own"]
    assert own == pytest.approx(found["evaluation"]["matched_share"])
    groups = found["transfer"]["groups"]
    assert sum(group["images"] for group in groups) == 200
    overall = sum(group["identification"] * group["images"] for group in groups) / 200
    assert np.mean(found["transfer"]["identification_by_mechanism"]) == pytest.approx(overall), "evenly mixed"
    told = found["told"]
    assert [group["name"] for group in told["groups"]] == [group["name"] for group in groups]
    assert told["identification_own"] > 0.9, "labels of mechanisms are learned on the run's own images"
    assert found["clusters"]["matched_share"] >= 0.5
    said = []
    assert reproduce([row], tmp_path, say=said.append, quiet=True)
    assert said == []
    everything = find([row], tmp_path)
    counts = {"specialisation": 3, "recovery": 2, "classifier": 1, "too_few_6": 1, "omniglot": 1, "ablation": 0}
    for experiment, count in counts.items():
        drawn = figures_for(experiment, everything)
        assert len(drawn) == count, experiment
        assert all(draw(theme=LIGHT).axes for draw in drawn.values())


def _fewer_steps(jobs):
    fewer = {"paired_steps": 3}
    return tuple(replace(job, settings=fewer) if job.measure == "supervised" else job for job in jobs)


def test_a_killed_reproduction_goes_on(small, tmp_path):
    experiments = {"one": Experiment("", "", {"default": Condition()}, seeds=2)}
    rows = plan(budget="full", overrides=small, experiments=experiments)

    def stop(line: str) -> None:
        if line.startswith("2 of 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(rows, tmp_path, say=stop, quiet=True)
    first = tmp_path / "records" / f"{rows[0].jobs[0].name}.json"
    kept = first.read_bytes()
    assert read_record(rows[1].jobs[0], tmp_path) is None
    assert reproduce(rows, tmp_path, quiet=True)
    assert first.read_bytes() == kept
    assert read_record(rows[1].jobs[0], tmp_path)["seed"] == 1


def test_two_processes_may_share_a_folder(small, tmp_path):
    rows = plan(
        budget="full", overrides=small, experiments={"one": Experiment("", "", {"default": Condition()}, seeds=2)}
    )
    said = []
    with hold(tmp_path / "in_work" / rows[0].jobs[0].run):
        assert reproduce(rows, tmp_path, say=said.append, quiet=True)
    assert said == [
        "1 of 2: one, default, seed 0: in work by another process",
        "2 of 2: one, default, seed 1: evaluation",
    ]
    assert read_record(rows[0].jobs[0], tmp_path) is None
    with hold(tmp_path / "in_work" / rows[0].jobs[0].name):  # another row of the other process asks the same
        assert reproduce(rows[:1], tmp_path, quiet=True)
    assert read_record(rows[0].jobs[0], tmp_path) is None
    assert not list((tmp_path / "in_work").iterdir())


def test_a_key_that_came_later_and_changes_nothing_leaves_the_names(monkeypatch):
    def names(**overrides):
        return [job.name for job in plan(["recovery"], seeds=1, overrides=overrides)[0].jobs]

    before, other = names(), names(**{"revival.retire": True})
    assert [one == two for one, two in zip(before, other)] == [False, False, True], "paired experts know no revival"
    monkeypatch.setattr(running, "LATER_KEYS", (*running.LATER_KEYS, "revival.retire"))
    assert names() != before, "the key is left out"
    assert names(**{"revival.retire": True}) == other, "unless it is set"


def test_what_no_paired_expert_can_undo_is_not_competed_for(small, tmp_path):
    weak = Condition(measures=("supervised", "evaluation"), representable=59.0)
    rows = plan(budget="quick", overrides=small, experiments={"weak": Experiment("", "", {"hard": weak}, seeds=1)})
    rows = [replace(rows[0], jobs=_fewer_steps(rows[0].jobs))]
    assert reproduce(rows, tmp_path, quiet=True)
    assert read_record(rows[0].jobs[0], tmp_path) is not None
    assert read_record(rows[0].jobs[1], tmp_path) is None


def test_a_damaged_record_is_named(small, tmp_path):
    (row,) = plan(["specialisation"], seeds=1, overrides=small)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{row.jobs[0].name}.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: remove it, and the same command makes it again"):
        read_record(row.jobs[0], tmp_path)


def test_a_run_that_is_stopped_goes_on_to_the_same_record(small, tmp_path, monkeypatch):
    rows = plan(budget="full", overrides=small, experiments={"one": Experiment("", "", {"default": Condition()}, 1)})

    def train_and_stop(config, folder, *, callbacks, **options):
        def stop(record):
            if record["kind"] == "step" and record["step"] == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        return train(config, folder, callbacks=[*callbacks, stop], **options)

    with monkeypatch.context() as patched:
        patched.setattr(running, "train", train_and_stop)
        assert not reproduce(rows, tmp_path / "stopped", quiet=True)
    assert read_record(rows[0].jobs[0], tmp_path / "stopped") is None
    assert reproduce(rows, tmp_path / "stopped", quiet=True)
    assert reproduce(rows, tmp_path / "whole", quiet=True)
    stopped, whole = (read_record(rows[0].jobs[0], tmp_path / name) for name in ("stopped", "whole"))
    assert stopped["steps"] == 4
    assert stopped["winner_matrix"] == whole["winner_matrix"]
    assert stopped["psnr"] == whole["psnr"]


def evaluation(matrix, steps=(10, 20, 30), **changes):
    """What an evaluation leaves, for a winner matrix [N, N'] that was the same at each validation."""
    shares = np.mean(matrix, axis=0)
    figures = dict.fromkeys(("accuracy_clean", "accuracy_transformed", "accuracy_restored"), 0.9)
    return {
        **{"winner_matrix": matrix, "win_share": shares.tolist(), "matched_share": matched_share(matrix), "ari": 1.0},
        **{"psnr": 20.0, "ssim": 0.9, "steps": 30, "train_seconds": 2.0, "provenance": {}},
        **{"num_dead_experts": int((shares < 0.01).sum()), **figures},
        "validation": [{"step": step, "winner_matrix": matrix} for step in steps],
        "mechanisms": [f"mechanism {index}" for index in range(len(matrix))],
        "per_mechanism": {name: [0.5] * len(matrix) for name in ("psnr", "ssim")},
        **changes,
    }


def paired(psnr):
    return {"accuracy_restored": 0.9, "per_mechanism": {"psnr": [psnr]}}


def found(experiment, *records, condition="default"):
    rows = plan([experiment], seeds=len(records))
    rows = [row for row in rows if row.condition == condition]
    return [Found(row, record, True) for row, record in zip(rows, records)]


def test_the_numbers_of_the_records():
    perfect, halved = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]
    runs = [{"evaluation": evaluation(matrix)} for matrix in (perfect, perfect, perfect, halved)]
    results = summarise(found("specialisation", *runs))["specialisation"]
    assert results["matched_share_mean"] == pytest.approx((3 + 0.5) / 4)
    assert results["success_rate"] == 0.75
    assert results["settled_step_median"] == 10
    figures = results["conditions"]["default"]["figures"]
    assert figures["unused"]["max"] == 1
    assert figures["matched_share"]["count"] == 4


def test_a_mechanism_that_never_settles_counts_as_later_than_all():
    shared = [[0.5, 0.5], [0.0, 1.0]]
    results = summarise(found("specialisation", {"evaluation": evaluation([[0.5, 0.5], [0.5, 0.5]])}))
    assert results["specialisation"]["settled_step_median"] is None
    (aim,) = (aim for aim in results["aims"] if aim["of"] == ["specialisation.settled_step_median"])
    assert (aim["values"], aim["met"]) == ([None], False), "it was run, and is not merely missing"
    half = summarise(found("specialisation", {"evaluation": evaluation(shared)}))["specialisation"]
    (default,) = half["conditions"].values()
    assert default["settled_share"] == 0.5
    assert [each["settled_latest"] for each in default["by_mechanism"].values()] == [None, 10]


def test_a_run_that_diverges_counts_as_failed_and_the_rest_goes_on(small, tmp_path, monkeypatch):
    rows = plan(budget="full", overrides=small, experiments={"one": Experiment("", "", {"default": Condition()}, 2)})
    calls = []

    def train_or_diverge(config, folder, **options):
        calls.append(config.seed)
        if config.seed == 0:
            raise Diverged(3)
        return train(config, folder, **options)

    monkeypatch.setattr(running, "train", train_or_diverge)
    assert reproduce(rows, tmp_path, quiet=True)
    assert reproduce(rows, tmp_path, quiet=True)
    assert calls == [0, 1], "and it is not tried again"
    rows = [replace(row, experiment="specialisation") for row in rows]
    results = summarise(find(rows, tmp_path))["specialisation"]
    condition = results["conditions"]["default"]
    assert (condition["seeds"], list(condition["failed"])) == ([0, 1], ["0"])
    assert results["success_rate"] <= 0.5
    page.write_results(rows, tmp_path, command="licm reproduce")
    text = (tmp_path / "reproduction.md").read_text()
    assert "default, seed 0 failed: step 3: a loss is not finite" in text
    assert "2 of 2" in text


def test_a_diverged_run_settles_on_no_mechanism_of_a_set_by_name():
    """ "paper" is ten mechanisms, and five letters."""
    good = {"evaluation": evaluation(np.eye(10).tolist())}
    done = found("specialisation", good, {})
    results = summarise([done[0], replace(done[1], failed="step 3")])["specialisation"]
    assert results["conditions"]["default"]["settled_share"] == 0.5
    assert len(results["conditions"]["default"]["by_mechanism"]) == 10


def test_an_aim_says_of_how_many_runs_it_is():
    results = summarise(found("specialisation", {"evaluation": evaluation([[1.0, 0.0], [0.0, 1.0]])}))
    (aim,) = (aim for aim in results["aims"] if aim["of"] == ["specialisation.success_rate"])
    assert (aim["met"], aim["runs"], aim["wanted"]) == (True, 1, 20)


def test_collapse_is_measured_from_what_one_expert_has_that_wins_all():
    one_wins_all = evaluation([[1.0, 0.0], [1.0, 0.0]])
    assert figures_of({"evaluation": one_wins_all})["collapse"] == 1
    ten = np.eye(10) * 0.6 + 0.04
    assert figures_of({"evaluation": evaluation(ten.tolist())})["collapse"] == 0


def test_experts_to_spare_are_those_not_matched():
    matrix = [[0.9, 0.0, 0.1], [0.0, 1.0, 0.0]]
    default = found("too_many_20", {"evaluation": evaluation([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])})
    retired = found("too_many_20", {"evaluation": evaluation(matrix)}, condition="retirement")
    results = summarise([*default, *retired])
    assert results["too_many_20"] == {
        "matched_share": 0.95,
        "unowned_wins": pytest.approx(0.05),
        "matched_share_default": 0.75,
        "unowned_wins_default": pytest.approx(0.25),
        "conditions": results["too_many_20"]["conditions"],
    }
    judged = {aim["of"][0]: aim["met"] for aim in results["aims"] if "too_many_20" in aim["of"][0]}
    assert judged == dict.fromkeys(judged, False)
    assert len(judged) == 4
    results = summarise(default)
    assert results["too_many_20"]["matched_share"] is None
    judged = {aim["of"][0]: aim["met"] for aim in results["aims"]}
    assert judged["too_many_20.matched_share"] is None
    assert judged["too_many_20.matched_share_default"] is False


def test_the_lowest_alphabet_counts():
    groups = [{"name": name, "images": 9, "identification": i, "psnr": 9.0} for name, i in (("a", 0.9), ("b", 0.6))]
    records = {"transfer": {"identification_own": 0.8, "groups": groups, "provenance": {}}}
    records["told"] = {"identification_own": 1.0, "groups": groups, "provenance": {}}
    omniglot = summarise(found("omniglot", records))["omniglot"]
    assert omniglot["identification_ratio_min"] == pytest.approx(0.75)
    told = omniglot["conditions"]["default"]["figures"]["identification_ratio_min_told"]
    assert told["mean"] == pytest.approx(0.6), "beside what a classifier of mechanisms has"


def test_aims_are_for_headlines_that_exist_and_are_open_without_records():
    for aim in AIMS:
        assert len(aim.needs) == aim.met.__code__.co_argcount
    everything = summarise([Found(row, {}, True) for row in plan(seeds=1)])["aims"]
    assert [aim["aim"] for aim in everything] == [aim.text for aim in AIMS]
    assert {aim["met"] for aim in everything} == {None}
    assert summarise([Found(row, {}, True) for row in plan(["weak"])])["aims"] == [], "of what is not planned"


def test_a_page_shows_figures_that_there_are():
    groups = [{"name": "a", "images": 9, "identification": 0.9, "psnr": 9.0}]
    records = {
        "evaluation": evaluation([[1.0, 0.0], [0.0, 1.0]]),
        "supervised": {
            "psnr": 30.0,
            "ssim": 0.9,
            "accuracy_restored": 0.9,
            "per_mechanism": {"psnr": [30.0], "ssim": [0.9]},
        },
        "augmented": {"accuracy_transformed": 0.9},
        "clusters": {"matched_share": 0.9, "ari": 0.9},
        "transfer": {"identification_own": 0.8, "groups": groups},
        "told": {"identification_own": 0.9, "groups": groups},
    }
    there = {*figures_of(records), "settled_step"}
    assert set(page.SHOWN) == set(EXPERIMENTS)
    assert {name for names in page.SHOWN.values() for name in names} <= set(page.COLUMNS) <= there


def test_a_result_whose_own_measure_is_missing_says_so(tmp_path):
    rows = plan(["fashion_mnist"], seeds=1)
    (tmp_path / "records").mkdir()
    (job,) = (job for job in rows[0].jobs if job.measure == "evaluation")
    record = {"measure": "evaluation", **evaluation([[1.0, 0.0], [0.0, 1.0]], provenance=provenance())}
    (tmp_path / "records" / f"{job.name}.json").write_text(json.dumps(record))
    page.write_results(rows, tmp_path, command="licm reproduce")
    text = (tmp_path / page.MARKDOWN).read_text()
    assert "Not measured yet." in text
    assert "mechanism 0" not in text


def test_records_are_published_at_the_budget_of_their_page(tmp_path):
    publish = runpy.run_path(str(ROOT / "scripts" / "publish_results.py"))["publish"]
    (tmp_path / "runs" / "records").mkdir(parents=True)
    for row in plan(["ablation"], budget="quick")[:2]:
        record = {"measure": "evaluation", **evaluation([[1.0, 0.0], [0.0, 1.0]])}
        record["provenance"] = {"licm": "0", "commit": None, "torch": "2", "machine": "one", "threads": 1}
        (tmp_path / "runs" / "records" / f"{row.jobs[0].name}.json").write_text(json.dumps(record))
    publish(tmp_path / "runs", "reproduction_quick", tmp_path)
    text = (tmp_path / "reproduction_quick.md").read_text()
    assert "| paper | 1 of 1 | 10 | 1.000 |" in text
    assert "| + width 16 | 0 of 1 | - | - |" in text
    assert "budget quick" in text
    assert "aimed" not in text, "of these two nothing was"
    results = json.loads((tmp_path / "reproduction_quick.json").read_text())
    assert results["ablation"]["conditions"]["paper"]["seeds"] == [0]
    (row,) = (row for row in plan(["weak"], budget="quick") if row.condition == "noise 0.1")
    halves = [
        Found(row, {"supervised": {"provenance": {}, "psnr": p, "ssim": p, **paired(p)}}, p > 20) for p in (9, 30)
    ]
    assert [half.is_done for half in halves] == [True, False], "experts need not compete, or have yet to"
    assert sorted(path.name for path in (tmp_path / "reproduction_quick").iterdir()) == ["records"]
    made = (tmp_path / "reproduction_quick.md").read_bytes()
    publish(Path(os.path.relpath(tmp_path / "reproduction_quick")), "reproduction_quick", tmp_path)  # from its own copy
    assert (tmp_path / "reproduction_quick.md").read_bytes() == made
    with pytest.raises(ValueError, match="has no record of 'reproduction', which is made by: licm reproduce --budget"):
        publish(tmp_path / "runs", "reproduction", tmp_path)


@pytest.mark.parametrize("name", ["reproduction", "reproduction_quick"])
def test_the_pages_are_what_their_records_make(name, tmp_path):
    publish = runpy.run_path(str(ROOT / "scripts" / "publish_results.py"))["publish"]
    docs = ROOT / "docs" / "results"
    publish(docs / name, name, tmp_path)
    for ending in (".md", ".json"):
        made, kept = ((folder / f"{name}{ending}").read_text() for folder in (tmp_path, docs))
        assert made == kept, f"python scripts/publish_results.py docs/results/{name} --page {name}"


def test_the_command_leaves_results_page_and_figures(small, bars_file, tmp_path):
    settings = [part for key, value in small.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    typed = ("reproduce", "--out", tmp_path, "--only", "specialisation", "--budget", "quick", "--seeds", 2, *settings)
    done = licm(*typed, "--json")
    assert done.returncode == 0, done
    assert "1 of 2: specialisation, default, seed 0: evaluation" in done.stderr
    results = json.loads(done.stdout)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["specialisation"]["conditions"]["default"]["seeds"] == [0, 1]
    html = (tmp_path / "reproduction.html").read_text()
    assert html.count("data:image/svg+xml") == 6  # three figures, light and dark
    assert 'src="http' not in html
    assert "Command: <code>licm reproduce --only specialisation" in html
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == [f"specialisation-{number}.svg" for number in (1, 2, 3)]
    assert all(name in (tmp_path / "reproduction.md").read_text() for name in names)
    again = licm(*typed)
    assert (again.stdout, again.stderr) == (f"saved: {tmp_path / 'reproduction.html'}\n", "")


def test_the_command_refuses_an_unknown_result(tmp_path):
    assert "unknown experiment 'omniglott': did you mean 'omniglot'" in refused(
        "reproduce", "--only", "omniglott", "--out", tmp_path
    )

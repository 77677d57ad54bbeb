"""Each result to reproduce as data: conditions, seeds, measures. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from licm.mechanisms import MECHANISM_SETS

REPRESENTABLE = 20.0  # dB that a paired expert must reach before the competition is asked to
# `competition.diversity_weight` of the weak mechanisms' other rows.
DIVERSITY = {"diversity": 1.0, "diversity 0.1": 0.1}

_WATCHED = {"training.validate_every": 25}  # as finely as this the history tells settled steps


@dataclass(frozen=True)
class Condition:
    """One row of an experiment.

    Attributes:
        overrides: Dotted keys to values, over the preset.
        preset: A name in `licm.presets.PRESETS`.
        measures: Names in `licm.reproduction.measuring.MEASURES`, in the order in which they are taken.
        source: Another data set, for the measure `transfer`.
        centred: For the same measure: its images are centred by their centre of mass first.
        representable: Compete only if a paired expert undoes each mechanism at least so well, in dB; the measure
            `supervised` must then come first. None: compete anyway.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "default"
    measures: tuple[str, ...] = ("evaluation",)
    source: str | None = None
    centred: bool = False
    representable: float | None = None


@dataclass(frozen=True)
class Experiment:
    """One result.

    Attributes:
        title: Its heading.
        reading: What is done and how to read it.
        conditions: Its rows by name.
        seeds: Runs of each condition at the full budget: seeds 0, 1, ...
    """

    title: str
    reading: str
    conditions: Mapping[str, Condition]
    seeds: int = 3


@dataclass(frozen=True)
class Budget:
    """How much is spent.

    Attributes:
        seeds: At most so many runs of each condition; None for all.
        overrides: Dotted keys to values, for every run.
        paired_steps: Steps of each paired expert.
    """

    seeds: int | None
    overrides: Mapping[str, Any]
    paired_steps: int


BUDGETS = {
    "full": Budget(None, {"data.source": "mnist"}, 1000),
    "quick": Budget(1, {"data.source": "embedded", "steps": 300}, 300),
}


def _ten_on_ten(*measures: str, source: str | None = None, centred: bool = False) -> Condition:
    return Condition(_WATCHED, measures=measures, source=source, centred=centred)


def _other_number(count: int, **more: Mapping[str, Any]) -> dict[str, Condition]:
    changes = {"default": {}, "without revival": {"revival.enabled": False}, **more}
    return {name: Condition({"num_experts": count, **change}) for name, change in changes.items()}


def _walk(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Condition]:
    """From `paper` on, each condition with the change it is named after and all those before it, to `default`."""
    conditions = {"paper": Condition(preset="paper")}
    overrides: dict[str, Any] = {}
    *names, last = changes
    for name in names:
        overrides = {**overrides, **changes[name]}
        conditions[f"+ {name}"] = Condition(overrides, preset="paper")
    return {**conditions, f"+ {last}: default": _ten_on_ten("evaluation")}


FROM_PAPER_TO_DEFAULT: dict[str, dict[str, Any]] = {
    "28x28 px": {"data.image_size": None},
    "width 16": {"experts.width": 16},
    "faster identity start": {"identity.learning_rate": 3e-3},
    "leaky ReLU in D": {"discriminator.activation": "leaky_relu"},
    "gradient penalty": {"competition.r1_gamma": 1.0},
    "objective (3'')": {"competition.objective": "score_weighted", "competition.loser_samples": 1},
    "revival": {"revival.enabled": True},
    "decay": {"training.decay": True},
    "cycle": {"competition.cycle_weight": 5.0},
    "ties": {"competition.tie_margin": 0.5},
    "router": {"router.enabled": True},
    "pairs": {"competition.pair_weight": 20.0},
}
"""What leads from the preset `paper` to `default`, one after the other; at the end they are the same."""

_FROM_DEFAULT: dict[str, dict[str, Any]] = {
    "residual head": {"experts.head": "residual"},
    "residual head, analytic start": {"experts.head": "residual", "identity.start": "analytic"},
    "frozen statistics": {"experts.normalization": "frozen"},
    "layer normalisation": {"experts.normalization": "layer"},
    "no normalisation": {"experts.normalization": "none"},
    "copied identity start": {"identity.start": "copied"},
    "objective (3')": {"competition.objective": "winner_weighted"},
    "no revival": {"revival.enabled": False},
    "batch 64": {"training.batch_size": 64},
    "width 32": {"experts.width": 32},
}


def _weak(name: str, mechanisms: Sequence[str]) -> dict[str, Condition]:
    """The default, and with a term for diversity."""
    overrides = {"mechanisms": list(mechanisms), "num_experts": len(mechanisms)}
    changes = {name: overrides}
    changes |= {
        f"{name}, {ending}": {**overrides, "competition.diversity_weight": weight}
        for ending, weight in DIVERSITY.items()
    }
    return {
        label: Condition(each, measures=("supervised", "evaluation"), representable=REPRESENTABLE)
        for label, each in changes.items()
    }


def _shifts(pixels: int) -> dict[str, Condition]:
    names = [name.replace("4", str(pixels)) for name in MECHANISM_SETS["paper"] if name.startswith("shift")]
    return _weak(f"shifts by {pixels} px", names)


def _rotations(angle: int) -> dict[str, Condition]:
    names = ["identity", f"rotate(degrees={angle})", f"rotate(degrees=-{angle})"]
    return _weak(f"rotations by {angle} degrees", names)


EXPERIMENTS: dict[str, Experiment] = {
    "specialisation": Experiment(
        "Specialisation",
        "Ten mechanisms, ten experts. A run succeeds if its matched share is at least 0.95; every seed is drawn, those "
        "that fail too. A mechanism is settled from the first validation on after which its expert keeps at least 95 % "
        "of it.",
        {"default": _ten_on_ten("evaluation")},
        seeds=20,
    ),
    "recovery": Experiment(
        "Recovered digits",
        "What the winners make of transformed digits, in decibels and structural similarity, beside an expert of the "
        "same architecture that was trained on pairs of transformed digit and original: the bound from above.",
        {"default": _ten_on_ten("evaluation", "recovered", "supervised")},
    ),
    "classifier": Experiment(
        "A classifier's accuracy",
        "A classifier of clean digits on restored digits over training (validation), between its accuracy on the "
        "transformed ones and on their originals. For reference one that was trained on digits under the mechanisms, "
        "on the transformed test digits.",
        {"default": _ten_on_ten("evaluation", "augmented")},
    ),
    "too_many_16": Experiment(
        "Too many experts: 16 for 10",
        "With experts to spare each mechanism should still have one owner, and the others win nothing. Retirement: "
        "those that nobody would miss stop competing once the learning rate falls. It is the setting for experts to "
        "spare; the numbers aimed for are asked of it and of the default.",
        _other_number(16, retirement={"revival.retire": True}),
    ),
    "too_many_20": Experiment(
        "Too many experts: 20 for 10",
        "Likewise with 20: the numbers aimed for are asked of retirement, the setting for experts to spare, and of the "
        "default.",
        _other_number(20, retirement={"revival.retire": True}),
    ),
    "too_few_6": Experiment(
        "Too few experts: 6 for 10",
        "With fewer experts than mechanisms the matched share, over the experts, is called coverage: each expert "
        "should own at least one mechanism whole. Some mechanisms are shared or have to be won by another's owner. "
        "With ties left as they are the best score wins, and forward networks have no say.",
        _other_number(6, **{"ties left as they are": {"competition.tie_margin": 0.0}}),
    ),
    "omniglot": Experiment(
        "Another script",
        "Experts of digits on Omniglot's characters (the five alphabets of its small background set) under the same "
        "mechanisms, without any more training. Identification: the share of images won by the expert that is matched "
        "to their mechanism on digits. The characters stand where they were drawn. MNIST's digits are centred by their "
        "centre of mass; the second row, added once shifts had been seen to go to their neighbours, has the characters "
        "centred so too. Told: a classifier that was told the mechanism of each training digit, to show how much of it "
        "digits can teach; added once the number aimed for had been missed.",
        {
            "default": _ten_on_ten("evaluation", "transfer", "told", source="omniglot"),
            "centred by their ink": _ten_on_ten("evaluation", "transfer", "told", source="omniglot", centred=True),
        },
    ),
    "fashion_mnist": Experiment(
        "Clothes",
        "Likewise on Fashion-MNIST's test images as they are, a row for each class.",
        {"default": _ten_on_ten("evaluation", "transfer", "told", source="fashion-mnist")},
    ),
    "ablation": Experiment(
        "Ablation",
        "First from the preset paper to the default, each row with one change more than the row before; then the "
        "default with one change each. The default is validated every 25 steps, the others every 50, and settled steps "
        "are as coarse as that.",
        {
            **_walk(FROM_PAPER_TO_DEFAULT),
            **{f"default, {name}": Condition(change) for name, change in _FROM_DEFAULT.items()},
        },
    ),
    "weak": Experiment(
        "Weak mechanisms",
        f"The weaker the mechanisms, the less there is to tell them apart by. First paired experts, in the steps of "
        f"the budget, show whether the architecture can undo each ({REPRESENTABLE:g} dB); only then experts compete, "
        f"and then with the mean squared difference between experts' outputs taken from the winner's loss, weight "
        f"{' or '.join(map('{:g}'.format, DIVERSITY.values()))}. One expert that wins all has a matched share of 1/N: "
        f"1/8 of eight shifts, 1/2 of two mechanisms.",
        {
            **_shifts(4),
            **_shifts(3),
            **_shifts(2),
            **_shifts(1),
            **_rotations(20),
            **_rotations(10),
            **_weak("contrast 0.5", ["identity", "contrast(factor=0.5)"]),
            **_weak("noise 0.1", ["identity", "noise(variance=0.1)"]),
            **_weak("noise 0.05", ["identity", "noise(variance=0.05)"]),
        },
        seeds=1,
    ),
    "baselines": Experiment(
        "Baselines",
        "The same data, steps and evaluation. One network: a single expert with the parameters of ten; it wins all, so "
        "its matched share says nothing. k-means: the last hidden layer of the discriminator, in as many clusters as "
        "there are experts, on the default's run. Supervised: a paired expert for each mechanism, told which. Random "
        "fixed assignment: each image's expert is drawn once and for all. A CycleGAN-like model, one network each way, "
        "has a page of its own: benchmarks/cyclegan.py.",
        {
            "default": _ten_on_ten("evaluation", "clusters", "supervised"),
            "one network": Condition({"num_experts": 1, "experts.width": 52}),
            "no identity start": Condition({"identity.start": "none"}),
            "random fixed assignment": Condition({"competition.winners": "fixed", "revival.enabled": False}),
        },
    ),
}
"""The results by the name that `licm reproduce --only` takes, in the order in which they are made."""

"""The configuration of a run: frozen, validated, one YAML file; presets `paper` and `default`."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from licm.checks import unknown_name
from licm.presets import PRESETS

_OF_WHOLE_BATCHES = ("convolutional", "batch")
AUTO_EXPERTS = 16  # what `num_experts: auto` starts with
_LARGEST = 1 << 53  # whole numbers up to here are the same in JSON; what is larger is a slip of the keyboard
_Path = Annotated[str, Field(min_length=1)]  # the empty one would be the current folder


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _whole_numbers_have_an_end(cls, value: Any) -> Any:
        if isinstance(value, int) and value > _LARGEST:
            raise ValueError(f"input should be less than or equal to {_LARGEST}, got {value}")
        return value


class DataConfig(_Section):
    """What P and Q are made of."""

    source: _Path = Field("embedded", description="embedded, mnist, fashion-mnist, omniglot, or a path to images")
    canonical: _Path | None = Field(None, description="a path to canonical images of one's own")
    transformed: _Path | None = Field(None, description="a path to transformed images of one's own")
    channels: Literal[1, 3] | None = Field(None, description="grey or colour, of image folders; None: as they are")
    image_size: int | None = Field(None, ge=8, le=4096, description="pad with black to this size; None: as they are")
    crop_size: int | None = Field(
        None, ge=8, le=4096, description="train on random crops of this size of one's own images, of any sizes"
    )
    fresh_mixture: bool = Field(False, description="draw the mechanism of each image anew at each step")
    mechanism_weights: tuple[float, ...] | None = Field(
        None, description="relative frequency of each mechanism in the mixture; None: equal"
    )


class ExpertConfig(_Section):
    """The experts' architecture; see `licm.models.Expert`."""

    # Known to be good: validating it would load torch, which `licm --help` does without.
    architecture: str = Field("convolutional", validate_default=False, description="a name in licm.models.EXPERTS")
    width: int = Field(16, ge=1, le=4096)
    depth: int = Field(5, ge=2, le=100)
    normalization: Literal["batch", "frozen", "layer", "none"] = "batch"
    activation: Literal["elu", "leaky_relu"] = "elu"
    head: Literal["sigmoid", "residual"] = "sigmoid"
    dilations: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    coordinates: bool = False

    @field_validator("architecture")
    @classmethod
    def _architecture_is_known(cls, value: str) -> str:
        from licm.models import EXPERTS  # here, as it needs torch

        if value not in EXPERTS:
            raise ValueError(unknown_name("expert architecture", value, EXPERTS))
        return value

    @model_validator(mode="after")
    def _dilations_fit_the_depth(self) -> Self:
        if self.dilations is not None and len(self.dilations) != self.depth:
            raise ValueError(f"dilations: expected {self.depth} numbers, one per convolution")
        return self


class DiscriminatorConfig(_Section):
    """The discriminator's architecture; see `licm.models.Discriminator`."""

    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field((16, 32, 64), min_length=1)
    convolutions: int = Field(2, ge=1, le=100)
    hidden: int = Field(1024, ge=1, le=1 << 16)
    activation: Literal["elu", "leaky_relu"] = "leaky_relu"


class IdentityConfig(_Section):
    """The approximate-identity start; see `licm.identity`."""

    start: Literal["trained", "copied", "analytic", "none"] = "trained"
    noise: float = Field(0.1, ge=0, description="of copies of the first expert, over the size of its weights")
    learning_rate: float = Field(3e-3, gt=0)
    tolerance: float = Field(0.002, gt=0)
    max_steps: int = Field(500, ge=1)


class CompetitionConfig(_Section):
    """The objective; see `licm.competition`."""

    objective: Literal["all_experts", "winner_weighted", "score_weighted"] = "score_weighted"
    loser_samples: int | None = Field(
        1, ge=1, description="outputs per image D learns from beside the one attended to; None: all"
    )
    r1_gamma: float = Field(1.0, ge=0)
    cycle_weight: float = Field(
        5.0, ge=0, description="of the cycle error, once the learning rate falls; 0: no forward networks"
    )
    pair_weight: float = Field(
        20.0, ge=0, description="of E_j(F_j(x)) against canonical x, where there are forward networks, likewise"
    )
    tie_margin: float = Field(
        0.5, ge=0, description="scores this near, in units of the mean margin, are ties for forward networks to settle"
    )
    winners: Literal["best", "fixed"] = Field("best", description="fixed: each image's expert is drawn; a baseline")
    diversity_weight: float = Field(
        0.0, ge=0, description="of the squared difference between a winner's output and the other experts'"
    )


class RouterConfig(_Section):
    """A small network that learns whom an image goes to; see `licm.routing`."""

    enabled: bool = Field(True, description="learn along, for restoring with one expert an image")
    proposals: int = Field(0, ge=0, description="experts asked about an image, and one more; 0: all, always")
    check_every: int = Field(50, ge=1, description="steps between exact competitions")
    trusted_from: float = Field(0.97, ge=0, le=1, description="share of winners proposed, from which it is asked")
    learning_rate: float = Field(1e-3, gt=0)


class RevivalConfig(_Section):
    """When an idle expert becomes a copy of an overloaded one; see `licm.revival`."""

    enabled: bool = True
    every: int = Field(25, ge=1, description="steps between looks")
    until: float = Field(0.7, ge=0, le=1, description="fraction of the step limit after which no more")
    idle_below: float = Field(0.25, ge=0, description="lead where it wins, in units of the mean margin")
    overloaded_above: float = Field(1.25, ge=0, description="win share, in units of 1/N'")
    duplicate_margin: float = Field(0.05, ge=0, description="score gap, over D's score of canonical images")
    noise: float = Field(0.02, ge=0, description="relative noise on the copied weights")
    max_tries: int = Field(4, ge=0, description="per idle expert")
    trial_steps: int = Field(100, ge=1, description="steps after which a copy is kept or undone")
    retire: bool = Field(False, description="retire experts that nobody would miss, once the learning rate is to fall")


class TrainingConfig(_Section):
    """The loop."""

    steps: int = Field(600, ge=1, description="the limit")
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    decay: bool = Field(True, description="constant, then linear to zero; False: constant to the end")
    healthy_steps: int = Field(100, ge=1, description="steps of health after which the decay begins")
    validate_every: int = Field(50, ge=1)
    validation_images: int = Field(250, ge=1)
    save_every: int = Field(50, ge=1)
    compile: bool = Field(False, description="compile the experts' scoring: 13 s once; pays with wide experts")


class Config(_Section):
    """One run."""

    preset: str = "default"
    seed: int = Field(0, ge=0)
    num_experts: int = Field(10, ge=1, le=1000, description="auto: 16, and revival.retire")
    mechanisms: str | tuple[str, ...] = Field("paper", description="a set's name, or mechanisms' notations")
    data: DataConfig = DataConfig()
    experts: ExpertConfig = ExpertConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    identity: IdentityConfig = IdentityConfig()
    competition: CompetitionConfig = CompetitionConfig()
    router: RouterConfig = RouterConfig()
    revival: RevivalConfig = RevivalConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _an_unknown_number_starts_large(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("num_experts") != "auto":
            return values
        revival = values.get("revival", {})
        if not isinstance(revival, dict):
            return values  # for pydantic to judge
        return {**values, "num_experts": AUTO_EXPERTS, "revival": {"retire": True, **revival}}

    @field_validator("mechanisms", mode="before")
    @classmethod
    def _mechanisms_are_a_name_or_a_list(cls, value: Any) -> Any:
        if not isinstance(value, str) and not (
            isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        ):
            raise ValueError(f"expected a set's name, or a list such as [invert, shift(dx=4)], got {value!r}")
        return value

    @field_validator("mechanisms")
    @classmethod
    def _mechanisms_are_readable(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        from licm.mechanisms import parse_mechanisms  # here, as it needs torch and nothing else of this module does

        if not parse_mechanisms(value):
            raise ValueError("at least one mechanism is needed")
        return value

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.identity.start == "analytic" and self.experts.head != "residual":
            raise ValueError("identity.start 'analytic' needs experts.head 'residual'")
        if self.identity.start == "analytic" and self.experts.architecture != "convolutional":
            raise ValueError("identity.start 'analytic' is for the experts of this library, not for one's own")
        if self.router.proposals and not self.router.enabled:
            raise ValueError("router.proposals needs router.enabled")
        for key, is_set in (
            ("competition.diversity_weight", self.competition.diversity_weight > 0),
            ("revival.retire", self.revival.retire),
        ):
            if self.router.proposals and is_set:
                raise ValueError(f"{key} needs router.proposals 0: every expert has to be asked")
        if self.router.proposals and (self.experts.architecture, self.experts.normalization) == _OF_WHOLE_BATCHES:
            raise ValueError("router.proposals needs experts.normalization 'frozen': 'batch' takes the whole batch")
        return self


_SHORT_KEYS = {"steps": "training.steps", "batch_size": "training.batch_size"}  # as `--set` also takes them


def make_config(
    preset: str = "default",
    *,
    overrides: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Config:
    """Builds a configuration from a preset and changes to it.

    Args:
        preset: A name in `PRESETS`.
        overrides: Dotted keys to values, for example `{"experts.width": 32, "steps": 100}`; applied last.
        values: Nested sections, as read from a YAML file.

    Raises:
        ValueError: If a preset, key or value is not valid; names the key and the nearest valid one.

    >>> make_config(overrides={"steps": 7}).training.steps
    7
    """
    if preset not in PRESETS:
        raise ValueError(unknown_name("preset", preset, PRESETS))
    merged = _merge({"preset": preset}, PRESETS[preset], values or {})
    for key, value in (overrides or {}).items():
        if key == "preset":
            raise ValueError("preset: choose it by itself (--preset), it is not a key to set")
        *sections, name = _SHORT_KEYS.get(key, key).split(".")
        for section in reversed(sections):
            name, value = section, {name: value}
        merged = _merge(merged, {name: value})
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ValueError(_explain(error)) from None


def _merge(*mappings: Mapping[str, Any]) -> dict[str, Any]:
    """Merges nested mappings, later ones first; a value that is not a mapping replaces what was there."""
    result: dict[str, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            old = result.get(key)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            result[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def _explain(error: ValidationError) -> str:
    """Puts pydantic's first complaint in one line."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        valid = _keys_of(path[:-1])
        close = difflib.get_close_matches(path[-1], [v.rsplit(".", 1)[-1] for v in valid], n=1, cutoff=0.5)
        everywhere = difflib.get_close_matches(key, [*_SHORT_KEYS, *_all_keys()], n=1, cutoff=0.5)
        nearest = ".".join([*path[:-1], *close]) if close else "".join(everywhere)
        hint = f"did you mean {nearest!r}? " if nearest else ""
        return f"unknown configuration key {key!r}: {hint}Valid here: {', '.join(valid)}"
    if first["type"] == "model_type":
        return f"configuration key {key!r} is a section: set a key in it, one of {', '.join(_keys_of(path))}"
    message = first["msg"].removeprefix("Value error, ").replace("Tuple", "list")
    message = message.replace("a valid tuple", "a list, as [1, 2]")
    message = message.replace("valid integer", "whole number or 'auto'") if key == "num_experts" else message
    if not path:
        return f"configuration: {message}"
    if first["type"] == "value_error":  # in words of ours, which say what came
        kind = "section" if key in _sections() else "key"
        return f"configuration {kind} {key!r}: {message}"
    got = "" if repr(first["input"]) in message else f", got {first['input']!r}"
    return f"configuration key {key!r}: {message[0].lower()}{message[1:]}{got}"


def _keys_of(path: Sequence[str]) -> list[str]:
    model: Any = Config
    for name in path:
        model = model.model_fields[name].annotation
    return [*model.model_fields]


def _sections() -> dict[str, type[_Section]]:
    annotations = {name: field.annotation for name, field in Config.model_fields.items()}
    return {n: each for n, each in annotations.items() if isinstance(each, type) and issubclass(each, _Section)}


def _all_keys() -> Iterable[str]:
    sections = _sections()
    for name in Config.model_fields:
        yield from (f"{name}.{inner}" for inner in sections[name].model_fields) if name in sections else (name,)


def flat(config: Config) -> dict[str, Any]:
    """Returns the values by dotted keys.

    >>> flat(make_config())["experts.width"]
    16
    """
    values = config.model_dump(mode="json")
    sections = {key: each if isinstance(each, dict) else {"": each} for key, each in values.items()}
    return {f"{key}.{name}".rstrip("."): value for key, section in sections.items() for name, value in section.items()}


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """Reads `a.b=c` settings; the values are YAML.

    Raises:
        ValueError: If a setting has no `=` or its value is not YAML.

    >>> parse_overrides(["experts.width=32", "mechanisms=[invert, 'shift(dx=4)']"])
    {'experts.width': 32, 'mechanisms': ['invert', 'shift(dx=4)']}
    """
    overrides = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"setting {setting!r}: expected KEY=VALUE, for example steps=100")
        try:
            overrides[key.strip()] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ValueError(f"setting {setting!r}: the value is not valid YAML") from None
    return overrides


def to_yaml(config: Config) -> str:
    """Returns the configuration as YAML that `from_yaml` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def from_yaml(
    text: str,
    *,
    name: str = "configuration",
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Reads a configuration: the file's preset (or `preset`), changed by the file, then by `overrides`.

    Raises:
        ValueError: If the text is not a YAML mapping or has an invalid key or value.
    """
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not valid YAML: {_problem_of(error)}") from None
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{name}: expected sections with keys, got {type(values).__name__}")
    of_file = values.pop("preset", "default")
    try:
        return make_config(preset or str(of_file), values=values, overrides=overrides)
    except ValueError as error:
        raise ValueError(f"{'' if overrides else f'{name}: '}{error}") from None


def _problem_of(error: Exception) -> str:
    """Says in a few words what YAML complains of, and where."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join((problem or str(error)).split())


def load_config(path: str | Path, **changes: Any) -> Config:
    """Reads a YAML file; see `from_yaml`.

    Raises:
        ValueError: If the file cannot be read or is not a valid configuration.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"configuration file {str(path)!r}: cannot be read: {reason}") from None
    return from_yaml(text, name=f"configuration file {str(path)!r}", **changes)

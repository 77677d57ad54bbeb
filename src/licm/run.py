"""A run: what it holds in memory, how it is built, and what images become by it."""

from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from licm.checks import check_images
from licm.competition import Competition, compete
from licm.config import Config
from licm.health import Health
from licm.models import EXPERTS, Discriminator, ExpertBank, placed
from licm.revival import Revival
from licm.routing import Router, Routing
from licm.seeding import derive_seed


@dataclass
class Run:
    """A run in memory.

    Attributes:
        config: Its configuration.
        competition: Experts, discriminator, optimisers.
        health: Label-free health.
        revival: The rule's state.
        step: Steps done.
        learning_rate_factor: That of the last step.
        decay_start: The step from which the learning rate falls, once known.
        retirement_step: The step after which expendable experts were retired, once they were.
        seconds: Time spent, over all sessions.
        events: What the revival rule did at the last step.
    """

    config: Config
    competition: Competition
    health: Health
    revival: Revival
    step: int = 0
    learning_rate_factor: float = 1.0
    decay_start: int | None = None
    retirement_step: int | None = None
    seconds: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def experts(self) -> ExpertBank:
        """The experts."""
        return self.competition.bank

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return next(self.experts.parameters()).device

    @property
    def finished(self) -> bool:
        """Whether the schedule has come to its end."""
        return self.step >= self.end

    @property
    def end(self) -> int:
        """The step at which the run ends as things stand: the limit, or the end of the decay."""
        if self.decay_start is None:
            return self.config.training.steps
        return min(self.config.training.steps, self.decay_start + self.decay_length)

    @property
    def decay_length(self) -> int:
        """Steps from the start of the decay to its end: half the limit, or what is left of it."""
        steps = self.config.training.steps
        return steps - max(steps // 2, self.decay_start or 0)

    @property
    def discriminator(self) -> Discriminator:
        """D."""
        return self.competition.discriminator

    @property
    def router(self) -> Router:
        """What says which expert to ask about an image.

        Raises:
            ValueError: If the run has none.
        """
        if self.competition.routing is None:
            raise ValueError("this run has no router: train one with router.enabled")
        return self.competition.routing.router

    @torch.no_grad()
    def apply(self, images: Tensor, *, mechanism: int) -> Tensor:
        """Does to clean images what the images of one expert have undergone, by its forward network F_j.

        F_j has learned the mechanism from what the expert won. Of a mechanism with randomness it gives the mean.

        Args:
            images: [n, c, h, w] in [0, 1], or signals or vectors, as the run was trained on.
            mechanism: j, the expert whose mechanism is meant, in [0, N').

        Returns:
            The same shape, in [0, 1], on the run's device.

        Raises:
            TypeError: If the images are not a floating-point tensor.
            ValueError: If the run has no forward networks, there is no such expert or it has retired, or the images are
                not a batch in [0, 1] with the channels of the run's.
        """
        forward = self.competition.forward
        if forward is None:
            raise ValueError(
                "this run has no forward networks, which learn the mechanisms: "
                "train one with competition.cycle_weight above 0"
            )
        if isinstance(mechanism, bool) or not isinstance(mechanism, Integral) or not 0 <= mechanism < len(forward):
            raise ValueError(f"mechanism: expected the number of an expert, 0 to {len(forward) - 1}, got {mechanism!r}")
        if not self.experts.competing[mechanism]:
            left = ", ".join(map(str, self.experts.competing.nonzero().flatten().tolist()))
            raise ValueError(f"mechanism: expert {mechanism} has retired, and stands for none; left are {left}")
        check_images(images, "images", channels=self.discriminator.channels, dims=self.discriminator.dims)
        network = forward[mechanism].eval()
        return torch.cat([network(part) for part in placed(images, self.device).split(256)]).contiguous()


def build_run(config: Config, *, channels: int, image_size: int = 1, dims: int = 2, device: str = "cpu") -> Run:
    """Builds a run's modules with weights drawn from its seed.

    `channels`, `image_size` and `dims` are those of `licm.models.Discriminator`.

    Raises:
        ValueError: If torch cannot compute on the device here, the discriminator does not fit the image size, or an
            expert does not give images of the shape and range it was given.
    """
    check_device(device)
    settings = config.experts.model_dump()
    make_expert = EXPERTS[settings.pop("architecture")]
    if dims != 2:  # an architecture for images alone need not know of it
        settings["dims"] = dims
    # A forward network sees as far as its expert, but the few images of one expert's wins are no batch to normalise by.
    of_forward = settings | {"normalization": "none", "activation": "leaky_relu", "head": "sigmoid"}

    def draw(purpose: str, settings: dict[str, Any]) -> ExpertBank:
        drawn = []
        for index in range(config.num_experts):
            torch.default_generator.manual_seed(derive_seed(config.seed, purpose, index))
            drawn.append(make_expert(channels=channels, **settings))
        return ExpertBank(drawn)

    with torch.random.fork_rng(devices=[]):
        bank = draw("expert weights", settings)
        forward = draw("forward weights", of_forward) if config.competition.cycle_weight > 0 else None
        torch.default_generator.manual_seed(derive_seed(config.seed, "discriminator weights"))
        frame = config.discriminator.model_dump() | {"channels": channels, "image_size": image_size, "dims": dims}
        discriminator = Discriminator(**frame)
        torch.default_generator.manual_seed(derive_seed(config.seed, "router weights"))
        router = None
        if config.router.enabled:
            router = Router(channels=channels, num_experts=config.num_experts, dims=dims)
    _check_expert(bank[0], config.experts.architecture, torch.zeros(2, *discriminator.input_shape))
    for module in (bank, discriminator, forward, router):
        if module is not None:
            module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    competition = Competition(
        bank,
        discriminator,
        forward=forward,
        routing=None if router is None else Routing(router, **config.router.model_dump(exclude={"enabled"})),
        **config.competition.model_dump(),
        compiled=config.training.compile,
        learning_rate=config.training.learning_rate,
        betas=config.training.betas,
    )
    return Run(config, competition, Health.start(config.num_experts), make_revival(config))


def start_cycle(run: Run, config: Config) -> Run:
    """Returns a run with the modules and optimisers of another, which it shares, at the first step of its schedule.

    Raises:
        ValueError: If the configuration asks for other networks than there are.
    """
    former = run.config
    for section in ("num_experts", "experts", "discriminator"):
        if getattr(config, section) != getattr(former, section):
            raise ValueError(f"{section}: changed since the fit, which partial_fit cannot follow; use fit")
    if (config.competition.cycle_weight > 0) != (former.competition.cycle_weight > 0):
        raise ValueError("competition.cycle_weight: partial_fit cannot add or drop forward networks; use fit")
    if config.router.enabled != former.router.enabled:
        raise ValueError("router.enabled: partial_fit cannot add or drop a router; use fit")
    return replace(
        run,
        config=config,
        health=Health.start(config.num_experts, run.experts.competing),
        revival=make_revival(config),
        step=0,
        learning_rate_factor=1.0,
        decay_start=None,
        retirement_step=None,
        events=[],
    )


def make_revival(config: Config) -> Revival:
    """Returns what watches over idle experts, at its start."""
    return Revival(config.num_experts, config.seed, **config.revival.model_dump(exclude={"enabled", "until", "retire"}))


def _check_expert(expert: torch.nn.Module, name: str, images: Tensor) -> None:
    with torch.no_grad():
        output = expert.eval()(images)
    if output.shape != images.shape or not (output.min() >= 0 and output.max() <= 1):
        low, high = output.min().item(), output.max().item()
        raise ValueError(
            f"expert architecture {name!r}: expected output {tuple(images.shape)} in [0, 1] as the input, "
            f"got {tuple(output.shape)} from {low:g} to {high:g}"
        )


def check_device(device: str) -> None:
    """Raises a `ValueError` if torch cannot compute on the device here."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device {device!r} cannot be used here: {reason}") from None


def restore_images(run: Run, images: Tensor, *, routed: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Lets the experts compete for images and applies the winners.

    Args:
        run: The run.
        images: [n, c, h, w] in [0, 1], or signals [n, c, t] or vectors [n, d], as the run was trained on.
        routed: Ask only the expert that the run's router names for each image, in place of all: several times faster.

    Returns:
        D's probabilities [N', n], 0 for who was not asked, the winners, int64 [n], and the winners' outputs,
        of the shape of the images, on the CPU.

    Raises:
        TypeError: If the images are not a floating-point tensor.
        ValueError: If they are not a batch in [0, 1] with D's channels and size, or the run has no router.
    """
    moved = placed(images, run.device)
    if routed:
        return _restore_routed(run, moved)
    scores, winners = compete(run.experts, run.discriminator, moved)
    parts = zip(moved.split(256), winners.split(256))
    restored = torch.cat([run.experts.restore(part, chosen) for part, chosen in parts])
    return scores.cpu(), winners.cpu(), restored.cpu().contiguous()


@torch.no_grad()
def route_images(run: Run, images: Tensor) -> Tensor:
    """Says which expert the run's router would ask about each image of [n, c, h, w] in [0, 1]: int64 [n], on the CPU.

    Raises:
        TypeError: If the images are not a floating-point tensor.
        ValueError: If they are not a batch in [0, 1] with D's channels, or the run has no router.
    """
    router = run.router
    check_images(images, "images", channels=run.discriminator.channels, dims=run.discriminator.dims)
    moved = placed(images, run.device)
    return torch.cat([router(part).argmax(dim=1) for part in moved.split(64)]).cpu()


@torch.no_grad()
def _restore_routed(run: Run, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    winners = route_images(run, images)
    parts = zip(images.split(256), winners.split(256))
    restored = torch.cat([run.experts.restore(part, chosen.to(run.device)) for part, chosen in parts])
    own = torch.cat([run.discriminator(part) for part in restored.split(64)]).sigmoid().cpu()
    scores = own.new_zeros(len(run.experts), len(images)).scatter(0, winners[None], own[None])
    return scores, winners, restored.cpu().contiguous()

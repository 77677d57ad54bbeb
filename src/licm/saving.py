"""A run's way to its folder and back: what of it is tensors, what plain values."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from licm import checkpoint as files
from licm.checks import KINDS
from licm.config import Config
from licm.datasets import IN_MEMORY
from licm.downloads import MIRRORS
from licm.health import Diverged, Health
from licm.run import Run, build_run, check_device, make_revival


def save_run(run: Run, folder: Path) -> None:
    """Writes a checkpoint of the run.

    Raises:
        Diverged: If a weight or the memory of an optimiser is not finite: what was saved before stays.
        OSError: If it cannot be written.
    """
    former = run.revival.state()[1]
    tensors = {f"revival.{name}": tensor for name, tensor in former.items()} | _weights(run)
    for prefix, optimizer in _optimizers(run).items():
        for index, parameter in enumerate(_parameters(optimizer)):
            for name, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{prefix}.{index}.{name}"] = value
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise Diverged(run.step, "a weight or the memory of an optimiser")
    files.save_checkpoint(folder, tensors, _state(run))


def save_weights(run: Run, folder: Path, *, half: bool = True) -> None:
    """Writes a checkpoint of what using the run takes, without what only training does: optimisers, revivals on trial.

    Args:
        run: The run.
        folder: A run folder, as that of `save_run`, which `load_run` reads.
        half: Store floating-point numbers as float16, in half the room, but for tensors it cannot hold.
    """
    tensors = _weights(run)
    if half:
        tensors = {name: _halved(tensor) for name, tensor in tensors.items()}
    files.save_checkpoint(folder, tensors, _state(replace(run, revival=make_revival(run.config))))


def _halved(tensor: Tensor) -> Tensor:
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if half.isfinite().all() else tensor


def _weights(run: Run) -> dict[str, Tensor]:
    modules = _modules(run).items()
    return {f"{prefix}.{name}": value for prefix, module in modules for name, value in module.state_dict().items()}


def _state(run: Run) -> dict[str, Any]:
    """The plain values of a checkpoint."""
    return {
        "step": run.step,
        "decay_start": run.decay_start,
        "retirement_step": run.retirement_step,
        "seconds": run.seconds,
        "image_shape": [run.discriminator.channels, run.discriminator.image_size],
        "dims": run.discriminator.dims,
        "health": run.health.state(),
        "usual_error": run.competition.usual_error.tolist(),
        "retired": (~run.experts.competing).nonzero().flatten().tolist(),
        "revival": run.revival.state()[0],
        "routing": None if run.competition.routing is None else run.competition.routing.state(),
    }


def load_run(folder: str | Path, *, device: str = "cpu") -> Run:
    """Reads a run from its folder, to use its experts or to go on training.

    Raises:
        ValueError: If the folder is not a run, has no readable checkpoint, or the checkpoint does not fit the
            configuration or holds what are no numbers.
    """
    folder = Path(folder)
    config = files.read_config(folder)
    tensors, state = files.load_checkpoint(folder)
    check_device(device)
    try:
        run = _restore(config, tensors, state, device)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the checkpoint of {str(folder)!r} does not fit its configuration: {reason}") from None
    run.experts.eval()
    return run


def load_image_run(folder: str | Path, *, device: str = "cpu") -> Run:
    """Reads a run for what is done with images alone; raises a `ValueError` of its own for one of another kind."""
    run = load_run(folder, device=device)
    if run.discriminator.dims != 2:
        kind = KINDS[run.discriminator.dims]
        raise ValueError(f"{str(folder)!r} is a run of {kind}: this is for images, use restore_images on {kind}")
    return run


def with_paths(config: Config, change: Callable[[Path], str]) -> Config:
    """Returns the configuration with each path to images changed, and names of known sources as they are."""
    places = {key: getattr(config.data, key) for key in ("source", "canonical", "transformed")}
    no_paths = (None, IN_MEMORY, "embedded", *MIRRORS)
    changed = {key: each if each in no_paths else change(Path(each)) for key, each in places.items()}
    return config.model_copy(update={"data": config.data.model_copy(update=changed)})


def _restore(config: Config, tensors: dict[str, Tensor], state: dict[str, Any], device: str) -> Run:
    """Builds a run and fills it with what was saved."""
    files.check_plausible(tensors, state, num_experts=config.num_experts)
    channels, image_size = state["image_shape"]
    dims = state.get("dims", 2)  # none was saved when there were images alone
    run = build_run(config, channels=channels, image_size=image_size, dims=dims, device=device)

    def under(prefix: str) -> dict[str, Tensor]:
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}

    if state.get("routing") is None:  # off, or saved before there were routers
        run.competition.routing = None
    else:
        assert run.competition.routing is not None
        run.competition.routing.restore(state["routing"])
    for prefix, module in _modules(run).items():
        module.load_state_dict(under(prefix))
    for prefix, optimizer in _optimizers(run).items():
        saved = under(prefix)
        for index, parameter in enumerate(_parameters(optimizer)):
            for name in ("step", "exp_avg", "exp_avg_sq"):
                if f"{index}.{name}" in saved:
                    value = saved[f"{index}.{name}"]
                    like = torch.empty((), device=parameter.device) if name == "step" else parameter.detach()
                    optimizer.state[parameter][name] = torch.empty_like(like).copy_(value)
    run.experts.retire(state.get("retired", []))
    run.health = Health.restore(state["health"])
    run.competition.usual_error = torch.tensor(state["usual_error"])
    run.revival.restore(state["revival"], {k: v.to(device) for k, v in under("revival").items()})
    run.step, run.decay_start = state["step"], state["decay_start"]
    run.retirement_step = state.get("retirement_step")
    run.seconds = state["seconds"]
    return run


def _modules(run: Run) -> dict[str, torch.nn.Module]:
    modules = {"bank": run.experts, "discriminator": run.discriminator}
    if run.competition.forward is not None:
        modules["forward"] = run.competition.forward
    if run.competition.routing is not None:
        modules["router"] = run.competition.routing.router
    return modules


def _optimizers(run: Run) -> dict[str, torch.optim.Optimizer]:
    optimizers: dict[str, torch.optim.Optimizer] = {
        "expert_optimizer": run.competition.expert_optimizer,
        "discriminator_optimizer": run.competition.discriminator_optimizer,
    }
    if run.competition.routing is not None:
        optimizers["router_optimizer"] = run.competition.routing.optimizer
    return optimizers


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]

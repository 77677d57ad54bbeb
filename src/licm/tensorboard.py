"""What TensorBoard shows of a run: its history, who wins what, and what the experts make of a few fixed images.

Needs the extra `licm[tensorboard]`. Events go to `tensorboard/` in the run folder, beside `history.jsonl`, which stays
the record; nothing is read back from them. Watching changes no bit of the training.
"""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from licm.competition import compete
from licm.datasets import TrainingData
from licm.mechanisms import parse_mechanisms
from licm.run import Run
from licm.training import Callback

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
MOST_SAMPLES = 16

_WON = torch.tensor([0.90, 0.62, 0.0])  # orange, told apart from the grey by colour-blind readers and in print
_PAPER = torch.tensor([0.6, 0.6, 0.6])
_FULL_SHARE = torch.tensor([0.03, 0.19, 0.42])  # dark blue; no share is white

_SCALARS = {
    "loss/discriminator": "discriminator_loss",
    "loss/expert": "expert_loss",
    "loss/cycle": "cycle_error",
    "score/canonical": "real_score",
    "score/winning": "winning_score",
    "health/margin": "margin",
    "health/healthy_steps": "healthy_steps",
}


class TensorBoard:
    """Writes a run's events; a context manager whose `watch` is one of the `watchers` of `licm.train`.

    Args:
        folder: The run folder.

    Raises:
        ValueError: If TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils import tensorboard  # noqa: F401
        except ImportError:
            raise ValueError("TensorBoard is not installed; get it with: pip install 'licm[tensorboard]'") from None
        self.folder = Path(folder) / FOLDER
        self.writer: SummaryWriter | None = None

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()

    def watch(self, run: Run, data: TrainingData) -> Callback:
        """Opens the event file and returns the callback; what a resumed run does again replaces what was there."""
        from torch.utils.tensorboard import SummaryWriter

        writer = self.writer = SummaryWriter(str(self.folder), purge_step=run.step + 1)
        images, originals = choose_samples(data)
        if data.validation is not None and run.step == 0:
            names = parse_mechanisms(run.config.mechanisms)
            writer.add_text("mechanisms", "\n".join(f"{row}. `{name}`" for row, name in enumerate(names)), 0)

        def callback(record: dict[str, Any]) -> None:
            _write_record(writer, record, run.config.training.learning_rate)
            due = record["kind"] == "step" and record["step"] % run.config.training.validate_every == 0
            if due or (record["kind"] == "step" and run.finished):
                if images.ndim == 4:  # signals and vectors are no pictures
                    writer.add_image(
                        "samples/input, experts, original", sample_grid(run, images, originals), record["step"]
                    )
                writer.flush()

        return callback


def _write_record(writer: "SummaryWriter", record: dict[str, Any], learning_rate: float) -> None:
    """Writes what a record says by itself."""
    step = record["step"]
    if record["kind"] == "identity":
        for expert, error in enumerate(record["errors"]):
            writer.add_scalar(f"identity_error/expert_{expert}", error, step)
    elif record["kind"] == "step":
        for tag, key in _SCALARS.items():
            if record[key] is not None:
                writer.add_scalar(tag, record[key], step)
        writer.add_scalar("learning_rate", learning_rate * record["learning_rate_factor"], step)
        for expert, share in enumerate(record["win_share"]):
            writer.add_scalar(f"win_share/expert_{expert}", share, step)
    elif record["kind"] == "validation":
        writer.add_scalar("validation/matched_share", record["matched_share"], step)
        writer.add_scalar("validation/psnr_db", record["psnr"], step)
        if record["accuracy_restored"] is not None:
            writer.add_scalar("validation/accuracy_restored", record["accuracy_restored"], step)
        writer.add_image("winners/mechanism by expert", heat_map(record["winner_matrix"]), step)
    elif record["kind"] == "revival":
        writer.add_text("revival", f"{record['event']}: expert {record['expert']} from {record['donor']}", step)


def choose_samples(data: TrainingData) -> tuple[Tensor, Tensor | None]:
    """Chooses a few images to watch: one of each mechanism where they are known, else the first.

    Returns:
        Transformed images [n, c, h, w] in [0, 1], n at most `MOST_SAMPLES`, and their originals where known.
    """
    if data.validation is None:
        return data.transformed[:8], None
    mechanism = data.validation.mechanism
    first = torch.stack([(mechanism == index).nonzero()[0, 0] for index in mechanism.unique()[:MOST_SAMPLES]])
    chosen = data.validation.select(first)
    return chosen.images, chosen.originals


def heat_map(matrix: list[list[float]], *, cell: int = 24) -> Tensor:
    """Draws a winner matrix: mechanisms down, experts across, from white (no image won) to dark blue (all).

    Args:
        matrix: Shares in [0, 1].
        cell: Side of a cell, px.

    Returns:
        [3, height, width] in [0, 1].

    >>> heat_map([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]).shape
    torch.Size([3, 48, 72])
    """
    share = torch.tensor(matrix)
    picture = torch.lerp(torch.ones(3, 1, 1), _FULL_SHARE[:, None, None], share[None])
    return picture.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)


def sample_grid(run: Run, images: Tensor, originals: Tensor | None, *, frame: int = 2) -> Tensor:
    """Draws a row for each image: the input, every expert's output with the winner's framed, the hidden original.

    Args:
        run: Whose experts; left in evaluation mode.
        images: [n, c, h, w] in [0, 1].
        originals: Likewise, or None where they are not known.
        frame: Width of the frames, px.

    Returns:
        [3, height, width] in [0, 1].
    """
    moved = images.to(run.device, memory_format=torch.channels_last)
    winners = compete(run.experts, run.discriminator, moved)[1].cpu()
    with torch.no_grad():
        columns = [images, *(output.cpu() for output in run.experts(moved))]
    if originals is not None:
        columns.append(originals)
    tiles = torch.stack(columns, dim=1)  # [n, columns, c, h, w]
    n, count, _, height, width = tiles.shape
    pictures = torch.empty(n, count, 3, height + 2 * frame, width + 2 * frame)
    pictures[:] = _PAPER[:, None, None]
    pictures[torch.arange(n), winners + 1] = _WON[:, None, None]
    inside = slice(frame, -frame)
    pictures[..., inside, inside] = tiles.expand(-1, -1, 3, -1, -1)
    gap = F.pad(pictures, (frame, frame, frame, frame), value=1.0)
    return gap.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)

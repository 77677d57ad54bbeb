"""What a person sees while a run trains: a bar in a terminal, a line now and then elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from licm.config import Config


class Progress:
    """A training callback that shows rate, time left and health.

    Args:
        config: The run's configuration.
        quiet: Show nothing.
    """

    def __init__(self, config: Config, *, quiet: bool = False) -> None:
        self.config = config
        self.quiet = quiet
        self.console = Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[health]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("identity start", total=config.num_experts, rate="", health="")
        self.health = self.validated = self.rate = ""
        self.first: tuple[int, float] | None = None
        self.show = {
            "identity progress": self._show_identity_progress,
            "identity": self._show_identity,
            "judge": self._show_judge,
            "step": self._show_step,
            "validation": self._show_validation,
            "revival": self._show_revival,
        }

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, record: dict[str, Any]) -> None:
        """Shows one record of the history."""
        self.show[record["kind"]](record)

    def _show_identity_progress(self, record: dict[str, Any]) -> None:
        self.bar.update(self.task, completed=record["expert"] + 1)

    def _show_identity(self, record: dict[str, Any]) -> None:
        worst = max(record["errors"])
        self._say(f"identity start ({record['start']}): mean squared error at most {worst:.4f}")

    def _show_judge(self, record: dict[str, Any]) -> None:
        self._say(
            f"a classifier of clean images is right on {record['accuracy_clean']:.3f} of the clean and "
            f"{record['accuracy_transformed']:.3f} of the transformed validation images"
        )

    def _show_step(self, record: dict[str, Any]) -> None:
        if self.first is None:
            self.first = (record["step"], record["seconds"])
        steps, seconds = record["step"] - self.first[0], record["seconds"] - self.first[1]
        self.rate = f"{steps / seconds:.1f} steps/s" if seconds > 0 else ""
        share = [value * self.config.num_experts for value in record["win_share"]]
        self.health = f"wins {min(share):.1f} to {max(share):.1f} of even, margin {record['margin']:.2f}"
        if record["idle_experts"]:
            self.health += f", idle: {', '.join(map(str, record['idle_experts']))}"
        self.bar.update(
            self.task,
            description="training",
            completed=record["step"],
            total=record["end"],
            rate=self.rate,
            health=f"{self.health}{self.validated}",
        )
        if not self.console.is_terminal and record["step"] % self.config.training.validate_every == 0:
            left = (record["end"] - record["step"]) * seconds / steps if steps else 0
            self._say(f"step {record['step']} of {record['end']}: {self.health}; {self.rate}, {left:.0f} s left")

    def _show_validation(self, record: dict[str, Any]) -> None:
        figures = f"matched share {record['matched_share']:.3f}, PSNR {record['psnr']:.1f} dB"
        if record["accuracy_restored"] is not None:
            figures += f", accuracy {record['accuracy_restored']:.3f}"
        self.validated = f", {figures}"
        if not self.console.is_terminal:
            self._say(f"step {record['step']}: on validation {figures}")

    def _show_revival(self, record: dict[str, Any]) -> None:
        relation = "done by" if record["event"] == "retired" else "from"
        self._say(f"step {record['step']}: {record['event']}: expert {record['expert']} {relation} {record['donor']}")

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.bar.console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def track_images(*, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Gives a callback (done, total) that moves a bar in a terminal, and is silent elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("restoring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

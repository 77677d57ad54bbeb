"""The competition of a run as one ONNX graph, for programs without torch (the extra `onnx`)."""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from licm.objective import choose_winners
from licm.run import Run
from licm.writing import write_bytes

INPUT, OUTPUTS = "images", ("scores", "winners", "restored")


class Restorer(nn.Module):
    """What the graph computes: images, or signals or vectors, in [0, 1] -> scores, winners and restored images."""

    numbers: Tensor

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.bank = run.experts
        self.discriminator = run.discriminator
        self.competing = run.experts.competing.nonzero().flatten().tolist()
        self.register_buffer("numbers", torch.tensor(self.competing), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns D's probabilities [n, N'], the winners, int64 [n], and their outputs, of the shape of the images.

        Retired experts have probability 0.
        """
        outputs = torch.stack([self.bank[j](images) for j in self.competing])
        logits = self.discriminator(outputs.flatten(0, 1)).unflatten(0, outputs.shape[:2])
        best = choose_winners(logits)
        chosen = best.view(1, -1, *[1] * (outputs.ndim - 2)).expand(-1, -1, *outputs.shape[2:])
        known = dict(zip(self.competing, logits.sigmoid()))
        scores = [known[j] if j in known else torch.zeros_like(logits[0]) for j in range(len(self.bank))]
        return torch.stack(scores, dim=1), self.numbers[best], outputs.gather(0, chosen).squeeze(0)


def export_onnx(run: Run, path: str | Path) -> None:
    """Writes a run as an ONNX file, weights within: input `images`, outputs `scores`, `winners` and `restored`.

    The batch may have any size; height and width are those that the run was trained on. The batch is computed as a
    whole: N' outputs an image are in memory at once.

    Args:
        run: The run, on the CPU.
        path: A new file whose name ends in `.onnx`.

    Raises:
        ValueError: If onnx and onnxscript are not installed, the name ends otherwise, or the file is there already.
        OSError: If it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"{str(path)!r}: expected a name that ends in .onnx")
    if path.exists():
        raise ValueError(f"{str(path)!r} exists already: choose another name, nothing is overwritten")
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise ValueError("writing ONNX needs onnx and onnxscript: pip install 'licm[onnx]'")
    images = torch.zeros(2, *run.discriminator.input_shape)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch of itself: uses of what it has deprecated
        logger.setLevel(logging.ERROR)  # and of torchvision, which is not used here
        try:
            program = torch.onnx.export(
                Restorer(run).eval(),
                (images,),
                input_names=[INPUT],
                output_names=OUTPUTS,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                dynamo=True,
                verbose=False,
            )
        finally:
            logger.setLevel(level)
    assert program is not None
    write_bytes(path, program.model_proto.SerializeToString())

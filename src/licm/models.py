"""The two networks: an expert (fully convolutional, image to image) and the discriminator (image to logit).

The slides' expert is 5 convolutions of 3x3 with 32 filters, ELU, batch normalisation and zero padding; its
discriminator pools on average after every 2 convolutions, with a growing number of filters and a fully
connected layer of 1024 at the end. Everything that differs between presets is a plain argument here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from licm.checks import check_images

Activation = Literal["elu", "leaky_relu"]
Head = Literal["sigmoid", "residual"]
Normalization = Literal["batch", "layer", "none"]

# In place: what comes before, a convolution or a normalisation, needs its input for the gradient and not its output.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": lambda: nn.ELU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True),
}
_LOGIT_MARGIN = 0.01  # the residual head maps pixels into [0.01, 0.99], where the logit is finite


class Expert(nn.Module):
    """A convolutional network E: [n, c, h, w] in [0, 1] -> the same shape and range, of any height and width.

    `receptive_radius` (pixels) is how far an output pixel sees in each direction: depth * 1 for plain 3x3
    convolutions, so 5 px for the slides' expert, which undoes shifts of 4 px. Such an expert is
    shift-equivariant up to the zero padding: it cannot turn or flip an image, for which `coordinates`
    (two more input channels with y and x in [-1, 1]) and `dilations` (a wider view) are there.

    `is_local` says that in evaluation mode an output pixel depends on nothing else: an image can then go through in
    tiles that overlap by the radius, with the same result. Coordinates, which tell where in the whole image a pixel
    is, take that away, and so does layer normalisation, over the whole image.

    Args:
        channels: c, of input and output.
        width: Filters of each hidden convolution.
        depth: Number of convolutions, at least 2.
        normalization: "batch" (slides), "layer" (over all channels and pixels of an image, so that an output does not
            depend on the other images) or "none", between each hidden convolution and its activation.
        activation: "elu" (slides) or "leaky_relu" (slope 0.1; much cheaper on a CPU).
        head: "sigmoid" (of the last convolution) or "residual": sigmoid(logit(x) + last convolution), which is
            the identity (within 0.01) when the last convolution is zero.
        dilations: One dilation per convolution; None for all 1.
        coordinates: Whether the input is extended by coordinate channels.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        width: int = 32,
        depth: int = 5,
        normalization: Normalization = "batch",
        activation: Activation = "elu",
        head: Head = "sigmoid",
        dilations: Sequence[int] | None = None,
        coordinates: bool = False,
    ) -> None:
        super().__init__()
        if dilations is None:
            dilations = (1,) * depth
        if len(dilations) != depth:
            raise ValueError(f"dilations: expected {depth} numbers, one per convolution, got {len(dilations)}")
        layers: list[nn.Module] = []
        inputs = channels + 2 * coordinates
        for dilation in dilations[:-1]:
            layers.append(
                nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation, bias=normalization == "none")
            )
            if normalization == "batch":
                layers.append(nn.BatchNorm2d(width))
            if normalization == "layer":
                layers.append(nn.GroupNorm(1, width))
            layers.append(_ACTIVATIONS[activation]())
            inputs = width
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(inputs, channels, 3, padding=dilations[-1], dilation=dilations[-1])
        self.channels = channels
        self.head = head
        self.coordinates = coordinates
        self.receptive_radius = sum(dilations)
        self.is_local = not coordinates and normalization != "layer"

    def forward(self, images: Tensor) -> Tensor:
        """Returns the expert's output, [n, c, h, w] in [0, 1]."""
        inputs = _with_coordinates(images) if self.coordinates else images
        change = self.last(self.body(inputs))
        if self.head == "residual":
            change = change + torch.logit(images.clamp(_LOGIT_MARGIN, 1 - _LOGIT_MARGIN))
        return torch.sigmoid(change)


def _with_coordinates(images: Tensor) -> Tensor:
    n, _, height, width = images.shape
    y = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)
    x = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    return torch.cat([images, grid.expand(n, -1, -1, -1)], dim=1)


class Discriminator(nn.Module):
    """A network D: [n, c, size, size] -> logits [n]; sigmoid(logit) estimates how likely an image is from P.

    It sees the whole image (its receptive field is the frame), so it takes one image size only.

    Args:
        channels: c of the images.
        image_size: Height and width, at least 2 ** len(widths).
        widths: Filters per stage; each stage is `convolutions` 3x3 convolutions and average pooling by 2.
        convolutions: Convolutions per stage.
        hidden: Units of the fully connected last hidden layer.
        activation: "elu" (slides) or "leaky_relu".
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        image_size: int = 28,
        widths: Sequence[int] = (16, 32, 64),
        convolutions: int = 2,
        hidden: int = 1024,
        activation: Activation = "elu",
    ) -> None:
        super().__init__()
        side = image_size // 2 ** len(widths)
        if side < 1:
            raise ValueError(
                f"image_size: {len(widths)} poolings need at least {2 ** len(widths)} px, got {image_size}"
            )
        layers: list[nn.Module] = []
        inputs = channels
        for width in widths:
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), _ACTIVATIONS[activation]()]
                inputs = width
            layers.append(nn.AvgPool2d(2))
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(nn.Linear(inputs * side * side, hidden), _ACTIVATIONS[activation]())
        self.logit = nn.Linear(hidden, 1)
        self.channels = channels
        self.image_size = image_size

    def forward(self, images: Tensor) -> Tensor:
        """Returns one logit per image, [n]."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images: the discriminator takes {self.image_size}x{self.image_size} px, "
                f"got {images.shape[-2]}x{images.shape[-1]}"
            )
        return self.logit(self.hidden(self.features(images).flatten(1))).squeeze(1)


EXPERTS: dict[str, Callable[..., nn.Module]] = {"convolutional": Expert}
"""Architectures by name: functions of `channels` and the settings under `experts` to a module [n, c, h, w] in [0, 1] ->
the same shape and range. Add one of your own here; a run names it in `experts.architecture`."""


class ExpertBank(nn.Module):
    """The experts E_1..E_N', all of one architecture.

    Attributes:
        competing: Which of them compete, bool [N']; the others were retired. It is no part of the state dict.
    """

    competing: Tensor

    def __init__(self, experts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.register_buffer("competing", torch.ones(len(self.experts), dtype=torch.bool), persistent=False)

    def retire(self, experts: Sequence[int]) -> None:
        """Takes experts out of the competition: their numbers stay, and their scores are minus infinity."""
        self.competing[list(experts)] = False

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether in training mode an output depends on the other images of the batch."""
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        return any(isinstance(module, kinds) for module in self.modules())

    def __len__(self) -> int:
        return len(self.experts)

    def __getitem__(self, index: int) -> nn.Module:
        return self.experts[index]

    def __iter__(self) -> Iterator[nn.Module]:
        return (self[index] for index in range(len(self)))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns every expert's output for the same images: N' tensors [n, c, h, w]."""
        return [expert(images) for expert in self]

    @torch.no_grad()
    def restore(self, images: Tensor, experts: Tensor) -> Tensor:
        """Applies to each image the expert chosen for it, in evaluation mode.

        Args:
            images: [n, c, h, w] in [0, 1].
            experts: int64 [n], the expert of each image.

        Returns:
            [n, c, h, w] in [0, 1].
        """
        check_images(images, "images", channels=getattr(self[0], "channels", None))
        self.eval()
        restored = torch.empty_like(images)
        for index in experts.unique().tolist():
            chosen = experts == index
            restored[chosen] = self[index](images[chosen])
        return restored


@torch.no_grad()
def score_matrix(bank: ExpertBank, discriminator: Discriminator, images: Tensor) -> Tensor:
    """Returns the logits c_j = D(E_j(x')), [N', n], in the modules' current mode and without a graph.

    They are minus infinity for retired experts.
    """
    logits = images.new_full((len(bank), len(images)), -torch.inf)
    for j in bank.competing.nonzero().flatten().tolist():
        logits[j] = discriminator(bank[j](images))
    return logits

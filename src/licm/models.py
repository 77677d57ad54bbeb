"""The two networks: an expert (fully convolutional, image to image) and the discriminator (image to logit).

Both are for signals and vectors too: `dims`, 2 for images [n, c, h, w], is then 1, [n, c, t] with convolutions along t,
or 0, [n, d] with linear maps in place of convolutions.

The slides' expert is 5 convolutions of 3x3 with 32 filters, ELU, batch normalisation and zero padding; its
discriminator pools on average after every 2 convolutions, with a growing number of filters and a fully
connected layer of 1024 at the end. Everything that differs between presets is a plain argument here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from licm.checks import check_images

Activation = Literal["elu", "leaky_relu"]
Head = Literal["sigmoid", "residual"]
Normalization = Literal["batch", "frozen", "layer", "none"]

# In place: what comes before, a convolution or a normalisation, needs its input for the gradient and not its output.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": lambda: nn.ELU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True),
}
_LOGIT_MARGIN = 0.01  # the residual head maps pixels into [0.01, 0.99], where the logit is finite


def convolution(
    dims: int, inputs: int, outputs: int, *, dilation: int = 1, stride: int = 1, bias: bool = True
) -> nn.Linear | nn.Conv1d | nn.Conv2d:
    """Returns a convolution 3 wide along each of `dims` axes, padded by zeros; with no axis it is a linear map."""
    if dims == 0:
        return nn.Linear(inputs, outputs, bias=bias)
    kind = (nn.Conv1d, nn.Conv2d)[dims - 1]
    return kind(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=bias)


def placed(images: Tensor, device: torch.device) -> Tensor:
    """Returns images, signals or vectors on a device, as float32, in the memory layout that is fastest there."""
    images = images.float() if images.is_floating_point() else images
    return images.to(device, memory_format=torch.channels_last if images.ndim == 4 else torch.preserve_format)


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
        normalization: "batch" (slides), "frozen" (batch normalisation by the statistics of the identity start, which an
            `ExpertBank` holds from then on), "layer" (over all channels and pixels of an image) or "none", between each
            hidden convolution and its activation. But for "batch" an output depends on no other image of a batch.
        activation: "elu" (slides) or "leaky_relu" (slope 0.1; much cheaper on a CPU).
        head: "sigmoid" (of the last convolution) or "residual": sigmoid(logit(x) + last convolution), which is
            the identity (within 0.01) when the last convolution is zero.
        dilations: One dilation per convolution; None for all 1.
        coordinates: Whether the input is extended by coordinate channels, one an axis.
        dims: 2 for images, 1 for signals [n, c, t], 0 for vectors [n, c].
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
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims == 0 and (coordinates or dilations is not None):
            raise ValueError("coordinates, dilations: they are along an axis, and vectors have none")
        if dilations is None:
            dilations = (1,) * depth
        if len(dilations) != depth:
            raise ValueError(f"dilations: expected {depth} numbers, one per convolution, got {len(dilations)}")
        layers: list[nn.Module] = []
        inputs = channels + dims * coordinates
        for dilation in dilations[:-1]:
            layers.append(convolution(dims, inputs, width, dilation=dilation, bias=normalization == "none"))
            if normalization in ("batch", "frozen"):
                layers.append(nn.BatchNorm2d(width) if dims == 2 else nn.BatchNorm1d(width))
            if normalization == "layer":
                layers.append(nn.GroupNorm(1, width))
            layers.append(_ACTIVATIONS[activation]())
            inputs = width
        self.body = nn.Sequential(*layers)
        self.last = convolution(dims, inputs, channels, dilation=dilations[-1])
        self.channels = channels
        self.dims = dims
        self.head = head
        self.coordinates = coordinates
        self.is_frozen = normalization == "frozen"
        self.receptive_radius = sum(dilations) if dims > 0 else None
        self.is_local = dims > 0 and not coordinates and normalization != "layer"

    def forward(self, images: Tensor) -> Tensor:
        """Returns the expert's output, [n, c, h, w] in [0, 1]."""
        inputs = _with_coordinates(images) if self.coordinates else images
        change = self.last(self._hidden(inputs))
        if self.head == "residual":
            change = change + torch.logit(images.clamp(_LOGIT_MARGIN, 1 - _LOGIT_MARGIN))
        return torch.sigmoid(change)

    def _hidden(self, x: Tensor) -> Tensor:
        """The body, in evaluation mode with batch normalisation folded into the convolutions: a pass less over x."""
        if self.training or not isinstance(self.body[1], nn.modules.batchnorm._BatchNorm):
            return self.body(x)
        layers: Any = iter(self.body)
        for layer, norm, activation in zip(layers, layers, layers):
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            x = activation(_with_weights(layer, x, scale, norm.bias - norm.running_mean * scale))
        return x


def _with_weights(layer: nn.Linear | nn.Conv1d | nn.Conv2d, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Applies a convolution or linear map with each filter scaled, and a bias."""
    weight = layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight, bias)
    convolve = nn.functional.conv1d if isinstance(layer, nn.Conv1d) else nn.functional.conv2d
    return convolve(x, weight, bias, layer.stride, layer.padding, layer.dilation)


def _with_coordinates(images: Tensor) -> Tensor:
    n, _, *sizes = images.shape
    axes = [torch.linspace(-1, 1, size, device=images.device, dtype=images.dtype) for size in sizes]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([images, grid.expand(n, *grid.shape)], dim=1)


class Discriminator(nn.Module):
    """A network D: [n, c, size, size] -> logits [n]; sigmoid(logit) estimates how likely an image is from P.

    It sees the whole image (its receptive field is the frame), so it takes one image size only.

    Args:
        channels: c of the images.
        image_size: Height and width, of signals their length, at least 2 ** len(widths); vectors have none.
        widths: Filters per stage; each stage is `convolutions` 3x3 convolutions and average pooling by 2.
        convolutions: Convolutions per stage.
        hidden: Units of the fully connected last hidden layer.
        activation: "elu" (slides) or "leaky_relu".
        dims: 2 for images, 1 for signals [n, c, size], 0 for vectors [n, c].
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
        dims: int = 2,
    ) -> None:
        super().__init__()
        side, unit = image_size // 2 ** len(widths), "px" if dims == 2 else "steps"
        if side < 1 and dims > 0:
            raise ValueError(
                f"image_size: {len(widths)} poolings need at least {2 ** len(widths)} {unit}, got {image_size}"
            )
        layers: list[nn.Module] = []
        inputs = channels
        for width in widths:
            for _ in range(convolutions):
                layers += [convolution(dims, inputs, width), _ACTIVATIONS[activation]()]
                inputs = width
            if dims > 0:
                layers.append((nn.AvgPool1d, nn.AvgPool2d)[dims - 1](2))
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(nn.Linear(inputs * side**dims, hidden), _ACTIVATIONS[activation]())
        self.logit = nn.Linear(hidden, 1)
        self.channels = channels
        self.image_size = image_size
        self.dims = dims

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of an image, (c, size, size), of a signal, (c, size), or of a vector, (c,)."""
        return (self.channels, *[self.image_size] * self.dims)

    def forward(self, images: Tensor) -> Tensor:
        """Returns one logit per image, [n]."""
        if images.shape[2:] != self.input_shape[1:]:
            want, got = ("x".join(map(str, sizes)) for sizes in (self.input_shape[1:], images.shape[2:]))
            raise ValueError(f"images: the discriminator takes {want} {'px' if self.dims == 2 else 'steps'}, got {got}")
        return self.logit(self.hidden(self.features(images).flatten(1))).squeeze(1)


EXPERTS: dict[str, Callable[..., nn.Module]] = {"convolutional": Expert}
"""Architectures by name: functions of `channels` and the settings under `experts` to a module [n, c, h, w] in [0, 1] ->
the same shape and range; for signals and vectors they are given `dims` too. Add one of your own here; a run names it in
`experts.architecture`."""


def _is_frozen(expert: nn.Module) -> bool:
    return bool(getattr(expert, "is_frozen", False))


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

    def train(self, mode: bool = True) -> "ExpertBank":
        """Sets the mode; experts with frozen statistics stay in evaluation mode unless trained by themselves."""
        super().train(mode)
        for expert in filter(_is_frozen, self):
            expert.eval()
        return self

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether in training mode an output depends on the other images of the batch."""
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        modules = (module for expert in self if not _is_frozen(expert) for module in expert.modules())
        return any(isinstance(module, kinds) for module in modules)

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
        one = self[0]
        check_images(images, "images", channels=getattr(one, "channels", None), dims=getattr(one, "dims", None))
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

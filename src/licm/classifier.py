"""A small digit classifier that judges restored images: does what was restored still look like its class?

It is trained on clean canonical images and their labels only, by a fixed recipe and seed, so that its accuracy
on restored images can be held against its accuracy on the clean and on the transformed ones. It plays no part
in the method, which sees no labels.
"""

from math import ceil

import torch
from torch import Tensor, nn

from licm.checks import check_images
from licm.seeding import derive_seed, generator

_WIDTHS = (16, 32, 64)
MIN_SIZE = 2 ** len(_WIDTHS)  # px; each stage halves the image
_BATCH_SIZE = 64
_PEAK_LEARNING_RATE = 0.01
_LABEL_SMOOTHING = 0.1


def train_classifier(
    images: Tensor, labels: Tensor, *, seed: int = 0, epochs: int = 3, num_classes: int | None = None
) -> nn.Module:
    """Trains a small convolutional classifier; the same seed and thread count give the same weights, bitwise.

    Adam under a one-cycle schedule, cross-entropy with label smoothing, batches of 64, no augmentation. Trained
    on the 10,000 embedded canonical digits (10 s on one CPU thread), it is right on 0.988 of the clean test
    digits. The global random state is left as it was.

    Args:
        images: [n, c, h, w] in [0, 1], h and w at least 8.
        labels: Integers [n] in [0, num_classes).
        seed: Of the initial weights and the order of the images.
        epochs: Passes over the images. The default suits about 10,000; fewer images need more.
        num_classes: None for the largest label plus one.

    Returns:
        A module in evaluation mode, on the device of `images`, from images [m, c, h, w] to logits
        [m, num_classes]; other h and w of at least 8 are possible.

    Raises:
        TypeError: If `images` is not a floating-point tensor or `labels` not a tensor.
        ValueError: If an argument has a wrong shape or values.
    """
    _check_examples(images, labels)
    height, width = images.shape[-2:]
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"images: expected at least {MIN_SIZE}x{MIN_SIZE} px, got {height}x{width}")
    if epochs < 1:
        raise ValueError(f"epochs: expected at least 1, got {epochs}")
    if num_classes is None:
        num_classes = int(labels.max()) + 1
    if labels.max() >= num_classes:
        raise ValueError(f"labels: expected integers in [0, {num_classes}), got {int(labels.max())}")
    labels = labels.to(images.device, torch.int64)
    model = _build_model(images.shape[1], num_classes, seed=derive_seed(seed, "classifier weights"))
    # On a CPU this layout takes a third less time.
    model = model.to(images).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PEAK_LEARNING_RATE, total_steps=epochs * ceil(len(images) / _BATCH_SIZE)
    )
    loss_function = nn.CrossEntropyLoss(label_smoothing=_LABEL_SMOOTHING)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator(seed, "classifier order", epoch))
        for batch in order.to(images.device).split(_BATCH_SIZE):
            optimizer.zero_grad()
            loss_function(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def predict_labels(model: nn.Module, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """Returns the class with the largest logit for each image.

    Args:
        model: A module from images to logits [n, num_classes], in evaluation mode.
        images: [n, c, h, w] in [0, 1].
        batch_size: Images at a time; bounds the memory taken.

    Returns:
        int64 [n].

    Raises:
        TypeError: If `images` is not a floating-point tensor.
        ValueError: If `images` has a wrong shape or values, or `batch_size` is below 1.

    >>> brightest_column = nn.Sequential(nn.AdaptiveMaxPool2d((1, 2)), nn.Flatten()).eval()
    >>> images = torch.tensor([[0.0, 1.0], [0.5, 0.0], [0.1, 0.2]]).view(3, 1, 1, 2)
    >>> predict_labels(brightest_column, images).tolist()
    [1, 0, 1]
    """
    check_images(images, "images")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    return torch.cat([model(batch).argmax(dim=1) for batch in images.split(batch_size)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 500) -> float:
    """Returns the share of images, in [0, 1], that the model gives their label.

    Args:
        model: A module from images to logits [n, num_classes], in evaluation mode.
        images: [n, c, h, w] in [0, 1].
        labels: Integers [n].
        batch_size: Images at a time; bounds the memory taken.

    Raises:
        TypeError: If `images` is not a floating-point tensor or `labels` not a tensor.
        ValueError: If an argument has a wrong shape or values.

    >>> brightest_column = nn.Sequential(nn.AdaptiveMaxPool2d((1, 2)), nn.Flatten()).eval()
    >>> images = torch.tensor([[0.0, 1.0], [0.5, 0.0], [0.1, 0.2], [0.3, 0.1]]).view(4, 1, 1, 2)
    >>> accuracy(brightest_column, images, torch.tensor([1, 0, 0, 0]))
    0.75
    """
    _check_examples(images, labels)
    predicted = predict_labels(model, images, batch_size=batch_size)
    return (predicted == labels.to(predicted)).double().mean().item()


def _build_model(channels: int, num_classes: int, *, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = []
        inputs = channels
        for width in _WIDTHS:
            layers += [
                nn.Conv2d(inputs, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            inputs = width
        layers += [nn.AdaptiveAvgPool2d(3), nn.Flatten()]
        layers += [nn.Linear(9 * inputs, 128), nn.ReLU(), nn.Linear(128, num_classes)]
        return nn.Sequential(*layers)


def _check_examples(images: Tensor, labels: Tensor) -> None:
    check_images(images, "images")
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: expected a torch.Tensor of integers [n], got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels: expected integers, got dtype {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(images)},), one per image, got {tuple(labels.shape)}")
    if labels.min() < 0:
        raise ValueError(f"labels: expected integers of at least 0, got {int(labels.min())}")

"""The method as a scikit-learn estimator: fit on two heaps, restore others like them, tell which expert did it."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.utils.data import Dataset

from licm import checkpoint as files
from licm.checks import KINDS, unknown_name
from licm.competition import compete
from licm.confidence import Calibration, gather_evidence, needed, read_calibration, save_calibration
from licm.config import Config, flat, make_config
from licm.datasets import IN_MEMORY, TrainingData, load_training_data
from licm.forms import PATHS, Given, count_axes, read_images
from licm.models import placed
from licm.progress import Progress
from licm.run import Run, restore_images, start_cycle
from licm.saving import load_run, save_run
from licm.sharing.hub import obtain_model
from licm.sources import ImageSet
from licm.training import train
from licm.whole_images import apply_whole, restore_whole
from licm.writing import whole_folder, write_text, writing

_GIVEN_OTHERWISE = ("preset", "seed", "num_experts", "mechanisms", "data.")  # by arguments, or with the images
_OF_PATHS = ("data.crop_size", "data.channels")  # what can be said of how two paths are read
_BATCH_SIZE = ("batch_size", "training.batch_size")


class MechanismInverter(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Learns to undo unknown mechanisms from clean images and a mixture of transformed ones, unpaired and unlabelled.

    Images are given in any of these forms, all of one square size:

    - a NumPy array or torch tensor [n, h, w], [n, c, h, w] with c of 1 or 3, or flat [n, h * w] of square grey images
      (also a data frame or list of rows), as integers in 0..255 or floating-point numbers in [0, 1];
    - a torch `Dataset` of image tensors [c, h, w] or [h, w], or of tuples that begin with one; an `ImageSet`;
    - the path of a folder of images, one image, a `.npz` or an IDX file, as `licm.sources.load_images` reads it.

    Two folders of images of any sizes are fitted on by crops, with `data.crop_size` among the settings. Of a path the
    methods then take whole images, as `licm restore` does, and what comes back is a list of arrays [c, h, w], each of
    its image's own size and depth; in any other form images are of a crop's size.

    With `kind` "signals" they are arrays, tensors or data sets [n, c, t] or, of one channel, [n, t], with "vectors"
    [n, d]: of floating-point numbers in [0, 1] alone.

    What comes back has the container, shape and type of what was given: integers stay integers in 0..255, and of a
    dataset comes a tensor, of a path an array, uint8 [n, c, h, w] in the order of the names.

    Args:
        num_experts: N', as many as mechanisms are suspected, or "auto" where the number is not known: 16, of which
            those that nobody would miss retire once the learning rate is to fall. With experts to spare set
            `{"revival.retire": True}`, without which two may share a mechanism to the end.
        preset: A name in `licm.presets.PRESETS`; images keep their size, whatever it says of that.
        steps: The limit of training steps; None for the preset's.
        settings: Further keys of the configuration by dotted name, such as `{"experts.width": 32}`; of those under
            `data`, `data.crop_size` and `data.channels`, for a fit on two paths.
        random_state: An integer seeds everything: the same gives the same fit. A `numpy.random.RandomState`, or None
            for NumPy's global one, draws such an integer.
        verbose: Whether to show progress on the error output.
        device: Where to compute: cpu, cuda, mps.
        kind: "images", "signals" or "vectors"; it says what rows are, which may be any of these.

    Attributes:
        run_: The `Run`: experts, discriminator, forward networks, configuration.
        calibration_: The `licm.confidence.Calibration`; None of a run folder without one, and of signals and vectors.
        image_shape_: (c, h, w) of the images, (c, t) of signals, (d,) of vectors.
        n_features_in_: The product of these.
        feature_names_in_: Of a data frame's columns, if they are strings.
        n_iter_: Steps done, over all calls of `partial_fit`.
    """

    image_shape_: tuple[int, ...]

    def __init__(
        self,
        num_experts: int | Literal["auto"] = 10,
        *,
        preset: str = "default",
        steps: int | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        verbose: bool = False,
        device: str = "cpu",
        kind: Literal["images", "signals", "vectors"] = "images",
    ) -> None:
        self.num_experts = num_experts
        self.preset = preset
        self.steps = steps
        self.settings = settings
        self.random_state = random_state
        self.verbose = verbose
        self.device = device
        self.kind = kind

    def fit(self, X: Any, y: Any = None, *, canonical: Any) -> Self:
        """Trains experts, from the start.

        Unless `settings` name a batch size, a batch has the preset's, or as many images as the smaller heap if that
        is less. Training leaves no files; where a long fit should survive a kill, train on the command line and `load`
        the run folder. Ctrl-C raises `KeyboardInterrupt`, and nothing of the training is kept.

        Args:
            X: Transformed images, at least 2.
            y: Ignored.
            canonical: Clean images of the same size, at least 2, and no originals of `X` among them.

        Raises:
            TypeError: If images are of a kind that is not listed above.
            ValueError: If images or settings are not as described, or training diverges.
        """
        before = vars(self).copy()
        try:
            data = self._training_data(X, canonical, reset=True)
            self._train(self._make_config(data, X, canonical), data, None)
        except BaseException:  # a fit from before is still one
            self.__dict__ = before
            raise
        self.n_iter_ = self.run_.step
        return self

    def partial_fit(self, X: Any, y: Any = None, *, canonical: Any) -> Self:
        """Goes on with experts, discriminator and optimisers as they are, for a new cycle of the schedule.

        The learning rate, steps, health and revival start again; there is no identity start. Without a fit before,
        it is one. Arguments and errors are those of `fit`; what shapes the networks cannot have been changed.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, canonical=canonical)
        data = self._training_data(X, canonical, reset=False)
        self._train(self._make_config(data, X, canonical), data, self.run_)
        self.n_iter_ += self.run_.step
        return self

    def transform(self, X: Any) -> Any:
        """Restores images: each becomes the output of the expert that wins it.

        Args:
            X: Images like those of the fit.

        Returns:
            The restored images, in the form of `X`; of a path, after a fit on crops, a list of arrays.

        Raises:
            NotFittedError: Before a fit.
            TypeError: If images are of a kind that is not listed above.
            ValueError: If the images are not like those of the fit, or one of a folder cannot be read.
        """
        if self._takes_whole(X):
            return restore_whole(self.run_, X).images
        given = self._read(X)
        return given.give_back(restore_images(self.run_, given.images)[2])

    def predict(self, X: Any) -> np.ndarray:
        """Returns the expert that wins each image, int64 [n] in [0, num_experts); errors are those of `transform`."""
        return self._compete(X)[1].numpy()

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns the discriminator's score of every expert's output, float32 [n, num_experts].

        A score is the probability, in [0, 1], that the output is a clean image. Errors are those of `transform`.
        """
        return self._compete(X)[0].T.numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns how sure it is that each expert should win, float64 [n, num_experts] with rows of sum 1.

        Errors are those of `transform`, and `ValueError` where `calibration_` is None; see `licm.confidence`.
        """
        calibration = self._needed_calibration()
        return calibration.confidences(self._compete(X)[0]).numpy()

    def abstain(self, X: Any) -> np.ndarray:
        """Returns why nothing should be claimed of an image, [n]: "clean" already, "unknown" mechanism, or "".

        `transform` restores such images all the same. Errors are those of `predict_proba`.
        """
        calibration = self._needed_calibration()
        if self._takes_whole(X):
            return np.array(restore_whole(self.run_, X, calibration=calibration).reasons)
        images = self._read(X).images
        evidence = gather_evidence(self.run_, images, *restore_images(self.run_, images))
        return np.array(calibration.reasons(evidence))

    def score(self, X: Any, y: Any = None) -> float:
        """Returns the mean score of the winners' outputs, in [0, 1]: how much like clean images they are restored.

        It needs no labels: `y` is ignored. It compares images under one fit; every fit has a discriminator of its own,
        whose scores say little about another's. Errors are those of `transform`.
        """
        return self._compete(X)[0].amax(dim=0).mean().item()

    def apply(self, X: Any, *, mechanism: int) -> Any:
        """Does to clean images what the images of one expert have undergone; see `Run.apply`.

        Args:
            X: Clean images, of the size of those of the fit.
            mechanism: The expert whose mechanism is meant, in [0, num_experts).

        Returns:
            The images under the mechanism, in the form of `X`. Errors are those of `transform`, and `ValueError` if
            there are no forward networks or no such expert.
        """
        if self._takes_whole(X):
            return apply_whole(self.run_, X, mechanism=mechanism)
        given = self._read(X)
        return given.give_back(self.run_.apply(given.images, mechanism=mechanism).cpu())

    def save(self, path: str | Path) -> None:
        """Writes a run folder, which `load` and the commands read; no file of it is a pickle.

        The images and the names of features are not kept.

        Raises:
            NotFittedError: Before a fit.
            ValueError: If something is there already.
            OSError: If it cannot be written; nothing of it is then left.
        """
        check_is_fitted(self)
        folder = Path(path).absolute()
        files.check_free(folder)
        with whole_folder(folder) as fresh:
            for name, text in self._records.items():
                write_text(fresh / name, text)
            save_run(self.run_, fresh)
            if self.calibration_ is not None:
                save_calibration(self.calibration_, fresh)
            with writing(folder):
                (folder / files.LOCK).unlink(missing_ok=True)  # left by a process that was killed

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Self:
        """Reads a fitted estimator from a run folder, be it by `save` or by `licm train`.

        Raises:
            ValueError: If the folder is not a run or has no readable checkpoint.
        """
        folder = Path(path)
        run = load_run(folder, device=device)
        config = run.config
        usual = flat(make_config(config.preset))
        changed = {key: value for key, value in flat(config).items() if value != usual[key]}
        steps = changed.pop("training.steps", None)
        settings = {
            key: value for key, value in changed.items() if key in _OF_PATHS or not key.startswith(_GIVEN_OTHERWISE)
        }
        loaded = cls(
            config.num_experts,
            preset=config.preset,
            steps=steps,
            settings=settings or None,
            random_state=config.seed,
            device=device,
            kind=KINDS[run.discriminator.dims],  # type: ignore[arg-type]
        )
        loaded._take(run, folder)
        loaded.image_shape_ = run.discriminator.input_shape
        loaded.n_features_in_ = math.prod(loaded.image_shape_)
        loaded.n_iter_ = run.step
        return loaded

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, device: str = "cpu") -> Self:
        """Reads a trained model: one of the package, a folder, or `owner/name` on the hub; see `obtain_model`."""
        return cls.load(obtain_model(name, revision=revision), device=device)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "run_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _training_data(self, X: Any, canonical: Any, *, reset: bool) -> TrainingData:
        """Reads both heaps; with `reset`, what images are like is learned from them."""
        reading = {key.removeprefix("data."): value for key, value in (self.settings or {}).items() if key in _OF_PATHS}
        if reading:
            return self._read_paths(X, canonical, reading, reset=reset)
        transformed = self._read(X, reset=reset, to_fit=True).images
        clean = read_images(canonical, "canonical", dims=self._dims(), usable_only=True).images
        for name, images in (("X", transformed), ("canonical", clean)):
            if len(images) < 2:
                raise ValueError(f"{name}: at least 2 {self.kind} are needed, got n_samples={len(images)}")
        if clean.shape[1:] != transformed.shape[1:]:
            kinds = [" x ".join(map(str, images.shape[1:])) for images in (transformed, clean)]
            raise ValueError(f"canonical: expected {self.kind} like those of X, {kinds[0]}, got {kinds[1]}")
        return TrainingData(clean, transformed)

    def _read_paths(self, X: Any, canonical: Any, reading: dict[str, Any], *, reset: bool) -> TrainingData:
        """Reads both heaps from their paths, in the way that the settings say."""
        if self._dims() != 2 or not (isinstance(X, PATHS) and isinstance(canonical, PATHS)):
            raise ValueError(f"settings: 'data.{next(iter(reading))}' is for a fit on two paths of images")
        make_config(self.preset, overrides={f"data.{key}": value for key, value in reading.items()})  # checks them
        data = load_training_data(
            source="", mechanisms="paper", seed=0, canonical=str(canonical), transformed=str(X), **reading
        )
        shape = tuple(data.canonical.shape[1:])
        if not reset and shape != self.image_shape_:
            raise ValueError(f"X: expected images like those of the fit, {self.image_shape_}, got {shape}")
        self._learn_shape(shape, named=False)
        return data

    def _learn_shape(self, shape: tuple[int, ...], *, named: bool) -> None:
        """Keeps what images are like; `named` tells whether names of features were kept with them just now."""
        self.image_shape_, self.n_features_in_ = shape, math.prod(shape)
        if not named and hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _make_config(self, data: TrainingData, X: Any, canonical: Any) -> Config:
        seed = self.random_state
        if isinstance(seed, np.random.RandomState) or seed is None:
            seed = int(check_random_state(seed).randint(2**31 - 1))
        settings = dict(self.settings or {})
        for key in settings:
            if key.startswith(_GIVEN_OTHERWISE) and key not in _OF_PATHS:
                told = "comes from an argument or the images given to fit"
                raise ValueError(f"settings: {key!r} {told}; for sources, train with licm train and load")
        if not any(key in settings for key in _BATCH_SIZE):
            usual = make_config(self.preset).training.batch_size
            settings["batch_size"] = min(usual, len(data.canonical), len(data.transformed))
        names = {"canonical": canonical, "transformed": X}
        given = {f"data.{key}": str(value) if isinstance(value, PATHS) else IN_MEMORY for key, value in names.items()}
        steps = {} if self.steps is None else {"steps": self.steps}
        overrides = {**settings, **steps, **given, "data.image_size": None}
        return make_config(self.preset, overrides={**overrides, "seed": seed, "num_experts": self.num_experts})

    def _train(self, config: Config, data: TrainingData, former: Run | None) -> None:
        """Trains in a temporary run folder: from the start, or on from a former run."""
        with tempfile.TemporaryDirectory(prefix="licm-") as place, Progress(config, quiet=not self.verbose) as progress:
            folder = Path(place, "run")
            if former is not None:
                files.create_run(folder, config, device=self.device)
                save_run(start_cycle(former, config), folder)
            callbacks = [progress] if self.verbose else []
            resume = former is not None
            run = train(config, folder, resume=resume, device=self.device, callbacks=callbacks, data=data)
            if not run.finished:
                raise KeyboardInterrupt(f"the fit was stopped at step {run.step}; nothing of it is kept")
            self._take(run, folder)

    def _take(self, run: Run, folder: Path) -> None:
        run.experts.eval()
        self.run_, self.calibration_ = run, read_calibration(folder, run)
        self._records = files.texts_of(folder)

    def _takes_whole(self, X: Any) -> bool:
        """Whether images are read from a path, in their own sizes, for experts that were trained on crops."""
        check_is_fitted(self)
        return isinstance(X, PATHS) and self.run_.config.data.crop_size is not None

    def _compete(self, X: Any) -> tuple[Tensor, Tensor]:
        if self._takes_whole(X):
            whole = restore_whole(self.run_, X)
            return whole.scores, whole.winners
        images = placed(self._read(X).images, self.run_.device)
        scores, winners = compete(self.run_.experts, self.run_.discriminator, images)
        return scores.cpu(), winners.cpu()

    def _needed_calibration(self) -> Calibration:
        check_is_fitted(self)
        if self.kind != "images":
            raise ValueError(f"kind: confidence and abstention are for images, got {self.kind!r}")
        return needed(self.calibration_)

    def _dims(self) -> int:
        if self.kind not in KINDS:
            raise ValueError(unknown_name("kind", self.kind, KINDS))
        return KINDS.index(self.kind)

    def _channels(self) -> int | None:
        """Returns as what folders are read: colour is made grey only where the fit was told to do so."""
        told, channels = self.run_.config.data.channels, self.image_shape_[0]
        return None if told is None and channels == 1 else channels

    def _read(self, X: Any, *, reset: bool = False, to_fit: bool = False) -> Given:
        """Reads images: the first to be fitted on (`reset`), or such as must be like those of the fit."""
        if not reset:
            check_is_fitted(self)
        dims = self._dims()
        rows = not isinstance(X, (*PATHS, Tensor, Dataset, ImageSet)) and count_axes(X, "X") not in (3, 4)
        if rows:
            X = validate_data(self, X, reset=reset, dtype="numeric", ensure_non_negative=True)
        expected, channels = (None, None) if reset else (self.image_shape_, self._channels())
        given = read_images(X, "X", expected, dims=dims, channels=channels, usable_only=to_fit)
        if reset:
            self._learn_shape(tuple(given.images.shape[1:]), named=rows)
        return given

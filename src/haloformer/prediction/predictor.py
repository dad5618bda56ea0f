"""A trained model that is ready to answer: weights, preprocessing, class names and provenance in one object.

`load` reads the *artefact* that training leaves in a run folder, ``weights.safetensors`` and ``artefact.json``. Neither
can hold code, and every field is checked before it is used. `predict` sends files through it, batch by batch, into a
CSV or Parquet table.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from haloformer.artefact.read import Artefact, load_weights, read_artefact
from haloformer.data.framing import Framing, network_input
from haloformer.data.normalization import Normalization
from haloformer.data.reader import (
    PixelGrid,
    not_answered,
    why_not_finite,
)
from haloformer.devices import resolve_device
from haloformer.errors import InputError
from haloformer.files import as_name
from haloformer.fitting.channels import Look, Residual
from haloformer.models import create_model
from haloformer.models.head import numbers_and_features
from haloformer.outputs.conformal import Conformal
from haloformer.outputs.decision import Answers, decide
from haloformer.outputs.geometry import GeometryCheck
from haloformer.outputs.layout import Outputs
from haloformer.outputs.losses import predictions
from haloformer.outputs.out_of_distribution import OodDetector, OodVerdict, ood_features
from haloformer.outputs.temperature import temperature_of
from haloformer.prediction.geometry import why_withdrawn
from haloformer.prediction.in_memory import as_batch, on_grid
from haloformer.prediction.resampled import also_resampled
from haloformer.prediction.scaled import why_scaled

if TYPE_CHECKING:
    from haloformer.prediction.in_memory import Images
    from haloformer.prediction.result import Predictions

A_MODEL = "name a shipped model, or a run or artefact folder"
"""What is to be given for a model, for messages."""


@dataclass(repr=False)
class Predictor:
    """A model with its preprocessing.

    Attributes:
        model: Framed and normalised images in, numbers (B, outputs.n) out; in evaluation mode on ``device``.
        framing: To the size and channels of the model.
        residual: Adds what the best smooth lens leaves unexplained, for models that want to see it.
        normalization: Framed images in, what the model was trained on out.
        outputs: What the model's numbers mean.
        conformal: Makes predicted intervals hold the wished share of true values; None without a regression.
        image_shape: (C, H, W) of the images that go in.
        artefact: All of ``artefact.json``.
        device: Where the model is.
        temperature: What the logits are divided by for calibrated probabilities; 1 where the artefact has none.
        detector: Tells images unlike those of the training; None where the artefact has no statistics of them.
        geometry: Tells answers that hold only for the survey's geometry; None where the artefact has no statistics of that.
        name: What it was loaded from: a run or artefact folder, or the name of a shipped model.

    Examples:
        >>> import haloformer
        >>> predictor = haloformer.load("model_ii")
        >>> lenses = haloformer.simulate("model_ii", 6, seed=2000)
        >>> found = predictor(lenses.images)  # a table: found.to_table(), found.plot()
        >>> found.probabilities.shape
        (6, 3)
    """

    model: nn.Module
    framing: Framing
    residual: Residual | None
    normalization: Normalization
    outputs: Outputs
    conformal: Conformal | None
    image_shape: tuple[int, int, int]
    artefact: dict[str, Any]
    device: torch.device
    temperature: float = 1.0
    detector: OodDetector | None = None
    geometry: GeometryCheck | None = None
    name: str = ""

    def __repr__(self) -> str:
        shape, survey = " × ".join(map(str, self.image_shape)), self.artefact.get("survey")
        answers = ", ".join((*self.class_names, *self.outputs.targets))
        network = self.artefact["model"]["name"]
        return f"Predictor({self.name or 'in memory'}: {network} for {shape} images of {survey} → {answers})"

    def __call__(self, images: Any, **options: Any) -> "Predictions":
        """Returns the table of answers for images in memory or in files.

        Args:
            images: As `haloformer.predict` takes them.
            options: The other keywords of `haloformer.predict` but for ``out``, ``device`` and those of a table on disk.
        """
        from haloformer.prediction.answering import answer_images

        return answer_images(self, images, **options)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes in the order of the logits; none for a regression alone."""
        return self.outputs.class_names

    @classmethod
    def from_run(cls, path: str | os.PathLike[str], device: str = "auto") -> "Predictor":
        """Reads a run folder or its artefact folder; the same as `load`."""
        artefact = read_artefact(Path(as_name(path, "model", A_MODEL)))
        fields, spec = artefact.fields, artefact.fields.model
        target = resolve_device(device)
        model = create_model(
            spec.name,
            img_size=spec.img_size,
            in_chans=spec.in_chans,
            num_classes=spec.num_classes,
            **spec.kwargs,
        )
        load_weights(model, artefact.weights)
        model = model.eval().to(target)
        return cls(
            model=model,
            framing=fields.framing,
            residual=fields.residual,
            normalization=fields.normalization,
            outputs=fields.layout,
            conformal=fields.conformal if fields.layout.targets else None,
            image_shape=fields.image_shape,
            artefact=artefact.description,
            device=target,
            temperature=temperature_of(artefact.description, str(artefact.path)),
            detector=_detector(artefact, model),
            geometry=_geometry(artefact),
            name=os.fspath(path),
        )

    @property
    def grid(self) -> PixelGrid:
        """Shape and pixel scale of the images that go in."""
        scale = self.artefact.get("pixel_scale")
        known = (
            isinstance(scale, int | float) and not isinstance(scale, bool) and 1e-4 <= scale <= 1e4
        )
        return PixelGrid(self.image_shape, float(scale) if known else None)  # type: ignore[arg-type]

    @torch.no_grad()
    def prepared(self, images: "Images", *, masked: bool = False) -> Tensor:
        """Returns what the network gets (B, C', H', W'), on its device, of raw images (B, C, H, W)."""
        return self.prepared_unchecked(self.checked(images, masked=masked), masked=masked)

    @torch.no_grad()
    def prepared_unchecked(self, images: Tensor, *, masked: bool = False) -> Tensor:
        """Returns the same of float32 images on the device, whatever they hold: a trace cannot ask for values."""
        return network_input(
            self._with_residual(images, masked),
            self.framing,
            self.normalization,
            self.residual is not None,
        )

    def checked(self, images: "Images", *, masked: bool = False) -> Tensor:
        """Returns raw images (B, C, H, W) as float32 on the device; raises InputError where files like them would be refused."""
        batch = as_batch(images, self.grid).to(self.device, torch.float32)
        if not masked and not (finite := torch.isfinite(batch).flatten(1).all(dim=1)).all():
            bad = int((~finite).nonzero()[0])
            raise why_not_finite(batch[bad], f"image {bad} of the batch")
        return batch

    def in_image(self, maps: Tensor) -> Tensor:
        """Puts maps (B, L, H', W') of what the network gets back on the raw images: (B, L, H, W), 0 where it does not look."""
        height, width = self.image_shape[-2:]
        if self.residual is None or self.residual.crop is None:
            return self.framing.back(maps, (height, width))
        side = self.residual.crop
        return Framing(crop=side).back(self.framing.back(maps, (side, side)), (height, width))

    @torch.inference_mode()
    def numbers(self, images: "Images", *, masked: bool = False) -> Tensor:
        """Returns all that the model says, float32 (B, outputs.n) on the CPU, for raw images (B, C, H, W).

        With ``masked``, pixels that are not finite are not known: the smooth fit leaves them out, and the network sees 0 there.
        """
        numbers = self.model(self.prepared(images, masked=masked)).float().cpu()
        return _finite(numbers)

    def numbers_and_ood(
        self,
        images: "Images",
        *,
        masked: bool = False,
        geometry: bool = True,
        look: Look | None = None,
    ) -> tuple[Tensor, OodVerdict | None]:
        """Returns what `numbers` and `ood` do.

        Without ``geometry``, from one pass through the network and one fit: it is not asked whether another pixel scale or orientation
        would change an answer, which takes several. With a ``look``, what :attr:`residual` made of these images, without a fit.
        """
        if self.detector is None:
            if look is not None:
                return _finite(self.numbers_of(look.channels)), None
            return self.numbers(images, masked=masked), None
        numbers, verdict = self._numbers_and_verdict(images, masked, geometry, look)
        return _finite(numbers), verdict

    def _numbers_and_verdict(
        self, images: "Images", masked: bool, geometry: bool, look: Look | None = None
    ) -> tuple[Tensor, OodVerdict]:
        """Returns the numbers, finite or not, and what is said of the images."""
        assert self.detector is not None  # by the caller
        batch, scales = on_grid(images, self.grid)
        raw = self.checked(batch, masked=masked)
        look = self._look(raw, masked) if look is None else look
        numbers, features = self._numbers_and_features(look.channels)
        verdict = self.detector.verdict(features)
        if self.geometry is not None and geometry:
            logits = self.outputs.split(numbers)[0]
            assert logits is not None  # a model with a geometry check has classes
            verdict = verdict.also(why_withdrawn(self, raw, look, logits.argmax(1)))
        verdict = also_resampled(verdict, self, scales)
        return numbers, verdict.because(why_scaled(self.artefact, raw))

    def ood(self, images: "Images") -> OodVerdict | None:
        """Returns how unlike the training images these raw images (B, C, H, W) are; None if the artefact cannot tell."""
        return None if self.detector is None else self._numbers_and_verdict(images, False, True)[1]

    @torch.inference_mode()
    def numbers_and_ood_features(
        self, images: "Images", *, masked: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns what the model says of raw images (B, C, H, W), finite or not, and the features by which unusual ones are told."""
        return self._numbers_and_features(
            self._look(self.checked(images, masked=masked), masked).channels
        )

    @torch.inference_mode()
    def numbers_of(self, shown: Tensor) -> Tensor:
        """Returns what `numbers` does, of images that have their residual already, (B, 2 or 3, H', W')."""
        return self._numbers_and_features(shown)[0]

    @torch.inference_mode()
    def _numbers_and_features(self, shown: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with_residual = self.residual is not None
        batch = network_input(shown, self.framing, self.normalization, with_residual)
        numbers, features = numbers_and_features(self.model, batch)
        return numbers.float().cpu(), ood_features(self.framing(shown), features, with_residual)

    def _with_residual(self, batch: Tensor, masked: bool) -> Tensor:
        """Returns raw images on the device, with their residual where the model sees it."""
        batch = batch if self.residual is None else self.residual(batch)
        return batch.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) if masked else batch

    @torch.inference_mode()
    def _look(self, batch: Tensor, masked: bool) -> Look:
        """Returns raw images on the device with their residual where the model sees it, and how they were fitted."""
        if self.residual is None:
            nothing = batch.new_zeros(len(batch))
            look = Look(batch, nothing[:, None].expand(-1, 3), nothing)
        else:
            look = self.residual.look(batch)
        if masked:
            look = _known(look)
        return look

    def look(
        self,
        images: "Images",
        *,
        masked: bool = False,
        psf: np.ndarray | None = None,
        noise_map: np.ndarray | None = None,
        psf_oversampling: int = 1,
    ) -> Look:
        """Returns raw images (B, C, H, W) with what the model sees beside them, for :meth:`numbers_and_ood`.

        Args:
            images: The images.
            masked: See :meth:`numbers`.
            psf: (odd, odd) the images' own point-spread function, on pixels as large as theirs; the survey's if None.
            noise_map: (H, W) or (B, H, W) standard deviation of their own noise, in their unit; as the survey says if None.
            psf_oversampling: Pixels of ``psf`` per side of one of the images.

        Raises:
            InputError: The model sees no fit, or that of a survey whose camera is always the same.
        """
        raw = self.checked(images, masked=masked)
        if psf is None and noise_map is None:
            return self._look(raw, masked)
        residual = self.check_takes_camera()
        look = residual.look(raw, psf=psf, noise_map=noise_map, psf_oversampling=psf_oversampling)
        return _known(look) if masked else look

    def check_takes_camera(self) -> Residual:
        """Returns the fit that a point-spread function and a noise map are for; raises InputError if the model sees none that takes them."""
        if self.residual is None:
            raise InputError(
                "psf and noise_map are of no use to this model: they are for the smooth fit, which it does not see, as it was trained without "
                "physics; leave them out"
            )
        self.residual.check_takes_camera()
        return self.residual

    @property
    def fitted_side(self) -> int:
        """Pixels per side of the part of an image that is fitted, or that the network sees."""
        if self.residual is None:
            return min(self.image_shape[1:])
        return self.residual.output_shape(self.image_shape)[1]

    def predict_logits(
        self,
        images: "Images",
        *,
        psf: np.ndarray | None = None,
        noise_map: np.ndarray | None = None,
    ) -> Tensor:
        """Returns float32 logits (B, K) of the classes on the CPU for raw images (B, C, H, W); see :meth:`look` for the others."""
        look = self.look(images, psf=psf, noise_map=noise_map)
        logits = self.outputs.split(_finite(self.numbers_of(look.channels)))[0]
        if logits is None:
            raise InputError(
                f"this model estimates {', '.join(self.outputs.targets)}; it knows no classes"
            )
        return logits

    def probabilities(
        self,
        images: "Images",
        *,
        psf: np.ndarray | None = None,
        noise_map: np.ndarray | None = None,
    ) -> Tensor:
        """Returns float64 class probabilities (B, K), calibrated where the artefact says how, on the CPU for raw images, as `haloformer.predict` takes them in memory.

        Images with a point-spread function or noise of their own come with them: see :meth:`look`.
        """
        return self.probabilities_of(self.predict_logits(images, psf=psf, noise_map=noise_map))

    def probabilities_of(self, logits: Tensor) -> Tensor:
        """Returns the same of the logits (B, K)."""
        return (logits.double() / self.temperature).softmax(dim=1)

    def answers(
        self,
        images: "Images",
        *,
        raw: bool = False,
        masked: bool = False,
        psf: np.ndarray | None = None,
        noise_map: np.ndarray | None = None,
    ) -> Answers:
        """Returns classes, probabilities and estimates for raw images (B, C, H, W), as `haloformer.predict` writes them.

        Flagged images have the class ``unknown`` and no estimates, unless ``raw``. ``psf`` and ``noise_map`` are those of :meth:`look`.
        """
        look = None
        if psf is not None or noise_map is not None:
            look = self.look(images, masked=masked, psf=psf, noise_map=noise_map)
        numbers, verdict = self.numbers_and_ood(images, masked=masked, look=look)
        return self.answers_of(numbers, verdict, raw=raw)

    def answers_of(
        self, numbers: Tensor, verdict: OodVerdict | None, *, raw: bool = False
    ) -> Answers:
        """Returns the same of what `numbers_and_ood` gave."""
        logits = self.outputs.split(numbers)[0]
        nothing = torch.zeros(len(numbers), dtype=torch.bool)
        return decide(
            self.class_names,
            None if logits is None else self.probabilities_of(logits),
            self.outputs.targets,
            self.estimates_of(numbers) if self.outputs.targets else {},
            nothing if verdict is None else verdict.flag,
            () if verdict is None else verdict.reasons,
            raw=raw,
        )

    def estimates(self, images: "Images", *, raw: bool = False) -> dict[str, Tensor]:
        """Returns ``mean``, ``sigma``, ``low`` and ``high`` (B, T) of the targets for raw images (B, C, H, W).

        ``low`` and ``high`` bound the calibrated interval; ``sigma`` is NaN where the loss gives none. All are NaN for a flagged image,
        and where the image's class has no such parameter, unless ``raw``.
        """
        if not self.outputs.targets:
            raise InputError("this model tells classes apart; it estimates nothing")
        return self.answers(images, raw=raw).estimates

    def estimates_of(self, numbers: Tensor) -> dict[str, Tensor]:
        """Returns all that the model estimates, of flagged images, too, of what `numbers` gave."""
        values = self.outputs.split(numbers)[1]
        if values is None:
            raise InputError("this model tells classes apart; it estimates nothing")
        assert self.outputs.scaling is not None
        answer = predictions(
            values,
            loss=self.outputs.loss,
            scaling=self.outputs.scaling,
            coverage=self.outputs.coverage,
        )
        if self.conformal is not None:
            answer["low"], answer["high"] = self.conformal.apply(**answer)
        return answer


def load(path: str | os.PathLike[str], device: str = "auto") -> Predictor:
    """Returns the trained model of a run folder, of an artefact folder that was copied out of one, or one that comes with the package.

    Args:
        path: ``runs/x`` or ``runs/x/artefact``, or the name of a shipped model (:func:`~haloformer.artefact.read.shipped_models`).
        device: ``"auto"`` takes a GPU if there is one; else ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises:
        InputError: There is no such model, or something in its files is wrong.

    Examples:
        >>> import haloformer
        >>> haloformer.load("model_ii").class_names
        ('axion', 'cdm', 'no_sub')
    """
    return Predictor.from_run(path, device)


def _known(look: Look) -> Look:
    """Returns images in which what is not known is 0."""
    return replace(look, channels=look.channels.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))


def _finite(numbers: Tensor) -> Tensor:
    """Returns the numbers (B, N), all of which must be finite; raises InputError for the first image that has none."""
    if not torch.isfinite(numbers).all():
        bad = int((~torch.isfinite(numbers)).any(dim=1).nonzero()[0])
        raise not_answered(f"image {bad} of the batch")
    return numbers


def _geometry(artefact: Artefact) -> GeometryCheck | None:
    described, fields = artefact.description.get("geometry"), artefact.fields
    if described is None or fields.residual is None or not fields.layout.class_names:
        return None
    return GeometryCheck.read(described, fields.layout.class_names, f"{artefact.path}: geometry")


def _detector(artefact: Artefact, model: nn.Module) -> OodDetector | None:
    if artefact.description.get("ood") is None:
        return None
    spec, n_residual = artefact.fields.model, artefact.fields.n_residual
    # Which features a classifier is given, only the network itself can tell.
    with torch.inference_mode():
        device = next(model.parameters()).device
        nothing = torch.zeros(1, spec.in_chans, *spec.img_size, device=device)
        n_features = numbers_and_features(model, nothing)[1].shape[1]
    return OodDetector.read(
        artefact.description["ood"],
        artefact.path.parent / "ood.safetensors",
        n_features,
        spec.in_chans - n_residual,
        n_residual,
    )

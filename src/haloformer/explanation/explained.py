"""Explanations of a batch of images: maps, their figure, and a table of where they have their weight."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from haloformer._version import code_version
from haloformer.errors import InputError
from haloformer.explanation.methods import DEPTH
from haloformer.reporting.tabular import Column, Tabular, texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HALF = 0.5  # of a map


@dataclass(frozen=True)
class Map:
    """Map of one method for one layer.

    Attributes:
        method: One of ``METHODS``, or ``DEPTH``, of `haloformer.explanation.methods`.
        layer: The layer's path in the network; empty for the pixels themselves.
        kind: More of it, such as the kind of attention.
        values: (B, H, W) float32 on the CPU, in the images' frame. Not negative; each image's sums to one, or is zero where
            the method finds nothing. A depth is a number of blocks. 0 where the network does not look.
        channels: (B, C): how much of it is each channel's; None if the method does not separate channels.
    """

    method: str
    layer: str
    kind: str
    values: Tensor
    channels: Tensor | None = None

    @property
    def name(self) -> str:
        """Method and layer."""
        return f"{self.method} {self.layer}".rstrip()


@dataclass(repr=False)
class Explained(Tabular):
    """Maps of a batch of images, and a table of where each map has its weight.

    Attributes:
        maps: Those of each method together, its layers from first to last.
        numbers: (B, outputs.n): raw outputs of the network.
        targets: (B,): which of these numbers was explained.
        target_names: Its name, a class or an estimated parameter.
        images: (B, C, H, W) float32: the images.
        inputs: (B, C', H, W) float32: what the network got, in the images' frame.
        channels: The C' channels' names.
        seen: (H, W): where the network looks.
        left_out: Method, or method and layer → why there is no map.
        pixel_scale: arcsec per pixel of the images; None if it is not known.
        model: Facts of the model, as those of `Predictions`.
        unusual: For each image why it is unlike those of the training, empty where it is not; its answer means nothing then. Empty if that was
            not asked.

    Examples:
        >>> import haloformer
        >>> lenses = haloformer.simulate("model_ii", 3, seed=2000)
        >>> found = haloformer.explain("model_ii", lenses.images, methods=["gradcam"])
        >>> found.target_names
        ['axion', 'cdm', 'no_sub']
        >>> found.of("gradcam")[-1].values.shape
        torch.Size([3, 64, 64])
        >>> figure = found.plot(0)  # of the first image
    """

    maps: list[Map]
    numbers: Tensor
    targets: Tensor
    target_names: list[str]
    images: Tensor
    inputs: Tensor
    channels: list[str]
    seen: Tensor
    left_out: dict[str, str] = field(default_factory=dict)
    pixel_scale: float | None = None
    model: dict[str, Any] = field(default_factory=dict)
    unusual: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def of(self, method: str) -> list[Map]:
        """Returns the maps of one method."""
        return [found for found in self.maps if found.method == method]

    def columns(self) -> list[Column]:
        """Returns a row for each image and map: its peak, and the area that holds half of it."""
        pairs = [(k, each) for k in range(len(self)) for each in self.maps if each.method != DEPTH]
        unit = "arcsec" if self.pixel_scale else "pixel"
        places = [_peak(each.values[k].numpy(), self.pixel_scale) for k, each in pairs]
        x, y, area = np.array(places, dtype=np.float64).reshape(-1, 3).T
        known = self.unusual or [""] * len(self)
        flagged = np.array([bool(known[k]) for k, _ in pairs], dtype=bool)
        return [
            Column("index", np.array([k for k, _ in pairs], dtype=int), "", "number of the image"),
            *([Column("ood", flagged, "", "unlike the training's images")] if self.unusual else []),
            Column(
                "target", texts([self.target_names[k] for k, _ in pairs]), "", "what is explained"
            ),
            Column("method", texts([each.method for _, each in pairs])),
            Column("layer", texts([each.layer for _, each in pairs]), "", "empty for the pixels"),
            Column("peak_x", x, unit, "place of the map's maximum, from the middle"),
            Column("peak_y", y, unit, "place of the map's maximum, from the middle"),
            Column("half_area", area, f"{unit}^2", "area of the pixels that hold half of the map"),
        ]

    def provenance(self) -> dict[str, Any]:
        """Returns which model was explained, and by which code."""
        names = {"MODEL": "model", "NETWORK": "network", "SURVEY": "survey", "NOISE": "noise"}
        known = {name: self.model.get(key) for key, name in names.items()}
        return {**known, "code_version": code_version()}

    def summary(self) -> str:
        """Returns what was explained, in one line."""
        methods = ", ".join(dict.fromkeys(each.method for each in self.maps)) or "no method"
        left_out = "".join(f"; no {name}: {why}" for name, why in self.left_out.items())
        images = "1 image" if len(self) == 1 else f"{len(self)} images"
        strange = [reason for reason in self.unusual if reason]
        warning = (
            f"; Warning: {len(strange)} unlike those of the training, whose answers mean nothing "
            f"({strange[0]})"
            if strange
            else ""
        )
        whose = self.model.get("MODEL") or "a model in memory"
        return f"{images} by {whose}: {methods}{left_out}{warning}"

    def plot(self, index: int = 0, *, layers: bool = False) -> "Figure":
        """Draws an image with each method's map over it.

        Args:
            index: Number of the image, from 0.
            layers: Draw each layer's map in place of each method's last.

        Raises:
            InputError: There is no such image, or no method has layers.
        """
        from haloformer.explanation import pictures

        if not 0 <= index < len(self):
            raise InputError(f"there is no image {index}: there are 0 to {len(self) - 1}")
        one = pictures.shown(self, index, self.pixel_scale)
        title = f"explained: {self.target_names[index]}"
        if self.unusual and self.unusual[index]:
            title += " (out of distribution)"
        figure = pictures.progression(one, title) if layers else pictures.overview(one, title)
        if figure is None:
            raise InputError("no method has maps of layers: plot() draws what there is")
        return figure

    def picture(self) -> "Figure | None":
        """Returns the figure of the first image."""
        return self.plot(0) if len(self) else None


def _peak(values: np.ndarray, pixel_scale: float | None) -> tuple[float, float, float]:
    """Returns x and y of a map's maximum, and the area of the pixels that hold half of it; NaN of an empty map."""
    if not values.any():
        return np.nan, np.nan, np.nan
    scale = pixel_scale or 1.0
    row, column = np.unravel_index(values.argmax(), values.shape)
    height, width = values.shape
    falling = np.cumsum(np.sort(values.ravel())[::-1])
    n = int(np.searchsorted(falling, _HALF * falling[-1])) + 1
    x, y = (column - (width - 1) / 2) * scale, (row - (height - 1) / 2) * scale
    return float(x), float(y), n * scale**2

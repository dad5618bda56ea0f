"""A batch of simulated images with everything that is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from haloformer.errors import InputError
from haloformer.reporting.tabular import Column, Tabular, texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 6  # images of a picture


@dataclass(repr=False)
class LensBatch(Tabular):
    """A batch of simulated lenses with everything that is known of them.

    Its table has a row for each image: the class and the physical parameters, with units.

    Attributes:
        images: (B, C, H, W); one channel, or one for each of the survey's bands.
        labels: (B,) int64, indices into ``class_names``.
        parameters: Arrays (B,), (B, n_max) or (B, bands) by name; float64 with NaN where a parameter does not apply; ``seed`` and ``index`` int64.
        class_names: The classes in canonical order.
        attributes: Survey, noise mode, units, seed, code version and so on; JSON-able.

    Examples:
        >>> import haloformer
        >>> lenses = haloformer.simulate("model_ii", 6, seed=1)
        >>> table = lenses.to_table()
        >>> table["source_x"].unit
        Unit("arcsec")
        >>> table["log10_m_axion"].unit
        Unit("dex(eV)")
        >>> figure = lenses.plot()
    """

    images: Tensor
    labels: Tensor
    parameters: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def columns(self) -> list[Column]:
        """Returns the class, then each parameter with its unit; those that no image has are left out."""
        units = self.attributes.get("units", {})
        names = [self.class_names[k] for k in self.labels.tolist()]
        found = [Column("class", texts(names), description="dark matter of the image")]
        for name, values in self.parameters.items():
            if values.dtype.kind != "f" or not np.isnan(values).all():
                found.append(Column(name, values, units.get(name, "")))
        return found

    def provenance(self) -> dict[str, Any]:
        """Returns survey, noise mode, seed, pixel scale, code version and so on."""
        left_out = ("units", "survey_definition")  # units are those of the columns
        return {name: v for name, v in self.attributes.items() if name not in left_out}

    def summary(self) -> str:
        """Returns how many images of what, in one line."""
        counts = np.bincount(self.labels.cpu().numpy(), minlength=len(self.class_names))
        told = ", ".join(f"{n} {name}" for n, name in zip(counts, self.class_names))
        shape = " × ".join(map(str, self.images.shape[1:]))
        survey, noise, seed = (self.attributes.get(k) for k in ("survey", "noise", "seed"))
        made = "" if survey is None else f" of {survey} (noise {noise}, seed {seed})"
        return f"{len(self)} images{made}, {shape} (channels, height, width): {told}"

    def plot(self, n: int = _SHOWN) -> "Figure":
        """Draws the first images, with their classes, in arcsec where the pixel scale is known.

        Args:
            n: How many at most.

        Raises:
            InputError: n is below 1, or there is no image.
        """
        from haloformer.reporting.images import image_grid, shown

        n = shown(n)
        if not len(self):
            raise InputError("there is no image to draw: the batch is empty")
        names = [self.class_names[k] for k in self.labels[:n].tolist()]
        scale = self.attributes.get("pixel_scale")
        return image_grid(self.images[:n].cpu().numpy(), names, scale)

    def picture(self) -> "Figure | None":
        """Returns the first images; None of an empty batch."""
        return self.plot() if len(self) else None

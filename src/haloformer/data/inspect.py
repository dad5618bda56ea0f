"""Looking into a dataset file: what is in it, as a table's worth of numbers and as a panel of sample images."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.data.conversion import open_labelled
from haloformer.data.dataset import LensDataset
from haloformer.errors import InputError
from haloformer.io.writing import figure_bytes, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_ATTRIBUTES = (
    "survey",
    "noise",
    "seed",
    "code_version",
    "pixel_scale",
    "image_unit",
    "source",
    "created",
)


def summarise(path: str | Path | LensDataset, batch_size: int = 256) -> dict[str, Any]:
    """Reads the whole file once, ``batch_size`` images at a time, and describes it.

    Args:
        path: A dataset file, or what `open_labelled` takes; or what that has opened, which stays open.
        batch_size: Images in memory at a time.

    Returns:
        ``path``, ``bytes``, ``n``, ``image_shape``, ``dtype``, ``attributes`` (survey, noise, seed, code version … as
        far as present), ``classes`` (name → count; mean, std, min, max and share of zero pixels; the number of images
        with NaN or infinite values, which those figures leave out) and ``parameters`` (one row each: name, unit, shape,
        min, median, max, share of the images to which it applies). JSON-able; what is undefined is None.
    """
    with _opened(path) as dataset:
        pixels = [_PixelStatistics() for _ in dataset.class_names]
        for images, labels in dataset.batches(batch_size):
            values, numbers = images.numpy(), labels.numpy()
            for label in np.unique(numbers):
                pixels[label].add(values[numbers == label])
        return {
            "path": str(dataset.path if isinstance(path, LensDataset) else path),
            "bytes": dataset.path.stat().st_size,
            "n": len(dataset),
            "image_shape": list(dataset.image_shape),
            "dtype": dataset.dtype,
            "attributes": {
                key: dataset.attributes[key]
                for key in _SHOWN_ATTRIBUTES
                if key in dataset.attributes
            },
            "classes": {
                name: stats.result()
                for name, stats in zip(dataset.class_names, pixels, strict=True)
            },
            "parameters": [_parameter_row(dataset, name) for name in dataset.parameter_names],
        }


def _opened(path: str | Path | LensDataset) -> contextlib.AbstractContextManager[LensDataset]:
    return contextlib.nullcontext(path) if isinstance(path, LensDataset) else open_labelled(path)[0]


class _PixelStatistics:
    """Mean, std and so on of one class, gathered batch by batch (in float64, merged as Chan et al. 1979 do)."""

    def __init__(self) -> None:
        self.images = self.not_finite = self.count = self.zeros = 0
        self.mean = self.squares = 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, images: np.ndarray) -> None:
        finite = np.isfinite(images).reshape(len(images), -1).all(1)
        self.images += len(images)
        self.not_finite += int((~finite).sum())
        values = images[finite].astype(np.float64)
        if not values.size:
            return
        mean, total = values.mean(), self.count + values.size
        shift = mean - self.mean
        self.squares += np.square(values - mean).sum() + shift**2 * self.count * values.size / total
        self.mean += shift * values.size / total
        self.count = total
        self.zeros += int((values == 0).sum())
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())

    def result(self) -> dict[str, Any]:
        some = self.count > 0
        return {
            "count": self.images,
            "mean": float(self.mean) if some else None,
            "std": float(np.sqrt(self.squares / self.count)) if some else None,
            "min": float(self.low) if some else None,
            "max": float(self.high) if some else None,
            "zero_fraction": self.zeros / self.count if some else None,
            "not_finite": self.not_finite,
        }


def _parameter_row(dataset: LensDataset, name: str) -> dict[str, Any]:
    values = dataset.parameters(name)
    applies = np.isfinite(values)
    known = values[applies]
    return {
        "name": name,
        "unit": dataset.units[name],
        "shape": list(values.shape[1:]),
        "min": known.min().item() if known.size else None,
        "median": float(np.median(known)) if known.size else None,
        "max": known.max().item() if known.size else None,
        "applicable": float(applies.reshape(len(values), -1).any(1).mean()) if values.size else 0.0,
    }


def figure(
    path: str | Path | LensDataset,
    out: str | Path,
    per_class: int = 6,
    seed: int = 0,
    title: str | None = None,
) -> Path:
    """Draws a panel of sample images, one row per class.

    Args:
        path: As in `summarise`.
        out: The picture to write; its ending chooses the format (``.png``, ``.pdf``, ``.svg``).
        per_class: How many images of each class.
        seed: Chooses which images.
        title: Of images that are not of a survey; the file's name by default.

    Returns:
        ``out``.
    """
    out = Path(out)
    if per_class < 1:
        raise InputError(f"a figure needs at least one image per class, not {per_class}")
    check_figure(out)
    return write_figure(_draw(_sample(path, per_class, seed, title)), out)


def check_figure(out: Path) -> str:
    """Returns the kind of a picture by its ending: png, pdf or svg; raises InputError for another."""
    kind = out.suffix.lower().lstrip(".")
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"{out}: a figure is written as .png, .pdf or .svg")
    return kind


def write_figure(drawing: "Figure", out: Path) -> Path:
    """Writes a picture whole, and returns its file."""
    kind = check_figure(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as part:
            part.write_bytes(figure_bytes(drawing, kind, dpi=150))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    return out


@dataclass(frozen=True)
class _Sample:
    """Images of a dataset to draw.

    Attributes:
        rows: Per class its name, how many images it has, and (n,) the numbers of those drawn.
        panels: Per class (n, H, W): the mean over the channels, as bands are not red, green and blue.
        pixel_scale: In arcsec; None if it is not known.
        title: Survey and noise.
        unit: Of the pixels.
    """

    rows: list[tuple[str, int, np.ndarray]]
    panels: list[np.ndarray]
    pixel_scale: float | None
    title: str
    unit: str

    def limits(self) -> tuple[float, float, float]:
        """Returns the values drawn darkest and brightest, and the largest that there is."""
        finite = np.concatenate([panel[np.isfinite(panel)] for panel in self.panels])
        if not finite.size:
            return 0.0, 1.0, 0.0
        low, high = float(finite.min()), float(np.quantile(finite, 0.999))
        if high <= low:
            high = float(finite.max()) if finite.max() > low else low + 1
        return low, high, float(finite.max())


def _sample(
    path: str | Path | LensDataset, per_class: int, seed: int, title: str | None
) -> _Sample:
    with _opened(path) as dataset:
        rng = np.random.default_rng(seed)
        rows, panels = [], []
        for label, name in enumerate(dataset.class_names):
            members = np.flatnonzero(dataset.labels == label)
            if len(members):
                chosen = np.sort(rng.choice(members, min(per_class, len(members)), replace=False))
                rows.append((name, len(members), chosen))
                panels.append(dataset.images_at(chosen).numpy().mean(axis=1))
        named = path if isinstance(path, str | Path) else dataset.path
        survey = str(dataset.attributes.get("survey") or title or Path(named).name)
        noise = dataset.attributes.get("noise")
        return _Sample(
            rows,
            panels,
            pixel_scale=dataset.pixel_scale,
            title=survey + (f", noise: {noise}" if noise else ""),
            unit=str(dataset.attributes.get("image_unit") or "pixel value"),
        )


def _draw(sample: _Sample) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    low, high, largest = sample.limits()
    height, width = sample.panels[0].shape[1:]
    size = sample.pixel_scale or 1.0
    extent = (-width * size / 2, width * size / 2, -height * size / 2, height * size / 2)
    n_rows, columns = len(sample.rows), max(len(panel) for panel in sample.panels)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    drawing = Figure(figsize=(1.6 * columns + 1.5, 1.6 * n_rows + 0.9), layout=layout)
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(n_rows, columns, squeeze=False, sharex=True, sharey=True)
    for row, (name, count, chosen) in enumerate(sample.rows):
        for column in range(columns):
            ax = axes[row, column]
            if column >= len(chosen):
                ax.set_axis_off()
                continue
            shown = ax.imshow(
                sample.panels[row][column], origin="lower", extent=extent, cmap="viridis", vmin=low, vmax=high,
                interpolation="nearest",
            )  # fmt: skip
            ax.tick_params(labelsize=7, length=2)
            ax.text(
                0.04, 0.95, f"#{chosen[column]}", transform=ax.transAxes, ha="left", va="top", color="white", fontsize=7
            )  # fmt: skip
        axes[row, 0].set_ylabel(f"{name}\n({count:,} images)", fontsize=9)
    drawing.suptitle(sample.title, fontsize=10)
    drawing.supxlabel("arcsec" if sample.pixel_scale else "pixels from the centre", fontsize=8)
    bar = drawing.colorbar(
        shown, ax=axes, shrink=0.8, pad=0.01, extend="max" if high < largest else "neither"
    )
    bar.set_label(sample.unit, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return drawing

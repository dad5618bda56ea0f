"""Images as colours, and what their colours mean."""

from dataclasses import dataclass

import numpy as np

from haloformer.app.given import number
from haloformer.vocabulary import unknown_name

STRETCHES = ("asinh", "linear")
MOST_SIGMA = 5.0
"""Standard deviations at which the colours of a residual end."""


def light(
    image: np.ndarray, stretch: str = "asinh", percent: float = 99.5, cmap: str = "inferno"
) -> np.ndarray:
    """Returns an image (H, W) as colours (H, W, 3) uint8.

    ``percent`` of the pixels lie between the darkest and the brightest.
    """
    from astropy.visualization import AsinhStretch, LinearStretch, PercentileInterval
    from matplotlib import colormaps

    if stretch not in STRETCHES:
        raise unknown_name("stretch", str(stretch), STRETCHES)
    number(percent, "percent", 1, 100)
    shown = (AsinhStretch(0.1) if stretch == "asinh" else LinearStretch()) + PercentileInterval(
        percent
    )
    if np.ptp(image) == 0:  # nothing to stretch
        return colormaps[cmap](np.zeros(image.shape), bytes=True)[..., :3]
    result: np.ndarray = colormaps[cmap](
        np.nan_to_num(shown(image.astype(np.float64))), bytes=True
    )[..., :3]
    return result


def overlay(
    image: np.ndarray, attention: np.ndarray, stretch: str = "asinh", percent: float = 99.5
) -> np.ndarray:
    """Returns the image in grey with attention (H, W), at most 1, laid over it: (H, W, 3) uint8."""
    from matplotlib import colormaps

    grey = light(image, stretch, percent, "gray") / 255
    strength = np.clip(attention, 0, 1)[..., None] ** 0.6  # so that the weaker half is seen, too
    tint = colormaps["plasma"](np.clip(attention, 0, 1))[..., :3]
    result: np.ndarray = np.round(
        255 * (grey * (1 - 0.75 * strength) + tint * 0.75 * strength)
    ).astype(np.uint8)
    return result


def signed(difference: np.ndarray) -> np.ndarray:
    """Returns a difference (H, W) as colors (H, W, 3) uint8.

    Orange where it is positive, blue where it is negative, black at 0.
    """
    scaled = difference / max(float(np.abs(difference).max()), 1e-12)
    scaled = (np.sign(scaled) * np.abs(scaled) ** 0.5)[..., None]
    orange, blue = np.array([255, 176, 59]), np.array([86, 180, 233])
    result: np.ndarray = np.round(
        np.maximum(scaled, 0) * orange + np.maximum(-scaled, 0) * blue
    ).astype(np.uint8)
    return result


def departure(residual: np.ndarray) -> np.ndarray:
    """Returns a residual (H, W) in standard deviations as colours (H, W, 3) uint8.

    Red where there is more light than the model has, blue where there is less, within
    ±`MOST_SIGMA`; grey where it is not known.
    """
    from matplotlib import colormaps

    colours = colormaps["RdBu_r"].with_extremes(bad="0.5")
    scaled = np.ma.masked_invalid(residual) / (2 * MOST_SIGMA) + 0.5
    result: np.ndarray = colours(np.ma.clip(scaled, 0, 1), bytes=True)[..., :3]
    return result


# --- colour bars ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """What the colours of a picture mean.

    Attributes:
        colours: (N, 3) uint8 from the lowest value to the highest.
        ticks: Places along them, 0 … 1, with their values.
        unit: Of the values.
    """

    colours: np.ndarray
    ticks: tuple[tuple[float, str], ...]
    unit: str


def light_bar(image: np.ndarray, unit: str, stretch: str = "asinh", percent: float = 99.5) -> Bar:
    """Returns the bar of what `light` makes of an image."""
    from astropy.visualization import AsinhStretch, LinearStretch, PercentileInterval
    from matplotlib import colormaps

    low, high = PercentileInterval(percent).get_limits(image.astype(np.float64))
    back = (AsinhStretch(0.1) if stretch == "asinh" else LinearStretch()).inverse
    colours = colormaps["inferno"](np.linspace(0, 1, _BAR), bytes=True)[:, :3]
    places = (0.0, 0.5, 1.0) if high > low else (0.0,)
    values = [low + (high - low) * float(back(np.array([place]))[0]) for place in places]
    return Bar(colours, tuple(zip(places, map(_short, values), strict=True)), unit)


def signed_bar(difference: np.ndarray, unit: str) -> Bar:
    """Returns the bar of what `signed` makes of a difference."""
    most = float(np.abs(difference).max())
    colours = signed(np.sign(_LINE) * _LINE**2)  # which takes the root
    if most == 0:
        return Bar(colours[0], ((0.5, "0"),), unit)
    ends = ((0.0, _short(-most)), (0.5, "0"), (1.0, _short(most)))
    return Bar(colours[0], ends, unit)


def attention_bar() -> Bar:
    """Returns the bar of the attention that `overlay` lays over an image."""
    from matplotlib import colormaps

    colours = colormaps["plasma"](np.linspace(0, 1, _BAR), bytes=True)[:, :3]
    return Bar(
        colours, ((0.0, "0"), (0.5, "0.5"), (1.0, "1")), "attention, relative to its largest"
    )


def departure_bar() -> Bar:
    """Returns the bar of what `departure` makes of a residual."""
    colours = departure(_LINE * MOST_SIGMA)[0]
    ends = ((0.0, f"−{MOST_SIGMA:g}"), (0.5, "0"), (1.0, f"{MOST_SIGMA:g}"))
    return Bar(colours, ends, "σ of the noise")


def _short(value: float) -> str:
    """Returns a number of two digits, with a minus sign that is one."""
    rounded = float(f"{value:.2g}")
    plain = rounded == 0 or 1e-3 <= abs(rounded) < 1e5
    text = f"{rounded:.5g}" if plain else f"{rounded:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return text.replace("-", "−")


_BAR = 17  # colours of a bar, between which browsers blend
_LINE = np.linspace(-1, 1, _BAR)[None]

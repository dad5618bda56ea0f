"""A fit as regions of DS9: the Einstein radius, and the perturber where one is found."""

from typing import TYPE_CHECKING

from haloformer._version import code_version

if TYPE_CHECKING:
    from haloformer.fitting.reallens.result import RealLensFit


def to_regions(fit: "RealLensFit") -> str:
    """Returns a region file for the image, and for those of fit.fits, in pixels counted from 1 as FITS does."""
    values = {name: item["value"] for name, item in fit.parameters.items()}
    lines = [
        "# Region file format: DS9",
        f"# haloformer {code_version()}: {' '.join(fit.seen.name.split())}",
        "image",
        _circle(fit, values["x"], values["y"], values["theta_E"], "cyan", "Einstein radius"),
    ]
    for one in fit.perturbers:
        # Three standard errors, at least a pixel
        error = max(one["x_error"] or 0.0, one["y_error"] or 0.0)
        radius = max(3 * error, fit.seen.pixel_scale)
        mass = "" if one["mass"] is None else f" {one['mass']:.2g} M_sun"
        label = f"perturber{mass}; {one['verdict']}"
        lines.append(_circle(fit, one["x"], one["y"], radius, "magenta", label))
    return "\n".join(lines) + "\n"


def _circle(fit: "RealLensFit", x: float, y: float, radius: float, color: str, label: str) -> str:
    height, width = fit.seen.image.shape
    scale = fit.seen.pixel_scale
    column, row = x / scale + (width + 1) / 2, y / scale + (height + 1) / 2
    return f"circle({column:.3f},{row:.3f},{radius / scale:.3f}) # color={color} text={{{label}}}"

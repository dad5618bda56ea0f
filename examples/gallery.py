"""Draws the README's picture: the three surveys and classes, and the trace that substructure leaves.

python examples/gallery.py docs/images/gallery.png
"""

import sys

import numpy as np
import torch
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from haloformer.simulation import Simulator, get_survey, render

SEED, INDEX = 5, 3
SURVEYS = {
    "model_i": "Model I\n(with its noise)",
    "model_ii": "Model II\nEuclid VIS",
    "model_iii": "Model III\nHST WFC3/F160W",
}
CLASSES = {
    "no_sub": "no substructure",
    "cdm": "cold dark matter:\n25 subhalos",
    "axion": "axions:\na vortex line",
}
SUBSTRUCTURE = ("subhalo_mass", "vortex_mass")


def trace(survey_name: str, class_name: str) -> tuple[np.ndarray, dict]:
    """What substructure changes in a noise-free image, in units of its peak; and the parameters."""
    survey = get_survey(survey_name)
    parameters = (
        Simulator(survey, classes=[class_name], seed=SEED, noise="none").batch([INDEX]).parameters
    )
    smooth = {
        **parameters,
        **{name: np.full_like(parameters[name], np.nan) for name in SUBSTRUCTURE},
    }
    with torch.no_grad():
        image, without = render(survey, parameters)[0], render(survey, smooth)[0]
    return ((image - without) / image.max()).numpy(), parameters


def main(out: str) -> None:
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    axes = figure.subplots(3, 4)
    for row, (class_name, class_title) in enumerate(CLASSES.items()):
        for column, (survey_name, title) in enumerate(SURVEYS.items()):
            simulator = Simulator(survey_name, classes=[class_name], seed=SEED)
            image = simulator.batch([INDEX]).images[0, 0].numpy()
            half = simulator.survey.instrument.num_pix * simulator.survey.instrument.pixel_scale / 2
            axis = axes[row, column]
            axis.imshow(
                np.sqrt(image.clip(0)),
                origin="lower",
                cmap="inferno",
                extent=(-half, half, -half, half),
            )
            axis.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), xticks=(-2, 0, 2), yticks=(-2, 0, 2))
            if row == 0:
                axis.set_title(title, fontsize=10)
            if row == 2:
                axis.set_xlabel("x [arcsec]")
            if column == 0:
                axis.set_ylabel(f"{class_title}\n\ny [arcsec]", fontsize=10)
        change, parameters = trace("model_ii", class_name)
        axis = axes[row, 3]
        drawn = axis.imshow(
            change,
            origin="lower",
            cmap="RdBu_r",
            norm=TwoSlopeNorm(0, -0.3, 0.3),
            extent=(-3.2, 3.2, -3.2, 3.2),
        )
        axis.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), xticks=(-2, 0, 2), yticks=(-2, 0, 2))
        if class_name == "no_sub":
            axis.text(0, 0, "nothing", ha="center", va="center")
        if class_name == "cdm":
            axis.scatter(
                parameters["subhalo_x"][0],
                parameters["subhalo_y"][0],
                s=parameters["subhalo_mass"][0] / 1e8,
                c="none",
                edgecolors="k",
                linewidths=0.7,
            )
        if class_name == "axion":
            reach, angle = parameters["vortex_half_length"][0], parameters["vortex_angle"][0]
            axis.plot(
                reach * np.cos(angle) * np.array([-1, 1]),
                reach * np.sin(angle) * np.array([-1, 1]),
                "k-",
                lw=1.2,
            )
        if row == 0:
            axis.set_title(
                "What dark matter changes\n(Model II, in units of the peak)", fontsize=10
            )
        if row == 2:
            axis.set_xlabel("x [arcsec]")
    figure.colorbar(drawn, ax=axes[:, 3], shrink=0.5)
    figure.savefig(out, dpi=110)
    print(f"drew {out}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "gallery.png")

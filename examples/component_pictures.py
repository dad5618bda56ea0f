"""Draws the components of lenses for docs/physics.md: the deflection of each, and what it does to an arc.

python examples/component_pictures.py docs/images
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from physics_pictures import save

from haloformer.simulation import Simulator, get_any_survey
from haloformer.simulation.composed.survey import component_parameters
from haloformer.simulation.psf import ray_axis

SEED = 7
COMPONENTS = {
    "shear,\nγ = 0.06": {"kind": "shear", "gamma1": 0.052, "gamma2": 0.03},
    "multipoles,\nas real galaxies": {"kind": "multipoles"},
    "a perturber of 3·10⁹ M☉,\npseudo-Jaffe": {"kind": "pseudo_jaffe", "mass": 3e9, "x": 1.05, "y": 0.35},
    "cold dark matter,\nΣ_sub = 0.05 kpc⁻²": {"kind": "tnfw", "Sigma_sub": 0.05, "mass_low": 1e7},
    "warm dark matter,\nM_hm = 10⁹ M☉": {"kind": "tnfw", "Sigma_sub": 0.05, "mass_low": 1e7, "log10_m_hm": 9.0},
    "halos before and behind,\nsame mass function": {"kind": "line_of_sight", "mass_low": 1e8},
    "granules,\nm = 10⁻²³ eV": {"kind": "granules", "log10_m_axion": -23.0, "granule_amplitude": 1.3},
    "granules,\nm = 10⁻²² eV": {"kind": "granules", "log10_m_axion": -22.0, "granule_amplitude": 1.3},
    "25 point masses,\nas Models I to III": {"kind": "point_masses"},
    "vortex line of 3·10¹⁰ M☉,\nas Models I to III": {"kind": "vortex", "log10_m_axion": -23.0},
}  # fmt: skip
SURVEY = {
    "base": "hst",
    "name": "components",
    "lens": [{"kind": "epl", "theta_E": 1.1, "e1": 0.05, "e2": 0.08}],
    "source": {"light": [{"kind": "sersic", "R_sersic": 0.15}], "x": 0.08, "y": 0.05, "snr": 30},
    "lens_light": None,
    "z_lens": 0.5,
    "z_source": 1.5,
    "z_beyond": None,
}


def draw() -> Figure:
    """Returns the picture: for each component its deflection, the image, and its change."""
    figure = Figure(figsize=(10.5, 1.9 * -(-len(COMPONENTS) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(COMPONENTS) // 2), 6, squeeze=False).reshape(-1, 3)
    for (title, part), row in zip(COMPONENTS.items(), axes):
        macro = part["kind"] in ("shear", "multipoles")
        survey = get_any_survey(
            {**SURVEY, "substructure": {"with": [part], "without": []}, "matching": "none" if macro else "moments"}
        )  # fmt: skip
        simulator = Simulator(survey, seed=SEED, noise="none", paired=True)
        batch = simulator.batch(range(2))
        image, without = (batch.images[k, 0].numpy() for k in (0, 1))
        component = survey.added[0]
        own = {
            name: torch.tensor(values[:1])
            for name, values in component_parameters(component, batch.parameters).items()
        }
        axis = torch.tensor(ray_axis(survey.instrument))
        x, y = torch.broadcast_tensors(axis[None, None], axis[None, :, None])
        alpha = np.hypot(*(each[0].numpy() for each in component.deflection(x, y, own)))
        half = float(axis[-1])
        given = {"origin": "lower", "extent": (-half, half, -half, half)}
        change = (image - without) / without.max()
        most = np.abs(change).max()
        drawn = (
            row[0].imshow(1e3 * alpha, cmap="inferno", vmin=0, vmax=np.quantile(1e3 * alpha, 0.995), **given),
            row[1].imshow(np.sqrt(image.clip(0)), cmap="inferno", **given),
            row[2].imshow(100 * change, cmap="RdBu_r", vmin=-100 * most, vmax=100 * most, **given),
        )  # fmt: skip
        for panel, where in zip(row, drawn):
            panel.set(xticks=(), yticks=(), xlim=(-1.9, 1.9), ylim=(-1.9, 1.9))
            if panel is not row[1]:
                bar = figure.colorbar(where, ax=panel, shrink=0.8, pad=0.02)
                bar.ax.tick_params(labelsize=6)
        row[0].set_ylabel(title, fontsize=7.5)
    for k in range(2):
        for panel, title in zip(
            axes[k], ("deflection [mas]", "arcs", "change [% of the peak]"), strict=True
        ):
            panel.set_title(title, fontsize=9)
    return figure


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    folder.mkdir(parents=True, exist_ok=True)
    save(draw(), folder / "physics_components.png")
    print(f"drew {folder / 'physics_components.png'}")

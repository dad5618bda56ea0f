"""One scene of each class of alexander_2020_a, _b and common_task, rendered by PyAutoLens, too: how far are the images apart?

    python benchmarks/pyautolens.py write scenes.npz      # where haloformer is installed
    python benchmarks/pyautolens.py compare scenes.npz    # where autolens is: tried with pip install autolens==2026.7.29.1
    python benchmarks/pyautolens.py lenses lenses.json    # where haloformer is: lenses as --format autolens writes them, with our deflections
    python benchmarks/pyautolens.py masses lenses.json    # where autolens is: how far its deflections are from ours
    python benchmarks/pyautolens.py shows                 # how much of the substructure shows in alexander_2020_a; a minute
    python benchmarks/pyautolens.py shows heavier.yaml    # or in a variant of it

Each has dependencies of its own, so that two environments are simpler than one. The second prints, for each survey and class, the largest
difference of noise-free images in parts of the peak: of the same light, with one ray per pixel as in these surveys, away from the edge and
all over, as beyond it PyAutoLens goes on with what is there and we with the outermost pixel; with 2×2 rays, as in PyLensing; and of the same
numbers, as its Sérsic profile has another b_n.

What shows: how many standard deviations of the noise images with substructure are from the nearest image of a smooth lens, to first order
in the lens, the source and the sky, all known but for 13 numbers. It is more than a network that must find these out can see.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

SURVEYS = ("alexander_2020_a", "alexander_2020_b", "common_task")
SEED = 11
EDGE = 5  # pixels that the point-spread function reaches


def write(path: Path) -> None:
    """Writes one noise-free image of each class of each survey, in counts/s per pixel without the sky, and what it is made of."""
    import torch

    from haloformer.simulation import Simulator
    from haloformer.simulation.composed.lenstronomy import lens_profiles, source_profiles

    images, scenes = [], []
    for name in SURVEYS:
        simulator = Simulator(name, seed=SEED, noise="none", dtype=torch.float64)
        survey, batch = simulator.survey, simulator.batch(range(len(simulator.class_names)))
        for i, class_name in enumerate(batch.class_names):
            images.append(batch.images[i, 0].numpy() - (survey.instrument.sky or 0.0))
            ((flux, ((_, light),)),) = source_profiles(survey, batch.parameters, i)
            place = {key: float(batch.parameters[f"source_{key}"][i]) for key in ("x", "y")}
            scenes.append(
                {
                    "survey": name,
                    "class": class_name,
                    "pixel_scale": survey.instrument.pixel_scale,
                    "psf_sigma": survey.instrument.psf_fwhm / 2.354820045,
                    "lens": lens_profiles(survey, batch.parameters, i),
                    "source": {**light, **place, "amp": flux * light["amp"]},
                }
            )
    np.savez(path, images=np.stack(images), scenes=json.dumps(scenes, default=float))


def compare(path: Path) -> None:
    """Renders the scenes by PyAutoLens and prints how far its images are from those that were written."""
    with np.load(path) as file:
        images, scenes = file["images"], json.loads(str(file["scenes"]))
    print("survey            class      within the edge   all over   2×2 rays   same numbers")
    for image, scene in zip(images, scenes, strict=True):
        ways = ((True, 1), (True, 2), (False, 1))
        found = [render(scene, image.shape, same, rays) for same, rays in ways]
        one, four, numbers = (np.abs(each - image) / image.max() for each in found)
        inside = one[EDGE:-EDGE, EDGE:-EDGE].max()
        print(
            f"{scene['survey']:17} {scene['class']:8} {inside:17.1e} {one.max():10.1e} {four[EDGE:-EDGE, EDGE:-EDGE].max():10.1e} "
            f"{numbers[EDGE:-EDGE, EDGE:-EDGE].max():14.1e}"
        )


def write_lenses(path: Path) -> None:
    """Writes lenses in PyAutoLens's words, and what they deflect here, in arcsec."""
    from haloformer.fitting.reallens.autolens import autolens_profile
    from haloformer.fitting.reallens.masses import mass_profiles

    rng = np.random.default_rng(SEED)
    x, y = rng.uniform(-2, 2, (2, 50))
    found = []
    for _ in range(12):
        mass, vector = a_mass(rng, PERTURBERS[len(found) % len(PERTURBERS)])
        alpha = mass.deflection(x, y, vector)
        galaxy = {
            k: v
            for name, given in mass_profiles(mass, vector)
            for k, v in autolens_profile(name, given).items()
        }
        found.append({"profiles": galaxy, "alpha": np.stack(alpha).tolist()})
    content = {"x": x.tolist(), "y": y.tolist(), "lenses": found}
    path.write_text(json.dumps(content, default=float), encoding="utf-8")


PERTURBERS = ("pseudo_jaffe", "tnfw", "point")


def a_mass(rng: np.random.Generator, perturber: str) -> tuple[Any, np.ndarray]:
    """Returns a mass model with multipoles and a perturber, and its parameters (K,)."""
    from haloformer.fitting.reallens.masses import Mass

    mass = Mass(multipoles=True, perturber=perturber, z_lens=0.3, z_source=1.0)
    mean, sd = mass.expected()
    given = {"theta_E": rng.uniform(0.6, 1.8), "perturber_m": rng.uniform(1e-3, 2e-2)}
    given |= {"perturber_x": 0.9, "perturber_y": -0.4}
    drawn = dict(zip(mass.names, rng.normal(mean, sd))) | given
    return mass, np.array([drawn[name] for name in mass.names])


def compare_masses(path: Path) -> None:
    """Prints the largest difference of PyAutoLens's deflections from ours in arcsec."""
    import autolens as al
    from autonerves.dictable import from_dict

    content = json.loads(path.read_text(encoding="utf-8"))
    grid = al.Grid2DIrregular(list(zip(content["y"], content["x"])))
    worst = 0.0
    for lens in content["lenses"]:
        profiles = [from_dict(given) for given in lens["profiles"].values()]
        alpha = sum(np.asarray(one.deflections_yx_2d_from(grid=grid)) for one in profiles)
        worst = max(worst, float(np.abs(alpha.T[::-1] - np.array(lens["alpha"])).max()))
    print(f"largest difference of {len(content['lenses'])} lenses: {worst:.1e} arcsec")


def render(
    scene: dict[str, Any], shape: tuple[int, int], same_light: bool, rays: int
) -> np.ndarray:
    """Returns PyAutoLens's noise-free image in counts/s per pixel, rows from low to high y as ours.

    Args:
        scene: As written by :func:`write`.
        shape: Of the image.
        same_light: Change radius and intensity so that the Sérsic profile is the same function as ours, which has another b_n.
        rays: Per side of a pixel.
    """
    import autolens as al

    scale = scene["pixel_scale"]
    lens = al.Galaxy(redshift=0.5, **{f"mass_{k}": mass for k, mass in enumerate(masses(scene))})
    source = al.Galaxy(redshift=1.0, bulge=light(scene["source"], scale, same_light))
    grid = al.Grid2D.uniform(shape_native=shape, pixel_scales=scale, over_sample_size=rays)
    psf = al.Convolver.from_gaussian(
        shape_native=(11, 11), pixel_scales=scale, sigma=scene["psf_sigma"], normalize=True
    )
    camera = al.SimulatorImaging(
        exposure_time=300.0,
        psf=psf,
        add_poisson_noise_to_data=False,
        use_real_space_convolution=True,
    )
    observed = camera.via_tracer_from(tracer=al.Tracer(galaxies=[lens, source]), grid=grid)
    image: np.ndarray = np.asarray(observed.data.native.array)[
        ::-1
    ]  # its first row is the highest y
    return image


def masses(scene: dict[str, Any]) -> list[Any]:
    """Returns the lens as PyAutoLens's profiles."""
    import autolens as al

    found = []
    for kind, values in scene["lens"]:
        centre = (values.get("center_y", 0.0), values.get("center_x", 0.0))
        if kind == "EPL":
            assert (values["gamma"], values["e1"], values["e2"]) == (2.0, 0.0, 0.0)
            found.append(al.mp.IsothermalSph(centre=centre, einstein_radius=values["theta_E"]))
        elif kind == "POINT_MASS":
            found.append(al.mp.PointMass(centre=centre, einstein_radius=values["theta_E"]))
        elif kind == "SHEAR":
            found.append(al.mp.ExternalShear(gamma_1=values["gamma1"], gamma_2=values["gamma2"]))
        else:  # what a lens gives up for its substructure: nothing in these surveys
            assert not any(values.values()), kind
    return found


def light(values: dict[str, float], scale: float, same_light: bool) -> Any:
    """Returns the source as PyAutoLens's profile; its intensity is per pixel."""
    import autolens as al

    n, radius, intensity = values["n_sersic"], values["R_sersic"], values["amp"] * scale**2
    if same_light:
        theirs = al.lp.Sersic(sersic_index=n).sersic_constant
        ours = 1.9992 * n - 0.3271
        radius, intensity = radius * (theirs / ours) ** n, intensity * np.exp(ours - theirs)
    return al.lp.Sersic(
        centre=(values["y"], values["x"]),
        ell_comps=(values["e2"], values["e1"]),
        intensity=intensity,
        effective_radius=radius,
        sersic_index=n,
    )


FITTED = {
    "lens_theta_E": 1e-4, "lens_x": 1e-4, "lens_y": 1e-4, "gamma1": 1e-4, "gamma2": 1e-4, "source_x": 1e-4, "source_y": 1e-4,
    "source_sersic_R_sersic": 1e-4, "source_sersic_n_sersic": 1e-3, "source_sersic_e1": 1e-4, "source_sersic_e2": 1e-4,
}  # fmt: skip
"""What a smooth lens is fitted by, beside flux and sky, with the steps of the derivatives."""


def shows(name: str, n: int = 40, seed: int = 5) -> None:
    """Prints what :func:`significance` has of each class of a survey, and the mass within the ring."""
    from haloformer.simulation import get_any_survey

    survey = get_any_survey(name)
    print(
        "class     mass in the ring     standard deviations of the noise, of 5, 25, 50, 75 % of the images"
    )
    for class_name in survey.class_names:
        if survey.substructure[class_name]:
            share, found = significance(survey, class_name, n, seed)
            text = "  ".join(
                f"{value:5.1f}" for value in np.quantile(found, [0.05, 0.25, 0.5, 0.75])
            )
            print(f"{class_name:8} {100 * np.median(share):8.2f} %            {text}")


def significance(survey: Any, class_name: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns, of n images of a class: the mass of its substructure within the Einstein radius, in parts of the lens's, and how it shows.

    Args:
        survey: A composed survey without background but photons.
        class_name: Of one kind of mass.
        n: Number of images.
        seed: Of their scenes.
    """
    import dataclasses

    import torch

    from haloformer.simulation import Simulator
    from haloformer.simulation.components import Setting
    from haloformer.simulation.composed import ComposedRenderer
    from haloformer.simulation.composed.survey import component_parameters

    (part,) = survey.substructure[class_name]
    survey = dataclasses.replace(survey, substructure={class_name: (part,), "smooth": ()})
    simulator = Simulator(survey, seed=seed, noise="none", paired=True, dtype=torch.float64)
    every = simulator.parameters(range(2 * n))
    first = simulator.class_names.index(class_name)
    lumpy, smooth = ({k: v[j::2] for k, v in every.items()} for j in (first, 1 - first))
    render = ComposedRenderer(survey, torch.float64).images
    image = render(smooth).images
    difference = render(lumpy).images - image
    slopes = [
        (render({**smooth, name: smooth[name] + step}).images - image) / step
        for name, step in FITTED.items()
    ]
    slopes = torch.stack([*slopes, image, torch.ones_like(image)], -1)
    seconds = survey.instrument.exposure_time * survey.instrument.num_exposures
    weight = torch.sqrt(seconds / (image + (survey.instrument.sky or 0.0)))
    found = []
    for i in range(n):
        columns = (slopes[i] * weight[i][..., None]).flatten(0, 1)
        columns, rest = columns / columns.norm(dim=0), (difference[i] * weight[i]).flatten()
        rest = rest - columns @ torch.linalg.lstsq(columns, rest[:, None]).solution[:, 0]
        found.append(float(rest.norm()))
    setting = Setting.of(survey.cosmology, lumpy["z_lens"], lumpy["z_source"], survey.distances)
    theta_E = lumpy["lens_theta_E"]
    share = part.mass_within(theta_E, component_parameters(part, lumpy), setting)
    return share / (np.pi * setting.sigma_crit * theta_E**2), np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    chosen = {"write": write, "compare": compare, "lenses": write_lenses, "masses": compare_masses}
    for command in chosen:
        commands.add_parser(command).add_argument("file", type=Path)
    commands.add_parser("shows").add_argument("survey", nargs="?", default="alexander_2020_a")
    arguments = parser.parse_args()
    if arguments.command == "shows":
        shows(arguments.survey)
    else:
        chosen[arguments.command](arguments.file)


if __name__ == "__main__":
    main()

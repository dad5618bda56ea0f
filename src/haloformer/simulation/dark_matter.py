"""What the parameters of images say of their dark matter, whatever components their survey makes it of."""

from collections.abc import Collection, Mapping

import numpy as np

from haloformer.simulation.components import MASS_COMPONENTS

AXION_MASS, SUBHALO_MASSES = "log10_m_axion", "subhalo_mass"
"""As surveys of one lens call them; of others the component's name stands before."""


def _of_components(name: str, *, subhalos: bool = False) -> tuple[str, ...]:
    return tuple(
        f"{kind.kind if kind.PREFIX is None else kind.PREFIX}_{name}"
        for kind in MASS_COMPONENTS
        if name in kind.UNITS and (kind.ARE_SUBHALOS or not subhalos)
    )


_AXION_MASSES = (AXION_MASS, *_of_components(AXION_MASS))
_SUBHALO_MASSES = (SUBHALO_MASSES, *_of_components("mass", subhalos=True))


def axion_mass(parameters: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns log10 of the axion's mass in eV, (B,) float64, NaN where there is none: components of one image have the same.

    Args:
        parameters: Of B images, by name.

    Raises:
        KeyError: No component has one.
    """
    found = np.stack([np.asarray(each, np.float64) for each in _those(parameters, _AXION_MASSES)])
    first = np.isfinite(found).argmax(axis=0)
    mass: np.ndarray = np.take_along_axis(found, first[None], axis=0)[0]
    return mass


def subhalo_masses(parameters: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the masses of subhalos in M_sun, (B, n) float64, NaN: no such subhalo. Those of :attr:`MassComponent.ARE_SUBHALOS` count.

    Args:
        parameters: Of B images, by name.

    Raises:
        KeyError: There are none.
    """
    found = [np.asarray(each, np.float64) for each in _those(parameters, _SUBHALO_MASSES)]
    return np.concatenate([each.reshape(len(each), -1) for each in found], axis=1)


def told_by(known: Collection[str]) -> list[str]:
    """Returns those of the names of parameters that :func:`axion_mass` and :func:`subhalo_masses` look at."""
    return [name for name in (*_AXION_MASSES, *_SUBHALO_MASSES) if name in known]


def _those(parameters: Mapping[str, np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
    found = []
    for name in names:
        try:
            found.append(parameters[name])
        except KeyError:  # not `in`: what reads a file on first use does not know it before
            continue
    if not found:
        raise KeyError(names[0])
    return found

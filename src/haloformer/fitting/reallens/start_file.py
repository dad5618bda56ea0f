"""Where a fit may begin: the lens of a file of ours, lenstronomy's or PyAutoLens's."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.errors import InputError, reason_of
from haloformer.fitting.reallens.autolens import axis_ratio, theta_E
from haloformer.io.strict_json import read_json

Start = dict[str, float]
"""theta_E, gamma, e1, e2, x, y of a power law, gamma1 and gamma2 of shear, by name."""

_POWER_LAWS = ("EPL", "EPL_NUMBA", "PEMD", "SPEMD", "SIE", "SIS")
_MOST_BYTES = 64 << 20  # lenstronomy's models may hold pictures of sources
_KNOWN = "a fit.json of haloformer, a lenstronomy.json (lens_model_list, kwargs_lens), or a tracer, galaxy or mass profile of PyAutoLens (al.output_to_json)"


def read_start(path: str) -> Start:
    """Reads the power law and the shear of a file; what else it holds does not matter.

    Args:
        path: A ``fit.json`` of ours; JSON with ``lens_model_list`` and ``kwargs_lens`` of lenstronomy; or what ``al.output_to_json`` of
            PyAutoLens writes of a tracer, a galaxy or a mass profile.

    Raises:
        InputError: It is none of these, or has not just one power law.
    """
    if Path(path).is_dir():
        raise InputError(f"start (--start): {path} is a folder: name a file, such as its fit.json")
    if not Path(path).is_file():
        raise InputError(f"start (--start): {path} does not exist")
    found = read_json(Path(path), _MOST_BYTES)
    try:
        start = _start_of(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"start (--start): {path} is not {_KNOWN}: {_reason(error)}") from error
    start = {"gamma": 2.0, "e1": 0.0, "e2": 0.0, "x": 0.0, "y": 0.0, "gamma1": 0.0, "gamma2": 0.0, **start}  # fmt: skip
    for name, value in start.items():
        if not math.isfinite(value):
            raise InputError(f"start (--start): {path}: {name} is {value}")
    if start["theta_E"] <= 0:
        raise InputError(
            f"start (--start): {path}: theta_E is {start['theta_E']:g}, but must be above 0"
        )
    return start


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else reason_of(error)


def _start_of(found: Any) -> Start:
    if "parameters" in found:
        names = ("theta_E", "gamma", "e1", "e2", "x", "y", "gamma1", "gamma2")
        return {name: float(found["parameters"][name]["value"]) for name in names}
    if "lens_model_list" in found:
        pairs = list(zip(found["lens_model_list"], found["kwargs_lens"], strict=True))
        return _one_of(pairs, _POWER_LAWS, _of_lenstronomy)
    if "class_path" in found:
        pairs = list(_instances(found))
        return _one_of(pairs, ("PowerLaw", "PowerLawSph", "Isothermal", "IsothermalSph"), _of_autolens)  # fmt: skip
    raise ValueError("none of their keys is there")


def _one_of(
    pairs: list[tuple[str, Mapping[str, Any]]],
    laws: tuple[str, ...],
    read: Callable[[str, Mapping[str, Any]], Start],
) -> Start:
    """Returns the power law among profiles, which must be the only one, with the shear that is there."""
    chosen = [(name, given) for name, given in pairs if name in laws]
    if len(chosen) != 1:
        raise ValueError(f"{len(chosen)} power laws ({', '.join(laws)}) are there, one is needed")
    start = read(*chosen[0])
    for name, given in pairs:
        if name in ("SHEAR", "ExternalShear"):
            keys = ("gamma1", "gamma2") if name == "SHEAR" else ("gamma_1", "gamma_2")
            shear = [float(given[key]) for key in keys]
        elif name == "SHEAR_GAMMA_PSI":
            size, angle = float(given["gamma_ext"]), 2 * float(given["psi_ext"])
            shear = [size * math.cos(angle), size * math.sin(angle)]
        else:
            continue
        for key, value in zip(("gamma1", "gamma2"), shear):
            start[key] = start.get(key, 0.0) + value
    return start


def _of_lenstronomy(name: str, given: Mapping[str, Any]) -> Start:
    start = {"theta_E": float(given["theta_E"])}
    if name != "SIS":
        start |= {key: float(given[key]) for key in ("e1", "e2")}
    if name not in ("SIS", "SIE"):
        start["gamma"] = float(given["gamma"])
    start["x"], start["y"] = (float(given.get(f"center_{axis}", 0.0)) for axis in "xy")
    return start


def _of_autolens(name: str, given: Mapping[str, Any]) -> Start:
    e2, e1 = _numbers(given["ell_comps"]) if "ell_comps" in given else (0.0, 0.0)
    y, x = _numbers(given["centre"]) if "centre" in given else (0.0, 0.0)
    gamma = float(given["slope"]) if "slope" in given else 2.0
    if not (1 < gamma < 3 and np.hypot(e1, e2) < 1):
        raise ValueError(f"a slope of {gamma:g} with ell_comps of {e2:g}, {e1:g} is no power law")
    radius = theta_E(float(given["einstein_radius"]), gamma, axis_ratio(e1, e2))
    return {"theta_E": radius, "gamma": gamma, "e1": e1, "e2": e2, "x": x, "y": y}


def _numbers(given: Mapping[str, Any]) -> tuple[float, float]:
    first, second = given["values"]
    return float(first), float(second)


def _instances(found: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the names of classes and the arguments of all objects in what PyAutoLens wrote."""
    if isinstance(found, Mapping):
        if "class_path" in found and isinstance(found.get("arguments"), Mapping):
            yield str(found["class_path"]).rpartition(".")[2], found["arguments"]
        for value in found.values():
            yield from _instances(value)
    elif isinstance(found, list):
        for value in found:
            yield from _instances(value)

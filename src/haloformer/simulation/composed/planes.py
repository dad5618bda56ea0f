"""What lies in the lens plane, as a deflection at any positions, and what halos outside of it add to that."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from haloformer.simulation.components.component import Deflection, as_tensors
from haloformer.simulation.composed.survey import (
    ComposedSurvey,
    component_parameters,
    given_up,
    has_it,
)

Parameters = Mapping[str, np.ndarray]


def in_lens_plane(
    survey: ComposedSurvey, parameters: Parameters, dtype: torch.dtype, device: torch.device
) -> Deflection:
    """Returns the deflection of B images by the lens and by what a class adds to it in its plane."""
    if "matched_slope" in parameters:  # else it is not known yet
        parameters = given_up(parameters)
    found = []
    for part in (*survey.lens, *survey.added):
        values = component_parameters(part, parameters)
        rows = np.flatnonzero(has_it(part, values))
        if part.IN_LENS_PLANE and len(rows):
            own = {name: array[rows] for name, array in values.items()}
            found.append((part, torch.from_numpy(rows).to(device), as_tensors(own, dtype, device)))

    def deflection(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        total = [torch.zeros(x.shape, dtype=dtype, device=device) for _ in range(2)]
        for part, rows, own in found:
            more = part.deflection(x[rows], y[rows], own)
            total = [a.index_add(0, rows, b.to(dtype)) for a, b in zip(total, more)]
        return total[0], total[1]

    return deflection


def outside_lens_plane(
    survey: ComposedSurvey,
    parameters: Parameters,
    x: Tensor,
    y: Tensor,
    dtype: torch.dtype,
) -> tuple[np.ndarray, Tensor, Tensor] | None:
    """Returns what halos outside the lens plane add to the deflection by all that lies in it.

    Args:
        survey: The recipe.
        parameters: Of B images.
        x: (B or 1, H, W) positions in arcsec, as ``y``.
        y: See ``x``.
        dtype: Of the result.

    Returns:
        The images (K,) that have such halos, and α_x and α_y, each (K, H, W); None if none has any.
    """
    for part in survey.added:
        if part.IN_LENS_PLANE:
            continue
        rows = np.flatnonzero(has_it(part, component_parameters(part, parameters)))
        if len(rows):
            some = {name: values[rows] for name, values in parameters.items()}
            lens = in_lens_plane(survey, some, dtype, x.device)
            at = [z if len(z) == 1 else z[torch.from_numpy(rows).to(z.device)] for z in (x, y)]
            own = as_tensors(component_parameters(part, some), dtype, x.device)
            with torch.no_grad():
                alpha = part.beside(at[0], at[1], own, lens)
            return rows, *alpha
    return None

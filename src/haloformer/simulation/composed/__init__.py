"""Composed surveys: lenses and galaxies of components, drawn, matched and rendered."""

from haloformer.simulation.composed.lens_galaxy import LensGalaxyLight
from haloformer.simulation.composed.render import ComposedRenderer, Rendered
from haloformer.simulation.composed.scenes import ComposedScenes, draw_scenes
from haloformer.simulation.composed.survey import (
    Band,
    ComposedSurvey,
    Galaxy,
    describe,
    parameter_units,
)

__all__ = [
    "Band",
    "ComposedRenderer",
    "ComposedScenes",
    "ComposedSurvey",
    "Galaxy",
    "LensGalaxyLight",
    "Rendered",
    "describe",
    "draw_scenes",
    "parameter_units",
]

"""Composed surveys: lenses and galaxies of components, drawn, matched and rendered."""

from haloformer.simulation.composed.render import ComposedRenderer
from haloformer.simulation.composed.scenes import ComposedScenes, draw_scenes
from haloformer.simulation.composed.survey import (
    ComposedSurvey,
    Galaxy,
    describe,
    parameter_units,
)

__all__ = [
    "ComposedRenderer",
    "ComposedScenes",
    "ComposedSurvey",
    "Galaxy",
    "describe",
    "draw_scenes",
    "parameter_units",
]

"""From physical parameters to images of strong lenses; knows nothing of learning."""

from haloformer.simulation.ahead import BatchMaker, batches_ahead
from haloformer.simulation.batch import LensBatch
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.renderer import render
from haloformer.simulation.scenes import UNITS, Scenes, draw_scenes
from haloformer.simulation.simulator import (
    BACKENDS,
    Simulator,
    collect,
    iterate,
    simulate,
)
from haloformer.simulation.surveys import (
    Survey,
    describe_survey,
    get_any_survey,
    get_part,
    get_survey,
    list_surveys,
    names_survey,
)

__all__ = [
    "BACKENDS",
    "NOISE_MODES",
    "UNITS",
    "BatchMaker",
    "LensBatch",
    "Scenes",
    "Simulator",
    "Survey",
    "batches_ahead",
    "collect",
    "describe_survey",
    "draw_scenes",
    "get_any_survey",
    "get_part",
    "get_survey",
    "iterate",
    "list_surveys",
    "names_survey",
    "render",
    "simulate",
]

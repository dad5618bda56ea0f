"""``haloformer app``."""

from haloformer.cli.registry import Command

COMMAND = Command(
    "open a local page: classify images, simulate lenses by sliders, compare models",
    ends_itself=True,
)

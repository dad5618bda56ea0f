"""The command ``limits``."""

from typing import Any


def limits(
    survey: str,
    *,
    out: str,
    lenses: int = 24,
    realisations: int = 200,
    seed: int = 1000,
    overwrite: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Measures how well the classes of a survey can be told apart at all, before any network is trained.

    In each of some lenses of the survey, many realisations of each class's dark matter are simulated, without noise. What they change of the
    image is measured in standard deviations of the survey's noise, and what lens and source could have done as well is given up: first
    nothing, then all numbers that the survey draws of them, then the structure of sources that are no Sérsic profiles.

    Two figures bound the macro AUC of the best answers. reached: that of an observer who knows the lens and learns from most realisations,
    tested on the others; it can be reached. bound: that of an observer who knows both images, and asks which of them it is; nobody
    can do better. The noise is that of the smooth lens's image, and all changes of lens and source count to first order.

    The folder ``out`` gets ``limits.json``, ``limits.md`` and a figure. It takes some minutes; a call that was ended goes on where it was.

    Args:
        survey: Name of a composed survey, such as hst, or a YAML file.
        out: Folder to write.
        lenses: How many lenses; intervals are over them.
        realisations: Of the dark matter of each class in each lens. With more, the observer knows better.
        seed: Of all draws.
        overwrite: Replace limits that are there.
        progress: Show a progress bar; by default when standard error is a terminal.

    Returns:
        The content of ``limits.json``, with ``out`` and ``report``, the paths of the folder and of the page, and ``verdict``.

    Raises:
        InputError: An unknown survey; one without limits, as its lens never varies, its images have no noise, or without a smooth class;
            or ``out`` holds limits.

    Examples:
        >>> found = haloformer.limits("hst", out="limits/hst")  # doctest: +SKIP
        >>> found["levels"]["source"]["bound"]  # doctest: +SKIP
    """
    from haloformer.oracle.run import survey_limits

    return survey_limits(
        survey,
        out,
        lenses=lenses,
        realisations=realisations,
        seed=seed,
        overwrite=overwrite,
        progress=progress,
    )

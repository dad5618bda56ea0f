"""The command ``audit``."""

from typing import Any

from haloformer.errors import InputError


def audit(
    run: str | None = None,
    *,
    out: str,
    parts: list[str] | str | None = None,
    survey: str | None = None,
    compare: list[str] | str | None = None,
    real: list[str] | str | None = None,
    galaxies: list[str] | str | None = None,
    n: int = 1500,
    seed: int | None = None,
    batch_size: int = 256,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Measures how far a trained classifier can be trusted, beyond its AUC on images like those of its training; or a survey.

    shortcut: AUCs of a few moments of the image, and of the model where all classes have the same mass. noise: longer and
    shorter exposures of the same lenses. shift: another PSF, pixel scale or survey. symmetry: rotated and mirrored images.
    ood: predictions for images that are no lenses of its survey, and which of them it flags. geometry: lenses a little elsewhere,
    pixels a little larger, mirrored images. Of models of composed surveys, whose lenses vary, shortcut and noise are not measured:
    the survey's own audit says whether its classes have other masses.

    The folder ``out`` gets ``audit.html`` (one self-contained page), ``audit.md``, ``audit.json``, ``figures/`` and
    ``parts/``. Each part is kept when it is done: the same call resumes an interrupted audit, and a call for other parts
    adds them.

    Without a run, ``survey`` itself is tested, and no model is needed: whether anything but the detail of dark matter tells its classes. Five
    classifiers that must do no better than chance are trained and tested on as many images: moments (nine numbers of the image), macro
    (what is drawn of lens, source and exposure), blurred (images blurred by half an Einstein radius), permuted (labels swapped among
    images of one lens; composed surveys only) and smooth (smooth lenses, labels drawn). The folder gets ``audit.json`` and ``audit.md``.

    Args:
        run: Run folder or artefact folder of a trained classifier, or the name of a shipped model.
        out: Folder to write.
        parts: Of shortcut, noise, geometry, shift, symmetry, ood, such as noise,shift; by default all that the model's survey allows.
        survey: Survey that the model was trained on, as a YAML file, if it is none of the shipped ones; or, without a run, the name
            or the file of the survey that is tested.
        compare: More run folders, for the table of models against surveys in the part shift.
        real: Folders or files of real lens cutouts, for the part ood.
        galaxies: Folders or files of galaxies that are no lenses, for the part ood.
        n: Images per condition, or, of a survey, test images; a third in the parts geometry, symmetry and ood, which show each image many times.
        seed: Of the scenes; by default the first after the seeds of the training.
        batch_size: Images per batch; does not change the result.
        device: ``"auto"`` takes a GPU if there is one.
        overwrite: Measure the parts again that are there already.
        progress: Show progress bars; by default when standard error is a terminal.

    Returns:
        The content of ``audit.json``, with ``out`` and ``report``, the paths of the folder and of the page.

    Raises:
        InputError: The model cannot be read or is no classifier, or ``out`` holds something else.
    """
    if run is None:
        from haloformer.audit.fairness import audit_survey

        name = named_survey(survey, parts=parts, compare=compare, real=real, galaxies=galaxies)
        seed = SURVEY_SEED if seed is None else seed
        return audit_survey(name, out, n=n, seed=seed, overwrite=overwrite, progress=progress)
    from haloformer.audit.run import run_audit

    return run_audit(
        run,
        out=out,
        parts=parts,
        survey=survey,
        compare=compare,
        real=real,
        galaxies=galaxies,
        n=n,
        seed=seed,
        batch_size=batch_size,
        device=device,
        overwrite=overwrite,
        progress=progress,
    )


SURVEY_SEED = 1000
"""Of the test images of a survey without a run."""


def named_survey(survey: str | None, **others: object) -> str:
    """Returns the survey that is tested without a run; raises InputError where there is none, or something beside that a run needs."""
    if survey is None:
        raise InputError("audit needs a run, or a survey to be tested without one: --survey hst")
    for name, value in others.items():
        if value:
            raise InputError(
                f"'{name}' is for the audit of a model; survey {survey} is tested without one"
            )
    return survey

"""The command ``audit``."""

from typing import Any


def audit(
    run: str,
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
    """Measures how far a trained classifier can be trusted, beyond its AUC on images like those of its training.

    shortcut: AUCs of a few moments of the image, and of the model where all classes have the same mass. noise: longer and
    shorter exposures of the same lenses. shift: another PSF, pixel scale or survey. symmetry: rotated and mirrored images.
    ood: predictions for images that are no lenses of its survey, and which of them it flags.

    The folder ``out`` gets ``audit.html`` (one self-contained page), ``audit.md``, ``audit.json``, ``figures/`` and
    ``parts/``. Each part is kept when it is done: the same call resumes an interrupted audit, and a call for other parts
    adds them.

    Args:
        run: Run folder or artefact folder of a trained classifier, or the name of a shipped model.
        out: Folder to write.
        parts: Of shortcut, noise, geometry, shift, symmetry, ood, such as noise,shift; all by default.
        survey: Survey that the model was trained on, as a YAML file, if it is none of the shipped ones.
        compare: More run folders, for the table of models against surveys in the part shift.
        real: Folders or files of real lens cutouts, for the part ood.
        galaxies: Folders or files of galaxies that are no lenses, for the part ood.
        n: Images per condition; a third in the parts geometry, symmetry and ood, which show each image many times.
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

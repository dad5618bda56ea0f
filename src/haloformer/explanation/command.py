"""The command ``explain``."""

from typing import Any, Literal


def explain(
    run: str,
    images: list[str] | None = None,
    *,
    out: str,
    survey: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    noise: Literal["original", "instrument", "none"] | None = None,
    methods: list[str] | str = "attention,rollout,gradcam,integrated_gradients",
    target: str | None = None,
    limit: int = 24,
    batch_size: int = 16,
    device: str = "auto",
    hdu: int | str | None = None,
    band: int | str | None = None,
    pixel_scale: float | None = None,
    nan: Literal["error", "zero"] = "error",
    overwrite: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Explains predictions of a trained network, and measures whether the explanations point to substructure.

    The folder ``out`` gets ``index.html`` (one self-contained page), ``explanation.json``, and ``figures/`` (PNG, SVG and PDF) with
    two pictures for each image: each method's map over it, and the layers one by one. With a survey also ``scores.csv`` and
    ``scores.json``: how much of each map falls where substructure changes the image. All maps are compared with those of
    the same network with random weights. The folder appears only when all of it is written.

    Args:
        run: Run folder or artefact folder of a trained model, or the name of a shipped one, such as model_i.
        images: Image files (.npy, .fits, .png, .jpg …), folders of them, glob patterns, or datasets (.h5); may be left out
            if a survey is given.
        out: Folder to write.
        survey: Survey to simulate, with and without substructure, for the scores; one image of each class is shown.
        n: Number of images to simulate in all, balanced over the classes that have substructure, by default 64; for a survey only.
        seed: Of the images to simulate; by default the first after the seeds of the training; for a survey only.
        noise: Of the images to simulate; by default that of the training; for a survey only.
        methods: Some of attention, rollout, gradcam, integrated_gradients; the last two need captum.
        target: Class (or estimated parameter) to explain; by default the predicted class of each image.
        limit: Largest number of images from files.
        batch_size: Images per batch; changes memory and speed only.
        device: ``"auto"`` takes a GPU if there is one.
        hdu: FITS extension to read, by default the first with an image; this and the next two as in `haloformer.predict`.
        band: The one plane of a cube, or the name of a band.
        pixel_scale: Of the images, in arcsec; goes before what a FITS header (WCS) says.
        nan: Treatment of NaN and infinite pixels in image files: ``"error"`` rejects the image, ``"zero"`` sets them to 0.
        overwrite: Replace an earlier explanation in ``out``.
        progress: Show a progress bar; by default when standard error is a terminal.

    Returns:
        The content of ``explanation.json`` (NaN where that says null), with ``out`` and ``page``, the paths of the folder
        and of the page.

    Raises:
        InputError: The model or the images cannot be read, or do not fit each other, or ``out`` exists.
    """
    from haloformer.explanation.run import run_explanation

    return run_explanation(
        run,
        images,
        out=out,
        survey=survey,
        n=n,
        seed=seed,
        noise=noise,
        methods=methods,
        target=target,
        limit=limit,
        batch_size=batch_size,
        device=device,
        hdu=hdu,
        band=band,
        pixel_scale=pixel_scale,
        nan=nan,
        overwrite=overwrite,
        progress=progress,
    )

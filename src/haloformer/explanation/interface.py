"""`haloformer.explain`: a model, images of any kind, and maps of what its answers rest on."""

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from haloformer.data.left_out import LeftOut
from haloformer.data.reader import ReadImage, Reading, find_inputs, read_images, stacked
from haloformer.errors import InputError, InputWarning
from haloformer.explanation.attributions import check_methods, check_target, explain_images
from haloformer.explanation.methods import METHODS
from haloformer.files import as_name
from haloformer.io.progress import progress_bar
from haloformer.prediction.answering import paths_of
from haloformer.prediction.in_memory import read_in_memory
from haloformer.prediction.predictor import A_MODEL, Predictor, load
from haloformer.prediction.resampled import also_resampled

if TYPE_CHECKING:
    from haloformer.explanation.explained import Explained

_TOLD = 3  # reasons in the warning


def explain(
    model: "str | os.PathLike[str] | Predictor",
    images: Any = None,
    *,
    out: str | os.PathLike[str] | None = None,
    methods: Sequence[str] | str = METHODS,
    target: str | None = None,
    limit: int = 24,
    device: str = "auto",
    hdu: int | str | None = None,
    band: int | str | None = None,
    pixel_scale: float | None = None,
    nan: Literal["error", "zero"] = "error",
    progress: bool | None = None,
    **to_folder: Any,
) -> "Explained | dict[str, Any]":
    """Explains a model's answers: where it looks, and which pixels count.

    Args:
        model: A shipped model's name, a run or artefact folder, or what `load` returned.
        images: As `haloformer.predict` takes them. Of files, those that cannot be read are left out,
            with a warning.
        out: Folder to write with a page, figures and, of a survey, scores: see
            `haloformer.explanation.command.explain`. For a model by its name and images in files.
            None returns the maps.
        methods: Some of attention, rollout, gradcam, integrated_gradients, as a list or with
            commas; the last two need captum.
        target: Class, or estimated parameter, to explain; by default the class that is most
            probable for each image.
        limit: Largest number of images, as their maps are in memory.
        device: ``"auto"`` takes a GPU if there is one; only for a model that is loaded here.
        hdu: FITS extension to read.
        band: The one plane of a cube, or the name of a band.
        pixel_scale: Of the images in arcsec; goes before what a header or a WCS says.
        nan: NaN and infinite pixels: ``"error"`` refuses the image, ``"zero"`` puts 0 there.
        progress: Show a progress bar; by default when standard error is a terminal.
        **to_folder: With ``out``: ``survey``, ``n``, ``seed``, ``noise``, ``batch_size`` and
            ``overwrite``.

    Returns:
        The maps, with ``plot()`` and ``to_table()``; with ``out`` the content of
        ``explanation.json``.

    Raises:
        InputError: The model or all images cannot be read, or do not fit each other.

    Examples:
        >>> import haloformer
        >>> lenses = haloformer.simulate("model_ii", 2, seed=2000)
        >>> found = haloformer.explain("model_ii", lenses, methods="gradcam")
        >>> [str(each.unit) for each in found.to_table()["peak_x", "half_area"].columns.values()]
        ['arcsec', 'arcsec2']
    """
    chosen = (
        [each.strip() for each in methods.split(",")] if isinstance(methods, str) else list(methods)
    )
    reading = {"hdu": hdu, "band": band, "pixel_scale": pixel_scale, "nan": nan}
    paths = None if images is None else paths_of(images)
    if out is not None:
        from haloformer.explanation.command import explain as write_page

        if isinstance(model, Predictor) or (images is not None and paths is None):
            raise InputError("out is for a model by its name and images in files, or a survey")
        return write_page(
            as_name(model, "model", A_MODEL), paths, out=os.fspath(out), methods=chosen, target=target, limit=limit,
            device=device, progress=progress, **reading, **to_folder,  # type: ignore[arg-type]
        )  # fmt: skip
    if to_folder:
        raise InputError(
            f"{next(iter(to_folder))} is for a page that is written: give out, a folder"
        )
    if images is None:
        raise InputError("nothing to explain: give images, or with out a survey to simulate")
    if limit < 1:
        raise InputError(f"limit is {limit}: must be at least 1")
    check_methods(chosen)
    predictor = model if isinstance(model, Predictor) else load(model, device)
    check_target(predictor, target)
    options = Reading(hdu, band, nan, pixel_scale)
    options.check()
    if paths is None:
        found = read_in_memory(images, predictor.grid, options)[:limit]
    else:
        found = _first_of_files(paths, predictor, options, limit)
    with progress_bar("explain", len(found), progress) as advance:
        batch = stacked(found)
        explained = explain_images(predictor, batch, methods=chosen, target=target)
        advance(len(batch))
    verdict = also_resampled(predictor.ood(batch), predictor, [each.scales for each in found])
    if verdict is not None:
        flags = verdict.flag.tolist()
        explained.unusual = [why if flag else "" for why, flag in zip(verdict.reasons, flags)]
    return explained


def _first_of_files(
    paths: Sequence[str], predictor: Predictor, reading: Reading, n: int
) -> list[ReadImage]:
    """Returns the first images of files that the model can answer, at most n; others are told in a warning, unless there is none."""
    channels = predictor.image_shape[0]
    inputs = find_inputs(paths, keep_errors=True, channels=channels, reading=reading)
    good, unread = list[ReadImage](), LeftOut()
    for items in read_images(inputs, predictor.grid, reading, batch_size=n):
        for item in items:
            if len(good) == n:
                break
            if why := _why_not(item, predictor):
                unread.add(why)
            else:
                good.append(item)
        if len(good) == n:
            break
    unread.refuse_if_all(len(good))
    if unread.n:
        message = f"{unread.line}: {'; '.join(unread.reasons[:_TOLD])}"
        warnings.warn(message, InputWarning, stacklevel=3)
    return good


def _why_not(image: ReadImage, predictor: Predictor) -> str:
    """Returns why an image cannot be explained; nothing of one that can."""
    if image.error is not None:
        return image.error
    try:
        predictor.checked(stacked([image]))
    except InputError as error:
        return f"{image.name}: {error}"
    return ""

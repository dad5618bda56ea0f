"""The tab that classifies a visitor's image."""

from pathlib import Path
from typing import Any

import gradio as gr

from haloformer.app import answers, examples, parts
from haloformer.app.answers import Answer
from haloformer.app.carried import Carried, carried
from haloformer.app.given import number as checked_number
from haloformer.app.given import whole
from haloformer.app.known import Models
from haloformer.app.limits import Uploads
from haloformer.app.pictures import STRETCHES
from haloformer.app.uploading import number_field, restrict, slider_field
from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError

Update = dict[str, Any]  # of a component, as gr.update returns it
Shown = tuple[Answer | None, str, str, Update, Update, Update]
_MOST_IMAGES = 2**40
_EMPTY = "Drop an image of a lens to see what the model says of it, or try an example."


def classify_tab(models: Models, uploads: Uploads, kept_seconds: int) -> None:
    """Puts the tab on the page.

    Args:
        models: Those that may be chosen.
        uploads: Where gradio puts what is uploaded.
        kept_seconds: How long an answer is held for the sliders.
    """
    kept = gr.State(None, time_to_live=kept_seconds)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            file = gr.File(
                label="Image of a lens",
                file_types=list(answers.UPLOAD_SUFFIXES), elem_id="hf-file", elem_classes="hf-file",
                height=160,
            )  # fmt: skip
            restrict(file)
            gr.HTML(
                "<p class='hf-quiet'>FITS, .npy, PNG, JPEG or a dataset (.h5), of at most 64 MB; it is not stored.</p>"
            )
            with gr.Row():
                example = gr.Button(
                    "Try an example", elem_id="hf-example", min_width=130, size="md"
                )
                hubble = gr.Button(
                    "Try a lens of HST", elem_id="hf-example-hst", min_width=130, size="md"
                )
            model = gr.Dropdown(
                list(models.facts), value=models.first, label="Model", elem_id="hf-model"
            )
            number = number_field("Image number in the dataset", visible=False)
            scale = number_field(
                "Pixel scale (arcsec), where the file does not say it; 0: as it is",
                elem_id="hf-scale",
            )
        with gr.Column(scale=3, min_width=300):
            told = gr.HTML(parts.note(_EMPTY), elem_id="hf-answer")
            pictures = gr.HTML("", elem_id="hf-pictures")  # fmt: skip
            stretch = gr.Radio(
                list(STRETCHES), value="asinh", label="Stretch", elem_id="hf-stretch"
            )
            percent = slider_field(
                80,
                100,
                99.5,
                step=0.1,
                label="Pixels between black and white (%)",
                elem_id="hf-percent",
            )
            layer = slider_field(
                1, 2, 1, step=1, label="Layer of attention", visible=False, elem_id="hf-layer"
            )

    how: list[Any] = [stretch, percent, layer]
    outputs = [kept, told, pictures, layer, number, model]
    options: dict[str, Any] = {
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "api_visibility": "private",
    }

    def read(path: str | None, *values: Any) -> Shown:
        return _upload(models, uploads, path, *values, routed=True)

    def again(path: str | None, *values: Any) -> Shown:
        return _upload(models, uploads, path, *values, routed=False)

    def other(found: Answer | None, path: str | None, *values: Any) -> Shown:
        return _by_another(models, uploads, found, path, *values)

    def fresh(name: Any, *how: Any) -> Shown:
        return _shown(lambda: examples.simulated(models, name), *how)

    def of_hst(name: Any, *how: Any) -> Shown:
        return _shown(lambda: examples.hst(models, name), *how)

    inputs = [file, number, scale, *how, model]
    file.change(read, inputs, outputs, **options)
    number.change(again, inputs, outputs, trigger_mode="always_last", **options)
    model.input(other, [kept, *inputs], outputs, **options)
    example.click(fresh, [model, *how], outputs, **options)
    hubble.click(of_hst, [model, *how], outputs, **options)

    def seen(found: Answer | None, *how: Any) -> str:
        return parts.guarded(lambda: "" if found is None else parts.seen(found, *how))

    gr.on(
        [each.change for each in how], seen, [kept, *how], pictures,
        trigger_mode="always_last", show_progress="hidden", **options,
    )  # fmt: skip


def _upload(
    models: Models,
    uploads: Uploads,
    path: str | None,
    index: float | None,
    scale: float | None,
    stretch: str,
    percent: float,
    previous: int,
    name: str,
    *,
    routed: bool,
) -> Shown:
    """Returns what is shown of an upload; its model is that of its survey if it is ``routed``."""
    dataset = path is not None and path.lower().endswith(DATASET_SUFFIXES)
    if path is None:  # taken away, or an example shown
        return None, parts.note(_EMPTY), "", gr.update(), gr.update(visible=False), gr.update()

    def read() -> tuple[Answer, str, str]:
        number = whole(index or 0, "the image number", 0, _MOST_IMAGES)
        width = checked_number(scale or 0, "the pixel scale", 0, 1e4)
        says, chosen = Carried(), name
        if routed:
            answers.check_upload(Path(path), number)
            says = carried(path)
            chosen = _route(models, says, name)
        found = answers.classify(models.get(chosen), path, number=number, pixel_scale=width or None)
        return found, chosen, _said(models, says, chosen)

    try:
        return _shown(read, stretch, percent, previous, dataset=dataset)
    finally:
        if not dataset:
            uploads.read(path)


def _by_another(
    models: Models, uploads: Uploads, found: Answer | None, path: str | None, *values: Any
) -> Shown:
    """Returns what another model says of the same image, if it is still there."""
    name = values[-1]
    if path is not None and path.lower().endswith(DATASET_SUFFIXES):
        return _upload(models, uploads, path, *values, routed=False)
    if found is None or found.image is None:
        return None, parts.note(_EMPTY), "", gr.update(), gr.update(), gr.update()
    image, was, predictor = found.image, found, None

    def fits() -> str:
        nonlocal predictor
        predictor = models.get(name)
        grid = predictor.grid
        if grid.shape != (1, *image.shape) or grid.pixel_scale != was.pixel_scale:
            raise InputError(
                f"the model {name} takes images of another size: the file is no longer kept here, choose it again"
            )
        return ""

    def answer() -> tuple[Answer, str, str]:
        assert predictor is not None  # by then
        seen = answers.seen(predictor, image[None], was.name)
        return seen, name, f"Answered by the model {name}."

    if why_not := parts.guarded(fits):  # the image is held for another choice
        return found, why_not, "", gr.update(), gr.update(), gr.update()
    return _shown(answer, *values[2:5])


def _shown(work: Any, stretch: str, percent: float, previous: int, dataset: bool = False) -> Shown:
    """Returns answer, texts, pictures and updates of what ``work`` finds: an answer, its model's name, and what is said of that."""
    shown: list[Any] = []

    def read() -> str:
        found, chosen, said = work()
        n = max(len(found.layers), 1)
        level = whole(previous or 1, "the layer", 1, 1000)
        level = min(level, n) if level > 1 else n
        slider = gr.update(
            visible=n > 1, maximum=max(n, 2), value=level, label=f"Layer of attention, 1 … {n}"
        )
        pictures = parts.seen(found, stretch, percent, level)
        shown.extend([found, pictures, slider, gr.update(value=chosen)])
        return parts.answer(found, said)

    told = parts.guarded(read, "This file could not be read.")
    found, pictures, slider, model = shown or [None, "", gr.update(visible=False), gr.update()]
    return found, told, pictures, slider, gr.update(visible=dataset), model


def _route(models: Models, says: Carried, chosen: str) -> str:
    """Returns the name of the model that a file goes to."""
    if says.survey is None:
        return chosen
    return models.of_survey(says.survey, says.noise, chosen) or chosen


def _said(models: Models, says: Carried, name: str) -> str:
    """Returns which model answered, and why that one."""
    text = f"Answered by the model {name}"
    if says.survey is None:
        return f"{text}."
    noise = f" with the noise '{says.noise}'" if says.noise else ""
    what = f"the file says that it is of {says.survey}{noise}"
    if models.of_survey(says.survey, says.noise, name) is None:
        text = f"{text}, as no model here knows the survey: {what}"
    else:
        text = f"{text}: {what}"
    return f"{text}, and that its class is {says.truth}." if says.truth else f"{text}."

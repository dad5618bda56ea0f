"""What an answer rests on: where the network looks, which pixels count, and whether that is where substructure is."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from haloformer._version import code_version
from haloformer.data.reader import Reading, check_choices, find_inputs, read_images, stacked
from haloformer.errors import InputError
from haloformer.evaluation.testset import class_order, contamination, open_test_images
from haloformer.explain import page, pictures
from haloformer.explain.attributions import (
    Explained,
    attention_layers,
    check_methods,
    check_target,
    explain_images,
)
from haloformer.explain.scores import (
    Scores,
    mean_channels,
    randomised,
    scored_simulator,
    substructure_difference,
)
from haloformer.io.folders import new_folder, refuse_existing
from haloformer.io.progress import progress_bar
from haloformer.io.strict_json import to_json
from haloformer.io.tables import write_csv
from haloformer.prediction.predictor import Predictor, load
from haloformer.reporting import interval, style

_FILES = ("explanation.json", "index.html")  # by which an explanation is known


_N_SANITY = 64  # simulated images, at most, that are explained with random weights, too


def attention_overlay(
    predictor: Predictor, image: Tensor | np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Returns where each layer looks in one image: quick, and without captum.

    Args:
        predictor: Of ``haloformer.load``.
        image: (H, W) or (C, H, W), raw.

    Returns:
        The names of the L layers, and (L, H, W) float32: the attention that each pixel receives, mean over heads, in the frame of
        the image; each layer's sums to one, and is 0 where the network does not look.

    Raises:
        InputError: The network has no attention between places, or the image does not fit.
    """
    batch = torch.from_numpy(np.array(image, dtype=np.float32))
    batch = batch[None] if batch.ndim == 3 else batch[None, None] if batch.ndim == 2 else batch
    layers = attention_layers(predictor, batch)
    return [each.layer for each in layers], torch.stack([each.values[0] for each in layers]).numpy()


def explain(
    run: str,
    images: list[str] | None = None,
    *,
    out: str,
    survey: str | None = None,
    n: int = 64,
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
    """Shows what a trained network's answers rest on, and measures whether that is where substructure is.

    The folder ``out`` gets ``index.html`` (one self-contained page), ``explanation.json``, and ``figures/`` (PNG and SVG) with two
    pictures for each image: each method's map over it, and the layers one by one. With a survey also ``scores.csv`` and ``scores.json``:
    how much of each map falls where substructure changes the image. All maps are compared with those of the same network with
    random weights. The folder appears only when all of it is written.

    Args:
        run: Run folder or artefact folder of a trained model, or the name of a shipped one, such as model_i.
        images: Image files (.npy, .fits, .png, .jpg …), folders of them, glob patterns, or datasets (.h5); none if a survey is given.
        out: Folder to write.
        survey: Survey to simulate, with and without substructure, for the scores; one image of each class is shown.
        n: Number of images to simulate in all, balanced over the classes that have substructure; for a survey only.
        seed: Of the images to simulate; by default the first after the seeds of the training; for a survey only.
        noise: Of the images to simulate; by default that of the training; for a survey only.
        methods: Some of attention, rollout, gradcam, integrated_gradients; the last two need captum.
        target: Class (or estimated parameter) that is explained; by default the class that the network answers for each image.
        limit: At most so many of the image files are explained.
        batch_size: Images per batch; changes memory and speed only.
        device: ``"auto"`` takes a GPU if there is one.
        hdu: FITS extension to read, as `haloformer.predict` takes it, and so are the two that follow; by default the first with an image.
        band: The one plane of a cube, or the name of a band.
        pixel_scale: Of the images, in arcsec; goes before what a FITS header (WCS) says.
        nan: What NaN and infinite pixels of an image file do: ``"error"`` refuses the image, ``"zero"`` puts 0 there.
        overwrite: Replace an earlier explanation in ``out``.
        progress: Show a progress bar; by default when standard error is a terminal.

    Returns:
        The content of ``explanation.json`` (NaN where that says null), with ``out`` and ``page``, the paths of the folder and of the page.

    Raises:
        InputError: The model or the images cannot be read, or do not fit each other, or ``out`` exists.
    """
    chosen = (
        [name.strip() for name in methods.split(",") if name.strip()]
        if isinstance(methods, str)
        else list(methods)
    )
    check_methods(chosen)
    check_choices("stop", batch_size)
    reading = Reading(hdu, band, nan, pixel_scale)
    reading.check()
    for name, value in (("n", n), ("limit", limit)):
        if value < 1:
            raise InputError(f"{name} is {value}: must be at least 1")
    if not images and survey is None:
        raise InputError(
            "nothing to explain: name images, or a survey to simulate (--survey model_i)"
        )
    if survey is None and (
        given := [name for name, value in (("seed", seed), ("noise", noise)) if value is not None]
    ):
        raise InputError(
            f"'{given[0]}' is for images simulated from a survey: give one (--survey model_i), or leave it out"
        )
    folder = Path(out)
    refuse_existing(folder, overwrite, _FILES, "explanation")
    predictor = load(run, device)
    check_target(predictor, target)
    job = _Job(predictor, chosen, target)
    channels = predictor.image_shape[0]
    sources = (
        find_inputs(images, keep_errors=False, channels=channels, reading=reading) if images else []
    )
    total = min(limit, sum(source.n for source in sources)) + (n if survey is not None else 0)
    protocol: dict[str, Any] = {
        "run": Path(run).resolve().name,
        "model": predictor.artefact["model"]["name"],
    }
    scores, drawn = None, None
    with (
        new_folder(folder, overwrite, _FILES, "explanation") as part,
        progress_bar("explain", total, progress) as advance,
    ):
        job.figures = part / "figures"
        job.figures.mkdir()
        left = limit
        for items in read_images(sources, predictor.grid, reading, batch_size=batch_size):
            batch = stacked(items)[:left]
            items = items[:left]
            if not items:
                break
            names = [
                Path(item.file).stem + ("" if item.index is None else f" {item.index}")
                for item in items
            ]
            job.explain(batch, names, [item.label for item in items])
            left -= len(items)
            advance(len(items))
        if survey is not None:
            protocol |= _score(job, survey, n, seed, noise, batch_size, advance)
            scores = job.scores.table()
            drawn = pictures.score_figure(scores)
            style.save(drawn, job.figures / "scores")
            with write_csv(part / "scores.csv", list(scores[0])) as write:
                write(scores)
            (part / "scores.json").write_text(to_json({"scores": scores}), encoding="utf-8")
        protocol |= {
            "methods": ", ".join(chosen),
            "explained": target or "the class that the model answers",
            "device": str(predictor.device),
            "torch_version": torch.__version__,
            "code_version": code_version(),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        }
        n_images = sum(source.n for source in sources)
        result: dict[str, Any] = {
            "format": 1,
            "protocol": protocol,
            "warnings": job.warnings
            + (
                [f"Only the first {limit} of {n_images:,} images were explained."]
                if n_images > limit
                else []
            ),
            "left_out": job.left_out,
            "sanity": job.scores.sanity(),
            "channels": mean_channels(job.channel_shares, job.channels)
            if job.channel_shares
            else {},
            "scores": scores or [],
            "images": job.images,
        }
        (part / "explanation.json").write_text(to_json(result), encoding="utf-8")
        html = page.to_html(
            result, job.sections, page.picture(drawn) if drawn is not None else None
        )
        (part / "index.html").write_text(html, encoding="utf-8")
    return {**result, "out": str(folder), "page": str(folder / "index.html")}


class _Job:
    """Explains batch after batch, and keeps what is said of them; one batch of maps at a time is in memory."""

    figures: Path

    def __init__(self, predictor: Predictor, methods: Sequence[str], target: str | None) -> None:
        self.predictor, self.methods, self.target = predictor, methods, target
        self.untrained = randomised(predictor)
        scale = predictor.artefact.get("pixel_scale")
        self.pixel_scale = (
            float(scale) if isinstance(scale, int | float) and 0 < scale < np.inf else None
        )
        self.scores = Scores()
        self.channels: list[str] = []
        self.channel_shares: list[Tensor] = []
        self.left_out: dict[str, str] = {}
        self.warnings: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.sections: list[page.ExplainedImage] = []

    def explain(
        self,
        images: Tensor,
        names: Sequence[str | None],
        labels: Sequence[str | None],
        difference: Tensor | None = None,
        sanity: bool = True,
    ) -> None:
        """Explains a batch (B, C, H, W), draws the images that have a name, and scores it if the difference (B, H, W) is known."""
        found = explain_images(self.predictor, images, methods=self.methods, target=self.target)
        self.left_out |= found.left_out
        self.channels = found.channels
        if len(found.channels) > 1:
            self.channel_shares += [
                each.channels for each in found.maps if each.channels is not None
            ]
        if sanity:
            other = explain_images(
                self.untrained, images, methods=self.methods, target=found.target_names
            )
            self.scores.add_correlation(found, other)
        if difference is not None:
            classes = [str(label) for label in labels]
            self.scores.add_truth(found, difference, classes)
            if sanity:
                self.scores.add_truth(other, difference, classes, "random")
        for k, name in enumerate(names):
            if name is not None:
                self._draw(
                    found, k, name, labels[k], None if difference is None else difference[k].numpy()
                )

    def _draw(
        self, found: Explained, k: int, name: str, label: str | None, difference: np.ndarray | None
    ) -> None:
        stem = f"{len(self.images):03d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:60]}"
        answer, probability = self._answer(found.numbers[k : k + 1])
        text = f"explained: {found.target_names[k]}"
        if answer is not None:
            text = f"answer: {answer}, p = {interval.format_value(probability, 3)}; {text}"
        if label is not None:
            text = f"true class: {label}; {text}"
        one = pictures.shown(found, k, self.pixel_scale, difference)
        drawn = {"maps": pictures.overview(one, text), "layers": pictures.progression(one, text)}
        captions = {
            "maps": "Each method's map, of its last layer.",
            "layers": "Layer by layer, from the first to the last.",
        }
        shown, files = [], {}
        for kind, figure in drawn.items():
            if figure is not None:
                paths = style.save(figure, self.figures / f"{stem}-{kind}")
                files[kind] = [f"figures/{path.name}" for path in paths]
                shown.append((captions[kind], page.picture(figure), files[kind][0]))
        shares = next(
            (each.channels[k].tolist() for each in found.maps if each.channels is not None), None
        )
        told = {
            "name": name,
            "label": label,
            "answer": answer,
            "probability": probability,
            "target": found.target_names[k],
        }
        self.images.append(
            {
                **told,
                "channels": dict(zip(found.channels, shares)) if shares else None,
                "figures": files,
            }
        )
        if shares and len(shares) > 1:
            text += "; integrated gradients: " + ", ".join(
                f"{100 * s:.0f} % {c}" for c, s in zip(found.channels, shares)
            )
        self.sections.append(page.ExplainedImage(name, text, shown))

    def _answer(self, numbers: Tensor) -> tuple[str | None, float]:
        logits = self.predictor.outputs.split(numbers)[0]
        if logits is None:
            return None, float("nan")
        probabilities = (logits[0].double() / self.predictor.temperature).softmax(0)
        return self.predictor.class_names[int(probabilities.argmax())], float(probabilities.max())


def _score(
    job: _Job,
    survey: str,
    n: int,
    seed: int | None,
    noise: str | None,
    batch_size: int,
    advance: Any,
) -> dict[str, Any]:
    """Explains simulated images of which it is known where their substructure shows; returns what they were."""
    source = open_test_images(survey, job.predictor, n=n, seed=seed, noise=noise)
    class_order(source, job.predictor)
    job.warnings += contamination(job.predictor, source)
    attributes = source.attributes
    simulator = scored_simulator(
        survey, source.class_names, attributes["seed"], attributes["noise"]
    )
    classes = simulator.class_names
    for start in range(0, n, batch_size):
        numbers = range(start, min(start + batch_size, n))
        batch = simulator.batch(numbers)
        labels = [classes[label] for label in batch.labels]
        # The first of each class is shown.
        names = [
            f"{simulator.survey.name} {label} {g // len(classes)}" if g < len(classes) else None
            for g, label in zip(numbers, labels)
        ]
        job.explain(
            batch.images,
            names,
            labels,
            substructure_difference(simulator, numbers),
            sanity=start < _N_SANITY,
        )
        advance(len(numbers))
    return {
        "survey": simulator.survey.name,
        "noise": simulator.noise,
        "seed": simulator.seed,
        "n_images": n,
    }

"""The body of `explain`: maps of images from files and from the simulator, their scores, and the page."""

import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from haloformer._version import code_version
from haloformer.data.left_out import LeftOut
from haloformer.data.reader import (
    ReadImage,
    Reading,
    check_choices,
    find_inputs,
    read_images,
    stacked,
)
from haloformer.errors import InputError
from haloformer.evaluation.testset import class_order, contamination, open_test_images
from haloformer.explanation import page, pictures
from haloformer.explanation.attributions import check_methods, check_target, explain_images
from haloformer.explanation.explained import Explained
from haloformer.explanation.scores import (
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
from haloformer.outputs.decision import Answers
from haloformer.prediction.predictor import Predictor, load
from haloformer.prediction.resampled import Scales, also_resampled
from haloformer.reporting import interval, style

_FILES = ("explanation.json", "index.html")  # files that mark a folder as an explanation


EXPLANATION_FORMAT = 1
_N_SANITY = 64  # simulated images, at most, that are explained with random weights, too


def run_explanation(
    run: str,
    images: list[str] | None,
    *,
    out: str,
    survey: str | None,
    n: int | None,
    seed: int | None,
    noise: str | None,
    methods: list[str] | str,
    target: str | None,
    limit: int,
    batch_size: int,
    device: str,
    hdu: int | str | None,
    band: int | str | None,
    pixel_scale: float | None,
    nan: Literal["error", "zero"],
    overwrite: bool,
    progress: bool | None,
) -> dict[str, Any]:
    """Carries out :func:`haloformer.explanation.explain` (see there for the arguments)."""
    chosen = _listed(methods)
    check_methods(chosen)
    check_choices("stop", batch_size)
    reading = Reading(hdu, band, nan, pixel_scale)
    reading.check()
    _check_request(images, survey, n=n, limit=limit, seed=seed, noise=noise)
    n_simulated = 0 if survey is None else 64 if n is None else n
    folder = Path(out)
    refuse_existing(folder, overwrite, _FILES, "explanation")
    predictor = load(run, device)
    check_target(predictor, target)
    channels = predictor.image_shape[0]
    inputs = (
        find_inputs(images, keep_errors=True, channels=channels, reading=reading) if images else []
    )
    n_images = sum(each.n for each in inputs)
    total = min(limit, n_images) + n_simulated
    explainer = _Explainer(predictor, chosen, target)
    with (
        new_folder(folder, overwrite, _FILES, "explanation") as part,
        progress_bar("explain", total, progress) as advance,
    ):
        explainer.figures = part / "figures"
        explainer.figures.mkdir()
        batches = read_images(inputs, predictor.grid, reading, batch_size=batch_size)
        _explain_files(explainer, batches, limit, advance)
        protocol: dict[str, object] = {
            "run": Path(run).resolve().name,
            "model": predictor.artefact["model"]["name"],
        }
        if survey is not None:
            simulated = _Simulated(survey, n_simulated, seed, noise)
            protocol |= _explain_simulated(explainer, simulated, batch_size, advance)
        explainer.unread.refuse_if_all(explainer.n_explained)
        explainer.warnings += explainer.unread.notes
        if explainer.n_flagged:
            explainer.warnings.append(
                f"{explainer.n_flagged} of {explainer.n_explained} images are unlike those that the model was trained on: "
                "their answers mean nothing, and what these rest on shows the network, not the lens."
            )
        if n_images > limit:
            explainer.warnings.append(
                f"Only the first {limit} of {n_images:,} images were explained."
            )
        protocol |= {
            "methods": ", ".join(chosen),
            "explained": target or "the class that the model answers",
            "device": str(predictor.device),
            "torch_version": torch.__version__,
            "code_version": code_version(),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        }
        result = _write(part, explainer, protocol, scored=survey is not None)
    return {**result, "out": str(folder), "page": str(folder / "index.html")}


def _listed(names: list[str] | str) -> list[str]:
    """Returns a list of what may be written as ``a,b``."""
    if isinstance(names, str):
        return [name.strip() for name in names.split(",") if name.strip()]
    return list(names)


def _check_request(
    images: list[str] | None,
    survey: str | None,
    *,
    n: int | None,
    limit: int,
    seed: int | None,
    noise: str | None,
) -> None:
    """Raises InputError if there is nothing to explain, or if an option has no use or no meaning."""
    for name, value in (("n", n), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}: must be at least 1")
    if survey is not None:
        return
    if not images:
        raise InputError(
            "nothing to explain: name images, or a survey to simulate (--survey model_i)"
        )
    for name, given in (("n", n), ("seed", seed), ("noise", noise)):
        if given is not None:
            raise InputError(
                f"'{name}' is for images simulated from a survey: give one (--survey model_i), or leave it out"
            )


def _explain_files(
    explainer: "_Explainer",
    batches: Iterable[list[ReadImage]],
    limit: int,
    advance: Callable[[int], None],
) -> None:
    """Explains images of files, at most so many."""
    left = limit
    for items in batches:
        items = items[:left]
        if not items:
            break
        good = [item for item in items if item.error is None]
        for item in items:
            if item.error is not None:
                explainer.unread.add(item.error)
        _explain_some(explainer, good)
        explainer.refuse_if_useless()
        left -= len(items)
        advance(len(items))


def _explain_some(explainer: "_Explainer", items: Sequence[ReadImage]) -> None:
    """Explains images that were read; those that the model cannot answer are noted."""
    if not items:
        return
    names = [
        Path(item.file).stem + ("" if item.index is None else f" {item.index}") for item in items
    ]
    try:
        labels = [item.label for item in items]
        explainer.explain(stacked(items), names, labels, scales=[item.scales for item in items])
    except InputError as error:
        if len(items) == 1:
            explainer.unread.add(f"{items[0].name}: {error}")
            return
        # One image spoils its batch: find it by asking for each alone.
        for item in items:
            _explain_some(explainer, [item])


def _write(
    part: Path, explainer: "_Explainer", protocol: dict[str, object], scored: bool
) -> dict[str, Any]:
    """Writes scores, page and JSON; returns the content of ``explanation.json``."""
    scores, score_picture = [], None
    if scored:
        scores = explainer.scores.table()
        figure = pictures.score_figure(scores)
        style.save(figure, explainer.figures / "scores")
        score_picture = style.data_uri(figure)
        with write_csv(part / "scores.csv", list(scores[0])) as write:
            write(scores)
        (part / "scores.json").write_text(to_json({"scores": scores}), encoding="utf-8")
    shares = explainer.channel_shares
    result: dict[str, Any] = {
        "format": EXPLANATION_FORMAT,
        "protocol": protocol,
        "warnings": explainer.warnings,
        "left_out": explainer.left_out,
        "n_errors": explainer.unread.n,
        "sanity": explainer.scores.sanity(),
        "channels": mean_channels(shares, explainer.channels) if shares else {},
        "scores": scores,
        "images": explainer.images,
    }
    (part / "explanation.json").write_text(to_json(result), encoding="utf-8")
    html = page.to_html(result, explainer.sections, score_picture)
    (part / "index.html").write_text(html, encoding="utf-8")
    return result


class _Explainer:
    """Explains batch after batch and collects the results; one batch of maps at a time is in memory."""

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
        self.unread = LeftOut()
        self.warnings: list[str] = []
        self.n_explained = self.n_flagged = 0
        self.images: list[dict[str, Any]] = []
        self.sections: list[page.ExplainedImage] = []

    def explain(
        self,
        images: Tensor,
        names: Sequence[str | None],
        labels: Sequence[str | None],
        difference: Tensor | None = None,
        sanity: bool = True,
        scales: Sequence[Scales] | None = None,
    ) -> None:
        """Explains a batch (B, C, H, W), draws the images that have a name, and scores it if the difference (B, H, W) is known."""
        found = explain_images(self.predictor, images, methods=self.methods, target=self.target)
        scales = [None] * len(images) if scales is None else scales
        verdict = also_resampled(self.predictor.ood(images), self.predictor, scales)
        answers = self.predictor.answers_of(found.numbers, verdict)
        self.n_explained += len(images)
        self.n_flagged += int(answers.flagged.sum())
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
                changed = None if difference is None else difference[k].numpy()
                self._draw(found, k, name, labels[k], changed, answers)

    def refuse_if_useless(self) -> None:
        """Raises InputError if none of the methods explains this model, which the first batch tells."""
        if {*self.methods} <= {*self.left_out}:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            raise InputError(
                f"none of the methods {', '.join(self.methods)} explains this model: {why}"
            )

    def _draw(
        self,
        found: Explained,
        k: int,
        name: str,
        label: str | None,
        difference: np.ndarray | None,
        answers: Answers,
    ) -> None:
        """Draws image number k of a batch, and notes what is written and shown of it."""
        answer, probability = _answer(answers, k)
        text = f"explained: {found.target_names[k]}"
        flagged = bool(answers.flagged[k])
        if flagged and answer is not None:
            text = f"answer: {answer}; {text}"
        elif answer is not None:
            text = f"answer: {answer}, p = {interval.format_value(probability, 3)}; {text}"
        if label is not None:
            text = f"true class: {label}; {text}"
        one = pictures.shown(found, k, self.pixel_scale, difference)
        shown, files = self._save_figures(one, name, text)
        shares = _channel_shares(found, k)
        self.images.append(
            {
                "name": name,
                "label": label,
                "answer": answer,
                "probability": probability,
                "ood": None if self.predictor.detector is None else flagged,
                "ood_reason": answers.reasons[k],
                "target": found.target_names[k],
                "channels": shares or None,
                "figures": files,
            }
        )
        if len(shares) > 1:
            parts = [f"{100 * share:.0f} % {channel}" for channel, share in shares.items()]
            text += "; integrated gradients: " + ", ".join(parts)
        warning = f"Out of distribution: {answers.reasons[k]}." if flagged else ""
        self.sections.append(page.ExplainedImage(name, text, shown, warning))

    def _save_figures(
        self, one: pictures.Shown, name: str, text: str
    ) -> tuple[list[tuple[str, str, str]], dict[str, list[str]]]:
        """Writes the figures of an image; returns its pictures for the page, and the paths by kind."""
        stem = f"{len(self.images):03d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:60]}"
        shown, files = [], {}
        for kind, caption, figure in (
            ("maps", "Each method's map, of its last layer.", pictures.overview(one, text)),
            ("layers", "Layer by layer, from first to last.", pictures.progression(one, text)),
        ):
            if figure is not None:
                paths = style.save(figure, self.figures / f"{stem}-{kind}")
                files[kind] = [f"figures/{path.name}" for path in paths]
                shown.append((caption, style.data_uri(figure), files[kind][0]))
        return shown, files


def _answer(answers: Answers, k: int) -> tuple[str | None, float]:
    """Returns the class of image number k and the largest probability; nothing for a regression alone."""
    if answers.probabilities is None:
        return None, float("nan")
    return answers.classes[k], float(answers.probabilities[k].max())


def _channel_shares(found: Explained, k: int) -> dict[str, float]:
    """Returns the share of each channel in image number k; empty if no method separates channels."""
    for each in found.maps:
        if each.channels is not None:
            return dict(zip(found.channels, each.channels[k].tolist()))
    return {}


@dataclass(frozen=True)
class _Simulated:
    """Images to simulate for the scores: arguments of ``explain``."""

    survey: str
    n: int
    seed: int | None
    noise: str | None


def _explain_simulated(
    explainer: _Explainer,
    wanted: _Simulated,
    batch_size: int,
    advance: Callable[[int], None],
) -> dict[str, object]:
    """Explains simulated images, of which the pixels that substructure changes are known; returns their provenance."""
    images = open_test_images(
        wanted.survey, explainer.predictor, n=wanted.n, seed=wanted.seed, noise=wanted.noise
    )
    class_order(images, explainer.predictor)
    explainer.warnings += contamination(explainer.predictor, images)
    attributes = images.attributes
    simulator = scored_simulator(
        wanted.survey, images.class_names, attributes["seed"], attributes["noise"]
    )
    classes = simulator.class_names
    for start in range(0, wanted.n, batch_size):
        numbers = range(start, min(start + batch_size, wanted.n))
        batch = simulator.batch(numbers)
        labels = [classes[label] for label in batch.labels]
        # The first of each class is shown.
        names = [
            f"{simulator.survey.name} {label} {g // len(classes)}" if g < len(classes) else None
            for g, label in zip(numbers, labels)
        ]
        difference = substructure_difference(simulator, numbers)
        explainer.explain(batch.images, names, labels, difference, sanity=start < _N_SANITY)
        explainer.refuse_if_useless()
        advance(len(numbers))
    return {
        "survey": simulator.survey.name,
        "noise": simulator.noise,
        "seed": simulator.seed,
        "n_images": wanted.n,
    }

"""Checks an export: its predictions beside those of the network itself, for new simulated images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from haloformer.artefact.read import artefact_files
from haloformer.data.grouping import LEFT_OUT
from haloformer.errors import InputError
from haloformer.evaluation import testset
from haloformer.evaluation.metrics import log_odds, macro_auc
from haloformer.evaluation.testset import class_order, open_test_images
from haloformer.io.progress import progress_bar
from haloformer.io.strict_json import read_json
from haloformer.prediction.export import Export
from haloformer.prediction.predictor import load
from haloformer.reporting.interval import Interval

_BATCH = 64


@dataclass(frozen=True)
class ExportCheck:
    """An export beside its network.

    Attributes:
        images: Description of the images.
        what: What is compared: ``p``, probabilities, or ``mean``, for a regression alone.
        differences: (N,) largest absolute difference of each image's predictions.
        before: Macro AUC of the network; None for a regression alone.
        after: The same of the export.
    """

    images: str
    what: str
    differences: np.ndarray
    before: Interval | None
    after: Interval | None

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.differences)

    def below(self, share: float) -> float:
        """The difference that this share of the images does not exceed."""
        return float(np.quantile(self.differences, share, method="higher"))


def check_export(
    model: str, export: Export, *, n: int, seed: int | None = None, progress: bool | None = None
) -> ExportCheck:
    """Compares an export's predictions with those of `Predictor`, for simulated images of the model's survey.

    Args:
        model: Run or artefact that was exported.
        export: Result of the export.
        n: Number of images.
        seed: Of the images; one that training did not use if None.
        progress: Show a progress bar; by default when standard error is a terminal.
    """
    predictor = load(model, "cpu")
    survey = check_has_survey(model)
    source = open_test_images(survey, predictor, n=n, seed=seed)
    order = class_order(source, predictor)
    answer = _runner(export)
    labels, before, after = [], [], []
    with progress_bar("check", n, progress) as advance:
        for images, numbers, _ in source.batches(_BATCH):
            named = order[numbers.numpy()]
            there = named != LEFT_OUT
            images = images[torch.from_numpy(there)]
            labels.append(named[there])
            if len(images):
                ours = (
                    predictor.probabilities(images)
                    if predictor.class_names
                    else predictor.estimates(images, raw=True)["mean"]
                )
                before.append(ours.double().numpy())
                after.append(answer(images).astype(np.float64))
            advance(len(named))
    known, mine, theirs = np.concatenate(labels), np.concatenate(before), np.concatenate(after)
    aucs: list[Interval | None] = [None, None]
    if predictor.class_names:
        # Of probabilities as of logits: softmax forgets but a constant.
        scores = [log_odds(np.log(np.maximum(p, 1e-300))) for p in (mine, theirs)]
        aucs = [macro_auc(known, s) for s in scores]
    what = "p" if predictor.class_names else "mean"
    return ExportCheck(
        f"images of {survey}, seed {source.attributes['seed']}",
        what,
        np.abs(mine - theirs).max(axis=1),
        *aucs,
    )


def survey_of(model: str) -> str | None:
    """Returns the survey that a model was trained on, as `testset.survey_of` does, of its run folder or name."""
    return testset.survey_of(read_json(artefact_files(Path(model))[0]))


def check_has_survey(model: str) -> str:
    """Returns the survey of which images can be simulated for a check; raises InputError where there is none."""
    survey = survey_of(model)
    if survey is None:
        raise InputError(
            "the model was trained on images of which no survey is found here: there is nothing to simulate for a check"
        )
    return survey


def _runner(export: Export) -> Callable[[torch.Tensor], np.ndarray]:
    """Returns a function from raw images to the export's first output: probabilities, or means."""
    path = str(export.out)
    if export.format == "hub":
        again = load(path, "cpu")
        return lambda images: (
            again.probabilities(images)
            if again.class_names
            else again.estimates(images, raw=True)["mean"]
        ).numpy()
    if export.format == "torch_export":
        module = torch.export.load(path).module()
        return lambda images: module(images)[0].detach().numpy()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})[0]

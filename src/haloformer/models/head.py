"""Classifiers, and a batch norm before them for networks that learn too late without it.

Images of one survey are nearly the same: a ring, and a trace on it. What a fresh network makes of
them, pooled over the image, is therefore nearly the same vector for all: a large part that they
share, and small differences that matter. A layer norm keeps the shared part, and gradients are
spent on it; a batch norm takes it away. Plain transformers then learn in a few thousand images what
else takes them ten times as many, if they leave chance at all (docs/models/networks.md).
"""

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

HEAD_NORMS = {
    "batch": "batch norm before the classifier",
    "none": "the classifier as the architecture has it",
}


class HeadNorm(nn.BatchNorm1d):
    """Batch norm that uses its running statistics for a single image, which has no variance."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, D) to (B, D)."""
        if self.training and input.shape[0] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class NormalizedClassifier(nn.Linear):
    """A linear classifier of features that are standardised by a batch norm."""

    def __init__(self, classifier: nn.Linear) -> None:
        """Takes over the size and first weights of a classifier."""
        super().__init__(
            classifier.in_features, classifier.out_features, bias=classifier.bias is not None
        )
        self.norm = HeadNorm(classifier.in_features)
        with torch.no_grad():
            self.weight.copy_(classifier.weight)
            if classifier.bias is not None:
                self.bias.copy_(classifier.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Returns the logits (B, K) of features (B, D)."""
        return super().forward(self.norm(input))


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Returns the names of the layers that make logits.

    More than one in distilled and multi-branch models.
    """
    get: Any = getattr(model, "get_classifier", tuple)
    layers = get()
    layers = list(layers) if isinstance(layers, tuple | list | nn.ModuleList) else [layers]
    return tuple(
        name for name, module in model.named_modules() if any(module is layer for layer in layers)
    )


def normalize_head(model: nn.Module, kind: str) -> None:
    """Puts the norm ``kind`` of :data:`HEAD_NORMS` before each classifier of a model.

    ``reset_classifier`` makes a plain classifier again.

    Raises:
        InputError: No such kind, or the model's classifier is not a linear layer.
    """
    if not isinstance(kind, str) or kind not in HEAD_NORMS:
        raise unknown_name("head_norm", str(kind), HEAD_NORMS)
    if kind == "none":
        return
    names = classifier_names(model)
    if not names or any(not isinstance(model.get_submodule(name), nn.Linear) for name in names):
        raise InputError(
            f"head_norm: batch needs a linear classifier, which {type(model).__name__} has not"
        )
    for name in names:
        parent, _, last = name.rpartition(".")
        classifier = model.get_submodule(name)
        assert isinstance(classifier, nn.Linear)
        setattr(model.get_submodule(parent), last, NormalizedClassifier(classifier))


def numbers_and_features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the outputs (B, n) of a model and the inputs of its classifiers (B, D).

    Feature maps and tokens that a classifier is given are averaged; what several classifiers are
    given is put side by side. A model whose classifier cannot be found gives its outputs as
    features.
    """
    given: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if threading.get_ident() == thread:  # another may ask the same model
                given[name] = inputs[0]

        return hook

    handles = [
        model.get_submodule(name).register_forward_pre_hook(keep(name))
        for name in classifier_names(model)
    ]
    try:
        numbers = model(images)
    finally:
        for handle in handles:
            handle.remove()
    features = [_pooled(tensor).float() for tensor in given.values()]
    return numbers, torch.cat(features, dim=1) if features else numbers.float()


def _pooled(features: Tensor) -> Tensor:
    """Averages (B, D, h, w) or (B, N, D) to (B, D)."""
    return (
        features.mean((2, 3))
        if features.ndim == 4
        else features.mean(1)
        if features.ndim == 3
        else features
    )

"""What all architectures written here have in common: timm's protocol."""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from timm.models import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from haloformer.errors import InputError

Method = TypeVar("Method", bound=Callable[..., Any])


def jit_ignore(method: Method) -> Method:
    """Keeps a method out of ``torch.jit.script``: torch's own decorator, with types."""
    ignored: Method = torch.jit.ignore(method)
    return ignored


class Backbone(nn.Module):
    """A network of timm's protocol, but for its trunk.

    A subclass sets ``num_features``, ``num_classes``, ``global_pool`` (``avg``, ``token``, or empty
    for none), ``head`` (a ``nn.Linear``, or ``nn.Identity`` for no classes) and, if there are class
    tokens, ``num_prefix_tokens``; it defines :meth:`trunk` and :meth:`group_matcher`.
    """

    num_classes: int
    num_features: int
    global_pool: str = "avg"
    num_prefix_tokens: int = 0
    head_drop: nn.Module | None = None
    head: nn.Module
    grad_checkpointing: bool = False

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier is given."""
        return self.num_features

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the features before pooling: tokens (B, N, D), or a map (B, D, h, w).

        Args:
            images: (B, C, H, W).
            maps: If given, the feature map (B, D, h, w) after each block (each stage, for a
                pyramid) is appended.
        """
        raise NotImplementedError

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns of parameter names by which timm forms layers."""
        raise NotImplementedError

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns the features before pooling, as :meth:`trunk`."""
        return self.trunk(images)

    def pool(self, features: Tensor) -> Tensor:
        """Returns (B, D), or the features as they are if ``global_pool`` is empty."""
        if not self.global_pool:
            return features
        if features.ndim == 4:
            return features.mean((2, 3))
        return (
            features[:, 0]
            if self.global_pool == "token"
            else features[:, self.num_prefix_tokens :].mean(1)
        )

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns the logits (B, num_classes) of features.

        With ``pre_logits``, it returns the classifier's input instead.
        """
        pooled = self.pool(features)
        if self.head_drop is not None:
            pooled = self.head_drop(pooled)
        if pre_logits:
            return pooled
        logits: Tensor = self.head(pooled)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, num_classes) of images (B, C, H, W)."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Returns the final features and intermediate feature maps (B, D, h, w).

        Args:
            images: (B, C, H, W).
            indices: Which of the maps; the last n if a number, all if None.
            norm: As in timm; the maps here are never normalised.
            stop_early: As in timm; here the trunk always runs to its end.
            output_fmt: ``NCHW``, or ``NLC`` for (B, h·w, D).
            intermediates_only: Return the list alone.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise InputError(f"output_fmt must be NCHW or NLC, not '{output_fmt}'")
        maps: list[Tensor] = []
        features = self.trunk(images, maps)
        taken, _ = feature_take_indices(len(maps), indices)
        chosen = [
            maps[i] if output_fmt == "NCHW" else maps[i].flatten(2).transpose(1, 2) for i in taken
        ]
        return chosen if intermediates_only else (features, chosen)

    def get_classifier(self) -> nn.Module:
        """Returns the layer that makes logits."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one; ``num_classes=0`` leaves the pooled features."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        self.head = linear_head(self.head_hidden_size, num_classes)

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay should spare, besides biases and norms."""
        return set()

    @jit_ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory: blocks are computed again in the backward pass."""
        self.grad_checkpointing = enable

    def run(self, block: Callable[..., Any], *args: Any) -> Any:
        """Calls a block, checkpointed if so set and a gradient will be wanted."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


Renaming = tuple[str, str | Callable[[re.Match[str]], str]]
"""A regular expression, and what takes the place of a match, as ``re.sub`` takes them."""


def renamed(name: str, renamings: Iterable[Renaming]) -> str:
    """Returns a parameter's name after renamings, one after the other."""
    for pattern, replacement in renamings:
        name = re.sub(pattern, replacement, name)
    return name


def linear_head(num_features: int, num_classes: int) -> nn.Module:
    """A classifier as timm starts it: small weights, no bias; the identity for no classes."""
    if num_classes <= 0:
        return nn.Identity()
    head = nn.Linear(num_features, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


Model = TypeVar("Model", bound=nn.Module)


def build(
    model: type[Model],
    variant: str,
    pretrained: bool,
    convert: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]],
    **kwargs: Any,
) -> Model:
    """Builds a registered variant through timm.

    Channels, classifier and weights are fitted as for timm's own.

    Args:
        model: The class.
        variant: The name that is registered.
        pretrained: Whether to load weights (which are supplied as a file: none of ours can be
            downloaded).
        convert: Takes a state dict, official or ours, and the model to the keys and shapes of the
            model.
        **kwargs: Numbers of the variant and the caller's keywords.
    """
    built: Model = build_model_with_cfg(
        model, variant, pretrained, pretrained_filter_fn=convert, **kwargs
    )
    return built


def weights_cfg(img_size: int = 224, **kwargs: Any) -> dict[str, Any]:
    """The entry of timm's ``default_cfgs`` for a variant without downloadable weights."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, img_size, img_size),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "classifier": "head",
        **kwargs,
    }

"""How much of a pretrained network learns.

All of it, the classifier, the last blocks, or a low-rank change.

What does not learn is frozen by ``requires_grad``, and :func:`frozen_modules_to_eval` keeps it a
fixed function in training: batch norms use the statistics that they came with, and nothing is
dropped.
"""

import copy
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from haloformer.errors import InputError, how_to_install
from haloformer.models.head import classifier_names
from haloformer.models.native_size import PaddedInput
from haloformer.vocabulary import unknown_name

TUNING: dict[str, str] = {
    "full": "the whole network",
    "probe": "the classifier alone",
    "last_blocks": "the last blocks, the norms after them and the classifier",
    "lora": "a low-rank change of every linear layer, and the classifier",
}
"""What :func:`prepare_for_tuning` knows by name."""

_ADAPTER = "default"


def prepare_for_tuning(
    model: nn.Module,
    tune: str = "full",
    *,
    last_blocks: int = 1,
    lora_rank: int = 8,
    lora_alpha: float = 16.0,
) -> nn.Module:
    """Freezes what is not to learn in a fresh model, and for lora adds to its layers what is.

    The same model returns.

    The classifier (each, if there are several) always learns, with the batch norm before it if that
    is ours.

    Args:
        model: From ``create_model``, with its weights.
        tune: One of :data:`TUNING`.
        last_blocks: Blocks that learn, counted from the end as the model's ``group_matcher`` counts
            layers, in which a step between two stages is a layer of its own or belongs to the block
            after it.
        lora_rank: Rank of the change. Layers no wider than that are left as they are.
        lora_alpha: The change is scaled by alpha / rank (Hu et al. 2021, arXiv:2106.09685, section
            4.1).

    Raises:
        InputError: No such way, more blocks than there are, no linear layers for lora, or peft is
            not installed.
    """
    if tune not in TUNING:
        raise unknown_name("tune", str(tune), TUNING)
    if tune == "full":
        return model
    inner = model.model if isinstance(model, PaddedInput) else model
    classifiers = tuple(f"{name}." for name in classifier_names(inner))
    learning = {name for name, _ in inner.named_parameters() if name.startswith(classifiers)}
    if not learning:
        raise InputError(f"tune: {tune} needs a classifier, which {type(inner).__name__} has not")
    if tune == "last_blocks":
        learning |= _last_blocks(inner, last_blocks)
    for name, parameter in inner.named_parameters():
        if name not in learning:
            parameter.requires_grad_(False)
    if tune == "lora":
        _add_lora(inner, lora_rank, lora_alpha, learning)
    return model


def frozen_modules_to_eval(model: nn.Module) -> None:
    """Puts what is frozen into evaluation mode.

    To be called whenever ``model.train()`` was, such as before each epoch.

    A module is frozen if it has parameters and none of them learns. One without (dropout,
    stochastic depth) goes with what it is part of; directly in a module that learns in part, with
    what follows it, provided that nothing before it learns.
    """
    children = list(_children(model))
    learns = [_learns(child) for child in children]
    for place, child in enumerate(children):
        if learns[place]:
            frozen_modules_to_eval(child)
            continue
        following = next((later for later in learns[place:] if later is not None), True)
        if learns[place] is False or not (following or any(learns[:place])):
            child.eval()


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """Returns how many numbers of a model learn, and how many there are."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, learns in counts if learns), sum(count for count, _ in counts)


@torch.no_grad()
def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict of the plain model: what lora learned is added to the weights.

    The model stays as it is.

    It fits the model that ``create_model`` builds. All else but the changed weights is the model's
    own, not a copy.
    """
    weights = dict(model.state_dict())
    for name, layer in _lora_layers(model):
        for key in [key for key in weights if key.startswith(f"{name}.")]:
            tensor = weights.pop(key)
            if key.startswith(f"{name}.base_layer."):
                weights[f"{name}.{key.removeprefix(f'{name}.base_layer.')}"] = tensor
        change = layer.get_delta_weight(_ADAPTER)
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + change
    return weights


def plain_model(model: nn.Module) -> nn.Module:
    """Returns the model without lora's layers, with what they learned in its weights.

    It is a copy if there are any.
    """
    if not any(_lora_layers(model)):
        return model
    plain = copy.deepcopy(model)
    for name, layer in list(_lora_layers(plain)):
        parent, _, last = name.rpartition(".")
        setattr(plain.get_submodule(parent), last, layer.base_layer)
    plain.load_state_dict(merged_weights(model))
    return plain


def _last_blocks(model: nn.Module, count: int) -> set[str]:
    """The names of the parameters of the last blocks, and of what comes after them."""
    matcher: Any = getattr(model, "group_matcher", None)
    layers = (
        list(group_parameters(model, matcher(coarse=False)).values())
        if matcher
        else _layers_by_name(model)
    )
    blocks = len(layers) - 2  # the first layer is the stem, the last the classifier
    if not 1 <= count <= blocks:
        raise InputError(
            f"last_blocks must be from 1 to the {blocks} blocks of {type(model).__name__}, not {count!r}; "
            "tune: full trains all, tune: probe none"
        )
    return set(itertools.chain.from_iterable(layers[-1 - count :]))


def _layers_by_name(model: nn.Module) -> list[list[str]]:
    """Stem, blocks and classifier of a model that does not tell.

    Blocks are numbered in a list that is called so.
    """
    classifiers = tuple(f"{name}." for name in classifier_names(model))
    layers: list[list[str]] = [[]]
    current = None
    for name, _ in model.named_parameters():
        if name.startswith(classifiers):
            continue
        block = re.match(r"(?:.*\.)?(?:blocks|layers|stages)\.\d+", name)
        if block and block[0] != current:
            current = block[0]
            layers.append([])
        layers[-1].append(name)  # what lies between two blocks goes with the one before
    return [*layers, [name for name, _ in model.named_parameters() if name.startswith(classifiers)]]


def _add_lora(model: nn.Module, rank: int, alpha: float, learning: Iterable[str]) -> None:
    """Puts low-rank changes beside a model's linear layers, in place.

    The model's own parameters that learn are named.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError(f"tune: lora needs peft: {how_to_install('lora')}") from error
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise InputError(f"lora_rank must be a whole number of at least 1, not {rank!r}")
    layers = list(_linear_layers(model, rank))
    if not layers:
        raise InputError(
            f"tune: lora finds no linear layer wider than lora_rank={rank} in {type(model).__name__}: use last_blocks"
        )
    # As one pattern, names are compared whole: of a list, peft would also take what only ends in
    # them.
    pattern = "|".join(re.escape(name) for name in layers)
    # In place, without peft's own wrapper: so the model keeps its type, its methods and the names
    # of its parameters.
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern)
    inject_adapter_in_model(settings, model, _ADAPTER)
    for name in learning:  # peft froze them
        model.get_parameter(name).requires_grad_(True)


def _linear_layers(model: nn.Module, rank: int) -> Iterator[str]:
    """The names of linear layers and 1×1 convolutions, without classifiers and narrow ones."""
    classifiers = classifier_names(model)
    for name, module in model.named_modules():
        parent = model.get_submodule(name.rpartition(".")[0])
        # Such attention (Swin V2, EVA) takes the weight and never calls the layer.
        bypassed = getattr(parent, "q_bias", None) is not None and name.endswith("qkv")
        if name in classifiers or bypassed:
            continue
        # Subclasses may do something else with the weight, such as standardise it.
        if type(module) is nn.Linear:
            widths = (module.in_features, module.out_features)
        elif type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1:
            widths = (module.in_channels, module.out_channels)
        else:
            continue
        if min(widths) > rank:
            yield name


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that peft put in, by every name that they have.

    Known by what they can: peft need not be there.
    """
    modules = model.named_modules(remove_duplicate=False)
    return (
        (name, m)
        for name, m in modules
        if hasattr(m, "get_delta_weight") and hasattr(m, "base_layer")
    )


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a module in order; those of lists and sequences in their place."""
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from _children(child)
        else:
            yield child


def _learns(module: nn.Module) -> bool | None:
    """Whether any parameter learns; None if there are none."""
    flags = [parameter.requires_grad for parameter in module.parameters()]
    return any(flags) if flags else None

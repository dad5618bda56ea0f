"""The network of an experiment: built, frozen where it is not to learn, and laid out in memory."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from haloformer.artefact.read import weights_description
from haloformer.errors import InputError
from haloformer.models.factory import build_model
from haloformer.outputs.layout import Outputs
from haloformer.training.config import Experiment
from haloformer.training.hardware import Hardware
from haloformer.training.transfer import prepare_for_tuning
from haloformer.vocabulary import canonical_class


def build_network(
    experiment: Experiment,
    input_shape: tuple[int, int, int],
    outputs: Outputs,
    *,
    pretrained: bool | str,
) -> nn.Module:
    """Returns the network with its first weights, which the experiment's seed determines.

    Args:
        experiment: Names the network and its keywords.
        input_shape: (C, H, W) of the network's input.
        outputs: What it returns per image.
        pretrained: As ``create_model`` takes it; False for a network whose weights are loaded
            later.
    """
    channels, height, width = input_shape
    torch.manual_seed(experiment.trainer.seed)
    try:
        return build_model(
            not (isinstance(pretrained, str) and _of_others(pretrained, outputs)),
            experiment.model.name,
            img_size=height if height == width else (height, width),
            in_chans=channels,
            num_classes=outputs.n,
            pretrained=pretrained,
            **network_args(experiment),
        )
    except InputError as error:
        for name, ours in _REGULARIZATION.items():
            given = getattr(experiment.regularization, ours)
            if given is not None and f"unexpected keyword argument '{name}'" in str(error):
                raise InputError(
                    f"{ours}: {experiment.model.name} has none; leave it null"
                ) from error
        raise


def _of_others(pretrained: str, outputs: Outputs) -> bool:
    """Whether weights are known to be those of an artefact that puts out something else."""
    described = weights_description(pretrained)
    if not described:
        return False
    told = described.get("outputs")
    before = Outputs.from_dict(told if isinstance(told, Mapping) else described, pretrained)
    return _meaning(before) != _meaning(outputs)


def _meaning(outputs: Outputs) -> tuple[object, ...]:
    """What each of a network's numbers stands for."""
    classes = tuple(canonical_class(name) for name in outputs.class_names)
    return classes, outputs.targets, outputs.loss if outputs.targets else None


def tuned_network(network: nn.Module, experiment: Experiment, hardware: Hardware) -> nn.Module:
    """Returns a fresh network as it is trained: frozen, synchronised, laid out as asked for."""
    transfer, settings = experiment.transfer, experiment.trainer
    tuned = prepare_for_tuning(
        network,
        transfer.tune,
        last_blocks=transfer.last_blocks,
        lora_rank=transfer.lora_rank,
        lora_alpha=transfer.lora_alpha,
    )
    if settings.devices * settings.nodes > 1 and hardware.accelerator == "cuda":
        # timm's, as torch's would lose the activations of timm's norms
        tuned = convert_sync_batchnorm(tuned)
    with torch.no_grad():
        for tensor in (*tuned.parameters(), *tuned.buffers()):
            if tensor.ndim == 4:
                tensor.data = tensor.contiguous(memory_format=hardware.layout)
    return tuned


_REGULARIZATION = {
    "drop_rate": "dropout",
    "attn_drop_rate": "attention_dropout",
    "drop_path_rate": "stochastic_depth",
}
"""The regularisation's options by the names that timm's networks have for them."""


def network_args(experiment: Experiment) -> dict[str, Any]:
    """Returns the network's keywords, with the regularisation's as timm spells them."""
    given = experiment.regularization
    rates = {name: getattr(given, ours) for name, ours in _REGULARIZATION.items()}
    rates = {name: value for name, value in rates.items() if value is not None}
    if twice := sorted(set(rates) & set(experiment.model.model_args)):
        raise InputError(
            f"model_args: {twice[0]} is given by {_REGULARIZATION[twice[0]]} ({rates[twice[0]]:g}), too: leave one out"
        )
    return {**rates, **experiment.model.model_args}

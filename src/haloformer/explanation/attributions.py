"""Explains predictions by several methods, as maps on the pixels of the images.

**Attention** of each layer (:func:`haloformer.models.attention`), and its *rollout* (Abnar & Zuidema 2020, arXiv:2005.00928): attention
traced back through the layers below, with the identity for what passes beside it. **Grad-CAM** (Selvaraju et al. 2017,
arXiv:1610.02391) of every layer with a feature map. **Integrated gradients** (Sundararajan et al. 2017, arXiv:1703.01365) of the pixels,
from a blank sky. For A-ViT the *depth*: through how many blocks the token at a place went.

Gradients are of the log-odds of the class, not of its logit: the softmax does not care for what all logits have in common.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from haloformer.data.framing import network_input
from haloformer.data.reader import with_channels
from haloformer.errors import InputError, how_to_install
from haloformer.explanation.explained import Explained, Map
from haloformer.explanation.layers import Stage, find_stages, place_grid, spread
from haloformer.explanation.methods import DEPTH, METHODS, OF_GRADIENTS
from haloformer.models.a_vit import Halting
from haloformer.models.attention_maps import AttentionMap, attention
from haloformer.prediction.in_memory import as_tensor
from haloformer.prediction.predictor import Predictor
from haloformer.prediction.rows import provenance_of
from haloformer.vocabulary import unknown_name

if TYPE_CHECKING:
    from haloformer.prediction.in_memory import Images

STEPS = 16  # of the integral; Gauss–Legendre's rule is exact for polynomials of degree 31
_ROWS = 128  # images and steps of the integral at once


def explain_images(
    predictor: Predictor,
    images: "Images",
    *,
    methods: Sequence[str] = METHODS,
    target: str | Sequence[str] | None = None,
) -> Explained:
    """Explains the answers to a batch of images.

    Args:
        predictor: The trained network with its preprocessing.
        images: Raw, as `Predictor.probabilities` takes them.
        methods: Some of :data:`METHODS`. Attention does not depend on the class; gradients do.
        target: The class, or estimated parameter, that is explained, or one for each image; by default the class that the
            network answers, or the first parameter.
    """
    check_methods(methods)
    images = predictor.checked(images)
    inputs = predictor.prepared(images)
    with torch.no_grad():
        numbers = predictor.model(inputs).float()
    if not torch.isfinite(numbers).all():
        bad = int((~torch.isfinite(numbers)).any(dim=1).nonzero()[0])
        raise InputError(
            f"the model gives no number for image {bad} of the batch: are its values extreme?"
        )
    targets, names = _targets(predictor, numbers, target)
    found = Explained(
        maps=[],
        numbers=numbers.cpu(),
        targets=targets,
        target_names=names,
        images=images.cpu(),
        inputs=predictor.in_image(inputs.float()).cpu(),
        channels=_channel_names(predictor, inputs.shape[1]),
        seen=predictor.in_image(torch.ones_like(inputs[:1, :1]))[0, 0].cpu() > 0.5,
        pixel_scale=predictor.grid.pixel_scale,
        model=dict(provenance_of(predictor, predictor.name)),
    )
    if "attention" in methods or "rollout" in methods:
        _add_attention(found, predictor, inputs, methods)
    if hasattr(predictor.model, "forward_with_halting"):
        found.maps.append(_depth(predictor, inputs))
    if "gradcam" in methods:
        _add_grad_cam(found, predictor, inputs)
    if "integrated_gradients" in methods:
        found.maps.append(_integrated_gradients(predictor, inputs, targets))
    return found


def attention_layers(predictor: Predictor, images: Tensor) -> list[Map]:
    """Returns the attention of each layer to raw images (B, C, H, W), mean over its heads.

    Raises:
        InputError: The network has no attention between places, or some that is not understood.
    """
    return _attention_maps(predictor, attention(predictor.model, predictor.prepared(images)))


def attention_overlay(predictor: Predictor, image: "Images") -> tuple[list[str], np.ndarray]:
    """Returns the attention maps of one image: quick, and without captum.

    Args:
        predictor: Of ``haloformer.load``.
        image: (H, W) or (C, H, W), raw.

    Returns:
        The names of the L layers, and (L, H, W) float32: the attention that each pixel receives, mean over heads, in the frame of
        the image; each layer's sums to one, and is 0 where the network does not look.

    Raises:
        InputError: The network has no attention between places, or the image does not fit.
    """
    batch = with_channels(as_tensor(image, "the image"), predictor.grid, "the image")
    layers = attention_layers(predictor, batch)
    return [each.layer for each in layers], torch.stack([each.values[0] for each in layers]).numpy()


def check_methods(methods: Sequence[str]) -> None:
    """Refuses unknown methods, and those whose package is not installed."""
    for name in methods:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    if not methods:
        raise InputError(f"no method: known are {', '.join(METHODS)}")
    if set(methods) & set(OF_GRADIENTS):
        try:
            import captum  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"gradcam and integrated_gradients need captum: {how_to_install('explain')}, "
                "or choose the methods attention,rollout"
            ) from error


# --- attention --------------------------------------------------------------------------------------------------------


def _add_attention(
    found: Explained, predictor: Predictor, inputs: Tensor, methods: Sequence[str]
) -> None:
    wanted = [method for method in ("attention", "rollout") if method in methods]
    try:
        layers = attention(predictor.model, inputs, keep_weights="rollout" in methods)
    except InputError as error:
        found.left_out |= dict.fromkeys(wanted, str(error))
        return
    if "attention" in methods:
        found.maps += _attention_maps(predictor, layers)
    if "rollout" in methods:
        reason = _why_no_rollout(layers)
        if reason is None:
            rolled = _rollout(predictor.model, inputs, layers)
            found.maps += [
                Map("rollout", name, "all layers to here", _placed(predictor, maps))
                for name, maps in zip(_layer_names(layers), rolled, strict=True)
            ]
        else:
            found.left_out["rollout"] = reason


def _attention_maps(predictor: Predictor, layers: list[AttentionMap]) -> list[Map]:
    return [
        Map("attention", name, layer.kind, _placed(predictor, layer.maps.mean(1)))
        for name, layer in zip(_layer_names(layers), layers, strict=True)
    ]


def _layer_names(layers: list[AttentionMap]) -> list[str]:
    """Returns the layers' paths; one that runs again gets a number."""
    names: list[str] = []
    for layer in layers:
        again = sum(name.partition(" ")[0] == layer.layer for name in names)
        names.append(f"{layer.layer} ({again + 1})" if again else layer.layer)
    return names


def _why_no_rollout(layers: list[AttentionMap]) -> str | None:
    """Rollout multiplies the layers' weights: all must be from the same tokens to the same."""
    first = layers[0].layout
    for layer in layers:
        layout = layer.layout
        same = (
            layer.kind == "global"
            and torch.equal(layout.queries, first.queries)
            and torch.equal(layout.keys, first.keys)
        )
        if (
            not same
            or layout.query_grid != first.query_grid
            or not torch.equal(layout.queries, layout.keys)
        ):
            return (
                f"rollout needs global attention among the same tokens in every layer, but that of {layer.layer} is "
                f"{layer.kind}, from {'×'.join(map(str, layout.query_grid))} to {'×'.join(map(str, layout.key_grid))} cells"
            )
    return None


def _rollout(model: nn.Module, inputs: Tensor, layers: list[AttentionMap]) -> list[Tensor]:
    """Returns what has flowed from each pixel into the classified token, or on average into all, after each layer: (B, H', W')."""
    halting = _halting(model, inputs)
    layout = layers[0].layout
    rolled: Tensor | None = None
    read: Tensor | None = None
    answers: list[Tensor] = []
    for index, layer in enumerate(layers):
        assert layer.weights is not None
        weights = layer.weights[:, 0].mean(1)  # (B, N, N)
        same = torch.eye(weights.shape[-1], device=weights.device)
        step = 0.5 * weights / weights.sum(-1, keepdim=True).clamp_min(1e-12) + 0.5 * same
        if halting is not None:  # a token that has halted stays what it is
            ran = (halting.weights[:, index:].sum(1) > 0)[..., None]
            step = torch.where(ran, step, same)
        rolled = step if rolled is None else step @ rolled
        if layout.class_query is not None:
            row = rolled[:, layout.class_query]
        else:
            row = rolled[:, (layout.queries[0] >= 0).to(rolled.device)].mean(1)
        if halting is not None and layout.class_query is not None:
            # A-ViT reads the class token's average over depth; so far, the part of it that is known.
            row = halting.weights[:, index, layout.class_query, None] * row
            read = row if read is None else read + row
            row = read
        answers.append(layer.in_image(row[:, None, None])[:, 0])
    return answers


def _halting(model: Any, inputs: Tensor) -> Halting | None:
    if not hasattr(model, "forward_with_halting"):
        return None
    with torch.no_grad():
        result: Halting | None = model.forward_with_halting(inputs)[1]
        return result


def _depth(predictor: Predictor, inputs: Tensor) -> Map:
    halting = _halting(predictor.model, inputs)
    assert halting is not None
    depth = halting.depth
    rows, columns = place_grid(predictor.model, inputs, (depth.shape[-2], depth.shape[-1]))
    values = predictor.in_image(spread(depth, rows, columns)[:, None])[:, 0].cpu()
    return Map(DEPTH, "", f"blocks of {halting.weights.shape[1]}", values)


# --- gradients --------------------------------------------------------------------------------------------------------


def check_target(predictor: Predictor, target: str | None) -> None:
    """Refuses what the model has no answer for."""
    known = (*predictor.class_names, *predictor.outputs.targets)
    if target is not None and target not in known:
        raise unknown_name("target", target, known)


def _targets(
    predictor: Predictor, numbers: Tensor, target: str | Sequence[str] | None
) -> tuple[Tensor, list[str]]:
    classes, parameters = predictor.class_names, predictor.outputs.targets
    if target is None and classes:
        answers = numbers[:, : len(classes)].argmax(1)
        return answers, [classes[k] for k in answers.tolist()]
    chosen = parameters[0] if target is None else target
    names = [chosen] * len(numbers) if isinstance(chosen, str) else list(chosen)
    for name in names:
        check_target(predictor, name)
    # A parameter's first number is its mean.
    per_target = (predictor.outputs.n - len(classes)) // max(1, len(parameters))
    places = {name: len(classes) + per_target * k for k, name in enumerate(parameters)}
    places |= {name: k for k, name in enumerate(classes)}
    return torch.tensor([places[name] for name in names], device=numbers.device), names


def _scores(predictor: Predictor) -> Callable[[Tensor], Tensor]:
    """Returns a function of prepared images: the log-odds of each class, and what estimates parameters as it is."""
    n = len(predictor.class_names)
    others = torch.eye(n, dtype=torch.bool, device=predictor.device)

    def scores(inputs: Tensor) -> Tensor:
        numbers: Tensor = predictor.model(inputs)
        if n < 2:
            return numbers
        logits = numbers[:, :n]
        odds = logits - logits[:, None].masked_fill(others, -torch.inf).logsumexp(-1)
        return torch.cat([odds, numbers[:, n:]], 1)

    return scores


def _attributed(
    method: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> Tensor:
    """Calls a method of gradients; one image alone is taken twice.

    On a CPU, PyTorch 2.14.1's backward pass of ``BatchNorm2d`` is wrong for a batch of one image whose output is then flattened and
    transposed, as every network does that makes tokens of a feature map.
    """
    if len(inputs) == 1:
        return method(inputs.repeat(2, 1, 1, 1), targets.repeat(2))[:1]
    return method(inputs, targets)


def _add_grad_cam(found: Explained, predictor: Predictor, inputs: Tensor) -> None:
    stages, convolutions = find_stages(predictor.model, inputs)

    def add(stage: Stage) -> bool:
        cam = _attributed(_grad_cam(predictor, stage), inputs, found.targets)[:, 0].detach()
        if not cam.any():
            found.left_out[f"gradcam {stage.name}"] = (
                "the answer does not depend on this map, but on what is beside it"
            )
            return False
        kind = "×".join(map(str, stage.grid)) + " cells"
        maps = _placed(predictor, spread(cam.clamp_min(0), stage.rows, stage.columns))
        found.maps.append(Map("gradcam", stage.name, kind, maps))
        return True

    if not any([add(stage) for stage in stages]) and not any(
        add(stage) for stage in reversed(convolutions)
    ):
        found.left_out["gradcam"] = "none of the network's feature maps can be reached"


def _grad_cam(predictor: Predictor, stage: Stage) -> Callable[[Tensor, Tensor], Tensor]:
    from captum.attr import LayerGradCam

    def method(inputs: Tensor, targets: Tensor) -> Tensor:
        probe = (
            nn.Identity()
        )  # where captum, which has no notion of tokens, finds the layer as a feature map
        with stage.passing(probe):
            try:
                result: Tensor = LayerGradCam(_scores(predictor), probe).attribute(
                    inputs, target=targets
                )
                return result
            except RuntimeError as error:
                if "not have been used in the graph" not in str(error):
                    raise
                return inputs.new_zeros(len(inputs), 1, *stage.grid)

    return method


def _integrated_gradients(predictor: Predictor, inputs: Tensor, targets: Tensor) -> Map:
    from captum.attr import IntegratedGradients

    blank = _blank_sky(predictor).to(inputs)

    def method(inputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = IntegratedGradients(_scores(predictor)).attribute(
            inputs,
            blank,
            target=targets,
            n_steps=STEPS,
            internal_batch_size=max(_ROWS, 2 * len(inputs)),
        )
        return found

    found = _attributed(method, inputs, targets).detach().float().abs()  # (B, C, H', W')
    per_channel = found.sum((2, 3))
    channels = per_channel / per_channel.sum(1, keepdim=True).clamp_min(1e-30)
    return Map(
        "integrated_gradients",
        "",
        "|sum| over channels",
        _placed(predictor, found.sum(1)),
        channels.cpu(),
    )


def _blank_sky(predictor: Predictor) -> Tensor:
    """Returns what the network gets of an image without light that a lens without light explains: (1, C', H', W')."""
    shape = predictor.image_shape
    if predictor.residual is not None:
        shape = predictor.residual.output_shape(shape)
    return network_input(
        torch.zeros(1, *shape),
        predictor.framing,
        predictor.normalization,
        predictor.residual is not None,
    )


# --- helpers ----------------------------------------------------------------------------------------------------------


def _placed(predictor: Predictor, maps: Tensor) -> Tensor:
    """Puts maps (B, H', W') of what the network gets into the images' frame, each with the sum one."""
    placed = predictor.in_image(maps.float()[:, None])[:, 0].cpu()
    return placed / placed.sum((1, 2), keepdim=True).clamp_min(torch.finfo(placed.dtype).tiny)


def _channel_names(predictor: Predictor, n: int) -> list[str]:
    """Returns the names of the n channels that the network gets."""
    if n == 1:
        return ["image"]
    if predictor.residual is not None:
        return ["image", "residual", "detail"][:n]
    return [f"channel {k}" for k in range(n)]

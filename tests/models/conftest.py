"""What the tests of the architectures share."""

import contextlib
import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import timm
import torch
from timm.models import group_parameters


def _fill(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Gives a model weights that depend on nothing but the names and shapes of its tensors, in float64."""
    model = model.double().eval()
    for index, (name, tensor) in enumerate(sorted(model.state_dict().items())):
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        values = torch.from_numpy(
            np.random.default_rng([seed, index]).standard_normal(tuple(tensor.shape))
        )
        if name.endswith("running_var"):
            values = 1 + 0.1 * values.abs()
        elif tensor.ndim >= 2:
            values = values / math.sqrt(max(1, tensor[0].numel()))
        else:
            values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
        tensor.copy_(values)
    return model


@contextlib.contextmanager
def _zero_weights() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("uniform_", "normal_", "erfinv_"):
            patch.setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor.zero_())
        yield


@pytest.fixture(scope="session")
def zero_weights():
    """A context in which initial weights are zero: of models that are given others, drawing them takes longest."""
    return _zero_weights


@pytest.fixture
def uninitialised():
    """Leaves initial weights zero: where parameters are counted, or given other values, most time went into drawing them."""
    with _zero_weights():
        yield


@pytest.fixture(scope="session")
def fill():
    """A function that gives a model reproducible random weights (float64, evaluation mode)."""
    return _fill


@pytest.fixture(scope="session")
def golden():
    """A function that gives the logits of a model with reproducible weights for one reproducible image: a list."""

    def logits(name: str, img_size: int | tuple[int, int] = 64, **kwargs) -> list[float]:
        from haloformer.models import create_model

        with _zero_weights():
            model = create_model(name, img_size, **{"head_norm": "none", **kwargs})
        model = _fill(model)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        image = np.random.default_rng(7).standard_normal(
            (1, kwargs.get("in_chans", 1), height, width)
        )
        with torch.no_grad():
            return model(torch.from_numpy(image))[0].tolist()

    return logits


@pytest.fixture(scope="session")
def check_protocol():
    """A function that checks everything timm's users expect of an architecture written here."""

    def check(name: str, img_size: int = 64, **kwargs) -> None:
        from haloformer.models import create_model

        torch.manual_seed(0)
        model = create_model(name, img_size, in_chans=3, num_classes=5, **kwargs).eval()
        images = torch.randn(2, 3, img_size, img_size)
        with torch.no_grad():
            logits = model(images)
            features = model.forward_features(images)
            assert logits.shape == (2, 5)
            torch.testing.assert_close(model.forward_head(features), logits)
            assert model.forward_head(features, pre_logits=True).shape == (
                2,
                model.head_hidden_size,
            )
            final, maps = model.forward_intermediates(images)
            torch.testing.assert_close(final, features)
            assert len(maps) >= 2
            assert all(m.ndim == 4 and len(m) == 2 for m in maps)
            flat = model.forward_intermediates(
                images, indices=1, intermediates_only=True, output_fmt="NLC"
            )
            assert len(flat) == 1
            torch.testing.assert_close(flat[0], maps[-1].flatten(2).transpose(1, 2))
        names = {parameter_name for parameter_name, _ in model.named_parameters()}
        assert set(model.no_weight_decay()) <= names
        inner = getattr(model, "model", model)
        layers = group_parameters(inner, inner.group_matcher(), reverse=True)
        assert set(layers) == {n.removeprefix("model.") for n in names}
        assert len(set(layers.values())) > 3, "layer decay needs layers"

        # Every parameter gets a gradient, and the same one with checkpointing.
        copied = copy.deepcopy(model)
        copied.set_grad_checkpointing(True)
        for network in (model, copied):
            torch.manual_seed(1)
            network.train()
            output = network(images)
            (output * torch.arange(1.0, 11.0).reshape(2, 5)).sum().backward()
        for (parameter_name, parameter), other in zip(
            model.named_parameters(), copied.parameters()
        ):
            if not parameter.requires_grad:  # a table that belongs to the weights
                continue
            assert parameter.grad is not None, f"no gradient reaches {parameter_name}"
            torch.testing.assert_close(
                parameter.grad, other.grad, msg=lambda m, n=parameter_name: f"{n}: {m}"
            )

        model.eval()
        model.reset_classifier(0)
        with torch.no_grad():
            assert model(images).shape == (2, model.head_hidden_size)
            model.reset_classifier(1)
            assert model(images).shape == (2, 1)

        # Weights of a colour model with a thousand classes load into ours: filters are summed, the classifier is new.
        info_name, options = _timm_entry(name)
        source = timm.create_model(
            info_name, img_size=img_size, in_chans=3, num_classes=1000, **{**options, **kwargs}
        )
        loaded = timm.create_model(
            info_name, pretrained=True, pretrained_cfg_overlay={"state_dict": source.state_dict(), "num_classes": 1000},
            img_size=img_size, in_chans=1, num_classes=3, **{**options, **kwargs},
        )  # fmt: skip
        with _zero_weights():
            target = timm.create_model(
                info_name, img_size=img_size, in_chans=3, num_classes=3, **{**options, **kwargs}
            )
        target.load_state_dict(
            {k: v for k, v in source.state_dict().items() if "head" not in k}, strict=False
        )
        gray = torch.randn(2, 1, img_size, img_size)
        with torch.no_grad():
            torch.testing.assert_close(
                loaded.eval().forward_features(gray),
                target.eval().forward_features(gray.expand(-1, 3, -1, -1)),
                atol=1e-4, rtol=1e-4,
            )  # fmt: skip

    return check


def _timm_entry(name: str):
    from haloformer.models import find_model

    info = find_model(name)
    return info.timm_name, {key: value for key, value in info.kwargs.items() if key != "head_norm"}

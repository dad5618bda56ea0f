"""haloformer: sizes, symmetry, and that it reads both of its channels."""

import pytest
import torch

from haloformer.errors import InputError
from haloformer.models import create_model


@pytest.mark.parametrize(
    ("name", "most"), [("haloformer_nano", 1.5e6), ("haloformer_tiny", 5e6), ("haloformer_small", 20e6)]
)
def test_sizes_are_what_their_names_promise(name, most):
    model = create_model(name, 96, in_chans=2)
    assert most / 5 < sum(p.numel() for p in model.parameters()) <= most
    assert model(torch.zeros(2, 2, 96, 96)).shape == (2, 3)


@pytest.mark.parametrize("size", [64, 96, 100, 150, (45, 51)])
def test_any_size_and_either_number_of_channels(size):
    height, width = size if isinstance(size, tuple) else (size, size)
    for channels in (1, 2):
        model = create_model("haloformer_nano", size, in_chans=channels).eval()
        assert model(torch.randn(2, channels, height, width)).isfinite().all()


def test_d4_is_exact_for_any_weights_and_absent_without():
    torch.manual_seed(0)
    images = torch.randn(3, 2, 64, 64, dtype=torch.float64)
    turned = torch.rot90(images, 1, (-2, -1)).flip(-1)
    torch.manual_seed(1)
    plain = create_model("haloformer_nano", 64, in_chans=2, head_norm="none").double().eval()
    invariant = create_model("haloformer_nano", 64, in_chans=2, head_norm="none", d4=True).double().eval()
    invariant.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.allclose(invariant(images), invariant(turned), atol=1e-12)
        assert not torch.allclose(plain(images), plain(turned), atol=1e-6)
    # A rectangle is padded to a square, as quarter turns need one.
    assert create_model("haloformer_nano", (64, 48), in_chans=2, d4=True).eval()(torch.zeros(2, 2, 64, 48)).shape == (
        2,
        3,
    )


def test_both_channels_and_every_weight_matter():
    torch.manual_seed(0)
    model = create_model("haloformer_nano", 64, in_chans=2).train()
    images = torch.randn(4, 2, 64, 64, requires_grad=True)
    model(images).square().sum().backward()
    assert all(images.grad[:, c].abs().sum() > 0 for c in (0, 1))
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert not unused


def test_unfitting_numbers_are_refused():
    with pytest.raises(InputError, match="same length"):
        create_model("haloformer_nano", 64, stem_channels=(8, 8, 8))
    with pytest.raises(InputError, match="does not divide"):
        create_model("haloformer_nano", 64, num_heads=5)

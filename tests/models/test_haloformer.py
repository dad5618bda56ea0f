"""haloformer: sizes, symmetry, and that it reads both of its channels."""

import pytest
import torch

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.equivariant import GROUPS
from haloformer.models.haloformer import HalvedLifting


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("haloformer_nano", 0.3e6, 1.5e6),
        ("haloformer_c8_nano", 0.2e6, 1.5e6),  # each parameter is used in eight orientations
        ("haloformer_tiny", 1e6, 5e6),
        ("haloformer_small", 4e6, 20e6),
    ],
)
def test_sizes_are_what_their_names_promise(name, least, most):
    model = create_model(name, 96, in_chans=2)
    assert least < sum(p.numel() for p in model.parameters()) <= most
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
    invariant = (
        create_model("haloformer_nano", 64, in_chans=2, head_norm="none", d4=True).double().eval()
    )
    invariant.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.allclose(invariant(images), invariant(turned), atol=1e-12)
        assert not torch.allclose(plain(images), plain(turned), atol=1e-6)
    # A rectangle is padded to a square, as quarter turns need one.
    assert create_model("haloformer_nano", (64, 48), in_chans=2, d4=True).eval()(
        torch.zeros(2, 2, 64, 48)
    ).shape == (
        2,
        3,
    )


@pytest.mark.parametrize("symmetry", ["c4", "c8", "d4", "d8"])
@pytest.mark.parametrize("size", [64, 100, 150])
def test_a_stem_of_group_convolutions_is_exactly_invariant(symmetry, size):
    torch.manual_seed(0)
    model = create_model("haloformer_nano", size, in_chans=2, symmetry=symmetry).double().eval()
    torch.nn.init.normal_(model.pos_embed)
    images = torch.randn(1, 2, size, size, dtype=torch.float64)
    with torch.no_grad():
        logits = model(images)
        assert logits.std() > 1e-3
        for k in (1, 2, 3):
            assert torch.allclose(model(torch.rot90(images, k, (-2, -1))), logits, atol=1e-10)
        mirrored = model(images.flip(-1))
        assert torch.allclose(mirrored, logits, atol=1e-10) == symmetry.startswith("d")
        assert not torch.allclose(model(images.roll(size // 4, -1)), logits, atol=1e-6)


def test_halved_lifting_is_a_lifting_convolution_and_a_halving():
    torch.manual_seed(0)
    layer = HalvedLifting(2, 3, GROUPS["c8"]).double().eval()
    for height, width in ((32, 32), (33, 33), (31, 40)):
        images = torch.randn(2, 2, height, width, dtype=torch.float64)
        inside = (
            ...,
            slice(3, -3),
            slice(3, -3),
        )  # at the edge the blur sees what padding leaves out
        with torch.no_grad():
            expected = layer.norm(layer.halve(layer.conv(images))).relu()
            assert torch.allclose(layer(images)[inside], expected[inside], atol=1e-12)
            assert layer(images).shape == expected.shape


@pytest.mark.parametrize("name", ["haloformer_nano", "haloformer_c8_nano"])
def test_both_channels_and_every_weight_matter(name):
    torch.manual_seed(0)
    model = create_model(name, 64, in_chans=2).train()
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
    with pytest.raises(InputError, match="field_strides must be 1 or 2"):
        create_model("haloformer_c8_nano", 64, field_strides=(1, 2, 1, 2))
    with pytest.raises(InputError, match="unknown haloformer: symmetry 'c6'"):
        create_model("haloformer_nano", 64, symmetry="c6")
    with pytest.raises(InputError, match="neither reg_tokens nor"):
        create_model("haloformer_c8_nano", 64, reg_tokens=2)

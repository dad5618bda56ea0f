"""Equivariant networks: a turned or mirrored image has turned features and the same logits."""

import math

import pytest
import torch

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.equivariant import (
    GROUPS,
    Downsample,
    EquivariantCNN,
    FieldNorm,
    Group,
    GroupConv2d,
    filter_basis,
)

NANO = [f"equivariant_{group}_nano" for group in GROUPS]


def quarter_turns(group: Group) -> list[int]:
    """The elements that send pixels to pixels, but for the identity."""
    return [g for g in range(1, group.order) if 4 * (g % group.rotations) % group.rotations == 0]


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_every_group_is_one(group):
    elements = torch.arange(group.order).numpy()
    table = group.compose(elements[:, None], elements[None, :])
    for line in (*table, *table.T):
        assert sorted(line) == list(elements), (
            "each row and column of the composition table has every element once"
        )
    assert (group.compose(0, elements) == elements).all()
    assert (group.compose(group.inverse(elements), elements) == 0).all()
    triples = torch.cartesian_prod(*3 * [torch.arange(group.order)]).T.numpy()
    left = group.compose(group.compose(triples[0], triples[1]), triples[2])
    assert (left == group.compose(triples[0], group.compose(triples[1], triples[2]))).all()


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_composing_elements_is_composing_what_they_do_to_an_image(group):
    image = torch.randn(1, 4, 6)
    for g in (0, *quarter_turns(group)):
        for h in (0, *quarter_turns(group)):
            both = group.on_pixels(group.on_pixels(image, h), g)
            assert torch.equal(both, group.on_pixels(image, int(group.compose(g, h))))


def test_a_turn_by_45_degrees_does_not_send_pixels_to_pixels():
    with pytest.raises(InputError, match="45°"):
        GROUPS["c8"].on_pixels(torch.zeros(3, 3), 1)


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("size", [64, 65, 150, (45, 51), (33, 64)], ids=str)
def test_turning_the_image_turns_the_features_and_leaves_the_logits(name, size):
    torch.manual_seed(0)
    model = create_model(name, size).eval()
    assert isinstance(model, EquivariantCNN), "no size is padded"
    image = torch.randn(1, 1, *((size, size) if isinstance(size, int) else size))
    # Two elements generate the quarter turns and reflections; together with their product they are enough.
    quarter = model.group.rotations // 4
    elements = [
        quarter,
        *(
            [model.group.rotations, model.group.rotations + quarter]
            if model.group.reflections
            else []
        ),
    ]
    with torch.no_grad():
        features, logits = model.forward_features(image), model(image)
        for g in elements:
            turned = model.group.on_pixels(image, g)
            expected = model.group.on_fields(features, g)
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                model.forward_features(turned), expected, atol=1e-5 * scale, rtol=0
            )
            torch.testing.assert_close(model(turned), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NANO)
def test_equivariance_is_exact_and_not_only_to_float32(name, fill):
    model = fill(create_model(name, (31, 40)))
    image = torch.randn(
        1, 1, 31, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        features, logits = model.forward_features(image), model(image)
        for g in quarter_turns(model.group):
            turned = model.group.on_pixels(image, g)
            expected = model.group.on_fields(features, g)
            torch.testing.assert_close(
                model.forward_features(turned), expected, atol=1e-10, rtol=1e-10
            )
            torch.testing.assert_close(model(turned), logits, atol=1e-10, rtol=1e-10)


def test_an_ordinary_filter_would_not_pass():
    torch.manual_seed(0)
    model = create_model("equivariant_d4_nano", 32).eval()
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        model.blocks[0].conv.basis[3, 0, 0, 0] += 1.0  # one orientation of one basis filter
        assert (model(image.rot90(1, (2, 3))) - model(image)).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["equivariant_d4_nano", "equivariant_c8_nano"])
def test_training_keeps_the_symmetry(name):
    torch.manual_seed(0)
    model = create_model(name, 33).train()
    images = torch.randn(4, 1, 33, 33)
    turned = images.rot90(1, (2, 3))
    gradients = []
    for batch in (images, turned):
        model.zero_grad()
        model(batch).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(one.abs().max()) + 1e-7, rtol=0)


def smooth_images(size: int, degrees: float, mirror: bool = False) -> torch.Tensor:
    """Eight images, each of six wide Gaussians within a soft disc, turned as formulas and not as pixels."""
    generator = torch.Generator().manual_seed(0)
    radius, turn, width, flux = torch.rand(4, 8, 6, 1, 1, generator=generator)
    pixels = (torch.arange(size) - (size - 1) / 2) / (size / 2)
    x, y = pixels[None, :], -pixels[:, None]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    u, v = cosine * x + sine * y, cosine * y - sine * x
    u = -u if mirror else u
    radius, turn, width = 0.5 * radius.sqrt(), 2 * math.pi * turn, 0.08 + 0.08 * width
    distance = (u - radius * turn.cos()) ** 2 + (v - radius * turn.sin()) ** 2
    blobs = ((2 * flux - 1) * torch.exp(-distance / (2 * width**2))).sum(1, keepdim=True)
    return blobs * torch.sigmoid((0.75 - torch.hypot(x, y)) / 0.05)


@pytest.mark.parametrize("name", ["equivariant_c8_nano", "equivariant_d8_nano"])
def test_a_turn_by_45_degrees_changes_the_features_by_less_than_a_tenth_of_what_another_image_does(
    name,
):
    torch.manual_seed(0)
    model = create_model(name, 65)
    model.reset_classifier(0)
    for norm in model.modules():
        if isinstance(norm, FieldNorm):
            norm.momentum = None
    with torch.no_grad():
        upright = smooth_images(65, 0)
        model.train()(upright)
        before = model.eval()(upright)
        distances = torch.cdist(before, before)
        unit = distances.square().sum().div(8 * 7).sqrt()
        for degrees, mirror in (
            (45, False),
            (135, False),
            *([(45, True)] if model.group.reflections else []),
        ):
            change = model(smooth_images(65, degrees, mirror)) - before
            assert change.square().sum(1).mean().sqrt() < 0.1 * unit


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_basis_filters_are_the_upright_ones_turned(group, kernel_size):
    table = filter_basis(group, kernel_size, "rings")
    assert table.shape == (
        group.order,
        {1: 1, 3: 6, 5: 11, 7: 18}[kernel_size],
        kernel_size,
        kernel_size,
    )
    torch.testing.assert_close(table[0].square().sum((1, 2)), torch.ones(table.shape[1]))
    for g in quarter_turns(group):
        torch.testing.assert_close(table[g], group.on_pixels(table[0], g), atol=1e-7, rtol=0)
    assert torch.linalg.matrix_rank(table[0].flatten(1)) == table.shape[1]


def test_a_basis_filter_turns_by_mixing_with_its_partner_of_the_same_frequency():
    # cos(m(φ − 45°)) = cos(45° m) cos mφ + sin(45° m) sin mφ: on a ring the turned filters add nothing new.
    table = filter_basis(GROUPS["c8"], 7, "rings").double().flatten(2)
    for turned in table:
        residual = turned - turned @ torch.linalg.pinv(table[0]) @ table[0]
        assert residual.abs().max() < 1e-6


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_weights_are_tied_as_the_group_says(group):
    basis = "rings" if group.rotations == 8 else "pixels"
    conv = GroupConv2d(2, 3, group, 3, basis)
    filters = (
        conv.filters().detach().unflatten(0, (group.order, 3)).unflatten(2, (group.order, 2))
    )  # (g, o, h, i, …)
    for a in quarter_turns(group):
        for g, h in ((0, 0), (1, 2), (group.order - 1, 3)):
            moved = filters[int(group.compose(a, g)), :, int(group.compose(a, h))]
            torch.testing.assert_close(moved, group.on_pixels(filters[g, :, h], a))


def test_parameters_are_one_filter_per_pair_of_fields_and_element():
    for group, basis, size in (
        (GROUPS["c4"], "pixels", 9),
        (GROUPS["d4"], "rings", 6),
        (GROUPS["d8"], "rings", 6),
    ):
        assert GroupConv2d(5, 7, group, 3, basis).weight.numel() == 5 * 7 * group.order * size
        assert GroupConv2d(3, 7, group, 3, basis, lifting=True).weight.numel() == 3 * 7 * size
        assert sum(p.numel() for p in FieldNorm(7).parameters()) == 2 * 7


@pytest.mark.parametrize("sides", [(8, 8), (9, 9), (7, 10), (1, 2)])
def test_halving_is_symmetric_and_sees_every_pixel(sides):
    halve = Downsample(1.0)
    maps = torch.randn(1, 2, *sides, requires_grad=True)
    out = halve(maps)
    assert out.shape[-2:] == (-(-sides[0] // 2), -(-sides[1] // 2))
    torch.testing.assert_close(halve(maps.rot90(1, (2, 3))), out.rot90(1, (2, 3)))
    torch.testing.assert_close(halve(maps.flip(3)), out.flip(3))
    out.sum().backward()
    assert (maps.grad > 0).all()


def test_no_pixel_is_ignored():
    model = create_model("equivariant_c8_nano", (45, 51)).eval()
    image = torch.randn(1, 1, 45, 51, requires_grad=True)
    model.forward_features(image).square().sum().backward()
    assert (image.grad != 0).all()


def _official_state_dict(model: EquivariantCNN) -> dict[str, torch.Tensor]:
    """What a steerable network with the model's weights would save in evaluation mode: fields' maps side by side."""
    order = model.group.order
    state = {}
    for number, block in enumerate((model.stem, *model.blocks), start=1):
        first = 1 if number == 1 else 0  # a mask precedes the first convolution
        filters = (
            block.conv.filters().detach().unflatten(0, (order, -1)).transpose(0, 1).flatten(0, 1)
        )
        if number > 1:
            filters = filters.unflatten(1, (order, -1)).transpose(1, 2).flatten(1, 2)
        state[f"block{number}.{first}.filter"] = filters
        state[f"block{number}.{first}.weights"] = torch.zeros(3)
        state[f"block{number}.{first + 1}.indices_{order}"] = torch.zeros(3)
        for key, value in block.norm.state_dict().items():
            state[f"block{number}.{first + 1}.batch_norm_[{order}].{key}"] = value
    for ours, theirs in (
        ("hidden.0", "fully_net.0"),
        ("hidden.1", "fully_net.1"),
        ("head", "fully_net.3"),
    ):
        for key, value in model.get_submodule(ours).state_dict().items():
            state[f"{theirs}.{key}"] = value
    return state


SMALL = {"stem_fields": 2, "fields": (3, 2), "strides": (1, 2), "head_hidden": 4}


@pytest.mark.parametrize("group", GROUPS)
def test_weights_of_steerable_networks_are_converted(group):
    torch.manual_seed(0)
    name = f"equivariant_{group}_deeplense_129"
    source, target = (create_model(name, 21, **SMALL).eval() for _ in range(2))
    target.load_state_dict(convert_state_dict(_official_state_dict(source), target))
    image = torch.randn(1, 1, 21, 21)
    with torch.no_grad():
        torch.testing.assert_close(target(image), source(image))
    own = source.state_dict()
    assert convert_state_dict(own, target) is own


def test_weights_that_cannot_be_converted_are_refused():
    model = create_model("equivariant_c8_deeplense_129", 21, **SMALL)
    state = _official_state_dict(model)
    with pytest.raises(InputError, match="training mode"):
        convert_state_dict(
            {key: value for key, value in state.items() if not key.endswith("filter")}, model
        )
    with pytest.raises(InputError, match=r"block2\.0\.filter"):
        convert_state_dict(
            state | {"block2.0.filter": torch.randn_like(state["block2.0.filter"])}, model
        )


def test_networks_of_the_published_layout_have_the_parameters_that_escnn_counts():
    # escnn 1.0.11, three channels, 1000 classes: see benchmarks/official/equivariant.py.
    counts = {"c4": 1_101_992, "c8": 2_132_648, "d4": 2_132_648, "d8": 4_193_960}
    for group, count in counts.items():
        with torch.device("meta"):
            model = EquivariantCNN(group=group)
        assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("size", ["nano", "tiny"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.usefixtures("uninitialised")
def test_sizes_are_what_their_names_promise(group, size):
    model = create_model(f"equivariant_{group}_{size}", 64)
    low, high = {"nano": (0, 1.5e6), "tiny": (4e6, 7e6)}[size]
    assert low < sum(p.numel() for p in model.parameters()) <= high


@pytest.mark.parametrize("name", NANO)
def test_protocol(name, check_protocol):
    check_protocol(name, 32)


GOLDEN = {
    ("equivariant_c4_nano", 64): [-0.219374167, -0.0465616948, -0.222503353],
    ("equivariant_c4_nano", (45, 51)): [-0.218432015, -0.048411481, -0.220745258],
    ("equivariant_d4_nano", 64): [-0.146015127, -0.142758303, -0.227629717],
    ("equivariant_d4_nano", (45, 51)): [-0.156932354, -0.142168718, -0.220311882],
    ("equivariant_c8_nano", 64): [-0.6053577, -0.0337081547, 0.509019907],
    ("equivariant_c8_nano", (45, 51)): [-0.608377219, -0.0453817288, 0.419375237],
    ("equivariant_d8_nano", 64): [-0.233934111, -0.0940520976, -0.220397119],
    ("equivariant_d8_nano", (45, 51)): [-0.229429122, -0.0971742256, -0.223555286],
}


@pytest.mark.parametrize(("name", "size"), GOLDEN, ids=str)
def test_logits_stay_what_they_were(name, size, golden):
    assert golden(name, size) == pytest.approx(GOLDEN[name, size], rel=1e-6)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="group must be one of"):
        EquivariantCNN(group="c6")
    with pytest.raises(InputError, match="use 'rings'"):
        EquivariantCNN(group="c8", basis="pixels")
    with pytest.raises(InputError, match="one stride"):
        EquivariantCNN(fields=(8, 8), strides=(2,))
    with pytest.raises(InputError, match="odd"):
        EquivariantCNN(kernel_size=4)

"""Noise by arithmetic alone, as a GPU draws it."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from haloformer.errors import InputWarning
from haloformer.simulation import fused_noise
from haloformer.simulation.fused_noise import (
    fused,
    noisy_pixels,
    normal_of,
    normal_pixels,
    philox_words,
    poisson_of,
    uniform_of,
)
from haloformer.simulation.rng import philox4x32

GRID = (torch.arange(2**20, dtype=torch.float64) + 0.5) / 2**20


def test_words_are_those_of_the_generator_of_all_other_draws():
    pixel, low, high = torch.tensor([[0, 5, 2**20]]), torch.tensor([[7], [2**32 - 1]]), 3
    words = philox_words(pixel, low, torch.full_like(low, high), 9)
    for row, key in enumerate(low[:, 0].tolist()):
        counter = (pixel[0].numpy().astype(np.uint64), np.uint64(9), np.uint64(0), np.uint64(0))
        for ours, theirs in zip(words, philox4x32(counter, (key, high)), strict=True):
            np.testing.assert_array_equal(ours[row].numpy(), theirs.astype(np.int64))


def test_normal_numbers_are_the_inverse_of_their_distribution():
    ends = uniform_of(torch.tensor([0, 2**32 - 1]))
    for uniform in (GRID, ends):
        wanted = special.ndtri(uniform.numpy())
        np.testing.assert_allclose(normal_of(uniform).numpy(), wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("mean", "tolerance"),
    [
        (1e-4, 2e-6),
        (0.7, 2e-6),
        (9.99, 2e-6),
        (10.0, 2e-5),
        (20.0, 4e-6),
        (300.0, 2e-6),
        (4e4, 2e-6),
    ],
)
def test_poisson_numbers_are_the_inverse_of_their_distribution(mean, tolerance):
    counts = poisson_of(torch.full_like(GRID, mean), GRID).numpy()
    assert (np.diff(counts) >= 0).all()
    values, numbers = np.unique(counts, return_counts=True)
    reached = np.cumsum(numbers) / len(GRID)
    assert np.abs(reached - stats.poisson.cdf(values, mean)).max() < tolerance


def test_poisson_numbers_of_no_mean_are_0_and_tails_end():
    uniform = torch.tensor([1e-12, 0.5, 1 - 1e-12], dtype=torch.float64)
    for mean in (0.0, -3.0, float("nan")):
        assert poisson_of(torch.full_like(uniform, mean), uniform).eq(0).all()
    for mean in (9.999, 10.0):
        low, middle, high = poisson_of(torch.full_like(uniform, mean), uniform).tolist()
        assert (low, middle) == (0, 10)
        assert 30 <= high <= 40


def pixels(n=3, side=100):
    words = torch.arange(n)[:, None] + 1
    images = torch.linspace(0, 0.02, side**2).expand(n, -1)
    return (images, torch.arange(side**2)[None], words, 5 * words, torch.full((n, 1), 2000.0))


@pytest.mark.parametrize("twice", [True, False])
def test_noise_has_its_mean_and_variance_and_no_neighbour_knows_of_it(twice):
    images, *others = pixels(n=60)
    rms = torch.tensor(0.001, dtype=torch.float64)
    noisy = noisy_pixels(images, *others, rms, twice)
    assert noisy.dtype == images.dtype
    counts = 2000 * images[0].double()
    part = counts > 20  # above, no background makes a mean negative
    found = noisy.double() * (1 if twice else 2000)
    variance = (2 if twice else 1) * counts + 4
    pulls = ((found - counts) / torch.sqrt(variance))[:, part]
    assert abs(pulls.mean().item()) < 5 / pulls.numel() ** 0.5
    assert pulls.var().item() == pytest.approx(1, abs=5 * (2 / pulls.numel()) ** 0.5)
    assert abs((pulls[:, 1:] * pulls[:, :-1]).mean().item()) < 5 / pulls.numel() ** 0.5
    assert abs((pulls[1:] * pulls[:-1]).mean().item()) < 5 / pulls.numel() ** 0.5


def test_the_background_and_both_poisson_draws_are_independent():
    _, pixel, low, high, _ = pixels()
    words = philox_words(pixel, low, high, 0)
    normals = torch.stack([normal_of(uniform_of(word)).flatten() for word in words])
    apart = torch.corrcoef(normals) - torch.eye(4, dtype=torch.float64)
    assert apart.abs().max() < 5 / normals.shape[1] ** 0.5
    assert not torch.equal(normal_pixels(pixel, low, high, 1), normal_pixels(pixel, low, high, 2))


def test_an_image_has_the_same_noise_in_any_batch():
    images, pixel, *others = pixels()
    rms = torch.tensor(0.001, dtype=torch.float64)
    whole = noisy_pixels(images, pixel, *others, rms, True)
    part = noisy_pixels(images[1:2], pixel, *(each[1:2] for each in others), rms, True)
    assert torch.equal(whole[1:2], part)


def test_it_is_one_graph_without_a_break():
    compiled = torch.compile(noisy_pixels, backend="eager", fullgraph=True, dynamic=True)
    for n, side in ((3, 10), (2, 11)):
        arguments = (*pixels(n, side), torch.tensor(0.001, dtype=torch.float64), True)
        assert torch.equal(compiled(*arguments), noisy_pixels(*arguments))


def test_where_nothing_can_be_compiled_it_is_said_once_and_noise_drawn_nevertheless(monkeypatch):
    def failing(function, **options):
        def call(*arguments):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    kernel = fused.__wrapped__(normal_pixels)
    _, pixel, low, high, _ = pixels()
    with pytest.warns(InputWarning, match="no compiler"):
        first = kernel(pixel, low, high, 0)
    assert torch.equal(first, fused_noise.normal_pixels(pixel, low, high, 0))
    assert torch.equal(first, kernel(pixel, low, high, 0))  # filterwarnings: none is left to say

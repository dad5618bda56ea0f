"""Real galaxies: read from every kind of file, prepared, split for good, and as lenstronomy has them; bad ones are refused."""

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from haloformer.errors import InputError, InputWarning
from haloformer.simulation.components import RealGalaxy
from haloformer.simulation.galaxies import (
    SIDE,
    half_light_radius,
    prepare,
    read_bands,
    read_library,
)

NOISE = 0.02


def stamp(seed=0, side=60, R=6.0, background=0.3, height=5.0):
    """A noisy two-armed galaxy on a background."""
    rng = np.random.default_rng(seed)
    axis = np.arange(side) - (side - 1) / 2
    x, y = np.meshgrid(axis + rng.uniform(-2, 2), axis + rng.uniform(-2, 2))
    r, angle = np.hypot(x, 1.4 * y), np.arctan2(y, x)
    light = height * np.exp(-r / R * 1.68) * (1 + 0.5 * np.cos(2 * angle - 0.4 * r))
    return (light + background + NOISE * rng.normal(size=light.shape)).astype(np.float32)


def npz(path, n=12, **more):
    np.savez(path, images=np.stack([stamp(k) for k in range(n)]), **more)
    return str(path)


@pytest.fixture
def library(tmp_path):
    return npz(tmp_path / "galaxies.npz")


# --- what is drawn and rendered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-7), (torch.float32, 3e-5)])
def test_brightness_is_lenstronomys(light, library, dtype, most):
    galaxy = RealGalaxy(path=library, split="all", interpolation="bilinear")
    drawn = light.drawn(galaxy, 12)
    assert 0 < drawn["flip"].sum() < 12
    assert light.difference(galaxy, drawn, dtype) < most


def test_cubic_interpolation_is_close_to_lenstronomys_linear_one(light, tmp_path):
    np.savez(tmp_path / "large.npz", images=[stamp(k, side=120, R=16) for k in range(12)])
    galaxy = RealGalaxy(path=str(tmp_path / "large.npz"), split="all")
    assert light.difference(galaxy, light.drawn(galaxy, 12)) < 0.03


def test_flux_is_one_and_half_of_it_within_R(light, library):
    galaxy = RealGalaxy(path=library, split="all", R=0.2)
    axis = np.linspace(-1.2, 1.2, 481)
    x, y = np.meshgrid(axis, axis)
    found = light.brightness(galaxy, light.drawn(galaxy, 6), x=x, y=y) * 0.005**2
    assert found.sum((1, 2)) == pytest.approx(np.ones(6), rel=1e-3)
    assert found[:, np.hypot(x, y) < 0.2].sum(1) == pytest.approx(np.full(6, 0.5), abs=0.01)


def test_a_galaxy_is_the_same_in_every_batch(light, library):
    galaxy = RealGalaxy(path=library)
    drawn = light.drawn(galaxy, 9)
    together = light.brightness(galaxy, drawn, torch.float32)
    for some in ([0], [5, 2, 8]):
        alone = {name: values[some] for name, values in drawn.items()}
        assert np.array_equal(light.brightness(galaxy, alone, torch.float32), together[some])


def test_sizes_follow_from_the_distance_where_they_are_physical(light, tmp_path):
    path = npz(tmp_path / "z.npz", redshifts=np.full(12, 0.3), pixel_sizes=np.full(12, 0.03))
    galaxy = RealGalaxy(path=path, split="all", physical=True)
    drawn = light.drawn(galaxy, 4)
    library = galaxy.library
    from astropy.cosmology import FlatLambdaCDM

    distance = FlatLambdaCDM(70, 0.3, Tcmb0=0).angular_diameter_distance
    radius = library.radius[drawn["galaxy"].astype(int)] * 0.03
    assert drawn["R"] == pytest.approx(radius * float(distance(0.3) / distance(1.5)), rel=1e-3)


def test_physical_sizes_without_a_scale_are_refused(light, library):
    with pytest.raises(InputError, match=r"galaxies\.npz\[\d+\] has no pixel scale or no redshift"):
        light.drawn(RealGalaxy(path=library, split="all", physical=True))


def test_redshifts_at_which_no_galaxy_is_are_refused(light, tmp_path):
    path = npz(tmp_path / "z.npz", redshifts=np.full(12, 1500.0), pixel_sizes=np.full(12, 0.03))
    with pytest.raises(InputError, match=r"z\.npz\[\d+\] has a redshift of 1500"):
        light.drawn(RealGalaxy(path=path, split="all", physical=True))


# --- splits -----------------------------------------------------------------------------------------------------------


def test_no_galaxy_is_on_both_sides(light, tmp_path):
    path = npz(tmp_path / "many.npz", 30)
    train, test = (RealGalaxy(path=path, split=split) for split in ("train", "test"))
    drawn = [set(light.drawn(one, 300)["galaxy"]) for one in (train, test)]
    assert not drawn[0] & drawn[1]
    assert len(drawn[0] | drawn[1]) == 30
    assert 1 <= len(drawn[1]) <= 14


def test_the_side_of_a_galaxy_is_that_of_its_pixels_in_whatever_file(tmp_path):
    images = np.stack([stamp(k) for k in range(12)])
    side = read_library(npz(tmp_path / "a.npz")).in_test
    np.savez(tmp_path / "b.npz", images=images[::-1].astype(">f8"))
    assert np.array_equal(read_library(str(tmp_path / "b.npz")).in_test, side[::-1])
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["images"] = images[3:7]
    assert np.array_equal(read_library(str(tmp_path / "c.h5")).in_test, side[3:7])


def test_a_library_that_has_changed_is_read_again(tmp_path):
    path = npz(tmp_path / "a.npz", 3)
    assert len(read_library(path)) == 3
    assert read_library(path) is read_library(path)
    npz(tmp_path / "a.npz", 5)
    assert len(read_library(path)) == 5


def test_a_side_without_galaxies_is_refused(light, tmp_path):
    path = npz(tmp_path / "one.npz", 1)
    side = "train" if read_library(path).in_test[0] else "test"
    with pytest.raises(InputError, match=f"none of the 1 galaxies .*side of {side}"):
        light.drawn(RealGalaxy(path=path, split=side))


# --- each band ---------------------------------------------------------------------------------------------------------


def disc(R=3.0, x=0.0, q=1.0):
    """A galaxy with a little noise, its centre ``x`` pixels aside, ``q`` times as long along y as along x."""
    axis = np.arange(64) - 31.5
    light = np.exp(-np.hypot(axis - x, axis[:, None] / q) / R)
    return (light + 5e-4 * np.random.default_rng(1).normal(size=light.shape)).astype(np.float32)


def cubes(path, *galaxies):
    """Writes galaxies of several bands each."""
    np.savez(path, images=np.moveaxis(np.array(galaxies, np.float32), 1, 3))
    return RealGalaxy(path=str(path), split="all", band="each")


def seen(galaxy, band, number=0):
    """Returns flux, place along x, rms along x, and its ratio to that along y, of what a band shows of a galaxy of R = 0.3″."""
    axis = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)
    x, y = (part[None] for part in torch.meshgrid(axis, axis, indexing="xy"))
    drawn = {"galaxy": number, "R": 0.3, "angle": 0.0, "flip": 0.0}
    own = {name: torch.tensor([value], dtype=torch.float64) for name, value in drawn.items()}
    image = galaxy.in_band(band).brightness(x, y, own) * 0.025**2
    flux = image.sum()
    place = (image * x).sum() / flux
    along, up = (image * (x - place) ** 2).sum() / flux, (image * y**2).sum() / flux
    return tuple(v.item() for v in (flux, place, along.sqrt(), (up / along).sqrt()))


def test_bands_keep_their_sizes_and_places(tmp_path):
    larger = cubes(tmp_path / "larger.npz", [disc(2), disc(4)])
    small, large = (seen(larger, band) for band in (0, 1))
    assert large[2] / small[2] > 1.7
    moved = cubes(tmp_path / "moved.npz", [disc(), disc(x=3.2)])
    first, second = (seen(moved, band) for band in (0, 1))
    pixel = 0.3 / moved.library.radius[0]
    assert (second[1] - first[1]) / pixel == pytest.approx(3.2, abs=0.1)
    for flux, *_ in (small, large, first, second):
        assert flux == pytest.approx(1, abs=0.01)


def test_the_centre_of_light_is_where_the_galaxy_is(tmp_path):
    galaxy = cubes(tmp_path / "aside.npz", [disc(x=0.45)])
    assert abs(seen(galaxy, 0)[1]) < 0.02 * 0.3 / galaxy.library.radius[0]


def test_a_galaxy_that_is_bad_in_one_band_is_left_out_of_all(tmp_path):
    lengths = (1.0, 0.5, 1.0, 2.0)
    galaxies = [[disc(q=q), disc(q=q)] for q in lengths]
    galaxies[0][1] = np.full((64, 64), np.nan)
    galaxy = cubes(tmp_path / "bad.npz", *galaxies)
    with pytest.warns(InputWarning, match=r"1 of 4 galaxies .*\[0\], band 1: .*NaN"):
        assert len(galaxy.library) == 3
    for number, q in enumerate(lengths[1:]):
        for band in (0, 1):
            assert seen(galaxy, band, number)[3] == pytest.approx(q, rel=0.15)
    with pytest.raises(InputError, match="no band 2; there are 0 to 1"):
        seen(galaxy, 2)


def test_one_band_is_what_it_is_without_the_others(tmp_path):
    pixels = stamp(1)
    np.savez(tmp_path / "one.npz", images=pixels[None])
    cubes(tmp_path / "same.npz", [pixels])
    alone = read_library(str(tmp_path / "one.npz"))
    for name in ("one.npz", "same.npz"):
        (band,) = read_bands(str(tmp_path / name))
        assert np.array_equal(band.images, alone.images)
        assert np.array_equal(band.radius, alone.radius)
        assert np.array_equal(band.in_test, alone.in_test)
    np.savez(tmp_path / "twice.npz", images=np.stack([pixels, pixels], 2)[None])
    assert len(read_bands(str(tmp_path / "twice.npz"))) == 2


# --- preparing --------------------------------------------------------------------------------------------------------


def test_background_noise_and_neighbours_are_gone():
    pixels = stamp(side=80)
    pixels[5:12, 5:12] += 3  # a neighbour
    prepared = prepare(pixels, "a stamp")
    image = prepared.image
    assert image.sum() == pytest.approx(1, abs=1e-5)
    assert image.min() == 0
    y, x = np.indices(image.shape) - (SIDE - 1) / 2
    assert np.abs([(image * x).sum(), (image * y).sum()]).max() < 0.6
    assert image[np.hypot(x, y) > 34].sum() == 0
    clean = prepare(stamp(side=80), "a stamp").image
    assert np.abs(image - clean).sum() < 0.02


@settings(max_examples=40, deadline=None)
@given(
    arrays(
        st.sampled_from([np.float32, np.int16]),
        array_shapes(min_dims=2, max_dims=2, min_side=6, max_side=20),
    )
)
def test_whatever_is_taken_for_a_galaxy_is_one(pixels):
    try:
        image = prepare(pixels, "a stamp").image
    except InputError:
        return
    assert image.shape == (SIDE, SIDE)
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.sum() == pytest.approx(1, abs=1e-5)
    assert 0 < half_light_radius(image) < SIDE


def test_large_galaxies_are_shrunk_with_their_light():
    small, large = (prepare(stamp(side=40 * k, R=4.0 * k), "a stamp") for k in (2, 8))
    assert small.step == 1
    assert large.step > 1.5
    sizes = [half_light_radius(one.image) * one.step / k for one, k in ((small, 2), (large, 8))]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_half_light_radius_is_that_of_a_gaussian():
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    for sigma in (2.0, 12.0):
        image = np.exp(-(axis**2 + axis[:, None] ** 2) / (2 * sigma**2))
        assert half_light_radius(image) == pytest.approx(1.1774 * sigma, rel=0.02)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_fits_files_is_a_library(tmp_path):
    for k in range(2):
        hdus = [fits.PrimaryHDU(stamp(2 * k)), fits.ImageHDU(stamp(2 * k + 1, side=50))]
        hdus[1].header["PIXSCALE"], hdus[1].header["REDSHIFT"] = 0.05, 0.4
        fits.HDUList(hdus).writeto(tmp_path / f"galaxies_{k}.fits")
    fits.PrimaryHDU(np.ones((9, 9), np.float32)).writeto(tmp_path / "galaxies_PSF_images.fits")
    (tmp_path / "readme.txt").write_text("no galaxy")
    library = read_library(str(tmp_path))
    assert [name.rpartition("_")[2] for name in library.names] == [
        "0.fits[0]",
        "0.fits[1]",
        "1.fits[0]",
        "1.fits[1]",
    ]
    assert library.arcsec[1] == pytest.approx(library.radius[1] * 0.05)
    assert np.isnan(library.arcsec[0])
    assert library.redshift[1] == 0.4


def test_a_class_is_refused_where_files_say_none(tmp_path):
    np.savez(tmp_path / "g.npz", images=np.stack([stamp(k) for k in range(3)]))
    fits.PrimaryHDU(stamp(0)).writeto(tmp_path / "g.fits")
    for path in (tmp_path, tmp_path / "g.npz", tmp_path / "g.fits"):
        with pytest.raises(InputError, match="says no classes"):
            read_library(str(path), galaxy_class=6)


def test_galaxy10_is_a_library(tmp_path):
    colours = np.stack([stamp(k, side=64, background=0.2, height=0.6) for k in range(6)])
    pixels = (255 * colours.clip(0, 1)).astype(np.uint8)
    with h5py.File(tmp_path / "Galaxy10.h5", "w") as file:
        file["images"] = np.stack([pixels, pixels, pixels // 2], axis=3)
        file["ans"] = np.array([6, 1, 6, 6, 2, 6], np.uint8)
        file["redshift"] = np.array([0.01, 0.01, 0.03, 0.015, 0.01, np.nan])
    path = str(tmp_path / "Galaxy10.h5")
    assert len(read_library(path)) == 6
    chosen = read_library(path, galaxy_class=6, z_max=0.02, band=2)
    assert [name.rpartition("[")[2] for name in chosen.names] == ["0]", "3]"]
    with pytest.raises(InputError, match="no band 3"):
        read_library(path, band=3)
    with pytest.raises(InputError, match="no galaxies that are wanted"):
        read_library(path, galaxy_class=9)
    with pytest.warns(InputWarning, match="the first 2 are used"):
        assert len(read_library(path, most=2)) == 2


def spoiled(kind):
    pixels = stamp(3)
    if kind == "nan":
        pixels[10, 10] = np.nan
    elif kind == "constant":
        pixels[:] = 7
    else:
        pixels = (NOISE * np.random.default_rng(1).normal(size=pixels.shape)).astype(np.float32)
        if kind == "one pixel":
            pixels[30, 30] = 1.0
    return pixels


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nan", "NaN"),
        ("constant", "is constant"),
        ("empty", "no galaxy stands out"),
        ("one pixel", "one pixel"),
    ],
)
def test_bad_galaxies_are_refused_by_file_and_number(tmp_path, kind, said):
    images = np.stack([stamp(0), stamp(1), spoiled(kind), spoiled(kind), spoiled(kind)])
    np.savez(tmp_path / "g.npz", images=images)
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["images"] = images
    hdus = [fits.PrimaryHDU(images[0]), *map(fits.ImageHDU, images[1:])]
    fits.HDUList(hdus).writeto(tmp_path / "g.fits")
    for name in ("g.npz", "g.h5", "g.fits"):
        with pytest.raises(InputError, match=said) as refused:
            read_library(str(tmp_path / name))
        assert f"{name}[2]" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_stamps_of_one_pixel_and_files_that_are_none_are_refused(tmp_path):
    fits.PrimaryHDU(np.ones((1, 1), np.float32)).writeto(tmp_path / "pixel.fits")
    (tmp_path / "evil.npz").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    np.savez(tmp_path / "objects.npz", images=np.array([print, len, set]))
    with h5py.File(tmp_path / "away.h5", "w") as file:
        file["images"] = h5py.ExternalLink("elsewhere.h5", "images")
    (tmp_path / "empty").mkdir()
    for name in ("pixel.fits", "evil.npz", "cut.h5", "objects.npz", "away.h5", "empty", "none.npz"):
        with pytest.raises(InputError, match=name):
            read_library(str(tmp_path / name))


def test_bands_of_fits_cubes_are_read_and_those_that_are_not_there_refused(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    y, x = np.mgrid[:40, :40] - 20.0
    one = np.exp(-np.hypot(x, y) / 3).astype(np.float32)
    other = np.exp(-np.hypot(x, y / 0.4) / 3).astype(np.float32)
    fits.writeto(tmp_path / "cube.fits", np.stack([one, other, one]))
    fits.writeto(tmp_path / "one.fits", one)
    fits.writeto(tmp_path / "other.fits", other)
    fits.writeto(tmp_path / "mean.fits", ((one.astype(float) + other + one) / 3).astype(np.float32))
    for band, same in ((0, "one"), (1, "other"), (None, "mean")):
        found = read_library(str(tmp_path / "cube.fits"), band=band).images
        wanted = read_library(str(tmp_path / f"{same}.fits")).images
        assert found == pytest.approx(wanted, abs=1e-7)
    for name, said in (("cube", "no band 3; there are 0 to 2"), ("one", "no band 3; there is one")):
        with pytest.raises(InputError, match=said):
            read_library(str(tmp_path / f"{name}.fits"), band=3)


def test_galaxies_that_cannot_be_used_are_left_out_and_told_unless_they_are_most(tmp_path):
    good = [stamp(k) for k in range(3)]
    np.savez(tmp_path / "some.npz", images=np.stack([*good, spoiled("nan"), spoiled("constant")]))
    with pytest.warns(InputWarning, match=r"2 of 5 galaxies .*left out, such as .*\[3\].*NaN"):
        library = read_library(str(tmp_path / "some.npz"))
    assert [name.rpartition("[")[2] for name in library.names] == ["0]", "1]", "2]"]
    with pytest.raises(InputError, match=r"\[3\].* NaN"):  # chosen by its number
        read_library(str(tmp_path / "some.npz"), which=(0, 1, 3))
    np.savez(tmp_path / "most.npz", images=np.stack([good[0], spoiled("nan"), spoiled("nan")]))
    with pytest.raises(InputError, match="2 of 3 galaxies"):
        read_library(str(tmp_path / "most.npz"))

from pathlib import Path

import numpy as np
import pytest

from haloformer.data.dataset_writer import write_dataset
from haloformer.simulation import simulate


@pytest.fixture(scope="session")
def original_run(tmp_path_factory, write_untrained_run) -> Path:
    """A run folder with the artefact of a small untrained transformer; not to be changed."""
    normalization = {"kind": "standard", "statistics": {"mean": [0.2], "std": [0.5]}}
    return write_untrained_run(tmp_path_factory.mktemp("runs") / "x", 2, normalization, "original")


@pytest.fixture
def run(original_run, tmp_path) -> Path:
    """A copy of the run folder that a test may spoil."""
    import shutil

    return shutil.copytree(original_run, tmp_path / "run")


@pytest.fixture(scope="session")
def lenses():
    return simulate("model_ii", 12, seed=5)


@pytest.fixture
def folder(lenses, tmp_path) -> Path:
    """A folder of images as users have them."""
    path = tmp_path / "images"
    path.mkdir()
    for i, image in enumerate(lenses.images.numpy()):
        np.save(path / f"lens_{i:02d}.npy", image[0])
    return path


@pytest.fixture
def dataset(lenses, tmp_path) -> Path:
    path = tmp_path / "test.h5"
    write_dataset(
        path, lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes
    )
    return path


@pytest.fixture(scope="session")
def bombs(tmp_path_factory) -> Path:
    """A folder of files of at most a few 100 kB that unpack to hundreds of MB."""
    import gzip
    import zlib

    import h5py
    from astropy.io import fits
    from PIL import Image

    folder = tmp_path_factory.mktemp("bombs")
    rng = np.random.default_rng(0)
    zeros = gzip.compress(bytes(2**20), 9) * 100  # gzip streams in a row are one file
    (folder / "a.fits.gz").write_bytes(zeros)
    Image.new("L", (10_000, 10_000)).save(folder / "b.png")
    hdu = fits.CompImageHDU(
        rng.random((64, 64)).astype(np.float32),
        compression_type="GZIP_1",
        tile_shape=(64, 64),
        quantize_level=0,
    )
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(folder / "c.fits")
    with fits.open(folder / "c.fits", disable_image_compression=True) as hdus:
        header = hdus[1].header.copy()
        header["PCOUNT"], header["TFORM1"] = len(zeros), f"1PB({len(zeros)})"
    table = np.array([len(zeros), 0], ">i4").tobytes() + zeros
    primary = fits.PrimaryHDU().header.tostring().encode()
    content = primary + header.tostring().encode() + table + bytes(-len(table) % 2880)
    (folder / "c.fits").write_bytes(content)
    (folder / "d.fits.gz").write_bytes(gzip.compress(content))
    packed = zlib.compress(bytes(100 * 2**20), 1)
    for name, bad in (("e.h5", "images"), ("f.h5", "labels")):
        with h5py.File(folder / name, "w") as file:
            file.attrs["class_names"] = ["axion", "cdm"]
            options = {"compression": "gzip"}
            file.create_dataset(
                "images",
                (2, 1, 64, 64),
                "f4",
                rng.random((2, 1, 64, 64)),
                chunks=(1, 1, 64, 64),
                **options,
            )
            file.create_dataset("labels", (2,), "i8", [0, 1], chunks=(2,), **options)
            try:
                file[bad].id.write_direct_chunk((0,) * file[bad].ndim, packed)
            except OSError as error:  # HDF5 before 1.14.3
                pytest.skip(f"this HDF5 does not write such a file: {error}")
    with h5py.File(folder / "g.h5", "w") as file:  # as long as it says
        n, options = 2**23 + 1, {"compression": "gzip", "compression_opts": 1}
        file.create_dataset(
            "images", (n, 1, 1, 1), "f4", np.zeros((n, 1, 1, 1)), chunks=(2**22, 1, 1, 1), **options
        )
        file.create_dataset("labels", (n,), "i8", np.zeros(n), chunks=(2**22,), **options)
    return folder

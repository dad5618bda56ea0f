"""Valid files of every kind that is read, and what an accident, or somebody, may make of them."""

import gzip
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import yaml
from astropy import units
from astropy.io import fits
from astropy.table import QTable
from PIL import Image

_RNG = np.random.default_rng(11)
IMAGE = _RNG.random((24, 24)).astype(np.float32)
_SKY = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 12.5,
    "CRPIX2": 12.5, "CDELT1": -1e-5, "CDELT2": 1e-5, "BUNIT": "counts", "FILTER": "VIS",
}  # fmt: skip
_ODD = (0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1)
_ODD_TEXTS = (b"-1", b"0", b"99999999", b"1e308", b"nan", b"'x'", b"T", b"", b"\xff", b"\0")


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, IMAGE)
    return file.getvalue()


def _pickled() -> bytes:
    pair = np.empty(2, dtype=object)
    pair[0], pair[1] = IMAGE, 1e-23
    file = io.BytesIO()
    np.save(file, pair, allow_pickle=True)
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=IMAGE, b=IMAGE, label=1)
    return file.getvalue()


def _fits(*more: fits.ImageHDU) -> bytes:
    file = io.BytesIO()
    hdus = [fits.PrimaryHDU(IMAGE, fits.Header(_SKY)), *more]
    fits.HDUList(hdus).writeto(file)
    return file.getvalue()


def _fz() -> bytes:
    file = io.BytesIO()
    packed = fits.CompImageHDU(IMAGE, fits.Header(_SKY), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(file)
    return file.getvalue()


def _picture(kind: str) -> bytes:
    file = io.BytesIO()
    options = {"compression": "tiff_deflate"} if kind == "TIFF" else {}
    Image.fromarray((255 * IMAGE).astype("u1")).save(file, kind, **options)
    return file.getvalue()


def _png16() -> bytes:
    file = io.BytesIO()
    Image.fromarray((65535 * IMAGE).astype("u2")).save(file, "PNG")
    return file.getvalue()


def _hdf5() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as dataset:
        dataset.create_dataset("images", data=np.stack([IMAGE[None]] * 3), compression="gzip")
        dataset["labels"] = np.arange(3)
        dataset["parameters/mass"] = np.arange(3.0)
        dataset.attrs["class_names"] = ["axion", "cdm", "no_sub"]
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (
            ("a/1.npy", _npy()),
            ("a/2.fits", _fits()),
            ("b/3.png", _picture("PNG")),
        ):
            archive.writestr(name, data)
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in (("a/1.npy", _npy()), ("a/2.fits", _fits())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _catalog(kind: str) -> bytes:
    table = QTable(
        {"id": [1, 2, 3], "ra": [150.1, 10, 0] * units.deg, "dec": [2, -1, 0] * units.deg}
    )
    with tempfile.TemporaryDirectory() as folder:
        table.write(Path(folder) / "x", format=kind)
        return (Path(folder) / "x").read_bytes()


def _survey() -> bytes:
    from haloformer.simulation import describe_survey, get_survey

    return yaml.safe_dump(describe_survey(get_survey("model_ii")), sort_keys=False).encode()


def _artefact() -> bytes:
    return json.dumps(ARTEFACT, indent=1).encode()


def _weights() -> bytes:
    import torch
    from safetensors.torch import save

    from haloformer.models import create_model

    torch.manual_seed(0)
    model = create_model(ARTEFACT["model"]["name"], img_size=32, **ARTEFACT["model"]["kwargs"])
    return save({key: value.contiguous() for key, value in model.state_dict().items()})


ARTEFACT = {
    "format": 1,
    "model": {
        "name": "vit_nano", "img_size": 32, "in_chans": 1, "num_classes": 3,
        "kwargs": {"depth": 1, "embed_dim": 32, "num_heads": 2},
    },
    "class_names": ["axion", "cdm", "no_sub"],
    "normalization": {"kind": "standard", "statistics": {"mean": [0.2], "std": [0.5]}},
    "image_shape": [1, 32, 32],
    "survey": "model_ii",
    "noise": "original",
    "pixel_scale": 0.101,
    "training": {"data": "model_ii", "seed": 0, "train_seed": 10, "val_seed": 11},
}  # fmt: skip

KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    # kind: (name of the file, which tells what reads it; its valid content)
    "FITS": ("x.fits", _fits),
    "FITS, several extensions": ("x.fits", lambda: _fits(fits.ImageHDU(IMAGE, name="SCI"), fits.ImageHDU(IMAGE, name="ERR"))),
    "FITS, compressed": ("x.fz", _fz),
    "FITS in gzip": ("x.fits.gz", lambda: gzip.compress(_fits())),
    "npy": ("x.npy", _npy),
    "npy of objects": ("x.npy", _pickled),
    "npz": ("x.npz", _npz),
    "PNG": ("x.png", lambda: _picture("PNG")),
    "PNG of 16 bits": ("x.png", _png16),
    "JPEG": ("x.jpg", lambda: _picture("JPEG")),
    "TIFF": ("x.tif", lambda: _picture("TIFF")),
    "HDF5": ("x.h5", _hdf5),
    "zip": ("x.zip", _zip),
    "tar": ("x.tar", _tar),
    "tar in gzip": ("x.tgz", lambda: gzip.compress(_tar())),
    "catalog, CSV": ("x.csv", lambda: _catalog("ascii.csv")),
    "catalog, ECSV": ("x.ecsv", lambda: _catalog("ascii.ecsv")),
    "catalog, VOTable": ("x.xml", lambda: _catalog("votable")),
    "catalog, FITS": ("catalog.fits", lambda: _catalog("fits")),
    "survey, YAML": ("x.yaml", _survey),
    "model, JSON": ("artefact.json", _artefact),
    "model, safetensors": ("weights.safetensors", _weights),
}  # fmt: skip


def prepare(folder: Path, name: str) -> Path:
    """Returns where in a folder a file of this name is to be put; what belongs beside it is there."""
    if name in ("artefact.json", "weights.safetensors"):
        for beside, make in (("artefact.json", _artefact), ("weights.safetensors", _weights)):
            if not (folder / beside).exists():
                (folder / beside).write_bytes(make())
    return folder / name


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file with one kind of damage: flipped bits, a cut, a splice, or edited numbers near its beginning."""
    changed = bytearray(data)
    kind = rng.integers(5)
    if kind == 0:
        for place in rng.integers(0, len(data), rng.integers(1, 9)):
            changed[place] ^= 1 << rng.integers(8)
    elif kind == 1:
        return bytes(changed[: rng.integers(0, len(data))])
    elif kind == 2:
        start, end = sorted(rng.integers(0, len(data), 2))
        at = rng.integers(0, len(data))
        piece = changed[start:end]
        changed[at : at + (0 if rng.integers(2) else len(piece))] = piece
    elif kind == 3:
        _edit_bytes(changed, rng)
    else:
        _edit_text(changed, rng)
    return bytes(changed)


def _edit_bytes(changed: bytearray, rng: np.random.Generator) -> None:
    """Writes numbers that are the limits of their types over some in the first or last half kilobyte."""
    for _ in range(rng.integers(1, 4)):
        width = int(rng.choice([1, 2, 4, 8]))
        place = int(rng.integers(0, min(512, max(1, len(changed) - width))))
        place = place if rng.integers(2) else max(0, len(changed) - width - place)
        value = int(_ODD[rng.integers(len(_ODD))]) % (1 << (8 * width))
        order = "little" if rng.integers(2) else "big"
        changed[place : place + width] = value.to_bytes(width, order)


def _edit_text(changed: bytearray, rng: np.random.Generator) -> None:
    """Writes other texts over numbers that stand as text in the first kilobytes, as in headers."""
    digits = [k for k, byte in enumerate(changed[:4096]) if 48 <= byte <= 57]
    for _ in range(rng.integers(1, 4)):
        if not digits:
            break
        place = digits[rng.integers(len(digits))]
        text = _ODD_TEXTS[rng.integers(len(_ODD_TEXTS))]
        changed[place : place + max(1, len(text))] = text

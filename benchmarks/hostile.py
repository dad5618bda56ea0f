"""Files that were made to harm whoever reads them, and the readers that must refuse them in one line.

`FILES` are made by code: nothing hostile lies in the repository. The tests read each; so does
``python benchmarks/reliability.py hostile``.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from astropy.io import fits
from PIL import Image

MiB = 2**20
IMAGE = np.random.default_rng(0).random((8, 8)).astype(np.float32)

Maker = Callable[[Path], object]


# --- readers ----------------------------------------------------------------------------------------------------------


def read_images_of(path: Path) -> int:
    """Reads a file as every command does; returns how many images there are, raises for the first that is none."""
    from haloformer.data.reader import find_inputs, read_images
    from haloformer.errors import InputError

    n = 0
    for batch in read_images(find_inputs([str(path)], True), None, batch_size=8):
        for item in batch:
            if item.error is not None:
                raise InputError(item.error)
            n += 1
    return n


def read_catalog(path: Path) -> int:
    from haloformer.data.catalogs import read_positions

    return len(read_positions(path).first)


def read_survey(path: Path) -> int:
    from haloformer.simulation import get_survey

    get_survey(str(path))
    return 1


def read_model(path: Path) -> int:
    """Loads the model whose folder holds the file."""
    from haloformer.prediction.predictor import load

    load(str(path.parent), "cpu")
    return 1


def reader_of(name: str) -> Callable[[Path], int]:
    """Returns what reads a file of this name."""
    suffix = Path(name).suffix
    if suffix in (".csv", ".ecsv", ".xml") or name.startswith("catalog"):
        return read_catalog
    if suffix in (".yaml", ".yml"):
        return read_survey
    return read_model if suffix in (".json", ".safetensors") else read_images_of


# --- makers -----------------------------------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npy_header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def objects(pickled: bytes, shape: str = "(2,)") -> bytes:
    return npy_header(shape, "|O") + pickled


def same_row() -> bytes:
    rows = np.empty(5000, dtype=object)
    rows[:] = [IMAGE[0]] * 5000
    return npy(rows)


class Runs:
    """Unpickled freely, it would make a folder."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("unpickled",)


def zipped(path: Path, files: dict[object, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def twice(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            archive.writestr("a.npy", npy(IMAGE))


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("a.npy")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted(path: Path) -> None:
    zipped(path, {"a.npy": npy(IMAGE)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def vast_directory(path: Path) -> None:
    zipped(path, {"a.npy": npy(IMAGE)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\x05\x06") + 12, 2**31)
    path.write_bytes(data)


def claims(path: Path, size: int) -> None:
    """A zip that claims, of its only member, to unpack to so many bytes."""
    zipped(path, {"a.npy": npy(IMAGE)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, size)
    path.write_bytes(data)


def overlapping(path: Path) -> None:
    """A zip whose list names one packed file of 10 MB two hundred times."""
    zipped(path, {"a.npy": bytes(10 * MiB)})
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entries = b"".join(data[start:end].replace(b"a.npy", b"%05d" % k) for k in range(200))
    tail = bytearray(data[end:])
    struct.pack_into("<HHII", tail, 8, 200, 200, len(entries), start)
    path.write_bytes(data[:start] + entries + bytes(tail))


def tarred(path: Path, *members: tarfile.TarInfo | str, data: bytes = npy(IMAGE)) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for item in members:
            member = item if isinstance(item, tarfile.TarInfo) else tarfile.TarInfo(item)
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))


def member(kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    found = tarfile.TarInfo("a.npy")
    found.type, found.linkname = kind, target
    return found


def vast_tar_header(path: Path) -> None:
    header = tarfile.TarInfo("name")
    header.type, header.size = b"x", 2**33
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(MiB)))


def tar_bomb(pack: Callable[[bytes], bytes]) -> Maker:
    """A tar whose members, 1.2 GiB of zeros, take some 10 kB each in the archive."""

    def make(path: Path) -> None:
        size = 60 * MiB
        parts, zeros = [], pack(bytes(size))
        for k in range(21):
            header = tarfile.TarInfo(f"{k}.txt")
            header.size = size
            parts.append(pack(header.tobuf(tarfile.GNU_FORMAT)))
            parts.append(zeros)
        path.write_bytes(b"".join(parts) + pack(bytes(1024)))

    return make


def header(*cards: str, data: bytes = b"") -> bytes:
    text = "".join(card.ljust(80) for card in (*cards, "END"))
    text = text.ljust(-(-len(text) // 2880) * 2880)
    return text.encode() + data + bytes(-len(data) % 2880)


SIMPLE = "SIMPLE  =                    T", "BITPIX  =                  -32"


def image_of(**cards: object) -> Maker:
    """A FITS image with cards of a header."""
    return lambda path: fits.PrimaryHDU(IMAGE, fits.Header(cards)).writeto(path)


def with_sky(**cards: object) -> Maker:
    sky = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 1.0, "CRVAL2": 2.0}
    return image_of(**sky, CRPIX1=4.0, CRPIX2=4.0, CDELT1=-1e-5, CDELT2=1e-5, **cards)


def bad_tile(path: Path) -> None:
    hdu = fits.CompImageHDU(IMAGE, compression_type="GZIP_1", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    data = path.read_bytes()
    for key in ("ZNAXIS1", "ZTILE1", "ZNAXIS2", "ZTILE2"):
        at = data.index(key.ljust(8).encode())
        data = data[: at + 10] + b"               60000" + data[at + 30 :]
    path.write_bytes(data)


def png(
    width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8, kind: int = 0
) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", head), *chunks, (b"IEND", b"")):
        body += struct.pack(">I", len(data)) + name + data
        body += struct.pack(">I", zlib.crc32(name + data))
    return body


def scans(path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((512, 512), "u1")).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    path.write_bytes(data[:-2] + last * 3000 + b"\xff\xd9")


def tiff(*tags: tuple[int, int, int, int], after: int = 0, data: bytes = bytes(64)) -> bytes:
    """A TIFF of one directory of tags (number, type, count, value), and where the next one is."""
    known = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    entries = {number: (number, 4, 1, value) for number, value in known.items()}
    entries |= {tag[0]: tag for tag in tags}
    packed = b"".join(struct.pack("<HHII", *entries[number]) for number in sorted(entries))
    at = 8 + len(data)
    return (
        b"II*\0" + struct.pack("<I", at) + data + struct.pack("<H", len(entries)) + packed
        + struct.pack("<I", after or 0)
    )  # fmt: skip


def tiff_pages(path: Path) -> None:
    page = Image.new("L", (8, 8))
    page.save(path, save_all=True, append_images=[page] * 400)


def hdf5(change: Callable[[h5py.File], object]) -> Maker:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["labels"] = np.zeros(2, int)
            file.attrs["class_names"] = ["cdm"]
            change(file)

    return make


def chunk_bomb(file: h5py.File) -> None:
    shape = (2, 1, 8, 8)
    images = file.create_dataset("images", shape, "f4", chunks=shape, compression="gzip")
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(32 * MiB)) for _ in range(34)) + packer.flush()
    images.id.write_direct_chunk((0, 0, 0, 0), packed)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 1, 8, 8), "f4")
    layout[0] = h5py.VirtualSource("/etc/passwd", "x", (1, 8, 8))
    file.create_virtual_dataset("images", layout)


def outside(file: h5py.File) -> None:
    file.create_dataset("images", (2, 1, 8, 8), "f4", external=[("/etc/passwd", 0, 512)])


def model(**files: bytes) -> Maker:
    """A model's folder, of which some files are others; the maker's path is one of them."""

    def make(path: Path) -> None:
        artefact = {"format": 1, "model": {"name": "vit_nano", "img_size": 64, "in_chans": 1, "num_classes": 3, "kwargs": {}}, "class_names": ["axion", "cdm", "no_sub"], "normalization": {"kind": "image_max"}, "image_shape": [1, 64, 64]}  # fmt: skip
        content = {
            "artefact.json": json.dumps(artefact).encode(),
            "weights.safetensors": b"",
            **files,
        }
        for name, data in content.items():
            (path.parent / name).write_bytes(data)

    return make


def safetensors(head: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(head) if length is None else length) + head + bytes(64)


def overlapping_tensors() -> bytes:
    spec = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}
    return safetensors(json.dumps({"a": spec, "b": spec}).encode())


def write(data: bytes | str) -> Maker:
    return lambda path: path.write_bytes(data.encode() if isinstance(data, str) else data)


def made(data: Callable[[], bytes]) -> Maker:
    return lambda path: path.write_bytes(data())


def open_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        where = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            opened.bind(path.name)
        finally:
            os.chdir(where)


ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 60)
)
ENTITIES = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(97 + k)} "{f"&{chr(96 + k)};" * 10}">' for k in range(1, 10)
)
ROWS = '<VOTABLE><RESOURCE><TABLE nrows="{n}"><FIELD name="ra" datatype="double"/><FIELD name="dec" datatype="double"/><DATA>{data}</DATA></TABLE></RESOURCE></VOTABLE>'  # fmt: skip
EXTENSIONS = header(*SIMPLE, "NAXIS   =                    0") + 1100 * header(
    "XTENSION= 'IMAGE   '", "BITPIX  =                    8", "NAXIS   =                    0",
    "PCOUNT  =                    0", "GCOUNT  =                    1",
)  # fmt: skip

FILES: dict[str, tuple[Maker, str]] = {
    # name: (what makes it, what the refusal says; empty: it is read)
    "terabyte.npy": (write(npy_header("(1000000, 1000000)")), "truncated"),
    "true.npy": (write(npy_header("(True, 8)") + bytes(32)), "header cannot be read"),
    "runs.npy": (made(lambda: objects(pickle.dumps([Runs(), 1]))), "asks for"),
    "deep.npy": (write(objects(b"\x80\x04" + b"(" * 10**5 + b"t" * 10**5 + b".")), "refused|corrupt"),
    "doubling.npy": (write(objects(b"\x80\x04]\x94" + b"h\x00\x94h\x00a" * 10**4 + b".")), "refused|corrupt"),
    "steps.npy": (write(objects(b"\x80\x04" + b"N0" * 700_000 + b"N.")), "steps"),
    "same_row.npy": (made(same_row), "the same row over and over"),
    "bomb.npz": (lambda p: claims(p, 2000 * MiB), "unpacks to more"),
    "large.npz": (lambda p: claims(p, 257 * MiB), "larger than the 256"),
    "overlapping.zip": (overlapping, "unpacks to more"),
    "nested.zip": (lambda p: zipped(p, {"a.npy": npy(IMAGE), "b.zip": b"x"}), "is itself an archive"),
    "encrypted.zip": (encrypted, "is encrypted"),
    "link.zip": (lambda p: zipped(p, {link(): b"/etc/passwd"}), "is a link"),
    "twice.zip": (twice, "comes twice"),
    "directory.zip": (vast_directory, "too many files"),
    "lzma.zip": (lambda p: zipped(p, {"a.npy": npy(IMAGE)}, zipfile.ZIP_LZMA), "compressed otherwise"),
    "up.zip": (lambda p: zipped(p, {"a/../../b.npy": npy(IMAGE)}), "leads out"),
    "absolute.tgz": (lambda p: tarred(p, "/tmp/a.npy"), "leads out"),
    "link.tgz": (lambda p: tarred(p, member(tarfile.SYMTYPE)), "is a link"),
    "hard_link.tgz": (lambda p: tarred(p, member(tarfile.LNKTYPE)), "is a link"),
    "device.tgz": (lambda p: tarred(p, member(tarfile.CHRTYPE)), "no regular file"),
    "header.tgz": (vast_tar_header, "more than the"),
    "bomb.tgz": (tar_bomb(lambda data: gzip.compress(data, 1)), "unpacks to more than 1024 MiB"),
    "terabyte.fits": (write(header(*SIMPLE, "NAXIS   =                    2", "NAXIS1  =              1000000", "NAXIS2  =              1000000")), "more than the|too many"),
    "axes.fits": (write(header(*SIMPLE, "NAXIS   =                  999")), "holds no 2-D|corrupt"),
    "negative.fits": (write(header(*SIMPLE, "NAXIS   =                    2", "NAXIS1  =                   -8", "NAXIS2  =                    8")), "fits"),
    "no_end.fits": (write(header(*SIMPLE)[:160].ljust(2880 * 200)), "corrupt|holds no"),
    "extensions.fits": (write(EXTENSIONS), "first 1000 extensions"),
    "bomb.fits.gz": (made(lambda: gzip.compress(header(*SIMPLE)) + gzip.compress(bytes(MiB)) * 260), "unpacks to more"),
    "tile.fits": (bad_tile, "too many"),
    "sip.fits": (with_sky(A_ORDER=10**8, B_ORDER=10**8), ""),
    "magnitudes.fits": (image_of(BUNIT="mag/arcsec2"), "logarithms"),
    "two_scales.fits": (lambda p: p.write_bytes(header(*SIMPLE, "NAXIS   =                    2", "NAXIS1  =                    8", "NAXIS2  =                    8", "PIXSCALE=                  0.1", "PIXSCALE=                  0.2", data=IMAGE.byteswap().tobytes())), "more than once"),
    "huge.png": (write(png(10**5, 10**5, (b"IDAT", zlib.compress(bytes(10**6))))), "too many pixels|more than"),
    "text.png": (made(lambda: png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * MiB), 1)), (b"IDAT", zlib.compress(bytes(72))))), "not a whole"),
    "colours.png": (write(png(50_000, 50_000, (b"IDAT", b"x"), bits=16, kind=2)), "more than the"),
    "scans.jpg": (scans, "more than 50 scans"),
    "loop.tif": (write(tiff(after=72)), ""),
    "tile.tif": (write(tiff((322, 4, 1, 2**20), (323, 4, 1, 2**20), (324, 4, 1, 8), (325, 4, 1, 64))), "tif"),
    "pages.tif": (tiff_pages, "more than 16 pages"),
    "packed.tif": (write(tiff((259, 4, 1, 7))), "packed by"),
    "counts.tif": (write(tiff((273, 4, 2**31, 8), (279, 4, 2**31, 8))), "is not a PNG"),
    "virtual.h5": (hdf5(virtual), "other files"),
    "outside.h5": (hdf5(outside), "other files"),
    "soft.h5": (hdf5(lambda f: f.__setitem__("images", h5py.SoftLink("/images"))), "is a link"),
    "external.h5": (hdf5(lambda f: f.__setitem__("images", h5py.ExternalLink("/etc/passwd", "x"))), "is a link"),
    "claims.h5": (hdf5(lambda f: f.create_dataset("images", (10**9, 1, 64, 64), "f4", chunks=(1, 1, 64, 64))), "does not hold that much"),
    "pipe.npy": (lambda p: os.mkfifo(p), "named pipe"),
    "pipe.h5": (lambda p: os.mkfifo(p), "named pipe"),
    "catalog_pipe.csv": (lambda p: os.mkfifo(p), "named pipe"),
    "zero.fits": (lambda p: p.symlink_to("/dev/zero"), "a device"),
    "socket.npy": (open_socket, "a socket"),
    "loop.npy": (lambda p: p.symlink_to(p.name), "does not exist|not there|cannot be read|not a regular"),
    "dangling.npy": (lambda p: p.symlink_to("/nowhere/a.npy"), "does not exist"),
    "folder.fits": (lambda p: p.mkdir(), "holds no image"),
    "aliases.yaml": (write(ALIASES), "repeats itself"),
    "deep.yaml": (write("a: " + "[" * 5000), "nested too deeply"),
    "digits.yaml": (write("a: " + "9" * 5000), "digits"),
    "python.yaml": (write("a: !!python/object/apply:os.system [true]"), "not valid YAML"),
    "twice.yaml": (write("name: a\nname: b\n"), "is there twice"),
    "artefact.json": (model(**{"artefact.json": b"[" * 10**5}), "not valid JSON|nested"),
    "twice/artefact.json": (model(**{"artefact.json": b'{"format": 1, "format": 1}'}), "artefact.json"),
    "length/weights.safetensors": (model(**{"weights.safetensors": safetensors(b"{}", 2**62)}), "weights"),
    "overlap/weights.safetensors": (model(**{"weights.safetensors": overlapping_tensors()}), "weights"),
    "field.csv": (write("ra,dec\n" + "1" * 10**6 + ",2\n"), "no catalog"),
    "nul.csv": (write("ra,dec\n\x001,2\n"), ""),
    "aliases.ecsv": (write("# %ECSV 1.0\n# ---\n" + "".join(f"# {line}\n" for line in ALIASES.splitlines()) + "ra dec\n1 2\n"), "repeats itself"),
    "entities.xml": (write(ENTITIES + "]><a>&j;</a>"), "document type"),
    "elsewhere.xml": (write(ROWS.format(n=1, data='<BINARY><STREAM href="file:///etc/passwd"/></BINARY>')), "elsewhere"),
    "rows.xml": (write(ROWS.format(n=10**11, data="<TABLEDATA/>")), "claims"),
}  # fmt: skip
SLOW: dict[str, tuple[Maker, str]] = {
    # seconds each: for the benchmark
    "chunk.h5": (hdf5(chunk_bomb), "unpacks to more"),
    "bomb.tar.bz2": (tar_bomb(bz2.compress), "unpacks to more than 1024 MiB"),
    "bomb.tar.xz": (tar_bomb(lambda data: lzma.compress(data, preset=0)), "unpacks to more than 1024 MiB"),
    "members.tgz": (lambda p: tarred(p, *(f"{k}.txt" for k in range(100_000)), data=b""), "holds no image"),
}  # fmt: skip


def make(folder: Path, name: str) -> Path:
    """Makes a hostile file and returns its path."""
    maker, _ = {**FILES, **SLOW}[name]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    maker(path)
    return path

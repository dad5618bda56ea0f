import gzip
import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haloformer.data import find_images, read_image
from haloformer.data.reader import Reading, find_inputs, read_images
from haloformer.errors import InputError, InputWarning
from haloformer.readers.images import decode_image

fits = pytest.importorskip("astropy.io.fits")
Image = pytest.importorskip("PIL.Image")

PIXELS = np.arange(30, dtype=np.float64).reshape(5, 6)


def saved(path, image):
    np.save(path, image)
    return path


@pytest.mark.parametrize(
    ("stored", "channels", "shape"),
    [
        (PIXELS, None, (1, 5, 6)),
        (PIXELS.astype(np.int64)[None], 1, (1, 5, 6)),
        (PIXELS[..., None], 1, (1, 5, 6)),
        (np.stack([PIXELS] * 3), 3, (3, 5, 6)),
        (np.stack([PIXELS] * 3, -1), 3, (3, 5, 6)),
        (np.stack([PIXELS] * 3, -1), None, (3, 5, 6)),
        (np.zeros((3, 64, 3)), 3, (3, 64, 3)),
        (np.zeros((64, 64, 40)), 40, (40, 64, 64)),
    ],
)
def test_every_axis_order_becomes_channels_first(tmp_path, stored, channels, shape):
    image = read_image(saved(tmp_path / "x.npy", stored), channels=channels)
    assert image.shape == shape
    assert image.dtype == np.float32
    if shape == (1, 5, 6):
        assert np.array_equal(image[0], PIXELS)


@pytest.mark.parametrize(
    ("stored", "channels", "message"),
    [
        (
            np.stack([PIXELS] * 3),
            1,
            r"has 3 channels; 1 is needed .*; if it is 3 images, their shape is \(3, 1, \d+, \d+\)\)",
        ),
        (
            np.stack([PIXELS] * 3, -1),
            1,
            r"has 3 channels; 1 is needed \(its shape is \(\d+, \d+, 3\)\)",
        ),
        (PIXELS, 3, "has 1 channel; 3 are needed"),
        (np.zeros((2, 2, 5, 6)), None, "has the shape"),
        (np.zeros(7), None, "has the shape"),
        (np.zeros((0, 5)), None, "has the shape"),
        (np.zeros((1, 1, 9)), None, "not an image"),
        (np.zeros((64, 64, 40)), None, "has the shape"),
        (np.full((5, 6), np.nan), None, "30 of 30 pixels are NaN or infinite"),
        (np.full((5, 6), 1e300), None, r"30 values are too large for 32-bit .* up to 1e\+300"),
    ],
)
def test_a_wrong_shape_or_value_is_refused_by_name(tmp_path, stored, channels, message):
    with pytest.raises(InputError, match=message) as caught:
        read_image(saved(tmp_path / "x.npy", stored), channels=channels)
    assert "x.npy" in str(caught.value)


def test_the_mass_beside_an_axion_image_is_left_out(tmp_path):
    pair = np.empty(2, dtype=object)
    pair[0], pair[1] = PIXELS, 1e-23
    np.save(tmp_path / "x.npy", pair, allow_pickle=True)
    assert np.array_equal(read_image(tmp_path / "x.npy")[0], PIXELS)


def test_the_first_fits_image_is_read_in_native_byte_order(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "D", array=np.zeros(3))])
    extension = fits.ImageHDU(PIXELS.astype(">f4"), name="VIS_FLUX")
    other = fits.ImageHDU(-PIXELS, name="RMS")
    fits.HDUList([fits.PrimaryHDU(), table, extension, other]).writeto(tmp_path / "x.fits")
    image = read_image(tmp_path / "x.fits")
    assert image.dtype == np.dtype("=f4")
    assert np.array_equal(image[0], PIXELS)
    assert np.array_equal(read_image(tmp_path / "x.fits", hdu="RMS")[0], -PIXELS)
    assert np.array_equal(read_image(tmp_path / "x.fits", hdu=3)[0], -PIXELS)
    with pytest.raises(InputError, match=r"has no extension 'NIR'; there are .*2 VIS_FLUX"):
        read_image(tmp_path / "x.fits", hdu="NIR")
    with pytest.raises(InputError, match="holds no 2-D image"):
        read_image(tmp_path / "x.fits", hdu=1)


def test_compressed_and_scaled_fits_are_read(tmp_path):
    fits.CompImageHDU(PIXELS.astype("f4"), compression_type="GZIP_1", quantize_level=0).writeto(
        tmp_path / "a.fits"
    )
    assert np.array_equal(read_image(tmp_path / "a.fits")[0], PIXELS)
    fits.PrimaryHDU(PIXELS.astype("u2")).writeto(tmp_path / "b.fits.gz")  # stored with BZERO
    assert np.array_equal(read_image(tmp_path / "b.fits.gz")[0], PIXELS)


def test_masked_fits_says_how_to_read_it_and_then_is_read(tmp_path):
    pixels = PIXELS.copy()
    pixels[0] = np.nan
    fits.PrimaryHDU(pixels).writeto(tmp_path / "x.fits")
    with pytest.raises(
        InputError, match=r"6 of 30 pixels are NaN or infinite.*--nan zero or --nan mask"
    ):
        read_image(tmp_path / "x.fits")
    image = read_image(tmp_path / "x.fits", nan="zero")
    assert np.array_equal(image[0, 0], np.zeros(6))
    assert np.array_equal(image[0, 1:], PIXELS[1:])


def test_a_fits_header_that_claims_terabytes_is_refused(tmp_path):
    header = "".join(
        card.ljust(80)
        for card in (
            "SIMPLE  =  T",
            "BITPIX  =  -64",
            "NAXIS   =  2",
            "NAXIS1  =  1000000",
            "NAXIS2  =  1000000",
            "END",
        )
    )
    (tmp_path / "x.fits").write_bytes(header.ljust(2880).encode())
    with pytest.raises(InputError, match=r"x\.fits"):
        read_image(tmp_path / "x.fits")


def test_a_gzip_bomb_is_refused(tmp_path):
    (tmp_path / "x.fits.gz").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(InputError, match="unpacks to more than"):
        read_image(tmp_path / "x.fits.gz", max_bytes=10**6)


def test_pictures_keep_their_values(tmp_path):
    Image.fromarray(PIXELS.astype("u1")).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png")[0], PIXELS)
    Image.fromarray((PIXELS * 1000).astype("u2")).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png")[0], PIXELS * 1000)
    Image.fromarray(np.full((5, 6, 3), (10, 20, 30), "u1")).save(
        tmp_path / "colour.JPG", quality=100
    )
    assert read_image(tmp_path / "colour.JPG").shape == (1, 5, 6)
    colour = read_image(tmp_path / "colour.JPG", channels=3)
    assert np.abs(colour.mean(axis=(1, 2)) - (10, 20, 30)).max() < 3
    with pytest.raises(InputError, match="1 or 3 channels"):
        read_image(tmp_path / "colour.JPG", channels=2)


def test_a_jpeg_of_very_many_scans_is_refused_undecoded(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64), 7, "u1")).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert decode_image(data, "x.jpg")[0].shape == (1, 64, 64)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert decode_image(data[:-2] + last * 30 + data[-2:], "x.jpg")[0].shape == (1, 64, 64)
    with pytest.raises(InputError, match=r"x\.jpg is a JPEG of more than 50 scans"):
        decode_image(data[:-2] + last * 60 + data[-2:], "x.jpg")


@pytest.mark.parametrize("shape", ["(True, True)", "(2, True)", "(2.0, 2)", "(-1, 2)"])
def test_a_shape_of_no_whole_numbers_is_an_error_of_that_file(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    (tmp_path / "bad.npy").write_bytes(content + bytes(16))
    saved(tmp_path / "good.npy", np.eye(4))
    bad, good = next(read_images(find_inputs([str(tmp_path)], True), None))
    assert bad.error.startswith(f"{tmp_path / 'bad.npy'} is corrupt")
    assert np.array_equal(good.pixels[0], np.eye(4))


def png_of_16_bits(kind, values):
    """A PNG of the colour type ``kind`` and values (H, W, n)."""

    def chunk(name, body):
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("kind", "n"), [(2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bit_colours_keeps_all_its_bits(tmp_path, kind, n):
    values = np.random.default_rng(kind).integers(0, 2**16, (5, 6, n))
    path = tmp_path / "x.png"
    path.write_bytes(png_of_16_bits(kind, values))
    colours = np.moveaxis(values[..., : 3 if n > 2 else 1], 2, 0)
    assert np.array_equal(read_image(path, channels=3), np.broadcast_to(colours, (3, 5, 6)))
    grey = [0.299, 0.587, 0.114] @ colours.reshape(3, -1) if n > 2 else colours.reshape(1, -1)
    assert np.allclose(read_image(path).reshape(-1), grey.reshape(-1), rtol=1e-5)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="is not a whole PNG picture"):
        read_image(path)


@pytest.mark.parametrize("packed", [None, "tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "i4"])
def test_a_tiff_keeps_its_values(tmp_path, packed, dtype):
    values = np.arange(30).reshape(5, 6).astype(dtype) * 7
    Image.fromarray(values).save(tmp_path / "x.tif", compression=packed)
    assert np.array_equal(read_image(tmp_path / "x.tif", channels=1)[0], values)


def test_the_pages_of_a_tiff_are_planes(tmp_path):
    pages = [Image.fromarray(np.full((5, 6), 300.5 * k, "f4")) for k in range(3)]
    pages[0].save(tmp_path / "x.tiff", save_all=True, append_images=pages[1:])
    assert read_image(tmp_path / "x.tiff", channels=3)[:, 0, 0].tolist() == [0, 300.5, 601]
    (found,) = next(
        read_images(find_inputs([str(tmp_path)], True), None, Reading(band=1), batch_size=2)
    )
    assert found.pixels.shape == (1, 5, 6)
    assert found.pixels[0, 0, 0] == 300.5
    with pytest.raises(InputError, match="has 3 channels; 1 is needed"):
        read_image(tmp_path / "x.tiff", channels=1)
    pages[0].save(tmp_path / "x.tiff", save_all=True, append_images=pages[:1] * 16)
    with pytest.raises(InputError, match="more than 16 pages"):
        read_image(tmp_path / "x.tiff")


def test_a_damaged_tiff_is_one_line_and_nothing_else(tmp_path, capfd):
    Image.fromarray(PIXELS.astype("u1")).save(tmp_path / "x.tif", compression="tiff_deflate")
    data = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(data.replace(b"x\x9c", b"x\xff"))
    with pytest.raises(InputError, match="is not a whole PNG, JPEG or TIFF picture"):
        read_image(tmp_path / "x.tif")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_what_pillow_would_read_wrongly_of_a_tiff_is_refused(tmp_path):
    Image.new("RGB", (6, 5)).save(tmp_path / "x.tif")
    bits = (
        (tmp_path / "x.tif")
        .read_bytes()
        .replace(struct.pack("<3H", 8, 8, 8), struct.pack("<3H", 16, 16, 16))
    )
    (tmp_path / "x.tif").write_bytes(bits)
    with pytest.raises(InputError, match="colours of 16 bits"):
        read_image(tmp_path / "x.tif", channels=3)
    Image.new("L", (600, 500)).save(tmp_path / "x.tif", compression="jpeg")
    with pytest.raises(InputError, match="packed by jpeg"):
        read_image(tmp_path / "x.tif")


def test_a_decompression_bomb_is_refused(tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0))
    (tmp_path / "x.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    )
    with pytest.raises(InputError, match=r"x\.png"):
        read_image(tmp_path / "x.png")


def contents():
    file = io.BytesIO()
    fits.PrimaryHDU(PIXELS).writeto(file)
    yield "x.fits", file.getvalue()
    for kind in ("PNG", "JPEG", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(PIXELS.astype("u1")).save(file, format=kind)
        yield f"x.{kind.lower()}", file.getvalue()


@pytest.mark.parametrize(("name", "content"), contents())
def test_truncated_and_empty_files_are_refused_by_name(name, content):
    for cut in (0, 1, 8, len(content) // 2):
        with pytest.raises(InputError, match=name):
            decode_image(content[:cut], name)
    with pytest.raises(InputError, match=name):
        decode_image(b"\0" * 5000, name)


@pytest.mark.parametrize(("name", "content"), contents())
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 255)), min_size=1, max_size=4)
)
@settings(max_examples=60, deadline=None)
def test_damaged_files_are_read_or_refused(name, content, changes):
    damaged = bytearray(content)
    for position, value in changes:
        damaged[position % min(len(content), 700)] = value
    image, message = np.zeros(1), name
    try:
        image, _ = decode_image(bytes(damaged), name)
    except InputError as error:
        message = str(error)
    assert np.isfinite(image).all()
    assert name in message
    assert "\n" not in message


def test_folders_are_searched_in_sorted_order_and_hidden_files_passed_over(tmp_path):
    for name in ("b/2.npy", "b/1.fits", "a.PNG", "b/._1.fits", "notes.txt", "c.fits.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a.PNG", "b/1.fits", "b/2.npy", "c.fits.gz"]
    assert find_images([tmp_path / "b/2.npy", tmp_path / "b"]) == [
        tmp_path / "b/2.npy",
        tmp_path / "b/1.fits",
    ]


def test_linked_folders_are_followed_once_and_hidden_folders_are_left_out(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for name in (
        "folder/b/1.npy",
        "folder/.ipynb_checkpoints/2.npy",
        "folder/b/.snapshot/3.npy",
        "folder/__MACOSX/4.npy",
        "elsewhere/deep/5.npy",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (folder / "a").symlink_to(folder / "b")
    (folder / "b/up").symlink_to(folder)
    (folder / "far").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(elsewhere)
    assert find_images(folder) == [folder / "b/1.npy", folder / "far/deep/5.npy"]
    assert find_images(folder / ".ipynb_checkpoints") == [folder / ".ipynb_checkpoints/2.npy"]


def test_files_that_may_be_images_are_counted_in_one_line(tmp_path):
    for name in ("a.mat", "b/c.MAT", "d.gif", "notes.txt", "table.csv", ".f.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"it holds 1 \.gif, 2 \.mat$"):
        find_images(tmp_path)
    (tmp_path / "x.npy").touch()
    with pytest.warns(InputWarning, match=r"passed over 1 \.gif, 2 \.mat,") as warned:
        assert find_images(tmp_path) == [tmp_path / "x.npy"]
    assert len(warned) == 1


def test_missing_empty_and_unknown_paths_are_refused(tmp_path):
    for path, message in ((tmp_path / "x", "does not exist"), (tmp_path, "holds no image")):
        with pytest.raises(InputError, match=message):
            find_images(path)
    (tmp_path / "x.txt").touch()
    with pytest.raises(InputError, match="is not an image file"):
        find_images(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(InputError, match="is not an image file"):
        read_image(tmp_path / "x.txt")


def test_a_pixel_scale_against_the_headers_is_told_once(tmp_path):
    for name in ("a", "b"):
        header = fits.Header([("PIXSCALE", 0.05)])
        fits.PrimaryHDU(np.ones((6, 6), np.float32), header).writeto(tmp_path / f"{name}.fits")
    inputs = find_inputs([str(tmp_path)], keep_errors=False, channels=1, reading=Reading())
    with pytest.warns(
        InputWarning, match="of 0.1″, as was given, though a header says 0.05″"
    ) as told:
        list(read_images(inputs, None, Reading(pixel_scale=0.1), batch_size=1))
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(read_images(inputs, None, Reading(pixel_scale=0.0501), batch_size=1))


def test_files_that_are_open_side_by_side_silence_nobody(tmp_path):
    for name in ("a", "b"):
        fits.PrimaryHDU(np.ones((6, 6), np.float32)).writeto(tmp_path / f"{name}.fits")
    before = list(warnings.filters)
    readers = []
    for name in ("a", "b"):
        inputs = find_inputs([str(tmp_path / f"{name}.fits")], keep_errors=False, channels=1)
        readers.append(read_images(inputs, None, batch_size=1))
        next(readers[-1])  # the file stays open
    with pytest.warns(InputWarning, match="of the user"):
        warnings.warn("of the user", InputWarning, stacklevel=1)
    for reader in readers:
        list(reader)
    assert list(warnings.filters) == before

"""Archives and ``.npz`` files of images: read alike by every command, and what of them is refused."""

import io
import os
import stat
import struct
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from astropy.io import fits

from haloformer.data import LabelledSource, convert
from haloformer.data.reader import Reading, find_inputs, location_columns, read_images
from haloformer.errors import InputError, InputWarning
from haloformer.readers import archives
from haloformer.readers.archives import ArchiveCursor, list_archive, read_archive

IMAGES = np.random.default_rng(3).random((4, 8, 8)).astype(np.float32)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def cube(array):
    file = io.BytesIO()
    fits.PrimaryHDU(array).writeto(file)
    return file.getvalue()


def packed(path, files):
    """Writes a zip or tar file of {name, TarInfo or ZipInfo: content}."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def found(*paths, **options):
    reading = Reading(**options)
    inputs = find_inputs(list(map(str, paths)), True, reading=reading)
    return [item for batch in read_images(inputs, None, reading, batch_size=2) for item in batch]


FILES = {
    "a/1.npy": npy(IMAGES[0]),
    "a/2.fits": cube(IMAGES[1:3]),
    "a/bad.npy": b"x",
    "notes.txt": b"x",
    "__MACOSX/a/1.npy": b"x",
    "a/._1.npy": b"x",
    "b/3.fits": cube(IMAGES[3]),
}


@pytest.mark.parametrize("name", ["x.zip", "x.tgz"])
def test_images_in_an_archive_are_read_in_its_order(tmp_path, name):
    path = packed(tmp_path / name, FILES)
    items = found(path)
    assert [item.file for item in items] == [
        f"{path}/{part}" for part in ("a/1.npy", "a/2.fits", "a/2.fits", "a/bad.npy", "b/3.fits")
    ]
    assert [item.index for item in items] == [None, 0, 1, None, None]
    assert items[3].error == f"{path}/a/bad.npy is not a .npy file: it does not begin as one"
    assert np.array_equal([items[k].pixels[0] for k in (0, 1, 2, 4)], IMAGES)
    assert os.listdir(tmp_path) == [name]
    assert [item.file for item in found(tmp_path)] == [item.file for item in items]
    assert "hdu" in location_columns(find_inputs([str(path)], True))


def test_an_archive_beside_images_is_counted_and_not_read_twice(tmp_path):
    packed(tmp_path / "x.zip", FILES)
    np.save(tmp_path / "1.npy", IMAGES[0])
    with pytest.warns(InputWarning, match=r"passed over 1 \.zip"):
        assert len(found(tmp_path)) == 1


def test_members_are_found_again_in_any_order(tmp_path):
    cursor = ArchiveCursor()
    for name in ("x.zip", "x.tgz"):
        path = packed(tmp_path / name, {f"{k}.npy": bytes([k]) for k in range(5)})
        assert [cursor.read(path, f"{k}.npy")[0] for k in (0, 3, 1, 1, 4)] == [0, 3, 1, 1, 4]
        with pytest.raises(InputError, match=r"no longer holds 7\.npy"):
            cursor.read(path, "7.npy")


@pytest.mark.parametrize("name", ["x.zip", "x.tgz"])
def test_class_folders_in_a_zip_become_the_dataset_that_those_of_a_tar_do(tmp_path, name):
    classes = {f"Model/{c}/{k}.npy": npy(IMAGES[k]) for c in ("axion", "no sub") for k in range(2)}
    path = packed(tmp_path / name, classes)
    assert convert(path, tmp_path / "x.h5")["classes"] == {"axion": 2, "no_sub": 2}
    with h5py.File(tmp_path / "x.h5") as file:
        assert np.array_equal(file["images"][:, 0], IMAGES[[0, 1, 0, 1]])


def link():
    info = zipfile.ZipInfo("a/link.npy")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def special(kind):
    member = tarfile.TarInfo("a/x.npy")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("suffix", "member", "message"),
    [
        *(
            (suffix, name, "leads out of the archive")
            for suffix in (".zip", ".tgz")
            for name in ("../up.npy", "a/../../up.npy", "/etc/x.npy", "C:/x.npy")
        ),
        (".zip", "..\\up.npy", "leads out of the archive"),
        (".zip", link(), "is a link"),
        (".tgz", special(tarfile.SYMTYPE), "is a link"),
        (".tgz", special(tarfile.LNKTYPE), "is a link"),
        (".tgz", special(tarfile.CHRTYPE), "is no regular file"),
        (".tgz", special(tarfile.FIFOTYPE), "is no regular file"),
        (".zip", "more/inner.zip", "is itself an archive"),
        (".tgz", "inner.TAR.GZ", "is itself an archive"),
        (".tgz", tarfile.TarInfo("1.npy"), "comes twice"),
    ],
)
def test_an_archive_that_is_more_than_files_is_refused_in_one_line(
    tmp_path, suffix, member, message
):
    files = {"1.npy": npy(IMAGES[0]), member: b""}
    path = packed(tmp_path / f"x{suffix}", files)
    with pytest.raises(InputError, match=rf"x\{suffix} is refused: its member .* {message}"):
        list_archive(path)
    (item,) = found(path)
    assert "is refused" in item.error
    with pytest.raises(InputError, match="is refused"):
        list(LabelledSource(path, class_map={"x": "cdm"}))


def test_encrypted_and_oddly_packed_members_are_refused(tmp_path):
    path = packed(tmp_path / "x.zip", {"1.npy": npy(IMAGES[0])})
    plain = path.read_bytes()
    central = plain.index(b"PK\x01\x02")
    path.write_bytes(plain[: central + 8] + b"\x01" + plain[central + 9 :])
    with pytest.raises(InputError, match=r"its member 1\.npy is encrypted"):
        list_archive(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("1.npy", npy(IMAGES[0]))
    with pytest.raises(InputError, match="is compressed otherwise than by deflate or bzip2"):
        list_archive(path)


def test_a_zip_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_UNPACKED", 2**20)
    path = packed(tmp_path / "x.zip", {f"{k}.npy": bytes(2**20) for k in range(2)})
    with pytest.raises(InputError, match="unpacks to more than 1 MiB"):
        next(read_archive(path))
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"0\.npy is larger than the 1 MiB"):
        next(read_archive(path, max_bytes=2**20 - 1))


def test_a_zip_whose_list_would_fill_the_memory_is_refused_unread(tmp_path):
    path = packed(tmp_path / "x.zip", {"1.npy": npy(IMAGES[0])})
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", 2**31)
    path.write_bytes(data)
    with pytest.raises(InputError, match="holds too many files"):
        list_archive(path)


def test_names_in_an_archive_cannot_control_a_terminal(tmp_path):
    path = packed(tmp_path / "x.zip", {"a\x1b[2J\n.npy": npy(IMAGES[0])})
    (item,) = found(path)
    assert item.file == f"{path}/a\\x1b[2J\\n.npy"


# --- .npz -------------------------------------------------------------------------------------------------------------


def test_each_array_of_an_npz_that_is_an_image_is_one(tmp_path):
    np.savez(tmp_path / "x.npz", a=IMAGES[0], b=IMAGES[1], psf=IMAGES[2, :5, :5], label=3, name="x")
    items = found(tmp_path / "x.npz")
    assert [item.file for item in items] == [f"{tmp_path}/x.npz[{key}]" for key in "ab"]
    assert np.array_equal([item.pixels[0] for item in items], IMAGES[:2])
    (item,) = found(tmp_path / "x.npz", hdu="psf")
    assert item.pixels.shape == (1, 5, 5)
    assert len(found(tmp_path / "x.npz", hdu="a,b")) == 2


def test_an_npz_of_arrays_of_several_shapes_says_what_is_there(tmp_path):
    np.savez(tmp_path / "x.npz", image=IMAGES[0], other=IMAGES[1, :5])
    (item,) = found(tmp_path / "x.npz")
    assert item.error == (
        f"{tmp_path}/x.npz holds arrays of several shapes; --hdu names one: image 8×8, other 5×8"
    )
    (item,) = found(tmp_path / "x.npz", hdu="sky")
    assert item.error.endswith("has no image 'sky'; there are image 8×8, other 5×8")
    np.savez(tmp_path / "x.npz", labels=np.arange(4))
    (item,) = found(tmp_path / "x.npz")
    assert "no array that is an image" in item.error


@pytest.mark.parametrize("shape", [(20, 24, 24), (3, 1, 24, 24), (3, 24, 24, 1)])
def test_an_array_of_more_images_than_one_has_channels_is_a_stack(tmp_path, shape):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.save(tmp_path / "x.npy", values)
    np.savez_compressed(tmp_path / "x.npz", images=values)
    for name in ("x.npy", "x.npz"):
        items = found(tmp_path / name)
        assert [item.index for item in items] == list(range(shape[0]))
        assert np.array_equal(
            [item.pixels.reshape(24, 24) for item in items], values.reshape(-1, 24, 24)
        )
    assert location_columns(find_inputs([str(tmp_path / "x.npy")], True)) == ["index"]


def test_npz_files_in_class_folders_are_converted(tmp_path):
    for name in ("axion", "cdm"):
        (tmp_path / "x" / name).mkdir(parents=True)
        np.savez(tmp_path / "x" / name / "1.npz", a=IMAGES[0], b=IMAGES[1])
    assert convert(tmp_path / "x", tmp_path / "x.h5")["classes"] == {"axion": 2, "cdm": 2}


def test_a_truncated_npz_is_an_error_of_that_file(tmp_path):
    np.savez(tmp_path / "x.npz", a=IMAGES[0])
    whole = (tmp_path / "x.npz").read_bytes()
    for size in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.npz").write_bytes(whole[:size])
        (item,) = found(tmp_path / "x.npz")
        assert item.error.startswith(f"{tmp_path}/x.npz")


# --- rows -------------------------------------------------------------------------------------------------------------


def test_an_object_array_of_the_rows_of_an_image_is_that_image(tmp_path):
    rows = np.empty(8, dtype=object)
    for k, row in enumerate(IMAGES[0]):
        rows[k] = row
    pair = np.empty(2, dtype=object)
    pair[0], pair[1] = rows, 1e-23
    lists = np.empty(8, dtype=object)
    for k, row in enumerate(IMAGES[0].tolist()):
        lists[k] = row
    for k, value in enumerate((rows, pair, lists)):
        np.save(tmp_path / f"{k}.npy", value, allow_pickle=True)
    for item in found(tmp_path):
        assert np.array_equal(item.pixels[0], IMAGES[0])


def test_rows_that_differ_or_repeat_are_refused(tmp_path):
    for name, parts in (
        ("differ", [IMAGES[0, 0], *IMAGES[0, 1:4, :5]]),
        ("same", [IMAGES[0, 0]] * 4),
    ):
        rows = np.empty(4, dtype=object)
        for k in range(4):
            rows[k] = parts[k]
        np.save(tmp_path / f"{name}.npy", rows, allow_pickle=True)
    differ, same = found(tmp_path)
    assert "rows of differing lengths" in differ.error
    assert "the same row over and over" in same.error

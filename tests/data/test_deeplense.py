import csv
import gzip
import io
import os
import pickle
import shutil
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haloformer.data import LabelledSource, convert, write_deeplense_folder
from haloformer.errors import InputError, InputWarning
from haloformer.readers import archives
from haloformer.readers.archives import read_archive

RNG = np.random.default_rng(5)
IMAGES = {name: RNG.poisson(3.0, (3, 6, 5)) for name in ("axion", "cdm", "no_sub")}
SPELLINGS = [("axion", "cdm", "no_sub"), ("vort", "sphere", "no"), ("Axion", "CDM", "No_Sub")]


def content(image, mass=None):
    if mass is not None:
        pair = np.empty(2, dtype=object)
        pair[0], pair[1] = image, mass
        image = pair
    file = io.BytesIO()
    np.save(file, image, allow_pickle=True)
    return file.getvalue()


def files(prefix="", names=SPELLINGS[0]):
    """DeepLense's layout as {path: bytes}."""
    made = {}
    for folder, (name, images) in zip(names, IMAGES.items(), strict=True):
        for i, image in enumerate(images):
            made[f"{prefix}{folder}/{i}.npy"] = content(
                image, 10.0 ** -(22 + i) if name == "axion" else None
            )
    return made


def folder(path, entries):
    for name, data in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive(path, entries, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, data in entries.items():
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return path


def check(source):
    seen = {name: [] for name in IMAGES}
    for item in source:
        seen[item.class_name].append(item)
    for name, items in seen.items():
        assert np.array_equal([item.image[0] for item in items], IMAGES[name])
        masses = [item.log10_m_axion for item in items]
        assert np.allclose(masses, [-22, -23, -24]) if name == "axion" else np.isnan(masses).all()


@pytest.mark.parametrize("names", SPELLINGS)
@pytest.mark.parametrize("prefix", ["", "Model_I/", "dataset/train/"])
def test_folders_are_read_whatever_their_classes_are_called(tmp_path, names, prefix):
    source = LabelledSource(folder(tmp_path, files(prefix, names)))
    assert source.n == 9
    assert source.class_names == ("axion", "cdm", "no_sub")
    check(source)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".tgz", "w:gz"), (".tar", "w"), (".tar.xz", "w:xz"), (".tar.bz2", "w:bz2")],
)
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_are_read_without_unpacking(tmp_path, suffix, mode, format):
    path = tmp_path / f"Model_I{suffix}"
    with tarfile.open(path, mode, format=format) as tar:
        for name, data in files(
            "Model_I/" + "long" * 40 + "/"
        ).items():  # longer than a tar header's field
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    check(LabelledSource(path))
    assert os.listdir(tmp_path) == [path.name]


def test_linked_class_folders_are_read_and_hidden_ones_are_not(tmp_path):
    for name in ("axion/1.npy", "axion/.ipynb_checkpoints/1-checkpoint.npy", ".snapshot/cdm/1.npy"):
        (tmp_path / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "plain" / name, np.eye(8))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/axion").symlink_to(tmp_path / "plain/axion")
    with tarfile.open(tmp_path / "packed.tar", "w") as archive:
        archive.add(tmp_path / "plain", "plain")
    for source in ("plain", "linked", "packed.tar"):
        (item,) = LabelledSource(tmp_path / source)
        assert item.file.endswith("axion/1.npy")


def test_files_of_other_kinds_beside_the_images_are_counted(tmp_path):
    (tmp_path / "axion").mkdir()
    for name in ("axion/a.mat", "axion/b.mat", "model.7z"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"it holds 1 \.7z, 2 \.mat"):
        LabelledSource(tmp_path)
    np.save(tmp_path / "axion/1.npy", np.eye(8))
    with pytest.warns(InputWarning, match=r"passed over 1 \.7z, 2 \.mat,"):
        assert LabelledSource(tmp_path).n == 1


def test_a_folder_of_one_archive_per_class_is_read(tmp_path):
    for name in IMAGES:
        archive(
            tmp_path / f"{name}.tgz",
            {k: v for k, v in files("x/").items() if k.startswith(f"x/{name}/")},
        )
    check(LabelledSource(tmp_path))
    for name in IMAGES:
        flat = {k.split("/")[-1]: v for k, v in files().items() if k.startswith(f"{name}/")}
        archive(tmp_path / f"{name}.tgz", flat)
    check(LabelledSource(tmp_path))


def test_hidden_files_and_notes_in_an_archive_are_passed_over(tmp_path):
    others = {"cdm/._0.npy": b"x", "__MACOSX/cdm/0.npy": b"x", "readme.txt": b"x"}
    check(LabelledSource(archive(tmp_path / "x.tgz", {**others, **files()})))
    assert os.listdir(tmp_path) == ["x.tgz"]


def test_data_of_other_kinds_in_an_archive_are_counted(tmp_path):
    source = LabelledSource(archive(tmp_path / "x.tgz", {**files(), "all.h5": b"x"}))
    with pytest.warns(InputWarning, match=r"x\.tgz: passed over 1 \.h5"):
        check(source)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("name", ["axion/{}.npy", "{}.txt"])
def test_an_archive_that_unpacks_to_far_more_than_it_is_ends_there(
    tmp_path, monkeypatch, mode, name
):
    monkeypatch.setattr(archives, "_MAX_UNPACKED", 2**20)
    image = io.BytesIO()
    np.save(image, np.zeros((100, 100)))
    with tarfile.open(tmp_path / "x.tgz", mode) as archive:
        for k in range(100):
            member = tarfile.TarInfo(name.format(k))
            member.size = len(image.getvalue())
            archive.addfile(member, io.BytesIO(image.getvalue()))
    size = (tmp_path / "x.tgz").stat().st_size
    limit = max(2**20, 100 * size)
    assert limit < 100 * len(image.getvalue())
    read: list[int] = []
    with pytest.raises(InputError, match=f"unpacks to more than {limit / 2**20:.0f} MiB"):
        read.extend(len(data) for _, data in read_archive(tmp_path / "x.tgz"))
    assert 0 < sum(read) <= limit


def test_an_archive_member_that_is_too_large_is_refused_unread(tmp_path):
    path = archive(tmp_path / "x.tgz", {"cdm/0.npy": bytes(10**7)})
    with pytest.raises(InputError, match=r"cdm/0\.npy is larger"):
        list(read_archive(path, max_bytes=10**6))


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
def test_a_header_of_gigabytes_is_refused_unread(tmp_path, kind):
    # An extended header is read whole by tarfile; its length is whatever the archive claims, and zeros compress well.
    header = tarfile.TarInfo("name")
    header.type, header.size = kind, 2**33
    with gzip.open(tmp_path / "x.tgz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(10**6))
    with pytest.raises(InputError, match="bytes, more than"):
        list(read_archive(tmp_path / "x.tgz"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_truncated_archive_is_an_error_wherever_it_ends(tmp_path, mode):
    whole = archive(tmp_path / "x.tgz", files(), mode).read_bytes()
    end = len(whole) if mode != "w" else whole.rstrip(b"\0").__len__() // 512 * 512 + 512
    for cut in [*range(0, end - 1, 331), end - 1, end // 512 * 512 - 512]:
        (tmp_path / "x.tgz").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"x\.tgz"):
            list(read_archive(tmp_path / "x.tgz"))


@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5)
)
@settings(max_examples=100, deadline=None)
def test_damaged_archives_are_read_or_refused(tmp_path_factory, changes):
    folder = tmp_path_factory.getbasetemp()
    good = folder / "good.tar"
    if not good.exists():
        archive(good, files(), "w")
    damaged = bytearray(good.read_bytes())
    for position, value in changes:
        damaged[position % len(damaged)] = value
    (folder / "bad.tar").write_bytes(damaged)
    message = "bad.tar"
    try:
        list(LabelledSource(folder / "bad.tar"))
    except InputError as error:
        message = str(error)
    assert "bad.tar" in message


def test_a_compressed_archive_is_never_rewound(tmp_path, monkeypatch):
    # tarfile steps back one byte before every header, for which a gzip stream would start again: quadratic in its length.
    path = archive(tmp_path / "x.tgz", {f"cdm/{i}.npy": os.urandom(512) for i in range(200)})
    monkeypatch.delattr(gzip.GzipFile, "seek")
    monkeypatch.delattr(gzip.GzipFile, "rewind")
    assert len(list(read_archive(path))) == 200


def test_sets_are_never_mixed_and_one_can_be_chosen(tmp_path):
    entries = {**files("d/train/"), **files("d/val/")}
    for source in (folder(tmp_path / "f", entries), archive(tmp_path / "x.tgz", entries)):
        with pytest.raises(
            InputError, match=r"several sets .*d/val.* must not be mixed: .* --subset d/train"
        ):
            list(LabelledSource(source))
        check(LabelledSource(source, subset="val"))
        check(LabelledSource(source, subset="d/train"))
        with pytest.raises(InputError, match="no set 'test'; there are d/train, d/val"):
            list(LabelledSource(source, subset="test"))


def test_other_class_names_need_a_map(tmp_path):
    source = folder(tmp_path, {"vortices/0.npy": content(IMAGES["axion"][0])})
    with pytest.raises(InputError, match=r"unknown class folder 'vortices'.*class_map"):
        LabelledSource(source)
    (item,) = LabelledSource(source, class_map={"Vortices": "axion"})
    assert item.class_name == "axion"
    (item,) = LabelledSource(source, class_map={"vortices": "wdm"})
    assert item.class_name == "wdm"
    (item,) = LabelledSource(source, class_map={"vortices": "vort"})  # which is another name
    assert item.class_name == "axion"


def test_class_maps_may_have_numbers_and_nothing_that_yaml_reads_as_no_name(tmp_path):
    source = folder(tmp_path, {"0/0.npy": content(IMAGES["axion"][0])})
    (item,) = LabelledSource(source, class_map={0: "cdm"})
    assert item.class_name == "cdm"
    with pytest.raises(InputError, match=r"class_map has False, which is no name.*in quotes"):
        LabelledSource(source, class_map={False: "no_sub"})


def test_unlabelled_missing_and_empty_sources_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        LabelledSource(tmp_path / "x")
    with pytest.raises(InputError, match="holds no image in a class folder"):
        LabelledSource(tmp_path)
    (tmp_path / "0.npy").write_bytes(content(IMAGES["cdm"][0]))
    with pytest.raises(InputError, match="haloformer predict"):
        LabelledSource(tmp_path)
    with pytest.raises(InputError, match="holds no image"):
        list(LabelledSource(archive(tmp_path / "x.tgz", {})))


def test_the_file_that_differs_is_named(tmp_path):
    entries = files()
    entries["cdm/1.npy"] = content(np.zeros((7, 7)))
    with pytest.raises(InputError, match=r"cdm/1\.npy has the shape \(1, 7, 7\)"):
        list(LabelledSource(folder(tmp_path, entries)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (content(IMAGES["cdm"][0])[:-9], "truncated"),
        (content(np.full((6, 5), np.nan)), "NaN"),
        (content(IMAGES["cdm"][0], -1.0), "axion mass -1.0 eV"),
        (pickle.dumps(os.getcwd), "refused: its pickle asks for posix.getcwd|nt.getcwd"),
    ],
)
def test_a_bad_file_is_named_in_folders_and_archives(tmp_path, data, message):
    entries = {**files(), "no_sub/2.npy": data}
    for source in (folder(tmp_path / "f", entries), archive(tmp_path / "x.tgz", entries)):
        with pytest.raises(InputError, match=message) as caught:
            list(LabelledSource(source))
        assert "no_sub/2.npy" in str(caught.value)


def batches(lenses):
    for start in (0, 5, 10):
        rows = slice(start, start + 5)
        yield SimpleNamespace(
            images=lenses["images"][rows],
            labels=lenses["labels"][rows],
            parameters={name: values[rows] for name, values in lenses["parameters"].items()},
            class_names=lenses["class_names"],
        )


def test_the_written_folder_is_the_originals_and_reads_back(tmp_path, lenses):
    out = tmp_path / "made"
    assert write_deeplense_folder(batches(lenses), out) == 12
    assert sorted(os.listdir(out)) == ["axion", "cdm", "no_sub", "parameters.csv"]
    axion = sorted((out / "axion").iterdir())[0]
    image, mass = np.load(axion, allow_pickle=True)
    assert np.array_equal(image, lenses["images"][0, 0])
    assert np.isclose(np.log10(mass), lenses["parameters"]["log10_m_axion"][0])
    assert np.load(sorted((out / "cdm").iterdir())[0]).shape == (8, 8)
    read = list(LabelledSource(out))
    order = np.argsort(lenses["labels"], kind="stable")
    assert np.array_equal([item.image for item in read], lenses["images"][order])
    assert np.allclose(
        [item.log10_m_axion for item in read],
        lenses["parameters"]["log10_m_axion"][order],
        equal_nan=True,
    )
    with open(out / "parameters.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [float(row["source_x"]) for row in rows] == lenses["parameters"]["source_x"].tolist()
    assert [float(m) for m in rows[1]["subhalo_mass"].split(";")] == lenses["parameters"][
        "subhalo_mass"
    ][1].tolist()
    assert rows[0]["subhalo_mass"] == rows[1]["log10_m_axion"] == ""


def test_only_a_folder_of_that_layout_is_overwritten(tmp_path, lenses):
    out = tmp_path / "made"
    write_deeplense_folder(batches(lenses), out)
    with pytest.raises(InputError, match="exists already"):
        write_deeplense_folder(batches(lenses), out)
    lenses["images"] += 1
    write_deeplense_folder(batches(lenses), out, overwrite=True)
    assert np.array_equal(next(iter(LabelledSource(out))).image, lenses["images"][0])
    (out / "thesis.tex").touch()
    with pytest.raises(InputError, match="not overwritten"):
        write_deeplense_folder(batches(lenses), out, overwrite=True)
    assert (out / "thesis.tex").exists()


def test_an_interrupted_folder_leaves_nothing(tmp_path, lenses):
    def interrupted():
        yield next(batches(lenses))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_deeplense_folder(interrupted(), tmp_path / "made")
    assert not os.listdir(tmp_path)


def test_a_folder_that_does_not_fit_is_not_begun(tmp_path, lenses, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="not enough disk space"):
        write_deeplense_folder(batches(lenses), tmp_path / "made", n=12)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_class_folders_without_an_image_are_told_and_a_class_without_one_is_refused(tmp_path, kind):
    for name in ("axion", "cdm", "no_sub", "vort"):
        (tmp_path / "x" / name).mkdir(parents=True)
    (tmp_path / "x/no_sub/notes.txt").touch()
    for name in ("axion", "cdm"):
        np.save(tmp_path / "x" / name / "1.npy", np.eye(8))

    def source():
        packed = tmp_path / "x"
        return packed if kind == "folder" else shutil.make_archive(str(packed), kind, packed)

    with pytest.raises(
        InputError, match=r"the folder no_sub holds no image, .* none of class 'no_"
    ):
        convert(source(), tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
    with pytest.warns(InputWarning, match="no_sub, vort; there is no image of no_sub"):
        done = convert(source(), tmp_path / "b.h5", skip_bad=True)
    assert done["classes"] == {"axion": 1, "cdm": 1}
    shutil.rmtree(tmp_path / "x/no_sub")
    with pytest.warns(InputWarning, match="class folders without an image: vort$"):
        convert(source(), tmp_path / "c.h5")


def test_empty_folders_of_another_set_do_not_count(tmp_path):
    for name in ("train/axion", "train/cdm", "val/axion", "val/cdm", ".old/no_sub"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("train/axion", "train/cdm", "val/axion"):
        np.save(tmp_path / name / "1.npy", np.eye(8))
    assert LabelledSource(tmp_path, subset="train").n == 2
    with pytest.raises(InputError, match="val/cdm holds no image"):
        LabelledSource(tmp_path, subset="val")


def test_a_class_of_which_no_image_can_be_read_is_told(tmp_path):
    entries = {"axion/1.npy": content(np.eye(8), 1e-23), "cdm/1.npy": b"nothing"}
    with pytest.warns(InputWarning, match="no image of class cdm can be read"):
        done = convert(folder(tmp_path / "x", entries), tmp_path / "a.h5", skip_bad=True)
    assert done["classes"] == {"axion": 1}

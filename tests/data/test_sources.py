"""Data sets from folders, archives, manifests and arrays in memory."""

import io
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resvision.data.pictures import DataSet, File, Split
from resvision.data.sources import Columns, array_split, from_arrays, load, pictures_below, place_of, prepare, spelt
from resvision.errors import DataError, PictureError
from resvision.preprocess import Preprocess

WritePictures = Callable[[Path, Iterable[str]], Path]

COLOUR = Preprocess(size=8)
PLAIN = ("cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png", "dog/5.png")
SPLIT = ("train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "val/cat/4.png", "val/dog/5.png", "val/dog/6.png")


def names(split: Split) -> list[str]:
    return [split.pictures.name(i) for i in range(len(split))]


def contents(split: Split) -> list[bytes]:
    return [split.pictures.content(i) for i in range(len(split))]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def assert_same_content(one: DataSet, other: DataSet) -> None:
    assert one.classes == other.classes
    assert list(one.splits) == list(other.splits)
    for split_name, split in one.splits.items():
        assert split.labels.tolist() == other.splits[split_name].labels.tolist()
        assert contents(split) == contents(other.splits[split_name])


# ---- folders ----


def test_a_folder_for_each_class(tmp_path: Path, write_pictures: WritePictures) -> None:
    dataset = load(write_pictures(tmp_path, PLAIN))
    assert dataset.name == str(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.method == "none"
    assert dataset.flip
    assert list(dataset.splits) == ["all"]
    assert names(dataset.splits["all"]) == list(PLAIN)
    assert dataset.splits["all"].labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.splits["all"].pictures.header(0) == (12, 10, False)
    opened = np.asarray(dataset.splits["all"].pictures.open(3, COLOUR))
    np.testing.assert_array_equal(opened, np.asarray(Image.open(tmp_path / "dog/4.png")))


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_a_folder_for_each_split(tmp_path: Path, write_pictures: WritePictures, validation: str) -> None:
    dataset = load(write_pictures(tmp_path, [path.replace("val", validation) for path in SPLIT]))
    assert dataset.classes == ("cat", "dog")
    assert dataset.method == "given by folders"
    assert sorted(dataset.splits) == ["train", "val"]
    assert names(dataset.splits["train"]) == ["train/cat/1.png", "train/cat/2.png", "train/dog/3.png"]
    assert dataset.splits["train"].labels.tolist() == [0, 0, 1]
    assert names(dataset.splits["val"]) == [f"{validation}/{name}" for name in ("cat/4.png", "dog/5.png", "dog/6.png")]
    assert dataset.splits["val"].labels.tolist() == [0, 1, 1]


def test_train_validation_and_test(tmp_path: Path, write_pictures: WritePictures) -> None:
    dataset = load(write_pictures(tmp_path, [*SPLIT, "test/cat/7.png", "test/dog/8.png"]))
    assert sorted(dataset.splits) == ["test", "train", "val"]
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 3, "val": 3, "test": 2}


def test_a_training_split_alone(tmp_path: Path, write_pictures: WritePictures) -> None:
    dataset = load(write_pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png"]))
    assert list(dataset.splits) == ["train"]
    assert dataset.classes == ("cat", "dog")


def test_two_folders_for_validation_lose_no_picture(tmp_path: Path, write_pictures: WritePictures) -> None:
    root = write_pictures(tmp_path, [*SPLIT, "valid/cat/7.png", "valid/dog/8.png"])
    assert len(load(root).splits["val"]) == 5


def test_a_link_to_what_is_not_there(tmp_path: Path, write_pictures: WritePictures) -> None:
    root = write_pictures(tmp_path / "a", PLAIN)
    (root / "cat" / "9.jpg").symlink_to(tmp_path / "gone.jpg")  # counts, and cannot be read
    split = load(root).splits["all"]
    assert len(split) == len(PLAIN) + 1
    with pytest.raises(PictureError, match="No such file"):
        split.pictures.header(names(split).index("cat/9.jpg"))
    root = write_pictures(tmp_path / "b", SPLIT)
    (root / "test").symlink_to(tmp_path / "not-mounted")
    with pytest.raises(DataError, match="test: a link to what is not there; mend it, or remove it"):
        load(root)


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path, write_pictures: WritePictures) -> None:
    root = write_pictures(tmp_path / "a", PLAIN)
    with zipfile.ZipFile(root / "zz.zip", "w") as inner:
        inner.writestr("other/1.txt", "x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(root, "photos")
        link = tarfile.TarInfo("photos/again")
        link.type, link.linkname = tarfile.LNKTYPE, "photos/cat"
        archive.addfile(link)
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.add(path, str(path.relative_to(root)))
    assert zipfile.is_zipfile(tmp_path / "b.tar")
    for name in ("a.tar", "b.tar"):
        assert load(tmp_path / name).classes == ("cat", "dog")


def test_folders_below_a_class_belong_to_it(tmp_path: Path, write_pictures: WritePictures) -> None:
    plain = load(write_pictures(tmp_path / "a", ["cat/1.png", "cat/old/2.png", "cat/old/x/3.png", "dog/4.png"]))
    assert plain.classes == ("cat", "dog")
    assert plain.splits["all"].labels.tolist() == [0, 0, 0, 1]
    split = load(write_pictures(tmp_path / "b", ["train/cat/x/y/1.png", "train/dog/2.png"]))
    assert split.classes == ("cat", "dog")
    assert names(split.splits["train"]) == ["train/cat/x/y/1.png", "train/dog/2.png"]


def test_what_is_no_picture_is_passed_over(tmp_path: Path, write_pictures: WritePictures) -> None:
    write_pictures(tmp_path, [*PLAIN, ".git/1.png", "cat/.thumbnails/1.png", "cat/._1.png", "dog/.hidden.png"])
    for text in ("cat/README.txt", "labels.csv", "dog/Thumbs.db"):
        (tmp_path / text).write_text("no picture")
    assert names(load(tmp_path).splits["all"]) == list(PLAIN)


def test_a_film_is_not_read_to_its_end(
    tmp_path: Path, write_pictures: WritePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path, ["cat/1.png", "dog/1.png"])
    (tmp_path / "cat" / "film.mov").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(1000))
    read: list[str] = []
    whole = File.read
    monkeypatch.setattr(File, "read", lambda file: read.append(file.name) or whole(file))
    assert len(load(tmp_path).splits["all"]) == 2
    assert "cat/film.mov" not in read


def test_a_picture_is_known_by_its_content_or_its_extension(tmp_path: Path, write_pictures: WritePictures) -> None:
    write_pictures(tmp_path, PLAIN)
    (tmp_path / "cat/1.png").rename(tmp_path / "cat/without-extension")
    (tmp_path / "dog/9.JPG").write_bytes(b"")  # meant as a picture, to be reported as unreadable and not passed over
    split = load(tmp_path).splits["all"]
    assert names(split) == ["cat/2.png", "cat/without-extension", "dog/3.png", "dog/4.png", "dog/5.png", "dog/9.JPG"]
    assert split.pictures.header(1) == (12, 10, False)
    with pytest.raises(PictureError, match=r"dog/9\.JPG: the file is empty"):
        split.pictures.header(5)


@pytest.mark.parametrize("name", ["1.ppm", "1.PGM", "1.jfif", "1.tga", "1.psd", "1.ico", "1.heic"])
def test_a_picture_that_cannot_be_read_counts(tmp_path: Path, write_pictures: WritePictures, name: str) -> None:
    write_pictures(tmp_path, PLAIN)
    (tmp_path / "cat" / name).write_bytes(b"no picture of a known format")
    pictures = load(tmp_path).splits["all"].pictures
    assert len(pictures) == len(PLAIN) + 1
    with pytest.raises(PictureError, match=rf"^cat/{name}: not a picture of a known format"):
        pictures.header(0 if name < "1.png" else 1)


def test_a_folder_of_ppm(tmp_path: Path, write_pictures: WritePictures) -> None:
    """As the German traffic signs come."""
    split = load(write_pictures(tmp_path, ["00000/1.ppm", "00001/1.ppm"])).splits["all"]
    assert split.pictures.header(1) == (12, 10, False)


def test_train_may_be_a_class(tmp_path: Path, write_pictures: WritePictures) -> None:
    dataset = load(write_pictures(tmp_path, ["bus/1.png", "train/2.png", "train/3.png", "tram/4.png"]))
    assert dataset.classes == ("bus", "train", "tram")
    assert dataset.splits["all"].labels.tolist() == [0, 1, 1, 2]


def test_splits_may_be_spelt_otherwise(tmp_path: Path, write_pictures: WritePictures) -> None:
    spelt = [path.replace("train", "Training").replace("val", "Testing") for path in SPLIT]
    dataset = load(write_pictures(tmp_path, spelt))
    assert dataset.classes == ("cat", "dog")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 3, "test": 3}


def test_splits_without_one_to_train_on(tmp_path: Path, write_pictures: WritePictures) -> None:
    paths = [path.replace("train", "test") for path in SPLIT]
    root = write_pictures(tmp_path / "only", paths)
    with pytest.raises(DataError, match="only: has test, val with class folders in them, but no train") as caught:
        load(root)
    assert str(caught.value).endswith(f"(to evaluate: {root}/test --split all)")
    assert len(load(root / "test").splits["all"]) == 3
    with pytest.raises(DataError, match=r"\(to evaluate: unpack it, and give its test with --split all\)$"):
        load(pack(root, tmp_path / "only.zip"))


def test_a_path_is_a_place_and_a_word_a_built_in_set(
    tmp_path: Path, write_pictures: WritePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_pictures(tmp_path / "digits", PLAIN)
    monkeypatch.chdir(tmp_path)
    for place in (Path("digits"), "./digits", root):
        dataset = load(place)
        assert dataset.classes == ("cat", "dog")
        assert place_of(place) == place_of(dataset.name) == str(root)
    assert spelt(Path("digits")) == load(Path("digits")).name == "./digits"
    assert load("digits").classes == tuple("0123456789")
    assert place_of("digits") == spelt("digits") == "digits"
    with pytest.raises(DataError, match=r"no folder, file or built-in data set 'cifar10'.*, whose names are text"):
        load(Path("cifar10"))


def test_a_place_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder, file or built-in data set '.*nowhere'; built in are digits, fash"):
        load(tmp_path / "nowhere")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds nothing; expected <class>/PICTURE or train\|val\|test/<class>/PICTURE"):
        load(tmp_path)


def test_pictures_without_classes(tmp_path: Path, write_pictures: WritePictures) -> None:
    with pytest.raises(DataError, match="holds 3 files, but no class folders; expected <class>/PICTURE"):
        load(write_pictures(tmp_path, ["1.png", "2.png", "3.png"]))


def test_one_class_only(tmp_path: Path, write_pictures: WritePictures) -> None:
    """It can be evaluated, and nothing can be trained on it."""
    data = load(write_pictures(tmp_path, ["cat/1.png", "cat/2.png"]))
    assert len(data.splits["all"]) == 2
    with pytest.raises(DataError, match=r"only the class 'cat' was found; .* at least two \(.*--split all\)"):
        prepare(data)


def test_names_that_are_not_text(tmp_path: Path, write_pictures: WritePictures) -> None:
    """Bytes that are no UTF-8, as old archives leave them: the pictures are read, and their names can be written."""
    write_pictures(tmp_path, PLAIN)
    first = next(tmp_path.rglob("*.png"))
    first.rename(first.with_name(os.fsdecode(b"caf\xe9.png")))
    split = load(tmp_path).splits["all"]
    names = [split.pictures.name(index) for index in range(len(split))]
    assert any(name.endswith(r"caf\xe9.png") for name in names)
    assert all(name.encode() for name in names)
    assert all(split.pictures.header(index).width > 0 for index in range(len(split)))


def test_links_to_folders_are_entered(tmp_path: Path, write_pictures: WritePictures) -> None:
    """Classes that lie elsewhere, and a link that leads back to where it comes from."""
    elsewhere = write_pictures(tmp_path / "elsewhere", ["1.png", "2.png", "3.png"])
    root = write_pictures(tmp_path / "data", ["dog/1.png", "dog/2.png"])
    (root / "cat").symlink_to(elsewhere, target_is_directory=True)
    (root / "dog" / "back").symlink_to(root, target_is_directory=True)
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert np.bincount(data.splits["all"].labels).tolist() == [3, 2]
    assert len(pictures_below(root)) == 5


def test_classes_whose_names_are_not_text_stay_apart(tmp_path: Path, write_pictures: WritePictures) -> None:
    write_pictures(tmp_path, ["one/1.png", "other/1.png", "dog/1.png"])
    for name, own in (("one", "кот"), ("other", "кит")):
        (tmp_path / name).rename(tmp_path / os.fsdecode(own.encode("cp1251")))
    assert load(tmp_path).classes == (r"\xea\xe8\xf2", r"\xea\xee\xf2", "dog")


def test_links_in_a_circle_end(tmp_path: Path, write_pictures: WritePictures) -> None:
    """Two classes that lead to each other, and a hidden folder that nobody may read."""
    write_pictures(tmp_path, ["cat/1.png", "dog/1.png"])
    (tmp_path / "cat" / "x").symlink_to(tmp_path / "dog", target_is_directory=True)
    (tmp_path / "dog" / "y").symlink_to(tmp_path / "cat", target_is_directory=True)
    (tmp_path / ".Trashes").mkdir(mode=0)
    assert len(load(tmp_path).splits["all"]) == 4  # each sees the other's picture once


def test_two_classes_of_one_name() -> None:
    with pytest.raises(DataError, match="two classes are called b"):
        from_arrays((noise(4, 8, 8), [0, 1, 2, 1]), classes=["a", "b", "b"])


def test_an_empty_class(tmp_path: Path, write_pictures: WritePictures) -> None:
    write_pictures(tmp_path, PLAIN)
    (tmp_path / "emu").mkdir()
    with pytest.raises(DataError, match="there is no picture of emu; every split"):
        load(tmp_path)


def test_an_empty_class_in_one_split(tmp_path: Path, write_pictures: WritePictures) -> None:
    write_pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png"])
    (tmp_path / "val/dog").mkdir()
    with pytest.raises(DataError, match="the val split has no picture of dog"):
        load(tmp_path)


def test_splits_with_different_classes(tmp_path: Path, write_pictures: WritePictures) -> None:
    write_pictures(tmp_path, [*SPLIT, "train/emu/1.png", "train/fox/2.png", "val/yak/3.png"])
    message = "the classes of val differ from those of train: it lacks emu, fox and adds yak$"
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_the_pictures_below_a_folder(tmp_path: Path, write_pictures: WritePictures) -> None:
    write_pictures(tmp_path, ["b/2.png", "b/1.png", "a/3.png", "c.png", "a/.4.png"])
    (tmp_path / "a/notes.txt").write_text("no picture")
    inside = [tmp_path / path for path in ("a/3.png", "b/1.png", "b/2.png", "c.png")]
    assert pictures_below(tmp_path) == inside


# ---- archives ----


def pack(root: Path, archive: Path, top: str = "") -> Path:
    """An archive of what is below `root`, inside of a folder `top` if one is given."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for path in paths:
                zipped.write(path, Path(top) / path.relative_to(root))
    else:
        mode = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}[archive.suffix]
        with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
            for path in paths:
                tar.add(path, str(Path(top) / path.relative_to(root)))
    return archive


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "zip"])
@pytest.mark.parametrize("layout", [PLAIN, SPLIT], ids=["plain", "split"])
@pytest.mark.parametrize("top", ["", "pets", "pets/version-2"])
def test_an_archive_is_the_folder(
    tmp_path: Path, write_pictures: WritePictures, kind: str, layout: tuple[str, ...], top: str
) -> None:
    root = write_pictures(tmp_path / "pets", layout)
    (root / layout[0]).with_name("notes.txt").write_text("no picture")
    folder, packed = load(root), load(pack(root, tmp_path / f"pets.{kind}", top))
    assert_same_content(folder, packed)
    assert packed.method == folder.method
    for split_name, split in folder.splits.items():
        expected = [f"{top}/{name}" if top else name for name in names(split)]
        assert names(packed.splits[split_name]) == expected


@pytest.mark.parametrize("layout", [PLAIN, SPLIT], ids=["plain", "split"])
def test_a_folder_around_the_class_folders_is_entered(
    tmp_path: Path, write_pictures: WritePictures, layout: tuple[str, ...]
) -> None:
    write_pictures(tmp_path / "unpacked/pets/version-2", layout)
    (tmp_path / "unpacked/LICENCE").write_text("free")
    assert_same_content(load(tmp_path / "unpacked"), load(tmp_path / "unpacked/pets/version-2"))


@pytest.mark.parametrize("name", ["pets.tar", "pets.tar.xz", "pets.zip"])
def test_an_archive_takes_no_more_memory_than_its_pictures(
    tmp_path: Path, write_pictures: WritePictures, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    archive = pack(write_pictures(tmp_path / "pets", PLAIN), tmp_path / name)
    tracemalloc.start()
    load(archive)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20  # a reader that is asked for as much as a picture may have takes 256 MB
    monkeypatch.setattr("resvision.data.archives.MAX_MEMBER_BYTES", 50)
    with pytest.raises(DataError, match=r"the member .* is larger than 0 MB"):
        load(archive)


def test_an_archive_needs_no_extension(tmp_path: Path, write_pictures: WritePictures) -> None:
    root = write_pictures(tmp_path / "pets", PLAIN)
    for kind in ("tar", "zip"):
        without = pack(root, tmp_path / f"pets.{kind}").rename(tmp_path / f"packed-{kind}")
        assert_same_content(load(root), load(without))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_order_of_the_members_does_not_matter(tmp_path: Path, write_pictures: WritePictures, kind: str) -> None:
    root = write_pictures(tmp_path / "pets", PLAIN)
    archive = tmp_path / f"pets.{kind}"
    backwards = list(reversed(PLAIN))
    if kind == "tar":
        with tarfile.open(archive, "w") as tar:
            for relative in backwards:
                tar.add(root / relative, relative)
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for relative in backwards:
                zipped.write(root / relative, relative)
    assert_same_content(load(root), load(archive))


@pytest.mark.parametrize("layout", [PLAIN, SPLIT], ids=["plain", "split"])
def test_an_archive_made_with_folder_members(
    tmp_path: Path, write_pictures: WritePictures, layout: tuple[str, ...]
) -> None:
    root = write_pictures(tmp_path / "pets", layout)
    with tarfile.open(tmp_path / "named.tar", "w") as tar:
        tar.add(root, "pets")  # as `tar -c pets` does
    with zipfile.ZipFile(tmp_path / "named.zip", "w") as zipped:
        for path in sorted(root.rglob("*")):
            zipped.write(path, path.relative_to(root))
    for archive in ("named.tar", "named.zip"):
        assert_same_content(load(root), load(tmp_path / archive))


@pytest.mark.parametrize("layout", [PLAIN, SPLIT], ids=["plain", "split"])
def test_an_archive_made_from_within_the_folder(
    tmp_path: Path, write_pictures: WritePictures, layout: tuple[str, ...]
) -> None:
    root = write_pictures(tmp_path / "pets", layout)
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(root, ".")  # as `tar -c .` does: its first member is "."
    assert_same_content(load(root), load(tmp_path / "pets.tar"))


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("layout", [PLAIN, SPLIT], ids=["plain", "split"])
def test_a_licence_beside_the_folder_in_an_archive(
    tmp_path: Path, write_pictures: WritePictures, layout: tuple[str, ...], kind: str
) -> None:
    root = write_pictures(tmp_path / "all" / "photos", layout)
    for place in (root, root.parent):
        (place / "LICENSE").write_text("no picture")
    packed = load(pack(root.parent, tmp_path / f"photos.{kind}"))
    assert_same_content(load(root), packed)
    assert packed.unused == ()


def test_pictures_beside_the_classes_are_named(tmp_path: Path, write_pictures: WritePictures) -> None:
    loose = ["all.png", "photos/some.png", "photos/train/one.png"]
    root = write_pictures(tmp_path / "a", [*(f"photos/{path}" for path in SPLIT), *loose])
    packed = load(pack(root, tmp_path / "a.zip"))
    assert {name: len(split) for name, split in packed.splits.items()} == {"train": 3, "val": 3}
    assert packed.method == f"given by folders ({', '.join(loose)} beside them: not used)"
    assert load(root / "photos").unused == ("some.png", "train/one.png")
    classes = load(
        pack(write_pictures(tmp_path / "b", [*(f"x/{path}" for path in PLAIN), "1.png"]), tmp_path / "b.tar")
    )
    assert classes.classes == ("cat", "dog")
    assert len(classes.splits["all"]) == len(PLAIN)
    assert prepare(classes).method.endswith("by a hash of each picture's content (1.png beside them: not used)")


def test_of_a_member_that_is_packed_twice_the_last_counts(
    tmp_path: Path, write_pictures: WritePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_pictures(tmp_path / "pets", PLAIN)
    archive = pack(root, tmp_path / "pets.tar")
    with tarfile.open(archive, "a") as tar:  # as `tar -r` and `tar -u` do
        tar.add(root / "dog/5.png", "./cat/1.png")
    monkeypatch.setattr("resvision.data.sources.MAX_ARCHIVE_BYTES", sum(map(len, contents(load(root).splits["all"]))))
    split = load(archive).splits["all"]
    assert names(split) == list(PLAIN)
    assert split.pictures.content(0) == (root / "dog/5.png").read_bytes()


def test_an_empty_class_folder_in_an_archive(tmp_path: Path, write_pictures: WritePictures) -> None:
    root = write_pictures(tmp_path / "pets", PLAIN)
    (root / "emu").mkdir()
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(root, "pets")
    with pytest.raises(DataError, match="there is no picture of emu; every split"):
        load(tmp_path / "pets.tar")


def test_what_is_hidden_in_an_archive_is_passed_over(tmp_path: Path, write_pictures: WritePictures) -> None:
    root = write_pictures(tmp_path / "pets", [*PLAIN, "__MACOSX/cat/1.png", ".cache/1.png", "cat/._1.png"])
    archive = pack(root, tmp_path / "pets.zip")
    assert names(load(archive).splits["all"]) == list(PLAIN)


@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "/etc/evil.png"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_outside_of_the_archive_is_refused(
    tmp_path: Path, write_pictures: WritePictures, name: str, kind: str
) -> None:
    root = write_pictures(tmp_path / "pets", PLAIN)
    content = (root / PLAIN[0]).read_bytes()
    archive = pack(root, tmp_path / f"pets.{kind}")
    if kind == "tar":
        with tarfile.open(archive, "a") as tar:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    else:
        with zipfile.ZipFile(archive, "a") as zipped:
            zipped.writestr(name, content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=rf"pets\.{kind}: the member '{name}' points outside the archive"):
        load(archive)
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_beside_train_are_named(tmp_path: Path, write_pictures: WritePictures) -> None:
    root = write_pictures(tmp_path / "pets", [*SPLIT, "vaild/cat/1.png", "vaild/dog/1.png"])
    assert "(vaild beside them: not used)" in load(root).method
    assert "not used" not in load(write_pictures(tmp_path / "others", SPLIT)).method


@pytest.mark.parametrize("form", ["tar", "tar.xz"])
def test_the_second_name_of_a_file_in_a_tar_archive_is_a_picture(
    tmp_path: Path, write_pictures: WritePictures, form: str
) -> None:
    root = write_pictures(tmp_path / "pets", PLAIN)
    (root / "cat" / "9.png").hardlink_to(root / PLAIN[0])
    packed = load(pack(root, tmp_path / f"pets.{form}")).splits["all"]
    assert names(packed) == sorted([*PLAIN, "cat/9.png"])
    first, last = (packed.pictures.content(names(packed).index(name)) for name in (PLAIN[0], "cat/9.png"))
    assert first == last == (root / PLAIN[0]).read_bytes()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_out_and_devices_in_a_tar_archive_are_passed_over(
    tmp_path: Path, write_pictures: WritePictures, kind: bytes
) -> None:
    root = write_pictures(tmp_path / "pets", PLAIN)
    (tmp_path / "secret.png").write_bytes((root / PLAIN[0]).read_bytes())
    archive = pack(root, tmp_path / "pets.tar")
    with tarfile.open(archive, "a") as tar:
        member = tarfile.TarInfo("cat/0.png")
        member.type = kind
        member.linkname = str(tmp_path / "secret.png")
        tar.addfile(member)
    assert names(load(archive).splits["all"]) == list(PLAIN)


def test_links_in_a_zip_archive_are_passed_over(tmp_path: Path, write_pictures: WritePictures) -> None:
    archive = pack(write_pictures(tmp_path / "pets", PLAIN), tmp_path / "pets.zip")
    with zipfile.ZipFile(archive, "a") as zipped:
        member = zipfile.ZipInfo("cat/0.png")
        member.create_system = 3  # Unix, whose file mode is in the upper half of the attributes
        member.external_attr = 0o120777 << 16
        zipped.writestr(member, "1.png")
    assert names(load(archive).splits["all"]) == list(PLAIN)


def gradients(root: Path) -> Path:
    """Pictures that compress well and fill several blocks of any compression."""
    for i in range(40):
        path = root / ("cat", "dog")[i % 2] / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[0:64, 0:64]
        values = np.stack([x * (i + 1) % 251, y * (i + 3) % 241, (x * y + i) % 239], axis=2).astype(np.uint8)
        Image.fromarray(values + noise(64, 64, 1, seed=i) % 4).save(path)
    return root


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
@pytest.mark.parametrize("where", [0.25, 0.5, 0.75])
def test_a_damaged_archive_is_refused(tmp_path: Path, kind: str, damage: str, where: float) -> None:
    archive = pack(gradients(tmp_path / "pets"), tmp_path / f"pets.{kind}")
    assert len(load(archive).splits["all"]) == 40
    data = archive.read_bytes()
    place = int(where * len(data))
    archive.write_bytes(data[:place] if damage == "cut off" else data[:place] + b"\xff" * 999 + data[place + 999 :])
    with pytest.raises(DataError, match=rf"pets\.{kind}: (the archive cannot be read|neither a folder)"):
        load(archive)


def test_a_tar_archive_with_a_damaged_member_is_refused(tmp_path: Path) -> None:
    archive = pack(gradients(tmp_path / "pets"), tmp_path / "pets.tar")
    with tarfile.open(archive) as tar:
        place = tar.getmembers()[30].offset
    data = archive.read_bytes()
    archive.write_bytes(data[:place] + b"\xff" * 99 + data[place + 99 :])
    with pytest.raises(DataError, match=r"pets\.tar: the archive cannot be read \("):
        load(archive)


def test_a_tar_archive_that_is_cut_off(tmp_path: Path) -> None:
    archive = pack(gradients(tmp_path / "pets"), tmp_path / "pets.tar")
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2 - 100])
    with pytest.raises(DataError, match=r"pets\.tar: the archive cannot be read \("):
        load(archive)


def test_an_encrypted_archive_is_refused(tmp_path: Path, write_pictures: WritePictures) -> None:
    archive = pack(write_pictures(tmp_path / "pets", PLAIN), tmp_path / "pets.zip")
    data = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.index(signature)
        data[place + flags] |= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"pets\.zip: the archive cannot be read \(.*encrypted"):
        load(archive)


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar.gz", "pets.txt"])
def test_a_file_of_another_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"<html>not found</html>" * 50)
    with pytest.raises(DataError, match=rf"{name}: neither a folder, a CSV manifest, nor a tar or zip archive"):
        load(tmp_path / name)


# ---- manifests ----


@pytest.fixture
def manifest(tmp_path: Path, write_pictures: WritePictures) -> Callable[..., Path]:
    """Writes rows as a manifest beside five pictures in the folder `files`."""
    write_pictures(tmp_path, [f"files/{i}.png" for i in range(1, 6)])

    def write(*rows: str, name: str = "list.csv", encoding: str = "utf-8", newline: str = "\n") -> Path:
        (tmp_path / name).write_bytes("".join(row + newline for row in rows).encode(encoding))
        return tmp_path / name

    return write


def test_the_default_columns(manifest: Callable[..., Path], tmp_path: Path) -> None:
    path = manifest("id,path,label", "7,files/1.png,dog", "8,files/2.png,cat", "9,files/3.png,dog")
    dataset = load(path)
    assert dataset.name == str(path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.method == "none"
    assert list(dataset.splits) == ["all"]
    split = dataset.splits["all"]
    assert names(split) == ["files/1.png", "files/2.png", "files/3.png"]
    assert split.labels.tolist() == [1, 0, 1]
    assert split.pictures.content(1) == (tmp_path / "files/2.png").read_bytes()


def test_the_manifest_is_found_from_anywhere(
    manifest: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest("path,label", "files/1.png,dog", f"{tmp_path}/files/2.png,cat")
    monkeypatch.chdir(tmp_path / "files")
    split = load(os.path.join("..", "list.csv")).splits["all"]  # noqa: PTH118 - a string, as on the command line
    assert contents(split) == [(tmp_path / f"files/{i}.png").read_bytes() for i in (1, 2)]


def test_named_columns(manifest: Callable[..., Path]) -> None:
    path = manifest("file,kind,part", "files/1.png,a,train", "files/2.png,b,train", "files/3.png,a,val")
    columns = Columns(path="file", label="kind")
    assert {name: len(split) for name, split in load(path, columns).splits.items()} == {"all": 3}
    rows = [f"files/{i}.png,{'ab'[i % 2]},{'train' if i < 3 else 'val'}" for i in range(1, 5)]
    path = manifest("file,kind,part", *rows)
    dataset = load(path, Columns(path="file", label="kind", split="part"))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 2, "val": 2}
    assert dataset.method == "given by the column part"


@pytest.mark.parametrize("word", ["val", "valid", "validation", "VAL", " Val "])
def test_a_split_column(manifest: Callable[..., Path], word: str) -> None:
    path = manifest(
        "path,label,split",
        *("files/1.png,cat,train", "files/2.png,dog,train"),
        *(f"files/3.png,cat,{word}", f"files/4.png,dog,{word}"),
        *("files/5.png,cat,test", "files/1.png,dog,Test"),
    )
    dataset = load(path)
    assert {name: names(split) for name, split in dataset.splits.items()} == {
        "train": ["files/1.png", "files/2.png"],
        "val": ["files/3.png", "files/4.png"],
        "test": ["files/5.png", "files/1.png"],
    }
    assert dataset.method == "given by the column split"


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("true", "false"), ("1", "0")])
def test_a_column_that_says_what_is_for_validation(manifest: Callable[..., Path], yes: str, no: str) -> None:
    path = manifest(
        "path,label,is_valid",
        *(f"files/1.png,cat,{no}", f"files/2.png,dog,{no}", f"files/3.png,cat,{yes}", f"files/4.png,dog,{yes}"),
    )
    dataset = load(path, Columns(split="is_valid"))
    assert {name: names(split) for name, split in dataset.splits.items()} == {
        "train": ["files/1.png", "files/2.png"],
        "val": ["files/3.png", "files/4.png"],
    }


def test_numbers_as_labels_are_ordered_by_value(manifest: Callable[..., Path]) -> None:
    path = manifest("path,label", "files/1.png,10", "files/2.png,9", "files/3.png,100")
    dataset = load(path)
    assert dataset.classes == ("9", "10", "100")
    assert dataset.splits["all"].labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_and_any_line_end(manifest: Callable[..., Path], encoding: str, newline: str) -> None:
    path = manifest("path,label", "files/1.png,Käse", "files/2.png,猫", encoding=encoding, newline=newline)
    dataset = load(path)
    assert dataset.classes == ("Käse", "猫")
    assert names(dataset.splits["all"]) == ["files/1.png", "files/2.png"]


def test_quoted_cells_and_tabs(manifest: Callable[..., Path]) -> None:
    quoted = load(manifest("path,label", '"files/1.png","cat, black"', 'files/2.png,"the ""dog"""'))
    assert quoted.classes == ("cat, black", 'the "dog"')
    tabbed = load(manifest("path\tlabel", "files/1.png\tcat, black", "files/2.png\tdog", name="list.tsv"))
    assert tabbed.classes == ("cat, black", "dog")
    for separator in (";", "\t"):  # as some spreadsheets write .csv
        rows = [row.replace("|", separator) for row in ("path|label", "files/1.png|cat, black", "files/2.png|dog")]
        assert load(manifest(*rows)).classes == ("cat, black", "dog")


def test_blanks_around_labels_make_no_other_class(manifest: Callable[..., Path]) -> None:
    spaced = load(manifest("path, label", "files/1.png, cat", "files/2.png,cat ", "files/3.png,dog"))
    assert spaced.classes == ("cat", "dog")
    assert spaced.splits["all"].labels.tolist() == [0, 0, 1]
    with pytest.raises(DataError, match="line 2: the column label is empty"):
        load(manifest("path,label", "files/1.png,  "))


def test_what_is_no_text(manifest: Callable[..., Path]) -> None:
    path = manifest("path,label", "files/1.png,cat", encoding="utf-16")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"list\.csv: not text \(.*truncated data.*\); save it as UTF-8"):
        load(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(), r"no column 'path'; it has file, kind, part\. Name it with --path-column"),
        (Columns(path="file"), r"no column 'label'; it has file, kind, part\. Name it with --label-column"),
        (Columns(path="file", label="kind", split="set"), r"no column 'set'; it has .*\. Name it with --split-column"),
    ],
)
def test_a_missing_column(manifest: Callable[..., Path], columns: Columns, message: str) -> None:
    with pytest.raises(DataError, match=r"list\.csv: there is " + message):
        load(manifest("file,kind,part", "files/1.png,cat,train", "files/2.png,dog,train"), columns)


def test_two_columns_of_one_name(manifest: Callable[..., Path]) -> None:
    path = manifest("path,label,label,note,note", "files/1.png,cat,tom,x,y", "files/2.png,dog,rex,x,y")
    with pytest.raises(DataError, match=r"list\.csv: two columns are called 'label'; rename the one"):
        load(path)
    others = manifest("path,label,note,note,,", "files/1.png,cat,x,y,,", "files/2.png,dog,x,y,,")
    assert load(others).classes == ("cat", "dog")


@pytest.mark.parametrize("rows", [(), ("", "path,label", "files/1.png,cat")])
def test_a_manifest_without_a_header(manifest: Callable[..., Path], rows: tuple[str, ...]) -> None:
    with pytest.raises(
        DataError, match=r"list\.csv: has no header line; give one with the columns, such as path,label$"
    ):
        load(manifest(*rows))


def test_more_fields_than_the_header_has(manifest: Callable[..., Path]) -> None:
    message = r"list\.csv, line 3: has more fields than the header; put names with commas in quotes$"
    with pytest.raises(DataError, match=message):
        load(manifest("path,label", "files/1.png,Beagle", "files/2.png,Poodle, Toy"))
    assert load(manifest("path,label", "files/1.png,Beagle,", "files/2.png,Poodle,,")).classes == ("Beagle", "Poodle")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",cat", "line 3: the column path is empty"),
        ("files/2.png,", "line 3: the column label is empty"),
        ("files/2.png", "line 3: the column label is empty"),
    ],
)
def test_an_empty_cell(manifest: Callable[..., Path], row: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"list\.csv, {message}$"):
        load(manifest("path,label", "files/1.png,cat", row, "files/3.png,dog"))


def test_blank_lines_are_passed_over_and_counted(manifest: Callable[..., Path]) -> None:
    path = manifest("path,label", "", "files/1.png,cat", "", "", "files/2.png,dog")
    assert names(load(path).splits["all"]) == ["files/1.png", "files/2.png"]
    with pytest.raises(DataError, match=r"list\.csv, line 6: the column label is empty$"):
        load(manifest("path,label", "", "files/1.png,cat", "", "", "files/2.png,"))


def test_an_unknown_split(manifest: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"list\.csv, line 3: the split 'holdout' is not train, val or test$"):
        load(manifest("path,label,split", "files/1.png,cat,train", "files/2.png,dog,holdout"))


def test_a_manifest_whose_splits_have_different_classes(manifest: Callable[..., Path]) -> None:
    rows = ["files/1.png,cat,train", "files/2.png,dog,train", "files/3.png,cat,val", "files/4.png,emu,val"]
    with pytest.raises(DataError, match="the classes of val differ from those of train: it lacks dog and adds emu"):
        load(manifest("path,label,split", *rows))


def test_a_manifest_without_rows(manifest: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"list\.csv: holds no rows$"):
        load(manifest("path,label"))


def test_a_manifest_with_one_class(manifest: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"list\.csv: only the class 'cat' was found"):
        prepare(load(manifest("path,label", "files/1.png,cat", "files/2.png,cat")))


def test_a_quote_that_is_never_closed_is_one_error(manifest: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"list\.csv"):
        load(manifest("path,label", 'files/1.png,"cat', *["files/2.png,dog"] * 10_000))


def test_a_manifest_of_files_whose_names_are_not_text(tmp_path: Path, write_pictures: WritePictures) -> None:
    write_pictures(tmp_path, ["1.png", "2.png"])
    (tmp_path / "1.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    (tmp_path / "list.csv").write_bytes(b"path,label\ncaf\xe9.png,cat\n2.png,dog\n")
    split = load(tmp_path / "list.csv").splits["all"]
    assert split.pictures.name(0) == r"caf\xe9.png"
    assert split.pictures.header(0).width > 0


def test_a_file_that_a_manifest_names_in_vain(manifest: Callable[..., Path]) -> None:
    split = load(manifest("path,label", "files/1.png,cat", "files/99.png,dog")).splits["all"]
    with pytest.raises(PictureError, match=r"^files/99\.png: cannot be read \(No such file or directory\)$"):
        split.pictures.header(1)


# ---- arrays ----


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 3)])
def test_arrays_with_integer_labels(shape: tuple[int, ...]) -> None:
    array = noise(*shape)
    dataset = from_arrays((array, np.array([0, 1, 2, 2, 1, 0])))
    assert dataset.classes == ("0", "1", "2")
    assert list(dataset.splits) == ["train"]
    assert dataset.splits["train"].labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert contents(dataset.splits["train"]) == [picture.tobytes() for picture in array]


def test_arrays_with_names_as_labels() -> None:
    dataset = from_arrays((noise(4, 5, 5), ["dog", "cat", "dog", "emu"]))
    assert dataset.classes == ("cat", "dog", "emu")
    assert dataset.splits["train"].labels.tolist() == [1, 0, 1, 2]
    given = from_arrays((noise(4, 5, 5), ["dog", "cat", "dog", "emu"]), classes=["emu", "dog", "cat"])
    assert given.classes == ("emu", "dog", "cat")
    assert given.splits["train"].labels.tolist() == [1, 2, 1, 0]


def test_integers_are_names_all_together_or_not_at_all() -> None:
    """Of classes that are called by numbers: 0 to 4 index "1" to "5", and 1 to 5 are their names."""
    classes = ["1", "2", "3", "4", "5"]
    for labels in ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5], ["1", "2", "3", "4", "5"]):
        assert array_split((noise(5, 8, 8), labels), classes, "x").labels.tolist() == [0, 1, 2, 3, 4]


def test_what_keeps_integers_from_being_names_is_named() -> None:
    with pytest.raises(DataError, match=r"labels that no class has: 31; the classes are 10, 20, 30"):
        array_split((noise(4, 8, 8), [10, 20, 30, 31]), ["10", "20", "30"], "x")
    with pytest.raises(DataError, match=r"labels that no class has: 0; the classes are 1, 2, 3"):
        array_split((noise(4, 8, 8), [0, 1, 2, 3]), ["1", "2", "3"], "x")
    with pytest.raises(DataError, match=r"labels that no class has: 5; the classes are a, b"):
        array_split((noise(2, 8, 8), [0, 5]), ["a", "b"], "x")


def test_integer_labels_index_the_given_classes() -> None:
    dataset = from_arrays((noise(3, 5, 5), [2, 0, 1]), classes=["emu", "dog", "cat"])
    assert dataset.classes == ("emu", "dog", "cat")
    assert dataset.splits["train"].labels.tolist() == [2, 0, 1]
    by_name = from_arrays((noise(3, 5, 5), [30, 10, 20]), classes=["10", "20", "30"])
    assert by_name.splits["train"].labels.tolist() == [2, 0, 1]


def test_class_names_become_text() -> None:
    for classes in ([0, 1], np.array(["0", "1"]), np.array([0, 1])):
        dataset = from_arrays((noise(2, 5, 5), [1, 0]), classes=classes)  # type: ignore[arg-type]
        assert dataset.classes == ("0", "1")
        assert {type(name) for name in dataset.classes} == {str}
        assert dataset.splits["train"].labels.tolist() == [1, 0]
    by_name = array_split((noise(2, 5, 5), [20, 10]), [10, 20], "x")  # type: ignore[list-item]
    assert by_name.labels.tolist() == [1, 0]


def test_numbers_without_names_are_ordered_by_value() -> None:
    dataset = from_arrays((noise(3, 5, 5), [100, 9, 10]))
    assert dataset.classes == ("9", "10", "100")
    assert dataset.splits["train"].labels.tolist() == [2, 0, 1]


def test_arrays_for_validation() -> None:
    dataset = from_arrays((noise(4, 5, 5), [0, 1, 0, 1]), validation=(noise(2, 5, 5, seed=1), [1, 0]))
    assert sorted(dataset.splits) == ["train", "val"]
    assert dataset.splits["val"].labels.tolist() == [1, 0]
    assert contents(dataset.splits["val"])[0] == noise(2, 5, 5, seed=1)[0].tobytes()
    assert prepare(dataset) is dataset


def test_tensors_and_lists_are_arrays() -> None:
    array = noise(4, 5, 5, 3)
    expected = from_arrays((array, [0, 1, 0, 1]))
    for given in ((torch.from_numpy(array), torch.tensor([0, 1, 0, 1])), (list(array), ("0", "1", "0", "1"))):
        assert_same_content(from_arrays(given), expected)


def test_validation_with_other_classes() -> None:
    with pytest.raises(DataError, match="arrays: the classes of val differ from those of train: it lacks 1 and adds 2"):
        from_arrays((noise(2, 5, 5), [0, 1]), validation=(noise(2, 5, 5), [0, 2]))


def test_as_many_labels_as_pictures() -> None:
    with pytest.raises(DataError, match=r"^train: 4 pictures, but 3 labels$"):
        from_arrays((noise(4, 5, 5), [0, 1, 1]))
    with pytest.raises(DataError, match=r"^val: 2 pictures, but 3 labels$"):
        from_arrays((noise(2, 5, 5), [0, 1]), validation=(noise(2, 5, 5), [0, 1, 1]))


@pytest.mark.parametrize("label", [2, -1, "emu"])
def test_labels_outside_of_the_classes(label: object) -> None:
    message = f"^train: labels that no class has: {label}; the classes are cat, dog$"
    with pytest.raises(DataError, match=message):
        from_arrays((noise(3, 5, 5), np.array(["cat", "dog", label], dtype=object)), classes=["cat", "dog"])


@pytest.mark.parametrize("label", [None, "", 0.5, float("nan"), b"cat"])
@pytest.mark.parametrize("as_array", [False, True])
def test_labels_that_are_none(label: object, as_array: bool) -> None:
    labels = ["cat", "dog", label]
    with pytest.raises(
        DataError, match=rf"^train: picture 2 has the label {label!r}: give class names or whole numbers$"
    ):
        from_arrays((noise(3, 5, 5), np.array(labels, dtype=object) if as_array else labels))
    if isinstance(label, float):
        with pytest.raises(DataError, match=f"picture 1 has the label {label!r}"):
            from_arrays((noise(3, 5, 5), np.array([0.0, label, 1.0])))


def test_whole_numbers_may_be_of_a_column_with_gaps() -> None:
    assert from_arrays((noise(3, 5, 5), np.array([0.0, 2.0, 10.0]))).classes == ("0", "2", "10")


def test_integers_that_may_be_names_or_places_are_refused() -> None:
    with pytest.raises(
        DataError, match="labels such as 1 may be names or places of the classes 2, 1, 0: give names as"
    ):
        from_arrays((noise(3, 5, 5), [1, 0, 2]), classes=["2", "1", "0"])
    as_text = from_arrays((noise(3, 5, 5), ["1", "0", "2"]), classes=["2", "1", "0"])
    assert as_text.splits["train"].labels.tolist() == [1, 2, 0]
    assert array_split((noise(2, 5, 5), [30, 10]), ["30", "20", "10"], "x").labels.tolist() == [0, 2]  # no places


def test_classes_are_a_list() -> None:
    with pytest.raises(DataError, match="classes='xyz': give a list of names"):
        from_arrays((noise(3, 5, 5), [0, 1, 2]), classes="xyz")


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_pictures_of_other_types_are_refused(dtype: type) -> None:
    message = rf"^train: pictures of type {np.dtype(dtype)}: give uint8 values in 0\.\.255$"
    with pytest.raises(DataError, match=message):
        from_arrays((np.zeros((2, 5, 5), dtype=dtype), [0, 1]))


def test_pictures_of_different_sizes_are_refused() -> None:
    with pytest.raises(DataError, match=r"^train: "):
        from_arrays(([noise(5, 5), noise(6, 5)], [0, 1]))


def test_a_pair_is_asked_for() -> None:
    for given in (noise(3, 5, 5), (noise(3, 5, 5),), (noise(3, 5, 5), [0, 1, 1], ["cat", "dog"])):
        with pytest.raises(DataError, match=r"^train: give a pair \(pictures, labels\)$"):
            from_arrays(given)  # type: ignore[arg-type]


def test_a_split_of_arrays() -> None:
    for labels in (["dog", "cat", "cat"], np.array([1, 0, 0])):
        split = array_split((noise(3, 5, 5), labels), ["cat", "dog"], "held")
        assert split.labels.tolist() == [1, 0, 0]
        assert names(split) == ["held[0]", "held[1]", "held[2]"]


# ---- preparing ----


def test_a_fifth_is_divided_off_for_validation() -> None:
    labels = np.repeat([0, 1, 2], (10, 20, 50))
    dataset = prepare(from_arrays((noise(80, 4, 4), labels)))
    assert sorted(dataset.splits) == ["train", "val"]
    assert np.bincount(dataset.splits["val"].labels).tolist() == [2, 4, 10]
    assert np.bincount(dataset.splits["train"].labels).tolist() == [8, 16, 40]
    assert dataset.method == "20% of each class for validation, by a hash of each picture's content"
    assert dataset.classes == ("0", "1", "2")


def test_splits_that_are_given_stay(tmp_path: Path, write_pictures: WritePictures) -> None:
    with_val = load(write_pictures(tmp_path / "a", SPLIT))
    assert prepare(with_val) is with_val
    with_test = load(write_pictures(tmp_path / "b", [path.replace("val", "test") for path in SPLIT]))
    assert prepare(with_test) is with_test


def test_a_training_split_alone_is_divided(tmp_path: Path, write_pictures: WritePictures) -> None:
    paths = [f"train/{label}/{i}.png" for label in ("cat", "dog") for i in range(10)]
    dataset = prepare(load(write_pictures(tmp_path, paths)))
    assert {name: np.bincount(split.labels).tolist() for name, split in dataset.splits.items()} == {
        "train": [8, 8],
        "val": [2, 2],
    }


def test_no_training_split(manifest: Callable[..., Path]) -> None:
    rows = ["files/1.png,cat,val", "files/2.png,dog,val", "files/3.png,cat,test", "files/4.png,dog,test"]
    with pytest.raises(DataError, match=r"there is no train split, only val, test$"):
        prepare(load(manifest("path,label,split", *rows)))


def test_the_division_survives_renaming_and_reordering(tmp_path: Path, write_pictures: WritePictures) -> None:
    paths = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(20)]
    root = write_pictures(tmp_path, paths)
    before = {name: set(contents(split)) for name, split in prepare(load(root)).splits.items()}
    assert {name: len(found) for name, found in before.items()} == {"train": 32, "val": 8}
    for i, path in enumerate(np.random.default_rng(0).permutation(paths)):
        (root / str(path)).rename(root / Path(str(path)).parent / f"picture-{i:03}.png")
    after = {name: set(contents(split)) for name, split in prepare(load(root)).splits.items()}
    assert after == before


def test_copies_are_never_on_both_sides(tmp_path: Path, write_pictures: WritePictures) -> None:
    root = write_pictures(tmp_path, [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(10)])
    for path in list(root.rglob("*.png")):
        for copy in range(3):
            path.with_stem(f"{copy}-copy-of-{path.stem}").write_bytes(path.read_bytes())
    dataset = prepare(load(root))
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert not set(contents(train)) & set(contents(val))
    assert np.bincount(train.labels).tolist() == [32, 32]
    assert np.bincount(val.labels).tolist() == [8, 8]


def test_a_class_of_one_picture_cannot_be_prepared(tmp_path: Path, write_pictures: WritePictures) -> None:
    with pytest.raises(
        DataError,
        match=r"the class of emu/6\.png has fewer than two pictures of its own and cannot be divided: add pictures, or "
        r"give the splits \(to evaluate all of them: --split all\)$",
    ):
        prepare(load(write_pictures(tmp_path, [*PLAIN, "emu/6.png"])))


def test_flip_survives_preparing() -> None:
    given = from_arrays((noise(10, 4, 4), [0, 1] * 5))
    plain = DataSet(name="x", classes=given.classes, splits=given.splits, method="none", flip=False)
    assert prepare(plain).flip is False
    assert prepare(given).flip is True

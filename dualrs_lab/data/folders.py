"""Folder layouts of image data sets, read into a `Listing` of files and labels; nothing is decoded here.

Errors state the folder or file and the remedy; `data.load_images` puts the call in front.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dualrs_lab.data.decoding import Fit, Listing

__all__ = ["SUFFIXES", "list_folder", "list_imagenet", "list_tiny_imagenet"]


SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


_SYNSETS = "LOC_synset_mapping.txt"


_IMAGENET_FIT = Fit(resize=256, crop=224)  # the evaluation transform of every published ImageNet certificate


def list_folder(path: Path, split: str, fit: Fit) -> Listing:
    """train/ and test/ with the same class folders, or else one folder of class folders, split 80/20.

    That split ranks the files of each class by a hash of their names and tests on the lowest fifth: it
    depends on nothing but the names, and adding a file moves at most one other. Class folders are not
    searched deeper; hidden files and those with suffixes other than `SUFFIXES` are left out. The split "all"
    is every image of either, or of a folder that holds images and no folders: one class then, without a name.
    """
    found = _subfolders(path)
    if split == "all" and not found and (alone := _images(path, ".")):
        return _listing(path, {"": alone}, fit, reference=alone[0])
    if "train" not in found and "test" not in found:
        files = _files_by_class(path, "", found)
        parts = files if split == "all" else {name: _part(path, part, split) for name, part in files.items()}
        return _listing(path, parts, fit, reference=files[found[0]][0])
    if not {"train", "test"} <= set(found):
        lack = "test" if "train" in found else "train"
        raise FileNotFoundError(
            f"there is no folder {path / lack}; {path} needs train/ and test/, or class folders only"
        )
    _same_classes(path / "train", path / "test")
    train, test = (_files_by_class(path, f"{part}/", _subfolders(path / part)) for part in ("train", "test"))
    both = {name: sorted([*train[name], *test[name]]) for name in train}
    chosen = {"train": train, "test": test, "all": both}[split]
    return _listing(path, chosen, fit, reference=next(iter(train.values()))[0])


def list_tiny_imagenet(root: Path, split: str) -> Listing:
    """Tiny ImageNet-200 as unzipped in `root`; "test" is its val/, as its test/ has no labels."""
    base = root if (root / "wnids.txt").is_file() else root / "tiny-imagenet-200"
    if not base.is_dir():
        raise FileNotFoundError(
            f"there is no folder {base}; unzip http://cs231n.stanford.edu/tiny-imagenet-200.zip in {root}, "
            "or give the folder that holds it as root or $DUALRS_DATA"
        )
    wnids = sorted(_lines(base / "wnids.txt"))
    if not wnids:
        raise ValueError(f"{base / 'wnids.txt'} names no classes; unpack the data set again")
    if split == "train":
        files = {wnid: _images(base, f"train/{wnid}/images") for wnid in wnids}
    else:
        files = _annotated(base, wnids)
    return _listing(base, files, Fit(), reference=files[wnids[0]][0], names=_words(base))


def list_imagenet(root: Path, split: str) -> Listing:
    """ImageNet from train/<wnid>/ and val/<wnid>/ in `root`/imagenet or `root`; "test" is val/.

    Either may be missing as long as the other is used. Class names come from words.txt where there is one.
    With LOC_synset_mapping.txt, which Kaggle's copy has and which lists all classes, the folders may be some
    of them: a sample of ImageNet for networks that tell all.
    """
    base = root if (root / "val").is_dir() or (root / "train").is_dir() else root / "imagenet"
    folder = base / {"train": "train", "test": "val"}[split]
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; get ILSVRC2012 from https://image-net.org, sort it into "
            "train/<wnid>/ and val/<wnid>/, and give the folder that holds them as root or $DUALRS_DATA"
        )
    wnids = _subfolders(folder)
    if not wnids and _images(base, folder.name):
        raise ValueError(
            f"{folder} holds images but no folder per class; sort them into {folder}/<wnid>/, for instance "
            "with valprep.sh of https://github.com/soumith/imagenetloader.torch"
        )
    files = _files_by_class(base, f"{folder.name}/", wnids)
    names, reference = _synsets(base), files[wnids[0]][0]
    if names:
        if strange := sorted({*files} - {*names}):
            raise ValueError(
                f"{base / _SYNSETS} does not list {strange[0]}, and {folder / strange[0]} is there; remove "
                "the folder, or take the file of this data set"
            )
        files = {wnid: files.get(wnid, []) for wnid in names}
    elif (base / "train").is_dir() and (base / "val").is_dir():
        _same_classes(base / "train", base / "val")
    return _listing(base, files, _IMAGENET_FIT, reference=reference, names=names or _words(base))


def _listing(
    base: Path, files: Mapping[str, Sequence[str]], fit: Fit, *, reference: str, names: Mapping[str, str] = {}
) -> Listing:
    return Listing(
        base=base,
        files=tuple(file for part in files.values() for file in part),
        labels=tuple(label for label, part in enumerate(files.values()) for _ in part),
        classes=tuple(names.get(name, name) for name in files),
        reference=reference,
        fit=fit,
    )


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; check the path")
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return _readable(folder, names)


def _images(base: Path, folder: str) -> list[str]:
    """Image files directly in base/folder, as paths relative to `base`, sorted."""
    if not (base / folder).is_dir():
        raise FileNotFoundError(f"there is no folder {base / folder}; unpack the data set again")
    with os.scandir(base / folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES)]
    return [f"{folder}/{name}" for name in _readable(base / folder, names) if not name.startswith(".")]


def _readable(folder: Path, names: Sequence[str]) -> list[str]:
    """The names, sorted; ValueError for one that is no text, which no record could hold."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{folder} holds {name!r}, a name that is not UTF-8; rename it") from None
    return sorted(names)


def _files_by_class(base: Path, prefix: str, classes: Sequence[str]) -> dict[str, list[str]]:
    if not classes:
        raise ValueError(f"{base / prefix} holds no folders; wanted one per class, with its images in it")
    files = {name: _images(base, f"{prefix}{name}") for name in classes}
    for name, part in files.items():
        if not part:
            raise ValueError(
                f"class folder {base / prefix / name} holds no images ({' '.join(SUFFIXES)}); "
                "add some or remove it"
            )
    return files


def _part(base: Path, files: list[str], split: str) -> list[str]:
    """The train or test files of one class."""
    if len(files) < 2:
        raise ValueError(
            f"{base / files[0]} is alone in its class; a split into train and test needs two images"
        )
    ranked = sorted(files, key=lambda file: hashlib.sha256(file.encode()).digest())
    count = max(1, round(len(files) / 5))
    return sorted(ranked[:count] if split == "test" else ranked[count:])


def _same_classes(one: Path, two: Path) -> None:
    first, second = set(_subfolders(one)), set(_subfolders(two))
    for name in sorted(first ^ second):
        have, lack = (one, two) if name in first else (two, one)
        raise ValueError(
            f"class folder {have / name} has no counterpart {lack / name}; add it, or remove the one"
        )


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; unpack the data set again")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); unpack the data set again") from error


def _words(base: Path) -> dict[str, str]:
    """wnid to class name."""
    if not (base / "words.txt").is_file():
        return {}
    return {wnid: words for wnid, _, words in (line.partition("\t") for line in _lines(base / "words.txt"))}


def _synsets(base: Path) -> dict[str, str]:
    """wnid to class name of all classes, sorted: the order of the outputs of published networks."""
    if not (base / _SYNSETS).is_file():
        return {}
    pairs = (line.partition(" ") for line in sorted(_lines(base / _SYNSETS)) if line.strip())
    return {wnid: words or wnid for wnid, _, words in pairs}


def _annotated(base: Path, wnids: Sequence[str]) -> dict[str, list[str]]:
    """The validation images of each class, from val_annotations.txt."""
    files: dict[str, list[str]] = {wnid: [] for wnid in wnids}
    annotations = base / "val" / "val_annotations.txt"
    for line in _lines(annotations):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in files:
            raise ValueError(
                f"{annotations} puts {name} in class {wnid}, which wnids.txt lacks; unpack it again"
            )
        files[wnid].append(f"val/images/{name}")
    if (listed := sorted(file for part in files.values() for file in part)) != _images(base, "val/images"):
        odd = sorted(set(listed) ^ set(_images(base, "val/images")))[0]
        raise ValueError(f"{annotations} and val/images differ in {odd}; unpack the data set again")
    return {wnid: sorted(part) for wnid, part in files.items()}

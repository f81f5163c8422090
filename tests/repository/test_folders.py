"""Model folders: what is read, and what is refused before it is."""

import os
from pathlib import Path

import pytest

from federation.folders import BadFolder, FolderLimits, read_folder
from query.errors import LimitExceeded, Problem
from tests.repository.site import CODE, write_model


def test_a_folder_is_read_whole_and_nothing_else_is(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", more='docs = ["texts/README.md"]\nlicenses = ["MIT"]\n')
    (folder / "texts").mkdir()
    (folder / "texts" / "README.md").write_text("hello")
    (folder / "secret.txt").write_text("not named")
    read = read_folder(folder)
    assert [(file.path, file.kind, file.content) for file in read.files.values()] == [
        ("f.pql", "code", CODE.encode()),
        ("texts/README.md", "doc", b"hello"),
    ]
    assert read.name == "doubler"
    assert read.weight is None


def test_an_onnx_model_brings_signature_needs_labels_and_vectors(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text(
        """
        name = "digits"
        labels = "labels.json"
        vectors = "vectors.json"
        [needs]
        memory_bytes = 1000
        [[inputs]]
        name = "x"
        datatype = "FP32"
        shape = [-1, 64]
        """
    )
    for name in ("model.onnx", "labels.json", "vectors.json"):
        (tmp_path / name).write_bytes(name.encode())
    read = read_folder(tmp_path)
    assert [(file.path, file.kind) for file in read.files.values()] == [
        ("model.onnx", "weight"),
        ("labels.json", "weight.config"),
        ("vectors.json", "dataset"),
    ]
    assert read.weight == b"model.onnx"
    assert read.description.inputs[0].shape == (-1, 64)
    assert read.description.needs.memory_bytes == 1000


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("name = ", "not a model's description"),
        ('name = "m"\nkind = "functions"\nfunction = ["f.pql"]', "unknown field"),
        ('name = "M"\nkind = "functions"\nfunctions = ["f.pql"]', "cannot name a model"),
        ('name = "m"\nkind = "tflite"', "Invalid enum value"),
        ('name = "m"\nkind = "functions"', "at least one file"),
        ('name = "m"\nkind = "functions"\nfunctions = ["f.py"]', ".pql"),
        ('name = "m"\nkind = "functions"\nfunctions = ["../f.pql"]', "cannot be a file"),
        ('name = "m"\nkind = "functions"\nfunctions = ["/etc/f.pql"]', "cannot be a file"),
        ('name = "m"\nkind = "functions"\nfunctions = ["a/../../f.pql"]', "cannot be a file"),
        ('name = "m"\nkind = "functions"\nfunctions = [".hidden.pql"]', "cannot be a file"),
        ('name = "m"\nkind = "functions"\nfunctions = ["f.pql", "f.pql"]', "twice"),
        ('name = "m"\nkind = "functions"\nfunctions = ["f.pql"]\ndocs = ["model.toml"]', "twice, or itself"),
        ('name = "m"\nkind = "functions"\nfunctions = ["gone.pql"]', "does not exist"),
        ('name = "m"\nmodel = "model.onnx"', "does not exist"),
    ],
)
def test_a_wrong_description_names_what_is_wrong(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "f.pql").write_text(CODE)
    (tmp_path / "model.toml").write_text(toml)
    with pytest.raises(Problem, match=message):
        read_folder(tmp_path)


def test_nothing_but_ordinary_files_inside_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f.pql").write_text("stolen")
    for case in ("link", "folder-link", "pipe", "folder"):
        folder = write_model(tmp_path / case)
        (folder / "f.pql").unlink()
        match case:
            case "link":
                (folder / "f.pql").symlink_to(outside / "f.pql")
            case "folder-link":
                (folder / "model.toml").write_text('name = "m"\nkind = "functions"\nfunctions = ["sub/f.pql"]')
                (folder / "sub").symlink_to(outside)
            case "pipe":
                os.mkfifo(folder / "f.pql")
            case "folder":
                (folder / "f.pql").mkdir()
        with pytest.raises(BadFolder, match=r"link|not an ordinary file"):
            read_folder(folder)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadFolder, match="no model folder"):
        read_folder(tmp_path / "gone")
    with pytest.raises(BadFolder, match=r"model\.toml does not exist"):
        read_folder(tmp_path)


def test_each_bound(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", more='docs = ["a.md", "b.md"]\n')
    (folder / "a.md").write_bytes(b"x" * 100)
    (folder / "b.md").write_bytes(b"x" * 100)
    read_folder(folder, FolderLimits(files_max=3, file_bytes_max=100, folder_bytes_max=300))
    with pytest.raises(LimitExceeded, match="names 3 files, expected at most 2"):
        read_folder(folder, FolderLimits(files_max=2))
    with pytest.raises(LimitExceeded, match="100 bytes, expected at most 99"):
        read_folder(folder, FolderLimits(file_bytes_max=99))
    with pytest.raises(LimitExceeded, match=r"b\.md has 100 bytes, expected at most 51"):
        read_folder(folder, FolderLimits(folder_bytes_max=200))
    with pytest.raises(LimitExceeded, match=r"model\.toml"):
        read_folder(folder, FolderLimits(description_bytes_max=20))


@pytest.mark.parametrize(
    "toml",
    [
        'needs = {features = ">=1.2", memory_bytes = 7}',
        '[needs]\nfeatures = ">=1.2"\nmemory_bytes = 7',
        '[needs]\nmemory_bytes = 7\n[needs.releases]\nfeatures = ">=1.2"',
        '[needs]\nmemory_bytes = 7\nreleases = {features = ">=1.2"}',
    ],
)
def test_needs_are_memory_and_other_models(tmp_path: Path, toml: str) -> None:
    read = read_folder(write_model(tmp_path / "m", more=toml))
    assert read.description.needs.memory_bytes == 7
    assert read.description.needs.releases == {"features": ">=1.2"}


def test_a_needed_model_may_be_called_as_the_form_is(tmp_path: Path) -> None:
    more = '[needs.releases]\nmemory_bytes = ">=1"\nreleases = "==spring"'
    read = read_folder(write_model(tmp_path / "m", more=more))
    assert read.description.needs.memory_bytes is None
    assert read.description.needs.releases == {"memory_bytes": ">=1", "releases": "==spring"}


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('needs = {features = "newest"}', '"newest" is no condition on features'),
        ('needs = {doubler = ">=1"}', '"doubler" needs itself'),
        ("needs = {features = 1.2}", 'expected a condition on the version of "features"'),
        ('needs = {memory_bytes = ">=1"}', r"written in \[needs.releases\]"),
        ('needs = {releases = ">=1"}', r"written in \[needs.releases\]"),
        ('[needs]\na = ">=1"\n[needs.releases]\na = ">=1"', 'names "a" twice'),
        ('needs = {"../a" = ">=1"}', "cannot name a model"),
        ('needs = ["features"]', "not a model's description"),
        ("needs = {releases = 3}", "not a model's description"),
    ],
)
def test_needs_that_cannot_be_are_told(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(Problem, match=message):
        read_folder(write_model(tmp_path / "m", more=toml))

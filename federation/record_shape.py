"""The shape of a release record, whoever signed it: names, versions, paths, sizes, and which files each kind has.

Pure. Refuses what no release may be (:class:`WrongDocument`) and what passes a limit (:class:`WrongSize`); whether the
bytes are what the record says is :mod:`federation.verification`'s business. Also that models and pipelines share one
namespace (:func:`check_kind`), wherever releases are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from federation.documents import ReleaseRecord
from federation.errors import WrongDocument, WrongSize
from federation.names import BadName, checked_digest, checked_model, checked_version
from federation.pipelines import DEFINITION_FILE
from federation.states import STATES_MAX
from query.errors import UserProblem

MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024
FILES_PER_RELEASE_MAX: Final = 256
RELEASE_BYTES_MAX: Final = 8 * 1024**3
PATH_LENGTH_MAX: Final = 512  # a model's file inside a pipeline has the model's name and version before it
SIGNING_KEYS_MAX: Final = 16  # of one model in a pipeline

_DEVELOPMENT_VERSION: Final = re.compile(r"dev\+[0-9a-f]{8}")
_PATH_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +@-]*")


class NameOfAnother(UserProblem):
    """A name that a model has cannot become a pipeline's, nor the other way round."""

    code = "name_of_another"


def check_record(record: ReleaseRecord) -> None:
    """Raises :class:`WrongDocument` or :class:`WrongSize`."""
    _check_names(record)
    _check_sizes(record)
    for entry in record.files:
        if not safe_path(entry.path):
            raise WrongDocument(f"{record.label} names a file {entry.path[:80]!r}: expected a plain relative path")
    if len({entry.path.casefold() for entry in record.files}) != len(record.files):
        raise WrongDocument(f"{record.label} names one file twice")
    if record.states and (record.kind != "onnx" or len(record.states) > STATES_MAX):
        raise WrongDocument(
            f"{record.label} is of kind {record.kind} with {len(record.states)} states: expected none, or for onnx at "
            f"most {STATES_MAX}"
        )
    if record.kind == "pipeline":
        _check_pipeline(record)
        return
    weights = sum(entry.kind == "weight" for entry in record.files)
    scripts = sum(entry.kind == "code" and entry.path.endswith(".pql") for entry in record.files)
    if record.members or weights != (record.kind == "onnx") or not weights + scripts:
        raise WrongDocument(
            f"{record.label} is of kind {record.kind} with {weights} weights, {scripts} scripts and "
            f"{len(record.members)} models: expected one weight for onnx, none and a script for functions"
        )


def _check_names(record: ReleaseRecord) -> None:
    try:
        checked_model(record.name)
        if not record.development:
            checked_version(record.version)
        elif not _DEVELOPMENT_VERSION.fullmatch(record.version):
            raise WrongDocument(f'expected a version "dev+" and 8 hex digits, found "{record.version[:80]}"')
        for digest in (record.manifest, *(entry.digest for entry in record.files)):
            checked_digest(digest)
        for member in record.members:
            checked_model(member.name)
            checked_version(member.version)
            checked_digest(member.record)
    except BadName as error:
        raise WrongDocument(f"a release record: {error.message}") from error


def _check_sizes(record: ReleaseRecord) -> None:
    if not 1 <= len(record.files) <= FILES_PER_RELEASE_MAX:
        raise WrongSize(f"{record.label} has {len(record.files)} files, expected 1 to {FILES_PER_RELEASE_MAX}")
    if record.manifest_size > MANIFEST_BYTES_MAX:
        raise WrongSize(
            f"the manifest of {record.label} has {record.manifest_size} bytes, expected at most {MANIFEST_BYTES_MAX}"
        )
    if record.size > RELEASE_BYTES_MAX:
        raise WrongSize(f"{record.label} has {record.size} bytes, expected at most {RELEASE_BYTES_MAX}")


def _check_pipeline(record: ReleaseRecord) -> None:
    if all(entry.path != DEFINITION_FILE for entry in record.files):
        raise WrongDocument(f"{record.label} is of kind pipeline without a {DEFINITION_FILE}")
    if len({member.label for member in record.members}) != len(record.members):
        raise WrongDocument(f"{record.label} names one model twice")
    for member in record.members:
        if not 1 <= len(member.keys) <= SIGNING_KEYS_MAX:
            raise WrongDocument(
                f"{record.label} names {len(member.keys)} keys of {member.label}, expected 1 to {SIGNING_KEYS_MAX}"
            )


def safe_path(path: str) -> bool:
    """Whether ``path`` names a file below a folder on every system: relative, plain characters, no ``.`` or ``..``
    part.
    """
    return len(path) <= PATH_LENGTH_MAX and all(_PATH_PART.fullmatch(part) for part in path.split("/"))


def check_kind(record: ReleaseRecord, others: Iterable[ReleaseRecord]) -> None:
    """Models and pipelines share one namespace. Raises :class:`NameOfAnother`."""
    for other in others:
        if (other.kind == "pipeline") != (record.kind == "pipeline"):
            what, kind = ("pipeline", "model") if record.kind == "pipeline" else ("model", "pipeline")
            raise NameOfAnother(
                f'"{record.name}" cannot be a {what}: it names a {kind}, {other.label}',
                hint=f"models and pipelines share their names: choose another for the {what}",
            )

"""Which runtime and which program this peer has, known without importing: what a remembered verdict holds for."""

from __future__ import annotations

import functools
from importlib import metadata


@functools.cache
def runtime_version() -> str:
    """``onnxruntime 1.31.1``, from the installed package."""
    return f"onnxruntime {metadata.version('onnxruntime')}"


@functools.cache
def program_version() -> str:
    """The version of this program."""
    return metadata.version("peerage")

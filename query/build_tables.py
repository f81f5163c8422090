"""Builds ``grammar.tables`` from ``grammar.lark``: ``python -m query.build_tables``.

The tables ship with the package, because building them takes many times longer than loading them. The file is a pickle
of Lark's own data with the digest of the grammar it was made from, so that a test can tell when it is out of date.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from importlib.resources import files
from pathlib import Path
from typing import Final

GRAMMAR: Final = "grammar.lark"
TABLES: Final = "grammar.tables"


def grammar_text() -> str:
    return files("query").joinpath(GRAMMAR).read_text(encoding="utf-8")


def grammar_digest() -> str:
    return hashlib.sha256(grammar_text().encode()).hexdigest()


def build() -> bytes:
    """The content of ``grammar.tables`` for the grammar as it stands."""
    from lark import Lark

    lark = Lark(grammar_text(), parser="lalr", lexer="basic", maybe_placeholders=False)
    saved = io.BytesIO()
    lark.save(saved)
    saved.seek(0)
    tables = pickle.load(saved)  # noqa: S301 — written a moment ago
    return pickle.dumps({"grammar": grammar_digest(), **tables}, protocol=5)


def main() -> None:
    with Path(str(files("query").joinpath(TABLES))).open("wb") as file:
        file.write(build())


if __name__ == "__main__":
    main()

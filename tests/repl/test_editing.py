"""Which editor a person has."""

from __future__ import annotations

import pytest

from peers.repl.editing import NoEditor, editor_of


def test_the_words_that_start_an_editor() -> None:
    assert editor_of({"VISUAL": "code --wait", "EDITOR": "vi"}) == ["code", "--wait"]
    assert editor_of({"VISUAL": " ", "EDITOR": "vi"}) == ["vi"]


def test_words_that_do_not_close_are_no_command() -> None:
    with pytest.raises(NoEditor, match="EDITOR is no command: No closing quotation"):
        editor_of({"EDITOR": 'vi "'})

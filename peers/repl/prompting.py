"""The prompt itself: what prompt_toolkit is given, and the loop that reads and runs.

Owns keys, colours of what is typed, the continuation of lines, and where history comes from and goes to. Everything
that decides something is elsewhere and pure: lines, completing, toolbar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.cursor_shapes import ModalCursorShapeConfig
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Condition, completion_is_selected, has_completions, is_searching
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from peers.highlighting import pieces
from peers.palettes import NONE, Palette
from peers.repl.completing import offers
from peers.repl.history import HistoryFile
from peers.repl.lines import is_whole
from peers.repl.toolbar import Standing, toolbar

if TYPE_CHECKING:
    from prompt_toolkit.formatted_text import StyleAndTextTuples

    from peers.repl.shell import Shell

COMPLETION_LINES: Final = 8
KEYS_S_MAX: Final = 0.3  # to wait for the next key of several, as after Escape with vi keys
ESCAPE_S_MAX: Final = 0.05  # for the rest of what one key sends


class FileHistory(History):
    """prompt_toolkit's view of a history file, and of what was typed in this session."""

    def __init__(self, file: HistoryFile, typed: list[str]) -> None:
        super().__init__()
        self._file = file
        self._typed = typed

    def load_history_strings(self) -> Iterable[str]:
        entries = self._file.entries()
        self._typed[:0] = entries
        return reversed(entries)

    def store_string(self, string: str) -> None:
        self._typed.append(string)
        self._file.add(string)


class StatementLexer(Lexer):
    """Colours of what is typed."""

    def lex_document(self, document: Document) -> Any:
        lines: list[StyleAndTextTuples] = [[]]
        for kind, text in pieces(document.text):
            first, *rest = text.split("\n")
            lines[-1].append((f"class:{kind}", first))
            for line in rest:
                lines.append([(f"class:{kind}", line)])
        return lambda number: lines[number] if number < len(lines) else []


class StatementCompleter(Completer):
    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        shell = self._shell
        for one in offers(document.text, document.cursor_position, shell.learning.knowledge, folder=shell.folder):
            if complete_event.text_inserted and not one.length and one.part not in ("string", "key"):
                continue  # nobody asked, nothing is typed, and everything would fit
            yield Completion(
                one.text,
                start_position=-one.length,
                display=one.label,
                display_meta=one.meaning,
                style=f"class:offer.{one.part}" if one.part else "",
            )


def styles(palette: Palette) -> Style:
    """The palette in prompt_toolkit's words."""
    if palette.name == NONE.name:
        return Style.from_dict({"bottom-toolbar": "noreverse", "active": "underline"})
    rules = {part: palette.prompt_style(part) for part in palette.styles if part != "series"}
    offered = {f"offer.{part}": rules[part] for part in ("function", "string", "key", "variable", "directive")}
    return Style.from_dict(
        {
            **rules,
            **{part: rule.replace("bold", "").strip() for part, rule in offered.items()},
            "bottom-toolbar": "noreverse",
            "active": "bold underline",
            "completion-menu.completion": "noinherit",
            "completion-menu.completion.current": "reverse",
            "completion-menu.meta.completion": palette.prompt_style("dim"),
            "completion-menu.meta.completion.current": "reverse",
            "completion-menu": "noinherit",
            "scrollbar.background": "noinherit",
            "auto-suggestion": palette.prompt_style("dim"),
        }
    )


class Prompt:
    """A session of prompt_toolkit around a shell."""

    def __init__(self, shell: Shell, history: HistoryFile) -> None:
        self._shell = shell
        self._typing: list[str] = []
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(history, shell.typed),
            lexer=StatementLexer(),
            completer=StatementCompleter(shell),
            complete_while_typing=True,
            auto_suggest=AutoSuggestFromHistory(),
            key_bindings=_bindings(),
            multiline=True,
            prompt_continuation=self._continuation,
            bottom_toolbar=self._toolbar,
            reserve_space_for_menu=COMPLETION_LINES,
            enable_open_in_editor=True,
            tempfile_suffix=".pql",
            search_ignore_case=True,
            cursor=ModalCursorShapeConfig(),
            mouse_support=False,
        )
        self._session.app.timeoutlen = KEYS_S_MAX
        self._session.app.ttimeoutlen = ESCAPE_S_MAX

    def read(self) -> str | None:
        """What a person types next; None when they leave."""
        shell = self._shell
        self._session.editing_mode = EditingMode.VI if shell.preferences.keys == "vi" else EditingMode.EMACS
        palette = shell.screen.palette if shell.screen is not None else NONE
        self._session.style = styles(palette)
        self._session.color_depth = ColorDepth.DEPTH_1_BIT if palette.name == NONE.name else None
        draft, shell.draft = shell.draft, ""
        try:
            text: str = self._session.prompt(self._message, default=draft)
        except EOFError:
            return None
        except KeyboardInterrupt:
            return ""
        return text

    def refresh(self) -> None:
        """Draw anew what depends on what is known. From any thread."""
        self._session.app.invalidate()

    def _message(self) -> StyleAndTextTuples:
        shell = self._shell
        place = f":{shell.default}" if shell.default is not None else ""
        return [("class:prompt", f"{shell.whom.federation}{place}> ")]

    def _continuation(self, width: int, number: int, wrapped: int) -> StyleAndTextTuples:
        return [("class:dim", " " * max(0, width - 2) + ("  " if wrapped else "· ")[:width])]

    def _toolbar(self) -> StyleAndTextTuples:
        shell = self._shell
        buffer = self._session.default_buffer
        standing = Standing(
            federation=shell.whom.federation,
            name=shell.whom.name,
            default=shell.default,
            mode=shell.learning.mode,
            ledger=shell.took(),
            editing=self._editing(),
            learned=shell.learning.learned,
        )
        width = get_app().output.get_size().columns
        knowledge = shell.learning.knowledge
        found = toolbar(buffer.text, buffer.cursor_position, knowledge, standing, width=width)
        return [(f"class:{part}" if part else "", text) for part, text in found]

    def _editing(self) -> str:
        if self._session.editing_mode == EditingMode.EMACS:
            return "emacs"
        return f"vi {get_app().vi_state.input_mode.value.removeprefix('vi-')}"


def _bindings() -> KeyBindings:
    keys = KeyBindings()

    @Condition
    def at_its_end() -> bool:
        document = get_app().current_buffer.document
        return document.on_last_line or not document.text_after_cursor.strip()

    @keys.add("enter", filter=~is_searching & ~completion_is_selected)
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if at_its_end() and is_whole(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.newline(copy_margin=not buffer.text.rstrip().endswith(";"))

    @keys.add("enter", filter=has_completions & completion_is_selected)
    def take(event: KeyPressEvent) -> None:
        event.current_buffer.complete_state = None

    @keys.add("escape", "enter")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.newline()

    @keys.add("c-@")
    def complete(event: KeyPressEvent) -> None:
        event.current_buffer.start_completion(select_first=False)

    return keys


def read_and_run(shell: Shell, history: HistoryFile) -> None:
    """Read and run until a person leaves."""
    prompt = Prompt(shell, history)
    shell.learning.changed = prompt.refresh
    told = False
    while not shell.leaving:
        shell.learning.begin(shell.default)
        text = prompt.read()
        if text is None:
            return
        if history.failed and not told:
            told = True
            shell.note(f"no history: {history.failed}")
        shell.run(text)

"""The core's answers in the protocol's types: completions, signatures, hovers, problems, lenses, edits.

Pure: a text, what is known, and a place go in. Nothing here asks a peer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from lsprotocol import types

from peers.lsp.positions import Lines
from peers.lsp.scripts import Script
from query.completion import Completion, Shape, completions
from query.declarations import Declaration
from query.diagnosis import CatalogueAt, Diagnosis, diagnose, read_statements
from query.errors import Problem
from query.knowledge import Knowledge
from query.outline import places_of
from query.placement import route
from query.pointing import hover_at, signature_at

SOURCE: Final = "peerage"
RUN: Final = "peerage.run"
CHOOSE: Final = "peerage.chooseDefaultPeer"
SET_DEFAULT: Final = "peerage.setDefaultPeer"
DIFFED_LINES_MAX: Final = 5_000
LENSES_MAX: Final = 500

_KINDS: Final = {
    Shape.FUNCTION: types.CompletionItemKind.Function,
    Shape.NAME: types.CompletionItemKind.Value,
    Shape.KEY: types.CompletionItemKind.Field,
    Shape.VARIABLE: types.CompletionItemKind.Variable,
    Shape.LOCAL: types.CompletionItemKind.Variable,
    Shape.DIRECTIVE: types.CompletionItemKind.Property,
    Shape.KEYWORD: types.CompletionItemKind.Keyword,
    Shape.TYPE: types.CompletionItemKind.Class,
}


def completion_list(lines: Lines, position: types.Position, knowledge: Knowledge) -> types.CompletionList:
    found = completions(lines.text, lines.offset(position), knowledge)
    items = [_item(lines, rank, one) for rank, one in enumerate(found)]
    return types.CompletionList(is_incomplete=True, items=items)


def _item(lines: Lines, rank: int, one: Completion) -> types.CompletionItem:
    typed = lines.text[one.start : one.end]
    documentation = types.MarkupContent(types.MarkupKind.Markdown, one.documentation) if one.documentation else None
    return types.CompletionItem(
        label=one.label,
        kind=_KINDS[one.shape],
        detail=one.detail or None,
        documentation=documentation,
        sort_text=f"{rank:05}",
        # The fit is judged here, also by parts of a name: an editor that compares again finds what is typed. Without
        # need there is none: Neovim then takes the edit's place for where the word begins.
        filter_text=None if one.label.casefold().startswith(typed.casefold()) else typed,
        text_edit=types.TextEdit(lines.range(one.start, one.end), one.insert),
    )


def signature_help(lines: Lines, position: types.Position, knowledge: Knowledge) -> types.SignatureHelp | None:
    found = signature_at(lines.text, lines.offset(position), knowledge)
    if found is None:
        return None
    signatures = [_signature(declared) for declared in found.overloads]
    return types.SignatureHelp(signatures, active_signature=found.active, active_parameter=found.parameter)


def _signature(declared: Declaration) -> types.SignatureInformation:
    parameters = [
        types.ParameterInformation(f"{one.type} {one.name}{'?' if one.optional else ''}") for one in declared.parameters
    ]
    documentation = types.MarkupContent(types.MarkupKind.Markdown, declared.documentation.split("\n\n")[0])
    return types.SignatureInformation(declared.signature, documentation, parameters)


def hover(lines: Lines, position: types.Position, knowledge: Knowledge) -> types.Hover | None:
    found = hover_at(lines.text, lines.offset(position), knowledge)
    if found is None:
        return None
    return types.Hover(
        types.MarkupContent(types.MarkupKind.Markdown, found.markdown), lines.range(found.start, found.end)
    )


def diagnostics(lines: Lines, knowledge: Knowledge, *, default: str | None, at: CatalogueAt) -> list[types.Diagnostic]:
    return [_diagnostic(lines, one) for one in diagnose(lines.text, knowledge, default=default, at=at)]


def _diagnostic(lines: Lines, one: Diagnosis) -> types.Diagnostic:
    problem = one.problem
    hint = f"\n{problem.hint}" if problem.hint else ""
    severity = types.DiagnosticSeverity.Error if one.certain else types.DiagnosticSeverity.Warning
    return types.Diagnostic(
        lines.range(one.start, one.end), problem.message + hint, severity=severity, code=problem.code, source=SOURCE
    )


def lenses(script: Script, knowledge: Knowledge, *, default: str | None, connected: str | None) -> list[types.CodeLens]:
    """*default peer* above the first statement, *run on PEER* above each."""
    lines = script.lines
    found: list[types.CodeLens] = []
    for one in read_statements(lines.text)[:LENSES_MAX]:
        if one.statement is None:
            continue
        start, end = one.statement.place[0] + one.offset, one.statement.place[1] + one.offset
        where = lines.range(start, end)
        try:
            going = route(one.statement, knowledge.catalogue, default=default)
        except Problem:
            continue  # its diagnostics tell
        peer = (connected or "this peer") if going.is_here else going.text
        asked = {"uri": script.uri, "range": _plain(where)}
        if not found:
            title = f"default peer: {default or connected or 'none'}"
            found.append(types.CodeLens(where, types.Command(title, CHOOSE, arguments=[{"uri": script.uri}])))
        found.append(types.CodeLens(where, types.Command(f"run on {peer}", RUN, arguments=[asked])))
    return found


def _plain(where: types.Range) -> dict[str, dict[str, int]]:
    return {
        "start": {"line": where.start.line, "character": where.start.character},
        "end": {"line": where.end.line, "character": where.end.character},
    }


def symbols(script: Script) -> list[types.DocumentSymbol]:
    """The functions that a script makes."""
    return [
        types.DocumentSymbol(
            made.name,
            types.SymbolKind.Function,
            script.lines.range(*made.whole),
            script.lines.range(*made.place),
            detail=made.head,
        )
        for made in script.made
    ]


def definitions(name: str, here: Script, others: Iterable[Script]) -> list[types.Location]:
    """Where a function is made: in this script, else in the others."""
    for scripts in ([here], others):
        found = [
            types.Location(script.uri, script.lines.range(*made.place))
            for script in scripts
            for made in script.made
            if made.name.casefold() == name.casefold()
        ]
        if found:
            return found
    return []


def references(name: str, scripts: Iterable[Script]) -> list[types.Location]:
    return [
        types.Location(script.uri, script.lines.range(*place))
        for script in scripts
        for place in places_of(script.pieces, name)
    ]


def meaning_the_same(name: str, here: Script, others: Iterable[Script]) -> list[Script]:
    """The scripts in which a name is the function that it is here: this one, and those that do not make their own."""
    rest = [script for script in others if script.uri != here.uri]
    if here.makes(name):
        return [here, *(script for script in rest if not script.makes(name))]
    makers = [script for script in rest if script.makes(name)]
    if len(makers) != 1:
        return [here]
    return [here, *(script for script in rest if script is makers[0] or not script.makes(name))]


def renamed(name: str, new: str, scripts: Iterable[Script]) -> types.WorkspaceEdit:
    changes = {}
    for script in scripts:
        edits = [types.TextEdit(script.lines.range(*place), new) for place in places_of(script.pieces, name)]
        if edits:
            changes[script.uri] = edits
    return types.WorkspaceEdit(changes=changes)


def edits_to(lines: Lines, formatted: str) -> list[types.TextEdit]:
    """The edits that make a text the formatted one; only the lines that differ, so that cursors stay where they are."""
    text = lines.text
    if formatted == text:
        return []
    old, new = text.splitlines(keepends=True), formatted.splitlines(keepends=True)
    if max(len(old), len(new)) > DIFFED_LINES_MAX:
        return [types.TextEdit(lines.whole, formatted)]
    starts = [0]
    for line in old:
        starts.append(starts[-1] + len(line))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [
        types.TextEdit(lines.range(starts[first], starts[last]), "".join(new[begin:end]))
        for what, first, last, begin, end in matcher.get_opcodes()
        if what != "equal"
    ]

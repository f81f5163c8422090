"""Random scripts of every form of statement, written untidily: blanks, line ends, comments and directives anywhere.

One seed, one sequence of texts. Most of what comes is a script that parses; :meth:`Texts.broken` spoils one.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

NAMES = ("x", "Edge", "_a1", "price", "selected", "Name", "in_", "index", "of_")
FUNCTIONS = ("f", "count", "avg", "models:loaded", "edge:select", "edge:in")
TYPES = ("Real", "integer", "Vector", "Vector of String", "Bag of Vector of Real", "Object")
NUMBERS = ("0", "1", "12", ".5", "2.3E2", "1e-3", "1180591620717411303424", "0.1")
STRINGS = (
    '"a"',
    "'b'",
    "'it''s'",
    '"a \\"b\\" \\\\ \\n"',
    "''",
    "'//peer: x'",
    '"/* */"',
    "'--'",
    "'two\nlines'",
    "'é☃'",
)
TIMES = ("|2026-01-31T12:00:00Z|", "|2026-01-31|")
SIGNS = ("=", "!=", "<>", "<", "<=", ">", ">=", "in", "like", "not in", "not like", "+", "-", "*", "/", "%", "^", "||")
DIRECTIVES = (
    "//peer: E1",
    "// Peer: all",
    "//peer: where x = 1 and 'a' in tags",
    "//timeout: 5s",
    "//plot: line  ",
    "//wait: 1h",
)
BLANKS = (" ", " ", " ", "  ", "\n", "\n\n\n", "\t", " \r\n", "\n    ")
REMARKS = ("// c", "//", "//peer: E9", "-- d", "--", "/* e */", "/**/", "/* two\n   lines */", "// x: y", "/* -- // */")


class Texts:
    """``depth``: levels of an expression. ``functions``: whom calls name. ``comments_numbered``: every comment is
    ``<n>``, n from 0, so that each can be found again.
    """

    def __init__(
        self,
        draw: Random,
        *,
        depth: int = 4,
        functions: tuple[str, ...] = FUNCTIONS,
        comments_numbered: bool = False,
    ) -> None:
        self._draw = draw
        self._depth = depth
        self._functions = functions
        self._numbered = comments_numbered
        self.comments = 0

    def script(self) -> str:
        """Some statements."""
        out = []
        for _ in range(self._draw.choice((0, 1, 1, 1, 2, 3))):
            if self._chance(0.3):
                out.append(self._blank(rich=0.5))
            above = self._draw.sample(range(len(DIRECTIVES)), self._draw.randint(1, 2)) if self._chance(0.3) else ()
            names: set[str] = set()
            for number in above:
                name = DIRECTIVES[number].split(":")[0].strip("/ ").casefold()
                if name not in names:
                    names.add(name)
                    out.append(f"\n{DIRECTIVES[number]}\n")
            out += [self._spaced(self.statement()), self._gap_end(), ";", self._draw.choice(("", "\n", " ", "\n\n"))]
            if self._chance(0.2):
                out.append(self._draw.choice((" ", "\n")) + self._comment(directives=False) + "\n")
        if out and self._chance(0.2):
            out = out[: len(out) - 1]
        return "".join(out)

    def expression(self) -> str:
        """One expression on one line."""
        return " ".join(" ".join(self._expression(self._depth)).split())

    def broken(self) -> str:
        """A script with pieces lost, doubled, exchanged or strewn in."""
        text = self.script() or "1"
        for _ in range(self._draw.randint(1, 4)):
            at, to = sorted((self._draw.randrange(len(text) + 1), self._draw.randrange(len(text) + 1)))
            to = min(to, at + self._draw.choice((0, 1, 1, 3, 20)))
            stray = self._draw.choice(("", "", text[at:to] * 2, self._draw.choice(STRAY), self._word()))
            text = text[:at] + stray + text[to:]
        return text

    # --- statements, as lists of words

    def statement(self) -> list[str]:
        forms: tuple[Callable[[], list[str]], ...] = (
            lambda: self._body(self._depth),
            lambda: self._body(self._depth),
            lambda: ["set", ":v", "=", *self._expression(self._depth - 1)],
            self._function,
            lambda: ["delete", "function", self._pick(self._functions)],
            lambda: ["explain", *self._body(self._depth - 1)],
        )
        return self._draw.choice(forms)()

    def _function(self) -> list[str]:
        verb = self._draw.choice((["create"], ["create", "or", "replace"]))
        parameters = [[*self._pick(TYPES).split(), self._pick(NAMES)] for _ in range(self._draw.randint(0, 3))]
        inner = self._listed(parameters)
        head = [*verb, "function", self._pick(self._functions), "(", *inner, ")", "->", *self._pick(TYPES).split()]
        note = ["/* about it */"] if self._chance(0.3) and not self._numbered else []
        return [*head, *note, "as", *self._body(self._depth - 1)]

    def _body(self, depth: int) -> list[str]:
        return self._select(depth) if self._chance(0.4) else self._expression(depth)

    def _select(self, depth: int) -> list[str]:
        words = ["select"]
        if self._chance(0.2):
            words.append("distinct")
        if self._chance(0.1):
            words += ["vector", "of"]
        items = [
            [*self._expression(depth - 1), *(["as", self._pick(NAMES)] if self._chance(0.3) else [])]
            for _ in range(self._draw.randint(1, 3))
        ]
        words += self._listed(items)
        if self._chance(0.8):
            words += ["from", *self._listed([self._source(depth) for _ in range(self._draw.randint(1, 2))])]
        for clause in (["where"], ["group", "by"], ["having"], ["order", "by"], ["limit"]):
            if self._chance(0.3):
                words += clause
                several = clause[-1] == "by" and self._chance(0.3)
                words += self._listed([self._expression(depth - 1) for _ in range(2 if several else 1)])
                if clause[0] == "order" and self._chance(0.5):
                    words.append(self._draw.choice(("asc", "desc")))
        return words

    def _source(self, depth: int) -> list[str]:
        kind = self._pick(TYPES).split() if self._chance(0.5) else []
        bound = ["in", *self._sum(depth - 1)] if not kind or self._chance(0.6) else []
        return [*kind, self._pick(NAMES), *bound]

    # --- expressions

    def _expression(self, depth: int) -> list[str]:
        if depth <= 0 or self._chance(0.15):
            return self._atom()
        forms: tuple[Callable[[], list[str]], ...] = (
            lambda: [*self._sum(depth - 1), self._draw.choice(("and", "or")), *self._sum(depth - 1)],
            lambda: [*self._postfix(depth - 1), *self._pick(SIGNS).split(), *self._postfix(depth - 1)],
            lambda: ["not", *self._sum(depth - 1)],
            lambda: [
                *self._sum(depth - 1),
                *self._draw.choice((["between"], ["not", "between"])),
                *self._sum(depth - 2),
                "and",
                *self._sum(depth - 2),
            ],
            lambda: [*self._sum(depth - 1), *self._draw.choice((["is", "null"], ["is", "not", "null"]))],
            lambda: self._sum(depth),
            lambda: self._postfix(depth),
        )
        return self._draw.choice(forms)()

    def _sum(self, depth: int) -> list[str]:
        """Something that binds tighter than a comparison."""
        words = self._postfix(depth)
        for _ in range(self._draw.choice((0, 0, 1, 2, 6))):
            words += [self._pick(("+", "-", "*", "/", "%", "^", "||")), *self._signed(depth - 1)]
        return words

    def _signed(self, depth: int) -> list[str]:
        return [*(["-"] * self._draw.choice((0, 0, 0, 1, 2))), *self._postfix(depth)]

    def _postfix(self, depth: int) -> list[str]:
        if depth <= 0:
            return self._atom()
        forms: tuple[Callable[[], list[str]], ...] = (
            lambda: ["(", *self._body(depth - 1), ")"],
            lambda: ["[", *self._listed([self._expression(depth - 1) for _ in range(self._some())]), "]"],
            lambda: ["{", *self._pairs(depth), "}"],
            lambda: self._call(depth),
            lambda: [*self._call(depth), "[", *self._expression(depth - 1), "]"],
            lambda: [*self._call(depth), *self._draw.choice(([".", "k"], [".", "in"], [".select"], [".End"]))],
            lambda: [*self._call(depth), "as of", *self._moment(depth)],
            lambda: self._case(depth),
            lambda: ["cast", "(", *self._expression(depth - 1), "as", *self._pick(TYPES).split(), ")"],
            self._atom,
        )
        return self._draw.choice(forms)()

    def _call(self, depth: int) -> list[str]:
        arguments = [self._expression(depth - 1) for _ in range(self._some())]
        if self._chance(0.2):
            arguments = [self._select(depth - 1)]
        return [self._pick(self._functions), "(", *self._listed(arguments), ")"]

    def _moment(self, depth: int) -> list[str]:
        forms = ([self._pick(TIMES)], [":v"], [self._pick(NAMES)], ["(", *self._expression(depth - 1), ")"])
        return self._draw.choice(forms)

    def _pairs(self, depth: int) -> list[str]:
        keys = self._draw.sample(("'a'", '"b c"', "'in'", '"d"'), self._draw.randint(0, 3))
        return self._listed([[key, ":", *self._expression(depth - 1)] for key in keys])

    def _case(self, depth: int) -> list[str]:
        words = ["case"]
        for _ in range(self._draw.randint(1, 3)):
            words += ["when", *self._expression(depth - 1), "then", *self._expression(depth - 1)]
        return [*words, *(["else", *self._expression(depth - 1)] if self._chance(0.5) else []), "end"]

    def _atom(self) -> list[str]:
        return [self._word()]

    def _word(self) -> str:
        kinds = (NUMBERS, STRINGS, NAMES, NAMES, TIMES, (":v", ":in"), ("true", "FALSE", "null"))
        return self._pick(self._draw.choice(kinds))

    # --- how it is written

    def _listed(self, elements: list[list[str]]) -> list[str]:
        return [word for number, element in enumerate(elements) for word in ([","] if number else []) + element]

    def _spaced(self, words: list[str]) -> str:
        out = []
        for number, word in enumerate(words):
            if number:
                out.append(self._blank(rich=0.08))
            out.append(word.upper() if word in KEYWORDS and self._chance(0.1) else word)
        return "".join(out)

    def _blank(self, *, rich: float) -> str:
        """A blank at least, with comments between at times."""
        found = self._pick(BLANKS)
        while self._chance(rich):
            remark = self._comment(directives=rich < 0.5)
            found += remark + ("\n" if not remark.startswith("/*") else self._pick(BLANKS))
        return found

    def _gap_end(self) -> str:
        return self._blank(rich=0.3) if self._chance(0.2) else ""

    def _comment(self, *, directives: bool) -> str:
        """``directives``: also one that would be a directive between statements."""
        if self._numbered:
            self.comments += 1
            return self._draw.choice(("// <{}>", "/* <{}> */", "-- <{}>", "/*\n<{}> */")).format(self.comments - 1)
        found = self._pick(REMARKS)
        return found if directives or not found.startswith("//peer") else "// no directive"

    def _some(self) -> int:
        return self._draw.choice((0, 1, 1, 2, 3, 8))

    def _pick(self, of: tuple[str, ...]) -> str:
        return self._draw.choice(of)

    def _chance(self, of: float) -> bool:
        return self._draw.random() < of


KEYWORDS = frozenset(
    word
    for line in (
        "select distinct from where group having order by asc desc limit as of set create or replace function delete",
        "explain and not between like is null case when then else end cast",
    )
    for word in line.split()
)
STRAY = (
    "(",
    ")",
    "]",
    "{",
    "'",
    '"',
    "|",
    "/*",
    "*/",
    "//",
    "--",
    ";",
    ",",
    ":",
    ".",
    "\\",
    "\x00",
    "é",
    "\ud800",
    "\u2028",
)

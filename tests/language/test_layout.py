"""Texts in one style: what they say stays, their comments stay, long lines are broken, and once is enough."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from query import layout
from query.errors import LimitExceeded, SyntaxProblem
from query.layout import WIDTH, format_text
from query.parsing import parse
from tests.language.texts import Texts

ROOT = Path(__file__).parents[2]

CASES = {
    "blanks": ("select  x ,y AS z\nfrom Real x IN f( 1 )", "select x, y as z from Real x in f(1);\n"),
    "signs": ("- - x+-1-(-y)^ -2", "- -x + -1 - (-y) ^ -2;\n"),
    "words": ("SELECT Name FROM Name in EDGE:List()", "select Name from Name in EDGE:List();\n"),
    "unequal": ("a<>b", "a != b;\n"),
    "records": ("{ \"a\" :1 ,'b'::v}", "{\"a\": 1, 'b': :v};\n"),
    "literals": ("[.5,1e3,'it''s',\"\\n\",|2026-01-31|]", "[.5, 1e3, 'it''s', \"\\n\", |2026-01-31|];\n"),
    "brackets": ("f (x) [ 1 ] . k . in + in.tensor", "f(x)[1].k.in + in.tensor;\n"),
    "parentheses stay": ("((1))+(2*3)", "((1)) + (2 * 3);\n"),
    "case": ("CASE WHEN a THEN b ELSE -c END-1", "case when a then b else -c end - 1;\n"),
    "empty": (" \n ", ""),
    "empty statements": (";;1;;\n;2;", "1;\n2;\n"),
    "blank lines": ("\n\n1;\n\n\n\n2;3;\n\n// c\n4", "1;\n\n2;\n3;\n\n// c\n4;\n"),
    "directives": ("//PEER :E1\n//  timeout:5s \n1", "//peer: E1\n//timeout: 5s\n1;\n"),
    "comments": (
        "// a  \n1 /* b */ + // c\n-- d\n2 // e\n; /* f */\n// g",
        "// a\n1\n    /* b */ +  // c\n        -- d\n        2  // e\n;  /* f */\n// g\n",
    ),
    "a comment before its comma": (
        "f(x // about x\n, y // about y\n)",
        "f(\n    x,  // about x\n    y  // about y\n);\n",
    ),
    "a block of lines": ("/* a\n   b */ 1; f(/* c\nd */ 2)", "/* a\n   b */\n1;\nf(\n    /* c\nd */\n    2\n);\n"),
    "a text of lines": ("f(1, 'a\nb')", "f(\n    1,\n    'a\nb'\n);\n"),
    "no directive before": ("1\n//peer: E1\n; 2", "1\n//peer: E1\n;\n2;\n"),
    "no directive behind": ("1; //peer: E1\n2", "1;  //peer: E1\n2;\n"),
    "a lone stop": ("//peer: E1\n;\n2", "//peer: E1\n;\n2;\n"),
    "a stop before": ("; //peer: E1\n2", ";  //peer: E1\n2;\n"),
    "a remark is none": ("/* c */ //peer: E1\n2", "/* c */ //peer: E1\n2;\n"),
    "a comment behind two stops": ("1 // a\n;; // b\n2", "1  // a\n;  // b\n2;\n"),
    "no directive behind two stops": ("1 // a\n;;//peer: E1\n2", "1;  // a\n;  //peer: E1\n2;\n"),
    "a block of windows lines": ("/* a\r\n b */\r\n1", "/* a\n b */\n1;\n"),
    "windows": ("//peer: E1\r\n1; // a\r\n2", "//peer: E1\n1;  // a\n2;\n"),
    "documentation": (
        "create function f(Integer n)->Vector of Real /* twice */ as select n*2",
        "create function f(Integer n) -> Vector of Real /* twice */ as select n * 2;\n",
    ),
    "as of": ("edge:list()as  OF|2026-01-31|", "edge:list() as of |2026-01-31|;\n"),
}

LONG = """\
select x, count(y) as n /* how many */, avg(x*y) from x in range(1,10), Integer y where y in range(1,x) and y%2=0 or y between 3 and 5 group by x order by n desc limit 3;
edge:set_group_models("staging-area-edges",[{"repo":"default","name":"one","version":"5.3"},{"repo":"default","name":"two","version":"1.0"}]);
set :limit = case when temperature(:sensor) > 100 then 'too hot for the line' when temperature(:sensor) < 0 then 'too cold' else 'well' end;
set :v = [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,-32];
first_of_the_long_names + second_of_the_long_names * third_of_the_long_names - fourth_of_the_long_names / 2;
count(select model from model in models:available("a-repository-with-a-name") where model like 'line-%' and not model in ['line-1@1.0']);
create or replace function area(Real radius, Integer n) -> Real /* of a circle */ as case when n <= 0 then 0.0 else pi() * radius ^ 2 end;
"""  # noqa: E501

BROKEN = """\
select x, count(y) as n /* how many */, avg(x * y)
from x in range(1, 10), Integer y
where y in range(1, x) and y % 2 = 0 or y between 3 and 5
group by x
order by n desc
limit 3;
edge:set_group_models(
    "staging-area-edges",
    [
        {"repo": "default", "name": "one", "version": "5.3"},
        {"repo": "default", "name": "two", "version": "1.0"}
    ]
);
set :limit = case
    when temperature(:sensor) > 100 then 'too hot for the line'
    when temperature(:sensor) < 0 then 'too cold'
    else 'well'
end;
set :v = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
    27, 28, 29, 30, 31, -32
];
first_of_the_long_names
    + second_of_the_long_names * third_of_the_long_names
    - fourth_of_the_long_names / 2;
count(
    select model
    from model in models:available("a-repository-with-a-name")
    where model like 'line-%' and not model in ['line-1@1.0']
);
create or replace function area(Real radius, Integer n) -> Real /* of a circle */ as
    case when n <= 0 then 0.0 else pi() * radius ^ 2 end;
"""


@pytest.mark.parametrize(("text", "written"), CASES.values(), ids=CASES)
def test_one_style(text: str, written: str) -> None:
    assert format_text(text) == written
    assert format_text(written) == written


def test_long_lines_are_broken() -> None:
    assert format_text(LONG) == BROKEN
    assert format_text(BROKEN) == BROKEN
    assert max(map(len, BROKEN.splitlines())) <= WIDTH


def test_what_is_said_stays() -> None:
    """Statements of every form, with comments, blanks and line ends anywhere between their words."""
    random_texts = Texts(random.Random(11))
    for _ in range(150):
        text = random_texts.script()
        written = format_text(text)
        assert [(s.body, s.directives) for s in parse(written)] == [(s.body, s.directives) for s in parse(text)]
        assert format_text(written) == written


def test_no_comment_is_lost() -> None:
    random_texts = Texts(random.Random(12), comments_numbered=True)
    for _ in range(150):
        random_texts.comments = 0
        text = random_texts.script()
        written = format_text(text)
        comments = [f"<{number}>" for number in range(random_texts.comments)]
        assert [written.count(comment) for comment in comments] == [text.count(comment) for comment in comments]


@pytest.mark.parametrize("path", [*ROOT.glob("examples/**/*.pql"), *ROOT.glob("tests/**/*.pql")], ids=str)
def test_our_own_scripts(path: Path) -> None:
    text = path.read_text("utf-8")
    written = format_text(text)
    assert [(s.body, s.directives) for s in parse(written)] == [(s.body, s.directives) for s in parse(text)]
    assert format_text(written) == written


def test_a_text_with_an_error_keeps_its_place() -> None:
    with pytest.raises(SyntaxProblem) as raised:
        format_text("1;\nselect from")
    assert raised.value.span is not None
    assert (raised.value.span.line, raised.value.span.column) == (2, 8)


def test_deep_nesting_is_moved_only_so_far() -> None:
    text = "[" * 60 + "'" + "x" * 200 + "'" + "]" * 60
    deepest = max(len(line) - len(line.lstrip()) for line in format_text(text).splitlines())
    assert deepest <= layout.INDENT_MAX


def test_a_result_over_the_limit_is_refused() -> None:
    text = f"f({'[' * 40}{','.join(['a+b'] * 400)}{']' * 40})"
    with pytest.raises(LimitExceeded, match="the formatted text"):
        format_text(text, limit=len(text))

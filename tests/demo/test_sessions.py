"""The reading of the documentation's fences, on texts written out."""

from tests.demo.sessions import Fence, as_shown, asked, typed


def test_commands_with_further_lines_and_their_output() -> None:
    fence = Fence("console", "$ serve &\nready\n$ ask '//peer: all\n> 1'\n1\n2\n", 1)
    serve, ask = typed(fence)
    assert (serve.command, serve.stays, serve.shown) == ("serve &", True, ["ready"])
    assert (ask.command, ask.stays, ask.shown) == ("ask '//peer: all\n1'", False, ["1", "2"])


def test_statements_with_their_answers() -> None:
    fence = Fence("pql", "1 + 1;\n// → 2\n//peer: all\nselect a\nfrom a in [1, 2];\n// → 1\n// → 2\nnow();\n", 1)
    first, second, third = asked(fence)
    assert (first.text, first.shown) == ("1 + 1;", ["2"])
    assert (second.text, second.shown) == ("//peer: all\nselect a\nfrom a in [1, 2];", ["1", "2"])
    assert (third.text, third.shown) == ("now();", [])


def test_what_may_differ() -> None:
    assert as_shown(["a … b", "...", "end"], ["a 17 b", "x", "y", "end"])
    assert as_shown(["...", "end"], ["end"])
    assert as_shown(["..."], [])
    assert not as_shown(["a"], ["a", "b"])
    assert not as_shown(["a … b"], ["a b"])

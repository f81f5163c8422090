"""Write the generated parts of the documentation from what the program itself declares.

    python -m docs.build            write them
    python -m docs.build --check    say which are not current; exit status 1 when any is not

functions.md, commands.md, metrics.md and openapi.json are generated whole; in configuration.md, query-api.md and
repl.md what stands between the lines ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

import argparse
import dataclasses
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GENERATED = "<!-- Written by docs/build.py from the program's own declarations; change those. -->"

NAMESPACES = {
    "": "The language",
    "edge": "Groups and edges",
    "models": "Models",
    "query": "Running queries",
    "peer": "People and programs",
    "keys": "Keys",
}


# --- functions ------------------------------------------------------------------------------------------------------


def functions() -> str:
    from peers.catalogues import every_declaration

    declared = sorted(every_declaration(), key=lambda d: (namespace(d), d.name.casefold()))
    parts = [
        "# Functions",
        GENERATED,
        "Every function of PQL. *At home* says where a function runs by itself: at the nameserver, or everywhere, "
        "which means at the peer that is asked. *Role* is what its caller needs at least. `?` marks a parameter that "
        'may be left out. The same text is in the program: `doc("edge:groups")`, `apropos("group")`.',
    ]
    for space, members in groupby(declared, key=namespace):
        parts.append(f"## {NAMESPACES.get(space, space.capitalize())}")
        for name, overloads in groupby(members, key=lambda d: d.name.casefold()):
            parts.extend(function_section(name, list(overloads)))
    return "\n\n".join(parts) + "\n"


def namespace(declaration: Any) -> str:
    space, colon, _ = declaration.name.rpartition(":")
    return space if colon else ""


def function_section(name: str, overloads: list[Any]) -> Iterator[str]:
    yield f"### {overloads[0].name}"
    documented: list[str] = []
    for one in overloads:
        facts = [f"at home {'at the nameserver' if one.home.value == 'nameserver' else 'everywhere'}"]
        facts.append(f"role {one.role.name.lower()}")
        facts.append(one.effect.value)
        if one.past:
            facts.append("answers `as of` a moment")
        if one.aliases:
            facts.append("also called " + ", ".join(f"`{alias}`" for alias in one.aliases))
        yield f"`{one.signature}`  \n{'; '.join(facts)}"
        if one.documentation and one.documentation not in documented:
            documented.append(one.documentation)
            yield one.documentation
    yield "```pql\n" + "\n".join(example_lines(one for overload in overloads for one in overload.examples)) + "\n```"


def example_lines(examples: Iterable[Any]) -> Iterator[str]:
    seen = set()
    for example in examples:
        if example.text in seen:
            continue
        seen.add(example.text)
        yield example.text.rstrip(";") + ";"
        if example.shows is not None:
            yield from (f"// → {line}" for line in example.shows.splitlines())


# --- commands -------------------------------------------------------------------------------------------------------


def commands() -> str:
    from peers.cli.arguments import STATUSES, command_parser

    parser = command_parser()
    parts = ["# Commands", GENERATED, str(parser.description), f"{STATUSES[0].upper()}{STATUSES[1:]}."]
    for name, command in subcommands(parser):
        parts.extend(command_section(f"peerage {name}", command, level=2))
    return "\n\n".join(parts) + "\n"


def subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def command_section(name: str, parser: argparse.ArgumentParser, *, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    yield " ".join((parser.description or "").split("\n\n")[0].split())
    rest = (parser.description or "").split("\n\n")[1:]
    yield from (" ".join(paragraph.split()) for paragraph in rest)
    examples = re.search(r"examples:\n(.*?)\n\n", parser.epilog or "", re.DOTALL)
    if examples:
        lines = "\n".join(line.removeprefix("  ") for line in examples[1].splitlines())
        yield f"```sh\n{lines}\n```"
    rows = [option_row(action) for action in parser._actions if shown_option(action)]
    if rows:
        yield "| argument | |\n|---|---|\n" + "\n".join(rows)
    for inner, command in subcommands(parser):
        yield from command_section(f"{name} {inner}", command, level=level + 1)


def shown_option(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)


def option_row(action: argparse.Action) -> str:
    metavar = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    if action.choices is not None and action.metavar is None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    names = ", ".join(action.option_strings)
    shown = " ".join(part for part in (names, metavar) if part)
    return f"| `{shown}` | {cell(str(action.help or '').replace('%%', '%'))} |"


# --- settings and errors --------------------------------------------------------------------------------------------


def settings() -> str:
    from peers.setting_texts import declared
    from peers.settings import ClientSettings, CommonSettings, EdgeSettings, ListenerSettings, NameserverSettings

    kinds = {
        "Every peer": (CommonSettings, None),
        "Nameserver and edge": (ListenerSettings, CommonSettings),
        "Nameserver": (NameserverSettings, ListenerSettings),
        "Edge": (EdgeSettings, ListenerSettings),
        "Client": (ClientSettings, CommonSettings),
    }
    parts = []
    for title, (kind, base) in kinds.items():
        known = {setting.name for setting in declared(base)} if base else set()
        own = [setting for setting in declared(kind) if setting.name not in known]
        rows = [f"| `{s.name}` | {cell(s.description)} | {default_of(s)} |" for s in own]
        parts.append(f"### {title}\n\n| setting | | default |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts)


def default_of(setting: Any) -> str:
    if setting.default is None or setting.default == ():
        return ""
    value = str(setting.default).lower() if isinstance(setting.default, bool) else setting.default
    return f"`{value}`"


def errors() -> str:
    from query.errors import PeerProblem, Problem, UserProblem, WorldProblem

    for package in ("query", "federation", "engine", "peers"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    actors = ((UserProblem, "who asked"), (PeerProblem, "a peer"), (WorldProblem, "may pass"), (Problem, "us"))
    rows = []
    for kind in sorted(subclasses(Problem), key=lambda kind: kind.code):
        if "code" not in vars(kind) or not kind.__module__.startswith(("query", "federation", "engine", "peers")):
            continue
        actor = next(words for base, words in actors if issubclass(kind, base))
        rows.append(f"| `{kind.code}` | {actor} | {cell(meaning(kind))} |")
    return "| code | who must act | meaning |\n|---|---|---|\n" + "\n".join(rows)


def subclasses(kind: type) -> Iterator[Any]:
    for inner in kind.__subclasses__():
        yield inner
        yield from subclasses(inner)


def meaning(kind: type) -> str:
    """What an error class says of itself, else its line in the tree that its module draws, else its name in words."""
    text = vars(kind).get("__doc__") or ""
    if not text:
        drawn = re.search(rf"[├└]── {kind.__name__} {{2,}}([a-z`][^\n]+)", sys.modules[kind.__module__].__doc__ or "")
        text = drawn[1] if drawn else re.sub(r"(?<!^)([A-Z])", r" \1", kind.__name__).lower()
    words = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", " ".join(text.split("\n\n")[0].split()))
    return words.replace("``", "`").rstrip(".")


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# --- the application face --------------------------------------------------------------------------------------------


def openapi() -> str:
    from peers.openapi_operations import face_document

    return face_document().decode()


def metrics() -> str:
    """Every metric of a peer that has counted each of them once."""
    from prometheus_client.parser import text_string_to_metric_families

    from peers.metrics import exposition

    families = text_string_to_metric_families(exposition(counted_once(), openmetrics=False).decode())
    rows = []
    for family in families:
        if family.name.startswith("peerage_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
            rows.append(
                f"| `{name}` | {family.type} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |"
            )
    parts = [
        "# Metrics",
        GENERATED,
        "What `GET /metrics` of a peer tells Prometheus, beside the process's own `process_…`. Seconds and bytes; "
        "`name` and `version` are of a model or pipeline. A model that runs in a pipeline is counted with it in "
        "`pipeline`; `step` is a PQL step of a pipeline, or its validations. With `Accept: "
        "application/openmetrics-text` it is OpenMetrics.",
        "| metric | | labels | |\n|---|---|---|---|\n" + "\n".join(rows),
    ]
    return "\n\n".join(parts) + "\n"


def counted_once() -> Any:
    """A snapshot in which every metric has a value."""
    from engine.engine import Engine
    from engine.exceeded import Exceeded
    from engine.servables import IndexEntry
    from engine.statistics import Counters, Key
    from peers.device_mode import unattached
    from peers.homes import Home
    from peers.inference_log_parts import log_metrics, opened_inference_log
    from peers.metrics import LoadedFacts
    from peers.metrics_routes import Metrics
    from peers.settings import EdgeSettings

    counters = Counters(Key("name", "version"))
    counters.ran(1, 0, 1)
    counters.waited(1)
    run = dataclasses.replace(counters.read(), exceeded=(Exceeded("memory", 1, 0, ""),))
    log = opened_inference_log(Home(HERE / "no-home"), EdgeSettings(), unattached("EDGE"))
    snapshot = Metrics(Engine(), version="", extras=log_metrics(log)).snapshot()
    return dataclasses.replace(
        snapshot,
        runs=(run,),
        under_way={"oip": 1},
        loaded=(LoadedFacts("name", "version", "onnx", "group", 1),),
        index=(IndexEntry("name", "version", "READY"),),
        refused={"code": 1},
        extras=tuple(dataclasses.replace(one, values={("x",) * len(one.labels): 1.0}) for one in snapshot.extras),
    )


# --- the prompt -------------------------------------------------------------------------------------------------------


def prompt_commands() -> str:
    from peers.repl.commands import COMMANDS, KEYS

    commands = [f"| `{cell(one.form)}` | {cell(one.summary)} |" for one in COMMANDS]
    keys = [f"| {key} | {cell(meaning)} |" for key, meaning in KEYS]
    return "\n".join(["| command | |", "|---|---|", *commands, "", "| key | |", "|---|---|", *keys])


# --- files ----------------------------------------------------------------------------------------------------------

WHOLE: dict[str, Callable[[], str]] = {
    "functions.md": functions,
    "commands.md": commands,
    "metrics.md": metrics,
    "openapi.json": openapi,
}
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "configuration.md": {"settings": settings},
    "query-api.md": {"errors": errors},
    "repl.md": {"commands": prompt_commands},
}


def current() -> Iterator[tuple[Path, str]]:
    """Each generated file and what it should hold."""
    for name, make in WHOLE.items():
        yield HERE / name, make()
    for name, parts in PARTS.items():
        text = (HERE / name).read_text("utf-8")
        for part, make in parts.items():
            opening, closing = f"<!-- generated: {part} -->", "<!-- end -->"
            before, found, rest = text.partition(opening)
            _, ended, after = rest.partition(closing)
            if not found or not ended:
                raise SystemExit(f'{HERE / name} lacks "{opening}" and "{closing}"')
            text = f"{before}{opening}\n\n{make()}\n\n{closing}{after}"
        yield HERE / name, text


def main() -> int:
    parser = argparse.ArgumentParser(description="write the generated parts of the documentation")
    parser.add_argument("--check", action="store_true", help="only say which are not current")
    checking = parser.parse_args().check
    stale = []
    for path, wanted in current():
        if not path.exists() or path.read_text("utf-8") != wanted:
            stale.append(path)
            if not checking:
                path.write_text(wanted, "utf-8")
    for path in stale:
        print(f"{path.relative_to(HERE.parent)} {'is not current: make docs' if checking else 'was written'}")
    return 1 if checking and stale else 0


if __name__ == "__main__":
    sys.exit(main())

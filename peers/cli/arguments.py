"""Commands, their flags and their help. Flags of settings are made from the settings' own declarations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from msgspec import Struct

from peers.cli.console import USAGE, Console
from peers.homes import Home, default_home
from peers.setting_texts import Setting, declared
from query.errors import suggestion

Run = Callable[[argparse.Namespace, Console], int]
Commands = Any  # argparse gives its type no public name

STATUSES: Final = "exit status: 0 done, 1 failed, 2 usage, 3 a partial answer"


def command_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    from peers.cli import (
        asking,
        backing_up,
        carrying,
        device,
        doctoring,
        editing,
        keeping,
        keys,
        membership,
        prompting,
        repairing,
        serving,
        tidying,
    )

    parser = Parser(
        prog="peerage",
        description="A federation of peers that deploys, runs and queries machine-learning models at the edge.",
        epilog=f"""\
begin with "peerage demo", or with a federation of your own:
  peerage nameserver --home ns --federation mine
  peerage register E1 --home ns-admin --out e1.bundle
  peerage join --home e1 e1.bundle
  peerage edge --home e1
  peerage query --home ns-admin 'edge:list()'
  peerage repl --home ns-admin

{STATUSES}""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_VersionAction, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        serving,
        membership,
        asking,
        prompting,
        tidying,
        editing,
        keys,
        keeping,
        device,
        carrying,
        backing_up,
        repairing,
        doctoring,
    ):
        module.add_commands(commands)
    return parser


class Parser(argparse.ArgumentParser):
    """Tells what is wrong with a command line as every other error is told: what was meant, and the next step."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            asked: Parser = getattr(found, "parser", self)
            known = [name for action in asked._actions for name in action.option_strings]
            what = "option" if rest[0].startswith("-") else "argument"
            asked.error(f'{asked.prog} has no {what} "{rest[0][:80]}"{suggestion(rest[0], known)}')
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        meant = suggestion(str(value), [str(choice) for choice in action.choices])
        if isinstance(action, argparse._SubParsersAction):
            told = f'no command "{str(value)[:80]}"{meant}'
            if not meant:
                told += f": expected {', '.join(action.choices)}; options stand behind the command"
            raise argparse.ArgumentError(None, told)
        expected = ", ".join(map(str, action.choices))
        raise argparse.ArgumentError(action, f'expected one of {expected}, found "{str(value)[:80]}"{meant}')

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"error(usage): {message}\n  hint: {self.prog} --help shows what there is\n")


class _VersionAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib.metadata import version

        print(f"peerage {version('peerage')}")
        parser.exit()


def add_command(
    commands: Commands,
    name: str,
    *,
    run: Run,
    summary: str,
    description: str = "",
    examples: str,
    json: str | None = None,
) -> argparse.ArgumentParser:
    """A command with its help. ``json``: what ``--json`` prints, for commands that print data."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{description}".rstrip(),
        epilog=f"examples:\n{_indented(examples)}\n\n{STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser)
    if json is not None:
        parser.add_argument("--json", action="store_true", help=json)
    return parser


def add_home(parser: argparse.ArgumentParser, *, whose: str) -> None:
    parser.add_argument("--home", metavar="DIR", help=f"{whose}; default: PEERAGE_HOME, else ~/.peerage")


def home_of(arguments: argparse.Namespace, console: Console) -> Home:
    """The home that the command line, else the environment names."""
    from pathlib import Path

    return Home(Path(arguments.home) if arguments.home else default_home(console.environment))


def add_settings(parser: argparse.ArgumentParser, kind: type[Struct]) -> None:
    """A flag for each setting of a kind of peer."""
    group = parser.add_argument_group(
        "settings", "also in the home's peerage.toml, and in the environment as PEERAGE_… (a flag goes before both)"
    )
    for setting in declared(kind):
        if setting.is_switch:
            group.add_argument(
                setting.flag, action=argparse.BooleanOptionalAction, default=None, help=_described(setting)
            )
        else:
            metavar = "{" + ",".join(setting.choices) + "}" if setting.choices else _metavar(setting)
            group.add_argument(setting.flag, metavar=metavar, help=_described(setting))


def flags_of(arguments: argparse.Namespace, kind: type[Struct]) -> Mapping[str, Any]:
    """The settings that were given as flags."""
    return {setting.name: getattr(arguments, setting.name) for setting in declared(kind)}


def _described(setting: Setting) -> str:
    text = setting.description.replace("%", "%%")
    if setting.default is None or "default" in text or setting.default == ():
        return text
    default = "yes" if setting.default is True else "no" if setting.default is False else str(setting.default)
    return f"{text}; default: {default}".replace("%", "%%") if "%" in default else f"{text}; default: {default}"


def _metavar(setting: Setting) -> str:
    if setting.is_list:
        return "A,B"
    rest, _, last = setting.name.rpartition("_")
    if last in ("max", "min"):
        return "BYTES" if "bytes" in rest else "COUNT" if isinstance(setting.default, int) else "SIZE"
    return {"s": "SECONDS", "models": "DIR", "home": "DIR"}.get(last, last.upper())


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())

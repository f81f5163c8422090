"""Settings: three spellings, one precedence, and errors that name setting and place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from engine.providers import Provider
from peers.homes import Home
from peers.setting_texts import SETTINGS_BYTES_MAX, BadSetting, declared
from peers.settings import (
    KINDS,
    ClientSettings,
    EdgeSettings,
    NameserverSettings,
    checked_address,
    dial_addresses,
    port_taken,
    read_settings,
    resolve_settings,
)


class TestPrecedence:
    def test_flag_then_environment_then_file_then_default(self) -> None:
        file = "application_port = 1\nfederation_port = 1\nlog_level = 'debug'"
        environment = {"PEERAGE_APPLICATION_PORT": "2", "PEERAGE_FEDERATION_PORT": "2"}
        settings = resolve_settings(
            NameserverSettings, file=file, environment=environment, flags={"application_port": "3", "names": None}
        )
        assert (settings.application_port, settings.federation_port, settings.log_level) == (3, 2, "debug")
        assert settings.application_host == "127.0.0.1"

    def test_lists_and_switches(self) -> None:
        assert resolve_settings(NameserverSettings, file="names = ['a', 'b']").names == ("a", "b")
        settings = resolve_settings(
            NameserverSettings, environment={"PEERAGE_NAMES": "a, b,", "PEERAGE_ZEROCONF": "false"}, flags={}
        )
        assert (settings.names, settings.zeroconf) == (("a", "b"), False)
        assert resolve_settings(EdgeSettings, flags={"accept_development": True}).accept_development

    def test_words_are_taken_in_any_case_outside_the_file(self) -> None:
        assert resolve_settings(EdgeSettings, environment={"PEERAGE_MODE": "online"}).mode == "ONLINE"

    def test_the_environment_of_other_kinds_and_programs_is_passed_over(self) -> None:
        environment = {"PEERAGE_MODE": "ONLINE", "PEERAGE_HOME": "/x", "PEERAGE_FAIL_AT": "a", "PATH": "/bin"}
        assert resolve_settings(ClientSettings, environment=environment) == ClientSettings()

    def test_a_device_says_where_it_is(self) -> None:
        assert resolve_settings(EdgeSettings, flags={"site": "lab 2"}).site == "lab 2"
        assert resolve_settings(EdgeSettings, flags={}).site == ""
        with pytest.raises(BadSetting, match=r"--site: expected text of at most 200 characters, found 'x+"):
            resolve_settings(EdgeSettings, flags={"site": "x" * 201})

    def test_read_from_a_home(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "e").prepare()
        assert read_settings(home, EdgeSettings, environment={}, flags={}) == EdgeSettings()
        home.settings_toml.write_text('nameserver = "ns:1"')
        assert read_settings(home, EdgeSettings, environment={}, flags={}).nameserver == "ns:1"
        home.settings_toml.write_bytes(b"\xff")
        with pytest.raises(Exception, match=r"cannot read .*peerage\.toml: it is not text"):
            read_settings(home, EdgeSettings, environment={}, flags={})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"file": "federation_prt = 1"},
            'no setting "federation_prt" in peerage.toml — did you mean "federation_port"?',
        ),
        (
            {"file": "[federation_port]\nx = 1"},
            "federation_port in peerage.toml: expected a whole number from 0 to 65535, found {'x': 1}",
        ),
        ({"file": "mode = 'ONLINE'"}, 'setting "mode" in peerage.toml is of edge, not of nameserver'),
        (
            {"file": "federation_port = '1'"},
            "federation_port in peerage.toml: expected a whole number from 0 to 65535, found '1'",
        ),
        (
            {"file": "federation_port = 70000"},
            "federation_port in peerage.toml: expected a whole number from 0 to 65535, found 70000",
        ),
        (
            {"file": "memory_bytes_max = 0"},
            "memory_bytes_max in peerage.toml: expected a whole number of at least 1, found 0",
        ),
        (
            {"file": "execution_providers = ['gpu']"},
            "execution_providers in peerage.toml: expected a list, each element one of "
            f"{', '.join(sorted(get_args(Provider)))}, found ['gpu']",
        ),
        ({"file": "names = 'a'"}, "names in peerage.toml: expected a list, each element text, found 'a'"),
        ({"file": "models = 1"}, "models in peerage.toml: expected text, found 1"),
        ({"file": "zeroconf = 1"}, "zeroconf in peerage.toml: expected true or false, found 1"),
        (
            {"file": "log_level = 'loud'"},
            "log_level in peerage.toml: expected one of debug, info, warning, error, found 'loud'",
        ),
        ({"file": "poll_interval = '9'"}, '"9" is not a poll interval: expected a form like "60s", "5m" or "60s~10%"'),
        (
            {"environment": {"PEERAGE_LOG_LEVL": "1"}},
            'no setting "log_levl" in the environment (PEERAGE_LOG_LEVL) — did you mean "log_level"?',
        ),
        (
            {"environment": {"PEERAGE_FEDERATION_PORT": "x"}},
            "PEERAGE_FEDERATION_PORT in the environment: expected a whole number from 0 to 65535, found 'x'",
        ),
        (
            {"flags": {"application_port": "-1"}},
            "--application-port: expected a whole number from 0 to 65535, found '-1'",
        ),
        ({"flags": {"load_timeout_s": "0"}}, "--load-timeout-s: expected a number above 0, found '0'"),
        (
            {"flags": {"federation": "all"}},
            '"all" is reserved and cannot name a federation',
        ),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting) as caught:
        resolve_settings(NameserverSettings, **given)
    assert caught.value.message == message


@pytest.mark.parametrize("text", ["a ==", "a = 1\na = 2", "= 1", "a = '"])
def test_a_file_that_is_not_toml_is_named(text: str) -> None:
    with pytest.raises(BadSetting, match=r"^home/peerage\.toml is not TOML: "):
        resolve_settings(EdgeSettings, file=text, file_name="home/peerage.toml")


def test_the_file_is_bounded() -> None:
    with pytest.raises(BadSetting, match="expected at most"):
        resolve_settings(EdgeSettings, file="#" * (SETTINGS_BYTES_MAX + 1))


@pytest.mark.parametrize("text", ["ns", ":1", "ns:", "ns:0", "ns:70000", "ns:x", "ns:１"])
def test_an_address_is_host_and_port(text: str) -> None:
    with pytest.raises(BadSetting, match="expected host:port"):
        resolve_settings(EdgeSettings, flags={"nameserver": text})
    assert checked_address("[::1]:35021", where="x") == "[::1]:35021"


def test_a_taken_port_names_the_setting() -> None:
    problem = port_taken("application_port", "127.0.0.1", 8080)
    assert problem.message == "application_port 8080 on 127.0.0.1 is taken by another process"
    assert (
        problem.hint
        == "set another application_port (--application-port, PEERAGE_APPLICATION_PORT), or 0 for any free one"
    )


def test_where_a_nameserver_is_dialled() -> None:
    def dialled(**given: Any) -> tuple[str, ...]:
        return dial_addresses(NameserverSettings(**given), port=9, host_name="box")

    assert dialled() == ("box:9", "127.0.0.1:9")
    assert dialled(federation_host="127.0.0.1") == ("127.0.0.1:9",)
    assert dialled(names=("ns.example", "2001:db8::1")) == ("ns.example:9", "[2001:db8::1]:9")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_setting_is_described_and_its_default_is_allowed(kind: type) -> None:
    for setting in declared(kind):
        assert setting.description, setting.name
        assert setting.flag == "--" + setting.name.replace("_", "-")
        if setting.default not in (None, ()):
            resolve_settings(kind, flags={setting.name: setting.default})

"""Founding: what the first start makes, and that a start after a kill anywhere finishes it."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from federation.certificate_reading import issued_by, read_pem
from federation.keys import read_key
from federation.roots import pin_of, trust_chain
from federation.store import FederationStore
from peers.founding import Foundation, found, put_addresses
from peers.homes import BadHome, Home
from peers.settings import NameserverSettings

NOW = 1_800_000_000.0
SETTINGS = NameserverSettings(federation="mine", names=("ns.example", "192.0.2.7"), poll_interval="5s")


def start(home: Home, settings: NameserverSettings = SETTINGS, *, now: float = NOW) -> Foundation:
    return found(home, settings, now=now, host_name="box")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "ns")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("state.db")
    }


class TestFirstStart:
    def test_keys_and_documents_lie_where_they_belong(self, home: Home, tmp_path: Path) -> None:
        foundation = start(home)
        assert foundation.new
        assert sorted(files(tmp_path)) == [
            *(
                f"ns-admin/{name}"
                for name in ("ca.crt", "identity.crt", "identity.key", "membership.json", "roots.json")
            ),
            *(f"ns-root/{name}" for name in ("root.key", "roots.json")),
            *(
                f"ns/{name}"
                for name in (
                    "ca.crt", "ca.key", "director.key", "identity.crt", "identity.key", "membership.json", "roots.json",
                )
            ),
        ]  # fmt: skip

    def test_nobody_else_can_read_them(self, home: Home, tmp_path: Path) -> None:
        start(home)
        for path in tmp_path.rglob("*"):
            expected = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == expected, path

    def test_root_and_admin_keys_are_nowhere_in_the_nameservers_home(self, home: Home, tmp_path: Path) -> None:
        foundation = start(home)
        secret = [read_key(foundation.root_home.root_key), read_key(foundation.admin_home.identity_key)]
        for path in home.path.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                for key in secret:
                    assert key.seed not in content, path
                    assert key.pem.splitlines()[1].encode() not in content, path

    def test_everybody_trusts_the_same_root(self, home: Home) -> None:
        foundation = start(home)
        roots = home.roots()
        root = trust_chain(roots, pin_of(roots[0]))
        assert foundation.admin_home.roots() == foundation.root_home.roots() == roots
        assert (root.federation, root.version) == ("mine", 1)
        assert list(root.roots) == [read_key(foundation.root_home.root_key).keyid]
        assert list(root.directors) == [read_key(home.director_key).keyid]

    def test_certificates_are_of_the_federations_authority(self, home: Home) -> None:
        foundation = start(home)
        for whose, kind in ((home, "nameserver"), (foundation.admin_home, "client")):
            certificate = read_pem(whose.text(whose.identity_crt))
            membership = whose.membership()
            assert issued_by(whose.text(whose.identity_crt), home.text(home.ca_crt))
            assert (certificate.federation, certificate.kind, certificate.uuid) == ("mine", kind, membership.uuid)
            assert certificate.key == read_key(whose.identity_key).public
            assert membership.not_after == certificate.not_after

    def test_the_store_knows_both_founders(self, home: Home) -> None:
        foundation = start(home)
        store = FederationStore.open(home.state_db)
        try:
            members = {member.name: (member.kind, member.role, member.uuid) for member in store.state.members()}
            assert members == {
                "nameserver": ("nameserver", "viewer", foundation.membership.uuid),
                "admin": ("client", "admin", foundation.admin_home.membership().uuid),
            }
            assert store.state.poll_interval == "5s"
        finally:
            store.close()

    def test_a_name_is_made_up(self, home: Home) -> None:
        assert start(home, NameserverSettings()).membership.federation.startswith("federation-")


class TestLaterStarts:
    def test_nothing_is_made_anew_but_the_own_certificate(self, home: Home, tmp_path: Path) -> None:
        start(home)
        before = files(tmp_path)
        again = start(home, now=NOW + 86_400)
        after = files(tmp_path)
        assert not again.new
        assert {name for name in before if before[name] != after[name]} == {"ns/identity.crt"}
        assert read_pem(home.text(home.identity_crt)).not_after == NOW + 31 * 86_400

    def test_the_root_folder_and_the_admins_home_may_be_elsewhere(self, home: Home) -> None:
        foundation = start(home)
        shutil.rmtree(foundation.root_home.path)
        shutil.rmtree(foundation.admin_home.path)
        start(home)
        assert not foundation.root_home.path.exists()
        assert not foundation.admin_home.path.exists()

    def test_another_federation_is_not_founded_over_it(self, home: Home) -> None:
        start(home)
        with pytest.raises(BadHome, match="holds federation mine: expected other"):
            start(home, NameserverSettings(federation="other"))


# What a first start writes, in its order; a kill leaves a beginning of it. The store's append stands at "state.db".
BEFORE_THE_APPEND = [
    "ns/identity.key", "ns/director.key", "ns/ca.key", "ns-root/root.key", "ns-admin/identity.key",
]  # fmt: skip
AFTER_THE_APPEND = [
    "ns/roots.json", "ns-root/roots.json", "ns/ca.crt", "ns/identity.crt", "ns-admin/identity.crt", "ns-admin/ca.crt",
    "ns-admin/roots.json", "ns-admin/membership.json", "ns/membership.json",
]  # fmt: skip


class TestKilledStart:
    def test_the_order_above_is_whole(self, home: Home, tmp_path: Path) -> None:
        start(home)
        assert sorted(files(tmp_path)) == sorted(BEFORE_THE_APPEND + AFTER_THE_APPEND)

    @pytest.mark.parametrize("written", range(len(BEFORE_THE_APPEND) + 1))
    def test_before_the_append_the_keys_are_taken_up(self, home: Home, tmp_path: Path, written: int) -> None:
        start(home)
        lost = BEFORE_THE_APPEND[written:] + AFTER_THE_APPEND
        for path in [tmp_path / name for name in lost] + list(home.path.glob("state.db*")):
            path.unlink()
        kept = files(tmp_path)
        again = start(home)
        assert again.new
        assert kept.items() <= files(tmp_path).items()
        self.check_whole(again, home)

    @pytest.mark.parametrize("written", range(len(AFTER_THE_APPEND)))
    def test_after_the_append_the_same_federation_is_finished(self, home: Home, tmp_path: Path, written: int) -> None:
        first = start(home, NameserverSettings())
        for name in AFTER_THE_APPEND[written:]:
            (tmp_path / name).unlink()
        kept = files(tmp_path)
        for certificate in ("ns/identity.crt", "ns-admin/identity.crt"):
            kept.pop(certificate, None)  # issued anew
        again = start(home, NameserverSettings())
        assert kept.items() <= files(tmp_path).items()
        assert again.membership.federation == first.membership.federation
        assert again.membership.uuid == first.membership.uuid
        self.check_whole(again, home)

    def check_whole(self, foundation: Foundation, home: Home) -> None:
        assert home.membership() == foundation.membership
        for whose in (home, foundation.admin_home):
            assert issued_by(whose.text(whose.identity_crt), whose.text(home.ca_crt))
        trust_chain(home.roots(), pin_of(foundation.root_home.roots()[0]))
        assert not start(home).new if foundation.membership.federation == "mine" else True


class TestRefused:
    @pytest.mark.parametrize("name", ["admin_home", "root_home"])
    def test_a_folder_inside_the_home(self, home: Home, name: str) -> None:
        settings = NameserverSettings(**{name: str(home.path / "inside")})
        with pytest.raises(BadHome, match=f"{name} is .*expected a folder outside"):
            start(home, settings)
        assert not home.path.exists()

    def test_one_folder_for_both(self, home: Home, tmp_path: Path) -> None:
        with pytest.raises(BadHome, match="expected two folders"):
            start(home, NameserverSettings(admin_home=str(tmp_path / "x"), root_home=str(tmp_path / "x")))

    def test_an_admins_home_of_another_federation(self, home: Home, tmp_path: Path) -> None:
        start(home)
        settings = NameserverSettings(federation="second", admin_home=str(tmp_path / "ns-admin"))
        with pytest.raises(BadHome, match="ns-admin belongs to federation mine") as caught:
            start(Home(tmp_path / "ns2"), settings)
        assert "--admin-home" in str(caught.value.hint)

    def test_a_root_folder_of_another_federation(self, home: Home, tmp_path: Path) -> None:
        start(home)
        settings = NameserverSettings(federation="second", root_home=str(tmp_path / "ns-root"))
        with pytest.raises(BadHome, match="holds the root key of federation mine"):
            start(Home(tmp_path / "ns2"), settings)

    def test_the_home_of_another_kind_of_peer(self, home: Home, tmp_path: Path) -> None:
        start(home)
        with pytest.raises(BadHome, match="is the home of client admin: expected a nameserver's home"):
            start(Home(tmp_path / "ns-admin"))

    def test_an_admins_home_that_was_exchanged_in_between(self, home: Home, tmp_path: Path) -> None:
        start(home)
        for name in AFTER_THE_APPEND:
            (tmp_path / name).unlink()
        shutil.rmtree(tmp_path / "ns-admin")
        Home(tmp_path / "other").prepare()
        start(Home(tmp_path / "other" / "ns"))
        shutil.copytree(tmp_path / "other" / "ns-admin", tmp_path / "ns-admin")
        (tmp_path / "ns-admin" / "membership.json").unlink()
        with pytest.raises(BadHome, match="is not the key of ADMIN in this federation") as caught:
            start(home)
        assert "give back its admin home" in str(caught.value.hint)


def test_addresses_are_put_only_into_homes_of_the_federation(home: Home, tmp_path: Path) -> None:
    admin = start(home).admin_home
    put_addresses(admin, "other", ("a:1",))
    assert admin.membership().addresses == ()
    put_addresses(admin, "mine", ("a:1", "b:1"))
    assert admin.membership().addresses == ("a:1", "b:1")
    put_addresses(Home(tmp_path / "nowhere"), "mine", ("a:1",))

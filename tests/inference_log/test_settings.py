"""How large a log may be is said as elsewhere: in the file, in the environment under either name, by a flag."""

import pytest

from peers.homes import Home
from peers.inference_log_parts import log_finder, log_metrics, opened_inference_log
from peers.setting_texts import BadSetting, declared
from peers.settings import ClientSettings, EdgeSettings, NameserverSettings, resolve_settings
from tests.inference_log.filling import ALL, inference

NAME = "local_inference_storage"


def chosen(**about: object) -> object:
    return resolve_settings(EdgeSettings, **about).local_inference_storage  # type: ignore[arg-type]


def test_an_edge_keeps_a_log_and_nobody_else_does() -> None:
    assert EdgeSettings().local_inference_storage == "1Gi"
    assert NameserverSettings().local_inference_storage == ClientSettings().local_inference_storage == "0"


def test_every_spelling_and_what_goes_before_what() -> None:
    file = f'{NAME} = "5Mi"'
    assert chosen(file=file) == "5Mi"
    assert chosen(file=f"{NAME} = 1048576") == 1048576
    plain = {"LOCAL_INFERENCE_STORAGE": "6Mi"}
    assert chosen(file=file, environment=plain) == "6Mi"
    ours = plain | {"PEERAGE_LOCAL_INFERENCE_STORAGE": "7Mi"}
    assert chosen(file=file, environment=ours) == "7Mi"
    assert chosen(file=file, environment=ours, flags={NAME: "8Mi"}) == "8Mi"
    assert chosen(flags={NAME: "0"}) in ("0", 0)
    (setting,) = [one for one in declared(EdgeSettings) if one.name == NAME]
    assert setting.flag == "--local-inference-storage"


@pytest.mark.parametrize("amount", ["much", "1Xi", "-5", "1Ki", "1.5.5Gi", ""])
def test_an_amount_that_is_none_is_refused(amount: str) -> None:
    for environment in ({"LOCAL_INFERENCE_STORAGE": amount}, {"PEERAGE_LOCAL_INFERENCE_FREE_MIN": amount + "x"}):
        with pytest.raises(BadSetting, match=r"^local_inference_(storage|free_min): "):
            chosen(environment=environment)


def test_a_log_touches_no_disk_before_it_is_used(home: Home) -> None:
    membership = home.membership()
    assert opened_inference_log(home, ClientSettings(), membership) is None
    log = opened_inference_log(home, EdgeSettings(local_inference_storage="1Mi"), membership)
    assert log is not None
    assert not (home.path / "inferences").exists()
    log.append(inference(), ALL)
    reader = log_finder(log)()
    assert reader is not None
    assert [run.edge for run in reader.read().runs] == [membership.uuid]
    told = {extra.name: extra.values for metrics in log_metrics(log) for extra in metrics()}
    assert told["peerage_log_rows_total"] == {(): 1}
    log.close()
    assert (log_finder(None)(), log_metrics(None)) == (None, ())


@pytest.fixture
def home(tmp_path: object) -> Home:
    from pathlib import Path

    from federation.names import PeerId
    from peers.homes import Membership

    made = Home(Path(str(tmp_path)) / "e1").prepare()
    made.write_membership(
        Membership(
            federation="mine", uuid=PeerId("u-1"), name="E1", kind="edge", role="viewer", addresses=(), not_after=0
        )
    )
    return made

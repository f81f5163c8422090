"""One step of the story: a pipeline of house prices, swapped in place while a program asks it over HTTP."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections import Counter
from typing import Any, Final

from peers.client import Answer
from peers.demo.performance import Performance

PIPELINE: Final = "house-price"
MODELS: Final = ("house-linear", "house-boosted")
EDGE: Final = "line-2"
GROUP: Final = "production"
STATUS: Final = f'pipeline:status("{PIPELINE}")'


def price_houses(play: Performance) -> None:
    home, examples = play.stage.home("publisher"), play.stage.examples / "house-price"
    for model in MODELS:
        shutil.copytree(examples / model, home / "models" / model)
        play.ask(f'models:create_release("{model}", "1.0")', home="publisher")
    play.ask(f'pipeline:create("{PIPELINE}")', home="publisher")
    play.ask(f'pipeline:add_model_step("{PIPELINE}", "{MODELS[0]}", "1.0")', home="publisher")
    play.ask(f'pipeline:add_validation("{PIPELINE}", "dear", "out.price > 500000")', home="publisher")
    _deploy(play)
    houses = json.loads((examples / "held-out.json").read_text("utf-8"))[:50]
    asking = _Asking(play.stage.records[EDGE]["application"], [_fields(house) for house in houses])
    with asking:
        asking.until_answered_by(MODELS[0])
        play.ask(f'pipeline:replace_model_step("{PIPELINE}", 1, "{MODELS[1]}", "1.0")', home="publisher")
        _deploy(play)
        asking.until_answered_by(MODELS[1])
    play.fact("answered", dict(asking.answered))
    play.check_that("each model answered in its turn", held=set(asking.answered) == set(MODELS), found=asking.answered)
    play.check("no request failed while the pipeline was swapped", asking.failed, [])
    play.ask(f'pipeline:undeploy("{PIPELINE}", {{"group": "{GROUP}"}})', home="publisher")
    play.until("//peer: all\nmodels:loaded()", _without_the_pipeline)


def _deploy(play: Performance) -> None:
    deployed = play.value(f'pipeline:deploy("{PIPELINE}", {{"group": "{GROUP}"}})', home="publisher")
    play.until(
        STATUS,
        lambda answer: all(
            (one["status"], one["version"]) == ("Running", deployed["version"]) for one in answer.rows[0].value["edges"]
        ),
        home="publisher",
    )


def _without_the_pipeline(answer: Answer) -> bool:
    return not any(release.startswith(f"{PIPELINE}@") for row in answer.rows for release in row.value)


def _fields(house: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in house.items() if name != "price"}


class _Asking:
    """A program on the device: asks again and again until the block ends. ``answered``: requests by model."""

    def __init__(self, address: str, houses: list[dict[str, float]]) -> None:
        self._address = address
        self._body = json.dumps(houses)
        self._ended = threading.Event()
        self._seen = threading.Condition()
        self._thread = threading.Thread(target=self._ask, name="demo-asking", daemon=True)
        self.answered: Counter[str] = Counter()
        self.failed: list[Any] = []

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def until_answered_by(self, model: str, *, within_s: float = 20.0) -> None:
        with self._seen:
            self._seen.wait_for(lambda: model in self.answered or self.failed, within_s)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=10)
        try:
            while not self._ended.is_set() and not self.failed:
                connection.request("POST", f"/pipelines/{PIPELINE}", self._body)
                answer = connection.getresponse()
                self._note(answer.status, answer.read())
        except OSError as error:
            self._note(0, str(error).encode())
        finally:
            connection.close()

    def _note(self, status: int, body: bytes) -> None:
        with self._seen:
            if status == 200:
                models = {json.loads(row["metadata"]["last_model"])["model_name"] for row in json.loads(body)}
                self.answered.update(models)
            else:
                self.failed.append((status, body[:200].decode(errors="replace")))
            self._seen.notify_all()

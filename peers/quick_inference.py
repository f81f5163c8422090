"""Inferences past the router: the paths that were seen are known with the model and version that they name.

Owns the reading of an inference's path as it stands in the request's first line; what it asks for is answered by
:mod:`peers.inference_routes`. Refuses nothing: any other path is for the router.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from aiohttp import web

from peers.inference_routes import InferenceRoutes


class QuickInference:
    """Inferences without a router: the paths that were seen are known with their model and version.

    ``PATHS_MAX`` are kept; a stranger can fill it with names, and then they cost what they cost without it.
    """

    PATHS_MAX: Final = 1024

    def __init__(self, routes: InferenceRoutes) -> None:
        self._routes = routes
        self._known: dict[str, tuple[str, str | None] | None] = {}

    def takes(self, path: str) -> bool:
        """Whether it is an inference's, as it stands in the request's first line."""
        known = self._known
        if path not in known:
            if len(known) >= self.PATHS_MAX:
                known.clear()
            known[path] = _read_path(path)
        return known[path] is not None

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request whose path it takes."""
        found = self._known[request.raw_path]
        assert found is not None
        return await self._routes.infer(request, *found)


def _read_path(path: str) -> tuple[str, str | None] | None:
    match path.partition("?")[0].split("/"):
        case ["", "v2", "models", model, "infer"] if model:
            return unquote(model), None
        case ["", "v2", "models", model, "versions", version, "infer"] if model and version:
            return unquote(model), unquote(version)
        case _:
            return None

"""REST over httpx: one request, one deadline, one kind of error."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import TracebackType
from urllib.parse import urlsplit

import attrs
import httpx
import trio

from livermore import __version__
from livermore.adapters.urls import shown
from livermore.errors import RestError
from livermore.market.wire import query

DEADLINE = 4.0
"""Seconds for a whole request. It runs shielded: cancelled while connecting, httpx leaks slots."""

CLOSING = 3.0
"""Seconds in which connections are closed: a peer that does not answer a TLS farewell is left."""


@attrs.frozen
class Reply:
    """Status, headers with lower-case names, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http:
    """A pool of connections to one host."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        self.shown = shown(self.base_url)
        self._client = self._open()

    def _open(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            http1=True,
            http2=False,
            verify=ssl.create_default_context() if self.base_url.startswith("https") else False,
            timeout=httpx.Timeout(connect=DEADLINE, read=DEADLINE, write=DEADLINE, pool=DEADLINE),
            limits=httpx.Limits(max_connections=8, max_keepalive_connections=8),
            headers={"User-Agent": f"livermore/{__version__}", "Cache-Control": "no-cache"},
            trust_env=False,
        )

    @property
    def host(self) -> str:
        """Whom we ask: name, and port where the URL says one."""
        return urlsplit(self.base_url).netloc.rpartition("@")[2]

    async def get(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The reply, whatever its status. Raises :class:`RestError` when there is none."""
        url = self.base_url + path + ("?" + query(params) if params else "")
        reply: httpx.Response | None = None
        try:
            with trio.move_on_after(DEADLINE, shield=True):
                reply = await self._client.get(url, headers=dict(headers or {}))
        except httpx.PoolTimeout as error:
            await self._renew()
            raise RestError(f"no free connection to {self.shown}") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise RestError(f"cannot reach {self.shown}: {text}") from error
        if reply is None:
            await self._renew()
            raise RestError(f"{self.shown} did not answer within {DEADLINE:g} s")
        headers = {name.lower(): value for name, value in reply.headers.items()}
        return Reply(reply.status_code, headers, reply.content)

    async def _renew(self) -> None:
        old, self._client = self._client, self._open()
        with trio.move_on_after(CLOSING, shield=True):
            await old.aclose()

    async def __aenter__(self) -> Http:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with trio.move_on_after(CLOSING, shield=True):
            await self._client.aclose()

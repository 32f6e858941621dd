"""Metrics and health over HTTP.

``/livez`` asks whether this process should be restarted: 200 while the event loop and every writer
turn, whatever exchanges and Redis do. ``/readyz`` asks whether its candles can be relied on: 200
unless a feed is blind (starting, connecting, blind); a line per exchange says how it is.
Backfilling is ready: what closes is stored, readings that lack history are withheld and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from livermore.adapters.http_server import NOT_FOUND, Answer, Question, serve_one
from livermore.errors import ConfigurationError
from livermore.runtime.feed import Feed
from livermore.runtime.journal import Journal
from livermore.runtime.metrics import Source, Sources, exposition
from livermore.runtime.status import Report
from livermore.runtime.supervise import supervise

MOST_CLIENTS = 32
"""Connections at once; one more is closed unheard."""


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen; port 0 is a free one. Raises :class:`ConfigurationError` in one line."""
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"metrics: cannot listen on {host} port {port}: {reason}: "
            "choose another --metrics-port (0 takes a free one) or --metrics-host"
        ) from None
    return listeners


def url_of(listener: trio.SocketListener) -> str:
    """Where it listens: ``http://127.0.0.1:9464``."""
    host, port = listener.socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def sources(exchanges: Iterable[str], feeds: Mapping[str, Feed]) -> Sources:
    """What there is to say of ``feeds``, which come and go; one that never began is starting."""

    def now() -> Mapping[str, Source]:
        before = {name: Source(Report(exchange=name, title=name), None) for name in exchanges}
        return before | {name: Source(feed.report, feed.now()) for name, feed in feeds.items()}

    return now


async def keep_health(
    listeners: Sequence[trio.SocketListener],
    host: str,
    sources: Sources,
    chance: Callable[[], float],
) -> None:
    """Answer until cancelled; a bug costs a second of answers, not the feeds."""
    port = listeners[0].socket.getsockname()[1]
    journal = Journal("metrics")
    journal.info("metrics and health", url=url_of(listeners[0]))

    async def run() -> None:
        nonlocal listeners
        taken, listeners = listeners or await open_listeners(host, port), ()
        await serve_health(taken, sources)

    await supervise("metrics", run, journal, chance=chance)


async def serve_health(listeners: Sequence[trio.SocketListener], sources: Sources) -> None:
    """Answer until cancelled; closes ``listeners``."""
    answer = answers(sources)
    clients = 0

    async def welcome(stream: trio.SocketStream) -> None:
        nonlocal clients
        if clients >= MOST_CLIENTS:
            await trio.aclose_forcefully(stream)
            return
        clients += 1
        try:
            await serve_one(stream, answer)
        finally:
            clients -= 1

    await trio.serve_listeners(welcome, list(listeners))


def answers(sources: Sources) -> Callable[[Question], Answer]:
    """What is answered to which question."""
    expose = exposition(sources)

    def answer(question: Question) -> Answer:
        match question.path:
            case "/metrics":
                body, content_type = expose(question.accept)
                return Answer(200, body, content_type)
            case "/livez":
                return livez(sources)
            case "/readyz":
                return readyz(sources)
            case "/":
                return Answer(200, b"/metrics\n/livez\n/readyz\n")
        return NOT_FOUND

    return answer


def livez(sources: Sources) -> Answer:
    """Whether everything turns."""
    moment = trio.current_time()
    hung = [name for name, one in sources().items() if not one.report.alive(moment)]
    if hung:
        return Answer(503, f"the writer hangs: {', '.join(hung)}\n".encode())
    return Answer(200, b"alive\n")


def readyz(sources: Sources) -> Answer:
    """Whether nothing is blind; no feed at all is blind as well."""
    told = {name: one.report.condition(one.clock) for name, one in sources().items()}
    lines = [condition.line(name) for name, condition in told.items()] or ["no feed runs"]
    ready = bool(told) and not any(condition.blind for condition in told.values())
    return Answer(200 if ready else 503, "".join(f"{line}\n" for line in lines).encode())

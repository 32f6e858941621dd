"""Channels against real servers on loopback, which answer as nobody would wish."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from livermore.adapters.apprise import DEADLINE as APPRISE_DEADLINE
from livermore.adapters.channel import Channel, ChannelSettings
from livermore.adapters.channels import open_channels
from livermore.adapters.discord import embed
from livermore.adapters.post import DEADLINE, MOST_BODY, Post, request
from livermore.errors import ChannelBusy, ChannelError, ChannelRefused, ConfigurationError
from livermore.market.timeframe import Timeframe
from livermore.signals.alert import Alert, Beside, Blindness, Withdrawal
from livermore.signals.message import Colour, When, message_of, sample_message
from livermore.signals.stage import Stage
from tests.receiver import Act, Receiver, answer, drip, flood, raw, receiving, silent

TOKEN = "tOkEn-of_the-webhook"
KEY = "a key nobody may see"
NOON = 1_795_176_000_000

ALERT = Alert(
    id=f"level|coinbase|BTC-USD|1h|{NOON - 3_600_000}",
    rule="level",
    kind="level",
    what="crossed above 150",
    direction="up",
    source_exchange_id="coinbase",
    symbol="BTC-USD",
    timeframe=Timeframe.H1,
    open_time=NOON - 3_600_000,
    close_time=NOON,
    close=67_100.5,
    last_price=67_123.45,
    last_price_time=NOON + 1_000,
    macdv=152.314,
    signal=140.0,
    histogram=12.314,
    stage=Stage.OVERBOUGHT,
    bias="bullish",
    readings={"1h": Beside(NOON - 3_600_000, 152.314, 140.0, 12.314, Stage.OVERBOUGHT)},
    revision=0,
    triggered=NOON + 2_340,
    latency=2_340,
)
MESSAGE = message_of([ALERT])
GONE = message_of([Withdrawal(ALERT, "1-0", "REST says otherwise", NOON + 60_000)])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def opened(kind: str, url: str) -> Channel:
    settings = ChannelSettings(
        name="desk",
        kind=kind,
        url_env="DESK_URL",
        secret_env="DESK_SECRET" if kind == "webhook" else None,
    )
    (channel,) = open_channels([settings], {"DESK_URL": url, "DESK_SECRET": KEY})
    return channel


def discord(receiver: Receiver, query: str = "") -> Channel:
    return opened("discord", receiver.url(f"/api/webhooks/42/{TOKEN}{query}"))


def webhook(receiver: Receiver) -> Channel:
    return opened("webhook", receiver.url(f"/hook/{TOKEN}?also={TOKEN}"))


OPEN: dict[str, Callable[[Receiver], Channel]] = {"discord": discord, "webhook": webhook}


@pytest.fixture(params=OPEN)
def either(request: pytest.FixtureRequest, receiver: Receiver) -> Channel:
    """A Discord webhook, and one of our own."""
    return OPEN[request.param](receiver)


@pytest.fixture(autouse=True)
def no_secret_is_told(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does: no log of anybody holds the token or the key."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        assert_silent(f"{record.getMessage()} {record.__dict__}")


def assert_silent(text: str) -> None:
    assert TOKEN not in text
    assert KEY not in text


async def failure(sending: Awaitable[object]) -> ChannelError | ChannelRefused:
    """What ``sending`` raises, which tells no secret either."""
    try:
        await sending
    except (ChannelError, ChannelRefused) as caught:
        error = caught
    else:
        raise AssertionError("it was sent")
    assert "\n" not in str(error)
    assert str(error).startswith("desk: ")
    assert_silent(f"{error} {error!r}" + "".join(traceback.format_exception(error)))
    return error


# -- both ways over HTTP ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_any_good_status_is_sent(either: Channel, receiver: Receiver, status: int):
    receiver.script = [answer(status)]
    assert await either.send(MESSAGE) == ""
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("act", "kind", "uncertain"),
    [
        (answer(500, b"<html>"), ChannelError, True),
        (answer(502), ChannelError, True),
        (answer(503), ChannelError, False),
        (answer(429), ChannelError, False),
        (answer(429, {"retry_after": 7}, retry_after="7"), ChannelBusy, False),
        (answer(400, {"code": 50_006, "message": TOKEN}), ChannelRefused, None),
        (answer(401), ChannelRefused, None),
        (answer(403), ChannelRefused, None),
        (answer(404), ChannelRefused, None),
        (answer(410), ChannelRefused, None),
        (answer(302, location="/elsewhere"), ChannelRefused, None),
        (raw(b""), ChannelError, True),
        (raw(b"HTTP/1.1 200"), ChannelError, True),
        (raw(TOKEN.encode() + b"\r\n\r\n"), ChannelError, True),
    ],
)
async def test_every_other_answer_is_one_kind_of_error(
    either: Channel, receiver: Receiver, act: Act, kind: type, uncertain: bool | None
):
    receiver.script = [act]
    error = await failure(either.send(MESSAGE))
    assert type(error) is kind
    assert getattr(error, "uncertain", None) is uncertain
    assert len(receiver.requests) == 1


async def test_after_an_error_the_next_try_gets_through(either: Channel, receiver: Receiver):
    receiver.script = [answer(500), raw(b"")]
    await failure(either.send(MESSAGE))
    await failure(either.send(MESSAGE))
    await either.send(MESSAGE)
    assert len(receiver.requests) == 3


async def test_a_refused_connection_is_no_doubt_that_nothing_arrived():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/api/webhooks/42/{TOKEN}"
        for kind in OPEN:
            error = await failure(opened(kind, url).send(MESSAGE))
            assert isinstance(error, ChannelError)
            assert not error.uncertain
            assert "Connection refused" in str(error)


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "a..invalid"])
async def test_a_host_that_cannot_be_found_is_an_error_like_any_other(host: str):
    error = await failure(opened("webhook", f"https://{host}/{TOKEN}").send(MESSAGE))
    assert isinstance(error, ChannelError)
    assert not error.uncertain
    assert "cannot connect" in str(error)


async def test_a_redirect_is_not_followed(either: Channel, receiver: Receiver):
    with receiving() as other:
        receiver.script = [answer(307, location=other.url("/api/webhooks/42/x"))]
        assert isinstance(await failure(either.send(MESSAGE)), ChannelRefused)
        assert (len(receiver.requests), other.connections) == (1, 0)


@contextlib.asynccontextmanager
async def more_than(
    seconds: float, clock: MockClock, receiver: Receiver, *, spoken: bool = False
) -> AsyncIterator[None]:
    """So much time passes once a request was read, or answered in part if ``spoken``."""

    async def pass_the_time() -> None:
        await trio.to_thread.run_sync(receiver.wait, len(receiver.requests) + 1)
        if spoken:
            assert await trio.to_thread.run_sync(receiver.spoke.wait, 30)
        await wait_all_tasks_blocked()
        clock.jump(seconds + 0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_the_time)
        yield


@pytest.mark.parametrize("act", [silent, drip(b"HTTP/1.1 200 "), drip(b"HTTP/1.1 200 OK\r\nx: ")])
async def test_who_does_not_answer_is_left_after_ten_seconds_and_may_have_heard(
    either: Channel, receiver: Receiver, act: Act, mock_clock: MockClock
):
    receiver.script = [act]
    async with more_than(DEADLINE, mock_clock, receiver):
        error = await failure(either.send(MESSAGE))
    assert isinstance(error, ChannelError)
    assert error.uncertain
    assert "no answer within 10 s" in str(error)


async def test_a_good_status_counts_though_its_body_drips_for_ever(
    either: Channel, receiver: Receiver, mock_clock: MockClock
):
    receiver.script = [drip(b'HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n{"id": "1')]
    async with more_than(DEADLINE, mock_clock, receiver, spoken=True):
        assert await either.send(MESSAGE) == ""


async def test_a_good_status_counts_though_its_body_breaks_off(either: Channel, receiver: Receiver):
    receiver.script = [raw(b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"id": "1"')]
    assert await either.send(MESSAGE) == ""


async def test_of_a_huge_reply_little_is_read_and_it_was_sent(either: Channel, receiver: Receiver):
    endless = flood(b"HTTP/1.1 200 OK\r\n\r\n")
    receiver.script = [endless, endless]
    assert await either.send(MESSAGE) == ""
    reply = await Post("desk").ask(request("POST", receiver.url(), headers={}, content=b""))
    assert MOST_BODY <= len(reply.body) <= MOST_BODY + 65_536


async def test_a_head_without_end_is_given_up(either: Channel, receiver: Receiver):
    receiver.script = [flood(b"HTTP/1.1 200 OK\r\nx: ")]
    assert "cannot be read" in str(await failure(either.send(MESSAGE)))


async def test_sending_can_be_cancelled_at_once(either: Channel, receiver: Receiver):
    receiver.script = [silent]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(either.send, MESSAGE)
        await trio.to_thread.run_sync(receiver.wait, 1)
        nursery.cancel_scope.cancel()
    await either.send(MESSAGE)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: TLS is NOT tested; install it (Debian: openssl)")
    folder = tmp_path_factory.mktemp("tls")
    shown, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(shown)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return shown, key


async def test_only_a_certificate_we_know_gets_the_message(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    with receiving(context) as receiver:
        error = await failure(webhook(receiver).send(MESSAGE))
        assert isinstance(error, ChannelError)
        assert not error.uncertain
        assert "self-signed certificate" in str(error)
        assert receiver.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        await webhook(receiver).send(MESSAGE)
        assert len(receiver.requests) == 1


async def test_a_server_without_tls_gets_nothing_of_a_https_url():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[bytes] = []

        def speak_plainly() -> None:
            near, _ = listener.accept()
            with near:
                near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                while data := near.recv(65_536):
                    heard.append(data)

        url = f"https://127.0.0.1:{listener.getsockname()[1]}/api/webhooks/42/{TOKEN}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, speak_plainly)
            error = await failure(opened("discord", url).send(MESSAGE))
    assert isinstance(error, ChannelError)
    assert not error.uncertain
    assert "no TLS: wrong version number" in str(error)
    assert TOKEN.encode() not in b"".join(heard)


async def test_a_handshake_that_never_ends_is_left_and_nothing_was_sent(mock_clock: MockClock):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def pass_the_time() -> None:
            kept.append(await trio.to_thread.run_sync(listener.accept))
            await wait_all_tasks_blocked()
            mock_clock.jump(DEADLINE + 0.1)

        kept: list[Any] = []
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/api/webhooks/42/{TOKEN}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_the_time)
            error = await failure(opened("discord", url).send(MESSAGE))
        assert isinstance(error, ChannelError)
        assert not error.uncertain
        assert "no connection within 10 s" in str(error)
        kept[0][0].close()


async def test_a_peer_that_reads_no_more_in_mid_upload_holds_nobody(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
):
    """A TLS farewell that cannot be sent must not be waited for."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        channel = opened("discord", f"https://127.0.0.1:{port}/api/webhooks/42/{TOKEN}")

        def greet() -> ssl.SSLSocket:
            near, _ = listener.accept()
            return context.wrap_socket(near, server_side=True)

        async def pass_the_time() -> None:
            kept.append(await trio.to_thread.run_sync(greet))
            await wait_all_tasks_blocked(0.2)
            mock_clock.jump(DEADLINE + 0.1)

        async def upload() -> None:
            error = await failure(channel.attach("7", MESSAGE, b"\x89PNG" + bytes(40_000_000)))
            assert isinstance(error, ChannelError)
            assert error.uncertain

        kept: list[ssl.SSLSocket] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            nursery.start_soon(pass_the_time)
        kept[0].close()


# -- Discord ----------------------------------------------------------------------------------


async def test_discord_gets_an_embed_and_gives_its_id(receiver: Receiver):
    receiver.script = [answer(200, {"id": "9001", "embeds": []})]
    assert await discord(receiver).send(MESSAGE) == "9001"
    (request,) = receiver.requests
    assert (request.method, request.target) == ("POST", f"/api/v10/webhooks/42/{TOKEN}?wait=true")
    assert request.headers["content-type"] == "application/json"
    assert request.json["allowed_mentions"] == {"parse": []}
    (shown,) = request.json["embeds"]
    assert shown["title"] == "BTC-USD 1h crossed above 150"
    assert "price 67,123.45 at 2026-11-20 12:00:01 UTC" in shown["description"]
    assert "```\n      MACD-V  stage\n* 1h  152.31  overbought\n```" in shown["description"]
    assert isinstance(shown["color"], int)


async def test_a_reply_of_discord_that_cannot_be_read_was_sent_all_the_same(receiver: Receiver):
    for reply in (b"", b"not json", b'{"id": 7}', b"[" * 100_000, b'{"id": "\xff"}'):
        receiver.script = [answer(200, reply)]
        assert await discord(receiver).send(MESSAGE) == ""
    assert len(receiver.requests) == 5


async def test_a_withdrawal_strikes_the_title_and_takes_the_picture_away(receiver: Receiver):
    await discord(receiver).edit("9001", GONE)
    (request,) = receiver.requests
    assert (request.method, request.target) == (
        "PATCH",
        f"/api/v10/webhooks/42/{TOKEN}/messages/9001",
    )
    (shown,) = request.json["embeds"]
    assert shown["title"] == "withdrawn: ~~BTC-USD 1h crossed above 150~~"
    assert "REST says otherwise" in shown["description"]
    assert request.json["attachments"] == []
    assert request.json["allowed_mentions"] == {"parse": []}


async def test_a_chart_is_attached_to_the_same_embed(receiver: Receiver):
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    await discord(receiver).attach("9001", MESSAGE, png)
    (request,) = receiver.requests
    assert (request.method, request.target.rpartition("/")[2]) == ("PATCH", "9001")
    parts = request.parts
    assert parts['name="files[0]"; filename="chart.png"'] == png
    payload = json.loads(parts['name="payload_json"'])
    assert payload["attachments"][0]["id"] == 0
    assert payload["attachments"][0]["filename"] == "chart.png"
    (shown,) = payload["embeds"]
    assert shown["image"] == {"url": "attachment://chart.png"}
    assert shown["title"] == embed(MESSAGE)["title"]
    assert payload["allowed_mentions"] == {"parse": []}


async def test_a_thread_is_named_in_every_request(receiver: Receiver):
    channel = discord(receiver, "?thread_id=77&wait=false")
    await channel.send(MESSAGE)
    await channel.edit("9001", GONE)
    assert receiver.requests[0].target.endswith(f"{TOKEN}?wait=true&thread_id=77")
    assert receiver.requests[1].target.endswith("/messages/9001?thread_id=77")


@pytest.mark.parametrize("message_id", ["", "12/../..", "1?x", "٣"])
async def test_what_is_no_id_is_not_put_into_a_url(receiver: Receiver, message_id: str):
    for doing in (
        discord(receiver).edit(message_id, GONE),
        discord(receiver).attach(message_id, MESSAGE, b""),
    ):
        assert isinstance(await failure(doing), ChannelRefused)
    assert receiver.connections == 0


LIMITS: list[tuple[str, Act, float]] = [
    ("header", answer(429, {"retry_after": 64.57}, retry_after="65"), 65),
    ("body", answer(429, {"retry_after": 64.57}), 64.57),
    ("longest", answer(429, {"retry_after": 1336.57, "global": True}, retry_after="5"), 1336.57),
    ("html", answer(429, b"<html>error 1015", retry_after="30"), 30),
    ("absurd", answer(429, {"retry_after": 1e300}, retry_after="2"), 2),
    (
        "date",
        answer(
            429,
            date="Fri, 20 Nov 2026 12:00:00 GMT",
            retry_after="Fri, 20 Nov 2026 12:01:30 GMT",
        ),
        90,
    ),
]


@pytest.mark.parametrize(("act", "wait"), [x[1:] for x in LIMITS], ids=[x[0] for x in LIMITS])
async def test_a_limit_is_kept_without_asking_again(
    receiver: Receiver, act: Act, wait: float, mock_clock: MockClock
):
    channel = discord(receiver)
    receiver.script = [act]
    told = await failure(channel.send(MESSAGE))
    assert isinstance(told, ChannelBusy)
    assert told.retry_after == pytest.approx(wait, abs=0.1)
    mock_clock.jump(wait - 0.5)
    again = await failure(channel.send(MESSAGE))
    assert isinstance(again, ChannelBusy)
    assert again.retry_after == pytest.approx(0.55)
    assert len(receiver.requests) == 1
    mock_clock.jump(0.6)
    await channel.send(MESSAGE)
    assert len(receiver.requests) == 2


async def test_an_exhausted_bucket_is_not_asked_before_it_is_full(
    receiver: Receiver, mock_clock: MockClock
):
    channel = discord(receiver)
    receiver.script = [
        answer(200, {"id": "1"}, x_ratelimit_remaining="1", x_ratelimit_reset_after="2"),
        answer(200, {"id": "2"}, x_ratelimit_remaining="0", x_ratelimit_reset_after="1.5"),
    ]
    assert [await channel.send(MESSAGE), await channel.send(MESSAGE)] == ["1", "2"]
    error = await failure(channel.send(MESSAGE))
    assert isinstance(error, ChannelBusy)
    assert error.retry_after == pytest.approx(1.55)
    assert len(receiver.requests) == 2
    await channel.edit("1", GONE)  # another method, another bucket
    mock_clock.jump(1.6)
    await channel.send(MESSAGE)
    assert len(receiver.requests) == 4


@pytest.mark.parametrize(
    ("act", "edits_too"),
    [
        (answer(429, {"retry_after": 9, "global": True}), True),
        (answer(429, b"<html>", retry_after="9"), True),
        (answer(429, {"retry_after": 9, "global": False}), False),
    ],
)
async def test_a_global_limit_holds_for_edits_and_a_limit_of_sending_does_not(
    receiver: Receiver, act: Act, edits_too: bool, mock_clock: MockClock
):
    channel = discord(receiver)
    receiver.script = [act]
    await failure(channel.send(MESSAGE))
    if edits_too:
        assert isinstance(await failure(channel.edit("1", GONE)), ChannelBusy)
    else:
        await channel.edit("1", GONE)


@pytest.mark.parametrize("status", [401, 404])
async def test_a_webhook_that_is_gone_is_never_asked_again(receiver: Receiver, status: int):
    channel = discord(receiver)
    receiver.script = [answer(status, {"code": 10_015, "message": TOKEN})]
    for _ in range(3):
        error = await failure(channel.send(MESSAGE))
        assert isinstance(error, ChannelRefused)
        assert "put its URL into DESK_URL" in str(error)
    assert isinstance(await failure(channel.edit("1", GONE)), ChannelRefused)
    assert len(receiver.requests) == 1


async def test_a_message_that_somebody_deleted_is_not_a_webhook_that_is_gone(receiver: Receiver):
    channel = discord(receiver)
    receiver.script = [answer(404, {"code": 10_008, "message": "Unknown Message"})]
    assert isinstance(await failure(channel.edit("1", GONE)), ChannelRefused)
    receiver.script = [answer(200, {"id": "2"})]
    assert await channel.send(MESSAGE) == "2"


def shown_plain(markdown: str) -> str:
    """What Discord's markdown shows: a backslash before a mark is not seen."""
    return re.sub(r"\\([^0-9A-Za-z\s])", r"\1", markdown)


@pytest.mark.parametrize(
    "symbol",
    [
        "@everyone-USD",
        "<@123>-USD",
        "||spoiler||-USD",
        "~~gone~~-USD",
        "_a_-`b`",
        "**B**-USD",
        "[a](https://evil.example)-USD",
        "\\*-USD",
        "```\n@here\n```-USD",
    ],
)
def test_a_symbol_is_shown_as_it_is_and_does_nothing(symbol: str):
    reading = Beside(0, None, None, None, None, withheld=symbol)
    strange = msgspec.structs.replace(
        ALERT, symbol=symbol, readings={"1h": reading, symbol: reading}
    )
    one_line = " ".join(symbol.split())
    for message in (message_of([strange]), message_of([strange, ALERT])):
        shown = embed(message)
        text, *code = shown["description"].split("```")
        assert len(code) in {0, 2}  # a block that is closed, or none
        assert "@here" not in text.replace("\\@here", "")
        for part in (shown["title"], text):
            unescaped = re.sub(r"\\[^0-9A-Za-z\s]", "", part)
            assert not set(unescaped) & set("*_~`|<>[]@#")
            assert "://" not in unescaped
    assert shown_plain(embed(message_of([strange]))["title"]).startswith(f"{one_line} 1h")


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


@pytest.mark.parametrize("letter", ["x", "_", "\U0001f4c8"])
def test_an_embed_stays_within_the_bounds_of_discord(letter: str):
    long = letter * 500
    told = msgspec.structs.replace(
        ALERT, symbol=long, what=long, rule=long, bias=long, source_exchange_id=long
    )
    reading = Beside(0, 1.0, None, None, None)
    wide = msgspec.structs.replace(told, readings={f"{long}{n}": reading for n in range(500)})
    many = [msgspec.structs.replace(told, id=str(n)) for n in range(1_000)]
    gone = [Withdrawal(one, "1-0", long, NOON) for one in many]
    blind = Blindness("b", long, 10**6, 10**6, [long] * 500, NOON, long, NOON)
    batches: Sequence[Sequence[Any]] = ([told], [wide], many, gone, gone[:1], [blind])
    for entries in batches:
        message = message_of(entries, possibly_repeated=True, dropped_before=10**6)
        shown = embed(message, "chart.png")
        assert 0 < units(shown["title"]) <= 256
        assert 0 < units(shown["description"]) <= 4_096
        assert "dropped" in shown["description"]
        if len(entries) > 1:
            assert re.search(r"and [0-9]+ more: livermore alerts", shown["description"])
            assert units(shown["description"]) > 3_000  # and uses them


def test_every_colour_has_its_own():
    shown = {embed(attrs.evolve(MESSAGE, colour=colour))["color"] for colour in Colour}
    assert len(shown) == len(Colour)


# -- webhooks ---------------------------------------------------------------------------------


def hmac_by_hand(key: bytes, data: bytes) -> str:
    """RFC 2104, spelled out."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + data).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).hexdigest()


async def test_a_webhook_is_signed_so_that_its_receiver_can_tell(receiver: Receiver):
    await webhook(receiver).send(MESSAGE)
    (request,) = receiver.requests
    assert (request.method, request.target) == ("POST", f"/hook/{TOKEN}?also={TOKEN}")
    timestamp = request.headers["x-livermore-timestamp"]
    assert re.fullmatch("[0-9]{10}", timestamp)
    signed = timestamp.encode() + b"." + request.body
    assert request.headers["x-livermore-signature"] == "sha256=" + hmac_by_hand(
        KEY.encode(), signed
    )
    assert request.headers["content-type"] == "application/json"


async def test_a_webhook_carries_the_entries_as_they_are_stored(receiver: Receiver):
    withdrawal = Withdrawal(ALERT, "1-0", "why", NOON)
    message = message_of([ALERT, withdrawal], possibly_repeated=True, dropped_before=3)
    await webhook(receiver).send(message)
    said = receiver.requests[0].json
    assert [entry["type"] for entry in said["entries"]] == ["alert", "withdrawal"]
    assert said["entries"][0] == msgspec.to_builtins(ALERT)
    assert (said["kind"], said["possibly_repeated"], said["dropped_before"]) == (
        "combined",
        True,
        3,
    )
    assert said["id"] == message.id
    assert said["title"].startswith("possibly repeated: ")


async def test_the_id_is_the_same_at_every_try_and_fits_into_a_header(receiver: Receiver):
    strange = message_of(
        [msgspec.structs.replace(ALERT, id="level|binance|币安-USDT|1h|1\r\nx: y")]
    )
    receiver.script = [answer(500)]
    channel = webhook(receiver)
    await failure(channel.send(strange))
    await channel.send(strange)
    ids = [request.headers["x-livermore-id"] for request in receiver.requests]
    assert ids[0] == ids[1]
    assert unquote(ids[0]) == strange.id
    assert all("x" not in request.headers for request in receiver.requests)


async def test_a_sample_carries_no_entry(receiver: Receiver):
    await webhook(receiver).send(sample_message(NOON))
    said = receiver.requests[0].json
    assert (said["kind"], said["entries"]) == ("sample", [])


@pytest.mark.parametrize("status", [429, 503])
async def test_a_webhook_that_says_when_to_come_again_is_busy(receiver: Receiver, status: int):
    receiver.script = [answer(status, retry_after="12")]
    error = await failure(webhook(receiver).send(MESSAGE))
    assert isinstance(error, ChannelBusy)
    assert error.retry_after == 12


async def test_what_cannot_edit_refuses_to(receiver: Receiver):
    for channel in (webhook(receiver), opened("log", ""), apprise_to(receiver)):
        assert not channel.edits
        assert isinstance(await failure(channel.edit("1", GONE)), ChannelRefused)
        assert isinstance(await failure(channel.attach("1", GONE, b"")), ChannelRefused)
    assert receiver.connections == 0
    assert discord(receiver).edits


# -- the log ----------------------------------------------------------------------------------


def alert_lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, dict[str, object]]]:
    """Level, text and figures of what the channel wrote."""
    return [
        (record.levelname, record.getMessage(), record.__dict__["fields"])
        for record in caplog.records
        if record.name == "livermore.alerts"
    ]


async def test_the_log_has_one_line_for_each_alert_with_its_figures(
    caplog: pytest.LogCaptureFixture,
):
    other = msgspec.structs.replace(ALERT, id="x", symbol="ETH-USD", late=True, holds=False)
    channel = opened("log", "")
    assert await channel.send(message_of([ALERT, other], dropped_before=2)) == ""
    lines = alert_lines(caplog)
    assert [line[:2] for line in lines] == [
        ("WARNING", "older messages were dropped"),
        ("INFO", "BTC-USD 1h crossed above 150"),
        ("INFO", "late: ETH-USD 1h crossed above 150"),
    ]
    assert lines[0][2]["count"] == 2
    assert lines[1][2] == {
        "macdv": 152.31,
        "stage": "overbought",
        "bias": "bullish",
        "price": 67_123.45,
        "candle": "2026-11-20T11:00:00Z",
        "latency_ms": 2_340,
        "id": ALERT.id,
    }
    assert lines[2][2]["holds"] is False


async def test_what_is_sent_late_says_so_in_the_log_and_no_longer_that_it_holds(
    caplog: pytest.LogCaptureFixture,
):
    found_late = msgspec.structs.replace(ALERT, id="x", late=True, holds=True)
    when = When(NOON + 3_600_000)
    await opened("log", "").send(message_of([ALERT, found_late], when=when))
    for level, text, figures in alert_lines(caplog):
        assert (level, text) == ("INFO", "late: BTC-USD 1h crossed above 150")
        assert "holds" not in figures


async def test_blindness_is_a_warning_in_the_log(caplog: pytest.LogCaptureFixture):
    entry = Blindness("blind|x", "coinbase", 2, 5, ["BTC-USD 5m"], NOON, "lost", NOON)
    await opened("log", "").send(message_of([entry]))
    await opened("log", "").send(sample_message(NOON))
    lines = alert_lines(caplog)
    assert [line[:2] for line in lines] == [
        ("WARNING", "blind: coinbase, 2 of 5 series"),
        ("INFO", "sample: this channel works"),
    ]
    assert lines[0][2]["why"] == "lost"


# -- Apprise ----------------------------------------------------------------------------------


def apprise_to(receiver: Receiver) -> Channel:
    return opened("apprise", f"json://user:{TOKEN}@127.0.0.1:{receiver.port}/{TOKEN}")


async def test_apprise_sends_title_and_text(receiver: Receiver):
    assert await apprise_to(receiver).send(MESSAGE) == ""
    said = receiver.requests[0].json
    assert said["title"] == "BTC-USD 1h crossed above 150"
    assert "price 67,123.45" in said["message"]


@pytest.mark.parametrize("act", [answer(500), answer(401, TOKEN.encode()), raw(b"")])
async def test_what_apprise_could_not_send_is_tried_again_and_may_have_arrived(
    receiver: Receiver, act: Act
):
    receiver.script = [act]
    channel = apprise_to(receiver)
    error = await failure(channel.send(MESSAGE))
    assert isinstance(error, ChannelError)
    assert error.uncertain
    await channel.send(MESSAGE)


async def test_an_apprise_that_hangs_is_left_behind_and_the_next_one_waits_for_it(
    receiver: Receiver, mock_clock: MockClock
):
    receiver.script = [silent]
    channel = apprise_to(receiver)

    async def pass_the_time() -> None:
        await trio.to_thread.run_sync(time.sleep, 0.3)  # one that is not held back would begin
        await wait_all_tasks_blocked()
        mock_clock.jump(APPRISE_DEADLINE + 0.1)

    async with more_than(APPRISE_DEADLINE, mock_clock, receiver):
        error = await failure(channel.send(MESSAGE))
    assert isinstance(error, ChannelError)
    assert error.uncertain
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_the_time)
        error = await failure(channel.send(MESSAGE))
    assert isinstance(error, ChannelError)
    assert not error.uncertain  # it was not even begun
    assert len(receiver.requests) == 1


async def test_apprise_without_apprise_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'livermore\[apprise\]'"):
        opened("apprise", "json://127.0.0.1/")


# -- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("discord", f"https://discord.com/{TOKEN}"),
        ("discord", f"https://discord.com/api/webhooks/42/{TOKEN}/slack"),
        ("discord", f"http://discord.com/api/webhooks/42/{TOKEN}"),
        ("discord", f"https://{TOKEN}:x@discord.com/api/webhooks/42/{TOKEN}"),
        ("discord", f"https://discord.com/api/webhooks/42/{TOKEN} x"),
        ("discord", f"https://discord.com/api/webhooks/42/{TOKEN}\r\nx: y"),
        ("discord", f"https://discord.com:99999/api/webhooks/42/{TOKEN}"),
        ("webhook", f"ftp://box/{TOKEN}"),
        ("webhook", f"http://192.0.2.1/{TOKEN}"),
        ("webhook", f"https://[{TOKEN}/"),
        ("webhook", f"https://a[b.example/{TOKEN}"),
        ("webhook", f"https://xn--a.example/{TOKEN}"),
        ("webhook", TOKEN),
        ("apprise", f"nosuch://{TOKEN}"),
        ("apprise", TOKEN),
    ],
)
def test_a_value_that_cannot_be_used_is_told_by_the_name_of_its_variable(kind: str, url: str):
    with pytest.raises(ConfigurationError) as caught:
        opened(kind, url)
    assert "channel desk: " in str(caught.value)
    assert "DESK_URL" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_silent("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize("kind", ["discord", "webhook", "apprise"])
@pytest.mark.parametrize("missing", ["DESK_URL", "DESK_SECRET"])
@pytest.mark.parametrize("there", [False, True])
def test_a_variable_that_is_not_set_is_named(kind: str, missing: str, there: bool):
    settings = ChannelSettings(name="desk", kind=kind, url_env="DESK_URL", secret_env="DESK_SECRET")
    known = {"DESK_URL": f"https://discord.com/api/webhooks/42/{TOKEN}", "DESK_SECRET": KEY}
    known.pop(missing)
    if there:
        known[missing] = "  "
    with contextlib.ExitStack() as stack:
        if missing == "DESK_URL" or kind == "webhook":
            stack.enter_context(pytest.raises(ConfigurationError, match=f"{missing} is not set"))
        open_channels([settings], known)


def test_no_repr_tells_a_secret(receiver: Receiver):
    for channel in (discord(receiver), webhook(receiver), apprise_to(receiver)):
        assert_silent(repr(channel))
        assert_silent(repr([getattr(channel, name) for name in ("name", "edits")]))
    assert_silent(repr(ChannelSettings(name="d", kind="webhook", url=f"https://a/{TOKEN}")))

"""What is taken past the library is what the library would have said, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto import events
from wsproto.connection import Connection, ConnectionType

from livermore.adapters.frames import LONGEST, Splitter

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
MAXIMUM = 300

Said = list[tuple[str, object]]


class Library:
    """What trio-websocket makes of the events of wsproto: messages, pings, and one end."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._wsproto = Connection(ConnectionType.CLIENT)
        self._parts: list[str | bytes] = []
        self.said: Said = []
        self.seen = 0
        self.over = False

    def message(self, message: str | bytes) -> None:
        if not self.over:
            self.said.append((type(message).__name__, message))

    def receive(self, data: bytes) -> None:
        self.seen += len(data)
        self._wsproto.receive_data(data)
        for event in self._wsproto.events():
            if self.over:
                return
            if isinstance(event, events.Ping):
                self.said.append(("ping", bytes(event.payload)))
            elif isinstance(event, events.CloseConnection):
                code = int(event.code)  # why text is not UTF-8 depends on where it was cut
                self.said.append(("close", (code, event.reason if code != 1007 else "")))
                self.over = True
            elif isinstance(event, events.Message):
                self._parts.append(event.data)
                if sum(map(len, self._parts)) > self._maximum:
                    self.said.append(("close", 1009))
                    self.over = True
                elif event.message_finished:
                    self.message(self._parts[0][:0].join(self._parts))  # type: ignore[arg-type]
                    self._parts = []


def alone(chunks: Iterable[bytes], maximum: int = MAXIMUM) -> Library:
    library = Library(maximum)
    for chunk in chunks:
        library.receive(chunk)
    return library


def beside(chunks: Iterable[bytes], maximum: int = MAXIMUM) -> Library:
    library = Library(maximum)
    splitter = Splitter(maximum)
    assert list(splitter.split(HEAD)) == [HEAD]
    for chunk in chunks:
        for part in splitter.split(chunk):
            if isinstance(part, bytes):
                assert part  # nothing at all would be the end of the stream
                library.receive(part)
            else:
                assert part
                for message in part:
                    library.message(message)
    library.receive(splitter.end())
    return library


def frame(first: int, payload: bytes, *, mask: bool = False, width: int | None = None) -> bytes:
    """One frame as a server sends it; ``width`` of the length in bytes, where it is not the one."""
    size = len(payload)
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[width]
    length = size.to_bytes(width, "big") if width else b""
    return bytes([first, short | (0x80 if mask else 0)]) + length + b"\0" * 4 * mask + payload


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    """``data`` in pieces."""
    ends = sorted({place % len(data) for place in at} - {0}) if data else []
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


texts = st.one_of(
    st.text(max_size=40),
    st.integers(0, 170).map(lambda count: "é" * count),
    st.sampled_from([0, 1, 124, 125, 126, 127, 128, 299, 300, 301, 400]).map("x".__mul__),
).map(str.encode)
controls = st.builds(
    frame, st.sampled_from([0x89, 0x8A]), st.one_of(st.just(b""), st.binary(max_size=125))
)


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    payload = draw(texts)
    pieces = cut(payload, draw(st.lists(st.integers(0, 500), max_size=4))) or [b""]
    parts = [frame(draw(st.sampled_from([0x01, 0x02])), pieces[0])]
    for piece in pieces[1:]:
        parts.append(draw(st.one_of(st.just(b""), controls)))
        parts.append(frame(0x00, piece))
    parts.append(draw(st.one_of(st.just(b""), controls)))
    parts.append(frame(0x80, b""))
    return b"".join(parts)


messages = st.builds(frame, st.sampled_from([0x81, 0x81, 0x81, 0x82]), texts)
closes = st.builds(
    frame,
    st.just(0x88),
    st.sampled_from([b"", b"\x03\xe8", b"\x03\xe9going away", b"\x0f\xa0\xc3\xa9", b"\x03\xee"]),
)
streams = st.lists(st.one_of(messages, messages, controls, fragmented(), closes), max_size=12).map(
    b"".join
)
odd = st.one_of(
    st.builds(frame, st.integers(0, 255), st.binary(max_size=200), mask=st.booleans()),
    st.builds(frame, st.just(0x81), st.binary(max_size=130), width=st.sampled_from([2, 8])),
    st.builds(frame, st.just(0x81), st.binary(min_size=1, max_size=200)),
)
cuts = st.lists(st.integers(0, 1 << 20), max_size=12)


@given(streams, cuts)
def test_frames_cut_anywhere_give_what_the_library_gives_alone(
    data: bytes, places: list[int]
) -> None:
    assert beside(cut(data, places)).said == alone(cut(data, places)).said == alone([data]).said


@given(streams, cuts)
def test_every_byte_by_itself_gives_the_same(data: bytes, places: list[int]) -> None:
    assert beside(data[at : at + 1] for at in range(len(data))).said == alone([data]).said


@given(st.lists(st.one_of(messages, controls, fragmented(), odd), max_size=8), cuts)
@example([frame(0x81, b"\xff"), frame(0x81, b"after")], [])
@example([frame(0x81, b"first"), frame(0xC1, b"compressed"), frame(0x81, b"after")], [])
@example([frame(0x81, b"first"), frame(0x81, b"masked", mask=True), frame(0x81, b"after")], [])
@example([frame(0x81, b"first"), frame(0x80, b"of nothing"), frame(0x81, b"after")], [])
@example([frame(0x01, b"begun"), frame(0x81, b"another"), frame(0x80, b"")], [])
@example([frame(0x89, b"x" * 126), frame(0x81, b"after")], [])
@example([frame(0x81, b"x" * 5, width=2), frame(0x81, b"after")], [])
@example([frame(0x88, b""), frame(0x81, b"after")], [])
def test_what_no_server_may_send_ends_as_the_library_ends_it(
    parts: list[bytes], places: list[int]
) -> None:
    data = b"".join(parts)
    assert beside(cut(data, places)).said == alone([data]).said


@given(
    streams,
    cuts,
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 1 << 20),
)
def test_damaged_bytes_end_as_the_library_ends_them(
    data: bytes, places: list[int], damage: list[tuple[int, int]], keep: int
) -> None:
    damaged = bytearray(data)
    for place, byte in damage:
        if damaged:
            damaged[place % len(damaged)] = byte
    rest = bytes(damaged[: keep % (len(damaged) + 1)])
    assert beside(cut(rest, places)).said == alone([rest]).said


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 70000])
@pytest.mark.parametrize("maximum", [200, 65535, 65536, 1 << 20])
def test_lengths_around_the_limits_are_received_or_refused_alike(size: int, maximum: int) -> None:
    data = frame(0x81, b"x" * size) + frame(0x81, b"next") + frame(0x82, b"y" * size)
    for pieces in ([data], cut(data, range(0, len(data), 4096))):
        assert beside(pieces, maximum).said == alone(pieces, maximum).said


def test_of_a_usual_stream_the_library_sees_the_pings_only() -> None:
    ping = frame(0x89, b"1234")
    data = (frame(0x81, b"x" * 200) * 50 + ping + frame(0x82, b"y")) * 20
    for step in (1, 7, 4096, len(data)):
        library = beside(data[at : at + step] for at in range(0, len(data), step))
        assert library.seen == 20 * len(ping)
        assert len(library.said) == 20 * 52


def test_a_long_frame_is_not_kept_until_it_is_whole() -> None:
    splitter = Splitter(1 << 30)
    list(splitter.split(HEAD))
    start = frame(0x81, b"x" * (LONGEST + 1))[:20]
    assert list(splitter.split(start)) == [start]
    assert list(splitter.split(b"x" * 1000)) == [b"x" * 1000]


@pytest.mark.parametrize(
    "header",
    [
        frame(0xC1, b"x" * 100)[:2],
        frame(0x81, b"x" * 100, mask=True)[:2],
        frame(0x83, b"x" * 100)[:2],
        frame(0x89, b"x" * 200)[:2],
        frame(0x09, b"x" * 100)[:2],
        frame(0x88, b"x" * 100)[:2],
        frame(0x81, b"x" * 100, width=2)[:4],
        frame(0x81, b"x" * 65535, width=8)[:10],
        frame(0x81, b"x" * (MAXIMUM + 1))[:4],
        frame(0x81, b"x" * 65536)[:10],
    ],
)
def test_the_library_sees_at_once_what_it_will_refuse(header: bytes) -> None:
    splitter = Splitter(MAXIMUM)
    list(splitter.split(HEAD))
    assert list(splitter.split(frame(0x81, b"before") + header)) == [["before"], header]


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_frames_right_behind_the_upgrade_are_messages(step: int) -> None:
    data = HEAD + frame(0x81, b"first") + frame(0x81, b"second")
    splitter = Splitter(MAXIMUM)
    parts = [part for at in range(0, len(data), step) for part in splitter.split(data[at:][:step])]
    assert b"".join(part for part in parts if isinstance(part, bytes)) == HEAD
    told = [message for part in parts if isinstance(part, list) for message in part]
    assert told == ["first", "second"]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n\x81\x02hi\x81\x02ho",
        b"HTTP/1.1 403 Forbidden\r\n\r\n\x81\x02hi",
        b"\x81\x02hi\n\n\x81\x02hi",
        b"SSH-2.0-OpenSSH_9.2\r\n\x81\x02hi",
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_where_nothing_was_upgraded_everything_is_the_librarys(data: bytes, step: int) -> None:
    splitter = Splitter(MAXIMUM)
    parts = [part for at in range(0, len(data), step) for part in splitter.split(data[at:][:step])]
    assert all(isinstance(part, bytes) for part in parts)
    assert b"".join(part for part in parts if isinstance(part, bytes)) == data

"""Bundles as files, whole, damaged and foreign, and the command that replays them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livermore.adapters import incidents
from livermore.cli import main
from livermore.dialect import tracker_of
from livermore.errors import LivermoreError, MalformedMessage
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Series
from livermore.market.recording import Cause, Header, Step, row_of
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import JOINED
from livermore.runtime.recorder import Ring

M5 = Timeframe.M5.ms
T0 = 1_750_000_200_000 // M5 * M5
BTC = Series("coinbase", "BTC-USD", Timeframe.M5)


def stamp(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def trade(sequence: int, number: int, ms: int) -> str:
    listed = {
        "trade_id": str(number), "product_id": "BTC-USD", "price": f"{100 + number}",
        "size": "0.5", "side": "BUY", "time": stamp(ms),
    }  # fmt: skip
    return json.dumps(
        {
            "channel": "market_trades", "client_id": "", "timestamp": stamp(ms + 100),
            "sequence_num": sequence, "events": [{"type": "update", "trades": [listed]}],
        }
    )  # fmt: skip


def recorded() -> Ring:
    """A ring that heard one slot whole, and of the next one not all."""
    tracker = tracker_of(COINBASE, [("BTC-USD", BTC)])
    tracker.clock.hear(T0 - 60_000, 940.0)
    ring = Ring("coinbase/1", tracker, {"BTC-USD": "BTC-USD"}, 1 << 22, lambda: None, lambda: 2e3)
    tracker.connected(940.0)
    numbers = [1, 2, 3, 4, 5, 6, 7, 9, 10]
    times = [-50, -10, 20, 200, 290, 301, 350, 400, 601]
    for sequence, (number, second) in enumerate(zip(numbers, times, strict=True)):
        now = 1000.0 + second + 0.1
        text = trade(sequence, number, T0 + second * 1000)
        ring.heard(now, text)
        tracker.take(COINBASE.read(text), now)
        if not sequence:
            tracker.acknowledged(["BTC-USD"], now)
    tracker.tick(1620.0)
    return ring


CLOSED = Candle(BTC, T0, 103.0, 105.0, 103.0, 105.0, 1.5, as_of=T0 + M5 + 1_100)


def header(**changes: Any) -> Header:
    known: dict[str, Any] = {
        "version": "0.0.0", "exchange": "coinbase", "timeframe": "5m", "connection": "coinbase/1",
        "kind": "gap", "found": T0 + 2 * M5, "recorded_from": T0 - 60_000,
        "affected": [Cause("BTC-USD", T0, T0 + M5, "frames were lost")],
        "facts": {"settle": COINBASE.settle}, "series": {"BTC-USD": "BTC-USD"},
        "stored": [row_of(CLOSED)],
    }  # fmt: skip
    return Header(**{**known, **changes})


def members() -> list[bytes]:
    ring = recorded()
    segments = ring.since(T0 - 60_000)
    return [
        *(incidents.pack(one.entries) for one in segments),
        incidents.pack(ring.ending()),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return incidents.save(tmp_path_factory.mktemp("whole"), header(), members())


# -- files ------------------------------------------------------------------------------------


def test_a_bundle_is_gzipped_json_lines_with_nothing_else_beside_it(whole: Path):
    lines = gzip.decompress(whole.read_bytes()).decode().splitlines()
    assert json.loads(lines[0])["livermore"] == "incident"
    assert json.loads(lines[-1])["what"] == "end"
    assert all(json.loads(line) for line in lines)
    assert [path.name for path in whole.parent.iterdir()] == [whole.name]
    assert whole.name == "20250615T152000Z-coinbase-gap.jsonl.gz"


def test_the_same_incident_gives_the_same_bytes_under_another_name(whole: Path, tmp_path: Path):
    first = incidents.save(tmp_path, header(), members())
    second = incidents.save(tmp_path, header(), members())
    assert first.name == whole.name
    assert second.name != first.name
    assert first.read_bytes() == second.read_bytes() == whole.read_bytes()


def test_only_so_many_bundles_are_kept_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(incidents, "MOST_FILES", 3)
    saved = []
    for number in range(5):
        saved.append(incidents.save(tmp_path, header(), [b""]))
        os.utime(saved[-1], (1_000 + number, 1_000 + number))
    assert incidents.listing(tmp_path) == saved[-3:]


def test_bundles_are_bounded_in_bytes_but_the_newest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(incidents, "MOST_BYTES", 2_500)
    for number in range(4):
        path = incidents.save(tmp_path, header(), [bytes(500)])
        os.utime(path, (1_000 + number, 1_000 + number))
    left = incidents.listing(tmp_path)
    assert left[-1] == path
    assert 1 < len(left) < 4
    monkeypatch.setattr(incidents, "MOST_BYTES", 10)
    path = incidents.save(tmp_path, header(), [bytes(500)])
    assert incidents.listing(tmp_path) == [path]


def test_what_was_begun_and_abandoned_goes_and_what_is_being_written_stays(tmp_path: Path):
    old, fresh = tmp_path / ".x-old", tmp_path / ".x-fresh"
    for path in (old, fresh):
        path.write_bytes(b"x")
    os.utime(old, (1_000, 1_000))
    incidents.save(tmp_path, header(), [])
    assert not old.exists()
    assert fresh.exists()


def test_a_bundle_that_cannot_be_finished_leaves_nothing(tmp_path: Path):
    def breaking() -> Any:
        yield b"something"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        incidents.save(tmp_path, header(), breaking())
    assert not list(tmp_path.iterdir())


def test_a_huge_number_of_packed_bytes_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(incidents, "LONGEST_LINE", 1 << 20)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"0" * (1 << 26)))
    with pytest.raises(MalformedMessage, match="unpacks to more"):
        incidents.Bundle(path)


# -- the command ------------------------------------------------------------------------------


def run(arguments: Sequence[str], capsys: Any) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_replay_prints_the_same_bytes_every_time(whole: Path, capsys: Any):
    for arguments in (["replay", str(whole)], ["replay", str(whole), "--json"]):
        first, second = run(arguments, capsys), run(arguments, capsys)
        assert first == second
        assert first[0] == 0
        assert not first[2]


def test_a_replay_tells_closes_gaps_and_what_was_known(whole: Path, capsys: Any):
    _, out, _ = run(["replay", str(whole), "--json"], capsys)
    found = json.loads(out)
    assert found["whole"]
    assert found["as_recorded"]
    assert (found["frames"], found["malformed"], found["compared_states"]) == (9, 0, 7)
    assert [
        (one["open_time"], one["evidence"], one["volume"], one["by"]) for one in found["closed"]
    ] == [(T0, "stream", 1.5, "frame")]
    assert [(one["open_time"], one["cause"]) for one in found["missing"]] == [
        (T0 - M5, JOINED),
        (T0 + M5, "frames were lost"),
    ]
    closed, missing = found["affected"]
    assert closed["agrees"] == {"stored": True}
    assert (missing["replayed"], missing["missing"]) == (None, "frames were lost")
    _, text, _ = run(["replay", str(whole)], capsys)
    assert "9 frames (0 malformed): 1 closed, 0 proved from before, 2 missing" in text
    assert "as stored" in text
    assert "the tracker knows what it knew then" in text


def test_a_tracker_that_knows_something_else_ends_with_7(
    whole: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("livermore.market.tracker.HEARD", 10**9)
    monkeypatch.setattr("livermore.market.tracker.Tracker._is_whole", lambda *_: False)
    code, out, _ = run(["replay", str(whole)], capsys)
    assert code == 7
    assert "the tracker knows something else than it did then: BTC-USD" in out


def test_a_fact_that_changed_is_told(tmp_path: Path, capsys: Any):
    path = incidents.save(tmp_path, header(facts={"settle": 17}), members())
    _, out, _ = run(["replay", str(path)], capsys)
    assert f"settle was 17, is {COINBASE.settle}" in out


def test_a_cut_off_bundle_replays_what_is_there_and_says_so(
    whole: Path, tmp_path: Path, capsys: Any
):
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole.read_bytes()[:-40])
    code, out, err = run(["replay", str(path), "--json"], capsys)
    assert code == 0
    assert err == "cut.jsonl.gz is cut off: replayed as far as it goes\n"
    found = json.loads(out)
    assert not found["whole"]
    assert found["frames"] >= 8


def edited(change: Callable[[list[Any]], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        lines = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        change(lines)
        return gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: b"", "is no incident bundle"),
        (lambda data: b"hello", "damaged, or no gzip file"),
        (lambda data: gzip.compress(b"{}\n"), "is no incident bundle"),
        (lambda data: gzip.compress(b"\xff\xfe" * 99), "is no incident bundle"),
        (lambda data: data[:30], "is no incident bundle"),
        (lambda data: data[:900] + b"\0\0\0\0" + data[904:], ""),
        (lambda data: data + b"more", "damaged"),
        (edited(lambda lines: lines.append(lines[-1])), "follows the end"),
        (edited(lambda lines: lines[3].update(what="sung")), "line 4"),
        (edited(lambda lines: lines[0].update(exchange="nowhere")), "cannot be replayed by this"),
        (edited(lambda lines: lines[0].update(format=2)), "is no incident bundle"),
        (edited(lambda lines: lines[0].update(timeframe="7m")), "cannot be replayed by this"),
        (edited(lambda lines: lines[0]["stored"][0].update(high=1)), "a recorded candle is none"),
        (edited(lambda lines: lines[4].update(at=-5)), "is no time"),
    ],
)  # fmt: skip
def test_damage_is_one_line_and_exit_1(
    whole: Path, tmp_path: Path, capsys: Any, damage: Callable[[bytes], bytes], said: str
):
    path = tmp_path / "damaged.jsonl.gz"
    path.write_bytes(damage(whole.read_bytes()))
    code, out, err = run(["replay", str(path)], capsys)
    assert (code, out) == (1, "")
    assert err.startswith("livermore: ")
    assert err.count("\n") == 1
    assert said in err


def test_a_bundle_that_is_not_there_is_a_slip_of_the_command_line(tmp_path: Path, capsys: Any):
    code, out, err = run(["replay", "none.jsonl.gz", "--state-dir", str(tmp_path)], capsys)
    assert (code, out) == (2, "")
    assert "no such file" in err
    code, _, err = run(["replay", str(tmp_path)], capsys)
    assert (code, err.count("\n")) == (1, 1)


def test_without_a_name_the_bundles_are_listed_and_a_name_finds_them(tmp_path: Path, capsys: Any):
    arguments = ["--state-dir", str(tmp_path)]
    code, out, _ = run(["replay", *arguments], capsys)
    assert (code, out) == (0, f"no incidents in {tmp_path / 'incidents'}\n")
    path = incidents.save(tmp_path / "incidents", header(), members())
    (tmp_path / "incidents" / "broken.jsonl.gz").write_bytes(b"x")
    code, out, _ = run(["replay", *arguments], capsys)
    assert code == 0
    assert path.name in out
    assert "is no incident bundle" in out
    _, out, _ = run(["replay", "--json", *arguments], capsys)
    listed = {one["file"]: one for one in json.loads(out)}
    assert listed[str(path)]["cause"] == "frames were lost"
    assert run(["replay", path.name, *arguments], capsys)[0] == 0


# -- anything at all --------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


def _replay(path: Path) -> int:
    """As ``livermore replay``: ends with one of our errors or an exit code, never otherwise."""
    from livermore.cli import replay

    try:
        opened = incidents.Bundle(path)
        timeframe, played = replay._play(opened)
        slots = replay.compare(opened.header, timeframe, played)
        msgspec.json.encode(replay._document(opened, played, slots))
    except LivermoreError as error:
        assert "\n" not in " ".join(str(error).split())
        return 1
    return 0


hurried = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@hurried
@given(
    flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=3),
    cut=st.integers(0),
    tail=st.binary(max_size=20),
)
def test_flipped_bytes_and_cuts_end_in_one_line_or_a_replay(
    whole: Path, tmp_path: Path, flips: list[tuple[int, int]], cut: int, tail: bytes
):
    data = bytearray(whole.read_bytes())
    for at, mask in flips:
        data[at % len(data)] ^= mask
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(bytes(data[: len(data) - cut % len(data)]) + tail)
    _replay(path)


@hurried
@given(data=st.data())
def test_lines_that_say_anything_else_end_in_one_line_or_a_replay(
    whole: Path, tmp_path: Path, data: st.DataObject
):
    lines = [json.loads(line) for line in gzip.decompress(whole.read_bytes()).splitlines()]
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = lines
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 2)) == 0:
                if isinstance(place, dict) and data.draw(st.booleans()):
                    del place[key]
                else:
                    place[key] = data.draw(anything)
                break
            place = place[key]
    path = tmp_path / "y.jsonl.gz"
    path.write_bytes(
        gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines), 1)
    )
    _replay(path)


def test_binary_frames_come_back_as_they_were():
    packed = incidents.pack([(1.5, b"\x00\xff\n"), Step(2.0, "tick")])
    first, second = (
        msgspec.json.decode(line, type=Step) for line in gzip.decompress(packed).splitlines()
    )
    assert (first.at, first.what, first.data) == (1.5, "binary", b"\x00\xff\n")
    assert second == Step(2.0, "tick")

"""The command that lists alerts and tries channels, run as a person runs it, on a real Valkey."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from livermore.adapters import outbox, store
from livermore.adapters.redis import Client
from livermore.market.timeframe import Timeframe
from livermore.signals.alert import Alert, Blindness, Entry, Recovery, Withdrawal
from livermore.signals.stage import Stage
from tests.integration.command_line import Livermore
from tests.integration.test_cli_store import NOW, STATUS
from tests.receiver import Receiver, answer, receiving

H1 = Timeframe.H1
CLOSE = H1.floor(NOW)
CHANNELS = ("log", "desk")


@pytest.fixture
def livermore(tmp_path: Path, valkey_url: str) -> Livermore:
    return Livermore(tmp_path, valkey_url)


@attrs.define
class Desk:
    """What a daemon leaves behind."""

    client: Client

    def post(self, *entries: Entry, channels: Sequence[str] = ()) -> list[str]:
        postings = [outbox.posting(entry, channels) for entry in entries]
        return outbox.posted(self.client.run([outbox.post("coinbase", 1, {}, postings)])[0])

    def mark(self, channel: str, cursor: str, **marks: str) -> None:
        self.client.run([outbox.mark("coinbase", 1, channel, cursor, marks)])

    def says(self, **changes: object) -> None:
        said = json.dumps({**STATUS, "symbols": ["BTC-USD", "ETH-USD"], **changes})
        self.client.one("SET", store.status_key("coinbase"), said, "EX", 45)


@pytest.fixture
def desk(valkey_url: str) -> Iterator[Desk]:
    client = Client(valkey_url)
    client.run([outbox.begin("coinbase", 1, CHANNELS)])
    found = Desk(client)
    found.says()
    yield found
    client.close()


def alert(symbol: str = "BTC-USD", hours: int = 0, **changes: Any) -> Alert:
    close_time = CLOSE - hours * H1.ms
    made = Alert(
        id=f"level|coinbase|{symbol}|1h|{close_time}", rule="level", kind="level",
        what="crossed above 150", direction="up", source_exchange_id="coinbase", symbol=symbol,
        timeframe=H1, open_time=close_time - H1.ms, close_time=close_time, close=100.5,
        last_price=100.25, last_price_time=close_time, macdv=151.25, signal=120.5,
        histogram=30.75, stage=Stage.OVERBOUGHT, bias="bearish", readings={}, revision=0,
        triggered=close_time + 1500, latency=1500, level=150.0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


BLIND = Blindness(
    "blind|coinbase|1|1", "coinbase", 4, 10, ["BTC-USD 5m", "ETH-USD 5m"], CLOSE - 900_000,
    "the socket\x1b[2J is silent", CLOSE - 500_000,
)  # fmt: skip
RECOVERY = Recovery("recovery|x", "coinbase", 4, 0, CLOSE - 900_000, 800_000, CLOSE - 100_000)


def documents(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# -- the list ---------------------------------------------------------------------------------


def test_each_alert_is_listed_with_what_became_of_it(livermore: Livermore, desk: Desk):
    made = [
        alert(hours=5), alert(hours=4), alert(hours=3),
        alert(hours=2, late=True, holds=False, latency=3_720_000), alert("ETH-USD", hours=1),
        alert(macdv=-201.04, what="crossed below -200", direction="down", stage=None),
    ]  # fmt: skip
    ids = desk.post(*made)
    desk.post(Withdrawal(made[1], ids[1], "its candle was corrected", CLOSE))
    sent = dict.fromkeys(ids[:4], outbox.sent("7"))
    desk.mark("log", ids[3], **sent, **{ids[4]: outbox.dropped("refused")})
    desk.mark("desk", ids[1], **{i: outbox.sent("8") for i in ids[:2]}, **{ids[2]: outbox.SENDING})
    done = livermore("alerts")
    assert (done.returncode, done.stderr) == (
        0,
        "1 entry was ever dropped for channel log\n",
    )
    head, *lines = [line.split() for line in done.stdout.splitlines()]
    assert head == ["time", "symbol", "tf", "what", "value", "stage", "state", "latency"]
    assert [line[0] for line in lines] == [
        f"2027-01-15T{hour}:00:01Z" for hour in ("03", "04", "05", "06", "07", "08")
    ]
    states = ["sent", "withdrawn", "pending: desk", "pending: desk", "pending: desk", "pending"]
    texts = [" ".join(line) for line in lines]
    for text, state in zip(texts, states, strict=True):
        assert f" {state} " in text
    assert " late; no longer holds " in texts[3]
    assert texts[3].endswith("1 h 2 min")
    assert texts[5].endswith("BTC-USD 1h crossed below -200 -201.0 – pending 1 s")
    assert "\x1b" not in done.stdout


def test_an_alert_that_was_dropped_says_where(livermore: Livermore, desk: Desk):
    [one] = desk.post(alert())
    desk.mark("log", one, **{one: outbox.dropped("refused")})
    desk.mark("desk", one, **{one: outbox.sent("")})
    assert " dropped: log " in livermore("alerts").stdout
    desk.post(alert(hours=1), channels=["nowhere"])
    assert " no channel " in livermore("alerts").stdout


def test_as_json_there_is_one_object_per_entry_with_every_channel(livermore: Livermore, desk: Desk):
    first, second, _ = desk.post(alert(), BLIND, RECOVERY, channels=CHANNELS)
    desk.post(Withdrawal(alert(), first, "corrected", CLOSE))
    desk.mark("log", first, **{first: outbox.sent("17", combined=True)})
    desk.mark("desk", outbox.BEGINNING, **{second: outbox.dropped("full of it")})
    done = livermore("alerts", "--json")
    one, blind, recovery, withdrawal = documents(done.stdout)
    assert (one["type"], one["stream_id"], one["state"]) == ("alert", first, "withdrawn")
    assert one["channels"] == {
        "log": {"state": "sent", "message_id": "17", "combined": True},
        "desk": {"state": "pending"},
    }
    assert (one["macdv"], one["open_time"], one["latency"]) == (
        151.25,
        "2027-01-15T07:00:00Z",
        1500,
    )
    assert (blind["type"], blind["state"]) == ("blind", "pending")
    assert blind["channels"]["desk"] == {"state": "dropped", "why": "full of it"}
    assert (recovery["type"], recovery["lasted"]) == ("recovery", 800_000)
    assert withdrawal["alert"]["open_time"] == "2027-01-15T07:00:00Z"


def test_since_symbol_and_rule_choose(livermore: Livermore, desk: Desk):
    desk.post(alert(hours=30), alert("ETH-USD", hours=3, rule="big"), BLIND, RECOVERY, alert())

    def chosen(*words: str) -> list[str]:
        found = documents(livermore("alerts", "--json", *words).stdout)
        return [one.get("symbol", one["type"]) for one in found]

    assert chosen() == ["ETH-USD", "blind", "recovery", "BTC-USD"]
    assert chosen("--since", "2d") == ["BTC-USD", "ETH-USD", "blind", "recovery", "BTC-USD"]
    assert chosen("--since", "2027-01-15T08:00:00Z") == ["BTC-USD"]
    assert chosen("--symbol", "btc/usd") == ["BTC-USD"]
    assert chosen("--rule", "big") == ["ETH-USD"]
    assert chosen("--rule", "blind") == ["blind", "recovery"]
    assert chosen("-s", "ETH-USD", "--rule", "level") == []


def test_more_than_a_page_is_read_back_to_the_time_asked_for(livermore: Livermore, desk: Desk):
    for start in range(0, outbox.PAGE + 100, 100):
        desk.post(
            *(alert(id=f"{n}", triggered=CLOSE - 1000 + n) for n in range(start, start + 100))
        )
    found = documents(livermore("alerts", "--json").stdout)
    assert [one["id"] for one in found] == [str(n) for n in range(outbox.PAGE + 100)]
    shown = livermore("alerts")
    assert "and 400 older ones (--json has them all)" in shown.stderr
    assert len(shown.stdout.splitlines()) == 201


def test_what_came_from_outside_cannot_command_a_terminal(livermore: Livermore, desk: Desk):
    desk.post(BLIND)
    for words in ((), ("--follow",)):
        with livermore.start("alerts", *words) as process:
            assert process.stdout is not None
            text = process.stdout.readline()
            text += "" if words else process.stdout.readline()
            process.send_signal(signal.SIGINT)
            process.wait(20)
        assert "blind: 4 of 10 series (BTC-USD 5m, ETH-USD 5m, …)" in text
        assert "\x1b" not in text


def test_nothing_is_an_answer(livermore: Livermore, desk: Desk):
    done = livermore("alerts", "--since", "1h")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no alerts since 2027-01-15T07:00:20Z\n"


def test_what_is_wrong_is_said_in_one_line(livermore: Livermore, desk: Desk):
    for code, words, text in (
        (2, ("--symbol", "BTC-UDS"), "did you mean BTC-USD?"),
        (2, ("--since", "soon"), "is no time"),
        (2, ("--exchange", "conbase"), "did you mean coinbase?"),
    ):
        done = livermore("alerts", *words)
        assert done.returncode == code, done
        assert text in done.stderr
        assert done.stderr.count("\n") == 1


def test_damaged_entries_are_counted_and_hide_nothing(livermore: Livermore, desk: Desk):
    desk.client.one("XADD", outbox.stream_key("coinbase"), "*", "claim", "x", "entry", "{}")
    desk.post(alert())
    done = livermore("alerts")
    assert "crossed above 150" in done.stdout
    assert done.stderr == "1 entry is damaged\n"


def test_a_daemon_that_does_not_see_the_market_is_told_of(livermore: Livermore, desk: Desk):
    desk.says(state="blind", note="no frames")
    assert "coinbase is blind" in livermore("alerts").stderr
    desk.client.one("DEL", store.status_key("coinbase"))
    assert "no daemon is running for coinbase now" in livermore("alerts").stderr


# -- following --------------------------------------------------------------------------------


def test_following_goes_on_with_what_is_new_until_ctrl_c(livermore: Livermore, desk: Desk):
    desk.post(alert())
    with livermore.start("alerts", "--follow", "--symbol", "BTC-USD", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == alert().id
        desk.post(alert("ETH-USD", id="other"), alert(id="new"), BLIND)
        new = json.loads(process.stdout.readline())
        assert (new["id"], new["state"]) == ("new", "pending")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stdout.read() == ""
        assert process.stderr.read() == ""


def test_following_prints_a_line_for_each(livermore: Livermore, desk: Desk):
    with livermore.start("alerts", "--follow") as process:
        assert process.stdout is not None
        desk.post(alert())
        assert process.stdout.readline() == (
            "2027-01-15T08:00:01Z BTC-USD      1h  crossed above 150, MACD-V 151.25 overbought, "
            "1 s after the close\n"
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


# -- a sample ---------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def configure(livermore: Livermore, *tables: str) -> None:
    (livermore.room / "livermore.toml").write_text("\n".join(tables))


def webhook(name: str, url: str) -> str:
    return f'[[channels]]\nname="{name}"\nkind="webhook"\nurl="{url}"\nsecret_env="DESK_SECRET"\n'


LOG = '[[channels]]\nname="paper"\nkind="log"\n'


def test_a_sample_goes_through_every_channel_and_each_says_how_it_went(
    livermore: Livermore, receiver: Receiver
):
    configure(livermore, LOG, webhook("desk", receiver.url("/hook")))
    done = livermore("alerts", "test", DESK_SECRET="s3cr3t")
    assert done.returncode == 0, done
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["channel", "kind", "result"],
        ["paper", "log", "sent"],
        ["desk", "webhook", "sent"],
    ]
    assert "this channel works" in done.stderr, "the log is where the sample went"
    assert len(receiver.requests) == 1
    assert "s3cr3t" not in done.stdout + done.stderr


def test_one_that_fails_hinders_no_other_and_is_the_exit_code(
    livermore: Livermore, receiver: Receiver
):
    receiver.script.append(answer(500))
    configure(livermore, webhook("desk", receiver.url("/private")), LOG)
    done = livermore("alerts", "test", "--json", DESK_SECRET="s3cr3t")
    assert done.returncode == 1
    desk, paper = documents(done.stdout)
    assert (desk["channel"], desk["kind"], desk["ok"]) == ("desk", "webhook", False)
    assert desk["error"].startswith("failed: ")
    assert (paper["ok"], paper["error"]) == (True, None)
    assert "/private" not in done.stdout + done.stderr
    assert livermore("alerts", "test", "--channel", "paper", DESK_SECRET="x").returncode == 0


def test_a_variable_that_is_not_set_is_named_and_the_others_are_tried(
    livermore: Livermore, receiver: Receiver
):
    configure(livermore, webhook("desk", receiver.url("/")), LOG)
    done = livermore("alerts", "test")
    assert done.returncode == 4
    assert "DESK_SECRET is not set" in " ".join(done.stdout.split())
    assert "paper" in done.stdout


def test_an_unknown_channel_names_the_nearest(livermore: Livermore):
    configure(livermore, LOG)
    done = livermore("alerts", "test", "-c", "papre")
    assert done.returncode == 2
    assert done.stderr == "livermore: no channel is called papre: did you mean paper? (paper)\n"


def test_shared_options_may_stand_before_or_behind_test(livermore: Livermore, tmp_path: Path):
    elsewhere = tmp_path / "other.toml"
    elsewhere.write_text(LOG.replace("paper", "other"))
    for words in (
        ("--config", str(elsewhere), "alerts", "test"),
        ("alerts", "--config", str(elsewhere), "test"),
        ("alerts", "test", "--config", str(elsewhere)),
    ):
        assert "other" in livermore(*words).stdout

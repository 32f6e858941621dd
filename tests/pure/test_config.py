"""Settings: who wins, and what is said when a value is wrong. Our own environment is not read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore import exchanges
from livermore.config import (
    DEFAULT_TOP,
    SECRETS,
    Settings,
    channel_variables,
    default_state_dir,
    load,
    manager,
    parse_duration,
    parse_symbol,
)
from livermore.errors import ConfigurationError, LivermoreError, UsageError
from livermore.exchanges.coinbase import COINBASE

HOME = {"HOME": "/home/jesse"}


def loaded(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path = Path("/nowhere"),
    config: str | None = None,
) -> Settings:
    return load(flags or {}, {**HOME, **(environ or {})}, config=config, cwd=cwd)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path


def write(room: Path, text: str, name: str = "livermore.toml") -> Path:
    path = room / name
    path.write_text(text)
    return path


# -- who wins ---------------------------------------------------------------------------------


def test_nothing_given_means_the_fifty_most_traded_and_the_private_valkey():
    settings = loaded()
    assert settings == Settings(
        state_dir=Path("/home/jesse/.local/state/livermore"), top=DEFAULT_TOP
    )
    assert (settings.redis_url, settings.symbols, settings.exchanges) == (None, None, ())


@pytest.mark.parametrize(
    ("key", "in_file", "in_environment", "as_flag", "wanted"),
    [
        ("top", "top = 1", "2", 3, (1, 2, 3)),
        ("log_level", 'log_level = "debug"', "warning", "ERROR", ("debug", "warning", "error")),
        ("run_for", 'run_for = "1m"', "2s", "1h", (60.0, 2.0, 3600.0)),
        ("recorder", "recorder = 8", "16", "off", (8 << 20, 16 << 20, 0)),
        ("json_logs", "json_logs = true", "0", True, (True, False, True)),
        ("standby", "standby = false", "yes", False, (False, True, False)),
        ("metrics_port", "metrics_port = 9464", "0", "65535", (9464, 0, 65535)),
        (
            "metrics_host",
            'metrics_host = "0.0.0.0"',
            "::1",
            "box.example",
            ("0.0.0.0", "::1", "box.example"),
        ),
        (
            "redis_url",
            'redis_url = "redis://a"',
            "redis://b:1/2",
            "unix:///c",
            ("redis://a", "redis://b:1/2", "unix:///c"),
        ),
        (
            "symbols",
            'symbols = ["a-usd", "B/USD"]',
            "C-USD, D-USD,",
            "E-USD",
            (("A-USD", "B-USD"), ("C-USD", "D-USD"), ("E-USD",)),
        ),
    ],
)
def test_flags_beat_the_environment_beats_the_file(
    room: Path,
    key: str,
    in_file: str,
    in_environment: str,
    as_flag: object,
    wanted: tuple[object, ...],
):
    write(room, in_file)
    environ = {f"LIVERMORE_{key.upper()}": in_environment}
    assert getattr(loaded(cwd=room), key) == wanted[0]
    assert getattr(loaded(environ=environ, cwd=room), key) == wanted[1]
    assert getattr(loaded({key: as_flag}, environ, room), key) == wanted[2]
    assert getattr(loaded({key: None}, environ, room), key) == wanted[1]


def test_symbols_of_a_stronger_source_replace_top_of_a_weaker_one_and_the_other_way_round(
    room: Path,
):
    write(room, "top = 7")
    settings = loaded(environ={"LIVERMORE_SYMBOLS": "BTC-USD"}, cwd=room)
    assert (settings.symbols, settings.top) == (("BTC-USD",), None)
    settings = loaded({"top": 3}, {"LIVERMORE_SYMBOLS": "BTC-USD"})
    assert (settings.symbols, settings.top) == (None, 3)


def test_symbols_and_top_in_one_source_are_refused():
    with pytest.raises(UsageError, match="--symbols and --top"):
        loaded({"symbols": "BTC-USD", "top": 3})
    with pytest.raises(ConfigurationError, match="LIVERMORE_SYMBOLS and LIVERMORE_TOP"):
        loaded(environ={"LIVERMORE_SYMBOLS": "BTC-USD", "LIVERMORE_TOP": "3"})


def test_an_empty_variable_counts_as_not_set(room: Path):
    write(room, "top = 7")
    environ = {"LIVERMORE_TOP": "", "LIVERMORE_REDIS_URL": "  ", "LIVERMORE_CONFIG": ""}
    settings = loaded(environ=environ, cwd=room)
    assert (settings.top, settings.redis_url) == (7, None)


def test_config_flag_beats_the_variable_beats_the_directory(room: Path):
    write(room, "top = 1")
    write(room, "top = 2", "two.toml")
    write(room, "top = 3", "three.toml")
    environ = {"LIVERMORE_CONFIG": "two.toml"}
    assert loaded(cwd=room).top == 1
    assert loaded(environ=environ, cwd=room).top == 2
    assert loaded(environ=environ, cwd=room, config="three.toml").top == 3


@pytest.mark.parametrize("port", ["-1", "65536", "http", "1.5", True, 80.0, "٣"])
def test_what_is_no_port_is_refused(port: object):
    with pytest.raises(UsageError, match="--metrics-port: a port from 0 to 65535"):
        loaded({"metrics_port": port})


@pytest.mark.parametrize("host", ["", "a b", "http://a", "a/b", 7, "x" * 256])
def test_what_is_no_host_is_refused(host: object):
    with pytest.raises(UsageError, match="--metrics-host: a host name or address"):
        loaded({"metrics_host": host})


# -- the state directory ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/x/livermore"),
        ({"HOME": "/h", "XDG_STATE_HOME": "x"}, "/h/.local/state/livermore"),
        ({"HOME": "/h", "XDG_STATE_HOME": ""}, "/h/.local/state/livermore"),
        ({"XDG_STATE_HOME": "/x"}, "/x/livermore"),
    ],
)
def test_the_state_directory_follows_the_xdg_specification(environ: dict[str, str], wanted: str):
    assert default_state_dir(environ) == Path(wanted)


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_without_a_home_the_message_says_what_to_set(environ: dict[str, str]):
    with pytest.raises(ConfigurationError, match="LIVERMORE_STATE_DIR"):
        load({}, environ, cwd=Path("/nowhere"))
    given = load({"state_dir": "/s"}, environ, cwd=Path("/nowhere"))
    assert given.state_dir == Path("/s")
    with pytest.raises(UsageError, match="needs HOME"):
        load({"state_dir": "~/s"}, environ, cwd=Path("/nowhere"))


def test_relative_directories_belong_to_the_file_that_names_them(room: Path):
    (room / "etc").mkdir()
    write(room, 'state_dir = "state"', "etc/my.toml")
    assert loaded(cwd=room, config="etc/my.toml").state_dir == room / "etc" / "state"
    assert loaded({"state_dir": "here"}, cwd=room).state_dir == room / "here"
    assert loaded({"state_dir": "~/s"}, cwd=room).state_dir == Path("/home/jesse/s")


# -- what is wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tpo = 3", "unknown setting 'tpo': did you mean top?"),
        ("[redis]\nurl = 'x'", "unknown setting 'redis'"),
        ("top = ", "not valid TOML"),
        ("top = '3x'", "top in .*livermore.toml: a whole number from 1 to 10000"),
        ("top = true", "a whole number"),
        ("top = 0", "a whole number"),
        ("top = 1.5", "a whole number"),
        ("symbols = []", "the list is empty"),
        ("symbols = 'btcusd'", "'btcusd' is not a symbol"),
        ("symbols = [1]", "a list of names"),
        ("symbols = ['A-USD:x']", "is not a symbol"),
        ("json_logs = 'perhaps'", "true or false"),
        ("json_logs = 1", "true or false"),
        ("log_level = 'warn'", "unknown level 'warn': did you mean warning?"),
        ("run_for = 60", 'write the duration with its unit, such as "60s"'),
        ("recorder = 3", "off, or a number of MiB from 4 to 4096, not 3"),
        ("recorder = true", "off, or a number of MiB from 4 to 4096, not True"),
        ("run_for = '60'", "write a duration with its unit"),
        ("run_for = nan", "a duration"),
        ("state_dir = 7", "a directory is wanted"),
        ("state_dir = ''", "a directory is wanted"),
        ("exchanges = ['coinbsae']", "exchanges in .*did you mean coinbase?"),
        ("rest_url = 'ftp://x'", "unknown scheme 'ftp': use https://, http://"),
        ("websocket_url = 'https://x'", "unknown scheme 'https': use wss://, ws://"),
        ("redis_url = 'localhost:6379'", "unknown scheme"),
        ("redis_url = 'redis://'", "names no host"),
        ("redis_url = 'unix://'", "path of a socket"),
        ("redis_url = 7", "a URL is wanted"),
        ("redis_url = 'redis://a?passwrd=x'", "unknown option passwrd: did you mean password?"),
        ("redis_url = 'redis://a?db=x'", "option db: a whole number"),
        ("redis_url = 'redis://a?ssl_keyfile=x'", "ssl_keyfile, which is for rediss:// alone"),
    ],
)
def test_a_wrong_value_in_the_file_is_one_line_that_names_the_file(
    room: Path, text: str, complaint: str
):
    path = write(room, text)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        loaded(cwd=room)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_value_is_reported_even_where_a_flag_overrides_it(room: Path):
    write(room, "top = 'many'")
    with pytest.raises(ConfigurationError, match="top in"):
        loaded({"top": 3}, cwd=room)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LIVERMORE_REDISURL", "did you mean LIVERMORE_REDIS_URL?"),
        ("LIVERMORE_Top", "did you mean LIVERMORE_TOP?"),
        ("LIVERMORE_DATABASE_URI", "did you mean LIVERMORE_DATABASE_URL?"),
        ("LIVERMORE_", "unknown setting LIVERMORE_"),
    ],
)
def test_an_unknown_variable_is_an_error_with_the_nearest_name(name: str, hint: str):
    with pytest.raises(ConfigurationError) as caught:
        loaded(environ={name: "x"})
    assert hint in str(caught.value)


def test_foreign_variables_are_left_alone():
    assert loaded(environ={"LIVERMOREX": "1", "_LIVERMORE_COMPLETE": "1"}) == loaded()


def test_secrets_come_from_the_environment_alone_and_are_not_shown(room: Path):
    url = "postgresql://desk:hunter2@db/livermore"
    environ = {"LIVERMORE_DATABASE_URL": url, "LIVERMORE_CONTROL_SECRET": "0123456789abcdef"}
    settings = loaded(environ=environ)
    assert (settings.database_url, settings.control_secret) == (url, "0123456789abcdef")
    assert "hunter2" not in repr(settings)
    assert "0123456789abcdef" not in repr(settings)
    write(room, f"database_url = '{url}'")
    with pytest.raises(ConfigurationError, match="unknown setting 'database_url'"):
        loaded(cwd=room)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("LIVERMORE_DATABASE_URL", "mysql://db/hunter2", "unknown scheme 'mysql'"),
        ("LIVERMORE_DATABASE_URL", "postgresql://db", "names no database"),
        ("LIVERMORE_DATABASE_URL", "postgresql://db:hunter2/x", "cannot be taken apart"),
        ("LIVERMORE_CONTROL_SECRET", "hunter2", "at least 16 characters"),
    ],
)
def test_a_wrong_secret_is_named_by_its_variable_alone(name: str, value: str, complaint: str):
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        loaded(environ={name: value})
    assert name in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(room: Path):
    for name, complaint in (("gone.toml", "no such file"), (".", "cannot be read")):
        with pytest.raises(ConfigurationError, match=complaint):
            loaded(cwd=room, config=name)
    (room / "livermore.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        loaded(cwd=room)


def test_a_wrong_flag_is_a_matter_of_usage_and_a_wrong_redis_of_configuration():
    with pytest.raises(UsageError, match="--for: "):
        loaded({"run_for": "soon"})
    with pytest.raises(ConfigurationError, match="--redis-url: "):
        loaded({"redis_url": "http://x"})


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/x@host/0",
        "redis://user:hunter2@host:port/0",
        "redis://user:hunter2[@host",
        "http://user:hunter2@host",
        "hunter2",
        "redis://user:hunter2@host/0 ",
        "redis://user:hunter2@ho st/0",
        "redis://user:hunter2@host/zero",
        "unix://hunter2",
        "redis://host?passwrd=hunter2",
        "redis://host?hunter2",
        "redis://host?hunter2=x",
        "redis://host?db=hunter2",
        "redis://user:12?hunter2=x@host",
    ],
)
def test_no_complaint_and_no_repr_shows_a_password(url: str):
    for flags, environ in (({"redis_url": url}, {}), ({}, {"LIVERMORE_REDIS_URL": url})):
        try:
            said = repr(loaded(flags, environ))
        except LivermoreError as error:
            said = str(error)
        assert "hunter2" not in said


# -- parsers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        *[("60s", 60_000), ("2h", 7_200_000), ("15m", 900_000), ("1d", 86_400_000)],
        *[("1.5h", 5_400_000), (" 2H ", 7_200_000), ("250ms", 250), ("1w", 604_800_000)],
        ("1h30m", 5_400_000),
    ],
)
def test_durations_are_read_with_their_units(text: str, ms: int):
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text", ["", "60", "s", "-1s", "0s", "1y", "1 h x", "1e3s", "٣s", "nan", "inf", "9" * 14 + "d"]
)
def test_other_durations_are_refused(text: str):
    with pytest.raises(ValueError, match=r"duration"):
        parse_duration(text)


@given(st.text(max_size=40))
def test_any_text_is_a_duration_or_a_value_error(text: str):
    with contextlib.suppress(ValueError):
        assert 1 <= parse_duration(text) <= 100 * 365 * 86_400_000


@given(st.text(max_size=30))
def test_a_symbol_never_holds_what_keys_and_globs_are_made_of(text: str):
    try:
        symbol = parse_symbol(text)
    except ValueError:
        return
    assert not set(symbol) & set(":,*?[]{}/ \n")
    assert parse_symbol(symbol) == symbol


SETTINGS = st.dictionaries(
    st.sampled_from([*(f"LIVERMORE_{name.upper()}" for name in Settings.__annotations__), "HOME"]),
    st.text(alphabet=st.characters(blacklist_characters="\0"), max_size=30)
    | st.sampled_from(
        ["BTC-USD", "7", "60s", "/tmp/x", "redis://:p@h", "coinbase", "yes", "ws://x"]
    ),
    max_size=6,
)


@given(SETTINGS)
def test_any_environment_gives_settings_or_one_line(environ: dict[str, str]):
    try:
        settings = load({}, environ, cwd=Path("/nowhere"))
    except LivermoreError as error:
        assert "\n" not in str(error)
    else:
        assert (settings.symbols is None) != (settings.top is None)


# -- who names the symbols, and who started us -------------------------------------------------


@pytest.mark.parametrize(
    ("in_file", "environ", "flags", "wanted"),
    [
        ("", {}, {}, ""),
        ('symbols = ["A-USD"]', {}, {}, ""),
        ("top = 3", {"LIVERMORE_LOG_LEVEL": "debug"}, {"json_logs": True}, ""),
        ("top = 3", {"LIVERMORE_SYMBOLS": "A-USD"}, {}, "LIVERMORE_SYMBOLS"),
        ("top = 3", {"LIVERMORE_SYMBOLS": "A-USD"}, {"top": 4}, "--top"),
        ("top = 3", {}, {"symbols": "A-USD"}, "--symbols"),
    ],
)
def test_what_stands_above_the_file_is_known_by_name(
    room: Path, in_file: str, environ: dict[str, str], flags: dict[str, object], wanted: str
):
    write(room, in_file)
    assert loaded(flags, environ, cwd=room).symbols_by == wanted


@pytest.mark.parametrize(
    ("environ", "address", "watchdog"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": ""}, None, None),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, "/run/systemd/notify", None),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "2500000"}, "@x", 2.5),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "7"}, "@x", 1.0),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "8"}, "@x", None),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"}, "@x", None),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"}, "@x", None),
    ],
)
def test_a_service_manager_says_where_it_listens_and_how_long_it_waits(
    environ: dict[str, str], address: str | None, watchdog: float | None
):
    found = manager(environ, pid=7)
    assert (found.address, found.watchdog) == (address, watchdog)


FILE_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


FLAGS = sorted(
    Settings.__annotations__.keys() - {"symbols_by", "typed_urls", "alerts", "channels", "own"}
)


@given(st.dictionaries(st.sampled_from(FLAGS), FILE_VALUES, max_size=4))
def test_any_flags_give_settings_or_one_line(flags: dict[str, object]):
    try:
        loaded(flags)
    except LivermoreError as error:
        assert "\n" not in str(error)


def test_what_starts_the_tests_sets_nothing_that_looks_like_a_setting():
    checkout = Path(__file__).parents[2]
    known = {f"LIVERMORE_{name.upper()}" for name in Settings.__annotations__} | SECRETS
    for path in (checkout / "noxfile.py", *(checkout / "scripts").glob("*.py")):
        assert set(re.findall(r"LIVERMORE_[A-Z_]+", path.read_text())) <= known, path


# -- channels ---------------------------------------------------------------------------------


def test_without_a_word_of_it_alerts_go_to_the_log():
    assert [(one.name, one.kind) for one in loaded().channels] == [("log", "log")]


def test_channels_are_tables_of_the_file(room: Path):
    write(
        room,
        """
        [[channels]]
        name = "desk"
        kind = "discord"
        url_env = "DESK_URL"
        [[channels]]
        kind = "log"
        [[channels]]
        name = "robot"
        kind = "webhook"
        url = "https://robot.example/in"
        secret_env = "ROBOT_SECRET"
        [[channels]]
        name = "phone"
        kind = "apprise"
        url_env = "PHONE_URL"
        """,
    )
    channels = loaded(cwd=room).channels
    assert [(one.name, one.kind, one.url) for one in channels] == [
        ("desk", "discord", None),
        ("log", "log", None),
        ("robot", "webhook", "https://robot.example/in"),
        ("phone", "apprise", None),
    ]
    assert [one.variables for one in channels] == [
        ("DESK_URL",),
        (),
        ("ROBOT_SECRET",),
        ("PHONE_URL",),
    ]
    environ = {"DESK_URL": "a", "PHONE_URL": "b", "OTHER": "c"}
    assert channel_variables(channels, environ) == {"DESK_URL": "a", "PHONE_URL": "b"}


def test_no_channel_at_all_can_be_wanted(room: Path):
    write(room, "channels = []")
    assert loaded(cwd=room).channels == ()


SECRET = "https://discord.com/api/webhooks/42/tOkEn"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('name = "desk"', "channels 1 (desk) in .*: kind is missing: one of apprise, discord"),
        ('kind = "discrod"', "no kind 'discrod': did you mean discord?"),
        (f'kind = "{SECRET}"', "no kind that"),
        ("kind = 3", "no kind that"),
        (f'kind = "discord"\nurl = "{SECRET}"', "this URL is a secret: .* url_env"),
        (f'kind = "discord"\nurl_env = "{SECRET}"', "url_env wants the name of an environment"),
        ('kind = "discord"\nurl_env = "desk tOkEn"', "in capitals, such as DESK_URL"),
        ('kind = "discord"\nurl_env = 3', "url_env wants the name"),
        ('kind = "discord"', "url_env is missing"),
        ('kind = "discord"\nurl_env = "LIVERMORE_URL"', "choose another"),
        ('kind = "discord"\nurl_env = "A"\nsecret_env = "B"', "unknown key 'secret_env'"),
        ('kind = "log"\nurl_env = "A"', "unknown key 'url_env'"),
        ('kind = "discord"\nurlenv = "A"', "unknown key 'urlenv': did you mean url_env?"),
        (f'kind = "webhook"\nurl_env = "A"\nsecret = "{SECRET}"', "did you mean secret_env?"),
        ('kind = "webhook"\nurl_env = "A"', "secret_env is missing"),
        ('kind = "webhook"\nsecret_env = "A"', "either url or url_env"),
        (
            'kind = "webhook"\nsecret_env = "A"\nurl_env = "B"\nurl = "https://a"',
            "either url or url_env",
        ),
        ('kind = "webhook"\nsecret_env = "A"\nurl = "http://a.example/tOkEn"', "write https://"),
        ('kind = "webhook"\nsecret_env = "A"\nurl = "https://me:tOkEn@a/"', "user or a password"),
        ('kind = "webhook"\nsecret_env = "A"\nurl = "tOkEn"', "not a URL"),
        ('kind = "webhook"\nsecret_env = "A"\nurl = 3', "a URL is wanted"),
        ('kind = "log"\nname = "a b"', "name: a letter, then"),
        (f'kind = "log"\nname = "{SECRET}"', "name: a letter, then"),
        ('kind = "log"\nname = 3', "name: a letter, then"),
        ('kind = "log"\n[[channels]]\nkind = "log"', "channels 2 (log) in .*: another channel"),
    ],
)
def test_a_channel_that_is_wrong_is_told_by_its_place_and_never_quoted(
    room: Path, table: str, said: str
):
    write(room, f"[[channels]]\n{table}")
    with pytest.raises(ConfigurationError) as caught:
        loaded(cwd=room)
    text = str(caught.value)
    assert re.search(said.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?"), text), text
    assert re.match(r"channels [12]( \(\w+\))? in .*livermore\.toml: ", text), text
    assert "tOkEn" not in text
    assert "\n" not in text


@pytest.mark.parametrize("text", ["[channels]\nkind = 'log'", "channels = 'log'", "channels = [1]"])
def test_channels_that_are_no_tables_are_told_how_to_be_written(room: Path, text: str):
    write(room, text)
    with pytest.raises(ConfigurationError, match=r"write \[\[channels\]\]"):
        loaded(cwd=room)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/x", "http://localhost/x", "http://[::1]/x"])
def test_plain_http_reaches_this_machine_only(room: Path, url: str):
    write(room, f'[[channels]]\nkind = "webhook"\nsecret_env = "A"\nurl = "{url}"')
    assert loaded(cwd=room).channels[0].url == url


def test_channels_are_not_read_from_the_environment():
    with pytest.raises(ConfigurationError, match=r"LIVERMORE_CHANNELS: channels are tables"):
        loaded(environ={"LIVERMORE_CHANNELS": "log"})


def test_the_repr_of_settings_holds_no_address_of_a_channel(room: Path):
    write(room, '[[channels]]\nkind = "webhook"\nsecret_env = "A"\nurl = "https://a/tOkEn"')
    assert "tOkEn" not in repr(loaded(cwd=room))


# -- alert rules --------------------------------------------------------------------------------


def test_without_tables_the_default_rules_alert():
    assert [rule.name for rule in loaded().alerts] == ["level", "reversal", "blind"]


def test_the_rules_of_the_file_take_the_place_of_the_default_ones_save_for_the_blind(room: Path):
    write(
        room,
        """
        [[alerts]]
        rule = "level"
        name = "big"
        symbols = ["btc/usd", "BTC-USD"]
        timeframes = ["1h"]
        levels = [200]
        [[alerts]]
        rule = "move"
        percent = 3.0
        candles = 12
        enabled = false
        """,
    )
    big, blind = loaded(cwd=room).alerts
    assert (big.name, big.symbols, big.levels) == ("big", ("BTC-USD",), (200.0,))
    assert blind.kind == "blind"
    write(room, "alerts = []")
    assert [rule.name for rule in loaded(cwd=room).alerts] == ["blind"]


def test_only_a_table_switches_the_blind_rule_off(room: Path):
    write(room, '[[alerts]]\nrule = "blind"\nenabled = false\n[[alerts]]\nrule = "level"')
    assert [rule.name for rule in loaded(cwd=room).alerts] == ["level"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('alerts = "level"', "alerts in {path}: write [[alerts]], one table for each rule"),
        ('[alerts]\nrule = "level"', "alerts in {path}: write [[alerts]]"),
        ("[[alerts]]", "alerts 1 in {path}: rule is missing: use one of level, reversal"),
        ('[[alerts]]\nrule = "levels"', "alerts 1 (levels) in {path}: rule: unknown 'levels': did"),
        (
            '[[alerts]]\nrule = "level"\n[[alerts]]\nrule = "move"\nname = "m"\ncandels = 3',
            "alerts 2 (m) in {path}: unknown key 'candels': did you mean candles?",
        ),
        (
            '[[alerts]]\nrule = "level"\n[[alerts]]\nrule = "level"',
            "alerts 2 (level) in {path}: another rule is called level",
        ),
        (
            '[[alerts]]\nrule = "blind"\n[[alerts]]\nrule = "blind"\nname = "b"',
            "alerts 2 (b) in {path}: there is a blind rule already",
        ),
        (
            '[[alerts]]\nrule = "level"\nsymbols = ["BTCUSD"]',
            "alerts 1 (level) in {path}: symbols: 'BTCUSD' is not a symbol: write BASE-QUOTE",
        ),
        (
            '[[alerts]]\nrule = "level"\n[[alerts]]\nrule = "reversal"\nchannels = ["logs"]',
            "alerts 2 (reversal) in {path}: channels: no channel is called 'logs': did you mean log"
            "? (log)",
        ),
    ],
)
def test_a_wrong_rule_is_one_line_that_names_file_and_table(room: Path, text: str, words: str):
    path = write(room, text)
    with pytest.raises(ConfigurationError) as caught:
        loaded(cwd=room)
    assert str(caught.value).startswith(words.format(path=path))
    assert "\n" not in str(caught.value)


def test_a_rule_may_name_a_channel_that_is_configured(room: Path):
    write(
        room,
        '[[alerts]]\nrule = "level"\nchannels = ["mine"]\n'
        '[[channels]]\nname = "mine"\nkind = "log"',
    )
    assert loaded(cwd=room).alerts[0].channels == ("mine",)


@pytest.mark.parametrize("name", ["LIVERMORE_ALERTS", "LIVERMORE_alerts"])
@pytest.mark.parametrize("value", ["level", ""])
def test_rules_in_the_environment_are_sent_to_the_file(name: str, value: str):
    with pytest.raises(ConfigurationError, match=r"alerts are tables, .* livermore\.toml"):
        loaded(environ={name: value})


# -- several exchanges ------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def _two_exchanges() -> Iterator[None]:
    other = attrs.evolve(COINBASE, name="other", title="Other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchanges, "DIALECTS", {"coinbase": COINBASE, "other": other})
        yield


BOTH = {"exchanges": ("coinbase", "other")}


def test_a_symbol_with_a_mark_is_for_that_exchange_and_one_without_for_all():
    settings = loaded({**BOTH, "symbols": "btc-usd,BTC-USDT@Other,ETH-USD"})
    assert settings.symbols == ("BTC-USD", "BTC-USDT@other", "ETH-USD")
    coinbase, other = settings.of("coinbase"), settings.of("other")
    assert coinbase.symbols == ("BTC-USD", "ETH-USD")
    assert other.symbols == ("BTC-USD", "BTC-USDT", "ETH-USD")
    assert other.shared == coinbase.shared == {"BTC-USD", "ETH-USD"}
    settings.check_exchanges()


def test_the_symbols_of_a_single_exchange_are_shared_with_nobody():
    alone = loaded({"exchanges": ("coinbase",), "symbols": "BTC-USD"})
    assert alone.of("coinbase").shared == frozenset()


@pytest.mark.parametrize("symbols", ["@other", "BTC-USD@", "BTC-USD@nobody", "BTC-USD@other@other"])
def test_a_mark_that_names_no_exchange_is_refused(symbols: str):
    with pytest.raises(UsageError, match=r"^(--symbols: )?(unknown exchange|'' is not a symbol)"):
        loaded({**BOTH, "symbols": symbols})


def test_marks_for_what_is_not_run_are_a_mistake_of_who_types_them_only():
    given = {"exchanges": ("coinbase",)}
    typed = loaded({**given, "symbols": "BTC-USD,BTC-USDT@other"})
    with pytest.raises(UsageError, match="livermore run coinbase other"):
        typed.check_exchanges()
    kept = loaded(given, {"LIVERMORE_SYMBOLS": "BTC-USD,BTC-USDT@other"})
    kept.check_exchanges()
    assert kept.of("coinbase").symbols == ("BTC-USD",)


def test_an_exchange_that_nothing_is_meant_for_is_a_mistake():
    with pytest.raises(UsageError, match="no symbol is meant for coinbase"):
        loaded({**BOTH, "symbols": "BTC-USDT@other"}).check_exchanges()


def test_urls_are_marked_where_several_exchanges_run():
    flags = {**BOTH, "rest_url": ["coinbase=http://a", "other=http://b/"]}
    settings = loaded({**flags, "websocket_url": "other=ws://b,coinbase=wss://a:1/x"})
    settings.check_exchanges()
    assert settings.of("coinbase").rest_url == "http://a"
    assert settings.of("other").rest_url == "http://b"
    assert settings.of("coinbase").websocket_url == "wss://a:1/x"
    assert settings.of("other").websocket_url == "ws://b"


@pytest.mark.parametrize("key", ["rest_url", "websocket_url"])
def test_a_url_of_what_is_not_run_is_a_mistake_of_who_types_it_only(key: str):
    url = f"other={'http' if key == 'rest_url' else 'ws'}://a"
    alone = {"exchanges": ("coinbase",)}
    flag = "--" + key.replace("_", "-")
    with pytest.raises(UsageError, match=f"^{flag}: a URL is meant for other, but only coinbase"):
        loaded({**alone, key: [url]}).check_exchanges()
    loaded(alone, {f"LIVERMORE_{key.upper()}": url}).check_exchanges()
    loaded({**alone, key: [url], "autostart": "other"}).check_exchanges()
    loaded({key: [url]}).check_exchanges()  # idle: a command may start it


@pytest.mark.parametrize("key", ["rest_url", "websocket_url"])
def test_one_url_for_two_exchanges_is_a_mistake(key: str):
    url = "http://a" if key == "rest_url" else "ws://a"
    loaded({"exchanges": ("coinbase",), key: url}).check_exchanges()
    with pytest.raises(UsageError, match="say whose it is, such as coinbase="):
        loaded({**BOTH, key: url}).check_exchanges()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("other=http://a,other=http://b", "two URLs of other"),
        (["http://a", "http://b"], "two URLs of all"),
        ("nobody=http://a", "unknown exchange 'nobody'"),
        ("other=ftp://a", "unknown scheme 'ftp'"),
        ([1], "a URL is wanted"),
    ],
)
def test_marked_urls_that_are_wrong_are_told(value: object, words: str):
    with pytest.raises(UsageError, match=re.escape(words)):
        loaded({"rest_url": value})


TABLES = """
top = 9
[exchanges.coinbase]
[exchanges.other]
symbols = ["BTC-USDT"]
rest_url = "http://file"
"""


def test_tables_name_what_runs_and_go_before_what_is_said_of_all(room: Path):
    write(room, TABLES)
    settings = loaded(cwd=room)
    settings.check_exchanges()
    assert settings.exchanges == ("coinbase", "other")
    assert (settings.of("coinbase").symbols, settings.of("coinbase").top) == (None, 9)
    assert (settings.of("other").symbols, settings.of("other").top) == (("BTC-USDT",), None)
    assert settings.of("other").rest_url == "http://file"
    assert settings.of("coinbase").rest_url is None
    assert settings.of("other").shared == frozenset(), "meant for that one alone"
    alone = loaded({"exchanges": ("other",)}, cwd=room)
    assert (alone.exchanges, alone.of("other").symbols) == (("other",), ("BTC-USDT",))


def test_what_a_stronger_source_says_of_all_goes_before_a_table(room: Path):
    write(room, TABLES)
    settings = loaded({"symbols": "ETH-USD"}, {"LIVERMORE_REST_URL": "coinbase=http://env"}, room)
    assert settings.of("other").symbols == settings.of("coinbase").symbols == ("ETH-USD",)
    assert settings.of("coinbase").rest_url == "http://env"
    assert settings.of("other").rest_url == "http://file", "nobody said anything else of it"
    settings = loaded({"rest_url": "http://flag"}, cwd=room)
    assert settings.of("other").rest_url == "http://flag"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[exchanges.nobody]", "exchanges in livermore.toml: unknown exchange 'nobody'"),
        ("[exchanges.other]\ntpo = 1", "exchanges.other in livermore.toml: unknown key 'tpo'"),
        ("[exchanges.other]\ntop = 0", "top of exchanges.other in livermore.toml: a whole number"),
        ('[exchanges.other]\ntop = 1\nsymbols = ["A-B"]', "exclude each other"),
        ('[exchanges.other]\nsymbols = ["A-B@other"]', "'A-B@other' is not a symbol"),
        ("[exchanges]\nother = 1", "write [exchanges.other], a table"),
    ],
)
def test_a_wrong_table_is_one_line_that_names_it(room: Path, text: str, words: str):
    write(room, text)
    with pytest.raises(ConfigurationError) as caught:
        loaded(cwd=room)
    assert words in str(caught.value).replace(f"{room}/", "")
    assert "\n" not in str(caught.value)


# -- where we are -----------------------------------------------------------------------------


def test_a_country_is_a_code_from_any_source(room: Path):
    write(room, 'country = "de"')
    assert loaded().country is None
    assert loaded(cwd=room).country == "DE"
    assert loaded(environ={"LIVERMORE_COUNTRY": "us"}, cwd=room).country == "US"
    assert loaded({"country": "GB"}, {"LIVERMORE_COUNTRY": "US"}, room).country == "GB"


@pytest.mark.parametrize("country", ["USA", "Germany", "XX", "U", "1", "", " ", "ÜS"])
def test_what_is_no_country_is_refused(country: str):
    with pytest.raises(UsageError, match=r"--country: .* is no country code"):
        loaded({"country": country})


def test_a_common_mistake_is_told_the_right_code():
    with pytest.raises(ConfigurationError, match=r"LIVERMORE_COUNTRY: .*did you mean GB"):
        loaded(environ={"LIVERMORE_COUNTRY": "uk"})

"""URLs of Redis: their options, and what of them is shown."""

from __future__ import annotations

import re

import pytest
import redis

from livermore.adapters.redis_url import OPTIONS, check_options, shown

VALUES = {
    "db": "1", "protocol": "3", "socket_timeout": "1.5", "socket_connect_timeout": "2",
    "health_check_interval": "5", "socket_keepalive": "yes", "ssl_check_hostname": "true",
    "ssl_cert_reqs": "none",
}  # fmt: skip


@pytest.mark.parametrize("scheme", OPTIONS)
def test_every_option_is_taken_here_and_by_the_library(scheme: str):
    query = "&".join(f"{name}={VALUES.get(name, 'x')}" for name in OPTIONS[scheme])
    url = f"{scheme}://host/1?{query}"
    check_options(url)
    pool = redis.ConnectionPool.from_url(url.replace("+cluster", ""))
    pool.connection_class(**pool.connection_kwargs)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://h?passwrd=x", "unknown option passwrd: did you mean password?"),
        ("redis://h?decode_responses=x", "unknown option decode_responses: known are db, "),
        ("redis://h?ssl_certfile=x", "unknown option ssl_certfile, which is for rediss:// alone"),
        ("unix:///s?socket_keepalive=1", "unknown option socket_keepalive"),
        ("redis://h?db=abc", "option db: a whole number is wanted"),
        ("redis://h?db=", "option db: a whole number is wanted"),
        ("redis://h?socket_timeout=0", "option socket_timeout: seconds is wanted"),
        ("redis://h?client_name=a%20b", "option client_name: text without spaces is wanted"),
        ("redis://user:1?se=cret@h", "a ? in its password is written %3F"),
    ],
)
def test_a_wrong_option_is_named(url: str, words: str):
    with pytest.raises(ValueError, match=re.escape(words)):
        check_options(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("redis://:a@h/2?db=3", "redis://:***@h/2?db=3"),
        ("redis://h?passwrd=hunter2&db=abc", "redis://h?passwrd=***&db=***"),
        ("redis://h?hunter2", "redis://h?***"),
        ("redis://h?hunter2&db=1", "redis://h?***&db=1"),
        ("redis://h?socket_timeout=1.5&username=me", "redis://h?socket_timeout=1.5&username=***"),
        ("redis://[h?db=1", "redis://[h?db=***"),
    ],
)
def test_of_options_only_figures_are_shown(url: str, words: str):
    assert shown(url) == words

"""URLs of Redis: which options they may have, and how a person may see them.

What is not known here never reaches redis-py, which takes any word for an argument of its own. Its
retries and its pools are not for a URL to choose, so they are not among the options.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

ANYTHING = ("any text", re.compile(r".+", re.DOTALL))
WHOLE = ("a whole number", re.compile(r"[0-9]{1,9}"))
SECONDS = ("seconds", re.compile(r"(?!0+(\.0+)?$)[0-9]{1,9}(\.[0-9]{1,9})?"))
YES_OR_NO = ("true or false", re.compile(r"true|false|yes|no|1|0", re.IGNORECASE))

OF_ALL = {
    "db": WHOLE,
    "username": ANYTHING,
    "password": ANYTHING,
    "client_name": ("text without spaces", re.compile(r"[!-~]+")),
    "protocol": ("2 or 3", re.compile(r"[23]")),
    "socket_timeout": SECONDS,
    "health_check_interval": WHOLE,
}
OF_TCP = {**OF_ALL, "socket_connect_timeout": SECONDS, "socket_keepalive": YES_OR_NO}
OF_TLS = {
    **OF_TCP,
    "ssl_ca_certs": ANYTHING,
    "ssl_ca_path": ANYTHING,
    "ssl_certfile": ANYTHING,
    "ssl_keyfile": ANYTHING,
    "ssl_password": ANYTHING,
    "ssl_cert_reqs": ("none, optional or required", re.compile(r"none|optional|required")),
    "ssl_check_hostname": YES_OR_NO,
}
OPTIONS: Mapping[str, Mapping[str, tuple[str, re.Pattern[str]]]] = {
    "redis": OF_TCP,
    "rediss": OF_TLS,
    "unix": OF_ALL,
    "redis+cluster": OF_TCP,
    "rediss+cluster": OF_TLS,
}
"""Scheme -> option -> what it wants, in words and as a pattern."""

HARMLESS = (WHOLE, SECONDS, YES_OR_NO)
"""What may be shown, where it is what was wanted."""


def check_options(url: str) -> None:
    """Raise ``ValueError`` for an option that is unknown or wrong. Its value is never quoted."""
    scheme, query = _parts(url)
    if "@" in query:
        raise ValueError("a ? in its password is written %3F, and an @ in an option %40")
    known = OPTIONS.get(scheme, {})
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            said = f" {name}" if _NAME.fullmatch(name) and f"{name}=" in query else ""
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            elsewhere = ", which is for rediss:// alone" if name in OF_TLS else ""
            raise ValueError(f"unknown option{said}{elsewhere or f': {hint}'}")
        wanted, pattern = known[name]
        if not pattern.fullmatch(value):
            raise ValueError(f"option {name}: {wanted} is wanted")


_NAME = re.compile(r"[A-Za-z_]{1,40}")


def shown(url: str) -> str:
    """The URL as a person may see it: of its options only figures that are what was wanted."""
    plain, mark, query = without_password(url).partition("?")
    known = OPTIONS.get(_parts(url)[0], {})
    return plain + mark + "&".join(_shown(option, known) for option in query.split("&"))


def _shown(option: str, known: Mapping[str, tuple[str, re.Pattern[str]]]) -> str:
    name, mark, value = option.partition("=")
    wanted = known.get(name)
    if wanted in HARMLESS and wanted[1].fullmatch(value):
        return option
    return f"{name}=***" if mark and _NAME.fullmatch(name) else "***" if option else ""


def _parts(url: str) -> tuple[str, str]:
    """Scheme and query, the latter empty where the URL cannot be taken apart."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.query


_CREDENTIALS = re.compile(r"(?<=://)(?P<user>(?:[^:@/]*:)?).*@")
_SECRET_OPTION = re.compile(r"(?P<name>[?&][a-z_]*password=)[^&]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """A URL without its password, even one that is written wrong: a bare ``/`` or ``#`` in a
    password makes URL parsers take the password for something else, and quote it."""
    shown = _CREDENTIALS.sub(lambda found: f"{found['user']}***@", url)
    return _SECRET_OPTION.sub(lambda found: f"{found['name']}***", shown)

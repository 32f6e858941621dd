"""URLs: as people may see them, and where sockets are opened."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from livermore.dialect import Dialect


def shown(url: str) -> str:
    """``url`` without user, password and query: any of them may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an unreadable URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def websocket_address(dialect: Dialect, url: str | None) -> str:
    """Where sockets are opened: a ``url`` without a path stands in for the exchange's own."""
    parts = urlsplit(url or dialect.websocket_url)
    if parts.path in ("", "/") and dialect.websocket_path:
        parts = parts._replace(path=dialect.websocket_path)
    return urlunsplit(parts)

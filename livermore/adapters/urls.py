"""URLs as people may see them: in logs, errors and status."""

from __future__ import annotations

from urllib.parse import urlsplit


def shown(url: str) -> str:
    """``url`` without user, password and query: any of them may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an unreadable URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

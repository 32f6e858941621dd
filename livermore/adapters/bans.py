"""What an exchange told us to stay away for, in a file: a restart must not ask before its time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import attrs
import msgspec

from livermore.errors import ConfigurationError, MalformedMessage

LONGEST = 7 * 86_400_000
"""Milliseconds; no exchange stays away longer (Binance bans for up to three days)."""


@attrs.frozen
class Ban:
    """``said`` and ``until`` are epoch ms by our wall clock, ``why`` is what the exchange said."""

    said: int
    until: int
    why: str

    def left(self, now: int) -> int:
        """Milliseconds it still holds, by the wall clock ``now``; 0 when it is over.

        A clock that was set back does not make it longer than the exchange said. One that was set
        forward ends it early: the exchange will say it again.
        """
        return max(0, min(self.until - now, self.until - self.said))


class _File(msgspec.Struct):
    said: int
    until: int
    why: str


@attrs.frozen
class Bans:
    """The file of one exchange in the state directory, shared by every process that uses it."""

    path: Path

    @classmethod
    def of(cls, state_dir: Path, exchange: str) -> Bans:
        """Where the ban of ``exchange`` is kept."""
        return cls(state_dir / f"ban-{exchange}.json")

    def read(self) -> Ban | None:
        """The last ban, in force or over; None where there never was one.

        Raises :class:`MalformedMessage` when it is damaged, and :class:`ConfigurationError` when
        it cannot be read.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be read: {error.strerror}") from error
        try:
            found = msgspec.json.decode(text, type=_File)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedMessage(f"{self.path} is damaged ({error})", text) from None
        if not 0 < found.said < found.until <= found.said + LONGEST:
            raise MalformedMessage(f"{self.path} tells of a ban that cannot be", text)
        return Ban(found.said, found.until, found.why)

    def write(self, ban: Ban) -> None:
        """Keep ``ban``, as a whole or not at all, unless the file holds a longer one.

        Raises :class:`ConfigurationError` when the directory cannot be written.
        """
        try:
            known = self.read()
        except MalformedMessage:
            known = None
        if known is not None and known.left(ban.said) > ban.left(ban.said):
            return
        text = msgspec.json.encode(_File(ban.said, ban.until, ban.why))
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(prefix=f".{self.path.name}-", dir=self.path.parent)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be written: {error.strerror}") from error

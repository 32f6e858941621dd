"""Everything that can go wrong, and what each kind leads to.

::

    LivermoreError
    ├── ConfigurationError        -> exit 4: a setting is wrong; a person must act
    ├── UsageError                -> exit 2: the command line is wrong
    ├── NotRunning                -> exit 3: no daemon answers
    ├── TakenError                -> exit 5, or stand by: another daemon holds the exchange
    ├── MalformedMessage          -> count and skip: the input was damaged
    ├── ImpossibleCandle          -> count and skip: no market can have made this candle
    ├── UnknownSymbol             -> exit 2 at the CLI, skipped in a feed
    ├── ConnectionLost            -> reconnect: the socket closed or could not be opened
    │   └── Stalled               -> reconnect: open but silent
    ├── Refused                   -> end this feed; exit 4: will not work until a person acts
    │   └── KeyRefused            -> exit 4: the exchange does not take a user's key
    ├── RestError                 -> wait and ask again
    │   └── RateLimited           -> wait as long as told
    ├── StoreError                -> wait: Redis is away, full, read-only or not a Redis
    │   ├── StoreUnusable         -> exit 4: it answers, but it is not what we need
    │   └── Fenced                -> end this feed: a newer holder writes this exchange
    ├── DatabaseError             -> wait: PostgreSQL is away or answered with an error
    │   ├── DatabaseUnusable      -> exit 4: it answers, but it is not what we need
    │   └── Conflict              -> exit 1: somebody else changed it meanwhile; look again
    ├── CommandRefused            -> count, answer with an error: a command nobody should run
    ├── LeaseLost                 -> stop writing at once, then ask for the lease again
    ├── ChannelError              -> wait and send again
    │   └── ChannelBusy           -> wait as long as told
    └── ChannelRefused            -> drop this message: sending it again will not help
"""


class LivermoreError(Exception):
    """The root: a message for a person, in one line."""


class ConfigurationError(LivermoreError):
    """A setting is unknown, has the wrong type or cannot be used."""


class UsageError(LivermoreError):
    """The command line asks for something that does not exist."""


class NotRunning(LivermoreError):
    """No daemon answers for this exchange."""


class TakenError(LivermoreError):
    """Another daemon holds the lease of this exchange; ``holder`` is the part that says who."""

    def __init__(self, message: str, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder or message


class MalformedMessage(LivermoreError):
    """Input that cannot be read; the message quotes its beginning."""

    def __init__(self, reason: str, quoted: bytes | str = b"") -> None:
        text = quoted if isinstance(quoted, str) else quoted.decode("utf-8", "replace")
        super().__init__(f"{reason}: {text[:120]!r}" if text else reason)
        self.reason = reason


class ImpossibleCandle(LivermoreError):
    """Values no market can have made (not finite, high < low, price <= 0, off the grid)."""


class UnknownSymbol(LivermoreError):
    """The exchange lists no such symbol."""


class ConnectionLost(LivermoreError):
    """A socket closed, broke or could not be opened.

    ``status`` is that of HTTP where the upgrade was refused with one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Stalled(ConnectionLost):
    """A socket is open but silent."""


class Refused(LivermoreError):
    """The exchange will not serve us until a person acts."""


class KeyRefused(Refused):
    """The exchange does not take a user's key, or not for this."""


class RestError(LivermoreError):
    """A REST request failed; another try may succeed."""


class RateLimited(RestError):
    """The exchange said 429; ``wait`` is how long to stay away, in seconds."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class StoreError(LivermoreError):
    """Redis is away, full, read-only or answered with an error."""


class StoreUnusable(StoreError):
    """What answers cannot serve as the store (not a Redis, too old, denied)."""


class Fenced(StoreError):
    """The store holds a higher epoch, ``epoch``: a newer holder writes this exchange."""

    def __init__(self, message: str, epoch: int = 0) -> None:
        super().__init__(message)
        self.epoch = epoch


class DatabaseError(LivermoreError):
    """PostgreSQL is away, or answered with an error."""


class DatabaseUnusable(DatabaseError):
    """What answers cannot serve as the database (denied, too old, without our tables)."""


class Conflict(DatabaseError):
    """Somebody else changed what we wanted to change."""


class CommandRefused(LivermoreError):
    """A command that is unsigned, expired, repeated, foreign or not possible now."""


class LeaseLost(LivermoreError):
    """Our lease lapsed or was taken."""


class ChannelError(LivermoreError):
    """A message did not get through; another try may succeed.

    ``uncertain`` says that it may have arrived all the same: the answer is what is missing.
    """

    def __init__(self, message: str, *, uncertain: bool = False) -> None:
        super().__init__(message)
        self.uncertain = uncertain


class ChannelBusy(ChannelError):
    """A channel takes no message for ``retry_after`` seconds; this one did not arrive."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ChannelRefused(LivermoreError):
    """A channel will not take this message, now or later."""


EXIT_CODES: tuple[tuple[type[LivermoreError], int], ...] = (
    (UsageError, 2),
    (UnknownSymbol, 2),
    (NotRunning, 3),
    (ConfigurationError, 4),
    (StoreUnusable, 4),
    (DatabaseUnusable, 4),
    (Refused, 4),
    (TakenError, 5),
    (LivermoreError, 1),
)
"""The first kind that fits decides."""


def exit_code(error: LivermoreError) -> int:
    """The exit code that ``error`` leads to where it ends a command."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))

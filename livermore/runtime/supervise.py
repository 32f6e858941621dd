"""Runs something that ends by failing, again and again, and never gives up for good."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from livermore.errors import LivermoreError
from livermore.runtime.backoff import Backoff
from livermore.runtime.journal import Journal

HEALTHY = 30.0
"""Seconds a run must last before the next failure counts as the first."""
PATIENCE = 8
"""Failures in a row after which it is said once that this looks lasting."""


async def supervise(
    what: str,
    run: Callable[[], Awaitable[None]],
    journal: Journal,
    *,
    chance: Callable[[], float],
    ends: tuple[type[Exception], ...] = (),
    failed: Callable[[str, float], None] = lambda why, wait: None,
    hint: str = "",
) -> None:
    """Call ``run`` until cancelled. Exceptions in ``ends`` pass, every other one waits and retries.

    ``failed`` hears why and how many seconds it waits. A wait ends at once when cancelled, and
    nothing is opened during it: one chain of tries per supervisor.
    """
    backoff = Backoff()
    while True:
        started = trio.current_time()
        try:
            await run()
            why = "it ended"
        except ends:
            raise
        except Exception as error:  # the only place that catches everything
            if isinstance(error, BaseExceptionGroup):
                passing, rest = error.split(ends) if ends else (None, error)
                if passing is not None:
                    raise
                error = first_of(rest) or error
            why = str(error) or type(error).__name__
            report(what, error, journal)
        except BaseExceptionGroup as group:
            # What breaks while it is being stopped must not stop the stopping.
            cancelled, rest = group.split(trio.Cancelled)
            if cancelled is None or not isinstance(rest, ExceptionGroup):
                raise
            report(what, first_of(rest) or rest, journal)
            raise cancelled from None
        if trio.current_time() - started >= HEALTHY:
            backoff.reset()
        wait = backoff.next(chance())
        failed(why, wait)
        fields: dict[str, object] = {"why": why, "retry_in": round(wait, 1)}
        if hint and backoff.failures == 1:
            fields["hint"] = hint
        journal.warning(f"{what} lost", **fields)
        if backoff.failures == PATIENCE:
            journal.warning(
                f"{what} failed {PATIENCE} times in a row", why=why, next="trying every 60 s"
            )
        await trio.sleep(wait)


def report(what: str, error: Exception, journal: Journal) -> None:
    """An error that is ours to mend: the log must show where, the person still gets one line."""
    if not isinstance(error, LivermoreError):
        why = str(error) or type(error).__name__
        journal.warning(
            f"{what} failed unexpectedly",
            error=f"{type(error).__name__}: {why}",
            trace=trace(error),
        )


def first_of(group: BaseException | None) -> Exception | None:
    """The first plain exception in a group."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group if isinstance(group, Exception) else None


def trace(error: BaseException) -> str:
    """Where it was raised, innermost last, in one line."""
    places: list[str] = []
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}:{code.co_name}")
        frame = frame.tb_next
    return " > ".join(places[-4:])

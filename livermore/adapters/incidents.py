"""Incident bundles: files that hold what a connection heard when something was not right.

A bundle is gzipped JSON lines (``zcat`` reads it): the header, then one step per line, the last of
them ``end``. The kinds are documented where they are defined, in :mod:`livermore.market.recording`.
Each part is a gzip member of its own, so that saving only joins what was packed long before. Market
data only: no address, no password, nothing of this machine.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from livermore.errors import LivermoreError, MalformedMessage, UsageError
from livermore.market.recording import Header, Step

DIRECTORY = "incidents"
SUFFIX = ".jsonl.gz"
MOST_FILES = 20
MOST_BYTES = 256 * 1024 * 1024
"""Of all bundles together; the oldest go."""
MOST_UNPACKED = 2 * 1024 * 1024 * 1024
LONGEST_LINE = 128 * 1024 * 1024
"""Bytes; what unpacks to more is no bundle of ours."""
ABANDONED = 3600.0
"""Seconds after which an unfinished file is nobody's any more."""
AT_ONCE = 500
"""Lines encoded in one go: other threads wait that long."""

GZIP = 31
"""What zlib calls the gzip format with its largest window."""

Heard = tuple[float, str | bytes]
"""A frame, and the monotonic time it was heard."""


# -- packing ----------------------------------------------------------------------------------


def pack(entries: Sequence[Heard | Step]) -> bytes:
    """A gzip member of one line per entry; the same entries give the same bytes."""
    packer = zlib.compressobj(level=1, wbits=GZIP)
    parts: list[bytes] = []
    for start in range(0, len(entries), AT_ONCE):
        steps = [_step(entry) for entry in entries[start : start + AT_ONCE]]
        parts.append(packer.compress(_encoder.encode_lines(steps)))
    parts.append(packer.flush())
    return b"".join(parts)


_encoder = msgspec.json.Encoder()


def _step(entry: Heard | Step) -> Step:
    if isinstance(entry, Step):
        return entry
    at, frame = entry
    return Step(at, "frame", frame) if isinstance(frame, str) else Step(at, "binary", data=frame)


# -- files ------------------------------------------------------------------------------------


def save(directory: Path, header: Header, members: Iterable[bytes]) -> Path:
    """Write a bundle into ``directory``, whole or not at all; the oldest ones beyond the bounds go.

    Raises ``OSError``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    moment = datetime.fromtimestamp(header.found / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    stem = f"{moment}-{header.exchange}-{header.kind}"
    handle, unfinished = tempfile.mkstemp(prefix=f".{stem}-", dir=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            packer = zlib.compressobj(wbits=GZIP)
            file.write(packer.compress(_encoder.encode(header) + b"\n") + packer.flush())
            for member in members:
                file.write(member)
            file.flush()
            os.fsync(file.fileno())
        path, number = directory / (stem + SUFFIX), 1
        while path.exists():
            number += 1
            path = directory / f"{stem}-{number}{SUFFIX}"
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    _prune(directory, path)
    return path


def listing(directory: Path) -> list[Path]:
    """The bundles in ``directory``, oldest first."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in directory.iterdir():
            if path.name.endswith(SUFFIX) and not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # another daemon made room
                    found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def _prune(directory: Path, newest: Path) -> None:
    size = 0
    for kept, path in enumerate([newest, *(p for p in listing(directory)[::-1] if p != newest)]):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
            if kept and (kept >= MOST_FILES or size > MOST_BYTES):
                path.unlink()
    for path in directory.glob(".*-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


# -- reading ----------------------------------------------------------------------------------


class Bundle:
    """An open bundle: its header, and its steps, to be read once."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`UsageError`, :class:`MalformedMessage`, or what says it is unreadable."""
        self.path = path
        self.whole = False
        """Whether the last line was read."""
        self._lines = _lines(path)
        try:
            self.header = _headers.decode(next(self._lines, b""))
        except msgspec.MsgspecError as error:
            raise MalformedMessage(f"{path} is no incident bundle of ours ({error})") from None

    def steps(self) -> Iterator[Step]:
        """The steps, as far as the file goes; raises :class:`MalformedMessage` for damage."""
        for number, line in enumerate(self._lines, start=2):
            if self.whole:
                raise MalformedMessage(f"{self.path}: line {number} follows the end")
            try:
                step = _steps.decode(line)
            except msgspec.MsgspecError as error:
                raise MalformedMessage(f"{self.path}: line {number}: {error}", line) from None
            if step.what == "end":
                self.whole = True
            else:
                yield step


_headers = msgspec.json.Decoder(Header)
_steps = msgspec.json.Decoder(Step)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of the unpacked file, without one that is cut off."""
    rest: list[bytes] = []
    waiting = unpacked = 0
    try:
        for piece in _unpacked(path):
            unpacked += len(piece)
            *lines, tail = piece.split(b"\n")
            for line in lines:
                yield b"".join([*rest, line])
                rest, waiting = [], 0
            rest.append(tail)
            waiting += len(tail)
            if unpacked > MOST_UNPACKED or waiting > LONGEST_LINE:
                raise MalformedMessage(f"{path} unpacks to more than any bundle of ours")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise LivermoreError(f"{path} cannot be read: {error.strerror or error}") from None
    except zlib.error:
        raise MalformedMessage(f"{path} is damaged, or no gzip file") from None


def _unpacked(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        unpacker = zlib.decompressobj(wbits=GZIP)
        while data := file.read(65536):
            while data:
                yield unpacker.decompress(data, 1 << 20)
                data = unpacker.unconsumed_tail
                if unpacker.eof:
                    data = unpacker.unused_data
                    unpacker = zlib.decompressobj(wbits=GZIP)

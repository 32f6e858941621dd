"""Short messages taken out of what a WebSocket server sends, as fast as Python can.

Nearly all a server sends are text messages of one short frame. :class:`Splitter` takes those and
leaves every other byte, in its place, to the library: the answer to the upgrade, control frames,
fragments, long or damaged frames, text that is not UTF-8. What such bytes mean, and how the
connection ends for them, is the library's business alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import attrs

TEXT, BINARY = 0x81, 0x82
"""First byte of a message of one frame, without extensions (RFC 6455, 5.2)."""
FINAL, RESERVED, OPCODE, MASKED = 0x80, 0x70, 0x0F, 0x80
DATA, CONTROL = (0x0, 0x1, 0x2), (0x9, 0xA)
"""Opcodes; the one that closes is left out on purpose."""
SHORT, LONG = 126, 127
"""In place of a length: it follows in two bytes, or in eight."""
LONGEST = 0xFFFF
"""Bytes of a frame that is waited for; the library sees a longer one part by part."""
HEAD_ENDS = re.compile(rb"\n\r?\n")
ALL = sys.maxsize


@attrs.define
class Splitter:
    """The bytes of one connection, in the order in which they come."""

    maximum: int
    """Bytes of a message, as the library was told: it refuses longer ones."""
    _head: bytearray = attrs.Factory(bytearray)
    """The answer to the upgrade request."""
    _upgraded: bool = False
    _held: bytearray = attrs.Factory(bytearray)
    """The beginning of a frame that is not whole yet."""
    _theirs: int = 0
    """Bytes of the running frame that the library has yet to see."""
    _fragmented: bool = False
    """Whether the library is in the middle of a message."""

    def split(self, data: bytes | bytearray) -> Iterator[list[str | bytes] | bytes]:
        """Messages, in lists, and bytes for the library, in order. To be read to its end."""
        if not self._upgraded:
            cut = self._read_head(data)
            yield bytes(data[:cut])
            data = data[cut:]
        held = self._held
        held += data
        at, end = 0, len(held)
        while at < end:
            if not self._theirs:
                messages: list[str | bytes] = []
                if not self._fragmented:
                    at = self._take(at, messages)
                if messages:
                    yield messages
                self._theirs = self._leave(at)
                if not self._theirs:
                    break
            stop = min(at + self._theirs, end)
            self._theirs -= stop - at
            yield bytes(held[at:stop])
            at = stop
        del held[:at]

    def end(self) -> bytes:
        """What is left when nothing follows: the library's."""
        rest, self._held = bytes(self._held), bytearray()
        return rest

    def _read_head(self, data: bytes | bytearray) -> int:
        """Bytes of ``data`` that belong to the answer; frames follow only where it upgrades."""
        before = len(self._head)
        self._head += data
        found = HEAD_ENDS.search(self._head)
        if found is None:
            return len(data)
        self._upgraded = True
        if self._head[9:12] != b"101":
            self._theirs = ALL
        return found.end() - before

    def _take(self, at: int, messages: list[str | bytes]) -> int:
        """Add the messages from ``at`` on; returns where that had to stop."""
        held, end = self._held, len(self._held)
        longest = min(self.maximum, LONGEST)
        while end - at >= 2:
            kind, length, start = held[at], held[at + 1], at + 2
            if length >= SHORT:
                if length != SHORT or end - at < 4:
                    break
                length, start = held[start] << 8 | held[start + 1], at + 4
                if length < SHORT:
                    break
            stop = start + length
            if stop > end or length > longest:
                break
            if kind == TEXT:
                try:
                    messages.append(held[start:stop].decode())
                except UnicodeDecodeError:
                    break
            elif kind == BINARY:
                messages.append(bytes(held[start:stop]))
            else:
                break
            at = stop
        return at

    def _leave(self, at: int) -> int:
        """Bytes from ``at`` on that are the library's; 0: wait for more of the frame there."""
        held, there = self._held, len(self._held) - at
        if there < 2:
            return 0
        kind, length = held[at], held[at + 1]
        opcode, final = kind & OPCODE, bool(kind & FINAL)
        if kind & RESERVED or length & MASKED or opcode not in (*DATA, *CONTROL):
            return ALL  # a close frame, or what no server may send
        if opcode in CONTROL:
            return 2 + length if final and length < SHORT else ALL
        header = 2 if length < SHORT else 4 if length == SHORT else 10
        if there < header:
            return 0
        if header > 2:
            length = int.from_bytes(held[at + 2 : at + header], "big")
            if length < (SHORT if header == 4 else LONGEST + 1):
                return ALL
        if length <= min(self.maximum, LONGEST) and there < header + length:
            return 0
        self._fragmented = not final
        return header + length

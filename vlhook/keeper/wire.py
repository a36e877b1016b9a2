# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages on vlhook's unix sockets: one request, one answer.

    vlhook/1 VERB N LENGTH-1 … LENGTH-N \\n  field-1 … field-N

The head line is ASCII and at most 4096 bytes, lengths are decimal bytes, fields
are bytes as they are. Both directions look the same; an answer's verb is `ok`,
`refused` or `error`. Imports nothing: the hook pays for each import at every
event of every guest.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAGIC = b"vlhook/1"
MAX_HEAD = 4096
MAX_FIELDS = 16
MAX_MESSAGE = 17 << 20
"""A domain XML of 16 MiB and the small fields around it."""


class WireError(Exception):
    """The peer does not speak this protocol, or hung up in the middle of a message."""


def pack(verb: bytes, fields: Sequence[bytes] = ()) -> bytes:
    head = [MAGIC, verb, str(len(fields)).encode()]
    head += [str(len(field)).encode() for field in fields]
    return b" ".join(head) + b"\n" + b"".join(fields)


def read_message(receive: Callable[[int], bytes], limit: int = MAX_MESSAGE) -> tuple[bytes, list[bytes]] | None:
    """The next message, by calls of `receive(n)` that return at most n bytes, b"" at the end.

    None: the peer hung up before a message began. Raises WireError, and what
    `receive` raises (its deadline, for instance).
    """
    data = bytearray()
    end = -1
    while end < 0:
        if len(data) > MAX_HEAD:
            raise WireError("no message head in the first 4096 bytes")
        chunk = receive(65536)
        if not chunk:
            if not data:
                return None
            raise WireError("the peer hung up in the middle of a message")
        data += chunk
        end = data.find(b"\n", 0, MAX_HEAD)
    verb, lengths = _head(bytes(data[:end]))
    total = sum(lengths)
    if total > limit:
        raise WireError(f"a message of {total} bytes is too long, the limit is {limit}")
    del data[: end + 1]
    while len(data) < total:
        chunk = receive(min(1 << 20, total - len(data)))
        if not chunk:
            raise WireError("the peer hung up in the middle of a message")
        data += chunk
    if len(data) > total:
        raise WireError("more bytes than the message says")
    fields = []
    start = 0
    for length in lengths:
        fields.append(bytes(data[start : start + length]))
        start += length
    return verb, fields


def _head(line: bytes) -> tuple[bytes, list[int]]:
    words = line.split(b" ")
    if words[0] != MAGIC or len(words) < 3:
        raise WireError("not a vlhook message")
    numbers = words[2:]
    if not all(n.isdigit() and len(n) < 10 for n in numbers):
        raise WireError("bad lengths in the message head")
    count, lengths = int(numbers[0]), [int(n) for n in numbers[1:]]
    if count != len(lengths) or count > MAX_FIELDS or not words[1].isalpha():
        raise WireError("bad message head")
    return words[1], lengths

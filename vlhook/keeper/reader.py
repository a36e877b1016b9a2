# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reader: a child of the keeper that turns domain XML into lease needs.

Started once, it imports lxml, drops its privileges and then answers one
request at a time on its standard input, a socket. If it crashes or hangs, the
keeper ends it and starts another; the request that met this is refused.

    request   parse ID OPTIONS POOLS XML   (OPTIONS and POOLS are JSON; POOLS: `states`, pool → base64 of
              its state file, and `named`, pool → volume → path)
    answer    ok ID SHA256 GUEST           (GUEST is JSON, see `domain.Guest`)
              refused ID SHA256 CODE REASON

    request   stamp ID TOKEN XML        the XML of an incoming guest
    answer    ok ID SHA256 XML, with the token (see `metadata.py`), or refused as above

    request   header ID HEAD            the head of a qcow2 image
    answer    ok ID SHA256 HEADER, or refused as above
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import pwd
import resource
import signal
import socket
from dataclasses import asdict

from ..domain import NamedPools, parse_guest
from ..errors import VlhookError
from ..leases.digests import sha256_hex
from ..metadata import stamped
from ..qcow2 import read_header
from .answering import answer_each
from .wire import pack

ACCOUNT = "vlhook"
"""Made by the packages; a process of `nobody` could be reached by whatever else runs as that."""
NOBODY = 65534
MEMORY_LIMIT = 2 << 30
_PR_SET_NO_NEW_PRIVS = 38


def drop_privileges() -> None:
    """Become a user with no rights, for good; and bound what hostile XML could make this process take."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("0")  # the keeper is spared, hostile XML is not
    except OSError:
        pass
    if os.geteuid() == 0:
        user, group = unprivileged()
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def unprivileged() -> tuple[int, int]:
    """User and group id of the account `vlhook` if it exists and is not root's, otherwise of nobody."""
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return NOBODY, NOBODY
    return (account.pw_uid, account.pw_gid) if account.pw_uid and account.pw_gid else (NOBODY, NOBODY)


def answer(verb: bytes, fields: list[bytes]) -> bytes:
    request, xml = fields[0], fields[-1]
    digest = sha256_hex(xml).encode()
    try:
        result = stamped(xml, fields[1].decode()) if verb == b"stamp" else _parsed(*fields[1:])
    except VlhookError as error:
        return pack(b"refused", [request, digest, error.code.encode(), str(error).encode()])
    except MemoryError:
        return pack(b"refused", [request, digest, b"VLH-D001", b"the domain XML takes too much memory"])
    return pack(b"ok", [request, digest, result])


def _parsed(options: bytes, pools: bytes, xml: bytes) -> bytes:
    told = json.loads(pools)
    states = {name: base64.b64decode(text) for name, text in told["states"].items()}
    guest = parse_guest(xml, pools=NamedPools(states.get, told["named"]), **json.loads(options))
    return json.dumps(asdict(guest)).encode()


def header(fields: list[bytes]) -> bytes:
    request, head = fields
    digest = sha256_hex(head).encode()
    try:
        found = read_header(head)
    except VlhookError as error:
        return pack(b"refused", [request, digest, error.code.encode(), str(error).encode()])
    return pack(b"ok", [request, digest, json.dumps(found._asdict()).encode()])


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=0)
    drop_privileges()
    return answer_each(connection, lambda verb, fields: header(fields) if verb == b"header" else answer(verb, fields))


if __name__ == "__main__":
    raise SystemExit(main())

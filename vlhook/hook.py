# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's hook protocol: (guest, operation, sub-operation, XML) → one request → exit status.

libvirt runs this for each event of each guest and waits, without a limit of
its own, while parts of libvirtd stand still. So: events that need nothing
leave at once; everything else is one request to the warm keeper, with an
overall deadline; and next to nothing is imported (`_socket` and `posix` are
built in, `socket` and `os` cost more than the request does).

Fails closed where a guest is about to run or to come in: prepare, start and
migrate (and started, where libvirt's sanlock plugin takes leases) exit with 1
and one line on standard error unless the keeper has said yes. At every other
event a failure is not a reason to harm a guest: it is said on standard error,
which libvirt drops, and the exit status is 0. A release that was not answered is
left as a note for the next keeper: nothing else proves that a start is over. Nothing is ever printed on
standard output, which libvirt would take for XML, except the XML of an
incoming guest with the keeper's token (safety rules, 16).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, and cheaper than `signal`
import posix
import sys
import time
from _socket import AF_UNIX, SOCK_STREAM, socket

from .keeper.wire import WireError, pack, read_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RUN_DIR = "/run/vlhook"
GATES = ("prepare", "start", "migrate")
STARTED = ("started", "begin")
CLOSED = (*GATES, "started")
WANTED = (
    ("prepare", "begin"), ("start", "begin"), STARTED, ("migrate", "begin"), ("release", "end"), ("reconnect", "begin"),
)  # fmt: skip
KNOWN = ("prepare", "start", "started", "stopped", "release", "migrate", "restore", "reconnect", "attach")
DEADLINE_SECONDS = 20.0
RESTART_SECONDS = 3.0
MAX_XML = 16 << 20
EX_USAGE = 64


def main(argv: list[str]) -> int:
    """The exit status for the hook's arguments GUEST OPERATION SUBOPERATION EXTRA."""
    if len(argv) < 4:
        return _say(EX_USAGE, "vlhook: usage: qemu GUEST OPERATION SUBOPERATION EXTRA, domain XML on standard input")
    guest, operation, suboperation = argv[1:4]
    if (operation, suboperation) not in WANTED:
        if operation in GATES or operation not in KNOWN:
            return _say(
                1,
                f"vlhook: guest {guest}: unknown event {operation} {suboperation}; is vlhook too old for this libvirt?",
            )
        return 0
    if (operation, suboperation) == STARTED and not _defers():
        return 0
    extra = argv[4] if len(argv) > 4 else "-"
    run_dir, xml = _run_dir(), b""
    try:
        deadline = time.monotonic() + _deadline(run_dir)
        xml = _standard_input(deadline)
        return _ask(run_dir, deadline, (guest, operation, suboperation, extra), xml)
    except (OSError, WireError, ValueError) as error:
        return _failed(guest, operation, error, _noted(run_dir, guest, xml) if operation == "release" else "")


def _noted(run_dir: bytes, guest: str, xml: bytes) -> str:
    """Leave the release as a note for a keeper; what is to be said of that."""
    try:
        from .keeper.releasenote import leave  # only who gets no answer pays for it

        return " by the note that was left" if leave(run_dir, _bytes(guest), xml) else ""
    except Exception as error:  # whatever it is, this event must not fail
        why = getattr(error, "strerror", None) or str(error)
        return f", but not of a start that has failed: no note could be left ({why})"


def _failed(guest: str, operation: str, error: Exception, noted: str) -> int:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if operation in CLOSED:
        what, again = ("taken in", "migrate it") if operation == "migrate" else ("started", "start the guest")
        text = f"vlhook: guest {guest} is not {what}: no answer from vlhookd ({why})"
        return _say(1, f"{text}; check 'systemctl status vlhookd', then {again} again")
    text = f"{operation}: no answer from vlhookd ({why}); it finds out by itself{noted}"
    return _say(0, f"vlhook: guest {guest}: {text}")


def _ask(run_dir: bytes, deadline: float, event: tuple[str, str, str, str], xml: bytes) -> int:
    operation = event[1]
    fields = [*map(_bytes, event), b"%d" % posix.getppid(), xml]
    connection = socket(AF_UNIX, SOCK_STREAM)

    def receive(size: int) -> bytes:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        return connection.recv(size)

    _connect(connection, run_dir + b"/vlhookd.sock", deadline)
    deadline = time.monotonic() + _deadline(run_dir)  # as the keeper counts it, also if it was waited for
    connection.sendall(pack(b"hook", fields))
    verb, answer = _answer(receive)
    if verb != b"ok" or len(answer) != 3:
        raise ValueError(answer[-1].decode("utf-8", "replace") if answer else "no reason given")
    status, line = int(answer[0]), answer[1].decode("utf-8", "replace")
    if status == 0 and operation == "prepare":
        # The grant is final only when the keeper knows that we know of it.
        connection.sendall(pack(b"ack"))
        if _answer(receive)[0] != b"ok":
            raise ValueError("the grant was taken back")
    if status == 0 and operation == "migrate":
        _print(answer[2])
    if status and operation == "release":
        raise ValueError(line)
    if operation not in CLOSED:
        status = 0  # whatever it was, at these events a refusal would only harm the guest
    return _say(status, line) if line else status


def _connect(connection: socket, path: bytes, deadline: float) -> None:
    """A keeper that is just being restarted (an upgrade) is waited for; a release must not be lost."""
    until = min(deadline, time.monotonic() + RESTART_SECONDS)
    while True:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            connection.connect(path)
            return
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() >= until:
                raise
        time.sleep(0.05)


def _run_dir() -> bytes:
    return posix.environ.get(b"VLHOOK_RUN_DIR", RUN_DIR.encode())


def _defers() -> bool:
    """Whether the keeper has left leases to libvirt's sanlock plugin: then it checks them at `started`."""
    try:
        posix.stat(_run_dir() + b"/defers")
    except OSError:
        return False
    return True


def _deadline(run_dir: bytes) -> float:
    """Seconds; the keeper leaves its setting `hook_deadline` in a file, because reading settings takes too long."""
    try:
        fd = posix.open(run_dir + b"/hook-deadline", posix.O_RDONLY)
        try:
            return float(posix.read(fd, 16))
        finally:
            posix.close(fd)
    except (OSError, ValueError):
        return DEADLINE_SECONDS


def _answer(receive: Callable[[int], bytes]) -> tuple[bytes, list[bytes]]:
    message = read_message(receive)
    if message is None:
        raise WireError("it hung up")
    return message


def _standard_input(deadline: float) -> bytes:
    """All of standard input, but never more than can be used: one byte beyond the limit."""
    _signal.signal(_signal.SIGALRM, _too_late)
    _signal.setitimer(_signal.ITIMER_REAL, max(0.01, deadline - time.monotonic()))
    try:
        return _read_all()
    finally:
        _signal.setitimer(_signal.ITIMER_REAL, 0)


def _too_late(*_: object) -> None:
    raise ValueError("the domain XML did not come to an end on standard input")


def _read_all() -> bytes:
    parts = []
    left = MAX_XML + 1
    while left > 0:
        part = posix.read(0, min(left, 1 << 20))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise ValueError(f"the domain XML is longer than {MAX_XML >> 20} MiB")
    return b"".join(parts)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _say(status: int, line: str) -> int:
    data = "".join(c if c.isprintable() else "?" for c in line).encode("utf-8", "replace") + b"\n"
    try:
        posix.write(2, data)
    except OSError:
        pass
    return status


def _print(xml: bytes) -> None:
    """The XML that libvirt is to take instead of what it gave us. Raises OSError."""
    while xml:
        xml = xml[posix.write(1, xml) :]


def entry() -> None:
    """Run and leave without the interpreter's tidying up, which costs more than the work."""
    status = main(sys.argv)
    posix._exit(status)

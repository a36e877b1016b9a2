# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sanlock daemon's protocol, encoded and decoded (sanlock companion, 4.1). No daemon is needed."""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vlhook.leases import sanlockstate as state
from vlhook.leases import sanlockwire as wire
from vlhook.leases.sanlockerrors import CannotSend, WireError
from vlhook.leases.sanlockstate import (
    EventMessage,
    HeldLease,
    Host,
    HostEvent,
    HostState,
    Inquired,
    StateType,
    decode_hosts,
    decode_lockspaces,
    decode_status,
    held_leases,
    parse_inquiry,
    parse_words,
)
from vlhook.leases.sanlockwire import (
    Command,
    DaemonVersion,
    Disk,
    Header,
    Lockspace,
    Options,
    Resource,
)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)


def texts(most: int, least: int = 0) -> st.SearchStrategy[str]:
    """Text of at most `most` bytes without NUL; bytes that are no UTF-8 too."""
    raw = st.binary(min_size=least, max_size=most).filter(lambda b: b"\0" not in b)
    return raw.map(lambda b: b.decode("utf-8", "surrogateescape"))


disks = st.builds(Disk, path=texts(1023), offset=u64)
resources = st.builds(
    Resource,
    space=texts(48),
    name=texts(48),
    disks=st.lists(disks, max_size=4).map(tuple),
    flags=u32,
    lver=u64,
    data64=u64,
    data32=u32,
)
lockspaces = st.builds(Lockspace, name=texts(48), host_id=u64, disk=disks, flags=u32)
hosts = st.builds(Host, u64, u64, u64, u32, u32)

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes of a little-endian machine")


# ------------------------------------------------------------------------- as seen


@little_endian
def test_the_version_request_is_the_32_bytes_that_the_daemon_answers() -> None:
    seen = "10202804 01000000 1c000000 00000000 20000000 00000000 00000000 00000000"
    assert wire.request(Command.VERSION) == bytes.fromhex(seen)


@little_endian
def test_the_answer_to_version_as_seen_is_3_8_5() -> None:
    seen = "10202804 01000000 1c000000 00000000 20000000 00000000 00000000 00050803"
    version = DaemonVersion.decode(Header.decode(bytes.fromhex(seen)))
    assert str(version) == "3.8.5"
    assert version.protocol == 1


@little_endian
def test_fields_lie_where_the_companion_text_says() -> None:
    resource = Resource("SPACE", "NAME", (Disk("/PATH", 0x0102),), 0x0304, 0x0506, 0x0708, 0x090A).encode()
    assert len(resource) == 128 + 1040
    assert resource[0:6] == b"SPACE\0"
    assert resource[48:53] == b"NAME\0"
    assert struct.unpack_from("<Q", resource, 96) == (0x0506,)
    assert struct.unpack_from("<Q", resource, 104) == (0x0708,)
    assert struct.unpack_from("<I", resource, 112) == (0x090A,)
    assert struct.unpack_from("<I", resource, 120) == (0x0304,)
    assert struct.unpack_from("<I", resource, 124) == (1,)
    assert resource[128:134] == b"/PATH\0"
    assert struct.unpack_from("<Q", resource, 128 + 1024) == (0x0102,)
    lockspace = Lockspace("SPACE", 0x0102, Disk("/PATH"), 0x0304).encode()
    assert len(lockspace) == 1104
    assert struct.unpack_from("<Q", lockspace, 48) == (0x0102,)
    assert struct.unpack_from("<I", lockspace, 56) == (0x0304,)
    assert lockspace[64:70] == b"/PATH\0"
    assert len(Options("owner", 1).encode()) == 56
    assert struct.unpack_from("<I", Options("owner", 7).encode(), 48) == (7,)


def test_the_sizes_are_those_of_the_daemon() -> None:
    assert (wire.HEADER_SIZE, wire.RESOURCE_SIZE, wire.DISK_SIZE) == (32, 128, 1040)
    assert (wire.LOCKSPACE_SIZE, wire.OPTIONS_SIZE) == (1104, 56)
    assert (state.HOST_SIZE, state.HOST_EVENT_SIZE, state.EVENT_SIZE, state.STATE_SIZE) == (32, 32, 80, 80)


# ---------------------------------------------------------------------- round trips


@given(
    st.sampled_from(Command),
    u32,
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=64),
)
def test_a_header_survives_the_way_out_and_back(
    command: Command, flags: int, data: int, data2: int, body: bytes
) -> None:
    message = wire.request(command, flags, data, data2, body)
    assert Header.decode(message) == Header(command, flags, 32 + len(body), data, data2)
    assert message[32:] == body


def test_the_connection_itself_is_sent_as_all_ones() -> None:
    assert Header.decode(wire.request(Command.INQUIRE, data2=wire.SELF)).data2 == 0xFFFFFFFF


@given(resources)
def test_a_resource_survives_with_its_disks(resource: Resource) -> None:
    raw = resource.encode()
    assert len(raw) == resource.size
    assert Resource.decode(b"before" + raw + b"after", 6) == resource


@given(resources)
def test_a_resource_without_its_disks_is_128_bytes_that_count_none(resource: Resource) -> None:
    raw = resource.encode(with_disks=False)
    assert len(raw) == 128
    assert Resource.decode(raw).disks == ()
    assert Resource.decode(raw, with_disks=False).name == resource.name


def test_an_answer_that_counts_disks_and_leaves_them_out_can_be_decoded() -> None:
    raw = Resource("LS", "r", (Disk("/x"),)).encode()[:128]
    assert Resource.decode(raw, with_disks=False) == Resource("LS", "r")
    with pytest.raises(WireError):
        Resource.decode(raw)


@given(st.lists(lockspaces, max_size=3))
def test_lockspaces_survive(many: list[Lockspace]) -> None:
    raw = b"".join(one.encode() for one in many)
    assert decode_lockspaces(raw, len(many)) == tuple(many)


@given(st.lists(hosts, max_size=5))
def test_hosts_survive(many: list[Host]) -> None:
    raw = b"".join(one.encode() for one in many)
    assert decode_hosts(raw, len(many)) == tuple(many)


@given(texts(48), u32)
def test_options_survive(owner_name: str, flags: int) -> None:
    assert Options.decode(Options(owner_name, flags).encode()) == Options(owner_name, flags)


@given(st.builds(HostEvent, u64, u64, u64, u64), u64, u64)
def test_an_event_message_survives(event: HostEvent, host_id: int, generation: int) -> None:
    head = Header(Command.VERSION, length=80).encode()
    raw = head + event.encode() + struct.pack("=QQ", host_id, generation)
    assert EventMessage.decode(raw) == EventMessage(event, host_id, generation)


@pytest.mark.parametrize(("flags", "is_in"), [(3, HostState.LIVE), (0x13, HostState.LIVE), (5, HostState.DEAD)])
def test_a_hosts_state_is_in_the_low_bits_of_its_flags(flags: int, is_in: HostState) -> None:
    assert Host(1, 1, 1, 1, flags).state is is_in


@pytest.mark.parametrize("flags", [0, 6, 15])
def test_a_state_that_is_none_counts_as_unknown(flags: int) -> None:
    assert Host(1, 1, 1, 1, flags).state is HostState.UNKNOWN


def test_48_bytes_of_name_need_no_terminator_and_49_are_refused() -> None:
    longest = Resource("S" * 48, "ü" * 24)
    assert Resource.decode(longest.encode()) == longest
    for too_long in (Resource("S" * 49, "r"), Resource("S", "ü" * 25)):
        with pytest.raises(CannotSend, match=r"49 bytes|50 bytes"):
            too_long.encode()


def test_1023_bytes_of_path_fit_and_1024_are_refused() -> None:
    longest = Disk("/" + "p" * 1022)
    assert Disk.decode(longest.encode()) == longest
    with pytest.raises(CannotSend, match="1024 bytes"):
        Disk("/" + "p" * 1023).encode()


@pytest.mark.parametrize(
    "encode",
    [
        Resource("a\0b", "r").encode,
        Resource("a", "r\0").encode,
        Disk("/x\0y").encode,
        Disk("/x", -1).encode,
        Disk("/x", 2**64).encode,
        Lockspace("LS", -1).encode,
        Lockspace("\ud800").encode,
        Resource("a", "r", flags=2**32).encode,
        Resource("a", "r", tuple(Disk(f"/{i}") for i in range(5))).encode,
        Header(Command.STATUS, data=2**31).encode,
    ],
)
def test_what_does_not_fit_is_refused_and_not_cut(encode: Callable[[], bytes]) -> None:
    with pytest.raises(CannotSend) as caught:
        encode()
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------- killpath


def test_killpath_words_are_separated_by_spaces_and_spaces_in_them_escaped() -> None:
    body = wire.killpath("/bin/end", ["one", "two three"])
    assert len(body) == 256
    assert body[:128].rstrip(b"\0") == b"/bin/end"
    assert body[128:].rstrip(b"\0") == rb"one two\ three"


@pytest.mark.parametrize(
    ("path", "args"),
    [
        ("/" + "p" * 127, []),
        ("/p", ["a" * 128]),
        ("/p", ["a" * 63, "b" * 64]),
        ("/p", [""]),
        ("/p", ["back\\slash"]),
        ("/p", ["nul\0"]),
        ("/p", list("abcdefg")),
    ],
)
def test_a_killpath_that_the_daemon_would_cut_is_refused(path: str, args: list[str]) -> None:
    with pytest.raises(CannotSend):
        wire.killpath(path, args)


def test_the_longest_killpath_fits() -> None:
    wire.killpath("/" + "p" * 126, ["a" * 63, "b" * 63])
    wire.killpath("/p", list("abcdef"))


# ---------------------------------------------------------------------------- status


def item(kind: int, text: bytes, extra: bytes = b"", name: bytes = b"n", pid: int = -1, value: int = 0) -> bytes:
    return struct.pack("=IIiIQ48sI4x", kind, 0, pid, 0, value, name, len(text)) + text + extra


LS = Lockspace("LS", 7, Disk("/ls"))
RES = Resource("LS", "r", (Disk("/a b:c\\"),), wire.RES_SHARED)
STATUS = (
    item(1, b"our_host_name=my host use_watchdog=0 empty=\0", name=b"one")
    + item(2, b"ci=0 fd=5\0", pid=42)
    + item(3, b"list=spaces space_dead=0 renewal_last_success=5836\0", LS.encode(), value=7)
    + item(4, b"list=held flags=9 lver=3\0", RES.encode(), pid=42, value=3)
    + item(4, b"list=orphan flags=8 lver=4\0", RES.encode(), pid=43, value=4)
)


def test_status_items_come_one_after_the_other_with_what_belongs_to_them() -> None:
    daemon, client, lockspace, held, orphan = decode_status(STATUS)
    assert (daemon.type, daemon.name) == (StateType.DAEMON, "one")
    assert daemon.words == {"our_host_name": "my host", "use_watchdog": "0", "empty": ""}
    assert (client.type, client.pid) == (StateType.CLIENT, 42)
    assert (lockspace.lockspace, lockspace.value) == (LS, 7)
    assert lockspace.number("renewal_last_success") == 5836
    assert lockspace.number("list") is None
    assert lockspace.number("absent") is None
    assert (held.resource, held.value) == (RES, 3)
    assert tuple(held_leases((daemon, client, lockspace, held, orphan))) == (
        HeldLease(RES, "held", 42, 3, True),
        HeldLease(RES, "orphan", 43, 4, False),
    )


@pytest.mark.parametrize("size", [n for n in range(1, len(STATUS)) if n % 13 == 0])
def test_a_status_that_ends_too_early_is_refused_or_lacks_whole_items(size: int) -> None:
    whole = decode_status(STATUS)
    try:
        cut = decode_status(STATUS[:size])
    except WireError:
        return
    assert cut == whole[: len(cut)]
    assert len(cut) < len(whole)


@pytest.mark.parametrize("kind", [0, 5, 2**32 - 1])
def test_a_status_item_of_unknown_type_cannot_be_passed_over(kind: int) -> None:
    with pytest.raises(WireError, match="type"):
        decode_status(item(kind, b"x=1\0"))


@pytest.mark.parametrize("text", [b"list=held lver=1\0", b"flags=0 lver=1\0", b"list=held flags=-1\0"])
def test_a_lease_without_state_or_flags_is_not_guessed_at(text: bytes) -> None:
    with pytest.raises(WireError):
        tuple(held_leases(decode_status(item(4, text, RES.encode()))))


def test_words_without_an_equals_sign_continue_the_value_before() -> None:
    assert parse_words("stray a=1 two three b==x") == {"a": "1 two three", "b": "=x"}


# --------------------------------------------------------------------------- inquire


def test_the_text_of_an_inquiry_as_seen() -> None:
    seen = b"LS:r7:/tmp/slc/d/r7:0:1 LS:r8:/tmp/slc/d/r8:0:SH LS:n2:/tmp/slc/d/co\\:lon:1048576:12\0"
    assert parse_inquiry(seen, 3) == (
        Inquired("LS", "r7", "/tmp/slc/d/r7", 0, 1),
        Inquired("LS", "r8", "/tmp/slc/d/r8", 0, None),
        Inquired("LS", "n2", "/tmp/slc/d/co:lon", 1048576, 12),
    )
    assert [one.shared for one in parse_inquiry(seen, 3)] == [False, True, False]


def test_no_leases_are_no_text() -> None:
    assert parse_inquiry(b"", 0) == ()
    assert parse_inquiry(b"\0", 0) == ()


@pytest.mark.parametrize(
    ("seen", "count"),
    [
        (b"\0", 1),  # a lease whose path has a space is left out
        (b"LS:r0:/r0:0:1\0", 2),
        (b"LS:r0:/r0:0:1 LS:r1:/r1:0:1\0", 1),
        (b"LS:na:me:/x1:0:1\0", 1),
        (b"LS:n4:/tmp/end\\:0:1\0", 1),
        (b"LS:n4:/tmp/end:0\0", 1),
        (b"LS:n4:/tmp/end:0:SHX\0", 1),
        (b"LS:" + b"N" * 48 + b"\x01\x02:/x4:0:1\0", 1),
        (b"::::\0", 1),
        (b"\xff\xfe\0", 1),
    ],
)
def test_an_inquiry_that_cannot_be_told_apart_is_refused(seen: bytes, count: int) -> None:
    with pytest.raises(WireError) as caught:
        parse_inquiry(seen, count)
    assert "\n" not in str(caught.value)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0: \\"), min_size=1, max_size=12)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0\\"), min_size=1, max_size=30)
inquired = st.builds(Inquired, names, names, paths, u64, st.none() | u64)


@given(st.lists(inquired, max_size=4))
@example([Inquired("LS", "r", "/with space:and colon:0:1", 0, None)])
def test_an_inquiry_with_escapes_survives(leases: list[Inquired]) -> None:
    text = " ".join(map(str, leases)).encode()
    assert parse_inquiry(text + b"\0", len(leases)) == tuple(leases)


# --------------------------------------------------------------------------- garbage


def header_then_nothing(data: bytes) -> object:
    return Header.decode(data)


DECODERS: list[Callable[[bytes], object]] = [
    header_then_nothing,
    Resource.decode,
    Disk.decode,
    Lockspace.decode,
    Options.decode,
    Host.decode,
    HostEvent.decode,
    EventMessage.decode,
    decode_status,
    lambda data: tuple(held_leases(decode_status(data))),
    lambda data: decode_hosts(data, 3),
    lambda data: decode_lockspaces(data, 1),
    lambda data: parse_inquiry(data, 1),
]
VALID = [
    wire.request(Command.STATUS),
    RES.encode(),
    Disk("/x").encode(),
    LS.encode(),
    STATUS,
    b"LS:r0:/r0:0:1\0",
]


def garbled(draw: st.DrawFn) -> bytes:
    """Something valid with some bytes changed, and cut or lengthened."""
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, min(len(data) - 1, 200)))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=8))


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=3000) | st.composite(garbled)())
def test_whatever_is_received_there_is_a_result_or_a_wire_error(decode: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(data)


@pytest.mark.parametrize("decode", DECODERS[:8])
def test_one_byte_less_is_refused(decode: Callable[[bytes], object]) -> None:
    sizes = [32, RES.size, 1040, 1104, 56, 32, 32, 80]
    whole = RES.encode() if decode == Resource.decode else wire.request(Command.STATUS).ljust(2000, b"\0")
    size = sizes[DECODERS.index(decode)]
    decode(whole[:size])
    for short in (0, 1, size - 1):
        with pytest.raises(WireError):
            decode(whole[:short])


@pytest.mark.parametrize("count", [0, 1, 3, 2**32 - 1])
def test_a_list_must_be_as_long_as_is_announced(count: int) -> None:
    for raw, decode in (
        (Host(1, 1, 1, 1, 3).encode() * 2, decode_hosts),
        (LS.encode() * 2, decode_lockspaces),
    ):
        with pytest.raises(WireError):
            decode(raw, count)


@pytest.mark.parametrize(
    "change",
    [
        {"magic": 0x04282011},
        {"version": 0x00010001},
        {"length": 31},
        {"length": 0},
        {"length": wire.LONGEST_ANSWER + 1},
        {"length": 2**32 - 1},
    ],
)
def test_a_header_of_another_protocol_or_impossible_length_is_refused(change: dict[str, int]) -> None:
    fields = {"magic": wire.MAGIC, "version": 1, "cmd": 5, "flags": 0, "length": 32, **change}
    with pytest.raises(WireError):
        Header.decode(struct.pack("=IIIII12x", *fields.values()))


def test_a_newer_minor_protocol_is_accepted() -> None:
    assert Header.decode(struct.pack("=IIIII12x", wire.MAGIC, 0xFFFF, 5, 0, 32)).version == 0xFFFF


def test_a_resource_with_more_disks_than_sanlock_knows_is_refused() -> None:
    raw = bytearray(RES.encode() + bytes(8000))
    struct.pack_into("=I", raw, 124, 5)
    with pytest.raises(WireError, match="5 disks"):
        Resource.decode(bytes(raw))

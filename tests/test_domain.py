# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domain XML → leases: what real libvirt writes, and what nobody should."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlhook.disks import BadDisk
from vlhook.domain import BadGuest, BadLease, BadXml, DomainError, Guest, LeaseRequired, parse_guest
from vlhook.leases.names import LOCKSPACE_NAME, lease_name

DATA = Path(__file__).parent / "data" / "domain-xml"
EXPECTED: dict[str, list[dict[str, str]]] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
UUID = "45cc4579-cc72-5c10-a316-28c19617f516"

# What the table leaves to the rules of naming. None: no lease.
BY_THE_RULES: dict[tuple[str, str], Optional[str]] = {
    ("network-gluster", "vda"): "gluster:///vol0/images/g.qcow2",
    ("network-iscsi", "vda"): "iscsi:///iqn.2024-01.example:t1/1",
    ("network-nbd-tcp", "vdb"): "nbd://127.0.0.1:10809/exp1",
    ("network-nbd-unix", "vdb"): "nbd://unix:%2Frun%2Fnbd.sock/",
    ("network-nfs", "vda"): "nfs://192.0.2.6/export/g.img",
    ("network-rbd", "vda"): "rbd:///vms/guest-root",
    ("network-sheepdog", "vda"): "sheepdog:///vol1",
    ("network-ssh", "vda"): "ssh://192.0.2.5:22/srv/g.img",
    ("nvme", "vdb"): None,
    ("vhostuser", "vdb"): None,
    ("volume-dir", "vda"): "/srv/pool/vol1.img",
    ("volume-dir-qcow2", "vda"): "/srv/pool/vol2.qcow2",
    ("volume-missing", "vda"): "/srv/pool/nosuch.img",
}
REFUSED = {
    "volume-iscsi-mode-direct": "type iscsi",
    "volume-iscsi-mode-host": "type iscsi",
    "volume-pool-inactive": "not active",
}


def fixture(name: str) -> bytes:
    return (DATA / f"{name}.prepare.xml").read_bytes()


FIXTURES = {name: fixture(name) for name in EXPECTED}


def pools(name: str) -> Optional[bytes]:
    kind = {"dirpool": "dir", "iscsi1": "iscsi"}.get(name)
    if kind is None:
        return None
    target = "<target><path>/srv/pool</path></target>"
    return f"<poolstate><pool type='{kind}'><name>{name}</name>{target}</pool></poolstate>".encode()


def parse(xml: bytes, **options: Any) -> Guest:
    return parse_guest(xml, pools=pools, **options)


def guest_xml(devices: str, more: str = "", attributes: str = "id='7'") -> bytes:
    head = f"<domain type='kvm' {attributes}><name>g</name><uuid>{UUID}</uuid>{more}"
    return f"{head}<devices>{devices}</devices></domain>".encode()


def disk(source: str, *, kind: str = "file", device: str = "disk", target: str = "vda", more: str = "") -> str:
    return f"<disk type='{kind}' device='{device}'>{source}<target dev='{target}'/>{more}</disk>"


def file_disk(path: str, target: str = "vda", more: str = "") -> str:
    return disk(f"<source file='{path}'/>", target=target, more=more)


def refusal(xml: bytes, kind: type[DomainError] = DomainError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        parse(xml, **options)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 2000
    assert type(caught.value).code.startswith("VLH-D")
    return text


# ------------------------------------------------------- what libvirt writes


def test_every_recorded_xml_is_in_the_table_and_back() -> None:
    assert {path.name.partition(".")[0] for path in DATA.glob("*.xml")} == set(EXPECTED)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in REFUSED])
def test_each_recorded_guest_gets_the_leases_of_the_table(name: str) -> None:
    guest = parse(FIXTURES[name])
    got = {target: need for need in guest.leases for target in need.targets}
    without = {skipped.target: skipped for skipped in guest.skipped}
    rows = [row for row in EXPECTED[name] if row["disk"] != "<lease>"]
    assert sorted([*got, *without]) == sorted(row["disk"] for row in rows)
    for row in rows:
        mode, source = row["mode"], row["source"]
        if mode == "see rules":
            mode, source = ("EX", url) if (url := BY_THE_RULES[name, row["disk"]]) else ("-", "")
        if mode == "-":
            assert without[row["disk"]].reason
            assert (without[row["disk"]].type, without[row["disk"]].device) == (row["type"], row["device"])
            continue
        need = got[row["disk"]]
        assert need.name == (row["lease"] or hashlib.md5(source.encode()).hexdigest())
        assert need.source == source
        assert need.shared == (mode == "SH")
        assert (need.lockspace, need.path, need.offset, need.kind) == (LOCKSPACE_NAME, None, 0, "disk")


@pytest.mark.parametrize(("name", "why"), REFUSED.items())
def test_a_recorded_guest_on_a_volume_that_cannot_be_told_is_refused(name: str, why: str) -> None:
    text = refusal(FIXTURES[name], BadDisk)
    row = EXPECTED[name][0]
    pool, volume = (word.partition("=")[2] for word in row["source"].split()[:2])
    for part in (why, f"disk {row['disk']}", f"pool {pool}", f"volume {volume}"):
        assert part in text


def test_identity_comes_from_the_xml() -> None:
    guest = parse(FIXTURES["file-raw"])
    assert (guest.name, guest.uuid, guest.on_lockfailure) == ("g", UUID, None)
    assert isinstance(guest.domain_id, int)
    assert parse(guest_xml("", attributes="")).domain_id is None
    assert parse(guest_xml("").replace(UUID.encode(), UUID.upper().encode())).uuid == UUID


@pytest.mark.parametrize("policy", ["poweroff", "restart", "pause", "ignore"])
def test_the_policy_for_a_lost_lease_is_passed_on(policy: str) -> None:
    assert parse(FIXTURES[f"on-lockfailure-{policy}"]).on_lockfailure == policy


def test_an_unknown_policy_is_refused() -> None:
    xml = guest_xml("", "<on_lockfailure>explode</on_lockfailure>")
    assert "explode" in refusal(xml, BadGuest)


def test_a_lease_element_is_taken_as_given() -> None:
    need = parse(FIXTURES["lease-device"]).leases[1]
    assert (need.lockspace, need.name, need.path) == ("somearea", "somekey", "/srv/shared/leases")
    assert (need.offset, need.shared, need.kind, need.targets) == (1048576, False, "lease", ())


def test_writable_paths_are_all_that_qemu_writes_on_this_host() -> None:
    assert parse(FIXTURES["volume-dir"]).writable_paths == ("/srv/pool/vol1.img",)
    assert parse(FIXTURES["block-lun"]).writable_paths == ("/srv/shared/images/base.img", "/dev/loop0")
    assert parse(FIXTURES["network-rbd"]).writable_paths == ()
    assert parse(FIXTURES["file-readonly"]).writable_paths == ("/srv/shared/images/base.img",)
    assert parse(FIXTURES["file-same-twice"]).writable_paths == ("/srv/shared/images/w.img",)


# ---------------------------------------------------------- mode and merging


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("<shareable/>", "<shareable/>", True),
        ("<shareable/>", "", False),
        ("", "<shareable/>", False),
        ("<transient/>", "<shareable/>", False),
    ],
)
def test_the_same_disk_twice_is_one_lease_and_exclusive_wins(first: str, second: str, shared: bool) -> None:
    guest = parse(guest_xml(file_disk("/a", "vda", first) + file_disk("/a", "vdb", second)))
    assert [(need.targets, need.shared) for need in guest.leases] == [(("vda", "vdb"), shared)]


def test_one_lease_in_two_files_is_refused_and_not_left_out() -> None:
    """Else the <lease>, which is exclusive, would be held as the disk's: shared, and in the disk's file."""
    name = lease_name(b"/a")
    asked = f"<lease><lockspace>__LIBVIRT__DISKS__</lockspace><key>{name}</key><target path='/l'/></lease>"
    with pytest.raises(BadGuest, match=f":{name} is the lease of disk vda as well, which names another file"):
        parse(guest_xml(file_disk("/a", "vda", "<shareable/>") + asked))
    with pytest.raises(BadGuest, match="of another <lease> as well"):
        parse(guest_xml(asked + asked.replace("'/l'", "'/m'")))
    assert len(parse(guest_xml(asked + asked)).leases) == 1


def test_a_read_only_use_of_a_disk_does_not_weaken_a_writable_one() -> None:
    guest = parse(guest_xml(file_disk("/a", "vda") + file_disk("/a", "vdb", "<readonly/><shareable/>")))
    assert [(need.targets, need.shared) for need in guest.leases] == [(("vda",), False)]
    assert [skipped.target for skipped in guest.skipped] == ["vdb"]


def test_one_path_as_file_and_as_block_device_is_one_lease() -> None:
    block = disk("<source dev='/dev/sdx'/>", kind="block", target="vdb")
    assert len(parse(guest_xml(file_disk("/dev/sdx") + block)).leases) == 1


def test_two_spellings_are_two_leases_as_for_the_plugin() -> None:
    guest = parse(guest_xml(file_disk("/a/b", "vda") + file_disk("/a//b", "vdb") + file_disk("/a/./b", "vdc")))
    assert [need.name for need in guest.leases] == [lease_name(p) for p in (b"/a/b", b"/a//b", b"/a/./b")]


def test_the_name_is_of_the_utf8_bytes_in_any_encoding_of_the_xml() -> None:
    text = guest_xml(file_disk("/é/日本.img")).decode()
    want = lease_name("/é/日本.img".encode())
    for encoding in ("utf-8", "utf-16", "utf-32", "gb18030"):
        xml = f"<?xml version='1.0' encoding='{encoding}'?>{text}".encode(encoding)
        assert parse(xml).leases[0].name == want
    references = guest_xml(file_disk("/&#xe9;/&#26085;&#x672c;.img"))
    assert parse(references).leases[0].name == want


@pytest.mark.parametrize("device", ["cdrom", "floppy"])
@pytest.mark.parametrize("source", ["", "<source/>", "<source file=''/>", "<source startupPolicy='optional'/>"])
def test_an_empty_drive_needs_nothing(device: str, source: str) -> None:
    guest = parse(guest_xml(disk(source, device=device)))
    assert [skipped.reason for skipped in guest.skipped] == ["no medium"]
    assert guest.leases == ()


def test_a_cdrom_needs_nothing_even_without_the_readonly_element() -> None:
    assert parse(guest_xml(disk("<source file='/a'/>", device="cdrom"))).leases == ()


def test_a_vdpa_device_needs_nothing() -> None:
    guest = parse(guest_xml(disk("<source dev='/dev/vhost-vdpa-0'/>", kind="vhostvdpa")))
    assert (guest.leases, len(guest.skipped)) == ((), 1)


def test_a_read_only_volume_is_not_looked_up() -> None:
    source = "<source pool='nowhere' volume='../x'/>"
    assert parse(guest_xml(disk(source, kind="volume", more="<readonly/>"))).leases == ()


# ------------------------------------------------------------------ settings


def test_without_automatic_leases_only_lease_elements_count() -> None:
    guest = parse(FIXTURES["lease-device"], auto_disk_leases=False)
    assert [need.name for need in guest.leases] == ["somekey"]
    assert "auto_disk_leases" in guest.skipped[0].reason
    assert guest.writable_paths == ("/srv/shared/images/base.img",), "its pages must reach the disk all the same"


def test_without_automatic_leases_an_unknown_path_is_no_reason_to_refuse() -> None:
    for name in REFUSED:
        guest = parse(FIXTURES[name], auto_disk_leases=False)
        assert guest.leases == ()
        assert "volume" in guest.skipped[0].source


@pytest.mark.parametrize("name", ["file-raw", "network-rbd", "volume-pool-inactive"])
def test_a_required_lease_that_is_missing_refuses_the_guest(name: str) -> None:
    assert "vda" in refusal(FIXTURES[name], LeaseRequired, auto_disk_leases=False, require_lease_for_disks=True)


@pytest.mark.parametrize("name", ["lease-device", "file-same-twice", "no-disks"])
def test_a_required_lease_is_asked_only_of_guests_that_write_alone(name: str) -> None:
    parse(FIXTURES[name], auto_disk_leases=False, require_lease_for_disks=True)


def test_required_leases_mean_nothing_where_disks_get_theirs() -> None:
    assert len(parse(FIXTURES["file-raw"], require_lease_for_disks=True).leases) == 1


def test_the_identity_can_be_had_whatever_the_rest_is() -> None:
    """A release must reach the guest that it is about."""
    xml = guest_xml(disk("<source/>", kind="new"), "<on_lockfailure>explode</on_lockfailure>")
    guest = parse(xml, identity_only=True)
    assert (guest.name, guest.uuid, guest.domain_id, guest.leases) == ("g", UUID, 7, ())


# ------------------------------------------------------ what cannot be decided


@pytest.mark.parametrize(
    "devices",
    [
        disk("<source file='/a'/>", kind="hologram"),
        disk("<source file='/a'/>", kind=""),
        disk("<source file='/a'/>", device="tape"),
        disk("<source file='/a'/>").replace("type='file' ", ""),
        disk(""),
        disk("<source/>"),
        disk("<source file=''/>"),
        disk("<source dev='/a'/>"),
        disk("<source file='/a' dev='/b'/>"),
        disk("<source file='/a' volume='/b'/>"),
        disk("<source file='/a'/><source file='/b'/>"),
        disk("<source file='a'/>"),
        disk("<source dev='sda'/>", kind="block"),
        disk("<source dir='a'/>", kind="dir"),
        disk("<source file='/a'/>").replace("<target dev='vda'/>", ""),
        disk("<source file='/a'/>").replace("dev='vda'", "bus='virtio'"),
        disk("<source file='/a'/>").replace("<target dev='vda'/>", "<target dev='vda'/><target dev='vdb'/>"),
        disk("<source pool='dirpool'/>", kind="volume"),
        disk("<source volume='v'/>", kind="volume"),
        disk("<source pool='dirpool' volume='../v'/>", kind="volume"),
        disk("<source pool='../dirpool' volume='v'/>", kind="volume"),
        disk("<source name='a'/>", kind="network"),
        disk("<source protocol='smb' name='a'><host name='h'/></source>", kind="network"),
        disk("<source protocol='nbd' name='a'/>", kind="network"),
        disk("<source protocol='nbd' name='a' file='/a'><host name='h'/></source>", kind="network"),
    ],
)
def test_a_disk_that_cannot_be_decided_refuses_the_start(devices: str) -> None:
    assert refusal(guest_xml(devices), BadDisk).startswith("disk ")
    # Not even among disks that can be.
    refusal(guest_xml(file_disk("/a", "vdx") + devices + file_disk("/b", "vdy")), BadDisk)


@pytest.mark.parametrize("blank", ["\n", "\t", "\r", "\r\n"])
def test_a_path_that_xml_changes_on_the_way_is_refused(blank: str) -> None:
    """libvirt 9.0 writes a line break in a path as it is; the parser reads a blank, another path."""
    refusal(guest_xml(disk(f"<source file='/a{blank}b'/>")), BadGuest)
    refusal(guest_xml(disk(f'<source index="1" file="/a{blank}b"/>')), BadGuest)
    refusal(guest_xml(file_disk("/x y", "vdx") + disk(f"<source file='/a{blank}b'/>")), BadGuest)


def test_blanks_that_belong_to_a_path_or_to_the_layout_are_fine() -> None:
    source = "<source\n\tfile='/a b'\n\tindex='1'\n/>"
    assert parse(guest_xml(disk(source))).leases[0].source == "/a b"


@pytest.mark.parametrize(
    "lease",
    [
        "<key>k</key><target path='/l'/>",
        "<lockspace>s</lockspace><target path='/l'/>",
        "<lockspace>s</lockspace><key>k</key>",
        "<lockspace>s</lockspace><key>k</key><target/>",
        "<lockspace>s</lockspace><key>k</key><target path=''/>",
        "<lockspace>s</lockspace><key>k</key><target path='l'/>",
        "<lockspace>s</lockspace><key></key><target path='/l'/>",
        "<lockspace> </lockspace><key>k</key><target path='/l'/>",
        "<lockspace>s</lockspace><key>k</key><key>l</key><target path='/l'/>",
        "<lockspace>s</lockspace><key><k/></key><target path='/l'/>",
        "<lockspace>s</lockspace><key>k</key><target path='/l'/><target path='/m'/>",
        "<lockspace>s</lockspace><key>k</key><target path='/l' offset=''/>",
        "<lockspace>s</lockspace><key>k</key><target path='/l' offset='-1'/>",
        "<lockspace>s</lockspace><key>k</key><target path='/l' offset='0x10'/>",
        "<lockspace>s</lockspace><key>k</key><target path='/l' offset='1e3'/>",
        "<lockspace>s</lockspace><key>k</key><target path='/l' offset='9223372036854775808'/>",
        f"<lockspace>s</lockspace><key>k</key><target path='/l' offset='{'9' * 10000}'/>",
        f"<lockspace>s</lockspace><key>{'k' * 49}</key><target path='/l'/>",
        f"<lockspace>s</lockspace><key>{'é' * 25}</key><target path='/l'/>",
        f"<lockspace>{'s' * 49}</lockspace><key>k</key><target path='/l'/>",
        "",
    ],
)
def test_an_incomplete_lease_element_is_refused(lease: str) -> None:
    good = "<lease><lockspace>s</lockspace><key>k</key><target path='/l'/></lease>"
    assert "<lease> number 2" in refusal(guest_xml(f"{good}<lease>{lease}</lease>"), BadLease)


def test_a_lease_element_may_use_all_of_its_limits() -> None:
    target = f"<target path='/l' offset='{2**63 - 1}'/>"
    lease = f"<lease><lockspace>{'s' * 48}</lockspace><key>{'é' * 24}</key>{target}</lease>"
    need = parse(guest_xml(lease + lease)).leases
    assert [(n.name, n.offset) for n in need] == [("é" * 24, 2**63 - 1)]


# ------------------------------------------------------------- hostile input


@pytest.mark.parametrize(
    "xml",
    [
        b"",
        b" \n\t ",
        b"\0",
        b"\0" * 4096,
        b"not xml at all",
        b"\x7fELF\x02\x01\x01",
        b"{}",
        b"<domain",
        b"<domain/>",
        b"<network><name>n</name></network>",
        b"<domain><name>g</name></domain>",
        guest_xml("")[:-9],
        guest_xml("") + b"<domain/>",
        guest_xml("").replace(b"<name>g</name>", b""),
        guest_xml("").replace(b"<name>g</name>", b"<name/>"),
        guest_xml("").replace(b"<name>g</name>", b"<name>g</name><name>h</name>"),
        guest_xml("").replace(b"<name>g</name>", b"<name>a/b</name>"),
        guest_xml("").replace(b"<name>g</name>", b"<name><b>g</b></name>"),
        guest_xml("").replace(UUID.encode(), b"45cc4579"),
        guest_xml("").replace(UUID.encode(), UUID.encode() + b"0"),
        guest_xml("").replace(b"id='7'", b"id='seven'"),
        guest_xml("").replace(b"id='7'", b"id='%s'" % (b"7" * 100000)),
        guest_xml("").replace(b"<devices></devices>", b""),
        guest_xml("").replace(b"<devices></devices>", b"<devices/><devices/>"),
        guest_xml("", "<vcpu>&undefined;</vcpu>"),
        guest_xml("", "<vcpu>\0</vcpu>"),
        guest_xml("", "<vcpu>&#0;</vcpu>"),
        b"<?xml version='1.0' encoding='klingon'?>" + guest_xml(""),
        b"<?xml version='1.0' encoding='utf-16'?>" + guest_xml(""),
        guest_xml(file_disk("/a")).replace(b"/a", b"/\xff\xfe"),
        guest_xml(file_disk("/a")).replace(b"/a", b"/\xed\xa0\x80"),
        b"\xff\xfe" + guest_xml(""),
        b"<a>" * 100_000,
        guest_xml("", "<a>" * 10_000 + "</a>" * 10_000),
        b"<a " * 1_000_000,
        b"<" * 1_000_000,
    ],
    ids=range(36),
)
def test_what_is_no_guest_is_refused(xml: bytes) -> None:
    refusal(xml)


@pytest.mark.parametrize("name", ["file-many", "volume-dir", "lease-device", "network-rbd"])
def test_xml_cut_off_anywhere_is_refused(name: str) -> None:
    xml = FIXTURES[name].rstrip()
    for end in range(len(xml)):
        with pytest.raises(BadXml):
            parse(xml[:end])


@pytest.mark.parametrize("size", [(16 << 20) + 1, 64 << 20])
@pytest.mark.parametrize("unit", [b" ", b"\0", b"A", b"<a/>"])
def test_a_huge_document_is_refused(size: int, unit: bytes) -> None:
    refusal((guest_xml("")[:-9] + unit * (size // len(unit)))[:size], BadXml)


@pytest.mark.parametrize(("mebibytes", "fits"), [(15, True), (16, False)])
def test_a_document_that_is_well_formed_is_read_up_to_16_mib(mebibytes: int, fits: bool) -> None:
    note = f"<note>{'a' * (1 << 20)}</note>"
    xml = guest_xml(file_disk("/a"), f"<metadata>{note * mebibytes}</metadata>")
    if fits:
        assert len(parse(xml).leases) == 1
    else:
        assert "bytes are more than" in refusal(xml, BadXml)


def test_a_huge_attribute_is_refused_and_a_long_path_is_cut_in_the_message() -> None:
    refusal(guest_xml(file_disk("/" + "a" * (12 << 20))), BadXml)
    text = refusal(guest_xml(disk(f"<source file='{'a' * 100_000}'/>")), BadDisk)
    assert "…" in text


def test_attributes_that_the_parser_would_compare_for_minutes_are_refused_before() -> None:
    attributes = " ".join(f"a{number}=''" for number in range(300_000))
    assert "attributes in one element" in refusal(guest_xml("", f"<x {attributes}/>"), BadXml)


def test_a_guest_with_a_thousand_disks_is_fine() -> None:
    guest = parse(guest_xml("".join(file_disk(f"/{n}", f"vd{n}") for n in range(1000))))
    assert len(guest.leases) == 1000


def billion_laughs(where: str) -> bytes:
    entities = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 12))
    body = guest_xml(file_disk("/&e11;") if where == "attribute" else "", f"<title>{'&e11;' * 2}</title>")
    return f"<!DOCTYPE domain [<!ENTITY e0 'ha'>{entities}]>".encode() + body


@pytest.mark.parametrize(
    "doctype",
    [
        b"<!DOCTYPE domain>",
        b"<!DOCTYPE domain SYSTEM 'file:///etc/passwd'>",
        b"<!DOCTYPE domain SYSTEM 'http://192.0.2.1/x.dtd'>",
        b"<!DOCTYPE domain PUBLIC '-//x//y' 'x.dtd'>",
        b"<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>",
        b"<!DOCTYPE domain [<!ENTITY % x SYSTEM 'file:///etc/passwd'> %x;]>",
        b"<!DOCTYPE domain [<!ATTLIST disk type CDATA 'file'>]>",
        b"<?xml version='1.0'?><!-- c --><?p i?>\n<!DOCTYPE domain []>",
    ],
)
def test_any_document_type_is_refused(doctype: bytes) -> None:
    assert "DOCTYPE" in refusal(doctype + guest_xml(file_disk("/a")), BadXml)


@pytest.mark.parametrize("where", ["attribute", "text"])
def test_entities_are_never_expanded(where: str) -> None:
    assert "DOCTYPE" in refusal(billion_laughs(where), BadXml)


def test_a_document_type_in_another_encoding_is_refused() -> None:
    xml = "<?xml version='1.0' encoding='utf-16'?><!DOCTYPE domain>" + guest_xml("").decode()
    assert "DOCTYPE" in refusal(xml.encode("utf-16"), BadXml)


@pytest.mark.parametrize("error", [LookupError("encoding"), ValueError("bytes"), TypeError("argument"), MemoryError()])
def test_whatever_the_parser_raises_is_a_refusal(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_ignored: object) -> None:
        raise error

    monkeypatch.setattr("vlhook.safexml.etree.fromstring", fail)
    refusal(guest_xml(""), BadXml)


def test_comments_and_instructions_change_nothing() -> None:
    lease = "<lease><lockspace>s</lockspace><key>k<!-- c -->k</key><!-- c --><target path='/l'/></lease>"
    xml = guest_xml(file_disk("/a", more="<!-- <readonly/> --><?p i?>") + "<!-- c -->" + lease, "<?p i?>")
    assert [need.name for need in parse(xml).leases] == [lease_name(b"/a"), "kk"]


def test_a_document_type_in_a_comment_is_text() -> None:
    assert parse(b"<!-- <!DOCTYPE x> -->" + guest_xml("")).name == "g"


@pytest.mark.parametrize(
    "xml",
    [
        guest_xml(file_disk("/a"), attributes="xmlns='urn:x'"),
        guest_xml(file_disk("/a").replace("<disk", "<disk xmlns='urn:x'")),
        guest_xml(file_disk("/a").replace("<source", "<source xmlns='urn:x'")),
        guest_xml(file_disk("/a", more="<readonly xmlns='urn:x'/>")),
        guest_xml(file_disk("/a").replace("disk ", "x:disk ").replace("/disk", "/x:disk"), attributes="xmlns:x='u'"),
        guest_xml(file_disk("/a"), attributes="xmlns:x='u'").replace(b"devices>", b"x:devices>"),
        guest_xml(file_disk("/a")).replace(b"<devices>", b"<devices xmlns='urn:x'>"),
        guest_xml("").replace(b"domain", b"x:domain", 1).replace(b"/domain", b"/x:domain"),
        guest_xml("", "<os xmlns='urn:x'/>"),
    ],
)
def test_elements_in_a_foreign_namespace_are_refused(xml: bytes) -> None:
    """They are not what they look like: a disk among them would start without a lease."""
    refusal(xml)


def test_extensions_and_metadata_may_have_namespaces() -> None:
    more = (
        "<metadata><a xmlns='urn:a'><disk type='odd'/></a><b:c xmlns:b='urn:b'/></metadata>"
        "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
        "<qemu:arg value='-S'/></qemu:commandline>"
    )
    assert len(parse(guest_xml(file_disk("/a"), more)).leases) == 1


@pytest.mark.parametrize("character", ["&#10;", "&#9;", "&#x7f;", "&#x85;", "&#x202e;"])
def test_control_characters_do_not_reach_the_message(character: str) -> None:
    text = refusal(guest_xml(disk(f"<source file='a{character}b'/>")), BadDisk)
    assert "a\\" in text


# ---------------------------------------------------------------- properties


@settings(max_examples=300)
@given(st.data())
def test_no_mutation_of_real_xml_ends_in_anything_but_a_guest_or_a_refusal(data: st.DataObject) -> None:
    xml = bytearray(FIXTURES[data.draw(st.sampled_from(sorted(FIXTURES)))])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(xml)))
        length = data.draw(st.integers(0, 40))
        pieces = st.sampled_from([b"<disk/>", b"<source/>", b"<readonly/>", b"''", b"<", b"&", b"\xc3", b" ", b"/"])
        xml[at : at + length] = data.draw(st.binary(max_size=8) | pieces)
    options = {
        "auto_disk_leases": data.draw(st.booleans()),
        "require_lease_for_disks": data.draw(st.booleans()),
    }
    try:
        guest = parse(bytes(xml), **options)
    except DomainError as error:
        refused = str(error)
    else:
        refused = ""
        assert all(need.name and need.lockspace for need in guest.leases)
    assert refused.isprintable()


@given(st.binary(max_size=200))
def test_no_noise_is_a_guest(noise: bytes) -> None:
    refusal(noise)


devices = st.sampled_from(["disk", "lun", "cdrom", "floppy"])
flags = st.sets(st.sampled_from(["<readonly/>", "<shareable/>", "<transient/>"]))


@given(st.lists(st.tuples(st.sampled_from("abc"), devices, flags), max_size=8))
def test_every_disk_is_accounted_for_once(disks: list[tuple[str, str, set[str]]]) -> None:
    xml = "".join(
        disk(f"<source file='/{path}'/>", device=device, target=f"vd{number}", more="".join(sorted(more)))
        for number, (path, device, more) in enumerate(disks)
    )
    guest = parse(guest_xml(xml))
    told = [t for need in guest.leases for t in need.targets] + [s.target for s in guest.skipped]
    assert sorted(told) == sorted(f"vd{number}" for number in range(len(disks)))
    writers = {path for path, device, more in disks if device != "cdrom" and "<readonly/>" not in more}
    assert {need.source for need in guest.leases} == {f"/{path}" for path in writers}

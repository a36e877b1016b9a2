# SPDX-License-Identifier: LGPL-2.1-or-later
"""One image of a network disk has one URL, and two images have two."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vlhook.errors import DomainError
from vlhook.urls import Host, UrlError, canonical_url

# libvirt 9.0 fills these in itself; nfs takes no port.
DEFAULT_PORTS = {
    "nbd": 10809,
    "ssh": 22,
    "http": 80,
    "https": 443,
    "ftp": 21,
    "ftps": 990,
    "tftp": 69,
}
BY_HOST = [*DEFAULT_PORTS, "nfs"]
CLUSTERED = {
    "rbd": "vms/root",
    "gluster": "vol0/root.img",
    "iscsi": "iqn.2024-01.example:t/1",
    "sheepdog": "root",
    "vxhs": "eb90327c-8302-4725-9e1b-4e85ed4dc251",
}
SERVER = [Host("store.example")]

texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
names = texts.map(lambda text: "/" + text)
host_names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,8}(\.[a-z][a-z0-9]{0,5}){0,2}", fullmatch=True)
hosts = st.builds(Host, name=host_names, port=st.integers(1, 65535).map(str))


@pytest.mark.parametrize(
    ("url", "protocol", "name", "host"),
    [
        ("nbd://192.0.2.1:10809/exp1", "nbd", "exp1", Host("192.0.2.1", "10809")),
        ("nbd://192.0.2.1:10809/", "nbd", "", Host("192.0.2.1")),
        ("nbd://unix:%2Frun%2Fnbd.sock/e", "nbd", "e", Host(transport="unix", socket="/run/nbd.sock")),
        ("ssh://store.example:22/srv/g.img", "ssh", "/srv/g.img", SERVER[0]),
        ("nfs://store.example/export/g.img", "nfs", "/export/g.img", SERVER[0]),
        ("https://store.example:443/iso/x.iso", "https", "iso/x.iso", SERVER[0]),
        ("iscsi:///iqn.2024-01.example:t1/1", "iscsi", "iqn.2024-01.example:t1/1", SERVER[0]),
        ("rbd:///vms/guest-root", "rbd", "vms/guest-root", SERVER[0]),
        ("gluster:///vol0/images/g.qcow2", "gluster", "vol0/images/g.qcow2", SERVER[0]),
        ("sheepdog:///vol1", "sheepdog", "vol1", SERVER[0]),
    ],
)
def test_the_documented_urls(url: str, protocol: str, name: str, host: Host) -> None:
    """These are names of leases on disk: a change here takes the protection from running guests."""
    assert canonical_url(protocol, name, [host]) == url


@pytest.mark.parametrize(("protocol", "port"), DEFAULT_PORTS.items())
def test_the_default_port_is_the_same_written_out_or_not(protocol: str, port: int) -> None:
    urls = {canonical_url(protocol, "/a", [Host("h", text)]) for text in ("", "0", str(port), f"0{port}")}
    assert len(urls) == 1
    assert canonical_url(protocol, "/a", [Host("h", str(port + 1))]) not in urls


@pytest.mark.parametrize("protocol", BY_HOST)
@given(host=host_names)
def test_case_and_the_final_dot_of_a_host_name_do_not_matter(protocol: str, host: str) -> None:
    spellings = [host, host.upper(), host + ".", host.title()]
    assert len({canonical_url(protocol, "/a", [Host(name)]) for name in spellings}) == 1


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_has_one_spelling(address: object) -> None:
    spellings = [str(address), str(address).upper(), address.exploded, f"[{address}]"]  # type: ignore[attr-defined]
    assert len({canonical_url("nbd", "e", [Host(text)]) for text in spellings}) == 1


def test_an_ipv4_address_inside_ipv6_is_that_address() -> None:
    assert canonical_url("nbd", "e", [Host("::ffff:192.0.2.1")]) == canonical_url("nbd", "e", [Host("192.0.2.1")])


def test_a_zone_keeps_link_local_servers_apart() -> None:
    one, other = (canonical_url("nbd", "e", [Host(f"fe80::1%{zone}")]) for zone in ("eth0", "eth1"))
    assert one != other


def test_a_host_listed_twice_is_one_host() -> None:
    twice = [Host("Store.example"), Host("store.example.", "10809", "tcp")]
    assert canonical_url("nbd", "e", twice) == canonical_url("nbd", "e", SERVER)


def test_tcp_and_rdma_lead_to_one_server() -> None:
    assert len({canonical_url("nbd", "e", [Host("h", transport=way)]) for way in ("", "tcp", "rdma")}) == 1


@pytest.mark.parametrize(("protocol", "name"), CLUSTERED.items())
@settings(max_examples=20)
@given(one=st.lists(hosts, max_size=4), other=st.lists(hosts, max_size=4))
def test_servers_of_a_cluster_do_not_name_the_image(
    protocol: str, name: str, one: list[Host], other: list[Host]
) -> None:
    """Guests may list different monitors, servers or portals, in any order, or none: one image, one lease."""
    assert canonical_url(protocol, name, one) == canonical_url(protocol, name, other)


@pytest.mark.parametrize("protocol", BY_HOST)
@given(one=hosts, other=hosts)
def test_two_servers_are_two_images(protocol: str, one: Host, other: Host) -> None:
    assume((one.name, one.port) != (other.name, other.port) and one.name != other.name)
    assert canonical_url(protocol, "/a", [one]) != canonical_url(protocol, "/a", [other])


@pytest.mark.parametrize("protocol", BY_HOST)
@given(one=names, other=names)
def test_two_names_are_two_images(protocol: str, one: str, other: str) -> None:
    try:
        urls = [canonical_url(protocol, name, SERVER) for name in (one, other)]
    except UrlError:
        return
    if protocol in ("ssh", "nfs"):
        assume(one.lstrip("/") != other.lstrip("/"))
    assert (urls[0] == urls[1]) == (one == other)


@given(one=st.tuples(names, texts), other=st.tuples(names, texts))
def test_path_and_query_cannot_be_mistaken_for_each_other(one: tuple[str, str], other: tuple[str, str]) -> None:
    urls = [canonical_url("http", name, SERVER, query=query) for name, query in (one, other)]
    assert (urls[0] == urls[1]) == (one == other)


@given(sockets=st.tuples(names, names))
def test_two_sockets_are_two_images(sockets: tuple[str, str]) -> None:
    urls = [canonical_url("nbd", "e", [Host(transport="unix", socket=path)]) for path in sockets]
    assert (urls[0] == urls[1]) == (sockets[0] == sockets[1])


@given(texts, texts)
def test_two_protocols_are_two_images(name: str, query: str) -> None:
    urls = [canonical_url(protocol, "/" + name, SERVER, query=query) for protocol in ("http", "https", "ftp", "nbd")]
    assert len(set(urls)) == 4


@pytest.mark.parametrize("protocol", ["nbd", "gluster", "iscsi", "http"])
def test_a_snapshot_element_that_qemu_never_sees_makes_no_other_image(protocol: str) -> None:
    name = CLUSTERED.get(protocol, "/a")
    assert canonical_url(protocol, name, SERVER, snapshot="s") == canonical_url(protocol, name, SERVER)


def test_a_snapshot_of_an_rbd_image_is_not_the_image() -> None:
    urls = {canonical_url("rbd", "vms/root", snapshot=name) for name in ("", "s1", "s2")}
    assert urls == {"rbd:///vms/root", "rbd:///vms/root?snapshot=s1", "rbd:///vms/root?snapshot=s2"}


def test_a_query_counts_where_it_reaches_the_server() -> None:
    assert canonical_url("http", "a", SERVER, query="v=1") != canonical_url("http", "a", SERVER, query="v=2")
    assert canonical_url("ftp", "a", SERVER, query="v=1") == canonical_url("ftp", "a", SERVER)


@pytest.mark.parametrize("protocol", ["http", "https", "ftp", "ftps", "tftp", "nfs"])
def test_the_leading_slash_of_a_path_may_be_left_out(protocol: str) -> None:
    assert canonical_url(protocol, "a/b", SERVER) == canonical_url(protocol, "/a/b", SERVER)


def test_the_leading_slash_of_an_export_is_part_of_its_name() -> None:
    assert canonical_url("nbd", "/e", SERVER) != canonical_url("nbd", "e", SERVER)


@pytest.mark.parametrize(
    ("one", "other"),
    [("IQN.2024-01.Example:T", "iqn.2024-01.example:t/0"), ("iqn.a:t/01", "iqn.a:t/1")],
)
def test_an_iscsi_unit_has_one_spelling(one: str, other: str) -> None:
    assert canonical_url("iscsi", one) == canonical_url("iscsi", other)


def test_the_nameless_namespace_of_an_rbd_pool_may_be_left_out() -> None:
    assert canonical_url("rbd", "vms//root") == canonical_url("rbd", "vms/root")
    assert canonical_url("rbd", "vms/ns/root") != canonical_url("rbd", "vms/root")


@pytest.mark.parametrize(
    ("protocol", "name", "listed"),
    [
        ("", "a", SERVER),
        ("NBD", "a", SERVER),
        ("smb", "a", SERVER),
        ("nbd", "a", []),
        ("nbd", "a", [Host("h"), Host("g")]),
        ("nbd", "a", [Host("")]),
        ("nbd", "a", [Host(".")]),
        ("nbd", "a", [Host("h", "http")]),
        ("nbd", "a", [Host("h", "65536")]),
        ("nbd", "a", [Host("h", "-1")]),
        ("nbd", "a", [Host("h", "٣")]),
        ("nbd", "a", [Host("h", "9" * 5000)]),
        ("nbd", "a", [Host("::1::2")]),
        ("nbd", "a", [Host("h", transport="carrier-pigeon")]),
        ("nbd", "a", [Host(transport="unix")]),
        ("nbd", "a", [Host(transport="unix", socket="nbd.sock")]),
        ("http", "", SERVER),
        ("nfs", "//", SERVER),
        ("ssh", "g.img", SERVER),
        ("rbd", "root", []),
        ("rbd", "/root", []),
        ("gluster", "vol0", SERVER),
        ("gluster", "vol0//", SERVER),
        ("iscsi", "", SERVER),
        ("iscsi", "iqn.a:t/one", SERVER),
        ("iscsi", "iqn.a:t/1/2", SERVER),
        ("iscsi", "iqn.a:t/" + "9" * 5000, SERVER),
        ("sheepdog", "", SERVER),
    ],
)
def test_a_source_that_names_no_definite_image_is_refused(protocol: str, name: str, listed: list[Host]) -> None:
    with pytest.raises(UrlError) as caught:
        canonical_url(protocol, name, listed)
    assert len(str(caught.value)) < 700


@given(
    st.sampled_from([*BY_HOST, *CLUSTERED]),
    texts,
    st.lists(st.builds(Host, texts, texts, texts, texts)),
    texts,
)
def test_any_source_has_a_printable_url_or_is_refused(protocol: str, name: str, listed: list[Host], extra: str) -> None:
    try:
        url = canonical_url(protocol, name, listed, query=extra, snapshot=extra)
    except DomainError as error:
        told = str(error)
    else:
        told = url
        assert url.isascii()
        assert url.startswith(f"{protocol}://")
    assert told.isprintable()

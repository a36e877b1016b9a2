# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network disk's source → the canonical URL whose MD5 names its lease.

The rule and its reasons are docs/lease-names.md. In short: the URL holds what
tells one image from another and nothing else, each part in one spelling.
A part that is left out can at worst make two images share a lease, and then
a guest is refused; a part that is in, and can be written in two ways, gives one
image two leases, and two writers. So in doubt a part is left out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Optional
from urllib.parse import quote

from .errors import DomainError

# Stays readable in a path. Never '%', '?' or '#': the encoding must be unique.
_PATH_SAFE = "/:@+,=~"


class UrlError(DomainError):
    """The source does not say which image it is. Fields: `protocol`, `why`."""

    msg = "{protocol} source: {why}"
    code = "VLH-D115"


@dataclass(frozen=True)
class Host:
    """A <host> element, its attributes as written; an absent one is empty."""

    name: str = ""
    port: str = ""
    transport: str = ""
    socket: str = ""


@dataclass(frozen=True)
class _Protocol:
    """How a protocol names an image. `path`: its name in one spelling, or ValueError with the reason."""

    path: Callable[[str], str]
    # False where any server of a cluster, or any portal, leads to the same image.
    by_host: bool = True
    # The port of a <host> without one; None where libvirt allows no port.
    port: Optional[int] = None
    query: bool = False
    snapshot: bool = False


def canonical_url(protocol: str, name: str, hosts: Iterable[Host] = (), *, query: str = "", snapshot: str = "") -> str:
    """The one URL of an image, whatever the order, spelling and defaults of its <source>.

    `query` counts for http and https, `snapshot` for rbd: elsewhere QEMU is not told of them.
    Raises UrlError for an unknown protocol and for a source that names no definite image.
    """
    rules = _PROTOCOLS.get(protocol)
    if rules is None:
        raise UrlError(protocol="network", why=f"protocol '{protocol}' is not known to vlhook")
    try:
        path = rules.path(name)
        server = _server(hosts, rules) if rules.by_host else ""
    except ValueError as error:
        raise UrlError(protocol=protocol, why=str(error)) from None
    url = f"{protocol}://{server}/{quote(path, safe=_PATH_SAFE)}"
    if query and rules.query:
        url += "?" + quote(query, safe=_PATH_SAFE + "&")
    if snapshot and rules.snapshot:
        url += "?snapshot=" + quote(snapshot, safe="")
    return url


# ------------------------------------------------------------------ servers


def _server(hosts: Iterable[Host], rules: _Protocol) -> str:
    servers = {_one_server(host, rules) for host in hosts}
    if not servers:
        raise ValueError("it names no host")
    if len(servers) > 1:
        raise ValueError(f"it names {len(servers)} hosts, and an image of this protocol has one")
    return servers.pop()


def _one_server(host: Host, rules: _Protocol) -> str:
    if host.transport == "unix":
        if not host.socket.startswith("/"):
            raise ValueError("a host with transport 'unix' needs the absolute path of a socket")
        return "unix:" + quote(host.socket, safe="")
    # tcp and rdma are two ways to one server.
    if host.transport not in ("", "tcp", "rdma"):
        raise ValueError(f"transport '{host.transport}' is not known to vlhook")
    name = _host_name(host.name)
    return name if rules.port is None else f"{name}:{_port(host.port, rules.port)}"


def _port(text: str, default: int) -> int:
    """0 means the default, as for libvirt."""
    if not re.fullmatch(r"[0-9]{0,8}", text) or int(text or 0) > 65535:
        raise ValueError(f"port '{text}' is not a number from 1 to 65535")
    return int(text or 0) or default


def _host_name(text: str) -> str:
    name = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in name:
        return _ipv6(name)
    # Neither the case of a name nor the dot of the root at its end means anything.
    name = name.lower()
    name = name[:-1] if name.endswith(".") else name
    if not name:
        raise ValueError("a host has no name")
    return quote(name, safe="")


def _ipv6(text: str) -> str:
    literal, percent, zone = text.partition("%")
    try:
        address = ipaddress.IPv6Address(literal)
    except ValueError:
        raise ValueError(f"host '{text}' is neither a name nor an address") from None
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"[{address.compressed}{quote(percent + zone, safe='')}]"


# -------------------------------------------------------------------- names


def _as_written(name: str) -> str:
    return name


def _needed(name: str) -> str:
    if not name:
        raise ValueError("it has no name")
    return name


def _below_root(name: str) -> str:
    """libvirt puts a slash before a path that has none."""
    return _needed(name)[1:] if name.startswith("/") else _needed(name)


def _server_path(name: str) -> str:
    return _needed(name.lstrip("/"))


def _absolute_path(name: str) -> str:
    if not name.startswith("/"):
        raise ValueError(f"path '{name}' depends on who logs in; write the whole path, from '/'")
    return _server_path(name)


def _in_volume(name: str) -> str:
    volume, _, path = name.lstrip("/").partition("/")
    path = path.lstrip("/")
    if not volume or not path:
        raise ValueError(f"name '{name}' is not VOLUME/PATH")
    return f"{volume}/{path}"


def _rbd_image(name: str) -> str:
    """POOL/IMAGE or POOL/NAMESPACE/IMAGE; an empty namespace is the one without a name."""
    parts = [part for part in name.split("/") if part]
    if len(parts) < 2:
        raise ValueError(f"name '{name}' is not POOL/IMAGE")
    return "/".join(parts)


def _iscsi_unit(name: str) -> str:
    """TARGET/LUN. A target's name is unique in the world and has no case; without a LUN it is 0."""
    target, _, unit = name.partition("/")
    if not target:
        raise ValueError("it names no target")
    if not re.fullmatch(r"[0-9]{0,10}", unit):
        raise ValueError(f"LUN '{unit}' is not a number")
    return f"{target.lower()}/{int(unit or 0)}"


_PROTOCOLS = {
    "nbd": _Protocol(_as_written, port=10809),
    "ssh": _Protocol(_absolute_path, port=22),
    "nfs": _Protocol(_server_path),
    "http": _Protocol(_below_root, port=80, query=True),
    "https": _Protocol(_below_root, port=443, query=True),
    "ftp": _Protocol(_below_root, port=21),
    "ftps": _Protocol(_below_root, port=990),
    "tftp": _Protocol(_below_root, port=69),
    "iscsi": _Protocol(_iscsi_unit, by_host=False),
    "rbd": _Protocol(_rbd_image, by_host=False, snapshot=True),
    "gluster": _Protocol(_in_volume, by_host=False),
    "sheepdog": _Protocol(_needed, by_host=False),
    "vxhs": _Protocol(_needed, by_host=False),
}

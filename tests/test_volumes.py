# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume's path comes from its pool's active state, or the start is refused (safety rules, 26)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlhook.volumes import MAX_STATE, POOL_TYPES, VolumeError, pools_in, volume_path

# As libvirt 9.0 writes it for an active pool.
STATE = """<!--
WARNING: THIS IS AN AUTO-GENERATED FILE. CHANGES TO IT ARE LIKELY TO BE
OVERWRITTEN AND LOST. Changes to this xml configuration should be made using:
  virsh pool-edit {name}
or other application using the libvirt API.
-->

<poolstate>
  <pool type='{kind}'>
    <name>{name}</name>
    <uuid>4f8ef4b9-d471-4ccd-8cd4-41f667c11da4</uuid>
    <capacity unit='bytes'>0</capacity>
    <allocation unit='bytes'>0</allocation>
    <available unit='bytes'>0</available>
    <source>
    </source>
    <target>
      <path>{path}</path>
    </target>
  </pool>
</poolstate>
"""


def state(name: str = "p1", kind: str = "dir", path: str = "/srv/p1") -> bytes:
    return STATE.format(name=name, kind=kind, path=path).encode()


def refusal(data: Optional[bytes], pool: str = "p1", volume: str = "v1.img") -> str:
    with pytest.raises(VolumeError) as caught:
        volume_path(lambda _pool: data, pool, volume)
    text = str(caught.value)
    assert text.isprintable()
    assert pool[:100] in text
    assert volume[:100] in text
    return text


@pytest.mark.parametrize("kind", POOL_TYPES)
def test_the_path_is_target_slash_volume(kind: str) -> None:
    assert volume_path(lambda _pool: state(kind=kind), "p1", "v1.img") == "/srv/p1/v1.img"


def test_the_path_keeps_every_byte() -> None:
    data = state(path="/srv/a &amp; 'b'/é")
    assert volume_path(lambda _pool: data, "p1", "v 1&.img") == "/srv/a & 'b'/é/v 1&.img"


def test_a_pool_on_the_root_directory_gets_the_slashes_that_libvirt_gives_it() -> None:
    assert volume_path(lambda _pool: state(path="/"), "p1", "v") == "//v"


def test_an_inactive_pool_is_refused_with_the_command_that_starts_it() -> None:
    assert "virsh pool-start 'my pool'" in refusal(None, "my pool")


@pytest.mark.parametrize("kind", ["iscsi", "iscsi-direct", "disk", "scsi", "mpath", "rbd", "zfs", "gluster", "new"])
def test_a_pool_whose_paths_only_libvirt_knows_is_refused(kind: str) -> None:
    assert f"type {kind}" in refusal(state(kind=kind))


@pytest.mark.parametrize("name", ["", ".", "..", "../v", "a/b", "/etc/passwd", "a\0b"])
def test_names_that_leave_the_directory_are_refused_without_a_look(name: str) -> None:
    def pools(pool: str) -> bytes:
        raise AssertionError(f"looked for {pool}")

    for pool, volume in ((name, "v"), ("p1", name)):
        with pytest.raises(VolumeError):
            volume_path(pools, pool, volume)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<poolstate/>",
        b"<poolstate><pool type='dir'>",
        b"\0" * 100,
        state(name="p2"),
        state(path=""),
        state(path="srv/p1"),
        state(path="/srv<x/>/p1"),
        state().replace(b"<poolstate>", b"<poolstate xmlns='urn:x'>"),
        state().replace(b"poolstate", b"volstate"),
        state().replace(b"<target>", b"<target><path>/other</path>"),
        state().replace(b"<pool type='dir'>", b"<pool>"),
        state().replace(b"<poolstate>", b"<poolstate><pool type='dir'><name>p1</name></pool>"),
        b"<!DOCTYPE p [<!ENTITY e '/srv'>]>" + state(path="&e;").partition(b"-->")[2].strip(),
    ],
)
def test_a_damaged_state_is_refused(data: bytes) -> None:
    refusal(data)


@given(st.binary(max_size=300), st.integers(0, 700))
def test_no_damage_of_a_state_gets_past_as_anything_but_a_refusal(noise: bytes, where: int) -> None:
    data = state()
    for damaged in (noise, data[:where], data[:where] + noise + data[where + len(noise) :]):
        try:
            told = volume_path(lambda _pool, d=damaged: d, "p1", "v")  # type: ignore[misc]
        except VolumeError as error:
            told = f"/{error}"
        assert told.startswith("/")


# ------------------------------------------------------------ the directory


def test_pools_are_read_from_the_storage_run_directory(tmp_path: Path) -> None:
    (tmp_path / "p 1.xml").write_bytes(state("p 1"))
    assert volume_path(pools_in(str(tmp_path)), "p 1", "v") == "/srv/p1/v"
    with pytest.raises(VolumeError, match="not active"):
        volume_path(pools_in(str(tmp_path)), "p2", "v")
    with pytest.raises(VolumeError, match="not active"):
        volume_path(pools_in(str(tmp_path / "absent")), "p 1", "v")


def test_a_state_that_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.xml")
    (tmp_path / "directory.xml").mkdir()
    (tmp_path / "real").write_bytes(state("link"))
    (tmp_path / "link.xml").symlink_to("real")
    (tmp_path / "large.xml").write_bytes(b" " * (MAX_STATE + 1))
    (tmp_path / f"{'n' * 250}.xml").write_bytes(state("n" * 250))
    for pool in ("fifo", "directory", "link", "large", "n" * 300):
        with pytest.raises(VolumeError, match="cannot be read"):
            volume_path(pools_in(str(tmp_path)), pool, "v")
    assert volume_path(pools_in(str(tmp_path)), "n" * 250, "v") == "/srv/p1/v"

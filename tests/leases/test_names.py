# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lease names are those of libvirt's sanlock plugin (format document, 12)."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlhook.leases.names import LOCKSPACE_NAME, lease_name, lease_path


def test_the_worked_example_has_its_lease_file() -> None:
    name = lease_name(b"/var/lib/libvirt/images/demo.img")
    assert name == "bfa0240911bc17753e0b473688822159"
    assert lease_path("/var/lib/libvirt/sanlock", name) == "/var/lib/libvirt/sanlock/bfa0240911bc17753e0b473688822159"


def test_the_lockspace_has_the_name_that_the_plugin_uses() -> None:
    assert LOCKSPACE_NAME == "__LIBVIRT__DISKS__"
    assert lease_path("/leases", LOCKSPACE_NAME) == "/leases/__LIBVIRT__DISKS__"


@pytest.mark.parametrize("other", [b"/a//b", b"/a/./b", b"/a/b/", b"/A/b", b"/a/b\n", b" /a/b"])
def test_nothing_of_a_path_is_cleaned_up(other: bytes) -> None:
    assert lease_name(other) != lease_name(b"/a/b")


@given(st.binary())
def test_any_bytes_have_a_name_of_32_lower_case_hex_digits(source: bytes) -> None:
    name = lease_name(source)
    assert name == hashlib.md5(source).hexdigest()
    assert len(name) == 32
    assert name == name.lower()

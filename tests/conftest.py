# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures for every test, and the needs that the markers root, sanlock and libvirt stand for."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import pytest

from tests import needs

# The machine may be busy: how long an example took says nothing about the code.
hypothesis.settings.register_profile(
    "vlhook", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("vlhook")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") or item.get_closest_marker("libvirt"):
        needs.require_root()
    if item.get_closest_marker("sanlock"):
        needs.require_programs("sanlock")
    if item.get_closest_marker("libvirt"):
        needs.require_programs("libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "ip", "nsenter")


@pytest.fixture
def require_root() -> None:
    """The test runs as root or not at all."""
    needs.require_root()


@pytest.fixture
def require_programs() -> Callable[..., list[str]]:
    """require_programs("sanlock", "strace") returns their paths, or ends the test there."""
    return needs.require_programs


@pytest.fixture
def require_module() -> Callable[[str], None]:
    """require_module("pyfuse3") ends the test there if the module is not installed."""
    return needs.require_module

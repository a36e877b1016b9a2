# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lab for each module: its tests carry one xdist_group, so that one worker at a time uses it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests import needs

from .host import PYTHON, Host
from .lab import Lab, running_lab


@pytest.fixture(scope="module")
def module_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A guest is ended 8 io_timeouts after the last renewal: 8 s, or as the module's IO_TIMEOUT says."""
    needs.require_root()
    needs.require_programs("libvirtd", "virsh", "qemu-system-x86_64", "qemu-img")
    needs.require_programs("ip", "nsenter", "unshare", "pgrep")
    if subprocess.run([PYTHON, "-c", "import click"], check=False, capture_output=True).returncode:
        needs.lacking(f"needs the module click for {PYTHON}")
    base = tmp_path_factory.mktemp("lab")
    io_timeout = getattr(request.module, "IO_TIMEOUT", 1)
    count = getattr(request.module, "HOSTS", 2)
    try:
        with running_lab(base, tmp_path_factory.getbasetemp() / "capabilities", io_timeout, count) as lab:
            yield lab
    finally:
        shutil.rmtree(base)


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """The lab without guests; afterwards it must be without guests and leases again."""
    yield module_lab
    module_lab.clean()


@pytest.fixture
def one(lab: Lab) -> Host:
    return lab.hosts[0]


@pytest.fixture
def two(lab: Lab) -> Host:
    return lab.hosts[1]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lab for each module: its tests carry one xdist_group, so that one worker at a time uses it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests import needs

from .host import PYTHON, Host
from .lab import Lab, running_lab

ENGINES = ("native", "sanlock")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test of a lab runs once with each engine, or with those that its mark or its module's ENGINES names."""
    for lab in {"module_lab", "two_kinds"} & set(metafunc.fixturenames):
        module, mark = metafunc.module, metafunc.definition.get_closest_marker("engines")
        names = mark.args if mark else getattr(module, "ENGINES", ENGINES)
        metafunc.parametrize(
            lab, [engine_of_lab(module.__name__, name) for name in names], indirect=True, scope="module"
        )


def engine_of_lab(module: str, engine: str) -> ParameterSet:
    """Two labs of one module may be up at the same time."""
    group = pytest.mark.xdist_group(f"{module}-{engine}")
    return pytest.param(engine, marks=[group, pytest.mark.sanlock] if engine == "sanlock" else [group])


@pytest.fixture(scope="module")
def module_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """All its hosts have the same engine. A guest is ended 8 io_timeouts after the last renewal."""
    needs.require_root()
    needs.require_programs("libvirtd", "virsh", "qemu-system-x86_64", "qemu-img")
    needs.require_programs("ip", "nsenter", "unshare", "pgrep")
    if subprocess.run([PYTHON, "-c", "import click"], check=False, capture_output=True).returncode:
        needs.lacking(f"needs the module click for {PYTHON}")
    base = tmp_path_factory.mktemp("lab")
    engine = request.param
    io_timeout = getattr(request.module, "IO_TIMEOUT", 1 if engine == "native" else 2)
    count = getattr(request.module, "HOSTS", 2)
    try:
        with running_lab(base, tmp_path_factory.getbasetemp() / "capabilities", io_timeout, count, engine) as lab:
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

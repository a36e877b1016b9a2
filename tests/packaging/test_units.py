# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd says of the units, and what the packages know of them. That they work: test_debian, test_systemd."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path

import pytest

from tests import needs

from .building import PYTHON, ROOT, run

UNITS = sorted([*(ROOT / "packaging/systemd").glob("*.service"), *(ROOT / "packaging/systemd").glob("*.timer")])
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
# systemd's own measure, in tenths: 100 is a service without any protection.
EXPOSURE = {"vlhook-guard.service": 15, "vlhookd.service": 35, "vlhook-watch.service": 15}
ANY_OTHER = 50


def ids(path: Path) -> str:
    return path.name


def directives(path: Path) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser["Service"]


@pytest.mark.parametrize("unit", SERVICES, ids=ids)
def test_a_service_is_no_more_exposed_than_it_must_be(unit: Path) -> None:
    [analyze] = needs.require_programs("systemd-analyze")
    limit = EXPOSURE.get(unit.name, ANY_OTHER)
    ran = run(analyze, "security", "--offline=true", f"--threshold={limit}", unit, check=False)
    assert ran.returncode == 0, ran.stdout


def test_the_spec_names_every_unit() -> None:
    spec = (ROOT / "packaging/rpm/vlhook.spec").read_text()
    named = re.search(r"^%global vlhook_units (.*)$", spec, re.MULTILINE)
    assert named
    # A service that a timer starts is not enabled by itself.
    by_timer = {unit.stem + ".service" for unit in UNITS if unit.suffix == ".timer"}
    assert sorted(named[1].split()) == sorted({unit.name for unit in UNITS} - by_timer)


@pytest.mark.parametrize("name", ["vlhookd.service", "vlhook-guard.service"])
def test_what_keeps_guests_safe_is_never_killed_by_systemd_and_always_comes_back(name: str) -> None:
    service = directives(ROOT / "packaging/systemd" / name)
    assert service["Restart"] == "always"
    assert service["SendSIGKILL"] == "no"
    # With any other, systemd starts no successor as long as one process of the unit is left.
    assert service["KillMode"] == "process"
    assert service["OOMScoreAdjust"] == "-1000"
    assert service["RuntimeDirectoryPreserve"] == "yes", "what a successor needs is in it"


@pytest.mark.parametrize("name", ["vlhookd.service", "vlhook-guard.service"])
def test_the_guests_can_be_seen_and_ended(name: str) -> None:
    service = directives(ROOT / "packaging/systemd" / name)
    assert "CAP_KILL" in service["CapabilityBoundingSet"].split()
    assert not {"ProtectProc", "ProcSubset", "PrivateUsers", "User", "DynamicUser"} & set(service)


def test_the_keeper_sees_with_its_capabilities_which_plugins_libvirtd_has_loaded() -> None:
    """libvirtd has every capability; whoever reads its /proc/PID/maps must have them, too, or CAP_SYS_PTRACE."""
    needs.require_root()
    allowed = directives(ROOT / "packaging/systemd/vlhookd.service")["CapabilityBoundingSet"].lower().split()
    bound = ",".join(["-all", *(name.replace("cap_", "+") for name in allowed)])
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from vlhook.keeper.plugin import has_plugin"
    [setpriv] = needs.require_programs("setpriv")
    ran = run(setpriv, "--bounding-set", bound, PYTHON, "-Ic", f"{code}; print(has_plugin({os.getpid()}, '/proc'))")
    assert ran.stdout == "False\n"
    assert "ptrace" not in run("systemd-analyze", "syscall-filter", "@system-service").stdout.split()


def test_the_keeper_reaches_images_and_lease_files_wherever_they_are() -> None:
    service = directives(ROOT / "packaging/systemd/vlhookd.service")
    assert not {"ProtectHome", "PrivateTmp", "PrivateDevices", "DevicePolicy", "InaccessiblePaths"} & set(service)
    assert service["ProtectSystem"] == "full"


def test_the_account_and_the_directories_are_as_systemd_understands_them(tmp_path: Path) -> None:
    needs.require_root()
    [users, files] = needs.require_programs("systemd-sysusers", "systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    run(users, f"--root={tmp_path}", ROOT / "packaging/systemd/vlhook.sysusers")
    [account] = [line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("vlhook:")]
    assert account.split(":")[2] != "0"
    assert account.endswith("nologin")

    theirs = tmp_path / "var/lib/libvirt/sanlock"
    theirs.mkdir(mode=0o711, parents=True)
    run(files, f"--root={tmp_path}", "--create", ROOT / "packaging/systemd/vlhook.tmpfiles")
    assert (tmp_path / "run/vlhook").stat().st_mode & 0o777 == 0o700
    assert theirs.stat().st_mode & 0o777 == 0o711, "a directory that is there stays as it is"

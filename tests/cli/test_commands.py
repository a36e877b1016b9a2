# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every command has help that teaches, and errors that are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vlhook.cli import COMMANDS, cli

XML = b"""<domain type='qemu'><name>g</name><uuid>6d1f2c9e-1b0a-4a53-9a6e-0d2a4c1c7f10</uuid><devices>
<disk type='file' device='disk'><source file='/var/lib/libvirt/images/demo.img'/><target dev='vda'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk></devices></domain>"""
DEMO = "bfa0240911bc17753e0b473688822159"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_explains_the_command_and_its_exit_status(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert len(result.output.split()) > 30


def test_the_overview_names_every_command() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert name in result.output


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without settings, whatever stands in /etc/libvirt of this machine."""
    monkeypatch.setenv("VLHOOK_CONFIG_DIR", str(tmp_path))
    return tmp_path / "qemu-sanlock.conf"


def test_names_follows_the_settings_of_this_host(tmp_path: Path, settings: Path) -> None:
    path = tmp_path / "g.xml"
    path.write_bytes(XML)
    settings.write_text('disk_lease_dir = "/shared/leases"\n')
    assert f"/shared/leases/{DEMO}" in CliRunner().invoke(cli, ["names", str(path)]).output
    settings.write_text("auto_disk_leases = 0\nrequire_lease_for_disks = 0\n")
    assert "auto_disk_leases is off" in CliRunner().invoke(cli, ["names", str(path)]).output
    settings.write_text("auto_disk_leases = 0\n")
    refused = CliRunner().invoke(cli, ["names", str(path)])
    assert (refused.exit_code, "require_lease_for_disks demands" in refused.output) == (1, True)


def test_names_tells_the_worked_example(tmp_path: Path) -> None:
    path = tmp_path / "g.xml"
    path.write_bytes(XML)
    result = CliRunner().invoke(cli, ["names", str(path)])
    assert result.exit_code == 0
    assert f"/var/lib/libvirt/sanlock/{DEMO}" in result.output
    assert "no medium" in result.output
    report = json.loads(CliRunner().invoke(cli, ["names", "--json", str(path)]).output)
    assert [lease["name"] for lease in report["leases"]] == [DEMO]
    assert [disk["reason"] for disk in report["skipped"]] == ["no medium"]


@pytest.mark.parametrize(
    "more",
    [
        b"<on_lockfailure>ignore</on_lockfailure>",
        b"<devices><lease><lockspace>mine</lockspace><key>k</key><target path='/x'/></lease>",
    ],
)
def test_names_tells_what_the_keeper_would_refuse(tmp_path: Path, more: bytes) -> None:
    path = tmp_path / "guest.xml"
    old = b"<devices>"
    path.write_bytes(XML.replace(old, more if old in more else more + old))
    result = CliRunner().invoke(cli, ["names", str(path)])
    assert result.exit_code == 1
    assert "would be refused" in result.output


def test_names_of_a_guest_that_would_be_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.xml"
    path.write_bytes(XML.replace(b"type='file' device='disk'", b"type='hologram'"))
    result = CliRunner().invoke(cli, ["names", str(path)])
    assert result.exit_code == 1
    assert "hologram" in result.output
    assert json.loads(CliRunner().invoke(cli, ["names", "--json", str(path)]).output)["code"].startswith("VLH-D")


def test_status_without_a_keeper_says_so_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["status", "--run-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "vlhookd does not answer" in result.output


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli, ["levitate"]).exit_code == 2

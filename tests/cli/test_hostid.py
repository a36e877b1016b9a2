# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook host-id`: one number a host, also for hosts that are installed at once and for clones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import vlhook.cli
from tests.leases.images import image
from vlhook.cli import hostid
from vlhook.config.settings import SHARED_FILE, load
from vlhook.keeper.identity import FILE as IDENTITY_FILE
from vlhook.keeper.identity import Machine
from vlhook.leases import hostids

SPACE = "__LIBVIRT__DISKS__"
Command = Callable[..., Result]


class Host:
    """A host of its own, by its configuration, its state and its machine; all share one lease directory."""

    def __init__(self, folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config, self.state = folder / f"etc-{number}", folder / f"state-{number}"
        self.leases = folder / "leases"
        self.machine = Machine(f"machine-{number}", f"dmi-{number}")
        self._patch = monkeypatch
        for path in (self.config, self.state):
            path.mkdir()
        self.leases.mkdir(exist_ok=True)
        (self.config / SHARED_FILE).write_text(f'disk_lease_dir = "{self.leases}"\n', encoding="utf-8")

    def __call__(self, *words: object) -> Result:
        self._patch.setattr(hostid, "this_machine", lambda: self.machine)
        where = ["--config-dir", str(self.config), "--state-dir", str(self.state)]
        result = CliRunner().invoke(vlhook.cli.cli, ["host-id", *where, *map(str, words)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    def joined_as(self, name: str) -> None:
        """vlhookd has run here under that name."""
        stored = {"name": name, "machine": asdict(self.machine)}
        (self.state / IDENTITY_FILE).write_text(json.dumps(stored), encoding="utf-8")

    @property
    def number(self) -> int:
        return load(self.config).host_id


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    for name, entry in (("host-id", ("hostid", "host_id_command")), ("config", ("config", "config_group"))):
        monkeypatch.setitem(vlhook.cli.COMMANDS, name, entry)
    return [Host(tmp_path, number, monkeypatch) for number in range(3)]


def notes(host: Host) -> list[str]:
    return sorted(name for name in os.listdir(host.leases) if name != SPACE)


def test_without_a_number_it_says_how_to_get_one(hosts: list[Host]) -> None:
    result = hosts[0]()
    assert (result.exit_code, result.output) == (1, "WRONG: host_id is not set: vlhook host-id --auto\n")


def test_auto_gives_each_host_a_number_before_any_has_joined(hosts: list[Host]) -> None:
    assert [host("--auto").exit_code for host in hosts] == [0, 0, 0]
    assert [host.number for host in hosts] == [1, 2, 3]
    assert [host().exit_code for host in hosts] == [0, 0, 0]


def test_auto_leaves_the_numbers_of_hosts_that_have_ever_joined(hosts: list[Host]) -> None:
    (hosts[0].leases / SPACE).write_bytes(image("lockspace_all_released"))
    hosts[0]("--auto")
    assert hosts[0].number == 3


def test_auto_keeps_the_number_that_is_set(hosts: list[Host]) -> None:
    hosts[0]("set", 9)
    result = hosts[0]("--auto")
    assert "host_id is 9 already" in result.output
    assert hosts[0].number == 9


def test_auto_finds_the_number_of_this_machine_again_when_its_settings_are_lost(hosts: list[Host]) -> None:
    hosts[0]("--auto")
    hosts[1]("--auto")
    (hosts[1].config / SHARED_FILE).write_text(f'disk_lease_dir = "{hosts[1].leases}"\n', encoding="utf-8")
    hosts[1]("--auto")
    assert hosts[1].number == 2


def test_auto_is_quick_to_leave_a_number_that_another_host_took_meanwhile(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    look, seen = hostids.look, []

    def look_late(directory: str) -> hostids.HostIds:
        found = look(directory)
        if not seen:
            seen.append(found)
            other = hostids.Machine("another", "another.example", "boot")
            hostids.bind(directory, 1, other, hostids.Ownership())
        return found

    monkeypatch.setattr(hostids, "look", look_late)
    hosts[0]("--auto")
    assert hosts[0].number == 2


def test_auto_without_the_lease_directory_sets_nothing_and_says_what_to_mount(hosts: list[Host]) -> None:
    hosts[0].leases.rmdir()
    result = hosts[0]("--auto")
    assert result.exit_code == 2
    assert "no host id can be chosen" in result.output
    assert str(hosts[0].leases) in result.output
    assert "is mounted and writable" in result.output
    assert hosts[0].number == 0


def test_auto_that_cannot_write_the_settings_leaves_no_note(hosts: list[Host]) -> None:
    (hosts[0].config / SHARED_FILE).write_text(f'disk_lease_dir = "{hosts[0].leases}"\nnonsense\n', encoding="utf-8")
    assert hosts[0]("--auto").exit_code == 2
    assert notes(hosts[0]) == []


def test_a_clone_is_told_and_gets_a_number_of_its_own(hosts: list[Host]) -> None:
    original, clone = hosts[0], hosts[1]
    original("--auto")
    (clone.config / SHARED_FILE).write_bytes((original.config / SHARED_FILE).read_bytes())
    original.joined_as("name-of-original")
    (clone.state / IDENTITY_FILE).write_bytes((original.state / IDENTITY_FILE).read_bytes())
    result = clone()
    assert result.exit_code == 1
    assert "WRONG: it is another host's: it was set for host" in result.output
    clone("--auto")
    assert (original.number, clone.number) == (1, 2)
    assert clone().exit_code == 0


def test_a_clone_of_a_host_whose_number_was_set_with_augtool_is_told_too(hosts: list[Host]) -> None:
    original, clone = hosts[0], hosts[1]
    (original.leases / SPACE).write_bytes(image("lockspace_hosts_1_2_7_alive"))
    original.joined_as(hostids.look(str(original.leases)).records[7])
    for host in (original, clone):
        (host.config / SHARED_FILE).write_text(f'disk_lease_dir = "{host.leases}"\nhost_id = 7\n', encoding="utf-8")
    (clone.state / IDENTITY_FILE).write_bytes((original.state / IDENTITY_FILE).read_bytes())
    assert original().exit_code == 0
    assert "WRONG: it is another host's: host " in clone().output


def test_set_refuses_the_number_of_another_host_by_name(hosts: list[Host]) -> None:
    (hosts[0].leases / SPACE).write_bytes(image("lockspace_hosts_1_2_7_alive"))
    result = hosts[0]("set", 7)
    assert result.exit_code == 2
    assert "host id 7" in result.output
    assert "has joined with it" in result.output
    assert "set --force 7" in result.output
    assert hosts[0].number == 0
    assert notes(hosts[0]) == []


def test_set_by_force_takes_the_number_of_a_host_that_is_gone(hosts: list[Host]) -> None:
    hosts[0]("set", 4)
    assert hosts[1]("set", 4).exit_code == 2
    assert hosts[1]("set", "--force", 4).exit_code == 0
    assert hosts[1].number == 4
    assert "it was set for host" in hosts[0]().output


def test_a_host_keeps_the_number_under_which_it_has_joined(hosts: list[Host]) -> None:
    (hosts[0].leases / SPACE).write_bytes(image("lockspace_hosts_1_2_7_alive"))
    hosts[0].joined_as(hostids.look(str(hosts[0].leases)).records[7])
    assert hosts[0]("set", 7).exit_code == 0
    assert hosts[0]().exit_code == 0


def test_another_number_gives_the_former_one_back(hosts: list[Host]) -> None:
    hosts[0]("set", 4)
    hosts[0]("set", 5)
    assert notes(hosts[0]) == [".vlhook-host-5"]


def test_set_works_before_the_lease_directory_is_mounted_and_says_what_it_did_not_check(hosts: list[Host]) -> None:
    hosts[0].leases.rmdir()
    result = hosts[0]("set", 12)
    assert result.exit_code == 0
    assert "not compared with the lease directory" in result.output
    assert hosts[0].number == 12
    shown = hosts[0]()
    assert shown.exit_code == 0
    assert "not compared with the lease directory" in shown.output


def test_config_set_takes_the_same_care(hosts: list[Host]) -> None:
    hosts[0]("set", 4)
    where = ["--config-dir", str(hosts[1].config)]
    hosts[1]()
    result = CliRunner().invoke(vlhook.cli.cli, ["config", "set", *where, "host_id", "4"])
    assert result.exit_code == 2
    assert "is taken" in result.output


@pytest.mark.parametrize("value", ["0", "2001", "one", "-1"])
def test_set_refuses_what_is_no_host_id(hosts: list[Host], value: str) -> None:
    result = hosts[0]("set", "--", value)
    assert result.exit_code == 2
    assert "a whole number from 1 to 2000" in result.output


def test_a_lockspace_that_is_too_small_for_the_number_cannot_be_forced(hosts: list[Host]) -> None:
    (hosts[0].leases / SPACE).write_bytes(image("lockspace_fresh_4K_1M"))
    assert "room for 250 hosts" in hosts[0]("set", "--force", 251).output
    assert hosts[0].number == 0


def test_a_machine_without_any_identity_chooses_by_hand(hosts: list[Host]) -> None:
    hosts[0].machine = Machine("", "")
    assert "neither a machine-id nor a DMI UUID" in hosts[0]("--auto").output
    assert hosts[0]("set", 3).exit_code == 0
    assert hosts[0].number == 3


def test_show_as_json(hosts: list[Host]) -> None:
    hosts[0]("set", 4)
    report = json.loads(hosts[0]("show", "--json").output)
    assert report == {
        "schema": 1, "host_id": 4, "origin": f"{hosts[0].config / SHARED_FILE}:2",
        "lease_directory": str(hosts[0].leases), "trouble": None, "not_checked": None,
    }  # fmt: skip

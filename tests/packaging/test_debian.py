# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Debian packages: built by debhelper, and put to work with real libvirt and a real guest, as on any Debian.

There is no systemd on the machine here, and the scripts of the packages must cope. With it: test_systemd.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.guests.waiting import wait_for

from .building import DOCUMENTS, ROOT, VERSION, build_debs, documents_of, run
from .machine import Machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.libvirt,
    pytest.mark.xdist_group("packages of Debian"),
]
OURS = ("python3-vlhook", "vlhook", "vlhook-augeas")
NEWER = f"{VERSION}+newer"
HOOK = "/etc/libvirt/hooks/qemu.d/10-vlhook"
LIBRARY = "/usr/lib/python3/dist-packages"
CONTAINER = "cgroup_controllers = [ ]\nnamespaces = [ ]\nstdio_handler = \"file\"\nsecurity_driver = \"none\"\n"
"""For libvirt's qemu.conf: what libvirtd needs on a machine that is a container."""

YOUNGER = re.compile(r"Unknown key 'FileDescriptorStorePreserve' in section \[Service\], ignoring")
"""systemd knows it from 254 on; before that it keeps the descriptors over a restart only."""


def newer_version(path: Path, target: Path) -> None:
    """The same package under a later version."""
    tree = target / path.stem
    run("dpkg-deb", "-R", path, tree)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {VERSION}", f"Version: {NEWER}")
                       .replace(f"(= {VERSION})", f"(= {NEWER})"))  # fmt: skip
    run("dpkg-deb", "-b", tree, target / path.name)
    shutil.rmtree(tree)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deb/, newer/ and the test that the packages bring for autopkgtest."""
    needs.require_root()
    base = tmp_path_factory.mktemp("debian")
    (base / "newer").mkdir()
    for path in build_debs(base / "deb").values():
        newer_version(path, base / "newer")
    shutil.copy(ROOT / "packaging/debian/tests/guest", base)
    return base


def contents(packages: Path, name: str) -> dict[str, str]:
    """Path → mode and owner."""
    listed = run("dpkg-deb", "-c", packages / "deb" / f"{name}_{VERSION}_all.deb").stdout.splitlines()
    words = [line.split() for line in listed]
    return {word[5][1:]: f"{word[0]} {word[1]}" for word in words if not word[5].endswith("/")}


def test_two_builds_are_the_same(packages: Path, tmp_path: Path) -> None:
    for name, path in build_debs(tmp_path).items():
        assert path.read_bytes() == (packages / "deb" / path.name).read_bytes(), name


def test_lintian_finds_nothing_that_was_not_reviewed(packages: Path) -> None:
    """But for the maintainer's address, which is none."""
    [lint] = needs.require_programs("lintian")
    ran = run(lint, *sorted((packages / "deb").glob("*.deb")), check=False)
    lines = [line for line in ran.stdout.splitlines() if not re.match(r"[EW]: \S+: bogus-mail-host", line)]
    assert [line for line in lines if re.match("[EWI]: ", line)] == []


def test_the_packages_have_these_files_modes_and_owners(packages: Path) -> None:
    found = contents(packages, "vlhook")
    plain, program = "-rw-r--r-- root/root", "-rwxr-xr-x root/root"
    expected = {
        "/etc/apparmor.d/abstractions/vlhook": plain,
        HOOK: program,
        "/etc/libvirt/qemu-vlhook.conf": plain,
        "/usr/bin/vlhook": program,
        "/usr/bin/vlhook-guard": program,
        "/usr/bin/vlhook-watch": program,
        "/usr/bin/vlhookd": program,
        "/usr/lib/sysusers.d/vlhook.conf": plain,
        "/usr/lib/tmpfiles.d/vlhook.conf": plain,
        "/usr/libexec/vlhook/maintain": program,
        "/usr/share/bash-completion/completions/vlhook": plain,
        "/usr/share/fish/vendor_completions.d/vlhook.fish": plain,
        "/usr/share/vlhook/hooks/qemu": program,
        "/usr/share/zsh/vendor-completions/_vlhook": plain,
    }
    for unit in (ROOT / "packaging/systemd").glob("*.[st][ei][rm]*"):
        expected[f"/lib/systemd/system/{unit.name}"] = plain
    rest = {path: mode for path, mode in found.items()
            if not path.startswith(("/usr/share/man/", "/usr/share/doc/", "/usr/share/lintian/"))}  # fmt: skip
    assert documents_of(found) - {"copyright", "changelog.gz", "changelog.Debian.gz"} == DOCUMENTS
    # Where units go depends on the release of Debian.
    assert {path.replace("/usr/lib/systemd", "/lib/systemd"): mode for path, mode in rest.items()} == expected
    modules = {f"{LIBRARY}/{path.relative_to(ROOT)}" for path in (ROOT / "vlhook").rglob("*.py")}
    assert {path for path in contents(packages, "python3-vlhook") if path.endswith(".py")} == modules
    augeas = contents(packages, "vlhook-augeas")
    lenses = {path.rpartition("lenses/")[2] for path in augeas if "/augeas/" in path}
    own = {path.name for path in (ROOT / "augeas-lenses").glob("*.aug")}
    assert {path for path in lenses if "tests/" not in path} == {*own, "dist/libvirt_sanlock.aug"}


def test_configuration_is_the_administrators_and_the_hook_is_not(packages: Path) -> None:
    listed = run("dpkg-deb", "-I", packages / "deb" / f"vlhook_{VERSION}_all.deb", "conffiles").stdout.split()
    assert listed == ["/etc/apparmor.d/abstractions/vlhook", "/etc/libvirt/qemu-vlhook.conf"]


def test_what_the_packages_depend_on(packages: Path) -> None:
    def depends(name: str) -> set[str]:
        ran = run("dpkg-deb", "-f", packages / "deb" / f"{name}_{VERSION}_all.deb", "Depends")
        return set(ran.stdout.strip().split(", "))

    assert {f"python3-vlhook (= {VERSION})", f"vlhook-augeas (= {VERSION})", "python3-augeas"} <= depends("vlhook")
    assert {"libvirt-daemon-system", "libvirt-daemon-driver-qemu"} <= depends("vlhook")
    assert {"python3-click", "python3-lxml"} <= depends("python3-vlhook")


@pytest.fixture
def machine(packages: Path, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "machine", packages)
    try:
        # Nothing of what else runs here, or ran: settings, leases, guests.
        made.run("cd /etc/libvirt && rm -rf hooks qemu/* qemu-sanlock.conf /var/lib/libvirt/sanlock")
        (packages / "qemu.conf").write_text(CONTAINER)
        needs.require_programs("pkill", "pgrep")
        made.run("cp /packages/qemu.conf /etc/libvirt/qemu.conf; rm -f /usr/sbin/policy-rc.d")
        yield made
    finally:
        made.end()


def dpkg(machine: Machine, *words: str, check: bool = True) -> str:
    return machine.run(f"dpkg {' '.join(words)}", check, DEBIAN_FRONTEND="noninteractive").stdout


def install(machine: Machine, folder: str = "deb") -> str:
    return dpkg(machine, "-i", *(f"/packages/{folder}/{name}_{VERSION}_all.deb" for name in OURS))


def status(machine: Machine) -> dict[str, object]:
    ran = machine.run("vlhook status --json", check=False)
    return dict(json.loads(ran.stdout)) if ran.returncode in (0, 1) and ran.stdout.startswith("{") else {}


def guests(machine: Machine) -> list[tuple[str, int]]:
    return [(guest["name"], guest["pid"]) for guest in status(machine).get("guests", [])]  # type: ignore[attr-defined]


def restart_by_hand(machine: Machine) -> None:
    """What an administrator without systemd does after an upgrade; with it the packages do it."""
    machine.run("pkill -KILL -f '/usr/bin/vlhook-guar[d]'; pkill -HUP -f '/usr/bin/vlhook[d]'")
    wait_for("the keeper's end", lambda: not machine.run("pgrep -f '/usr/bin/vlhook[d]'", check=False).stdout)
    for daemon in ("vlhook-guard", "vlhookd"):
        machine.run(f"setsid {daemon} </dev/null >>/var/log/{daemon}.log 2>&1 &")
    wait_for("the new keeper", lambda: status(machine))


def test_install_protect_upgrade_with_a_running_guest_downgrade_and_purge(machine: Machine, packages: Path) -> None:
    said = install(machine)
    assert "no host_id is set" in said
    assert "no systemd here" in said
    hooked = machine.run(f"/usr/bin/python3 -v -IS {HOOK} web1 started begin - 2>&1 </dev/null").stdout
    ours = [line for line in hooked.splitlines() if f"{LIBRARY}/vlhook/" in line and "code object from" in line]
    assert ours
    assert all(".pyc" in line for line in ours), "compiled at every event"
    units = " ".join(unit.name for unit in (ROOT / "packaging/systemd").glob("*.[st][ei][rm]*"))
    verified = machine.run(f"systemd-analyze verify --recursive-errors=no {units}", check=False).stdout.splitlines()
    assert [line for line in verified if not YOUNGER.search(line)] == []

    # The test for autopkgtest, whose first guest keeps running.
    told = machine.says("/packages/guest --leave-running")
    assert "package-test-2 is not started" in told
    [(name, pid)] = wait_for("the guest to run", lambda: [guest for guest in guests(machine) if guest[1]])
    assert name == "package-test-1"
    generation = status(machine)["membership"]["generation"]  # type: ignore[index]
    machine.run("echo '# mine' >>/etc/libvirt/qemu-vlhook.conf")

    for folder, version in (("newer", NEWER), ("deb", VERSION)):
        said = install(machine, folder)
        assert "vlhookd still runs the former version" in said
        assert guests(machine) == [(name, pid)]
        restart_by_hand(machine)
        assert guests(machine) == [(name, pid)], "the new keeper goes on with the leases"
        assert status(machine)["membership"]["generation"] == generation  # type: ignore[index]
        assert machine.says("dpkg-query -W -f '${Version}' vlhook") == version
        assert machine.run("virsh start package-test-2", check=False).returncode != 0
    assert machine.says("tail -n 1 /etc/libvirt/qemu-vlhook.conf") == "# mine\n"

    said = dpkg(machine, "-r", *OURS, check=False)
    assert "guests of this host hold leases: package-test-1" in said
    assert len(re.findall("^ii|^ri", machine.says("dpkg -l python3-vlhook vlhook"), re.MULTILINE)) == 2
    assert guests(machine) == [(name, pid)]

    machine.run("virsh destroy package-test-1")
    wait_for("the leases to be given back", lambda: not guests(machine))
    assert "still runs, and not by systemd" in dpkg(machine, "-r", *OURS, check=False)
    machine.run("pkill -f '/usr/bin/vlhook'")
    wait_for("guard and keeper to end", lambda: not machine.run("pgrep -f '/usr/bin/vlhoo[k]'", check=False).stdout)
    dpkg(machine, "-P", *OURS)
    paths = f"{LIBRARY}/vlhook* /usr/bin/vlhook* /usr/share/augeas/lenses/vlhook* /var/lib/vlhook /run/vlhook"
    left = machine.says(f"ls -d {paths} /etc/libvirt/hooks/qemu.d /etc/libvirt/qemu-vlhook.conf 2>/dev/null; true")
    assert left == ""
    assert "__LIBVIRT__DISKS__" in machine.says("ls /var/lib/libvirt/sanlock"), "the leases are all hosts'"
    # Without the hook libvirt is as it was before.
    machine.run("kill -HUP $(cat /run/libvirtd.pid)")
    machine.run("virsh start package-test-2 && virsh destroy package-test-2")


def test_what_was_erased_and_installed_again_works(machine: Machine) -> None:
    install(machine)
    dpkg(machine, "-r", *OURS)
    assert machine.run(f"test -e {HOOK}", check=False).returncode != 0, "it would refuse every guest"
    install(machine)
    assert machine.says("/packages/guest").endswith("all is well\n")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The RPM packages: built by the real rpmbuild, looked at by rpmlint, installed, upgraded and erased by the real rpm.

The distribution here is Debian, so Fedora's macros come from packaging/rpm/testing, and the packages that ours
depend on are played by one that provides their names.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs

from .building import DOCUMENTS, ROOT, VERSION, build_rpms, documents_of, run
from .machine import Machine

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.xdist_group("packages of RPM")]
LIBRARY = "/usr/lib/python3/dist-packages"
HOOK = "/etc/libvirt/hooks/qemu.d/10-vlhook"
OURS = ("python3-vlhook", "vlhook", "vlhook-augeas", "vlhook-augeas-fallback")
RPM = "rpm --dbpath /var/lib/rpm-of-test"
OTHERS = """\
Name: others
Version: 1
Release: 1
Summary: Names of packages of Fedora
License: none
BuildArch: noarch
Provides: {provides}
%description
%{{summary}}.
%files
"""
PROVIDES = """augeas-libs coreutils libvirt-daemon-driver-qemu=9.0.0 python3-augeas python3-click
    python3-libvirt python3-lxml systemd util-linux /bin/sh /usr/bin/python3"""
SYSTEMCTL = """\
#!/bin/sh
# Tells what it was asked, and that what is in /run/active is active.
echo "systemctl $*" >>/run/asked
for word; do case $word in *.service) unit=$word ;; esac; done
case " $* " in
    *" is-active "*) grep -qx "$unit" /run/active && { echo active; exit 0; }; echo inactive; exit 3 ;;
    *" stop "*) sed -i "/^$unit$/d" /run/active ;;
    *" start "*) echo "$unit" >>/run/active ;;
esac
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rpm/, newer/ (a later release of the same) and others.rpm."""
    needs.require_root()
    base = tmp_path_factory.mktemp("rpm")
    build_rpms(base / "rpm")
    build_rpms(base / "newer", ".shim2")
    (base / "others.spec").write_text(OTHERS.format(provides=", ".join(
        name.replace("=", " = ") for name in PROVIDES.split())))  # fmt: skip
    run("rpmbuild", "--define", f"_topdir {base}/top", "-bb", base / "others.spec")
    next((base / "top").rglob("others*.rpm")).rename(base / "others.rpm")
    (base / "systemctl").write_text(SYSTEMCTL)
    return base


def file(packages: Path, name: str, folder: str = "rpm") -> Path:
    [path] = (packages / folder).glob(f"{name}-{VERSION}-*.noarch.rpm")
    return path


def query(packages: Path, name: str, what: str) -> list[str]:
    return run("rpm", "-qp", what, file(packages, name)).stdout.splitlines()


def contents(packages: Path, name: str) -> dict[str, str]:
    """Path → mode, owner, group and flags."""
    form = "[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILEFLAGS:fflags}\n]"
    lines = run("rpm", "-qp", "--qf", form, file(packages, name)).stdout.splitlines()
    return {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in lines}


# ------------------------------------------------------------------------------------------ what is built


def test_two_builds_are_the_same(packages: Path, tmp_path: Path) -> None:
    for name, path in build_rpms(tmp_path).items():
        assert path.read_bytes() == file(packages, name).read_bytes(), name


def test_rpmlint_finds_nothing_that_was_not_reviewed(packages: Path) -> None:
    [lint] = needs.require_programs("rpmlint")
    folder = ROOT / "packaging/rpm"
    checked = [*(packages / "rpm").iterdir(), folder / "vlhook.spec"]
    ran = run(lint, "-c", folder / "rpmlint.toml", *checked, check=False)
    assert re.search(r" 0 errors, 0 warnings", ran.stdout), ran.stdout


def test_the_main_package_has_these_files_modes_and_owners(packages: Path) -> None:
    found = contents(packages, "vlhook")
    plain, program = "-rw-r--r-- root root", "-rwxr-xr-x root root"
    expected = {
        HOOK: program,
        "/etc/libvirt/qemu-vlhook.conf": f"{plain} cn",
        "/usr/bin/vlhook": program,
        "/usr/bin/vlhook-guard": program,
        "/usr/bin/vlhook-watch": program,
        "/usr/bin/vlhookd": program,
        "/usr/lib/sysusers.d/vlhook.conf": plain,
        "/usr/lib/tmpfiles.d/vlhook.conf": plain,
        "/usr/libexec/vlhook": "drwxr-xr-x root root",
        "/usr/libexec/vlhook/maintain": program,
        "/usr/share/bash-completion/completions/vlhook": plain,
        "/usr/share/fish/vendor_completions.d/vlhook.fish": plain,
        "/usr/share/vlhook": "drwxr-xr-x root root",
        "/usr/share/vlhook/hooks": "drwxr-xr-x root root",
        "/usr/share/vlhook/hooks/qemu": program,
        "/usr/share/zsh/site-functions/_vlhook": plain,
        "/var/lib/vlhook": "drwx------ root root",
    }
    for unit in (ROOT / "packaging/systemd").glob("*.[st][ei][rm]*"):
        expected[f"/usr/lib/systemd/system/{unit.name}"] = plain
    rest = {path: mode for path, mode in found.items() if not path.startswith(("/usr/share/man/", "/usr/share/doc/"))}
    assert rest == expected
    assert documents_of(found) == DOCUMENTS
    pages = {path.rpartition("/")[2] for path in found if path.startswith("/usr/share/man/")}
    assert {"vlhook.8.gz", "vlhookd.8.gz", "vlhook-guard.8.gz", "vlhook-status.8.gz", "qemu-vlhook.conf.5.gz"} <= pages


def test_the_library_has_every_module_and_its_compiled_form(packages: Path) -> None:
    found = set(contents(packages, "python3-vlhook"))
    for module in (ROOT / "vlhook").rglob("*.py"):
        path = Path(LIBRARY) / module.relative_to(ROOT)
        assert str(path) in found
        compiled = path.parent / "__pycache__" / f"{path.stem}.cpython-"
        assert [name for name in found if name.startswith(str(compiled))], compiled


def test_the_lenses_are_split_so_that_nothing_of_libvirt_is_in_the_way(packages: Path) -> None:
    lenses = "/usr/share/augeas/lenses"
    found = set(contents(packages, "vlhook-augeas"))
    assert {path for path in found if "/augeas/" in path and "/tests/" not in path} == {
        f"{lenses}/{path.name}" for path in (ROOT / "augeas-lenses").glob("*.aug")
    }
    fallback = {path for path in contents(packages, "vlhook-augeas-fallback") if "/augeas/" in path}
    assert fallback == {f"{lenses}/dist/libvirt_sanlock.aug"}
    conflicts = query(packages, "vlhook-augeas-fallback", "--conflicts")
    assert conflicts == ["libvirt-daemon-plugin-sanlock", "libvirt-lock-sanlock"]


def test_what_the_packages_depend_on(packages: Path) -> None:
    exactly = f" = {VERSION}-1.shim"
    main = set(query(packages, "vlhook", "--requires"))
    assert {f"python3-vlhook{exactly}", f"vlhook-augeas{exactly}"} <= main
    assert {"libvirt-daemon-driver-qemu", "python3-augeas"} <= main
    assert "(vlhook-augeas-fallback or libvirt-daemon-plugin-sanlock or libvirt-lock-sanlock)" in main
    assert {"python3-click", "python3-lxml"} <= set(query(packages, "python3-vlhook", "--requires"))
    assert query(packages, "vlhook-main-hook", "--conflicts") == ["libvirt-daemon-driver-qemu >= 6.5.0"]


# ------------------------------------------------------------------------------- installed, upgraded, erased


@pytest.fixture
def machine(packages: Path, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "machine", packages)
    try:
        made.run("rm -rf /etc/libvirt/hooks /var/lib/rpm-of-test; mkdir -p /var/lib/rpm-of-test")
        # A systemd that tells what it is asked for; the real one: test_systemd.
        made.run("mkdir -p /run/systemd/system; : >/run/active; : >/run/asked")
        made.run("install -m 755 /packages/systemctl /usr/bin/systemctl; rm -f /usr/local/bin/systemctl")
        yield made
    finally:
        made.end()


def on(folder: str, *names: str) -> str:
    return " ".join(f"/packages/{folder}/{name}-{VERSION}-*.noarch.rpm" for name in names)


def install(machine: Machine) -> str:
    return machine.says(f"{RPM} -i /packages/others.rpm {on('rpm', *OURS)}")


def asked(machine: Machine) -> list[str]:
    """What systemctl was asked for since the last time, apart from questions."""
    lines = machine.says("cat /run/asked; : >/run/asked").splitlines()
    return [line for line in lines if not re.search("is-(active|enabled)", line)]


def guest_with_leases(machine: Machine, name: str = "web1") -> None:
    """The keeper's file of a guest, as it writes it."""
    machine.run("mkdir -p /run/vlhook/guests")
    machine.run(f"""echo '00000000
{{"uuid":"6d1f","guest":"{name}","wants":[{{"name":"x"}}]}}' >/run/vlhook/guests/6d1f.1""")


def test_nothing_is_installed_without_what_it_depends_on(machine: Machine) -> None:
    ran = machine.run(f"{RPM} -i {on('rpm', 'vlhook')}", check=False)
    assert ran.returncode != 0
    for name in ("python3-vlhook", "vlhook-augeas", "libvirt-daemon-driver-qemu", "vlhook-augeas-fallback"):
        assert name in ran.stdout


def test_what_was_installed_runs_and_says_what_is_to_be_done(machine: Machine) -> None:
    machine.run("echo libvirtd.service >/run/active")
    said = install(machine)
    assert "no guest starts on this host until vlhookd runs" in said
    assert "no host_id is set" in said
    calls = asked(machine)
    [preset] = [call for call in calls if "preset" in call]
    assert {"vlhook-guard.service", "vlhookd.service"} <= set(preset.split())
    assert "systemctl reload libvirtd.service" in calls
    assert not [call for call in calls if "start" in call], "an administrator starts the services"
    assert "vlhook:" in machine.says("getent passwd vlhook")
    assert machine.says(f"{RPM} -V {' '.join(OURS)}") == ""

    assert machine.says("vlhook --version") == f"vlhook, version {VERSION}\n"
    where = machine.says("cd / && /usr/bin/python3 -c 'import vlhook; print(vlhook.__file__)'")
    assert where == f"{LIBRARY}/vlhook/__init__.py\n"
    machine.run("augtool -s set /files/etc/libvirt/qemu-sanlock.conf/host_id 1 && vlhookd --check")
    assert machine.says("vlhook config get host_id") == "1\n"
    hook = machine.run(f"{HOOK} web1 prepare begin - </dev/null", check=False)
    assert hook.returncode == 1
    assert "guest web1 is not started: no answer from vlhookd" in hook.stdout
    assert machine.run(f"{HOOK} web1 started begin - </dev/null").stdout == ""


def test_the_hook_starts_quickly_with_compiled_modules(machine: Machine) -> None:
    install(machine)
    assert machine.says(f"head -1 {HOOK}; grep ^exec {HOOK}") == '#!/bin/sh\nexec /usr/bin/python3 -IS "$0" "$@"\n'
    trace = machine.run(f"/usr/bin/python3 -v -IS {HOOK} web1 started begin - 2>&1 </dev/null").stdout
    ours = [line for line in trace.splitlines() if "/vlhook/" in line and "code object from" in line]
    assert ours
    assert [line for line in ours if ".pyc" not in line] == [], "compiled at every event"
    # By the source's time, as Fedora compiles it: a checksum would have the source read at every event.
    compiled = f"{LIBRARY}/vlhook/__pycache__/hook.cpython-*.pyc"
    assert machine.says(f"head -c 8 {compiled} | tail -c 4 | od -An -tu4").strip() == "0"


def test_an_upgrade_and_a_downgrade_restart_the_keeper_in_place(machine: Machine) -> None:
    install(machine)
    machine.run("augtool -s set /files/etc/libvirt/qemu-sanlock.conf/host_id 1")
    machine.run("echo '# mine' >>/etc/libvirt/qemu-vlhook.conf")
    guest_with_leases(machine)
    for folder, option in (("newer", "-U"), ("rpm", "-U --oldpackage")):
        machine.run("printf 'vlhookd.service\\nvlhook-guard.service\\n' >/run/active")
        asked(machine)
        machine.run(f"{RPM} {option} {on(folder, *OURS)}")
        calls = asked(machine)
        assert "systemctl kill --signal=KILL vlhook-guard.service" in calls
        assert "systemctl restart vlhookd.service" in calls
        kinds = {call.split()[1] for call in calls}
        assert not kinds & {"stop", "disable"}, "guests must not be without their keeper"
        assert calls.index("systemctl kill --signal=KILL vlhook-guard.service") < calls.index(
            "systemctl restart vlhookd.service"), "the keeper needs the guard"  # fmt: skip
    assert machine.says("tail -1 /etc/libvirt/qemu-vlhook.conf") == "# mine\n"
    assert machine.says(f"{RPM} -q vlhook") == f"vlhook-{VERSION}-1.shim.noarch\n"


def test_a_keeper_whose_settings_are_wrong_is_left_running_by_an_upgrade(machine: Machine) -> None:
    install(machine)
    machine.run("echo 'host_id = 5000' >/etc/libvirt/qemu-sanlock.conf; echo vlhookd.service >/run/active")
    asked(machine)
    said = machine.says(f"{RPM} -U {on('newer', *OURS)}")
    assert "vlhookd was not restarted" in said
    assert not [call for call in asked(machine) if "restart vlhookd" in call]


def test_what_protects_guests_cannot_be_erased(machine: Machine) -> None:
    install(machine)
    guest_with_leases(machine, "web1")
    machine.run("printf 'vlhookd.service\\nvlhook-guard.service\\n' >/run/active")
    asked(machine)
    ran = machine.run(f"{RPM} -e {' '.join(OURS)}", check=False)
    assert ran.returncode != 0
    assert "guests of this host hold leases: web1" in ran.stdout
    assert asked(machine) == []
    assert machine.says(f"{RPM} -q vlhook python3-vlhook").count("vlhook-0") == 2
    # rpm erases what else it was told to, the lenses; no guest needs them.
    assert machine.says(f"{RPM} -V --nodeps vlhook python3-vlhook") == ""


def test_erased_it_leaves_what_is_not_its_own(machine: Machine) -> None:
    install(machine)
    machine.run("mkdir -p /var/lib/libvirt/sanlock; : >/var/lib/libvirt/sanlock/lease; : >/etc/libvirt/hooks/qemu.d/20")
    machine.run("echo '# mine' >>/etc/libvirt/qemu-vlhook.conf")
    machine.run("printf 'libvirtd.service\\nvlhookd.service\\nvlhook-guard.service\\n' >/run/active")
    asked(machine)
    machine.run(f"{RPM} -e {' '.join(OURS)}")
    calls = asked(machine)
    stopped = [call for call in calls if " stop " in call]
    assert stopped[-2:] == ["systemctl stop vlhookd.service", "systemctl stop vlhook-guard.service"]
    assert calls[-1] == "systemctl reload libvirtd.service"
    machine.run("ls /var/lib/libvirt/sanlock/lease /etc/libvirt/hooks/qemu.d/20 /etc/libvirt/qemu-vlhook.conf.rpmsave")
    assert machine.says("ls /etc/libvirt/hooks/qemu.d") == "20\n"
    left = machine.says(f"ls -d {LIBRARY}/vlhook* /usr/bin/vlhook* /usr/libexec/vlhook 2>/dev/null; true")
    assert left == ""


def test_somebody_elses_main_hook_is_not_replaced(machine: Machine) -> None:
    install(machine)
    machine.run("echo '#!/bin/sh' >/etc/libvirt/hooks/qemu")
    # Here libvirt is 9, which this package must not be beside: only its scripts are tried.
    ran = machine.run(f"{RPM} -i --nodeps {on('rpm', 'vlhook-main-hook')}", check=False)
    assert ran.returncode != 0
    assert "it is left as it is" in ran.stdout
    assert machine.says("cat /etc/libvirt/hooks/qemu") == "#!/bin/sh\n"
    machine.run(f"rm /etc/libvirt/hooks/qemu; {RPM} -i --nodeps {on('rpm', 'vlhook-main-hook')}")
    assert machine.says("cat /etc/libvirt/hooks/qemu") == machine.says(f"cat {HOOK}")


def test_the_fallback_lens_and_libvirts_own_conflict_by_name(machine: Machine, packages: Path) -> None:
    install(machine)
    spec = OTHERS.format(provides="libvirt-daemon-plugin-sanlock").replace("Name: others", "Name: plugin")
    (packages / "plugin.spec").write_text(spec)
    run("rpmbuild", "--define", f"_topdir {packages}/top", "-bb", packages / "plugin.spec")
    ran = machine.run(f"{RPM} -i /packages/top/RPMS/noarch/plugin-1-1.noarch.rpm", check=False)
    assert ran.returncode != 0
    assert re.search(r"libvirt-daemon-plugin-sanlock conflicts with .*vlhook-augeas-fallback", ran.stdout), ran.stdout
    machine.run(f"{RPM} -e --nodeps vlhook-augeas-fallback && {RPM} -i /packages/top/RPMS/noarch/plugin-1-1.noarch.rpm")


def test_the_shim_is_for_tests_only() -> None:
    used = subprocess.run(["grep", "-rl", "rpm/testing", ROOT / "packaging", ROOT / "scripts", ROOT / "docs"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert used.stdout == ""

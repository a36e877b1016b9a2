# SPDX-License-Identifier: LGPL-2.1-or-later
"""SELinux and AppArmor, as far as can be checked without their kernels: what compiles."""

from __future__ import annotations

from pathlib import Path

from tests import needs

from .building import ROOT, run


def test_the_selinux_module_compiles(tmp_path: Path) -> None:
    check, package = needs.require_programs("checkmodule", "semodule_package")
    run(check, "-M", "-m", "-o", tmp_path / "vlhook.mod", ROOT / "packaging/selinux/vlhook.te")
    run(package, "-m", tmp_path / "vlhook.mod", "-o", tmp_path / "vlhook.pp")
    assert (tmp_path / "vlhook.pp").stat().st_size > 500


def test_a_libvirtd_profile_with_the_apparmor_abstraction_compiles(tmp_path: Path) -> None:
    [parser] = needs.require_programs("apparmor_parser")
    profile = tmp_path / "profile"
    profile.write_text(
        f"#include <tunables/global>\nprofile strict /usr/sbin/libvirtd {{\n"
        f'  #include <abstractions/base>\n  #include "{ROOT}/packaging/apparmor/vlhook"\n}}\n'
    )
    run(parser, "--skip-kernel-load", "--skip-cache", "--add", profile)

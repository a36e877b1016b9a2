# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine of its own, kernel and all: QEMU without KVM, Debian's stock kernel, this system's files read-only.

    with Machine(tmp_path, kernel(), modules=["softdog"]) as machine:
        machine.run("python3 -m vlhook.keeper ... &")
        machine.wait_for("ready")

What this machine has no module for is there: a watchdog that resets, NFS. The script's standard output and error,
the kernel's messages too, are the console. The kernel and a busybox are downloaded by apt, once, into a cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests import needs

PATIENCE = 240.0
"""Seconds within which anything must have happened; without KVM all is slow."""
BASE = ("9pnet_virtio", "9p", "virtio_pci", "virtio_blk", "crc32c_generic", "ext4")

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /root
b=/bin/busybox
$b mount -t proc proc /proc
for module in $($b cat /modules/order); do $b insmod /modules/$module || echo "no $module"; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro root /root || exec $b poweroff -f
$b mount -t proc proc /root/proc
$b mount -t sysfs sysfs /root/sys
$b mount -t devtmpfs dev /root/dev
$b mkdir -p /root/dev/shm /root/dev/pts
for at in run tmp mnt var/lib/nfs; do $b mount -t tmpfs tmpfs /root/$at 2>/dev/null; done
$b mount -t tmpfs tmpfs /root/dev/shm
$b ifconfig lo 127.0.0.1 up
$b mkdir /root/run/vm
$b cp /script /busybox /root/run/vm/ 2>/dev/null
$b cp /bin/busybox /root/run/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/tmp
$b chroot /root /bin/sh /run/vm/script
echo "script ended: $?"
exec $b poweroff -f
"""


@dataclass(frozen=True)
class Kernel:
    image: Path
    modules: Path
    busybox: Path


def kernel(cache: Path | None = None) -> Kernel:
    """Debian's kernel and busybox, from the cache or by apt."""
    needs.require_programs("qemu-system-x86_64", "cpio", "apt-get", "dpkg-deb", "mkfs.ext4")
    cache = cache or Path(os.environ.get("VLHOOK_TEST_KERNEL", Path.home() / ".cache/vlhook-tests/kernel"))
    if not list(cache.glob("boot/vmlinuz-*")):
        cache.mkdir(parents=True, exist_ok=True)
        said = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=True)
        (package,) = re.findall(r"Depends: (linux-image-\S+)", said.stdout)
        subprocess.run(["apt-get", "download", package, "busybox-static"], cwd=cache, check=True)
        for file in cache.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", file, cache], check=True)
    (image,) = cache.glob("boot/vmlinuz-*")
    return Kernel(image, cache / "lib/modules" / image.name.partition("-")[2], cache / "bin/busybox")


def _with_what_they_need(found: dict[str, Path], wanted: Sequence[str]) -> list[str]:
    """Modules in the order in which they can be loaded; what is built in has no file."""
    order: list[str] = []

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name not in found:
            return
        told = re.search(rb"(?:^|\0)depends=([^\0]*)\0", found[name].read_bytes())
        for needed in (told[1].decode().split(",") if told else []):
            add(needed)
        order.append(name)

    for name in wanted:
        add(name)
    return order


class Machine:
    """Boots at once and runs `script`, a shell script, as root; powers off when that ends."""

    def __init__(
        self, folder: Path, kernel: Kernel, script: str, modules: Sequence[str] = (), disks: Sequence[Path] = ()
    ) -> None:
        self.console = ""
        self.seen: list[tuple[float, str]] = []
        """When each line came, CLOCK_MONOTONIC seconds of the outer machine."""
        self.over = False
        self._news = threading.Condition()
        initramfs = _initramfs(folder, kernel, script, [*BASE, *modules])
        drives = [f"file={path},if=virtio,format=raw,cache=writethrough" for path in disks]
        self._process = subprocess.Popen(
            [
                "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "1",
                "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
                "-kernel", str(kernel.image), "-initrd", str(initramfs),
                "-append", "console=ttyS0 quiet panic=1 mitigations=off random.trust_cpu=on",
                "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
                "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
                *(word for drive in drives for word in ("-drive", drive)),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout
        for raw in self._process.stdout:
            line = raw.decode("utf-8", "replace").rstrip()
            with self._news:
                self.seen.append((time.monotonic(), line))
                self.console += f"{line}\n"
                self._news.notify_all()
        with self._news:
            self.over = True
            self._news.notify_all()

    def lines(self, pattern: str) -> Iterator[tuple[float, re.Match[str]]]:
        with self._news:
            seen = list(self.seen)
        for at, line in seen:
            match = re.search(pattern, line)
            if match:
                yield at, match

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> tuple[float, re.Match[str]]:
        """The first line like this, and when it came."""
        until = time.monotonic() + seconds
        while True:
            for found in self.lines(pattern):
                return found
            with self._news:
                assert not self.over, f"no {pattern} before the machine's end in:\n{self.console}"
                assert self._news.wait(max(0.0, until - time.monotonic())), f"no {pattern} in:\n{self.console}"

    def wait_end(self, seconds: float = PATIENCE) -> float:
        """When it was reset or powered off."""
        self._process.wait(seconds)
        ended = time.monotonic()
        self._reader.join()
        return ended


def _initramfs(folder: Path, kernel: Kernel, script: str, modules: Sequence[str]) -> Path:
    root = folder / "initramfs"
    (root / "bin").mkdir(parents=True)
    (root / "modules").mkdir()
    (root / "init").write_text(INIT)
    (root / "script").write_text(script)
    shutil.copy(kernel.busybox, root / "bin/busybox")
    for path in (root / "init", root / "bin/busybox"):
        path.chmod(0o755)
    found = {path.stem.replace("-", "_"): path for path in kernel.modules.rglob("*.ko")}
    order = _with_what_they_need(found, modules)
    for name in order:
        shutil.copy(found[name], root / "modules" / f"{name}.ko")
    (root / "modules/order").write_text("".join(f"{name}.ko\n" for name in order))
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    packed = folder / "initramfs.cpio"
    pack = ["cpio", "-o", "-H", "newc", "--quiet"]
    with open(packed, "wb") as target:
        subprocess.run(pack, cwd=root, input=names.encode(), stdout=target, check=True)
    return packed

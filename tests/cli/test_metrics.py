# SPDX-License-Identifier: LGPL-2.1-or-later
"""The metrics of a host, and that rules, dashboard and document speak of metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests import needs
from tests.keeper import hosts as keepers
from vlhook.cli import cli, metrics
from vlhook.keeper.metrics import Histogram

MONITORING = Path(__file__).resolve().parents[2] / "docs/monitoring"
SAMPLE = re.compile(r'([a-z_]+)(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (-?[0-9.e+-]+)')
NAME = re.compile(r"\bvlhook_[a-z_]+")


def exposed(*arguments: object) -> dict[str, list[str]]:
    """The samples by metric, each line checked against the format."""
    result = CliRunner().invoke(cli, ["metrics", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    found: dict[str, list[str]] = {}
    kinds = {}
    for line in result.output.splitlines():
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            if word == "TYPE":
                assert name not in kinds, "told once"
                kinds[name] = rest
                found[name] = []
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        name = re.sub("_(bucket|sum|count)$", "", sample[1])
        found[name].append(line)
    assert set(kinds.values()) <= {"gauge", "counter", "histogram"}
    return found


def test_without_a_keeper_it_is_down_and_nothing_else(tmp_path: Path) -> None:
    assert exposed("--run-dir", tmp_path) == {"vlhook_up": ["vlhook_up 0"]}


@pytest.mark.xdist_group("cleanup")
def test_a_hosts_metrics_count_renewals_starts_and_leases(tmp_path: Path) -> None:
    disk = tmp_path / "web.img"
    disk.write_bytes(b"")
    with keepers.hosts(tmp_path, 1, io_timeout=1) as (one,):
        guest = keepers.Guest("web", [disk])
        assert one.hook("web", "prepare", "begin", "-", xml=guest.xml(1)).returncode == 0
        bad = keepers.Guest("bad", [])
        bad.more = "<on_lockfailure>ignore</on_lockfailure>"
        assert one.hook("bad", "prepare", "begin", "-", xml=bad.xml(2)).returncode == 1
        places = ["--run-dir", one.run_dir]

        def renewed() -> bool:
            return "vlhook_renewal_write_seconds_count 0" not in exposed(*places)["vlhook_renewal_write_seconds"]

        keepers.wait_for("a renewal", renewed)
        found = exposed(*places)
        assert found["vlhook_up"] == ["vlhook_up 1"]
        assert found["vlhook_joined"] == ["vlhook_joined 1"]
        assert found["vlhook_aside"] == ["vlhook_aside 0"]
        assert 'vlhook_acquire_total{result="granted"} 1' in found["vlhook_acquire_total"]
        assert 'vlhook_acquire_total{result="refused"} 1' in found["vlhook_acquire_total"]
        assert found["vlhook_lease_held"]
        assert 'vm="web"' in found["vlhook_lease_held"][0]
        assert found["vlhook_vm_without_lease"] == ["vlhook_vm_without_lease 0"]

        output = tmp_path / "vlhook.prom"
        result = CliRunner().invoke(cli, ["metrics", *map(str, places), "--output", str(output)])
        assert (result.exit_code, result.output) == (0, "")
        assert "vlhook_up 1" in output.read_text()
        assert [path.name for path in tmp_path.glob(".vlhook*")] == []

        known = {name for name in found if name.startswith("vlhook_")}
        used = set()
        for path in [*MONITORING.iterdir(), MONITORING.with_suffix(".md")]:
            used |= {re.sub("_(bucket|sum|count)$", "", name) for name in NAME.findall(path.read_text())}
        assert used - known == set()
        assert known - set(NAME.findall(MONITORING.with_suffix(".md").read_text())) == set(), "all are documented"


def test_a_host_that_leaves_the_leases_to_libvirts_plugin_is_no_cause_for_alarm() -> None:
    other = {"name": "web1", "uuid": "u", "pid": 1, "protector": "sanlock"}
    fencing = {"watchdog": "wdmd", "armed": True, "guard": "ready"}
    status = {
        "membership": {"state": "aside", "why": "…"}, "fencing": fencing, "engine": "native", "version": "1",
        "host_id": 1, "alarms": [], "pending_io": [], "guests": [], "others": [other], "others_unknown": None,
    }  # fmt: skip
    samples = [line for line in (*metrics._host(status), *metrics._leases(status)) if not line.startswith("#")]
    assert {"vlhook_aside 1", "vlhook_joined 0", "vlhook_vm_without_lease 0"} <= set(samples)
    other["protector"] = "nobody"
    assert "vlhook_vm_without_lease 1" in list(metrics._leases(status))
    assert "vlhook_joined == 0 unless vlhook_aside == 1" in (MONITORING / "alerts.yml").read_text()


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["metrics", "--run-dir", str(tmp_path), "--output", str(tmp_path / "no/x.prom")])
    assert result.exit_code == 2
    assert "[VLH-C157]" in result.output


def test_a_histogram_is_cumulative_and_counts_what_is_beyond_its_bounds() -> None:
    histogram = Histogram()
    for seconds in (0.0005, 0.03, 0.03, 100.0):
        histogram.add(seconds)
    data = histogram.as_dict()
    counts = dict(map(tuple, data["buckets"]))
    assert (counts[0.001], counts[0.05], counts[60.0], data["count"]) == (1, 3, 3, 4)
    assert abs(data["sum"] - 100.0605) < 1e-9


def test_each_alert_has_its_heading_in_the_document() -> None:
    alerts = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    headings = re.findall(r"^### (\w+)$", MONITORING.with_suffix(".md").read_text(), re.MULTILINE)
    assert alerts == headings
    assert set(alerts) == set(ALERTS), "each is tried"
    runbooks = re.findall(r"runbook: (\S+)", (MONITORING / "alerts.yml").read_text())
    assert runbooks == [f"docs/monitoring.md#{name.lower()}" for name in alerts]


ALERTS = {
    "VlhookKeeperDown": {"vlhook_up": 0},
    "VlhookMetricsOld": {'node_textfile_mtime_seconds{file="/x/vlhook.prom"}': 0},
    "VlhookNotJoined": {"vlhook_up": 1, "vlhook_joined": 0, "vlhook_aside": 0},
    "VlhookRenewalLate": {"vlhook_renewal_age_seconds": 41, "vlhook_renewal_limit_seconds": 80},
    "VlhookRenewalErrors": {"vlhook_renewal_errors_total": "0+1x90"},
    "VlhookStorageSlow": {"vlhook_io_pending_seconds": 6},
    "VlhookGuardAway": {"vlhook_guard_ready": 0},
    "VlhookNoWatchdog": {'vlhook_mode_info{fencing="guard"}': 1},
    "VlhookHostSilent": {'vlhook_host_dead_in_seconds{host_id="2"}': 30},
    "VlhookHostDead": {'vlhook_hosts{state="dead"}': 1},
    "VlhookGuestWithoutLease": {"vlhook_vm_without_lease": 1},
    "VlhookStartsRefused": {'vlhook_acquire_total{result="refused"}': "0+1x90"},
    "VlhookAlarm": {"vlhook_alarms": 1},
}
"""Alert → the series that make it fire, and no other; a number stays for 90 minutes."""
WELL = {
    "vlhook_up": 1, "vlhook_joined": 1, "vlhook_aside": 0, "vlhook_guard_ready": 1, "vlhook_alarms": 0,
    "vlhook_renewal_age_seconds": 20, "vlhook_renewal_limit_seconds": 80, "vlhook_io_pending_seconds": 0,
    'vlhook_mode_info{fencing="wdmd"}': 1, "vlhook_vm_without_lease": 0, 'vlhook_hosts{state="dead"}': 0,
    "vlhook_renewal_errors_total": 0, 'vlhook_acquire_total{result="refused"}': 2,
    'node_textfile_mtime_seconds{file="/x/vlhook.prom"}': "0+60x90",
}  # fmt: skip


@pytest.mark.parametrize("alert", [None, *ALERTS])
def test_each_alert_fires_for_what_it_is_for_and_none_when_all_is_well(alert: str | None, tmp_path: Path) -> None:
    [promtool] = needs.require_programs("promtool")
    wrong = ALERTS[alert] if alert else {}
    values = {
        **{name: value for name, value in WELL.items() if alert != "VlhookNoWatchdog" or "mode" not in name},
        **wrong,
    }
    series = [
        {"series": name, "values": value if isinstance(value, str) else f"{value}x90"} for name, value in values.items()
    ]
    firing = [f"count(ALERTS{{alertname='{name}',alertstate='firing'}})" for name in ALERTS]
    expected = [
        {"expr": expr, "eval_time": "80m", "exp_samples": [{"labels": "{}", "value": 1}] if name == alert else []}
        for name, expr in zip(ALERTS, firing)
    ]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": expected}
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [str(MONITORING / "alerts.yml")], "tests": [test]}))
    ran = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "no two panels overlap"
    assert all(target["expr"] for panel in panels for target in panel["targets"])

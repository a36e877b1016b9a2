# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real Prometheus that scrapes the hosts of the network, with our alert rules; and what our dashboard shows of it.

Every query of docs/monitoring/dashboard.json is put to it, and the panels are drawn in their places, with their
titles, units and legends. It is no Grafana: only what a panel asks for is shown, not how Grafana looks.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.guests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "docs/monitoring"
SCRAPE = 2
CONFIG = """\
global: {{scrape_interval: {every}s, evaluation_interval: {every}s}}
rule_files: [{rules}]
scrape_configs:
"""
JOB = """\
  - job_name: {name}
    metrics_path: /{name}
    static_configs: [{{targets: ['127.0.0.1:{port}'], labels: {{instance: {name}}}}}]
"""
COLOURS = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0")
WIDE, HIGH, GAP = 40, 34, 8


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class Monitoring:
    """`texts`: host name → what gives its metrics now, None if the host is down."""

    def __init__(self, base: Path, texts: Mapping[str, Callable[[], str | None]]) -> None:
        self._begun = time.time()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(texts))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        port = self._server.server_port
        config = base / "prometheus.yml"
        rules = MONITORING / "alerts.yml"
        config.write_text(
            CONFIG.format(every=SCRAPE, rules=rules) + "".join(JOB.format(name=name, port=port) for name in texts)
        )
        self._address = f"127.0.0.1:{free_port()}"
        with open(base / "prometheus.log", "wb") as log:
            self._process = subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={base / 'tsdb'}",
                 f"--web.listen-address={self._address}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for("Prometheus", self._ready)

    @staticmethod
    def _handler(texts: Mapping[str, Callable[[], str | None]]) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = texts[self.path.strip("/")]()
                self.send_response(200 if text is not None else 503)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                # node_exporter adds this of each file that its textfile collector reads.
                stamp = f'node_textfile_mtime_seconds{{file="/x/vlhook.prom"}} {time.time()}\n'
                self.wfile.write(((text or "") + stamp).encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def _ready(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=2).status == 200)
        except OSError:
            return False

    def ask(self, path: str, **words: object) -> Any:
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        answer = json.loads(urllib.request.urlopen(url, timeout=20).read())
        assert answer["status"] == "success", answer
        return answer["data"]

    def fired(self) -> list[str]:
        """Every alert that fired until now, and on which host."""
        found = {
            (labels["alertname"], labels.get("instance", ""))
            for labels, _ in self.series('ALERTS{alertstate="firing"}')
        }
        return sorted(f"{alert} {instance}".strip() for alert, instance in found)

    def series(self, expr: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        found = self.ask("query_range", query=expr, start=self._begun, end=time.time(), step=SCRAPE)["result"]
        return [(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in found]

    def draw(self, path: Path) -> list[str]:
        """The dashboard as it is now; returns the titles of panels that show nothing."""
        panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
        height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * HIGH + GAP
        out = [
            "<!-- SPDX-License-Identifier: LGPL-2.1-or-later -->",
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{24 * WIDE + GAP}" height="{height}" '
            f'viewBox="0 0 {24 * WIDE + GAP} {height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" '
            'font-size="11" fill="#d8d9da">',
            f'<rect width="{24 * WIDE + GAP}" height="{height}" fill="#111217"/>',
        ]
        empty, end = [], time.time()
        for panel in panels:
            shown = [
                (_legend(target.get("legendFormat", ""), labels), points)
                for target in panel["targets"]
                for labels, points in self.series(target["expr"])
            ]
            if not shown:
                empty.append(panel["title"])
            out += _panel(panel, shown, self._begun, end)
        path.write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")
        return empty

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._server.shutdown()
        self._server.server_close()


Shown = list[tuple[str, list[tuple[float, float]]]]


def _legend(template: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def _panel(panel: dict[str, Any], shown: Shown, begun: float, end: float) -> Iterator[str]:
    place, unit = panel["gridPos"], panel["fieldConfig"]["defaults"].get("unit", "")
    x, y = place["x"] * WIDE + GAP, place["y"] * HIGH + GAP
    w, h = place["w"] * WIDE - GAP, place["h"] * HIGH - GAP
    yield f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="#181b1f" stroke="#2c3235"/>'
    yield f'<text x="{x + 8}" y="{y + 18}" font-weight="bold">{escape(panel["title"])}</text>'
    if panel["type"] == "stat":
        step = w / max(1, len(shown))
        for i, (name, points) in enumerate(shown):
            colour = _threshold(panel, name, points[-1][1])
            middle = x + step * (i + 0.5)
            big = f'x="{middle:.0f}" y="{y + 75}" font-size="30" text-anchor="middle" fill="{colour}"'
            yield f"<text {big}>{_value(points[-1][1], unit)}</text>"
            if len(shown) > 1:
                yield f'<text x="{middle:.0f}" y="{y + 98}" text-anchor="middle">{escape(name)}</text>'
        return
    left, top, right, bottom = x + 52, y + 30, x + w - 10, y + h - 34
    top_value = max([value for _, points in shown for _, value in points if value == value], default=0) or 1
    for part in (0, 0.5, 1):
        at = bottom - part * (bottom - top)
        yield f'<path d="M{left},{at:.0f} H{right}" stroke="#2c3235"/>'
        yield f'<text x="{left - 6}" y="{at + 4:.0f}" text-anchor="end">{_value(part * top_value, unit)}</text>'
    for i, (name, points) in enumerate(shown):
        colour = COLOURS[i % len(COLOURS)]
        line, last = "", 0.0
        for moment, value in points:
            if value != value:
                continue
            px = left + (moment - begun) / (end - begun) * (right - left)
            py = bottom - value / top_value * (bottom - top)
            line += f"{'M' if not line or moment - last > 3 * SCRAPE else 'L'}{px:.1f},{py:.1f} "
            last = moment
        if line:
            yield f'<path d="{line.strip()}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        lx = left + i * (right - left) / max(3, len(shown))
        yield f'<rect x="{lx:.0f}" y="{y + h - 20}" width="10" height="3" fill="{colour}"/>'
        yield f'<text x="{lx + 14:.0f}" y="{y + h - 14}" font-size="10">{escape(name)}</text>'
    if not shown:
        yield f'<text x="{(left + right) / 2:.0f}" y="{(top + bottom) / 2:.0f}" text-anchor="middle">No data</text>'


def _threshold(panel: dict[str, Any], name: str, value: float) -> str:
    config = panel["fieldConfig"]
    steps = config["defaults"].get("thresholds", {}).get("steps", [])
    for override in config["overrides"]:
        if override["matcher"]["options"] == name:
            steps = override["properties"][0]["value"]["steps"]
    names = {"green": COLOURS[0], "red": COLOURS[4], "yellow": COLOURS[1], "orange": COLOURS[3]}
    reached = [names[step["color"]] for step in steps if step["value"] is None or value >= step["value"]]
    return reached[-1] if reached else COLOURS[0]


def _value(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.3g}"

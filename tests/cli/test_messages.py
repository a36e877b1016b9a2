# SPDX-License-Identifier: LGPL-2.1-or-later
"""One catalogue: every message has a code of its own, a cause and a next step, and can be found by its words."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vlhook.catalogue import CATALOGUE
from vlhook.cli import cli
from vlhook.cli.messages import classes, document, in_text, messages, of_code

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r'"(VLH-[A-Z][0-9]{3}[A-Z]?)"')


def explain(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, ["explain", *words], input=stdin)


def test_no_two_messages_share_a_code() -> None:
    counted = Counter(one.code for one in classes() if one.__module__.startswith("vlhook."))
    assert [code for code, count in counted.items() if count > 1] == []


def test_every_code_of_the_source_is_in_the_catalogue() -> None:
    used = set()
    for path in (ROOT / "vlhook").rglob("*.py"):
        if "catalogue" not in path.parts:
            used |= set(CODE.findall(path.read_text("utf-8")))
    used |= {one.code for one in classes()}
    assert used - set(CATALOGUE) == set()


def test_every_message_has_a_cause_and_a_next_step_in_whole_sentences() -> None:
    for message in messages():
        for part in (message.cause, message.step):
            assert len(part) > 6, message
            assert part.endswith((".", "'")), message


def test_every_message_without_a_text_of_its_own_is_raised_somewhere() -> None:
    raised = {one.code for one in classes()}
    planned = {code for code, entry in CATALOGUE.items() if not entry.text} - raised
    assert planned == set()


def test_the_document_is_made_from_the_catalogue() -> None:
    assert (ROOT / "docs/messages.md").read_text("utf-8") == document()


def test_texts_that_no_class_has_stand_in_the_source() -> None:
    """The entries with a text of their own follow the source: each is found somewhere."""
    source = " ".join(path.read_text("utf-8") for path in (ROOT / "vlhook").rglob("*.py") if path.name != "refusals.py")
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    for code, entry in CATALOGUE.items():
        for part in re.split(r"\{[^{}]*\}", entry.text):
            assert part.strip() in source, (code, part)


LINES = {
    "VLH-R001": "error: internal error: vlhook: guest web1 is not started: disk /srv/web1.img is in use by guest web1 "
    "(UUID 6d1f2c9e-1b0a-4a53-9a6e-0d2a4c1c7f10) on host 3 (kvm3) since 10:02:11, exclusively, which is alive; stop "
    "the guest there first [lease file /leases/0]",
    "VLH-R002": "vlhook: guest g is not started: disk /d is in use by host 1 (a) which is silent for 40 s; if that "
    "host is dead the disk is free at 10:11:12 at the latest, try again then [lease file /l]",
    "VLH-R004": "vlhook: guest g is not started: no answer from vlhookd (Connection refused)",
    "VLH-K201": "vlhookd: no host_id is set in /etc/libvirt/qemu-sanlock.conf; give this host an id of its own",
    "VLH-L229": "/leases/x: checksum of the leader is wrong: stored 0x1, computed 0x2; nothing was changed",
    "VLH-A001": "ALARM     the storage of /leases has confirmed no renewal for 41 s of 80 (usual answer 2 ms)",
}


@pytest.mark.parametrize("code", LINES)
def test_a_message_is_found_by_its_words(code: str) -> None:
    assert in_text(LINES[code])[0].code == code
    result = explain(LINES[code])
    assert result.exit_code == 0
    assert code in result.output
    assert "What to do:" in result.output
    assert explain("-", stdin=LINES[code] + "\n").output == result.output


def test_a_message_of_libvirt_with_ours_in_it_is_explained_by_ours_alone() -> None:
    theirs = "error: Hook script execution failed: internal error: Child process (…) unexpected exit status 1: "
    line = theirs + LINES["VLH-R001"]
    assert [message.code for message in in_text(line)] == ["VLH-R001"]


def test_a_code_is_explained_in_any_case_and_as_json() -> None:
    assert explain("vlh-l262").output == explain("VLH-L262").output
    report = json.loads(explain("VLH-L262", "--json").output)
    assert report["schema"] == 1
    assert report["messages"][0]["step"]


@pytest.mark.parametrize("word", ["VLH-L243S", "-243"])
def test_sanlocks_numbers_are_explained(word: str) -> None:
    result = explain("--", word)
    assert result.exit_code == 0
    assert "a live host holds the lease" in result.output


def test_every_code_can_be_asked_for() -> None:
    assert all(of_code(code) for code in CATALOGUE)
    listed = explain("--all").output
    assert all(code in listed for code in CATALOGUE)


def test_what_is_no_message_is_refused_in_one_line() -> None:
    result = explain("the weather is fine")
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "[VLH-C143]" in result.output


def test_a_commands_error_shows_its_code(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["status", "--run-dir", str(tmp_path)])
    assert "[VLH-C101]" in result.output

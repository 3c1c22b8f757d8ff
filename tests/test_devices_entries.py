"""``devices.yaml``: where it is looked for, what it may say, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import api, display
from edgekit.devices import entries
from edgekit.devices.facts import facts_of, fingerprint
from edgekit.devices.registry import attached, find_entry, open_device
from edgekit.devices.transport import TRANSPORTS, get_transport
from edgekit.errors import DeviceUnavailable, InputError


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder and an empty home."""
    (tmp_path / "project").mkdir()
    (tmp_path / "config" / "edgekit").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGEKIT_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("EDGEKIT_DEVICES", raising=False)
    return tmp_path


def test_project_hides_user(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert entries.load(TRANSPORTS) == {}
    user = places / "config" / "edgekit" / "devices.yaml"
    user.write_text("devices:\n  a: {transport: ssh, host: u}\n  b: {transport: ssh, host: v}\n")
    Path("devices.yaml").write_text("devices:\n  a: {transport: ssh, host: p}\n")
    found = entries.load(TRANSPORTS)
    assert {n: e.settings["host"] for n, e in found.items()} == {"a": "p", "b": "v"}
    assert find_entry("b") is not None and find_entry("c") is None
    monkeypatch.setenv("EDGEKIT_DEVICES", str(user))
    assert entries.load(TRANSPORTS)["a"].settings["host"] == "u"
    Path("devices.yaml").write_text("")
    monkeypatch.delenv("EDGEKIT_DEVICES")
    assert set(entries.load(TRANSPORTS)) == {"a", "b"}


@pytest.mark.parametrize(
    "text, why",
    [
        ("[1]", "must hold 'devices:'"),
        ("boards: {}", "must hold 'devices:'"),
        ("devices: [x]", "must hold 'devices:'"),
        ("devices: {a: [b}", "is not YAML"),
        ("devices: {a: 3}", "must be a mapping"),
        ("devices: {a: {transport: pigeon}}", "transport 'pigeon' is not known; there are"),
        ("devices: {host: {transport: ssh}}", "is not a device name"),
        ("devices: {'a:b': {transport: ssh}}", "is not a device name"),
        ("devices: {'a;rm -rf ~': {transport: ssh}}", "is not a device name"),
        ("devices: {1: {transport: ssh}}", "is not a device name"),
        ("devices: {a: {transport: ssh, lock_wait_s: -1}}", "field 'lock_wait_s' is '-1'"),
        ("devices: {a: {transport: ssh, meter: 'x \"'}}", "balanced quotes"),
        ("devices: !!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_files_that_are_refused(text: str, why: str) -> None:
    Path("devices.yaml").write_text(text)
    with pytest.raises(InputError, match=r"devices\.yaml") as refused:
        entries.load(TRANSPORTS)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "fields, why",
    [
        ("", "lacks the field 'host'"),
        ("host: -oProxyCommand=id", "field 'host'"),
        ('host: "a b"', "field 'host'"),
        ('host: "a\\nb"', "field 'host'"),
        ("host: x, port: 0", "whole number from 1 to 65535"),
        ("host: x, port: true", "whole number"),
        ("host: x, user: -l", "field 'user'"),
        ("host: x, hots: y", "has no field 'hots'"),
        ("host: x, folder: tmp", "an absolute path"),
        ("host: x, folder: '/a b'", "an absolute path"),
        ("host: x, wrapper: {a: b}", "a command"),
        ("host: x, env: {A-B: c}", "a mapping of names"),
        ("host: x, kind: estimated", "measured or simulated"),
        ("host: x, wrapper: qemu-aarch64 -cpu max, kind: measured", "under an emulator"),
    ],
)
def test_ssh_entries_that_are_refused(fields: str, why: str) -> None:
    Path("devices.yaml").write_text(f"devices: {{pi: {{transport: ssh, {fields}}}}}")
    with pytest.raises(InputError, match="'pi'") as refused:
        open_device("pi")
    assert why in str(refused.value)
    ((_entry, probe),) = [
        (e, p) for e, p in attached() if e.name == "pi"
    ]  # and listed all the same
    assert probe is not None and probe.state == "unusable" and why in str(probe.why)


def test_addresses_need_no_file() -> None:
    entry = find_entry("ssh:me@board")
    assert entry is not None and entry.settings["host"] == "me@board"
    get_transport("ssh").check(entry)
    with pytest.raises(InputError, match="field 'host'"):
        open_device("ssh:-oProxyCommand=id")
    with pytest.raises(InputError, match="there are host"):
        open_device("pi")


def test_two_names_of_one_board_have_one_lock(tmp_path: Path) -> None:
    config = tmp_path / "c"
    config.write_text("Host big small\n  HostName 10.0.0.9\n  Port 2222\n")
    keys = set()
    for host in ("big", "small", "10.0.0.9"):
        settings = {"host": host, "config": str(config)}
        if host[0] == "1":
            settings["port"] = 2222  # type: ignore[assignment]
        keys.add(get_transport("ssh").lock_key(entries.DeviceEntry("x", "ssh", settings)))
    assert keys == {"ssh:10.0.0.9:2222"}


def test_facts_come_whole_or_not_at_all() -> None:
    whole = b"machine=aarch64\nsystem=Linux 6.1\ncores=4\ncpu=Odd \x1b[31mname\nid=SECRET\n"
    whole += b"edgekit-facts=end\n"
    facts = facts_of(whole)
    assert facts["machine"] == "aarch64" and facts["cores"] == 4
    assert "\x1b" not in facts["cpu"] and "SECRET" not in str(facts)
    assert fingerprint(facts) == fingerprint(facts_of(whole)) and len(fingerprint(facts)) == 16
    assert fingerprint(facts) != fingerprint(facts_of(whole.replace(b"SECRET", b"OTHER")))
    for cut in range(len(whole)):
        with pytest.raises(DeviceUnavailable, match="did not say what it is"):
            facts_of(whole[:cut])
    for cores in (b"x", b"-1", b"1e9", "²".encode(), b"9" * 5000):
        assert "cores" not in facts_of(whole.replace(b"cores=4", b"cores=" + cores))


def test_the_list_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """``edgekit devices``: every device has a state, and what cannot be used says why."""
    Path("devices.yaml").write_text(
        "devices:\n  gone: {transport: ssh, host: 127.0.0.1, port: 1, config: /dev/null}\n"
        "  wrong: {transport: ssh}\n"
    )
    document = api.devices()
    assert {"ssh", "adb", "local"} <= {t["name"] for t in document["transports"]}
    by_name = {d["name"]: d for d in document["devices"]}
    for d in by_name.values():
        assert {"name", "transport", "usable", "state", "why_not", "fingerprint"} <= set(d)
        assert (d["state"] == "ready") == d["usable"] == (d["why_not"] is None)
    assert len(by_name["host"]["fingerprint"]) == 16
    assert (
        by_name["wrong"]["state"] == "unusable" and "lacks the field" in by_name["wrong"]["why_not"]
    )
    assert by_name["gone"]["state"] == "unreachable" and by_name["gone"]["fingerprint"] is None
    display.devices(document)
    assert "unreachable" in capsys.readouterr().out

"""A whole audit in a closed room: no process of it looks for another machine, and no secret that it was given is left in it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows.conftest import CONFIG, DEMO, Digits, write_idx

ROOT = Path(__file__).parents[2]

WATCHER = """
import json, os, sys

HERE = ("localhost", "127.0.0.1", "::1")

def note(*facts):
    with open(os.environ["HEARD"], "a") as file:
        file.write(json.dumps([*facts, " ".join(sys.orig_argv)]) + "\\n")

def hear(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.gethostbyname":
        host = arguments[0]
    elif event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):  # a Unix socket
            return
        host = address[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    is_here = host is None or host in HERE or host.startswith("127.")
    note(event, host, is_here)
    if not is_here:
        raise OSError(f"{event} {host}: the network is closed")

sys.addaudithook(hear)
note("begin", "", True)
"""
"""Runs first in every Python process of the audit: hears and refuses what would leave the machine, or let others in."""

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAclearauditaccess",
    "AWS_SECRET_ACCESS_KEY": "secretclearauditkeyxyzzy",
    "AWS_SESSION_TOKEN": "tokenclearauditxyzzy",
    "FSSPEC_S3_SECRET": "fsspecclearauditxyzzy",
    "PREFECT_API_KEY": "prefectclearauditxyzzy",
}

WEBHOOK = "webhookclearauditxyzzy"
"""Of the config, which is told only of what did not end well."""


@dataclass(frozen=True)
class Audit:
    """folder: the store, Prefect's home and all else that the audit wrote. heard: what it asked of the network."""

    folder: Path
    done: subprocess.CompletedProcess[str]
    heard: list[tuple[str, str, bool, str]]


def closed_room() -> list[str]:
    """What runs a command in a network of its own, with nothing but loopback, where the system allows that."""
    room = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if shutil.which("unshare") and shutil.which("ip"):
        tried = subprocess.run([*room, "true"], capture_output=True, check=False)
        return room if tried.returncode == 0 else []
    return []


@pytest.fixture(scope="module")
def closed(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("closed")
    write_idx(folder / "data", Digits(digits.pixels[:16], digits.labels[:16]))
    gate = '\n[[gates]]\nname = "mine"\nsql = "SELECT count(*) FROM samples"\nmin = 1\n'
    config = CONFIG.replace("workers = 2", "workers = 1").format(weights=(DEMO / "allcnn.safetensors").as_posix())
    notify = f'\n[notify]\nwebhook = "https://hooks.example.org/{WEBHOOK}"\n'
    (folder / "data" / "audit.toml").write_text(config + notify + gate)
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(WATCHER)
    heard = folder / "heard"
    environment = (
        os.environ
        | SECRETS
        | {
            "PYTHONPATH": os.pathsep.join((str(folder / "hook"), str(ROOT))),
            "PREFECT_HOME": str(folder / "prefect"),
            "HOME": str(folder / "home"),
            "HEARD": str(heard),
        }
    )
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "run",
        str(folder / "data" / "audit.toml"),
        "--store",
        str(folder / "audits"),
    ]
    done = subprocess.run(
        [*closed_room(), *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    (folder / "output").write_text(done.stdout + done.stderr)
    return Audit(folder, done, [json.loads(line) for line in heard.read_text().splitlines()])


def test_an_audit_asks_nothing_of_another_machine_and_listens_to_none(closed: Audit) -> None:
    assert closed.done.returncode == 0, closed.done.stderr
    assert [event for event in closed.heard if not event[2]] == []
    assert {event[0] for event in closed.heard} >= {"begin", "socket.connect", "socket.bind"}, "the hook hears"
    heard_in = " ".join({command for *_, command in closed.heard})
    for program in ("flows.cli", "flows.orchestration.server", "multiprocessing", "storage.sql.sandboxed_query"):
        assert program in heard_in, f"the hook is not in {program}"


def test_the_hook_hears_and_refuses_what_leaves(closed: Audit, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(closed.folder / "hook"), "HEARD": str(tmp_path / "heard")}
    for script in ("socket.create_connection(('192.0.2.1', 80))", "socket.socket().bind(('0.0.0.0', 0))"):
        command = [sys.executable, "-c", f"import socket; {script}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert "the network is closed" in done.stderr
    heard = [json.loads(line) for line in (tmp_path / "heard").read_text().splitlines()]
    assert [(event, host) for event, host, is_here, _ in heard if not is_here] == [
        ("socket.getaddrinfo", "192.0.2.1"),
        ("socket.bind", "0.0.0.0"),
    ]


def test_the_network_was_closed(closed: Audit) -> None:
    if not closed_room():
        pytest.skip("no network of one's own here (unshare --net): only Python's own calls were refused")
    script = "import socket; socket.create_connection(('192.0.2.1', 80), 2)"
    command = [*closed_room(), sys.executable, "-c", script]
    assert "Network is unreachable" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_no_secret_is_left_anywhere(closed: Audit) -> None:
    files = [path for path in closed.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files), "Prefect's database is among them"
    assert any(path.name == "manifest.json" for path in files)
    for path in files:
        if path.name == "audit.toml":
            continue
        content = path.read_bytes()
        for name, secret in {**SECRETS, "notify.webhook": WEBHOOK}.items():
            assert secret.encode() not in content, f"{name} in {path}"

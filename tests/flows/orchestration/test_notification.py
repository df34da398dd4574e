"""What a webhook is told of an audit, and what becomes of it where it is not reached: a real server at the other end."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import flows.orchestration.launch
import flows.orchestration.notification
from flows.config import AuditConfig, load_config
from flows.orchestration.audit import AuditOutcome
from flows.orchestration.launch import run_audit
from flows.orchestration.notification import News, notify
from flows.runtime.progress import Progress
from reports.gates.gate import Gate
from reports.gates.judgement import GateOutcome, Judgement
from storage.errors import InputError
from storage.runs.lookup import published_runs
from storage.runs.run import Run
from tests.flows.conftest import clear_audit

SECRET = "T0K3N"


@dataclass
class Webhook:
    """A server at 127.0.0.1 that answers as it is told. answers: status codes, the last one for ever."""

    answers: list[int] = field(default_factory=lambda: [200])
    posted: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    seconds: float = 0
    url: str = ""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    told = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.paths.append(self.path)
            told.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            time.sleep(told.seconds)
            self.send_response(told.answers.pop(0) if len(told.answers) > 1 else told.answers[0])
            self.send_header("Location", "/elsewhere")
            self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        told.url = f"http://user:{SECRET}@127.0.0.1:{server.server_port}/hooks/{SECRET}?key={SECRET}"
        yield told
        server.shutdown()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.orchestration.notification, "REQUEST_SECS", 0.2)
    monkeypatch.setattr(flows.orchestration.notification, "PAUSES", (0, 0.01, 0.02, 0.03))


@pytest.fixture
def config(digits_config: Path, webhook: Webhook) -> AuditConfig:
    return load_config(digits_config, [f"notify.webhook={webhook.url}"], {})


def judged(severity: str = "error") -> list[Judgement]:
    outcome = GateOutcome.failed if severity == "error" else GateOutcome.warned
    return [
        Judgement(Gate("accuracy", min=0.9, severity=severity), outcome, "0.5 is below the least allowed, 0.9", 0.5),
        Judgement(Gate("agreement", min=0.1), GateOutcome.passed, "0.7 is within the limits", 0.7, 0.6),
    ]


def outcome_of(run: Run, judgements: list[Judgement], failed: int = 0) -> AuditOutcome:
    counts = {"expected": 300, "processed": 300 - failed, "failed": failed}
    return AuditOutcome(run=run, judgements=judgements, resumed=False, quarantined=0, startup_secs=1, compute_secs=2, **counts)


def audited(monkeypatch: pytest.MonkeyPatch, ends: AuditOutcome | BaseException, run: Run | None = None) -> None:
    """Audits end so from here on; run: what was planned before."""

    def start(config: AuditConfig, store: Path, progress: Progress, resumed: str | None, rechoose: bool) -> AuditOutcome:
        progress.run = run
        if isinstance(ends, BaseException):
            raise ends
        return ends

    monkeypatch.setattr(flows.orchestration.launch, "start_audit", start)


def test_a_failed_gate_is_told_with_all_outcomes(
    config: AuditConfig, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, "20261121T030000Z-digits-4f2a")
    audited(monkeypatch, outcome_of(run, judged()))
    run_audit(config, tmp_path, Progress())
    assert capfd.readouterr().err == ""
    assert webhook.posted == [
        {
            "schema": "clear-audit/notification/1",
            "event": "gate",
            "audit": "digits",
            "store": str(tmp_path),
            "run_id": run.run_id,
            "verdict": "failed",
            "error": None,
            "expected_count": 300,
            "processed_count": 300,
            "failed_count": 0,
            "gates": [
                {
                    "name": "accuracy",
                    "severity": "error",
                    "outcome": "failed",
                    "value": 0.5,
                    "reference_value": None,
                    "message": "0.5 is below the least allowed, 0.9",
                },
                {
                    "name": "agreement",
                    "severity": "error",
                    "outcome": "passed",
                    "value": 0.7,
                    "reference_value": 0.6,
                    "message": "0.7 is within the limits",
                },
            ],
            "report": str(run.report),
        }
    ]
    assert webhook.paths == [f"/hooks/{SECRET}?key={SECRET}"]


def test_an_audit_that_passes_or_warns_is_not_told(
    config: AuditConfig, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for judgements in ([], judged("warn")):
        audited(monkeypatch, outcome_of(Run(tmp_path, "r"), judgements))
        run_audit(config, tmp_path, Progress())
    assert webhook.posted == []


def test_too_many_failed_samples_are_a_failure(
    config: AuditConfig, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited(monkeypatch, outcome_of(Run(tmp_path, "r"), judged(), failed=4))
    run_audit(config, tmp_path, Progress())
    (told,) = webhook.posted
    assert (told["event"], told["verdict"], told["failed_count"]) == ("failure", "failed", 4)
    assert told["error"].startswith("4 of 300 samples failed, more than limits.failed_frac_max = 0.01 allows")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("dataset 'x' is gone: mount it"), "dataset 'x' is gone: mount it"),
        (OSError("disk full"), "OSError: disk full"),
    ],
)
def test_an_audit_that_ends_early_is_told_with_its_error_and_raises_it(
    config: AuditConfig, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    audited(monkeypatch, error, Run(tmp_path, "r"))
    with pytest.raises(type(error)):
        run_audit(config, tmp_path, Progress())
    (told,) = webhook.posted
    assert (told["event"], told["error"], told["run_id"]) == ("failure", said, "r")
    assert [told[key] for key in ("verdict", "report", "processed_count", "gates")] == [None, None, None, []]


def test_an_interrupted_audit_is_not_told(
    config: AuditConfig, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_ending = OSError("closed")
    while_ending.__context__ = KeyboardInterrupt()
    for error in (KeyboardInterrupt(), while_ending):
        audited(monkeypatch, error)
        with pytest.raises(type(error)):
            run_audit(config, tmp_path, Progress())
    assert webhook.posted == []


@pytest.mark.parametrize(("wanted", "told"), [('["gate"]', ["gate"]), ('["failure"]', ["failure"]), ("[]", [])])
def test_only_what_is_wanted_is_told(config: AuditConfig, webhook: Webhook, tmp_path: Path, wanted: str, told: list[str]) -> None:
    chosen = config.model_copy(update={"notify": config.notify.model_copy(update={"on": tuple(json.loads(wanted))})})
    for event in ("gate", "failure"):
        assert notify(chosen, tmp_path, News(event)) is None
    assert [posted["event"] for posted in webhook.posted] == told


@pytest.mark.parametrize(
    ("answers", "attempts", "problem"),
    [
        ([204], 1, None),
        ([500, 500, 200], 3, None),
        ([429, 202], 2, None),
        ([503], 4, "it answered 503"),
        ([404], 1, "it answered 404"),
        ([302], 1, "it answered 302"),
        ([307], 1, "it answered 307"),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_is_followed(
    config: AuditConfig, webhook: Webhook, tmp_path: Path, answers: list[int], attempts: int, problem: str | None
) -> None:
    webhook.answers = answers
    said = notify(config, tmp_path, News("gate"))
    assert len(webhook.posted) == attempts
    assert len(set(webhook.paths)) == 1
    assert (said is None) == (problem is None)
    assert problem is None or problem in (said or "")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("slow", "ReadTimeout"),
        ("refused", "NewConnectionError"),
        ("trickle", "it did not answer within"),
        ("answers 500", "500"),
    ],
)
def test_a_webhook_that_is_not_reached_is_a_warning_without_its_url(
    webhook: Webhook,
    config: AuditConfig,
    digits_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    case: str,
    reason: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    webhook.answers = [500]
    if case == "slow":
        webhook.seconds = 1
    elif case == "refused":
        config = load_config(digits_config, [f"notify.webhook=http://127.0.0.1:{closed_port()}/{SECRET}"], {})
    elif case == "trickle":
        monkeypatch.setattr(flows.orchestration.notification, "TOTAL_SECS", 0.05)
        webhook.seconds = 1
    expected = outcome_of(Run(tmp_path, "r"), judged())
    audited(monkeypatch, expected)
    assert run_audit(config, tmp_path, Progress()) is expected
    said = capfd.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("clear-audit: the webhook of section [notify] was not told")
    assert reason in said.err
    assert SECRET not in said.err + said.out + caplog.text


@pytest.mark.parametrize("url", ["ftp://host/T0K3N", "file:///T0K3N", "T0K3N", "https:///T0K3N", "https://host:T0K3N/"])
def test_what_is_no_webhook_is_refused_without_being_shown(digits_config: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"'notify\.webhook' is not a URL that begins with https:// or http://") as raised:
        load_config(digits_config, [], {"CLEAR_AUDIT_NOTIFY_WEBHOOK": url})
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("text", ['notify = "T0K3N"', '[notify]\nwebhook = ["T0K3N"]', '[notify]\non = ["T0K3N"]'])
def test_nothing_of_the_section_is_shown(digits_config: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "audit.toml"
    path.write_text(text + "\n" + digits_config.read_text())
    with pytest.raises(InputError, match=r"key 'notify") as raised:
        load_config(path, [], {})
    assert SECRET not in str(raised.value)


def test_the_secret_is_in_nothing_that_is_kept_of_a_config(config: AuditConfig, digits_config: Path) -> None:
    without = load_config(digits_config, [], {})
    assert config.notify.webhook is not None
    assert SECRET in config.notify.webhook.get_secret_value()
    assert config.model_dump(mode="json") == without.model_dump(mode="json")
    assert config.config_hash == without.config_hash
    assert SECRET not in repr(config) + str(config) + config.model_dump_json()


@pytest.mark.soak
def test_a_whole_audit_tells_and_keeps_the_secret_nowhere(
    digits_config: Path, webhook: Webhook, prefect_api: str, tmp_path: Path
) -> None:
    store = tmp_path / "audits"
    settings = {"notify.webhook": webhook.url, "gates": '[{ name = "accuracy", min = 2 }]'}
    flags = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    done = clear_audit("run", digits_config, "--store", store, *flags, api=prefect_api)
    assert done.returncode == 1, done.stderr
    (run,) = published_runs(store)
    (told,) = webhook.posted
    assert (told["event"], told["run_id"], told["report"]) == ("gate", run.run_id, str(run.report))
    assert run.report.is_file()
    kept = [path for folder in (store, Path(os.environ["PREFECT_HOME"])) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.startswith("prefect.db") for path in kept)
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in done.stdout + done.stderr


def test_what_controls_others_arrives_written_out(config: AuditConfig, webhook: Webhook, tmp_path: Path) -> None:
    hostile = config.model_copy(update={"name": "audit\x00\x1b"})
    assert notify(hostile, tmp_path, News("failure", error="label '\x01\u202e'")) is None
    assert (webhook.posted[0]["audit"], webhook.posted[0]["error"]) == (r"audit\x00\x1b", r"label '\x01\u202e'")


@pytest.mark.parametrize("status", [200, 503])
def test_an_answer_without_an_end_is_not_read(
    config: AuditConfig, digits_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    sent: list[int] = []

    def answer(listening: socket.socket) -> None:
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
                total = 0
                with suppress(OSError):
                    while total < 1 << 30:
                        total += connection.send(bytes(1 << 16))
                sent.append(total)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=[listening], daemon=True).start()
        config = load_config(digits_config, [f"notify.webhook=http://127.0.0.1:{listening.getsockname()[1]}/"], {})
        said = notify(config, tmp_path, News("gate"))
        assert (said is None) == (status == 200)
        time.sleep(0.2)
    assert sent
    assert max(sent) < 64 << 20

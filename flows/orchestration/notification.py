"""Telling a webhook how an audit ended: one POST of JSON.

The webhook's URL may hold a secret: no message of ours names it, and no library's may.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import requests

from flows.config import AuditConfig
from reports.gates.judgement import Judgement, as_object, overall_of
from storage.runs.run import Run
from storage.text import printable_all

SCHEMA = "clear-audit/notification/1"
"""Of the JSON: keys are added, never changed or dropped, without another number."""

REQUEST_SECS, TOTAL_SECS = 5, 30
PAUSES = (0.0, 0.5, 1.0, 2.0)
"""Seconds before each try: what a server asks for may be more than an audit should wait."""

MAY_PASS = {429, 500, 502, 503, 504}
"""Answers after which it is tried again."""


@dataclass(frozen=True)
class News:
    """How an audit ended, as far as it is known.

    event: gate, where one failed; failure, where the audit did not come to its end or too many samples failed. error: the
    sentence that says why.
    """

    event: str
    error: str | None = None
    run: Run | None = None
    judgements: Sequence[Judgement] = ()
    expected: int | None = None
    processed: int | None = None
    failed: int | None = None


def as_document(config: AuditConfig, store: Path, news: News) -> dict[str, Any]:
    """What is posted. What is not known, for the audit did not come that far, is null."""
    ended = news.processed is not None
    return {
        "schema": SCHEMA,
        "event": news.event,
        "audit": config.name,
        "store": str(store.absolute()),
        "run_id": None if news.run is None else news.run.run_id,
        "verdict": overall_of(news.judgements) if ended else None,
        "error": news.error,
        "expected_count": news.expected,
        "processed_count": news.processed,
        "failed_count": news.failed,
        "gates": [as_object(judgement) for judgement in news.judgements],
        "report": str(news.run.report.absolute()) if ended and news.run is not None else None,
    }


def notify(config: AuditConfig, store: Path, news: News) -> str | None:
    """Posts the news where the config wants it; returns why it could not be delivered, in a sentence, or None."""
    if config.notify.webhook is None or news.event not in config.notify.on:
        return None
    found: list[str | None] = []
    arguments = config.notify.webhook.get_secret_value(), printable_all(as_document(config, store, news))
    # A request's own limit covers neither the look-up of a name nor an answer that comes byte by byte.
    posting = Thread(target=lambda: found.append(post(*arguments)), daemon=True)
    posting.start()
    posting.join(TOTAL_SECS)
    problem = found[0] if found else f"it did not answer within {TOTAL_SECS} s"
    if problem is None:
        return None
    return f"the webhook of section [notify] was not told of the audit's end: {problem}; the audit itself stands as it is"


def post(url: str, document: dict[str, Any]) -> str | None:
    """Why a webhook did not take a document, without its URL; None where it did."""
    # What it says of a connection has the URL.
    logging.getLogger("urllib3.connectionpool").disabled = True
    problem = None
    for pause in PAUSES:
        time.sleep(pause)
        try:
            # What it answers is not read: that may have no end.
            with requests.post(url, json=document, timeout=REQUEST_SECS, allow_redirects=False, stream=True) as answer:
                status = answer.status_code
        except Exception as error:
            # Of the error no more than its name, for the same reason.
            reason = getattr(error.args[0], "reason", error) if error.args else error
            problem = f"it cannot be reached ({type(reason).__name__})"
            continue
        problem = None if 200 <= status < 300 else f"it answered {status}"
        if status not in MAY_PASS:
            break
    return problem

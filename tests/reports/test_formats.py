"""Numbers and names as a reader sees them."""

from datetime import datetime, timedelta, timezone

import pytest

from reports import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.99945, "99.9 %"),
        (0.99996, "> 99.9 %"),
        (0.0001, "< 0.1 %"),
        (0.6912, "69.1 %"),
    ],
)
def test_percent_is_exact_about_none_and_all(value: float | None, text: str) -> None:
    assert formats.percent(value).replace("\u00a0", " ") == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (-0.001, "0.00"), (-0.125, "−0.12"), (3.14159, "3.14")])
def test_decimal(value: float | None, text: str) -> None:
    assert formats.decimal(value) == text


@pytest.mark.parametrize(("value", "text"), [(11512.4, "11,500"), (1.25, "1.25"), (0.0123456, "0.0123"), (0.0, "0")])
def test_significant(value: float, text: str) -> None:
    assert formats.significant(value) == text


def test_count_separates_thousands() -> None:
    assert formats.count(1234567) == "1,234,567"


def test_moment_is_in_utc_whatever_zone_it_came_in() -> None:
    local = datetime(2026, 11, 21, 1, 30, 5, tzinfo=timezone(timedelta(hours=3)))
    assert formats.moment(local) == "2026-11-20 22:30:05 UTC"


@pytest.mark.parametrize(("seconds", "text"), [(4.25, "4.2 s"), (75.0, "1 min 15 s"), (7265.0, "2 h 1 min"), (59.99, "60.0 s")])
def test_duration(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


def test_class_labels_tell_equal_names_apart() -> None:
    assert formats.class_labels(["crane", "cat", "crane", " "]) == ["crane [0]", "cat", "crane [2]", "[3]"]


@pytest.mark.parametrize(
    ("value", "text"), [(4.1e-7, "4 × 10⁻⁷"), (9.6e-5, "1 × 10⁻⁴"), (0.25, "2 × 10⁻¹"), (0.0, "0"), (3.0, "3 × 10⁰")]
)
def test_power(value: float, text: str) -> None:
    assert formats.power(value) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 bytes"), (1000, "1 kB"), (6_146_560, "6.15 MB"), (4_917_248_000, "4.92 GB"), (1_234_567_890_123, "1,230 GB")],
)
def test_file_size(size: int, text: str) -> None:
    assert formats.file_size(size) == text

"""Numbers, times and class names as a reader sees them. What is undefined is a dash, never 0."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from storage.text import printable

UNDEFINED = "–"
NO_CLASS = "(none)"
NO_LABEL = "(no label)"
RESERVED = frozenset(
    (
        *("constructor", "toString", "valueOf", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString"),
        *("__proto__", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__"),
    )
)
"""Names that every JavaScript object has: the drawing library would mistake a class of such a name for a built-in property."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(value: float | None) -> str:
    """One digit after the point; only exactly 0 or 1 is shown as 0.0 % or 100.0 %."""
    if value is None:
        return UNDEFINED
    if 0 < value < 0.0005:
        return "<\u00a00.1\u00a0%"
    if 0.9995 <= value < 1:
        return ">\u00a099.9\u00a0%"
    return f"{value:.1%}".replace("%", "\u00a0%")


def count(value: int | None) -> str:
    return UNDEFINED if value is None else f"{value:,}"


def decimal(value: float | None, digits: int = 2) -> str:
    """With a true minus sign, and no minus before a zero."""
    if value is None:
        return UNDEFINED
    return f"{value:z.{digits}f}".replace("-", "−")


def significant(value: float) -> str:
    """Three significant digits."""
    return f"{float(f'{value:.3g}'):,g}".replace("-", "−")


def power(value: float) -> str:
    """One significant digit and the power of ten: 4 × 10⁻⁷."""
    digit, exponent = f"{value:.0e}".split("e")
    return digit if not value else f"{digit} × 10{str(int(exponent)).translate(RAISED)}"


def file_size(size: int) -> str:
    """Bytes in decimal units, three significant digits."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{significant(size / unit)} {name}"
    return f"{size} bytes"


def moment(value: datetime) -> str:
    """A time in UTC, whatever its own zone."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plural(value: int, noun: str) -> str:
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def class_labels(names: Sequence[str]) -> list[str]:
    """Distinct names of the classes: a name that occurs twice, is blank, or is RESERVED gets its index appended."""
    names = list(map(printable, names))
    occurrences = Counter(names)
    return [
        name if name.strip() and occurrences[name] == 1 and name not in RESERVED else f"{name} [{index}]".strip()
        for index, name in enumerate(names)
    ]

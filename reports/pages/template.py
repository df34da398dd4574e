"""The templates of pages and of their parts, and how they are filled."""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from storage.errors import InputError
from storage.runs.run import Run
from storage.text import printable

REPORTS = Path(__file__).parents[1]
TEMPLATES = REPORTS / "templates"


def fill_template(name: str, **values: Any) -> str:
    """A page, whatever the values have in them: characters that control others are written out."""
    return printable(environment().get_template(name).render(**values), lines=True)


def fill_section(name: str, **values: Any) -> Markup:
    """A part of a page, from a template in `sections/`."""
    return Markup(environment().get_template(f"sections/{name}").render(**values))


@cache
def environment() -> Environment:
    """Templates that escape whatever they are given, and fail on a name that they are not given."""
    loader = FileSystemLoader([TEMPLATES, REPORTS])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = (TEMPLATES / "filters.js").read_text(encoding="utf-8")
    made.globals["style"] = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    made.globals["filters_script"] = Markup(script)
    # By its hash: whatever else got into a page does not run.
    made.globals["script_source"] = Markup(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")
    return made


@contextmanager
def of_damage(run: Run) -> Iterator[None]:
    """Raises InputError for what a run's records and tables make our code raise where they do not fit together."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"run '{run.run_id}' cannot be shown ({type(error).__name__}: {str(error)[:200]}): 'clear-audit verify' says what of "
            "it is damaged; where it says nothing, the fault is ours"
        ) from error

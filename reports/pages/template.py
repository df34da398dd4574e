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
    """A page. Control characters are written out, whatever the values contain."""
    return printable(environment().get_template(name).render(**values), lines=True)


def fill_section(name: str, **values: Any) -> Markup:
    """A part of a page, from a template in `sections/`."""
    return Markup(environment().get_template(f"sections/{name}").render(**values))


@cache
def environment() -> Environment:
    """Templates that escape every value, and fail on a name without a value."""
    loader = FileSystemLoader([TEMPLATES, REPORTS])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    made.globals["style"] = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    made.globals["script"] = Markup(script)
    # Allowed by its hash: no other script that got into a page runs.
    made.globals["script_source"] = Markup(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")
    return made


@contextmanager
def of_damage(run: Run) -> Iterator[None]:
    """Raises InputError in place of the errors that inconsistent records and tables of a run cause in our code."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"run '{run.run_id}' cannot be shown ({type(error).__name__}: {str(error)[:200]}): 'clear-audit verify' says what of "
            "it is damaged; where it says nothing, the fault is ours"
        ) from error

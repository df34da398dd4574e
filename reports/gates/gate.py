"""Gates: questions with one number for an answer, and the limits it is held to."""

from string import Template
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reports.figures import FIGURES, Figure
from reports.queries import FOLDER, fill, load
from storage.errors import nearest
from storage.options import STRICT
from storage.statistics import STATISTICS

OF_STATISTICS = {name: (statistic, kind) for statistic in STATISTICS for name, kind in statistic.gates.items()}
"""The built-in gates that ask for a statistic, by name. Their queries are `sql/statistic_gates/<kind>.sql` and
`sql/statistic_gate_samples/<kind>.sql`, with the statistic's name written into them."""

BUILT_IN = tuple(sorted({*OF_STATISTICS, *(path.stem for path in FOLDER.glob("gates/*.sql"))}))
"""Names of the gates built in for every run, which need no SQL of the user's: each but those of `OF_STATISTICS` is
`sql/gates/<name>.sql`. The figures of analyses, `FIGURES`, are built in beside them."""

WITH_SAMPLES = tuple(sorted({*OF_STATISTICS, *(path.stem for path in FOLDER.glob("gate_samples/*.sql"))}))
"""Names of the built-in gates that can say which images count against them; `sql/gate_samples/<name>.sql` finds these."""

Text = Annotated[str, Field(min_length=1)]
Move = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Gate:
    """A question to a run's tables whose answer is one number, and the limits of that number; a `[[gates]]` in the config.

    name: of a built-in gate, or any other with `sql`. sql: one SELECT of one number; the tables of an earlier run are
    `reference.<table>`. samples: one SELECT with a column `sample_index`, the images that count against it, worst first.
    min, max: limits of the number. max_drop, max_rise: how far it may lie below and above the reference's. severity: error or
    warn. min_samples: measured images below which the gate is not evaluated.

    Raises ValueError (pydantic's ValidationError): no limit, or a name that does not fit to what is asked.
    """

    name: Text
    sql: Text | None = None
    min: float | None = None
    max: float | None = None
    max_drop: Move | None = None
    max_rise: Move | None = None
    severity: Literal["error", "warn"] = "error"
    min_samples: Annotated[int, Field(ge=1)] = 1
    samples: Text | None = None

    def __post_init__(self) -> None:
        known = sorted({*BUILT_IN, *FIGURES})
        if self.sql is None and self.name not in known:
            raise ValueError(
                f"gate '{self.name}' has no 'sql' and is not built in: did you mean '{nearest(self.name, known)}'? "
                f"Built in are {', '.join(known)}"
            )
        if self.sql is not None and self.name in known:
            raise ValueError(f"gate '{self.name}' has 'sql', and its name is that of a built-in gate: give it another name")
        if self.sql is None and self.samples is not None:
            raise ValueError(f"gate '{self.name}' is built in and has its own 'samples': give it another name and 'sql'")
        if all(limit is None for limit in (self.min, self.max, self.max_drop, self.max_rise)):
            raise ValueError(f"gate '{self.name}' has no limit: add min, max, max_drop or max_rise")

    @property
    def figure(self) -> Figure | None:
        """What it asks for, where that is of an analysis."""
        return FIGURES.get(self.name)

    @property
    def text(self) -> str:
        """The SQL that is run."""
        if self.sql is not None:
            return self.sql
        return self.built_in_text("gates") if self.figure is None else self.figure.sql

    @property
    def samples_text(self) -> str | None:
        """The SQL that finds the images that count against it; None where there is no such query."""
        if self.figure is not None:
            return self.figure.samples
        if self.sql is not None or self.name not in WITH_SAMPLES:
            return self.samples
        return self.built_in_text("gate_samples")

    def built_in_text(self, folder: str) -> str:
        """The SQL in one of the folders `gates` and `gate_samples`, or its like for a statistic."""
        if self.name not in OF_STATISTICS:
            return fill(load(f"{folder}/{self.name}"), {"min_samples": self.min_samples})
        statistic, kind = OF_STATISTICS[self.name]
        beyond, worst_first = ("<", "ASC") if statistic.direction == "higher" else (">", "DESC")
        template = Template(load(f"statistic_{folder}/{kind}"))
        return template.substitute(statistic=statistic.name, beyond=beyond, worst_first=worst_first)

    @property
    def moves(self) -> bool:
        """Whether a limit is relative to the reference."""
        return self.max_drop is not None or self.max_rise is not None

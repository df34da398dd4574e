"""Gates: questions with one number for an answer, and the limits it is held to."""

from dataclasses import dataclass

from reports.queries import FOLDER, fill, load

BUILT_IN = tuple(sorted(path.stem for path in FOLDER.glob("gates/*.sql")))
"""Names of the built-in gates, which need no SQL of the user's: each is `sql/gates/<name>.sql`."""

WITH_SAMPLES = tuple(sorted(path.stem for path in FOLDER.glob("gate_samples/*.sql")))
"""Names of the built-in gates that can say which images count against them: `sql/gate_samples/<name>.sql` finds these."""


@dataclass(frozen=True)
class Gate:
    """A question to a run's tables whose answer is one number, and the limits of that number; a `[[gates]]` in the config.

    name: of a built-in gate, or any other with `sql`. sql: one SELECT of one number; the tables of an earlier run are
    `reference.<table>`. samples: one SELECT with a column `sample_index`, the images that count against it, worst first.
    min, max: limits of the number. max_drop, max_rise: how far it may lie below and above the reference's. severity: error or
    warn. min_samples: measured images below which the gate is not evaluated.
    """

    name: str
    sql: str | None = None
    min: float | None = None
    max: float | None = None
    max_drop: float | None = None
    max_rise: float | None = None
    severity: str = "error"
    min_samples: int = 1
    samples: str | None = None

    @property
    def text(self) -> str:
        """The SQL that is run."""
        if self.sql is not None:
            return self.sql
        return fill(load(f"gates/{self.name}"), {"min_samples": self.min_samples})

    @property
    def samples_text(self) -> str | None:
        """The SQL that finds the images that count against it; None where there is no such query."""
        if self.sql is not None or self.name not in WITH_SAMPLES:
            return self.samples
        return fill(load(f"gate_samples/{self.name}"), {"min_samples": self.min_samples})

    @property
    def moves(self) -> bool:
        """Whether a limit is relative to the reference."""
        return self.max_drop is not None or self.max_rise is not None

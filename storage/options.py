"""How the options of a config are read: strictly."""

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""No unknown key, no value of another type, and no number that is not finite."""

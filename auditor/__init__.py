"""CLEAR maps and their statistics: tensors in, tensors out."""

from auditor.clear import Clear, Maps, agreement
from auditor.conservation import Conservation, measure_conservation
from auditor.errors import UnsupportedModel
from auditor.folding.plan import CannotFold
from auditor.interpretation import READINGS
from auditor.measurement import Measurement, measure

__all__ = [
    "READINGS",
    "CannotFold",
    "Clear",
    "Conservation",
    "Maps",
    "Measurement",
    "UnsupportedModel",
    "agreement",
    "measure",
    "measure_conservation",
]

"""CLEAR maps and their statistics: tensors in, tensors out."""

from auditor.clear import Clear, Maps
from auditor.errors import UnsupportedModel
from auditor.measurement import Measurement, measure
from auditor.readings import READINGS

__all__ = ["READINGS", "Clear", "Maps", "Measurement", "UnsupportedModel", "measure"]

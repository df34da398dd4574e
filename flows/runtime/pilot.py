"""What a worker measures of one rule on a few images, before a run is planned with it."""

from dataclasses import dataclass

import numpy as np

from auditor.errors import UnsupportedModel
from auditor.trust.assess import pilot
from flows.runtime.sampling import read_drawn
from flows.runtime.worker import this_worker


@dataclass(frozen=True)
class PilotUnit:
    """rule: that is tried. indices: of the images in the dataset. seed: of what is drawn at random."""

    rule: str
    indices: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class PilotResult:
    """values: by measure, of the images where it is defined. refusal: why the rule has no maps of the network, if so."""

    rule: str
    values: dict[str, list[float]]
    refusal: str | None = None


def measure_unit(key: str, unit: PilotUnit) -> PilotResult:
    worker = this_worker(key)
    drawn = read_drawn(worker, np.array(unit.indices))
    if not len(drawn.indices):
        return PilotResult(unit.rule, {})
    try:
        found = pilot(worker.clear.changed(rule=unit.rule), worker.tensor(drawn.pixels), unit.seed)
    except UnsupportedModel as error:
        return PilotResult(unit.rule, {}, str(error))
    return PilotResult(unit.rule, {name: values[~values.isnan()].tolist() for name, values in found.items()})

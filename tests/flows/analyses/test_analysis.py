"""The contract of an analysis: what decides its result, and what a unit comes to that is given up."""

from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from flows.analyses import ANALYSES, known_schemas
from flows.analyses.analysis import Analysis, Job, Options, Result, shards
from storage.joins import Aggregate, Append, Reduce, Table
from storage.runs.plan import Unit
from storage.tables import SCHEMAS
from tests.reports.stores import SMALL, make_plan

NUMBERS = pa.schema([pa.field("number", pa.int32())])
SUMS = pa.schema([pa.field("number_sum", pa.int64())])


class ToyOptions(Options):
    count: int = 3
    names: tuple[str, ...] = ()


TOY = Analysis(
    name="toy",
    about="numbers of nothing",
    options=ToyOptions,
    tables=(
        Table("numbers", NUMBERS, Append()),
        Table("sums", SUMS, Reduce(NUMBERS, lambda parts, plan: SUMS.empty_table())),
        Table("counts", SUMS, Aggregate("SELECT count(*) AS number_sum FROM numbers")),
    ),
    units=shards,
    work=lambda unit, context: Result(unit.size, 0, {}),
)


def test_units_are_done_again_where_options_changed_that_decide_the_result() -> None:
    identity = Job(TOY, ToyOptions()).identity
    assert identity == Job(TOY, ToyOptions(count=3, names=())).identity
    assert identity == Job(TOY, ToyOptions(run=False)).identity
    others = [Job(TOY, options).identity for options in (ToyOptions(count=4), ToyOptions(names=("a",)))]
    assert len({identity, *others}) == 3
    assert all(len(one) == 64 for one in (identity, *others))


@pytest.mark.parametrize("given", [{"more": 1}, {"run": "yes"}, {"count": 1.5}])
def test_options_are_those_that_there_are(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ToyOptions.model_validate(given)


def test_only_tables_with_parts_are_written_by_a_unit() -> None:
    assert TOY.part_schemas == {"numbers": NUMBERS, "sums": NUMBERS}


def test_a_unit_that_is_given_up_has_failed_as_a_whole_and_its_parts_are_empty() -> None:
    result = TOY.failed(make_plan(SMALL), None, Unit(1, 16, 30), "it kills")  # type: ignore[arg-type]
    assert (result.processed, result.failed, result.maps) == (0, 14, None)
    assert dict(result.tables) == {name: NUMBERS.empty_table() for name in ("numbers", "sums")}


def test_what_a_unit_comes_to_may_be_the_analysis_own() -> None:
    reasons = []

    def fail(plan: object, dataset: object, unit: Unit, reason: str) -> Result:
        reasons.append(reason)
        return Result(0, 1, {})

    own = Analysis(TOY.name, TOY.about, TOY.options, TOY.tables, TOY.units, TOY.work, fail=fail)
    assert own.failed(make_plan(SMALL), None, Unit(1, 16, 30), "it kills") == Result(0, 1, {})  # type: ignore[arg-type]
    assert reasons == ["it kills"]


def test_analyses_have_their_own_names_and_tables() -> None:
    assert all(name == analysis.name for name, analysis in ANALYSES.items())
    names = [table.name for analysis in ANALYSES.values() for table in analysis.tables]
    assert len(set(names)) == len(names)
    assert not {"runs", "gates"} & set(names)
    assert set(known_schemas()) == {"runs", "gates", *names}
    assert list(known_schemas())[: len(SCHEMAS)] == list(SCHEMAS)

"""Commands that write pages of what is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.exit_codes import exit_codes, tell, write
from flows.cli.judging import exit_by_gates
from flows.cli.options import DEFAULT_STORE, RunId, Store

if TYPE_CHECKING:
    from storage.runs.run import Run


def report(
    run_id: RunId = "latest",
    store: Store = DEFAULT_STORE,
    folder: Annotated[Path | None, typer.Option(help="Empty folder for a report with all images of the run.")] = None,
) -> None:
    """Write a run's HTML report, and the index page of the store, again; print where the report is.

    With --folder the report goes there instead, with pages that show every image and its maps.
    """
    with exit_codes():
        from reports.pages.index import write_index
        from reports.pages.report import write_report
        from reports.pages.template import of_damage
        from storage.runs.lookup import find_run

        run = find_run(store, run_id)
        with of_damage(run):
            if folder is not None:
                write(write_gallery(run, folder))
                return
            write(write_report(run))
        write_index(store)


def write_gallery(run: "Run", folder: Path) -> Path:
    """The report with all images of a run. Raises InputError."""
    from flows.config import planned_config
    from flows.runtime.progress import ProgressBar
    from flows.stages.gallery import draw_all
    from flows.stages.map_renderer import open_renderer
    from reports.pages.folder import write_folder
    from storage.datasets.formats import open_dataset

    config = planned_config(run)
    renderer = open_renderer(run, config, open_dataset(config.dataset))
    with ProgressBar() as progress:
        return write_folder(run, folder, lambda place, shown: draw_all(place, renderer, shown, progress), renderer.hexadecimal)


def compare(
    before: Annotated[
        str,
        typer.Argument(metavar="BEFORE", help="The run to compare with; 'previous': the latest before AFTER of its name."),
    ] = "previous",
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The run that is compared, and judged by its gates.")] = "latest",
    store: Store = DEFAULT_STORE,
) -> None:
    """Compare two finished runs, image by image, and judge the later one against the earlier one.

    Writes a page and a JSON file into the store's reports, and prints where. Exit code 1: a gate failed, or could not be
    evaluated.
    """
    with exit_codes():
        from flows.config import planned_config
        from flows.stages.comparison import draw_flips
        from reports.comparison import compare as compare_runs
        from reports.gates.judging import judge
        from reports.pages import comparison as comparison_page
        from storage.errors import InputError
        from storage.runs.lookup import find_reference, find_run

        second = find_run(store, after)
        first = find_reference(second, before)
        if first is None:
            raise InputError(f"there is no run before '{second.run_id}' with its name: name one ('clear-audit ls' lists them)")
        comparison = compare_runs(first, second)
        judgements = judge(planned_config(second).gates, second, first)
        shown = [flip for flips in comparison_page.chosen_flips(comparison).values() for flip in flips]
        page = comparison_page.write_comparison(comparison, judgements, draw_flips(comparison, shown))
        tell(comparison_page.say_comparison(comparison))
        write(page)
        write(page.with_suffix(".json"))
        exit_by_gates(judgements)

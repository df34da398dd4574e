"""Audits every architecture by every rule, and writes what came of it.

make architectures                                                     # all, about half an hour; writes docs/architectures.md
python -m tests.architectures --only timm --rules linear deconv        # part of it, told on the terminal
python -m tests.architectures --names swin --quick
python -m tests.architectures --resume                                 # goes on with what was interrupted
"""

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from auditor.operations.rule_table import RULES
from tests.architectures.page import defects, failures, page, summary
from tests.architectures.soak import soak
from tests.architectures.zoo import SOURCES, Architecture, architectures

RESULTS = Path("build/architectures.jsonl")


def main() -> int:
    """0 where nothing was wrong."""
    options = read_options()
    missing = [name for name in SOURCES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{', '.join(missing)} is not installed: make architectures", file=sys.stderr)
        return 2
    if not options.resume:
        options.results.unlink(missing_ok=True)
    done = {title_of(line) for line in read_lines(options.results)}
    wanted = [one for one in chosen(options) if one.title not in done]
    print(f"{len(wanted)} networks, {len(done)} done before")
    for number, line in enumerate(soak(wanted, options.rules, options.results, options.processes, options.limit, options.quick)):
        print(f"{number + 1}/{len(wanted)}  {summary(line)}", flush=True)
    lines = list(read_lines(options.results))
    if options.failures:
        options.failures.write_text(failures(lines) + "\n", encoding="utf-8")
    if options.page:
        options.page.write_text(page(lines), encoding="utf-8")
    return 1 if defects(lines) else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.architectures", description=__doc__, formatter_class=RAW)
    parser.add_argument("--only", nargs="+", choices=SOURCES, default=SOURCES, help="packages whose networks are taken")
    parser.add_argument("--names", help="a regular expression: networks whose title it is found in")
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--quick", action="store_true", help="only whether rules answer, and whether that is right, in float32")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=300, help="seconds of a processor's time that a network may take")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a line of JSON for each network")
    parser.add_argument("--resume", action="store_true", help="keep the results that are there, and do the rest")
    parser.add_argument("--page", type=Path, help="where to write the page of the docs, of all rules")
    parser.add_argument("--failures", type=Path, help="where to write what is not a right answer, by message")
    options = parser.parse_args()
    if options.page and len(options.rules) < len(RULES):
        parser.error("--page is of all rules: leave --rules out")
    return options


RAW = argparse.RawDescriptionHelpFormatter


def chosen(options: argparse.Namespace) -> Iterator[Architecture]:
    for one in architectures():
        if one.source in options.only and (options.names is None or re.search(options.names, one.title)):
            yield one


def read_lines(results: Path) -> Iterator[dict]:
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def title_of(line: dict) -> str:
    return Architecture(line["source"], line["family"], line["name"], line["variant"]).title


if __name__ == "__main__":
    sys.exit(main())

"""What the soak found, in words: a line a network, what failed by message, the page of the docs."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from auditor.operations.rule_table import RULES
from tests.architectures.checks import KEPT, TOLERANCES, faults, loss

Line = dict[str, Any]

SIGNS = {
    "compared": "✓",
    "answers": "○",
    "lost": "≠",
    "refused": "–",
    "wrong": "✗",
    "exception": "!",
    "not finite": "∞",
    "time-out": "t",
    "memory": "m",
    "died": "†",
}
"""Of each mark, the best first."""
DEFECTS = {"wrong", "exception", "not finite"}

HEAD = """# Architectures

Which published networks each rule answers for, and whether what it answers is right. Made by `make architectures`: all
image classifiers of torchvision, the smallest network of each timm family, and image classifiers of transformers, once
more with their attention written out where they have two ways to compute it. Weights are random, by a seed: those that
a package starts at a single value (a scale of 1e-6, a head of 0) are drawn as well, and batch norms take the
statistics of eight random images. Images are small where a network takes small ones, and the largest transformers have
four of their layers, which are all alike. Versions: {versions}.

{networks} {whole}

| rule | answers | compared with a reference | loses relevance | refused | wrong | exception | not finite | time, memory |
|---|---|---|---|---|---|---|---|---|
{shares}

- **answers**: with a map that no check finds wrong; the share is of the networks that run by themselves.
- **reference**: R(x\\|c) by hooks on the nodes of the graph that autograd made of an untouched forward pass
  (`tests/auditor/autograd_graph.py`), which shares no code with `auditor` and sees whatever took part. There is none for
  a network with a node of which it does not know what the rule does to it, nor for LRP.
- **refused**: `UnsupportedModel`, whose messages are listed below. **exception**: any other; a defect.
- **wrong**: Σ \\|found − expected\\| / Σ \\|expected\\| of a map is above {tolerances}. *Logits*: the mean of z_L is what
  the model returns. *Batch*: an image by itself has the map that it has among others. *No-ops*: so it has where every
  layer's output is copied and passes through a dropout in evaluation mode. *Exported*: so it has as a program of
  torch.export. *Float32*: so it has in float32, of networks whose
  own gradient has; all others are compared in float64.
- **loses relevance**: under LRP, the map of the network without its biases does not add up to between {least} and {most} of
  the class response, because a sigmoid's value at zero, or an output to which nothing contributes, takes its part (not
  counted among the answers). An audit measures what arrives, shows it, and refuses the rule where that is too little.
"""


def marks(line: Line) -> dict[str, str]:
    """Of each rule, one of `SIGNS`."""
    found = {}
    for rule, record in line["rules"].items():
        outcome = record["outcome"]
        if outcome == "answers" and faults(record, line["facts"]["precision"]):
            outcome = "wrong"
        elif outcome == "answers" and loss(record):
            outcome = "lost"
        elif outcome == "answers" and "reference" in record["checks"]:
            outcome = "compared"
        found[rule] = outcome if outcome in SIGNS else "died"
    return found


def details(line: Line, rule: str) -> str:
    record = line["rules"][rule]
    if record["outcome"] != "answers":
        return str(record["message"])
    return "; ".join(faults(record, line["facts"]["precision"]) + list(filter(None, [loss(record)])))


def title(line: Line) -> str:
    return line["name"] + (f" ({line['variant']})" if line["variant"] else "")


def summary(line: Line) -> str:
    """One line for the terminal."""
    start = f"{line['source']}/{title(line)}"
    if line["problem"]:
        return f"{start}: {line['problem'][:160]} ({line['seconds']:.0f} s)"
    grouped = defaultdict(list)
    for rule, mark in marks(line).items():
        grouped[mark, "" if mark in ("answers", "compared") else details(line, rule)[:140]].append(rule)
    told = [f"{mark}: {', '.join(rules)}" + (f" ({why})" if why else "") for (mark, why), rules in grouped.items()]
    return f"{start} at {line['facts']['size']} ({line['seconds']:.0f} s): " + " | ".join(told)


def failures(lines: Iterable[Line]) -> str:
    """What is not a right answer, a point for each kind and message, most networks first: how many by rule, some names."""
    grouped: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["problem"]:
            grouped["does not run by itself", ""]["all rules"].append(f"{title(line)} ({line['problem'].rpartition(': ')[2]})")
        for rule, mark in marks(line).items():
            if mark not in ("answers", "compared"):
                why = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", details(line, rule))
                why = why.replace(f"rule '{rule}'", "the rule").partition("; rules that would work")[0]
                grouped[mark, why][rule].append(title(line))
    points = []
    for (mark, why), rules in sorted(grouped.items(), key=lambda item: (item[0][0], -max(map(len, item[1].values())))):
        names = max(rules.values(), key=len)
        counts = ", ".join(f"{rule} {len(found)}" for rule, found in rules.items())
        points.append(f"- **{mark}**: {why}\n  {counts}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}")
    return "\n".join(points)


def unreferenced(lines: Iterable[Line]) -> str:
    """Why right answers were compared with no reference: how many of each rule."""
    grouped: dict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        for rule, record in line["rules"].items():
            if "no_reference" in record:
                grouped[record["no_reference"]][rule] += 1
    reasons = sorted(grouped.items(), key=lambda item: -item[1].total())
    return "\n".join(f"- {why}: {', '.join(f'{rule} {number}' for rule, number in rules.items())}" for why, rules in reasons)


def page(lines: list[Line]) -> str:
    """The page of the docs, from lines with all rules."""
    lines = sorted(lines, key=lambda line: (line["source"], line["family"], title(line)))
    ran = [line for line in lines if not line["problem"]]
    head = HEAD.format(
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "transformers")),
        networks=", ".join(f"{number} of {source}" for source, number in Counter(line["source"] for line in ran).items()) + ".",
        whole=say_whole(ran),
        shares="\n".join(share(rule, Counter(marks(line)[rule] for line in ran)) for rule in RULES),
        tolerances=", ".join(f"{value:g} ({name})" for name, value in TOLERANCES.items()),
        least=KEPT[0],
        most=KEPT[1],
    )
    signs = ", ".join(f"{sign} {mark}" for mark, sign in SIGNS.items())
    table = "\n".join(families(ran))
    sections = {
        "What is not a right answer": failures(lines),
        "What has no reference": unreferenced(ran),
        "By family": f"{signs}.\n\n{table}",
    }
    return head + "".join(f"\n## {heading}\n\n{text}\n" for heading, text in sections.items())


def say_whole(lines: list[Line]) -> str:
    """Of how many networks all checks were made."""
    quick = sum(line["facts"].get("is_quick", False) for line in lines)
    if not quick:
        return "All checks were made of all of them."
    return f"All checks were made of {len(lines) - quick} of them; of the others, logits and reference were compared, in float32."


def share(rule: str, found: Counter[str]) -> str:
    whole, right = found.total(), found["answers"] + found["compared"]
    ended = sum(found[mark] for mark in ("time-out", "memory", "died"))
    numbers = [found[mark] for mark in ("compared", "lost", "refused", "wrong", "exception", "not finite")]
    return f"| `{rule}` | {100 * right / max(1, whole):.1f} % | {' | '.join(map(str, [*numbers, ended]))} |"


def families(lines: list[Line]) -> Iterable[str]:
    """A row for each family: its networks, and of each rule how many have which mark; the mark alone where all have one."""
    yield "| package | family | networks | " + " | ".join(f"`{rule}`" for rule in RULES) + " |"
    yield "|---|---|---|" + "---|" * len(RULES)
    grouped = defaultdict(list)
    for line in lines:
        grouped[line["source"], line["family"]].append(line)
    for (source, family), members in grouped.items():
        names = ", ".join(title(line).replace(f"{family} (", "(") for line in members)
        cells = [cell(Counter(marks(line)[rule] for line in members)) for rule in RULES]
        yield f"| {source} | {family} | {names} | {' | '.join(cells)} |"


def cell(found: Counter[str]) -> str:
    kinds = [mark for mark in SIGNS if found[mark]]
    return SIGNS[kinds[0]] if len(kinds) == 1 else " ".join(f"{found[mark]} {SIGNS[mark]}" for mark in kinds)


def defects(lines: Iterable[Line]) -> int:
    """How many answers are wrong, not finite, or no answer in words."""
    return sum(mark in DEFECTS for line in lines for mark in marks(line).values())

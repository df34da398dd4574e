"""What the measures of trust say of networks that are known: where the thresholds of the verdict come from.

    python -m tests.bench.bench_trust [--imagenet FOLDER] [--images 500] [--rules RULE …]

Four networks on the demo's digits: the demo's own, its last layer and all its layers at random, and one trained as long on random
labels; each under every rule. With --imagenet, EfficientNet-Lite0 on the photographs that it is sure of. Prints a table of the
means and the verdict of each, and of the controls.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from auditor import Clear
from auditor.errors import UnsupportedModel
from auditor.operations.rule_table import RULES
from auditor.trust.assess import RULE, assess
from auditor.trust.randomization import layers, randomized
from auditor.trust.verdict import Summary, judge, summary_of
from flows.demo.allcnn import build
from tests.bench.bench_rules import MOVED, SIDE, SURE, digits, photographs, probability
from tests.bench.networks import efficientnet_lite0

SHOWN = (
    *("moved_along", "moved_stayed", "image_correlation", "contrast", "leak", "class_cosine_positive", "last_random_spearman"),
    *("all_random_spearman", "grid_pointing", "kept_correct", "removed_correct", "cell_sparseness", "variance_within_cells"),
)
BATCH = 64
STRONGEST = 10
"""Classes that compete: with a thousand of them, those under `linear` would take an hour without the operator that a run has."""
STEPS, RATE = 300, 1e-3


def networks(model: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    """Networks that are known, by what is known of them."""
    clear = Clear(model)
    names = layers(clear, images)
    return {
        "trained": model,
        "last layer random": randomized(clear, names[-1:], 0).model,
        "all layers random": randomized(clear, names, 0).model,
        "trained on random labels": memorise(images),
    }


def memorise(images: Tensor) -> nn.Module:
    """The demo's network, trained on labels that say nothing of the images."""
    torch.manual_seed(0)
    model = build().train()
    labels = torch.randint(10, (len(images),))
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for step in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


def measure(model: nn.Module, rule: str, images: Tensor, labels: Tensor, batch: int) -> dict[str, dict[str, Summary]]:
    """Means by source and measure."""
    clear = Clear(model, rule, top_k=STRONGEST if rule != "cam" else None)
    pairs = zip(images.split(batch), labels.split(batch), strict=True)
    parts = [assess(clear, part, own, 0) for part, own in pairs]
    return {
        source: {name: summary_of(defined(torch.cat([part[source][name] for part in parts]))) for name in parts[0][source]}
        for source in parts[0]
    }


def defined(values: Tensor):  # type: ignore[no-untyped-def]
    return values[~values.isnan()].numpy()


def show(title: str, model: nn.Module, images: Tensor, labels: Tensor, rules: list[str], batch: int = BATCH) -> None:
    print(f"\n### {title}, {len(images)} images\n\n| maps | where | which class | " + " | ".join(SHOWN) + " |")
    print("|---" * (len(SHOWN) + 3) + "|")
    for rule in rules:
        try:
            found = measure(model, rule, images, labels, batch)
        except UnsupportedModel as error:
            print(f"| {rule} | {error} |")
            continue
        verdict = judge(found[RULE], {source: own for source, own in found.items() if source != RULE})
        print(line(rule, found[RULE], *(say(one) for one in (verdict.says_where, verdict.says_class))), flush=True)
    for source in (source for source in found if source != RULE):
        print(line(f"*{source}*", found[source], "", ""), flush=True)


def say(outcome: bool | None) -> str:
    return {True: "yes", False: "no", None: "?"}[outcome]


def line(name: str, found: dict[str, Summary], *words: str) -> str:
    numbers = ["–" if name not in found or not found[name].count else f"{found[name].value:.2f}" for name in SHOWN]
    return f"| {name} | {' | '.join(words)} | {' | '.join(numbers)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", type=Path, help="folder of photographs with labels.csv; needs the extra 'bench'")
    parser.add_argument("--images", type=int, default=500, help="how many digits, and at most how many photographs")
    parser.add_argument("--rules", nargs="*", default=list(RULES))
    options = parser.parse_args()
    if options.imagenet is None:
        model, images, labels = digits(options.images)
        for name, network in networks(model, images).items():
            show(f"The demo's network, {name}", network, images, labels, options.rules)
        return
    network, whole = efficientnet_lite0(), photographs(options.imagenet)
    images = whole[..., MOVED // 2 :, MOVED // 2 :][..., :SIDE, :SIDE]
    images = images[probability(network, images) >= SURE][: options.images]
    show("EfficientNet-Lite0", network, images, torch.full((len(images),), -1), options.rules, batch=16)


if __name__ == "__main__":
    main()

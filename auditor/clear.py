"""CLEAR maps: which class spoke loudest at each pixel, and how loudly."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from auditor.backward.head import watch
from auditor.backward.trace import REDUCTIONS, Backprojection, Method, Traced, few_at_a_time, trace
from auditor.enlarging.competition import compete
from auditor.enlarging.enlarged import Shortcuts, seeds_of_each
from auditor.errors import UnsupportedModel, check_memory
from auditor.folding.build import assemble, fold_rows
from auditor.folding.folded import Folded, backproject
from auditor.folding.operator import Operator
from auditor.folding.plan import CannotFold, FoldPlan, plan_fold
from auditor.folding.verify import verify
from auditor.images import Images, as_batch, refusal
from auditor.operations.calls import tensors
from auditor.operations.rule_table import RULES
from auditor.statistics.dominance import Dominance

Made = TypeVar("Made", bound=Backprojection)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

DEFAULT_RULE = "gradient"

TopK = int | Literal["all"] | None
ALL: Literal["all"] = "all"
MANY_CLASSES = 50
"""With more classes, sending back each takes minutes an image: by default only the strongest compete (paper, section 5)."""
STRONGEST = 10


def competing_count(classes: int, rule: str, top_k: TopK = None) -> int:
    """How many of a model's classes compete in a sample.

    top_k: None for the default, all of at most `MANY_CLASSES`, else the `STRONGEST` strongest; but all under rule `linear`, whose
    operator sends them back at once, and under a rule that sends none back.
    """
    if top_k is None:
        is_costly = rule != "linear" and not RULES[rule].enlarges
        top_k = STRONGEST if classes > MANY_CLASSES and is_costly else ALL
    return classes if top_k == ALL else min(top_k, classes)


@dataclass(frozen=True)
class Maps:
    """The result of eq. 4 and 5 for a batch.

    dominant_class: (N, H, W) int16, Ĉ; −1 where no class has positive response; ties go to the lower class.
    dominant_response: (N, H, W) float32 ≥ 0, D; 0 where no class has positive response.
    logits: (N, C) float32.
    """

    dominant_class: Tensor
    dominant_response: Tensor
    logits: Tensor


class Clear:
    """Explains a classifier by class-enhanced attentive response (Kumar, Wong & Taylor 2017).

    model: takes (N, ch, H, W) and returns (N, C) scores, alone or as `logits` among other things, or one score a sample of two
        classes; a module, or a program of torch.export. It is copied, in eval mode: later changes to it are not seen, and it
        comes out as it went in.
    rule: where R(x|c) comes from, one of `RULES`. `linear` is eq. 3 as printed; why it is not the default: docs/method.md.
    classes: the classes that compete in eq. 4; those that `top_k` says by default.
    top_k: how many classes of each sample compete, those with the most positive response, or `all`; by default all of `classes`
        where these are given, else what `competing_count` says: all of up to 50, and the 10 strongest of more.
    precision: of the network's own arithmetic, float32, bfloat16 or float64; results are float32.
    reduction: of the input's channels, sum, l2 or max; nothing but sum under a rule that sends nothing back to them.
    head: the module (or node of an exported program) whose output has one channel a class, in place of the one that is found.
        The average of its output must order the classes of each sample as the model does.

    operator: what `fold` found; None while every class is sent back through the network.
    reference: the same in float32 where the precision is less; itself elsewhere.

    Raises ValueError for an unknown rule, precision or reduction, and UnsupportedModel, at the first batch, for a model
    whose scores or operations are not known.
    """

    def __init__(
        self,
        model: nn.Module | ExportedProgram,
        rule: str = DEFAULT_RULE,
        classes: Sequence[int] | None = None,
        top_k: TopK = None,
        precision: str = "float32",
        reduction: str = "sum",
        head: str | None = None,
    ) -> None:
        check_choice("rule", rule, RULES)
        check_choice("precision", precision, PRECISIONS)
        check_choice("reduction", reduction, REDUCTIONS)
        check_reduction(rule, reduction)
        if top_k not in (None, ALL) and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k is {top_k!r}: give how many classes compete, at least 1, or '{ALL}'")
        if classes is not None and not len(classes):
            raise ValueError("classes is empty: at least one class must compete")
        self.method, self.dtype = Method(rule, reduction, head), PRECISIONS[precision]
        self.top_k = ALL if top_k is None and classes is not None else top_k
        self.classes = None if classes is None else sorted(set(classes))
        self.model = frozen_copy(model, self.dtype)
        self.watched = None if head is None else watch(self.model, head)
        self.operator: Operator | None = None
        self.shortcuts = Shortcuts()
        self.reference = self
        if precision == "bfloat16":
            self.reference = Clear(model, rule, classes, top_k, "float32", reduction, head)

    def changed(self, model: nn.Module | None = None, rule: str | None = None) -> "Clear":
        """The same explanation of another network, or by another rule, without what was found out of this one.

        model: a changed copy of the network that is explained, which is not copied again.
        """
        other = copy.copy(self)
        other.model = self.model if model is None else model
        other.method = self.method if rule is None else replace(self.method, rule=rule)
        other.operator, other.reference, other.shortcuts = None, other, Shortcuts()
        return other

    def __call__(self, images: Images) -> Maps:
        """images: (N, ch, H, W) as the model takes them, see `Images`. Raises ValueError and UnsupportedModel."""
        images = as_batch(images, self.device)
        operator = self.operator
        if operator is not None and operator.takes_whole(images) and not self.chooses(operator.plan.classes):
            maps = self.folded(images, operator)
            if maps is not None:
                return maps
        backprojection = self.forward(images)
        competing = self.competing(backprojection)
        if RULES[self.method.rule].enlarges:
            result = compete(seeds_of_each(backprojection.seeds, competing), competing, images.shape[2:])
            return Maps(result.dominant_class, result.dominant_response, backprojection.logits)
        dominance = Dominance()
        for classes, responses in backprojection.stream(competing):
            dominance.update(classes, responses)
        result = dominance.result()
        return Maps(result.dominant_class, result.dominant_response, backprojection.logits)

    def folded(self, images: Tensor, operator: Operator) -> Maps | None:
        """The maps of classes that compete in all samples, by an operator that reaches the image; None where it does not fit."""
        seeds, logits = [], []
        for part in few_at_a_time(images):
            backprojection = self.forward(part)
            if not isinstance(backprojection, Folded):
                return None
            seeds.append(backprojection.seeds)
            logits.append(backprojection.logits)
        winner, best = operator.dominance(torch.cat(seeds), self.competing(backprojection))
        size = images.shape[2:]
        return Maps(winner.view(-1, *size), best.view(-1, *size), torch.cat(logits))

    def responses(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """Streams R(x|c): classes (k,) with responses (N, k, H, W) float32; with `top_k`, classes are (N, k)."""
        backprojection = self.forward(images)
        yield from backprojection.stream(self.competing(backprojection))

    def forward(self, images: Images) -> Backprojection:
        """The forward pass of a batch, from which any class can be sent back. Raises ValueError and UnsupportedModel."""
        operator = self.operator
        if RULES[self.method.rule].enlarges:
            return self.pass_through(images, lambda batch: self.shortcuts.forward(self.model, batch, self.method, self.trace))
        if operator is None:
            return self.plain(images)
        return self.pass_through(images, lambda batch: backproject(operator, self.model, batch, self.method, self.trace))

    def plain(self, images: Images) -> Traced:
        """The same, whose classes go back through the network."""
        return self.pass_through(images, self.trace)

    def trace(self, batch: Tensor) -> Traced:
        return trace(self.model, batch, self.method, self.watched)

    def pass_through(self, images: Images, make: Callable[[Tensor], Made]) -> Made:
        """What a forward pass of a batch makes. Raises ValueError and UnsupportedModel, also where the model does not take it."""
        batch = as_batch(images, self.device).to(self.dtype).contiguous(memory_format=torch.channels_last)
        if self.watched is not None:
            self.watched.clear()
        try:
            return make(batch)
        except UnsupportedModel:
            raise
        except Exception as error:
            check_memory(error)
            refused = refusal(self.model, batch)
            if refused is None:
                raise
        raise refused

    @property
    def device(self) -> torch.device | None:
        """Where the model is; None where it has neither parameters nor buffers."""
        held = next(chain(self.model.parameters(), self.model.buffers()), None)
        return None if held is None else held.device

    def fold(self, images: Tensor, memory: int) -> float:
        """Builds the fixed operator of the model, verifies it on `images` and uses it from then on.

        images: (N, ch, H, W), real ones. memory: bytes that the operator may take. Returns the largest deviation from the
        plain path, relative to the peak. Raises CannotFold, and goes on without, where there is no operator or no room.
        """
        plan = plan_fold(self, images)
        if plan.memory > memory:
            needed, allowed = plan.memory / 1e9, memory / 1e9
            raise CannotFold(f"building the operator takes {needed:.1f} GB of memory, and {allowed:.1f} GB are allowed")
        rows = fold_rows(self, images, plan, 0, plan.rows)
        return self.use_rows(images, plan, [rows], memory)

    def use_rows(self, images: Tensor, plan: FoldPlan, rows: list[Tensor], memory: float) -> float:
        """Uses the operator of all rows: of patterns, or as it is where these lose too much. Raises CannotFold."""
        operator = assemble(self, images, plan, rows, memory)
        try:
            return self.use(operator, images)
        except CannotFold:
            if operator.patterns is None:
                raise
        return self.use(assemble(self, images, plan, rows, memory, by_patterns=False), images)

    def use(self, operator: Operator, images: Tensor) -> float:
        """Verifies an operator on `images` and uses it from then on; returns the deviation. Raises CannotFold."""
        self.operator, deviation = verify(self, operator, images)
        return deviation

    def competing(self, backprojection: Backprojection) -> Tensor:
        """The classes that compete in eq. 4, ascending: (K,) int64, or (N, K) with `top_k`."""
        count, device = backprojection.logits.shape[1], backprojection.logits.device
        if self.classes is not None and not 0 <= self.classes[0] <= self.classes[-1] < count:
            raise ValueError(f"classes {self.classes} are not all among the model's {count}")
        classes = torch.arange(count, device=device) if self.classes is None else torch.tensor(self.classes, device=device)
        if not self.chooses(count):
            return classes
        strength = backprojection.positive.sum((2, 3))[:, classes]
        strongest = strength.topk(competing_count(len(classes), self.method.rule, self.top_k), dim=1)
        return classes[strongest.indices].sort(dim=1).values

    def chooses(self, count: int) -> bool:
        """Whether each sample has competing classes of its own, of a model's `count`."""
        allowed = count if self.classes is None else len(self.classes)
        return competing_count(allowed, self.method.rule, self.top_k) < allowed


def agreement(clear: Clear, images: Tensor) -> float:
    """The share of pixels whose dominant class is the same as in float32, in [0, 1]. images: (N, ch, H, W).

    Images whose scores are not finite do not count; NaN where there is no other.
    """
    same = []
    for part in few_at_a_time(images):
        maps, exact = clear(part), clear.reference(part)
        is_finite = (maps.logits + exact.logits).isfinite().all(1)
        same.append((maps.dominant_class == exact.dominant_class)[is_finite])
    return float(torch.cat(same).float().mean())


def check_choice(what: str, given: str, known: Iterable[str]) -> None:
    if given not in known:
        raise ValueError(f"{what} '{given}' is not known: use one of {', '.join(known)}")


def check_reduction(rule: str, reduction: str) -> None:
    """Raises ValueError where a reduction is asked for that can do nothing."""
    if RULES[rule].enlarges and reduction != "sum":
        raise ValueError(
            f"reduction '{reduction}' is of the input's channels, to which rule '{rule}' sends nothing: leave it out"
        )


def frozen_copy(model: nn.Module | ExportedProgram, dtype: torch.dtype) -> nn.Module:
    """The model in eval mode, in `dtype`, in channels_last, without gradients for its weights. Raises UnsupportedModel."""
    with torch.inference_mode(False):
        if isinstance(model, ExportedProgram):
            with warnings.catch_warnings():
                # Copying one makes torch warn of a deprecated use in its own code.
                warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
                # Its guards would refuse other dtypes. An exported program has no train mode to leave.
                copied: nn.Module = copy.deepcopy(model.module(check_guards=False))
        else:
            copied = copy_of(model).eval()
        copied.requires_grad_(False).to(dtype=dtype)
        for tensor in (*copied.parameters(), *copied.buffers()):
            # The kernels of 3-D convolutions have five axes, for which there is no such format.
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return copied


def copy_of(model: nn.Module) -> nn.Module:
    """A copy without the wrappers of torch.compile and nn.DataParallel. Raises UnsupportedModel."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"submodule '{name}'" if name else "the model"
            raise UnsupportedModel(
                f"{what} is TorchScript, whose operations cannot be seen: build it without torch.jit, or export it with "
                "torch.export"
            )
    # The copies by the ids of their originals, as `copy.deepcopy` keeps them.
    copies: dict[int, object] = {}
    for module in model.modules():
        # Pruning and weight norm work out weights from others before each pass, and deepcopy refuses the results of autograd.
        copies |= {id(value): value.detach().clone() for value in tensors(vars(module)) if not value.is_leaf}
    for module in reversed(list(model.modules())):
        inner = module.module if isinstance(module, nn.DataParallel) else getattr(module, "_orig_mod", None)
        if isinstance(inner, nn.Module):
            copies[id(module)] = copy.deepcopy(inner, copies)
    try:
        copied: nn.Module = copy.deepcopy(model, copies)
    except (TypeError, RuntimeError) as error:
        raise UnsupportedModel(f"the model cannot be copied: {error}") from error
    return copied

"""CLEAR maps: which class spoke loudest at each pixel, and how loudly."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from auditor.backprojection import Backprojection
from auditor.errors import UnsupportedModel
from auditor.rules import RULES
from auditor.statistics.dominance import Dominance

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Maps:
    """What eq. 4 and 5 leave of a batch.

    dominant_class: (N, H, W) int16, Ĉ; −1 where no class has positive response; ties go to the lower class.
    dominant_response: (N, H, W) float32 ≥ 0, D; 0 where no class has positive response.
    logits: (N, C) float32.
    """

    dominant_class: Tensor
    dominant_response: Tensor
    logits: Tensor


class Clear:
    """Explains a classifier by class-enhanced attentive response (Kumar, Wong & Taylor 2017).

    model: takes (N, ch, H, W) and returns (N, C) scores. It is copied, in eval mode: later changes to it are not seen,
        and it comes out as it went in.
    rule: what a rectifier sends back: linear, deconv, gradient or guided (see `auditor.rules`).
    classes: the classes that compete in eq. 4; all by default.
    top_k: let only each sample's k classes with most positive response compete; all by default.
    precision: of the network's own arithmetic, float32, bfloat16 or float64; results are float32.

    Raises ValueError for an unknown rule or precision, and UnsupportedModel, at the first batch, for a model whose head
    or operations are not known.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: str = "linear",
        classes: Sequence[int] | None = None,
        top_k: int | None = None,
        precision: str = "float32",
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"rule '{rule}' is not known: use one of {', '.join(RULES)}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision '{precision}' is not known: use one of {', '.join(PRECISIONS)}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}: at least one class must compete")
        if isinstance(model, torch.jit.ScriptModule):
            raise UnsupportedModel("the model is TorchScript, whose operations cannot be seen: export it by torch.export")
        if classes is not None and not len(classes):
            raise ValueError("classes is empty: at least one class must compete")
        self.rule, self.top_k, self.dtype = rule, top_k, PRECISIONS[precision]
        self.classes = None if classes is None else sorted(set(classes))
        with torch.inference_mode(False):
            self.model = copy.deepcopy(model).eval().requires_grad_(False)
            self.model.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Tensor) -> Maps:
        """images: (N, ch, H, W) as the model takes them."""
        backprojection = self.forward(images)
        dominance = Dominance()
        for classes, responses in backprojection.stream(self.competing(backprojection)):
            dominance.update(classes, responses)
        result = dominance.result()
        return Maps(result.dominant_class, result.dominant_response, backprojection.logits)

    def responses(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Streams R(x|c): classes (k,) with responses (N, k, H, W) float32; with `top_k`, classes are (N, k)."""
        backprojection = self.forward(images)
        yield from backprojection.stream(self.competing(backprojection))

    def forward(self, images: Tensor) -> Backprojection:
        """The forward pass of a batch, from which any class can be sent back."""
        images = images.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return Backprojection(self.model, images, self.rule)

    def competing(self, backprojection: Backprojection) -> Tensor:
        """The classes that compete in eq. 4, ascending: (K,) int64, or (N, K) with `top_k`."""
        count, device = backprojection.logits.shape[1], backprojection.logits.device
        if self.classes is not None and not 0 <= self.classes[0] <= self.classes[-1] < count:
            raise ValueError(f"classes {self.classes} are not all among the model's {count}")
        classes = torch.arange(count, device=device) if self.classes is None else torch.tensor(self.classes, device=device)
        if self.top_k is None or self.top_k >= len(classes):
            return classes
        strength = backprojection.seeds.sum((2, 3))[:, classes]
        return classes[strength.topk(self.top_k, dim=1).indices].sort(dim=1).values

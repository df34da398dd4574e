"""R(x|c) by an operator: from the class responses to the cut at once, and from there through the network where it is inside."""

from collections.abc import Callable

from torch import Tensor, nn

from auditor.backward.trace import Backprojection, Method, Traced
from auditor.folding.operator import Operator
from auditor.folding.plan import cut_tensor


class Folded(Backprojection):
    """The class responses of a batch, which an operator sends back.

    traced: the forward pass that it fits; None where a shortcut gave the class responses, which only an operator has that
    reaches the image.
    """

    def __init__(
        self, images: Tensor, class_responses: Tensor, method: Method, operator: Operator, traced: Traced | None = None
    ) -> None:
        super().__init__(images, class_responses, method)
        self.operator, self.traced = operator, traced

    @classmethod
    def of(cls, operator: Operator, traced: Traced) -> "Folded":
        """traced: a forward pass that the operator `fits`."""
        return cls(traced.images, traced.class_responses, traced.method, operator, traced)

    def send_back(self, classes: Tensor) -> Tensor:
        return self.finish(self.operator.apply_each(self.seeds_of(classes), classes))

    def respond(self, classes: Tensor, is_positive: list[bool]) -> Tensor:
        if classes.dim() == 1 and self.operator.plan.is_image_map:
            arrived = self.operator.apply(self.seeds, classes)
            return arrived.view(len(self.images), len(classes), *self.images.shape[2:])
        return super().respond(classes, is_positive)

    def respond_alone(self, classes: Tensor) -> Tensor:
        if classes.dim() == 0:
            return self.finish(self.operator.apply(self.seeds, classes[None])[:, 0])
        return self.send_back(classes)

    def finish(self, arrived: Tensor) -> Tensor:
        """From the cut to the input, (N, H, W) float32. arrived: (N, P)."""
        plan, arrived = self.operator.plan, self.operator.at_cut(arrived)
        if plan.step < 0:
            return arrived if plan.is_image_map else self.reduce(arrived)
        assert self.traced is not None
        cut = cut_tensor(self.traced, plan.step)
        return self.traced.reach_input(cut, arrived.to(cut.dtype))


def fits(operator: Operator, traced: Traced) -> bool:
    """Whether a forward pass is the one that was folded: other image sizes, or another way through the model, are not."""
    plan, steps = operator.plan, traced.tape.history.steps
    if traced.class_responses.shape[1:] != (plan.classes, plan.height, plan.width) or len(steps) != plan.steps:
        return False
    cut = cut_tensor(traced, plan.step)
    return tuple(cut.shape[-len(plan.shape) :]) == plan.shape and (plan.step < 0 or steps[plan.step].name == plan.where)


def backproject(
    operator: Operator, model: nn.Module, images: Tensor, method: Method, trace: Callable[[Tensor], Traced]
) -> Backprojection:
    """The forward pass of a batch (N, ch, H, W): without a tape where the operator's shortcut can, else traced.

    Where the operator does not fit, the classes go back through the network. Raises what `trace` and the model raise.
    """
    responses = operator.class_responses(model, images)
    if responses is not None:
        return Folded(images, responses, method, operator)
    traced = trace(images)
    return Folded.of(operator, traced) if fits(operator, traced) else traced

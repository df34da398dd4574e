"""Function modes that see what torch's own do not: autograd Functions, and what runs compiled, checkpointed or under autocast."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch.autograd import Function
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function
from torch.utils import checkpoint

AUTOCAST_DEVICES = ("cpu", "cuda")
Applicable: Any = Function.__mro__[1]
"""The class behind `Function.apply`: changed here, it is reached by a stored reference to `Swish.apply` as well."""


class Watch(TorchFunctionMode):
    """Sees every operation of a forward pass, in the precision of the tensors that the model is made of.

        model(images)                      in `with watch:`
        ├─ F.conv2d, Tensor.add_, …        → __torch_function__ → see
        ├─ Swish.apply, of an autograd Function → handle_torch_function → __torch_function__ → see
        ├─ checkpoint(part, maps)          → part(maps), whose operations are seen
        └─ torch.compile(part)(maps)       → part(maps), whose operations are seen

    An autocast that the model enters is off while an operation is carried out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entered = ExitStack()
        self.depth = 0

    def __enter__(self) -> Any:
        if self.depth == 0:
            self.entered.enter_context(plainly())
        self.depth += 1
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.depth -= 1
        if self.depth == 0:
            self.entered.close()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = next((device for device in AUTOCAST_DEVICES if torch.is_autocast_enabled(device)), None)
        if device is None:
            return self.see(func, args, kwargs or {})
        with torch.autocast(device, enabled=False):
            return self.see(func, args, kwargs or {})

    def see(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Carries out an operation and returns its result."""
        raise NotImplementedError


@dataclass(frozen=True)
class Applied:
    """`apply` of an autograd Function, as an operation that function modes see."""

    function: type[Function]

    @property
    def __name__(self) -> str:
        return f"autograd Function {self.function.__name__}"

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return super(Applicable, self.function).apply(*arguments, **keywords)  # type: ignore[misc]


ORIGINAL_CHECKPOINT = checkpoint._checkpoint_without_reentrant_generator


def apply(function: type[Function], *arguments: Any, **keywords: Any) -> Any:
    """Stands in for `torch.autograd.Function.apply` while a function mode is on."""
    if not has_torch_function((None,)):
        return Applied(function)(*arguments, **keywords)
    if function is checkpoint.CheckpointFunction:
        run, _, *given = arguments
        return run(*given)
    return handle_torch_function(Applied(function), (), *arguments, **keywords)


def checkpoint_around(*arguments: Any, **keywords: Any) -> Iterator[None]:
    """Stands in for what `torch.utils.checkpoint` does around a function; does nothing while a function mode is on."""
    if has_torch_function((None,)):
        yield
    else:
        yield from ORIGINAL_CHECKPOINT(*arguments, **keywords)


LOCK = Lock()
WATCHES: list[ExitStack] = []
"""One for each watch that is on, in any thread, behind one that undoes the changes of `plainly`."""


@contextmanager
def plainly() -> Iterator[None]:
    """Lets function modes see autograd Functions, and what checkpointed and compiled functions are made of.

    It changes torch for the whole process, with an effect only where a function mode is on.
    """
    with LOCK:
        if not WATCHES:
            WATCHES.append(changed_torch())
        WATCHES.append(ExitStack())
    try:
        yield
    finally:
        with LOCK:
            WATCHES.pop()
            if len(WATCHES) == 1:
                WATCHES.pop().close()


def changed_torch() -> ExitStack:
    changes = ExitStack()
    changes.callback(delattr, Applicable, "apply")
    changes.callback(setattr, checkpoint, "_checkpoint_without_reentrant_generator", ORIGINAL_CHECKPOINT)
    Applicable.apply = classmethod(apply)
    checkpoint._checkpoint_without_reentrant_generator = checkpoint_around
    if "torch._dynamo" in sys.modules:
        # Only a process that has imported it can have compiled anything.
        changes.enter_context(torch.compiler.set_stance("force_eager"))
    return changes

"""What each rule does to each kind of operation: the one table, which decides in `auditor.tape` and is printed in the docs."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Treatment(StrEnum):
    """How an operation sends a response back; the value says it in words."""

    ADJOINT = "its adjoint"
    EVERYTHING = "everything that arrives"
    POSITIVE = "the positive part of what arrives"
    DERIVATIVE = "its derivative"
    POSITIVE_DERIVATIVE = "its derivative, of the positive part of what arrives"
    FIXED = "the adjoint, with what depends on the input held fixed"
    EPSILON = "shares in proportion to contributions (ε)"
    ZPLUS = "shares in proportion to contributions of the output's sign (z⁺)"
    NONE = "no answer: an error"


@dataclass(frozen=True)
class Rule:
    """A way to send responses back.

    answers: of the kinds of operation, see `KINDS`. source: where it was published.
    seed_one: sends back 1 where the class response is positive, not the response. times_input: multiplies by the input.
    """

    source: str
    answers: dict[str, Treatment]
    seed_one: bool = False
    times_input: bool = False

    @property
    def fixes_gates(self) -> bool:
        return self.answers["gate"] is not Treatment.DERIVATIVE

    @property
    def shares(self) -> bool:
        return self.answers["layer"] in (Treatment.EPSILON, Treatment.ZPLUS)


def answers(
    layer: Treatment, scaling: Treatment, activation: Treatment, gate: Treatment, rest: Treatment
) -> dict[str, Treatment]:
    """layer: also of averages. gate: also of attention and normalisation. rest: of what is not known."""
    shares = layer in (Treatment.EPSILON, Treatment.ZPLUS)
    normalisation = Treatment.EPSILON if layer is Treatment.EPSILON else gate
    return {
        "layer": layer,
        "average": layer,
        "arrangement": Treatment.ADJOINT,
        "scaling": scaling,
        "switch": Treatment.ADJOINT,
        "activation": activation,
        "normalisation": normalisation,
        "gate": gate,
        "attention": layer if shares else gate,
        "product": Treatment.DERIVATIVE if gate is Treatment.DERIVATIVE else Treatment.NONE,
        "other": rest,
    }


T = Treatment
GRADIENT = answers(T.ADJOINT, T.ADJOINT, T.DERIVATIVE, T.DERIVATIVE, T.DERIVATIVE)
RULES: dict[str, Rule] = {
    "linear": Rule("Kumar, Wong & Taylor 2017, eq. 3", answers(T.ADJOINT, T.ADJOINT, T.EVERYTHING, T.FIXED, T.NONE)),
    "deconv": Rule("Zeiler & Fergus 2014", answers(T.ADJOINT, T.ADJOINT, T.POSITIVE, T.FIXED, T.NONE)),
    "gradient": Rule("Simonyan, Vedaldi & Zisserman 2014", GRADIENT),
    "guided": Rule("Springenberg et al. 2015", answers(T.ADJOINT, T.ADJOINT, T.POSITIVE_DERIVATIVE, T.DERIVATIVE, T.NONE)),
    "gradient_times_input": Rule("Shrikumar et al. 2016", GRADIENT, seed_one=True, times_input=True),
    "lrp_epsilon": Rule("Bach et al. 2015, eq. 58", answers(T.EPSILON, T.EPSILON, T.EPSILON, T.EVERYTHING, T.NONE)),
    "lrp_zplus": Rule(
        "Montavon et al. 2017, z⁺ rule; Andéol et al. 2021", answers(T.ZPLUS, T.EVERYTHING, T.EVERYTHING, T.EVERYTHING, T.NONE)
    ),
}

SELF_GATES = frozenset({"sigmoid", "hardsigmoid", "tanh", "erf", "hardtanh", "relu6", "clamp"})
"""Bounded functions: a response times one of these, of itself, is an activation (SiLU, GELU, hard-swish written out)."""
SURE_GATES = frozenset({"sigmoid", "hardsigmoid", "softmax"})
GATES = SELF_GATES | SURE_GATES
"""What makes a gate: of two responses that are multiplied, the one that comes from a sure one, else the smaller, else the one
that comes from one of these: a clipped rectifier may as well have made the other."""
FACTORS = frozenset({"mul", "imul", "rmul", "multiply"})
DIVISIONS = frozenset({"div", "truediv", "itruediv", "divide", "true_divide"})
MATRIX_PRODUCTS = frozenset({"matmul", "rmatmul", "bmm", "mm", "einsum"})
SUMS = frozenset({"add", "iadd", "radd", "sub", "isub", "rsub", "subtract"})
STOCHASTIC = frozenset({"dropout", "dropout1d", "dropout2d", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
UNMOVED = frozenset({"clone", "contiguous", "alias", "to", "to_copy", "float", "identity", *STOCHASTIC})
"""Arrangements that leave every value where it is."""
LIKE_ANOTHER = frozenset({"expand_as", "view_as", "reshape_as", "type_as"})
"""Operations that take a shape or a type from their second operand, and no value."""
CONSTANTS = frozenset({"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty", "empty_like"})
"""Operations whose result depends on a tensor's shape alone."""


def words(text: str, more: frozenset[str] = frozenset()) -> frozenset[str]:
    return frozenset(text.split()) | more


KINDS: dict[str, tuple[str, frozenset[str]]] = {
    "layer": (
        "convolution, transposed convolution, linear layer, matrix product with constants",
        words("conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d linear addmm baddbmm", MATRIX_PRODUCTS),
    ),
    "average": (
        "average and adaptive pooling, mean, sum, interpolation, folding, sum or difference of two responses",
        words(
            "avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d mean sum interpolate upsample upsample_nearest2d "
            "upsample_bilinear2d fold col2im",
            SUMS,
        ),
    ),
    "arrangement": (
        "reshaping, permuting, slicing, concatenation, padding, dropout in evaluation mode",
        words(
            "flatten view view_as reshape reshape_as permute transpose swapaxes swapdims movedim moveaxis t T mT adjoint "
            "squeeze unsqueeze unflatten expand expand_as broadcast_to repeat tile contiguous clone alias ravel getitem index "
            "select narrow slice index_select chunk split split_with_sizes unsafe_split tensor_split unbind cat concat "
            "concatenate stack hstack vstack roll flip unfold im2col pixel_shuffle pixel_unshuffle channel_shuffle "
            "native_channel_shuffle pad constant_pad_nd to to_copy float double half bfloat16 type type_as identity",
            STOCHASTIC,
        ),
    ),
    "scaling": (
        "batch norm in evaluation mode, constant factors and terms, sign",
        words("batch_norm neg negative", FACTORS | DIVISIONS),
    ),
    "switch": (
        "max-pooling, overlapping, padded or dilated: its switches",
        words("max_pool1d max_pool2d max_pool2d_with_indices adaptive_max_pool1d adaptive_max_pool2d"),
    ),
    "activation": (
        "ReLU, ReLU6, LeakyReLU, PReLU, ELU, SELU, CELU, SiLU, hard-swish, GELU, Mish, softplus, sigmoid, tanh, clamp",
        words(
            "relu relu6 hardtanh leaky_relu prelu elu selu celu silu hardswish gelu mish softplus sigmoid hardsigmoid "
            "tanh erf clamp clamp_min clamp_max clip threshold"
        ),
    ),
    "normalisation": (
        "layer, group, instance and root-mean-square norm: their statistics are the sample's",
        words("layer_norm group_norm instance_norm rms_norm"),
    ),
    "gate": ("a response scaled by another, as squeeze-excite does", frozenset()),
    "attention": ("softmax(QKᵀ) V", words("scaled_dot_product_attention")),
    "product": (
        "product of two responses of which neither is a gate, quotient of two; softmax, powers and roots outside of a gate",
        words("softmax square pow sqrt rsqrt reciprocal exp var std norm vector_norm linalg_vector_norm linalg_norm"),
    ),
    "other": ("any other operation that depends on the input", frozenset()),
}
KIND_OF = {name: kind for kind, (_, names) in KINDS.items() for name in names}


def name_of(function: Callable[..., Any]) -> str:
    """`Tensor.add_`, `torch.add`, `Tensor.__add__` and an exported program's `aten.add.Tensor` are all `add`."""
    name = str(getattr(function, "__name__", function))
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    return name.split(".")[0].strip("_")


def works_in_place(function: Callable[..., Any]) -> bool:
    name = str(getattr(function, "__name__", function)).split(".")[0]
    return name.endswith("_") and not name.endswith("__")


def rules_that_answer(kind: str) -> list[str]:
    return [name for name, rule in RULES.items() if rule.answers[kind] is not Treatment.NONE]

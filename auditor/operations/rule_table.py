"""What each rule does to each kind of operation: the one table, which the tape follows and the docs print."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Treatment(StrEnum):
    """How an operation sends a response back; the value says it in words."""

    ADJOINT = "its adjoint"
    PASS = "everything that arrives"
    POSITIVE = "the positive part of what arrives"
    DERIVATIVE = "its derivative"
    POSITIVE_DERIVATIVE = "its derivative, of the positive part of what arrives"
    FIXED = "the adjoint, with what depends on the input held fixed"
    EPSILON = "shares in proportion to contributions (ε)"
    ZPLUS = "shares in proportion to contributions of the output's sign (z⁺)"
    FLAT = "equal shares (flat)"
    FOLLOWING = "as what it takes was made: shares (ε) behind ε, everything that arrives behind all else"
    HALVES = "half by each factor, with the other held fixed"
    UNSUPPORTED = "no answer: an error"


LAYERS = ("convolution", "dense")
"""Kinds of operation that have weights."""


@dataclass(frozen=True)
class Rule:
    """A way to send responses back.

    answers: of the kinds of operation, see `KINDS`. source: where it was published. first: of layers behind which the image has
    passed no other, where that is not what `answers` says; there may be several.
    seed_one: sends back 1 where the class response is positive, not the response. times_input: multiplies by the input.
    enlarges: sends nothing back, but enlarges the class responses to the image: `answers` only lead to where classes are decided.
    """

    source: str
    answers: dict[str, Treatment]
    first: Treatment | None = None
    seed_one: bool = False
    times_input: bool = False
    enlarges: bool = False

    @property
    def fixes_gates(self) -> bool:
        return self.answers["gate"] is not Treatment.DERIVATIVE

    @property
    def shares(self) -> bool:
        return self.answers["convolution"] in (Treatment.EPSILON, Treatment.ZPLUS)


def answers(
    layer: Treatment, scaling: Treatment, activation: Treatment, gate: Treatment, rest: Treatment
) -> dict[str, Treatment]:
    """layer: also of averages. gate: also of attention and normalisation. rest: of unknown operations."""
    differentiates = gate is Treatment.DERIVATIVE
    shares = layer in (Treatment.EPSILON, Treatment.ZPLUS)
    normalisation = Treatment.EPSILON if layer is Treatment.EPSILON else gate
    return {
        "convolution": layer,
        "dense": layer,
        "average": layer,
        "reshape": Treatment.ADJOINT,
        "scaling": scaling,
        "max pooling": Treatment.ADJOINT,
        "activation": activation,
        "power": gate if differentiates else activation,
        "normalisation": normalisation,
        "gate": gate,
        "attention": layer if shares else gate,
        "product": gate if differentiates else Treatment.HALVES,
        "transform": Treatment.UNSUPPORTED if shares else Treatment.ADJOINT,
        "nonlinear": gate if differentiates else Treatment.UNSUPPORTED,
        "other": rest,
    }


T = Treatment
GRADIENT = answers(T.ADJOINT, T.ADJOINT, T.DERIVATIVE, T.DERIVATIVE, T.DERIVATIVE)
ZPLUS = answers(T.ZPLUS, T.PASS, T.PASS, T.PASS, T.UNSUPPORTED)
# What has constants must not pass on to ε: the share of a value that is nearly zero would have no bound.
EPSILON_PLUS = ZPLUS | {"dense": T.EPSILON} | dict.fromkeys(("scaling", "activation", "power", "normalisation"), T.FOLLOWING)
RULES: dict[str, Rule] = {
    "linear": Rule("Kumar, Wong & Taylor 2017, eq. 3", answers(T.ADJOINT, T.ADJOINT, T.PASS, T.FIXED, T.UNSUPPORTED)),
    "deconv": Rule("Zeiler & Fergus 2014", answers(T.ADJOINT, T.ADJOINT, T.POSITIVE, T.FIXED, T.UNSUPPORTED)),
    "gradient": Rule("Simonyan, Vedaldi & Zisserman 2014", GRADIENT),
    "guided": Rule("Springenberg et al. 2015", answers(T.ADJOINT, T.ADJOINT, T.POSITIVE_DERIVATIVE, T.DERIVATIVE, T.UNSUPPORTED)),
    "gradient_times_input": Rule("Shrikumar et al. 2016", GRADIENT, seed_one=True, times_input=True),
    "lrp_epsilon": Rule("Bach et al. 2015, eq. 58", answers(T.EPSILON, T.EPSILON, T.EPSILON, T.PASS, T.UNSUPPORTED)),
    "lrp_zplus": Rule("Montavon et al. 2017, z⁺ rule; Andéol et al. 2021", ZPLUS),
    "lrp_epsilon_plus": Rule("Kohlbrenner et al. 2020; `EpsilonPlus` of zennit", EPSILON_PLUS),
    "lrp_epsilon_plus_flat": Rule("Kohlbrenner et al. 2020; `EpsilonPlusFlat` of zennit", EPSILON_PLUS, first=T.FLAT),
    "cam": Rule("Zhou et al. 2016", GRADIENT, enlarges=True),
}
BACKWARD_RULES = {name: rule for name, rule in RULES.items() if not rule.enlarges}
"""Those that send responses back through the network."""

SELF_GATES = frozenset({"sigmoid", "expit", "hardsigmoid", "tanh", "erf", "hardtanh", "relu6", "clamp"})
"""Bounded functions: a response times one of these, of itself, is an activation (SiLU, GELU, hard-swish written out)."""
SURE_GATES = frozenset({"sigmoid", "expit", "hardsigmoid", "softmax"})
GATES = SELF_GATES | SURE_GATES | {"exp"}
"""Functions that make gates. Of two responses that are multiplied, the gate is the one that a sure gate made; else the smaller;
else the one that one of these made (a clipped rectifier may have made the other); else the one that any activation made."""
FACTORS = frozenset({"mul", "imul", "rmul", "multiply"})
DIVISIONS = frozenset({"div", "truediv", "itruediv", "divide", "true_divide"})
MATRIX_PRODUCTS = frozenset({"matmul", "linalg_matmul", "rmatmul", "bmm", "mm", "einsum"})
SUMS = frozenset({"add", "iadd", "radd", "sub", "isub", "rsub", "subtract"})
EXTREMES = frozenset({"max", "min", "amax", "amin", "maximum", "minimum", "fmax", "fmin"})
SAMPLERS = frozenset({"grid_sample", "grid_sampler", "grid_sampler_2d"})
ENLARGEMENTS = frozenset(
    {"interpolate", "upsample", "upsample_nearest", "upsample_nearest2d", "upsample_bilinear", "upsample_bilinear2d"}
)
SPREADING = frozenset({"expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile"})
"""Reshaping that repeats every value."""
NORMS = frozenset({"norm", "vector_norm", "linalg_vector_norm", "linalg_norm"})
AUGMENTED = frozenset({"iadd", "isub", "imul", "itruediv", "ipow"})
"""Assignments like `x *= 2`."""
STOCHASTIC = frozenset({"dropout", "dropout1d", "dropout2d", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
UNMOVED = frozenset(
    {
        "clone",
        "contiguous",
        "alias",
        "to",
        "to_copy",
        "cpu",
        "cuda",
        "float",
        "double",
        "half",
        "bfloat16",
        "type",
        "type_as",
        "identity",
        "nan_to_num",
        *STOCHASTIC,
    }
)
"""Reshaping that leaves every value where it is."""
LIKE_ANOTHER = frozenset({"expand_as", "view_as", "reshape_as", "type_as"})
"""Operations that take a shape or a type from their second operand, and no value."""
LEAVING = frozenset({"numpy", "array", "tolist", "item"})
"""Operations that take values out of torch."""
CONSTANTS = frozenset({"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty", "empty_like"})
"""Operations whose result depends on a tensor's shape alone."""


def words(text: str, more: frozenset[str] = frozenset()) -> frozenset[str]:
    return frozenset(text.split()) | more


KINDS: dict[str, tuple[str, frozenset[str]]] = {
    "convolution": (
        "convolution, transposed convolution; but for the one that decides the classes, which is dense",
        words("conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d"),
    ),
    "dense": (
        "linear layer, matrix product with constants, the layer that decides the classes",
        words("linear addmm baddbmm addbmm addmv mv bilinear", MATRIX_PRODUCTS),
    ),
    "average": (
        "average and adaptive pooling, mean, sum, cumulative sum, interpolation, sampling at given places, folding, sum or "
        "difference of two responses",
        words(
            "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum nanmean "
            "nansum cumsum fold col2im",
            SUMS | ENLARGEMENTS | SAMPLERS,
        ),
    ),
    "reshape": (
        "reshaping, permuting, slicing, concatenation, padding, writing into a slice, masks that do not depend on the input, "
        "dropout in evaluation mode",
        words(
            "flatten view view_as reshape reshape_as permute transpose swapaxes swapdims movedim moveaxis t T mT adjoint "
            "H mH matrix_transpose squeeze unsqueeze unflatten contiguous clone alias ravel getitem index "
            "select narrow slice index_select gather take_along_dim diagonal tril triu chunk unsafe_chunk split split_with_sizes "
            "unsafe_split tensor_split hsplit vsplit dsplit unbind cat concat concatenate stack hstack vstack dstack "
            "column_stack roll flip fliplr flipud rot90 unfold im2col pixel_shuffle pixel_unshuffle channel_shuffle "
            "native_channel_shuffle pad constant_pad_nd copy setitem where masked_fill select_scatter slice_scatter",
            UNMOVED | SPREADING,
        ),
    ),
    "scaling": (
        "batch norm in evaluation mode, constant factors and terms, sign",
        words("batch_norm neg negative", FACTORS | DIVISIONS),
    ),
    "max pooling": (
        "max-pooling, overlapping, padded or dilated, the largest along an axis or of two responses: its switches",
        words("max_pool1d max_pool2d max_pool2d_with_indices adaptive_max_pool1d adaptive_max_pool2d", EXTREMES),
    ),
    "activation": (
        "ReLU, ReLU6, LeakyReLU, PReLU, ELU, SELU, CELU, SiLU, hard-swish, GELU, Mish, softplus, sigmoid, tanh, clamp and their "
        "like; an autograd Function of each value alone",
        words(
            "relu relu6 hardtanh leaky_relu prelu elu selu celu silu hardswish gelu mish softplus sigmoid expit hardsigmoid "
            "tanh erf clamp clamp_min clamp_max clip threshold rrelu softsign logsigmoid log_sigmoid hardshrink softshrink "
            "tanhshrink"
        ),
    ),
    "power": ("square, root, power with a constant exponent above zero", words("square sqrt pow float_power")),
    "normalisation": (
        "layer, group, instance, root-mean-square, local response and vector norm: their statistics are the sample's",
        words("layer_norm group_norm instance_norm rms_norm local_response_norm normalize"),
    ),
    "gate": (
        "a response scaled by another: squeeze-excite, gated linear units; or divided by one with fewer values",
        frozenset(),
    ),
    "attention": (
        "softmax(QKᵀ) V, φ(Q) (φ(K)ᵀ V); a layer or a sampling whose kernels or places the input decides",
        words("scaled_dot_product_attention"),
    ),
    "product": ("product of two responses of which neither is a gate", frozenset()),
    "transform": (
        "Fourier transform",
        words("fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 view_as_real view_as_complex"),
    ),
    "nonlinear": (
        "quotient of two responses, product with what the model detached, one factor a value; softmax, exponential, norm, power "
        "below zero outside of a gate",
        words(
            "softmax softmin log_softmax logsumexp rsqrt reciprocal exp var std var_mean std_mean",
            NORMS,
        ),
    ),
    "other": ("any other operation that depends on the input", frozenset()),
}
KIND_OF = {name: kind for kind, (_, names) in KINDS.items() for name in names}


def name_of(function: Callable[..., Any]) -> str:
    """`Tensor.add_`, `torch.add`, `Tensor.__add__` and an exported program's `aten.add.Tensor` are all `add`.

    An operator of a library other than torch's keeps the name of that library: `library::add`.
    """
    schema = getattr(function, "_qualified_op_name", None) or getattr(getattr(function, "_schema", None), "name", "aten::")
    if isinstance(schema, str) and schema.split("::")[0] not in {"aten", "prims"}:
        return schema
    name = str(getattr(function, "__name__", function))
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    return name.split(".")[0].strip("_").removeprefix("special_")


def works_in_place(function: Callable[..., Any]) -> bool:
    name = str(getattr(function, "__name__", function)).split(".")[0]
    return name.endswith("_") and not name.endswith("__")


def rules_that_answer(kind: str) -> list[str]:
    return [name for name, rule in BACKWARD_RULES.items() if rule.answers[kind] is not Treatment.UNSUPPORTED]

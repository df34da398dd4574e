"""Writes docs/rules.md from the table of the code: python docs/make_rules.py"""

from pathlib import Path

from auditor.operations.rule_table import BACKWARD_RULES, KINDS, RULES, SELF_GATES

HEAD = """# Rules and operations

What each rule does to each kind of operation on the way from the class responses to the image. This is the table that decides
(`auditor/operations/rule_table.py`), printed by `python docs/make_rules.py`. What has no answer is an error that names the
operation and the rules that would work; nothing falls back in silence.
"""

SELF_GATES_LISTED = ", ".join(sorted(SELF_GATES))

NOTES = f"""

- *Adjoint*: the transpose of what the operation does, as autograd computes it: transposed kernels for convolutions,
  the forward pass's switches for max-pooling, the scale of batch norm without its shift. Where windows overlap, it
  sums.
- An *activation* is a function of each value alone. Where its derivative is asked for, it is that of the function
  itself: 0 and 1 for ReLU, 0.01 and 1 for LeakyReLU, any number for GELU.
- `guided` takes the positive part of what arrives, then multiplies by the derivative; for ReLU that is
  Springenberg's rule.
- Of two responses that are multiplied, the *gate* is, constant factors and terms and reshaping aside: the one
  that a sigmoid or softmax made, also where it was interpolated since; else the one with fewer values, before they
  were repeated to fit; else the one that another bounded function below, or an exponential, made; else the one that
  was worked out from the other, as in spatial gates and modulation; else the one that any activation made, as in
  SwiGLU, GEGLU and ReGLU (Shazeer 2020: the activation is the gate) and in attention by maps of queries and keys,
  φ(Q) (φ(K)ᵀ V) (Katharopoulos et al. 2020). Of a matrix product also the one that a softmax made and layers mixed,
  as between talking heads (Shazeer et al. 2020). The gate receives nothing, the signal everything (Arras et al.
  2019: signal takes all). A quotient's divisor is a gate where it has fewer values than what it divides: a norm
  written out.
- Where neither is a gate, as in x · flip(x), each factor gets *half* of what it gets where the other is its gate:
  for LRP that is the uniform rule for products (Achtibat et al. 2024); for `linear` and `deconv` it is our reading.
- A response times a bounded function ({SELF_GATES_LISTED}) *of itself* is an activation: SiLU, GELU and hard-swish
  written out. The constant factor of x · ReLU6(x + 3) / 6 stays a constant factor: `linear` sends back a sixth
  there, and everything through `F.hardswish`.
- A `torch.autograd.Function`, or an operator of a library other than torch's, is an activation where trial shows
  that each value of its output depends on the input's value at the same place alone; its derivative is the one that
  it declares. Any other is *other*.
- A *power* is a function of each value alone as well. `guided` sends its derivative back as it is: squares are in
  norms written out, and the rectifier of x ↦ ReLU(x)² (StarReLU, Yu et al. 2022) rectifies before it.
  A clamp of a vector's norm is a power as well: the least that is divided by, which rectifies nothing.
- The *largest* of several equal values: max-pooling and `max` along an axis choose one; `amax` and `maximum` share
  among them.
- Written out in smaller operations, which are treated one by one: multi-head attention, `F.glu`, `addcmul`,
  `addcdiv`, `lerp`, sums of a response and a product (`addmm`, `baddbmm`, `addbmm`), LSTM and GRU.
- What does nothing (dropout in evaluation mode, `to` its own type, `contiguous`) is not there at all.
- *Held fixed* means as max-pooling's switches are: gates, attention weights and the divisors of norms are constants
  of this image. The mean that a norm subtracts is linear and goes back.
- LRP-ε: the bias counts in the denominator and takes its part (Bach et al. 2015, eq. 58), and whatever else adds a
  constant is a bias too, wherever it stands: batch norm's shift, a positional embedding, an activation's value at zero
  (softplus, sigmoid). Norms share as the linear layers that they are with their divisors held fixed; gates and constant
  factors pass a relevance on (Ali et al. 2022; Achtibat et al. 2024). So no share is larger than the value it comes from
  allows: where all activations are ReLU, LeakyReLU or PReLU, and all else is a layer, an average, reshaping, scaling or
  max-pooling, LRP-ε is gradient × input (Ancona et al. 2018) but for ε, and grows as that does. It is not where an activation
  saturates (ReLU6 above 6) or bends, nor with norms of the sample, gates, attention and products.
- ε is 1e-6 times the root mean square of the layer's outputs for the sample (of a token's, or a vector's), with the sign
  of what it is added to: `Stabilizer(norm_scale=True)` of zennit. What subnormal numbers made is not divided by.
- LRP-z⁺ takes (x_i w_ij)⁺, which for inputs that are nowhere negative is Montavon's rule. To an output below zero, which
  no rectifier follows, (x_i w_ij)⁻ contribute, as in the generalised γ rule (Andéol et al. 2021) at the limit of γ: else
  a sum of two negative responses would lose all. Biases take nothing; what has no such contribution is lost. Norms, gates,
  constant factors and terms pass a relevance on. Batch norm is one layer with the convolution or linear layer whose output
  it takes, whatever no-op or reshaping stands between (Hui & Binder 2019; zennit's canonizers); under ε it makes no
  difference. A batch norm before a layer is not merged into that, nor is one that
  is written out as a product and a sum (FrozenBatchNorm2d).
- `lrp_epsilon_plus` takes ε for dense layers and z⁺ for convolutions (Kohlbrenner et al. 2020), whatever they are
  written as; all else goes as under z⁺. The convolution whose output is z_L is dense: it is the linear layer behind
  the global average, and goes by ε however it is written. Under ε, what stands directly behind a layer and adds
  constants (its bias as a sum, batch norm, a layer norm, a sigmoid) takes its part as under LRP-ε: relevance that was
  passed on would be divided by an output that may be nearly zero. With images without values below zero, networks of
  convolutions without biases, ReLU, pooling and linear layers get the maps of zennit's `EpsilonPlus` and
  `EpsilonPlusFlat`; zennit's z⁺ gives biases a share.
- `lrp_epsilon_plus_flat` shares equally among the values that a first layer's output is made of (Lapuschkin et al.
  2019: the w² rule of Montavon et al. 2017 with all weights 1): a map says at which places relevance arrives, and not
  which of their pixels are bright. First is every layer that the image reaches through no other, behind
  normalisation, padding or whatever else. Zeros and other constants around the image take no share. A first layer
  that takes the whole image as one vector would give all pixels the same: an error.
- What arrives at the image is measured before a run of LRP or gradient × input: see [the method](method.md#relevance).
- `cam` sends nothing back, and has no column: any operation will do, as long as z_L has more than one position. A z_L of one
  position, and one of tokens, whose places in the image are not known, are errors.
- `gradient_times_input` and LRP send back what *adds up* to a class's response; for the former the seed is 1 where
  the class response is positive, its derivative.
- A term of the response that the model worked out with gradients switched off is an error under every rule: its way
  back is missing. A gate that it worked out so, or detached, is held fixed.
- Dropout that is active and batch norm by the batch's statistics are errors under every rule: the model is not in
  evaluation mode.
"""


def rules_page() -> str:
    lines = [HEAD, "| rule | source | seed |", "|---|---|---|"]
    for name, rule in RULES.items():
        seed = "1 where z_c > 0" if rule.seed_one else "max(z_c, 0)"
        end = ", times the input at the end" if rule.times_input else ", enlarged to the image" if rule.enlarges else ""
        lines.append(f"| `{name}` | {rule.source} | {seed}{end} |")
    names = [f"`{name}`" for name in BACKWARD_RULES]
    lines += ["", f"| operation | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind, (about, _) in KINDS.items():
        lines.append(f"| **{kind}**: {about} | " + " | ".join(str(rule.answers[kind]) for rule in BACKWARD_RULES.values()) + " |")
    first = ["as any" if rule.first is None else str(rule.first) for rule in BACKWARD_RULES.values()]
    lines.append("| **first layer**: each layer that the image reaches through no other | " + " | ".join(first) + " |")
    lines += ["", "Operations by the names they are seen under, in place or not, as function, method or exported program:", ""]
    lines += [f"- {kind}: {', '.join(f'`{name}`' for name in sorted(names))}" for kind, (_, names) in KINDS.items() if names]
    return "\n".join(lines) + "\n" + NOTES


if __name__ == "__main__":
    Path(__file__).with_name("rules.md").write_text(rules_page(), encoding="utf-8")

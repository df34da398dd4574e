"""The networks of the soak: all classifiers of torchvision, the smallest of every timm family, classifiers of transformers.

Weights are random, by a seed; none is downloaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SOURCES = ("torchvision", "timm", "transformers")
CLASSES = 10
SAMPLES = 2
SIZES = (64, 96, 112, 128)
"""Tried in this order, and then the size that the network was made for."""
DRAWN = 8
"""Images by which batch norms get their running statistics."""


def words(text: str) -> list[str]:
    return text.split()


TIMM = words("""
    aimv2_large_patch14_224 bat_resnext26ts beit3_base_patch16_224 beit_base_patch16_224 beitv2_base_patch16_224
    botnet26t_256 caformer_s18 cait_xxs24_224 coat_tiny coatnet_pico_rw_224 coatnext_nano_rw_224 convformer_s18
    convit_tiny convmixer_768_32 convnext_zepto_rms convnextv2_atto cpubone_nano crossvit_tiny_240 cs3darknet_focus_s
    csatv2 cspdarknet53 cspnext_tiny cspresnet50 cspresnext50 darknet17 darknetaa53 davit_tiny deepseek_vit_412m
    deit_tiny_patch16_224 densenet121 densenetblur121d dla46x_c dm_nfnet_f0 dpn48b eca_botnext26ts_256 eca_nfnet_l0
    eca_resnext26ts eca_vovnet39b ecaresnet26t ecaresnetlight ecaresnext26t_32x4d edgenext_xx_small efficientformer_l1
    efficientformerv2_s0 efficientnet_lite0 efficientnetv2_rw_t efficientvim_m1 efficientvit_b0 efficientvit_m0
    ese_vovnet19b_dw eva02_tiny_patch14_224 eva_large_patch14_196 fasternet_t0 fastvit_t8 fbnetc_100 fbnetv3_b
    flexivit_small focalnet_tiny_srf gc_efficientnetv2_rw_t gcresnet33ts gcresnext26ts gcvit_xxtiny
    gernet_s ghostnet_050 ghostnetv3_050 gmixer_12_224 gmlp_ti16_224 halo2botnet50ts_256
    halonet_h1 haloregnetz_b hardcorenas_b hgnet_tiny hgnetv2_b0 hiera_tiny_224 hieradet_small hrnet_w18_small
    iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lambda_resnet26t lamhalobotnet50ts_256
    lcnet_035 lcnetv2_small legacy_seresnet18 legacy_xception levit_128s lowformer_b0 mambaout_femto
    maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 maxxvitv2_nano_rw_256 mixer_s16_224 mixnet_s mnasnet_small
    mobilenet_edgetpu_100 mobilenetv2_035 mobilenetv3_small_050 mobilenetv5_base mobileone_s1 mobilevit_xxs
    mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0
    nfnet_l0 pit_ti_224 pnasnet5large poolformer_s12 poolformerv2_s12 pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetv_040
    regnetx_002 regnety_002 regnetz_005 regnetz_b16 repghostnet_050 repvgg_a0 repvit_m1 res2next50 resmlp_12_224
    resnest14d resnet10t resnet32ts resnetaa34d resnetblur18 resnetrs50 resnetv2_18 resnext26ts resnext50_32x4d
    rexnet_100 rexnetr_100 sam2_hiera_tiny samvit_base_patch16_224 sebotnet33ts_256 sedarknet21 sehalonet33ts
    selecsls42 semnasnet_050 senet154 sequencer2d_s seresnet18 seresnet33ts seresnetaa50d seresnext26t_32x4d
    seresnext26ts seresnextaa101d_32x8d shvit_s1 skresnet18 skresnext50_32x4d spnasnet_100 starnet_s050 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tf_mixnet_s tf_mobilenetv3_small_075
    tiny_vit_5m_224 tinynet_e tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny
    vit_relpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224
    vitamin_small_224 volo_d1_224 vovnet39a wide_resnet50_2 xception41 xcit_nano_12_p16_224
""")
"""Of each family, which is a file of timm and the word that a name begins with, the one with fewest parameters."""
TRANSFORMERS = words("""
    beit bit clip convnext convnextv2 cvt data2vec-vision deit dinov2 dinov2_with_registers donut-swin efficientnet
    focalnet hgnet_v2 hiera ijepa levit metaclip_2 mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 poolformer
    pvt pvt_v2 regnet resnet segformer siglip swiftformer swin swinv2 textnet vit vit_msn
""")
"""Model types."""
SHALLOW = 4
"""Layers of a transformer whose layers are all alike, where it would have more and is large, or is one of transformers."""
LARGE = {
    "aimv2_large_patch14_224",
    "deepseek_vit_412m",
    "eva_large_patch14_196",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
}


OPERATORS: list[torch.library.Library] = []
"""Those that stand in for compiled ones: they are gone when this is."""


@dataclass(frozen=True)
class Architecture:
    """A network of a package. family: those of one are written by one function, or in one file. variant: how it is built."""

    source: str
    family: str
    name: str
    variant: str = ""

    @property
    def title(self) -> str:
        return f"{self.source}/{self.name}" + (f", {self.variant}" if self.variant else "")


@dataclass(frozen=True)
class Network:
    """model: in evaluation mode, float32, returns (N, CLASSES). images: (SAMPLES, 3, H, W) float32.

    original: the model as its package makes it, where that does not return a tensor.
    """

    model: nn.Module
    images: Tensor
    original: nn.Module | None = None


class Logits(nn.Module):
    """A classifier of transformers, as a function of the image that returns a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


def stand_in_for_compiled() -> None:
    """torchvision's compiled operators fit one build of torch; no classifier uses them, and its import wants these two alone."""
    if not hasattr(torch.ops.torchvision, "nms"):
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        OPERATORS.append(operators)


def architectures() -> Iterator[Architecture]:
    """All of them, by source, family and name."""
    stand_in_for_compiled()
    import timm
    import torchvision.models as torchvision

    for name in sorted(torchvision.list_models(module=torchvision)):
        family = torchvision.get_model_builder(name).__module__.rpartition(".")[2]
        yield Architecture("torchvision", family, name)
    for name in TIMM:
        yield Architecture("timm", timm.models.model_entrypoint(name).__module__.rpartition(".")[2], name)
    classes = classifiers()
    for name in TRANSFORMERS:
        yield Architecture("transformers", name, name)
        if classes[name]._supports_sdpa:
            yield Architecture("transformers", name, name, "attention written out")


def build(architecture: Architecture) -> Network:
    """The network with random weights, and random images of the smallest size of `SIZES`, or else its own, that it takes."""
    stand_in_for_compiled()
    torch.manual_seed(0)
    make = {"torchvision": of_torchvision, "timm": of_timm, "transformers": of_transformers}[architecture.source]
    problem: Exception | None = None
    for size, model in make(architecture):
        original = model.model if isinstance(model, Logits) else None
        images = torch.randn(DRAWN, 3, size, size, generator=torch.Generator().manual_seed(1))
        model.requires_grad_(False)
        try:
            randomise(model)
            settle(model, images)
            with torch.no_grad():
                scores = model(images[:SAMPLES])
        except (RuntimeError, AssertionError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
            problem = error
            continue
        if scores.shape != (SAMPLES, CLASSES) or not scores.isfinite().all():
            problem = ValueError(f"returns {tuple(scores.shape)}, finite: {bool(scores.isfinite().all())}")
            continue
        return Network(model, images[:SAMPLES], original)
    raise ValueError(f"{architecture.title} does not run by itself: {type(problem).__name__}: {problem}")


def of_torchvision(architecture: Architecture) -> Iterator[tuple[int, nn.Module]]:
    import torchvision.models as torchvision

    name = architecture.name
    options: dict[str, Any] = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    for size in (*SIZES, 224):
        if name.startswith("vit_"):
            patch = int(name.rpartition("_")[2])
            size = size // patch * patch
            options = {"image_size": size}
        model = torchvision.get_model(name, weights=None, num_classes=CLASSES, **options)
        if name in LARGE:
            model.encoder.layers = model.encoder.layers[:SHALLOW]
        yield size, model


def of_timm(architecture: Architecture) -> Iterator[tuple[int, nn.Module]]:
    import timm

    name = architecture.name
    settings = timm.get_pretrained_cfg(name)
    own = 224 if settings is None else settings.input_size[-1]
    for size in (*SIZES, own):
        for options in ({"img_size": size}, {}):
            options |= {"depth": SHALLOW} if name in LARGE else {}
            try:
                yield size, timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)
            except (TypeError, AssertionError, ValueError, RuntimeError, KeyError):
                continue


def of_transformers(architecture: Architecture) -> Iterator[tuple[int, nn.Module]]:
    maker = classifiers()[architecture.name]
    attention = "eager" if architecture.variant else None
    for size in (*SIZES, 224):
        config = maker.config_class(num_labels=CLASSES)
        vision = getattr(config, "vision_config", config)
        if hasattr(vision, "image_size"):
            vision.image_size = [size, size] if isinstance(vision.image_size, list | tuple) else size
        if getattr(vision, "num_hidden_layers", 0) > SHALLOW:
            vision.num_hidden_layers = SHALLOW
        config.return_dict = True
        yield size, Logits(maker._from_config(config, attn_implementation=attention))


def classifiers() -> dict[str, Any]:
    """The class of each model type of transformers that classifies images."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as NAMES

    listed = {kind: name if isinstance(name, str) else name[-1] for kind, name in NAMES.items()}
    return {kind: getattr(transformers, listed[kind]) for kind in TRANSFORMERS}


def randomise(model: nn.Module) -> None:
    """Draws the parameters that a package starts at one value, as a scale of 1e-6 or a head of 0: they hide what is behind."""
    for name, parameter in model.named_parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            if name.endswith("bias") or "bias" in name.rpartition(".")[2]:
                parameter.data.normal_(0, 0.05)
            elif parameter.numel() == max(parameter.shape):
                parameter.data.uniform_(0.5, 1.5)
            else:
                parameter.data.normal_(0, (len(parameter) / parameter.numel()) ** 0.5)


def settle(model: nn.Module, images: Tensor) -> None:
    """Gives batch norms the statistics of the images; everything else in evaluation mode, in which the model is left."""
    model.eval()
    norms = [
        layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()

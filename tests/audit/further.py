"""A third table: architectures that the finder had not seen, counted by hand from their sources before it ran on them.

Where nothing else is said: attention and feed-forward, 2 a layer of an encoder or decoder alone, 2 and 3 in pairs of them.
"""

import torch

from .architectures import VIT, hub, pixels, rope, sizes, tokens


def grouped(**more):
    return rope(head_dim=8, pad_token_id=0, **more)


def pair(**more):
    """An encoder and a decoder of two layers each."""
    return {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "vocab_size": 50,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    } | more


def both(length=6):
    return tokens(length) | {"decoder_input_ids": tokens(length)["input_ids"]}


def frames(*shape):
    return lambda: {"pixel_values": torch.randn(2, *shape)}


def features(*shape):
    return lambda: {"input_features": torch.randn(2, *shape)}


def wave():
    return {"input_values": torch.randn(2, 400)}


T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 50}
GPT = {"n_embd": 16, "n_head": 2, "n_layer": 3, "vocab_size": 50, "n_positions": 64}
SSM = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 4}
MOE = {"num_experts": 4, "num_experts_per_tok": 2}
PYRAMID = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
WAVE = sizes(
    num_hidden_layers=2,
    conv_dim=(8, 8),
    conv_stride=(5, 2),
    conv_kernel=(10, 3),
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    num_feat_extract_layers=2,
)

FURTHER = {
    # --- encoders --------------------------------------------------------------------------------------------------------
    "Megatron-BERT": hub("MegatronBert", sizes(), tokens, blocks=6),
    # attention (its skip a projection into the bottleneck), three small feed-forwards, one more, and around them all: 6 a layer
    "MobileBERT": hub(
        "MobileBert",
        {
            "vocab_size": 50,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "embedding_size": 8,
            "intra_bottleneck_size": 8,
        },
        tokens,
        blocks=12,
    ),
    "SqueezeBERT": hub("SqueezeBert", sizes(embedding_size=16, q_groups=2, k_groups=2, v_groups=2), tokens, blocks=6),
    "RoFormer": hub("RoFormer", sizes(embedding_size=16), tokens, blocks=6),
    "ConvBERT": hub("ConvBert", sizes(embedding_size=16, conv_kernel_size=3, head_ratio=1), tokens, blocks=6),
    # a shallow layer, three deep ones, a shallow one
    "CANINE": hub(
        "Canine",
        sizes(num_hash_buckets=50, num_hash_functions=2, downsampling_rate=4, local_transformer_stride=16, type_vocab_size=2),
        lambda: tokens(16),
        blocks=10,
    ),
    "I-BERT": hub("IBert", sizes(), tokens, blocks=6),
    # three layers of the encoder, two of the decoder, and the skip across the funnel
    "Funnel": hub(
        "Funnel",
        {
            "vocab_size": 50,
            "block_sizes": [1, 1, 1],
            "num_decoder_layers": 2,
            "d_model": 16,
            "n_head": 2,
            "d_head": 8,
            "d_inner": 32,
        },
        lambda: tokens(16),
        blocks=11,
    ),
    "ESM": hub("Esm", sizes(position_embedding_type="rotary", pad_token_id=0), tokens, blocks=6),
    "RemBERT": hub("RemBert", sizes(input_embedding_size=8), tokens, blocks=6),
    "BigBird": hub("BigBird", sizes(attention_type="original_full"), tokens, blocks=6),
    "RoBERTa, pre-norm": hub("RobertaPreLayerNorm", sizes(), tokens, blocks=6),
    # a stream of words and one of places on the page
    "LiLT": hub(
        "Lilt",
        sizes(hidden_size=24, channel_shrink_ratio=2, max_2d_position_embeddings=64),
        lambda: tokens() | {"bbox": torch.randint(0, 10, (2, 6, 4)).sort(-1).values},
        blocks=12,
    ),
    "BERT for generation": hub("BertGeneration", sizes(), tokens, "BertGenerationEncoder", blocks=6),
    # attention, feed-forward, and an adapter a language
    "X-MOD": hub("Xmod", sizes(languages=["en_XX"], default_language="en_XX", adapter_reduction_factor=2), tokens, blocks=9),
    "TAPAS": hub(
        "Tapas",
        sizes(type_vocab_sizes=[3, 8, 8, 8, 8, 8, 8]),
        lambda: tokens() | {"token_type_ids": torch.zeros(2, 6, 7, dtype=torch.long)},
        blocks=6,
    ),
    "Nomic-BERT": hub("NomicBert", sizes(), tokens, blocks=6),
    "EuroBERT": hub("EuroBert", rope(pad_token_id=0), tokens, blocks=6),
    # --- decoders, experts, state spaces -----------------------------------------------------------------------------------
    "BioGPT": hub("BioGpt", sizes(), tokens, blocks=6),
    "Gemma 3": hub("Gemma3Text", grouped(), tokens, blocks=6),
    "Cohere 2": hub("Cohere2", grouped(), tokens, blocks=3),  # in parallel
    "DBRX": hub(
        "Dbrx",
        {
            "d_model": 16,
            "n_heads": 2,
            "n_layers": 2,
            "max_seq_len": 64,
            "vocab_size": 50,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 16},
        },
        tokens,
        blocks=4,
    ),
    "OLMoE": hub("Olmoe", grouped(**MOE), tokens, blocks=6),
    "JetMoE": hub(
        "JetMoe",
        {
            "vocab_size": 50,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "kv_channels": 8,
            "intermediate_size": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        tokens,
        blocks=4,
    ),
    "GPT-BigCode": hub("GPTBigCode", GPT, tokens, blocks=6),
    "Granite MoE": hub("GraniteMoe", grouped(num_local_experts=4, num_experts_per_tok=2), tokens, blocks=6),
    "GLM-4": hub("Glm4", grouped(), tokens, blocks=6),
    "Nemotron": hub("Nemotron", grouped(), tokens, blocks=6),
    "Persimmon": hub("Persimmon", sizes(pad_token_id=0), tokens, blocks=6),
    "Phi-3": hub("Phi3", grouped(), tokens, blocks=6),
    "Phi-MoE": hub("Phimoe", grouped(num_local_experts=4), tokens, blocks=6),
    "Qwen3": hub("Qwen3", grouped(), tokens, blocks=6),
    "Qwen3-MoE": hub("Qwen3Moe", grouped(moe_intermediate_size=16, **MOE), tokens, blocks=6),
    "SmolLM3": hub("SmolLM3", grouped(), tokens, blocks=6),
    "StarCoder 2": hub("Starcoder2", grouped(), tokens, blocks=6),
    "DeepSeek-V3": hub(
        "DeepseekV3",
        rope(
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
        ),
        tokens,
        blocks=6,
    ),
    "DiffLlama": hub("DiffLlama", grouped(), tokens, blocks=6),
    "Helium": hub("Helium", grouped(), tokens, blocks=6),
    # the skip times a vector that is learned
    "Doge": hub("Doge", grouped(), tokens, blocks=6),
    "GPT-OSS": hub("GptOss", grouped(num_local_experts=4, num_experts_per_tok=2, sliding_window=4), tokens, blocks=6),
    "Bamba": hub("Bamba", grouped(attn_layer_indices=[1], **SSM), tokens, blocks=6),
    "Jamba": hub(
        "Jamba",
        rope(
            num_experts=2,
            num_experts_per_tok=1,
            mamba_d_state=4,
            mamba_dt_rank=4,
            use_mamba_kernels=False,
            attn_layer_offset=1,
            attn_layer_period=2,
        ),
        tokens,
        blocks=6,
    ),
    # attention and state space in parallel, then a feed-forward
    "Falcon-H1": hub("FalconH1", grouped(mamba_d_ssm=32, **SSM), tokens, blocks=6),
    "Falcon Mamba": hub(
        "FalconMamba", {"hidden_size": 16, "num_hidden_layers": 3, "vocab_size": 50, "state_size": 4}, tokens, blocks=3
    ),
    "RecurrentGemma": hub("RecurrentGemma", grouped(lru_width=16, attention_window_size=8), tokens, blocks=6),
    "xLSTM": hub(
        "xLSTM",
        {"vocab_size": 50, "hidden_size": 128, "num_blocks": 3, "num_heads": 2, "chunk_size": 6},
        tokens,
        blocks=6,
    ),
    "LFM 2": hub("Lfm2", rope(layer_types=["conv", "full_attention", "conv"], block_multiple_of=8), tokens, blocks=6),
    "MiniMax": hub("MiniMax", grouped(num_local_experts=4, block_size=4), tokens, blocks=6),
    # one mixer a layer
    "Nemotron-H": hub(
        "NemotronH",
        {
            "vocab_size": 50,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "hybrid_override_pattern": "M*-M",
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "ssm_state_size": 4,
            "n_groups": 1,
            "chunk_size": 4,
        },
        tokens,
        blocks=4,
    ),
    "Qwen3-Next": hub(
        "Qwen3Next",
        grouped(
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            **MOE,
        )
        | {"num_hidden_layers": 4},
        tokens,
        blocks=8,
    ),
    "GPT": hub("OpenAIGPT", GPT, tokens, blocks=6),
    "ImageGPT": hub("ImageGPT", GPT, tokens, blocks=6),
    "nanochat": hub("NanoChat", grouped(), tokens, blocks=6),
    "Llama 4": hub(
        "Llama4Text", grouped(intermediate_size_mlp=32, num_local_experts=2, attention_chunk_size=8), tokens, blocks=6
    ),
    "OLMo": hub("Olmo", grouped(), tokens, blocks=6),
    "GLM": hub("Glm", grouped(), tokens, blocks=6),
    "ERNIE 4.5": hub("Ernie4_5", grouped(), tokens, blocks=6),
    # --- encoder and decoder -------------------------------------------------------------------------------------------------
    "Pegasus": hub("Pegasus", pair(), both, blocks=10),
    "mBART": hub("MBart", pair(), both, blocks=10),
    "Marian": hub("Marian", pair(decoder_vocab_size=50), both, blocks=10),
    "Blenderbot": hub("Blenderbot", pair(), both, blocks=10),
    "M2M-100": hub("M2M100", pair(), both, blocks=10),
    "LED": hub(
        "LED",
        pair(attention_window=4, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64),
        lambda: both(8),
        blocks=10,
    ),
    "LongT5": hub("LongT5", T5 | {"local_radius": 3}, both, blocks=10),
    "UMT5": hub("UMT5", T5, both, blocks=10),
    "Switch": hub(
        "SwitchTransformers",
        T5 | {"num_decoder_layers": 2, "num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        both,
        blocks=10,
    ),
    "ProphetNet": hub(
        "ProphetNet",
        {
            "vocab_size": 50,
            "hidden_size": 16,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 2,
            "num_decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 64,
        },
        both,
        blocks=10,
    ),
    "FSMT": hub("FSMT", pair(langs=["a", "b"], src_vocab_size=50, tgt_vocab_size=50), both, blocks=10),
    "T5Gemma": hub(
        "T5Gemma",
        {"encoder": grouped() | {"num_hidden_layers": 2}, "decoder": grouped() | {"num_hidden_layers": 2}},
        both,
        blocks=10,
    ),
    "Speech2Text": hub(
        "Speech2Text",
        pair(
            num_conv_layers=1,
            conv_kernel_sizes=[3],
            conv_channels=16,
            input_feat_per_channel=8,
            input_channels=1,
            max_source_positions=64,
            max_target_positions=64,
        ),
        lambda: features(16, 8)() | {"decoder_input_ids": tokens()["input_ids"]},
        blocks=10,
    ),
    "Moonshine": hub(
        "Moonshine",
        {
            "vocab_size": 50,
            "hidden_size": 16,
            "intermediate_size": 32,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 2,
            "decoder_num_attention_heads": 2,
        },
        lambda: {"input_values": torch.randn(2, 4000), "decoder_input_ids": tokens()["input_ids"]},
        blocks=10,
    ),
    # --- images and films ----------------------------------------------------------------------------------------------------
    "BiT": hub(
        "Bit", {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 2, 1, 1], "num_groups": 4}, pixels, blocks=5
    ),
    # attention and feed-forward in each of three stages; two shrinking attentions without a skip, each with a feed-forward
    "LeViT": hub(
        "Levit",
        {
            "image_size": 32,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [4, 4, 4],
        },
        pixels,
        blocks=8,
    ),
    # two inverted residuals of equal width, and 2 · (2 + 4 + 3) in transformers
    "MobileViT": hub("MobileViT", {"image_size": 64, "patch_size": 2}, lambda: pixels(64), blocks=20),
    "MobileViT V2": hub(
        "MobileViTV2", {"image_size": 64, "patch_size": 2, "width_multiplier": 0.5}, lambda: pixels(64), blocks=19
    ),
    "GLPN": hub("GLPN", PYRAMID, lambda: pixels(64), blocks=8),
    "PVT": hub("Pvt", PYRAMID | {"image_size": 64}, lambda: pixels(64), blocks=8),
    # one convolution block; in each of four stages a local one, the queries around their attention, attention, feed-forward
    "SwiftFormer": hub(
        "SwiftFormer",
        {"image_size": 64, "embed_dims": [8, 16, 16, 32], "depths": [2, 1, 1, 1], "mlp_ratio": 2},
        lambda: pixels(64),
        blocks=17,
    ),
    "ViT-MSN": hub("ViTMSN", VIT, pixels, blocks=6),
    "ViT-MAE": hub("ViTMAE", VIT | {"mask_ratio": 0.5}, pixels, blocks=6),
    "VideoMAE": hub("VideoMAE", VIT | {"num_frames": 4}, frames(4, 3, 32, 32), blocks=6),
    # attention over time, over space, feed-forward
    "TimeSformer": hub("Timesformer", VIT | {"num_frames": 3}, frames(3, 3, 32, 32), blocks=9),
    "ViViT": hub("Vivit", VIT | {"num_frames": 4, "tubelet_size": [2, 8, 8]}, frames(4, 3, 32, 32), blocks=6),
    "YOLOS": hub("Yolos", VIT | {"image_size": [32, 32], "num_detection_tokens": 5}, pixels, blocks=6),
    "SigLIP": hub("SiglipVision", VIT, pixels, blocks=7),  # and the pooling head's feed-forward
    "DINOv3, convolutional": hub("DINOv3ConvNext", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 2, 2, 1]}, pixels, blocks=6),
    "DINOv3": hub("DINOv3ViT", VIT, pixels, blocks=6),
    "I-JEPA": hub("IJepa", VIT, pixels, blocks=6),
    # 2 a layer, one around each stage, one around the body
    "Swin2SR": hub(
        "Swin2SR",
        {
            "image_size": 16,
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 4,
            "patch_size": 1,
            "upscale": 2,
        },
        lambda: pixels(16),
        blocks=11,
    ),
    "Donut": hub(
        "DonutSwin",
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
        pixels,
        blocks=8,
    ),
    "ViTDet": hub(
        "VitDet", VIT | {"window_size": 2, "window_block_indices": [0], "residual_block_indices": [1]}, pixels, blocks=7
    ),
    "Hiera": hub(
        "Hiera",
        {
            "image_size": [32, 32],
            "embed_dim": 8,
            "depths": [1, 2],
            "num_heads": [1, 2],
            "masked_unit_size": [2, 2],
            "query_stride": [2, 2],
            "num_query_pool": 1,
            "patch_size": [3, 3],
            "patch_stride": [4, 4],
            "patch_padding": [1, 1],
        },
        pixels,
        blocks=6,
    ),
    "HGNet V2": hub("HGNetV2", {}, lambda: pixels(64), "HGNetV2Backbone", blocks=2),
    # --- sound, series, several streams ------------------------------------------------------------------------------------
    # 2 a layer, and the positional convolution
    "HuBERT": hub("Hubert", WAVE, wave, blocks=5),
    "WavLM": hub("WavLM", WAVE, wave, blocks=5),
    "UniSpeech": hub("UniSpeech", WAVE, wave, blocks=5),
    "SEW": hub("SEW", WAVE | {"squeeze_factor": 2}, wave, blocks=5),
    "data2vec, sound": hub("Data2VecAudio", WAVE | {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}, wave, blocks=5),
    # two half feed-forwards, attention, convolution
    "Wav2Vec2-BERT": hub(
        "Wav2Vec2Bert",
        WAVE | {"feature_projection_input_dim": 8, "position_embeddings_type": "relative_key", "conv_depthwise_kernel_size": 3},
        features(20, 8),
        blocks=8,
    ),
    "Parakeet": hub(
        "ParakeetEncoder",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "num_mel_bins": 16,
            "subsampling_conv_channels": 8,
            "conv_kernel_size": 3,
        },
        features(40, 16),
        "ParakeetEncoder",
        blocks=8,
    ),
    "AST": hub(
        "AST",
        sizes(max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8),
        lambda: {"input_values": torch.randn(2, 32, 16)},
        blocks=6,
    ),
    "CLAP, sound": hub(
        "ClapAudio",
        {
            "spec_size": 32,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "hidden_size": 32,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "window_size": 4,
            "num_mel_bins": 8,
            "patch_embeds_hidden_size": 16,
            "projection_dim": 8,
        },
        features(1, 128, 8),
        blocks=4,
    ),
    "Decision Transformer": hub(
        "DecisionTransformer",
        {"state_dim": 4, "act_dim": 2, "hidden_size": 16, "n_layer": 2, "n_head": 2, "max_ep_len": 20},
        lambda: {
            "states": torch.randn(2, 5, 4),
            "actions": torch.randn(2, 5, 2),
            "rewards": torch.randn(2, 5, 1),
            "returns_to_go": torch.randn(2, 5, 1),
            "timesteps": torch.arange(5).repeat(2, 1),
            "attention_mask": torch.ones(2, 5),
        },
        blocks=4,
    ),
    "PatchTST": hub(
        "PatchTST",
        {
            "num_input_channels": 2,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "num_hidden_layers": 2,
            "d_model": 16,
            "num_attention_heads": 2,
            "ffn_dim": 32,
        },
        lambda: {"past_values": torch.randn(2, 32, 2)},
        blocks=4,
    ),
    # mixing over patches, over features
    "PatchTSMixer": hub(
        "PatchTSMixer",
        {"num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8, "num_layers": 2, "d_model": 16},
        lambda: {"past_values": torch.randn(2, 32, 2)},
        blocks=4,
    ),
    "ViLT": hub("Vilt", VIT, lambda: tokens() | pixels(), blocks=6),
    # a layer of words, one of regions; crossing both ways, then attention and feed-forward in each
    "LXMERT": hub(
        "Lxmert",
        {
            "vocab_size": 50,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "l_layers": 1,
            "r_layers": 1,
            "x_layers": 1,
            "visual_feat_dim": 8,
            "visual_pos_dim": 4,
        },
        lambda: tokens() | {"visual_feats": torch.randn(2, 3, 8), "visual_pos": torch.randn(2, 3, 4)},
        blocks=10,
    ),
    "SuperPoint": hub(
        "SuperPoint",
        {
            "encoder_hidden_sizes": [8, 8, 16, 16],
            "decoder_hidden_size": 16,
            "keypoint_decoder_dim": 65,
            "descriptor_decoder_dim": 16,
            "keypoint_threshold": 0.0,
        },
        pixels,
        "SuperPointForKeypointDetection",
        blocks=0,
    ),
}

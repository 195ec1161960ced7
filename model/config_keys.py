"""Keys of `config.json`: those that become shapes, those that may hold one value alone, and those that change nothing here.

Source: transformers 5.23, `configuration_diffusion_gemma.py` and `configuration_utils.py`. A key of `text_config` that is not
here is refused, for it may change what the model computes; one beside it is skipped with a note, for nothing there does but
`REFUSED`.
"""

from __future__ import annotations

from typing import Any

# Keys of the text config that become ModelConfig fields: (key, field, needed).
SHAPES = (
    ("vocab_size", "vocab_size", True), ("hidden_size", "hidden_size", True),
    ("intermediate_size", "intermediate_size", True), ("num_hidden_layers", "num_layers", True),
    ("num_attention_heads", "num_heads", True), ("num_key_value_heads", "num_kv_heads", True),
    ("head_dim", "head_dim", True), ("sliding_window", "sliding_window", True), ("num_experts", "num_experts", False),
    ("top_k_experts", "top_k_experts", False), ("moe_intermediate_size", "moe_intermediate_size", False),
    ("rms_norm_eps", "rms_norm_eps", False), ("max_position_embeddings", "max_position_embeddings", False),
    ("pad_token_id", "pad_token_id", False), ("bos_token_id", "bos_token_id", False),
)  # fmt: skip
FLOATS = {"rms_norm_eps"}

# Keys that may hold only these values, because the model implements nothing else.
TEXT_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("diffusion_gemma_text",),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "attention_k_eq_v": (True,),
    "tie_word_embeddings": (True,),
    "use_bidirectional_attention": (None, "vision"),
    "num_kv_shared_layers": (0, None),
    "hidden_size_per_layer_input": (0, None),
    "use_double_wide_mlp": (False, None),
}
TOP_FIXED: dict[str, tuple[Any, ...]] = {"model_type": ("diffusion_gemma",), "tie_word_embeddings": (True,)}

_BOOKKEEPING = {
    "_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder", "label2id",
    "output_attentions", "output_hidden_states", "problem_type", "return_dict", "torch_dtype", "transformers_version",
    "use_cache",
}  # fmt: skip
_TRAINING = {"attention_dropout", "initializer_range", "output_router_logits", "router_aux_loss_coef"}
_KERNELS = {"_attn_implementation", "_experts_implementation", "attn_implementation", "experts_implementation"}
_VISION = {"vision_soft_tokens_per_image"}
# What versions before 5 wrote into every config.
_OLDER = {
    "_attn_implementation_autoset", "add_cross_attention", "bad_words_ids", "begin_suppress_tokens",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "is_decoder", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "prefix", "remove_invalid_values",
    "repetition_penalty", "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torchscript", "typical_p", "use_bfloat16",
}  # fmt: skip
HARMLESS = _BOOKKEEPING | _TRAINING | _KERNELS | _VISION | _OLDER

# Keys with a reader of their own.
TEXT_OWN = {
    "layer_types", "rope_parameters", "per_layer_config", "global_head_dim", "num_global_key_value_heads",
    "enable_moe_block", "final_logit_softcapping", "eos_token_id", "vocab_size_per_layer_input",
}  # fmt: skip
TOP_OWN = {
    "transformers_weights",
    "text_config", "vision_config", "canvas_length", "boi_token_id", "eoi_token_id", "image_token_id", "eos_token_id",
}  # fmt: skip
# Keys beside the text config that say that the weights are no plain floats.
REFUSED = ("quantization_config", "quantization", "compression_config")

TEXT = HARMLESS | TEXT_OWN | set(TEXT_FIXED) | {key for key, _, _ in SHAPES}
TOP = HARMLESS | TOP_OWN | set(TOP_FIXED)

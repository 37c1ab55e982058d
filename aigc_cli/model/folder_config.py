"""The configuration of a backbone's folder: only the fields that describe a network, and none that leads elsewhere.

open_clip and timm would follow names in it: to models on the hub, with the user's token, to other folders, and to
pretrained weights. A folder is read alone, since it may come from a stranger.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_cli.errors import AigcError
from aigc_cli.text import show_path, to_printable

_NUMBERS = "layers width mlp_ratio ls_init_value"
_BLOCK = "act_kwargs norm_kwargs block_type qk_norm scaled_cosine_attn scale_heads scale_attn_inner scale_attn scale_fc"
_FIELDS = {
    "": "model_cfg preprocess_cfg aigc_cfg",
    "model_cfg": "embed_dim vision_cfg text_cfg multimodal_cfg quick_gelu custom_text init_logit_scale init_logit_bias "
    "nonscalar_logit_scale",
    "vision_cfg": f"{_NUMBERS} {_BLOCK} head_width patch_size image_size patch_dropout attentional_pool "
    "attn_pooler_queries attn_pooler_heads no_ln_pre pos_embed_type final_ln_after_pool pool_type output_tokens "
    "timm_model_name timm_pool timm_proj timm_proj_bias timm_drop timm_drop_path",
    "text_cfg": f"{_NUMBERS} {_BLOCK} context_length vocab_size hf_tokenizer_name tokenizer_mode tokenizer_kwargs "
    "heads embed_cls pad_id eos_id no_causal_mask final_ln_after_pool pool_type proj_bias proj_type output_tokens "
    "sentence_encoder text_tower",
    "sentence_encoder": "vocab_size width heads layers mlp_width context_length",
    "tokenizer_kwargs": "clean reduction_mask strip_sep_token language",
    "act_kwargs": "approximate inplace",
    "norm_kwargs": "eps elementwise_affine bias",
    "multimodal_cfg": "mlp_ratio dim_head heads n_queries attn_pooler_heads context_length vocab_size width layers",
}
_HARMLESS = {"timm_model_pretrained": False, "timm_pretrained": False, "hf_model_pretrained": False}
_MAX_NUMBER = 10**7
_WORD = re.compile(r"[\w.+-]{1,100}(?:/[\w.+-]{1,100})?", re.ASCII)  # hf_tokenizer_name has a slash; it is not followed
_NAMES = {"timm_model_name": re.compile(r"[\w.]{1,100}", re.ASCII), "text_tower": re.compile("mini")}


def check_config(config: Mapping[str, Any], folder: Path) -> None:
    """Refuses a configuration with other fields than these, or with values that no network has.

    Raises:
        AigcError: it has; the message names the field.
    """
    for name, value in _list_fields(config, ""):
        place = f"open_clip_config.json of {show_path(folder)}"
        raise AigcError(
            f"Expected only fields that describe a network in {place}, found {name}: {to_printable(repr(value), 80)}.",
            "A folder is read alone, so it may not name other models or folders. Remove the field, or don't use it.",
        )


def _list_fields(config: Mapping[str, Any], part: str) -> Sequence[tuple[str, Any]]:
    """(field, value) of all fields that are not allowed."""
    found: list[tuple[str, Any]] = []
    allowed = _FIELDS[part].split()
    for name, value in config.items():
        if name in _HARMLESS and value is _HARMLESS[name]:
            continue
        if name not in allowed:
            found.append((name, value))
        elif name in ("preprocess_cfg", "aigc_cfg"):  # their readers check them
            continue
        elif isinstance(value, dict) and name in _FIELDS:
            found += _list_fields(value, name)
        elif not _is_plain(name, value):
            found.append((name, value))
    return found


def _is_plain(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return value == "" or bool(_NAMES.get(name, _WORD).fullmatch(value))
    if isinstance(value, list):
        return len(value) <= 16 and all(_is_plain(name, item) for item in value)
    return value is None or (isinstance(value, int | float) and abs(value) <= _MAX_NUMBER)

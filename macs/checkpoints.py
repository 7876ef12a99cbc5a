"""The authors' released weights: opened without conversion, checked entry by entry; and the way back.

`separator_FSD50K_full.pt` (separator and CLAP), `<DATASET>_mlp.pt` (projector), `<DATASET>_unet.pt` (Stable Diffusion's
UNet with the audio keys and values).
"""

import re

# LAION's names of CLAP's parts -> transformers' (correspondence: transformers' CLAP conversion script)
CLAP_RENAMES = [
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.bn0\.", "audio_branch.batch_norm."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"(blocks\.\d+)\.attn\.proj\.", r"\1.attention.output.dense."),
    (r"(blocks\.\d+)\.attn\.", r"\1.attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
]
# Training heads, and buffers that are computed: no counterpart in transformers
CLAP_UNUSED = re.compile(
    r"audio_branch\.(tscam_conv|head|spectrogram_extractor|logmel_extractor)\.|(audio|text)_transform\.|.*attn_mask$"
    r"|text_branch\.embeddings\.position_ids$"
)


def clap_from_laion(state_dict):
    """LAION CLAP's state dict -> that of transformers' ClapModel: qkv split in three, unused entries left out."""
    renamed = {}
    for name, value in state_dict.items():
        if CLAP_UNUSED.match(name):
            continue
        for pattern, replacement in CLAP_RENAMES:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[name.replace("qkv", part)] = chunk
        else:
            renamed[name] = value
    return renamed

"""Architectures that cannot be traced or edited, and why: no row of them would pass the proofs."""

from __future__ import annotations

_STREAMS = "its hidden state is several streams that every layer mixes anew, so nothing is added to one"
_NO_MLP = "it has no MLP behind attention: a layer is one module with a state"
_NORM_LAST = "a norm stands after each sum, so what attention and the MLP give is not what the layer adds"
_INDEXER = "its attention keeps the keys of an indexer beside keys and values, which are not resumed"
_SHARED = "its layers share the weights of one block, so an edit of one would change others"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("deepseek_v4", "hy_v4"), _STREAMS),
    "gemma3n_text": f"{_STREAMS}, and its layers read the token ids once more",
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"), _NO_MLP),
    **dict.fromkeys(("openai-gpt", "bert", "roberta", "xlm-roberta", "electra"), _NORM_LAST),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "axk2"), _INDEXER),
    **dict.fromkeys(("zamba", "zamba2"), _SHARED),
    "doge": "the hidden state is multiplied by weights before anything is added to it",
    "minimax": "what goes on from a layer is its normed input, multiplied",
    "gpt_neox_japanese": "its last layer adds a bias that no module gives",
    "recurrent_gemma": "its layers keep their state inside themselves, where it cannot be put back",
    "nemotron_h": "its layers are attention, a state or an MLP, none of them two",
    "longcat_flash": "its layers hold two attentions and two MLPs beside their experts",
    "hrm_text": "its layers are run several times in a pass, in two lists",
}

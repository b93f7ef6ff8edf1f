"""Architectures that cannot be traced or edited, and why: no row of them would pass the proofs."""

from __future__ import annotations

_STREAMS = "its hidden state is several streams that every layer mixes anew, so nothing is added to one"
_NO_MLP = "it has no MLP behind attention: a layer is one module with a state"
_NORM_LAST = "a norm stands after each sum, so what attention and the MLP give is not what the layer adds"
_INDEXER = "its attention keeps the keys of an indexer beside keys and values, which are not resumed"
_WEIGHTED = "the hidden state is multiplied by numbers of the layer before anything is added to it"
_HALF = "it is the decoder of an encoder-decoder, whose answers rest on an input beside the prompt"
_ENCODER = "it is an encoder that a setting makes a decoder, and its layers cannot be run without its own body"
_CONVOLVED = "a convolution over tokens stands behind each MLP, so what is written at one token reaches the next"
_OF_ANOTHER = "it goes on from the hidden states of another model"
_SHARED = "its layers share the weights of one block, so an edit of one would change others"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("deepseek_v4", "hy_v4", "qwen4_exp_text", "reformer"), _STREAMS),
    "gemma3n_text": f"{_STREAMS}, and its layers read the token ids once more",
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"), _NO_MLP),
    **dict.fromkeys(("openai-gpt", "bert", "roberta", "xlm-roberta", "electra", "bert-generation"), _NORM_LAST),
    **dict.fromkeys(("big_bird", "camembert", "data2vec-text", "ernie", "git", "rembert", "roc_bert"), _NORM_LAST),
    **dict.fromkeys(("roformer", "xlm", "xlnet", "xmod"), _NORM_LAST),
    **dict.fromkeys(("megatron-bert", "roberta-prelayernorm", "xlm-roberta-xl"), _ENCODER),
    **dict.fromkeys(("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp"), _HALF),
    **dict.fromkeys(("musicgen", "musicgen_melody", "pegasus", "plbart", "prophetnet", "trocr", "whisper"), _HALF),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "axk2", "dots3_note_text", "minimax_m3_vl_text"), _INDEXER),
    **dict.fromkeys(("inkling_text", "inkling2_text"), _CONVOLVED),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), _OF_ANOTHER),
    **dict.fromkeys(("doge", "beam", "zaya"), _WEIGHTED),
    **dict.fromkeys(("zamba", "zamba2"), _SHARED),
    "blt": "it is several transformers over bytes and patches, one inside the other",
    "cpmant": "its body takes tokens alone and no embeddings, so that nothing can be put in their place",
    "mllama": "some of its layers are run only where there is a picture",
    "minimax": "what goes on from a layer is its normed input, multiplied",
    "gpt_neox_japanese": "its last layer adds a bias that no module gives",
    "recurrent_gemma": "its layers keep their state inside themselves, where it cannot be put back",
    "nemotron_h": "its layers are attention, a state or an MLP, none of them two",
    "longcat_flash": "its layers hold two attentions and two MLPs beside their experts",
    "hrm_text": "its layers are run several times in a pass, in two lists",
}

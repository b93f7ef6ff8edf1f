"""Published and tuned settings of the methods for many facts, and where each comes from.

A preset is found by the shape of the model, never by its name.
"""

from __future__ import annotations

from typing import Any

from factedit.edit.presets import CARRIED_HERE, RATE_OF_FT, TUNED_HERE, Preset

ENCORE = "stop and damping of ENCORE's published hyper-parameter files; λ of MEMIT's"
ALPHAEDIT = "AlphaEdit's published hyper-parameter files"


SCALED_J = "UltraEdit's published layers for GPT-J scaled to the depth; rate by the matrices' shape; not tuned here"


def _xl(**settings: Any) -> Preset:
    return Preset(model="GPT-2 XL", family="gpt2", n_layer=48, d_model=1600, **settings)


def _j(**settings: Any) -> Preset:
    return Preset(model="GPT-J 6B", family="gptj", n_layer=28, d_model=4096, **settings)


def _llama3(**settings: Any) -> Preset:
    return Preset(model="Llama 3 8B", family="llama", n_layer=32, d_model=4096, vocab=128256, **settings)


def _gemma(**settings: Any) -> Preset:
    return Preset(model="Gemma 3 270M", family="gemma3_text", n_layer=18, d_model=640, **settings)


def _smol(**settings: Any) -> Preset:
    return Preset(model="SmolLM2 135M", family="llama", n_layer=30, d_model=576, vocab=49152, **settings)


def _upper(first: int, last: int) -> tuple[tuple[int, str], ...]:
    """Return the last matrices of these layers' MLPs."""
    return tuple((layer, "out") for layer in range(first, last + 1))


_XL: dict[str, Any] = {"layers": (13, 14, 15, 16, 17)}
_J: dict[str, Any] = {"layers": (3, 4, 5, 6, 7, 8), "steps": 25}
_LLAMA3: dict[str, Any] = {"layers": (4, 5, 6, 7, 8), "steps": 25, "learning_rate": 0.1}
_RELATIVE_GEMMA: dict[str, Any] = {"learning_rate": 0.04, "relative_rate": True, "subject_weight": 1.0}
_GEMMA: dict[str, Any] = {**_RELATIVE_GEMMA, "layers": (1, 2, 3), "share": 0.9}
_RELATIVE_SMOL: dict[str, Any] = {"learning_rate": 0.1, "relative_rate": True}
_SMOL: dict[str, Any] = {**_RELATIVE_SMOL, "layers": (1, 2, 3), "share": 0.9}
_OF_SEVERAL = (_gemma(settings=_GEMMA, source=CARRIED_HERE), _smol(settings=_SMOL, source=CARRIED_HERE))
_OF_ONE = (
    _gemma(settings={**_RELATIVE_GEMMA, "layers": (3,)}, source=CARRIED_HERE),
    _smol(settings={**_RELATIVE_SMOL, "layers": (3,)}, source=CARRIED_HERE),
)

ROME_JOINT_PRESETS = (
    _gemma(
        settings={
            "layers": (1, 2, 3), "clamp": 0.35, "learning_rate": 0.03, "stretch": 1.0, "share": 0.98,
            "subject_weight": 0.3, "ridge": 0.1,
        },
        source=TUNED_HERE,
    ),
)  # fmt: skip
MEMIT_PRESETS = (
    _xl(settings={**_XL, "weight": 20_000}, source="MEMIT's published hyper-parameter file"),
    _j(settings={**_J, "weight": 15_000}, source="MEMIT's published hyper-parameter file"),
    _llama3(settings={**_LLAMA3, "weight": 15_000}, source=f"{ALPHAEDIT}, for its MEMIT"),
    *_OF_SEVERAL,
)
EMMET_PRESETS = (
    _xl(settings={"layers": (17,), "weight": 1000, "softness": 0.1}, source="EMMET's published hyper-parameter file"),
    _j(
        settings={"layers": (5,), "steps": 25, "weight": 1, "softness": 0.1},
        source="EMMET's published hyper-parameter file",
    ),
    _llama3(
        settings={"layers": (5,), "steps": 25, "weight": 1, "softness": 0.1, "clamp": 4.0, "decay": 1e-3},
        source="EMMET's published hyper-parameter file for Llama 2 7B, of the same depth and width; not verified here",
    ),
    *_OF_ONE,
)
ALPHAEDIT_PRESETS = (
    _xl(settings={**_XL, "threshold": 2e-2, "l2": 10}, source=ALPHAEDIT),
    _j(settings={**_J, "threshold": 2e-2, "l2": 10}, source=ALPHAEDIT),
    _llama3(settings={**_LLAMA3, "threshold": 2e-2, "l2": 10}, source=ALPHAEDIT),
    *_OF_SEVERAL,
)
PMET_PRESETS = (
    _j(
        settings={"layers": (3, 4, 5, 6, 7, 8), "weight": 6000},
        source="PMET's published hyper-parameter file",
    ),
    _xl(settings=_XL, source="layers of MEMIT's published hyper-parameter file; PMET has none for this model"),
    _llama3(
        settings={"layers": _LLAMA3["layers"]},
        source=f"layers of {ALPHAEDIT}; PMET has none for this model",
    ),
    *_OF_SEVERAL,
)
ULTRAEDIT_PRESETS = (
    _j(
        settings={"matrices": _upper(18, 26), "learning_rate": 1e-6},
        source="UltraEdit's published hyper-parameter files",
    ),
    _llama3(
        settings={
            "matrices": (
                *((layer, "gate") for layer in range(11, 16)),
                *((layer, "in") for layer in range(18, 25)),
            ),
            "learning_rate": 1e-6,
        },
        source="UltraEdit's published hyper-parameter files",
    ),
    _xl(settings={"matrices": _upper(31, 45)}, source=SCALED_J),
    _gemma(settings={"matrices": _upper(11, 16)}, source=SCALED_J),
    _smol(settings={"matrices": _upper(19, 28)}, source=SCALED_J),
)
LOCFT_PRESETS = (
    _llama3(settings={"layer": 22}, source="LocFT-BF's published settings for Llama 3 8B Instruct"),
    _gemma(settings={"layer": 12, "learning_rate": 1e-4}, source=RATE_OF_FT),
    _smol(settings={"layer": 20}, source="LocFT-BF's published settings for Llama 3 8B Instruct, scaled to the depth"),
)
ENCORE_PRESETS = (
    _xl(settings={**_XL, "weight": 20_000, "stop_after": 4, "damping": 10}, source=ENCORE),
    _llama3(
        settings={**_LLAMA3, "learning_rate": 0.5, "weight": 15_000, "stop_after": 2, "damping": 20},
        source=ENCORE,
    ),
    _j(settings={**_J, "weight": 15_000}, source="MEMIT's published hyper-parameter file; ENCORE has none for GPT-J"),
    *_OF_SEVERAL,
)
NSE = "NSE's published hyper-parameter files"
NSE_PRESETS = (
    _xl(settings={**_XL, "weight": 10_000, "near": 35, "far": 150, "strongest": 1.0}, source=NSE),
    _j(settings={**_J, "weight": 15_000, "near": 15, "far": 100, "strongest": 0.8}, source=NSE),
    _llama3(settings={**_LLAMA3, "weight": 15_000, "near": 2.5, "far": 50, "strongest": 1.0}, source=NSE),
    *_OF_SEVERAL,
)

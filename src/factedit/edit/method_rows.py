"""The table of methods."""

from __future__ import annotations

from typing import NamedTuple


class MethodRow(NamedTuple):
    """A line of the table of methods.

    Attributes:
        what: one sentence.
        paper: where it is from.
        maker: `module:function` that makes the method from a model, a source of second moments and settings.
        ends: targets can be trained to end: there is a form with `+stop`.
    """

    what: str
    paper: str
    maker: str
    ends: bool = False


METHODS: dict[str, MethodRow] = {
    "rome": MethodRow(
        "rank-one insertion, one mean key throughout (equal to r-ROME)",
        "arXiv 2202.05262, key as in arXiv 2403.07175",
        "factedit.edit.methods.rome:rome",
        ends=True,
    ),
    "rome-original": MethodRow(
        "rank-one insertion as the published program computes it (mean key over, bare key under the bar)",
        "arXiv 2202.05262",
        "factedit.edit.methods.rome:rome_original",
        ends=True,
    ),
    "rome-joint": MethodRow(
        "ROME's keys and values of all facts in one joint solve, beside those of earlier facts",
        "arXiv 2202.05262, solved jointly as in arXiv 2210.07229",
        "factedit.edit.methods.rome_joint:rome_joint",
        ends=True,
    ),
    "memit": MethodRow(
        "hidden values of all facts by least squares over several layers, beside the keys of earlier facts",
        "arXiv 2210.07229, history as in arXiv 2605.26670",
        "factedit.edit.methods.memit:memit",
        ends=True,
    ),
    "memit-no-history": MethodRow(
        "the same as published: in a sequence the keys of earlier facts are forgotten",
        "arXiv 2210.07229",
        "factedit.edit.methods.memit:memit_no_history",
        ends=True,
    ),
    "memit-rect": MethodRow(
        "memit, of whose update only the entries that change most are kept",
        "arXiv 2210.07229, arXiv 2401.04700",
        "factedit.edit.methods.memit:memit_rect",
        ends=True,
    ),
    "prune": MethodRow(
        "memit without history, of whose summed updates large singular values grow by their logarithm only",
        "arXiv 2405.16821",
        "factedit.edit.methods.prune:prune",
        ends=True,
    ),
    "nse": MethodRow(
        "hidden values from the unedited weights, written into the strongest neurons in several rounds",
        "arXiv 2410.04045",
        "factedit.edit.methods.nse:nse",
        ends=True,
    ),
    "emmet": MethodRow(
        "hidden values of all facts written exactly, the past moved least",
        "arXiv 2403.14236",
        "factedit.edit.methods.emmet:emmet",
        ends=True,
    ),
    "alphaedit": MethodRow(
        "hidden values of all facts inside the null space of the past, beside the keys of earlier facts",
        "arXiv 2410.02355",
        "factedit.edit.methods.alphaedit:alphaedit",
        ends=True,
    ),
    "alphaedit-no-history": MethodRow(
        "the same, the keys of earlier facts forgotten: the null space alone",
        "arXiv 2410.02355",
        "factedit.edit.methods.alphaedit:alphaedit_no_history",
        ends=True,
    ),
    "alphaedit-nas": MethodRow(
        "alphaedit with values of the norm that they have on average",
        "arXiv 2410.02355, arXiv 2602.02543",
        "factedit.edit.methods.alphaedit:alphaedit_nas",
        ends=True,
    ),
    "pmet": MethodRow(
        "values for the MLP and the attention, of which the MLP's are written over several layers",
        "arXiv 2308.08742",
        "factedit.edit.methods.pmet:pmet",
        ends=True,
    ),
    "encore": MethodRow(
        "memit with an early stop and a ridge",
        "arXiv 2502.01636",
        "factedit.edit.methods.encore:encore",
        ends=True,
    ),
    "ultraedit": MethodRow(
        "one normalised gradient of all facts and one ridge solve; no subject, no optimisation",
        "arXiv 2505.14679",
        "factedit.edit.methods.ultraedit:ultraedit",
    ),
    "locft-bf": MethodRow(
        "fine-tuning of one MLP matrix in epochs over all facts",
        "arXiv 2509.22072",
        "factedit.edit.methods.tuning:locft_bf",
        ends=True,
    ),
    "ft-m": MethodRow(
        "fine-tuning of one MLP matrix, fact after fact",
        "as compared in arXiv 2509.22072",
        "factedit.edit.methods.tuning:ft_m",
        ends=True,
    ),
    "ft": MethodRow("fine-tuning of one MLP matrix", "arXiv 2202.05262", "factedit.edit.methods.ft:ft", ends=True),
    "ft-l": MethodRow(
        "fine-tuning of one MLP matrix, every entry of the change bounded",
        "arXiv 2012.00363",
        "factedit.edit.methods.ft:ft_l",
        ends=True,
    ),
    "lora": MethodRow(
        "low-rank factors of several MLP matrices, tuned on the facts through peft and merged",
        "arXiv 2106.09685",
        "factedit.edit.methods.lora:lora",
        ends=True,
    ),
    "kn": MethodRow(
        "the value rows of the neurons that hold the answer, turned to the new one",
        "arXiv 2104.08696",
        "factedit.edit.methods.kn:kn",
    ),
    "ke": MethodRow(
        "KnowledgeEditor: a trained network gates the gradient; trained on general text",
        "arXiv 2104.08164",
        "factedit.edit.methods.ke:ke",
    ),
    "ke-zsre": MethodRow(
        "KnowledgeEditor: a trained network gates the gradient; trained on zsRE",
        "arXiv 2104.08164",
        "factedit.edit.methods.ke:ke_zsre",
    ),
    "ke-cf": MethodRow(
        "KnowledgeEditor: a trained network gates the gradient; trained on CounterFact",
        "arXiv 2104.08164",
        "factedit.edit.methods.ke:ke_cf",
    ),
    "mend": MethodRow(
        "MEND: a trained network transforms the gradient's factors; trained on general text",
        "arXiv 2110.11309",
        "factedit.edit.methods.mend:mend",
    ),
    "mend-zsre": MethodRow(
        "MEND: a trained network transforms the gradient's factors; trained on zsRE",
        "arXiv 2110.11309",
        "factedit.edit.methods.mend:mend_zsre",
    ),
    "mend-cf": MethodRow(
        "MEND: a trained network transforms the gradient's factors; trained on CounterFact",
        "arXiv 2110.11309",
        "factedit.edit.methods.mend:mend_cf",
    ),
    "memory": MethodRow(
        "no weight changes: ROME's value is added where a key is like the fact's own",
        "after NeuralDB (ICLR 2026), keys and values of arXiv 2202.05262",
        "factedit.edit.methods.memory:memory",
        ends=True,
    ),
    "grace": MethodRow(
        "no weight changes: a codebook replaces what a matrix gives near the keys of facts",
        "arXiv 2211.11031",
        "factedit.edit.methods.grace:grace",
        ends=True,
    ),
    "ice": MethodRow(
        "no weight changes: the new fact is said before every prompt",
        "arXiv 2305.12740",
        "factedit.edit.methods.ice:ice",
    ),
    "ike": MethodRow(
        "no weight changes: the same after 32 demonstrations of like facts",
        "arXiv 2305.12740",
        "factedit.edit.methods.ike:ike",
    ),
    "retrieval": MethodRow(
        "no weight changes: all facts are kept as text, and the nearest one is said before a prompt",
        "arXiv 2606.00570",
        "factedit.edit.methods.retrieval:retrieval",
    ),
    "mello": MethodRow(
        "no weight changes: questions are taken apart, each part checked against the facts kept as text",
        "arXiv 2305.14795",
        "factedit.edit.methods.mello:mello",
    ),
}

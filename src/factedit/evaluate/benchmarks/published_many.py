"""What was published of many facts on one model: efficacy, other wordings and what must stay, in %.

At once: MEMIT (arXiv 2210.07229, table 2; zsRE table 1). In sequence, 2 000 facts in batches of 100: AlphaEdit (arXiv
2410.02355, table 1), whose rows are of MEMIT without history.
"""

from __future__ import annotations

from factedit.evaluate.benchmark import UNEDITED, PublishedMany

XL, J, L3, NEOX = "GPT-2 XL", "GPT-J", "Llama 3 8B Instruct", "GPT-NeoX 20B"
AT_ONCE, IN_SEQUENCE = "at once", "sequence"


def _sequence(model: str, **rows: tuple[float, float, float]) -> tuple[PublishedMany, ...]:
    names = {"unedited": UNEDITED, "memit": "memit-no-history", "rect": "memit-rect"}
    return tuple(
        PublishedMany(model, names.get(method, method), IN_SEQUENCE, 2000, values) for method, values in rows.items()
    )


COUNTERFACT_MANY = (
    PublishedMany(J, "memit-no-history", AT_ONCE, 10_000, (98.9, 88.6, 73.7)),
    PublishedMany(NEOX, "memit-no-history", AT_ONCE, 10_000, (97.2, 82.2, 70.8)),
    *_sequence(
        XL, unedited=(22.2, 24.3, 78.5), ft=(63.6, 42.2, 57.1), rome=(54.6, 51.2, 52.7), memit=(94.7, 85.8, 60.5),
        prune=(82.1, 78.6, 53.0), rect=(92.2, 81.2, 65.1), alphaedit=(99.5, 94.0, 66.4),
    ),
    *_sequence(
        J, unedited=(16.2, 18.6, 83.1), ft=(92.2, 72.4, 43.4), rome=(57.5, 54.2, 52.1), memit=(98.6, 95.5, 63.6),
        prune=(86.2, 86.9, 53.9), rect=(98.8, 86.6, 72.2), alphaedit=(99.8, 96.4, 75.5),
    ),
    *_sequence(
        L3, unedited=(7.9, 10.6, 89.5), ft=(83.3, 67.8, 46.6), rome=(64.4, 61.4, 49.4), memit=(65.7, 64.7, 51.6),
        prune=(68.3, 64.8, 49.8), rect=(66.1, 63.6, 61.4), alphaedit=(98.9, 94.2, 67.9),
    ),
)  # fmt: skip
ZSRE_MANY = (
    PublishedMany(J, "memit-no-history", AT_ONCE, 10_000, (96.7, 89.7, 26.6)),
    *_sequence(
        XL, unedited=(22.2, 31.3, 24.2), ft=(37.1, 33.3, 10.4), rome=(47.5, 43.6, 14.3), memit=(79.2, 71.4, 26.4),
        prune=(21.6, 19.3, 13.2), rect=(81.0, 73.1, 24.9), alphaedit=(94.8, 86.1, 25.9),
    ),
    *_sequence(
        J, unedited=(26.3, 25.8, 27.4), ft=(72.4, 68.9, 19.7), rome=(56.4, 54.7, 9.9), memit=(94.9, 90.2, 30.4),
        prune=(0.2, 0.2, 0.0), rect=(96.4, 91.2, 27.8), alphaedit=(99.8, 96.0, 28.3),
    ),
    *_sequence(
        L3, unedited=(37.0, 36.3, 31.9), ft=(30.5, 30.2, 15.5), rome=(2.0, 1.8, 0.7), memit=(34.6, 31.3, 18.5),
        prune=(24.8, 23.9, 20.7), rect=(86.1, 80.5, 31.7), alphaedit=(94.5, 91.1, 32.6),
    ),
)  # fmt: skip

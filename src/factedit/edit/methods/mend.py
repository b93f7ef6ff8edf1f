"""MEND (arXiv 2110.11309): three methods that differ in what their network was trained on.

`mend` on general text that the model itself continues, `mend-zsre` on zsRE questions, `mend-cf` on CounterFact.
The network is in `network_mend.py`; `factedit train mend MODEL --data general|zsre|counterfact` trains it.
`mend-NAME` is the same with a network trained on a file NAME of a user's own facts.
"""

from __future__ import annotations

from factedit.edit.hypernetwork import maker

PAPER = "arXiv 2110.11309"

mend = maker("mend", PAPER)
mend_zsre = maker("mend-zsre", PAPER)
mend_cf = maker("mend-cf", PAPER)

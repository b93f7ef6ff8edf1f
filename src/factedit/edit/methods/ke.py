"""KnowledgeEditor (arXiv 2104.08164): three methods that differ in what their network was trained on.

`ke` on general text that the model itself continues, `ke-zsre` on zsRE questions, `ke-cf` on CounterFact.
The network is in `network_ke.py`; `factedit train ke MODEL --data general|zsre|counterfact` trains it.
`ke-NAME` is the same with a network trained on a file NAME of a user's own facts.
"""

from __future__ import annotations

from factedit.edit.hypernetwork import maker

PAPER = "arXiv 2104.08164"

ke = maker("ke", PAPER)
ke_zsre = maker("ke-zsre", PAPER)
ke_cf = maker("ke-cf", PAPER)

"""Written answers: left to itself, does the model write the new object and nothing else? (WILD, arXiv 2502.11177)

Greedy, at most 50 tokens, no part of the answer fed in, stopped at a full stop, a line's end or the end token, in three
forms of the prompt. Exact match is taken after SQuAD's normalisation. Since a text stops at its first full stop, an
object that holds one inside (St. Louis) can never be matched exactly: that test counts as not executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Metric, Outcome, mean_of
from factedit.evaluate.writing import NO_CHAT, TOKENS, Writing, Written, can_be_matched, exact, first_sentence
from factedit.facts import FactRecord
from factedit.text import begins_with, words

QUESTION = "Please answer the question:\n\nQ: {}\nA:"
FORMS = {
    "bare": "the prompt itself", "qa": "the prompt as a question (Q: … A:)", "chat": "the prompt in the chat template",
}  # fmt: skip
N_GRAM = 3  # of words, whose repetitions are counted
_WILD = "arXiv 2502.11177"


@dataclass(frozen=True)
class WrittenAnswers(Metric):
    """Answers in three forms, repetitions, and what is written elsewhere.

    Attributes:
        tokens: that are written at most.
    """

    tokens: int = TOKENS

    name = "written"
    what = "does the model, left to itself, write the new object, stop there, and write the same elsewhere"
    source = f"{_WILD}, section 3"
    compares = True
    columns = (
        *(Column(f"{form}_exact", f"the written answer is the new object, SQuAD-normalised; {what}", source=_WILD)
          for form, what in FORMS.items()),
        *(Column(f"{form}_opens", f"the written answer opens with the new object; {what}", source=_WILD)
          for form, what in FORMS.items()),
        Column("written_stays", "share of neighborhood prompts that are answered with the unedited model's tokens",
               source=_WILD),
        Column("written_repeats", "share of the free text's word trigrams that stood in it before", better="lower",
               source="after arXiv 1908.04319"),
        Column("written_specials", "share of the free text's tokens that are special tokens, the end aside",
               better="lower", source="own"),
    )  # fmt: skip

    def asks(self, record: FactRecord) -> list[Written]:
        """Return the prompt in its three forms, bare without a stop, and the neighbours."""
        prompt = record.request.text
        forms = [
            Written(prompt, whole=True, tokens=self.tokens),
            Written(QUESTION.format(prompt), tokens=self.tokens),
            Written(prompt, chat=True, tokens=self.tokens),
        ]
        return [*forms, *(Written(neighbor, tokens=self.tokens) for neighbor in record.neighborhood)]

    def scored(self, answered: Answered) -> Outcome:
        """Return per form the answer's scores; repetitions and special tokens of the bare text; locality."""
        target = answered.record.request.target_new
        forms: dict[str, Writing | None] = dict(zip(FORMS, answered.replies, strict=False))
        matched = can_be_matched(target)
        by_score: dict[str, Sequence[float | None]] = {}
        for form, written in forms.items():
            by_score[f"{form}_exact"] = [
                None if written is None or not matched else 100.0 * exact(written.text, target)
            ]
            by_score[f"{form}_opens"] = [None if written is None else 100.0 * begins_with(written.text, target)]
        pairs = zip(answered.replies[len(FORMS) :], answered.before[len(FORMS) :], strict=True)
        by_score["written_stays"] = [100.0 * (now.ids == before.ids) for now, before in pairs]
        free = answered.replies[0]
        by_score["written_repeats"] = [100 * repeated(free.text)]
        by_score["written_specials"] = [100 * free.special / len(free.ids) if free.ids else 0.0]
        means = {name: mean_of(values) for name, values in by_score.items()}
        texts = {form: NO_CHAT if written is None else _shown(form, written) for form, written in forms.items()}
        return Outcome(
            {name: mean for name, (mean, _) in means.items()},
            {"written": texts},
            {name: tests for name, (_, tests) in means.items()},
        )

    def describe(self) -> dict[str, Any]:
        """Return the protocol."""
        return {"tokens": self.tokens, "question": QUESTION, "n_gram": N_GRAM}

    def notes(self) -> dict[str, str]:
        """Return the protocol in words."""
        return {
            "written answers": f"greedy, at most {self.tokens} tokens, to a full stop, a line's end or the end token; "
            "exact after SQuAD's normalisation; repetitions in the bare prompt's text without that stop; no chat form "
            "where the tokenizer has no chat template that works, no exact match where the object holds a full stop"
        }


def repeated(text: str) -> float:
    """Return the share of a text's trigrams of words that stood in it before; 0 of a text without trigrams."""
    parts = words(text)
    grams = list(zip(*(parts[i:] for i in range(N_GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _shown(form: str, written: Writing) -> str:
    """Return what is kept of a text: the free one whole, of the others their sentence."""
    return written.text if form == "bare" else first_sentence(written.text)

"""A question taken apart, each part checked against facts kept as text (MeLLo, arXiv 2305.14795, section 5).

Only prompts that end in a question ("Q: … A:") are taken apart; others are left as they are. The model writes a part,
its own answer to it, and, shown the nearest fact, the answer that it takes over; after some rounds it is asked for the
whole. What it is asked at last is the chain up to "Final answer:". The words and examples are this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from factedit.edit.effects.of_prompts import OfPrompts
from factedit.edit.effects.retrieved import Retrieved
from factedit.errors import EditError, RequestError
from factedit.models.adapter import EditableModel

LINE = 40  # tokens of a line at most
PART, OWN, FACT, TAKEN, FINAL = "Part:", "Own answer:", "Known fact:", "Answer so far:", "Final answer:"
EXAMPLES = """Question: In which country is the city where the Vasa Museum stands?
Part: In which city does the Vasa Museum stand?
Own answer: The Vasa Museum stands in Stockholm.
Known fact: The Vasa Museum stands in Bergen
Answer so far: Bergen
Part: In which country is Bergen?
Own answer: Bergen is in Norway.
Known fact: The capital of Portugal is Porto
Answer so far: Norway
Final answer: Norway

Question: What language is spoken where the composer of Finlandia was born?
Part: Who composed Finlandia?
Own answer: Finlandia was composed by Jean Sibelius.
Known fact: The author of Faust was born in Weimar
Answer so far: Jean Sibelius
Part: Where was Jean Sibelius born?
Own answer: Jean Sibelius was born in Finland.
Known fact: Jean Sibelius was born in Hungary
Answer so far: Hungary
Part: What language is spoken in Hungary?
Own answer: Hungarian is spoken in Hungary.
Known fact: The Vasa Museum stands in Bergen
Answer so far: Hungarian
Final answer: Hungarian

"""


@dataclass(frozen=True, eq=False)
class Decomposed(OfPrompts):
    """Facts as text that the parts of a question are checked against.

    Attributes:
        facts: looked up for every part.
        rounds: parts of a question at most.
        instead: what to do with it where weights are wanted.
    """

    kind: ClassVar[str] = "decomposed"
    instead: ClassVar[str] = "Use it in memory, from Python (factedit.load_edited)"
    facts: Retrieved = field(repr=False)
    rounds: int = 4

    def on_prompt(self, text: str) -> str:
        """Return a text that is no question.

        Raises:
            EditError: a question, which the model itself takes apart.
        """
        if question_of(text) is None:
            return text
        raise EditError("The model itself takes a question apart: ask with it, edit.on_prompts(model, [prompt]).")

    def on_prompts(self, model: EditableModel, texts: Sequence[str]) -> list[str]:
        """Return the chain of every question up to its final answer; other texts as they are.

        Args:
            model: writes the chains; with whatever hooks are active.
            texts: prompts.

        Raises:
            RequestError: a chain longer than the context.
            EditError: facts of another model.
        """
        questions = [question_of(text) for text in texts]
        return [
            text if question is None else self._chain(model, question)
            for text, question in zip(texts, questions, strict=True)
        ]

    def _chain(self, model: EditableModel, question: str) -> str:
        said, line = f"{EXAMPLES}Question: {question}\n", PART
        for _ in range(self.rounds):
            part = line.removeprefix(PART).strip() or written_line(model, said + PART)
            said += f"{PART} {part}\n"
            said += f"{OWN} {written_line(model, said + OWN)}\n"
            [near] = self.facts.nearest(model, [part])
            said += "".join(f"{FACT} {fact}\n" for fact in near)
            said += f"{TAKEN} {written_line(model, said + TAKEN)}\n"
            line = written_line(model, said)  # the next part, or the end
            if not line.startswith(PART):
                break
        return said + FINAL

    def followed_by(self, other: Decomposed) -> Decomposed | None:
        """Return the facts of both; None where they are looked up in another way."""
        both = self.facts.followed_by(other.facts) if self.rounds == other.rounds else None
        return None if both is None else Decomposed(both, self.rounds)

    def fields(self) -> dict[str, Any]:
        """Return the facts, how they are looked up, and how often."""
        return {**self.facts.fields(), "rounds": self.rounds}

    def tensors(self) -> dict[str, Tensor]:
        """Return the facts' states."""
        return self.facts.tensors()

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return that of the states."""
        rest, _ = _apart(fields)
        return Retrieved.shapes(rest)

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the facts back from what is stored."""
        rest, rounds = _apart(fields)
        return cls(Retrieved.read(rest, tensors), rounds)


def _apart(fields: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    rounds = fields["rounds"]
    if type(rounds) is not int or rounds < 1:
        raise ValueError(f"rounds {rounds!r} must be a number of at least 1")
    return {name: value for name, value in fields.items() if name != "rounds"}, rounds


def question_of(text: str) -> str | None:
    """Return the question that a prompt ends in ("Q: … A:"), or None where it ends in none."""
    before, mark, rest = text.rstrip().removesuffix("A:").rpartition("Q:")
    del before
    return rest.strip() if mark and text.rstrip().endswith("A:") and rest.strip() else None


@torch.no_grad()
def written_line(model: EditableModel, text: str) -> str:
    """Return what the model writes greedily behind a text, up to the end of the line or of its context.

    Raises:
        RequestError: the text leaves no room in the context.
    """
    given = model.tokenizer(text, return_tensors="pt").to(model.device)
    tokens = given["input_ids"].shape[1]
    if tokens >= model.context_length:
        raise RequestError(
            f"A question is taken apart behind examples, {tokens} tokens so far; {model.name} reads "
            f"{model.context_length}. Use a model with a longer context, fewer rounds, or the method retrieval."
        )
    written = model.lm.generate(
        **given, max_new_tokens=min(LINE, model.context_length - tokens), do_sample=False, stop_strings=["\n"],
        tokenizer=model.tokenizer,
    )  # fmt: skip
    added = model.tokenizer.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(added).strip(" ").partition("\n")[0].strip()

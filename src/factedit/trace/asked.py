"""What is asked of a run that is traced: which tokens stand there, and what is read of its final hidden states.

By default the probability of the token that the clean run ranks first (ROME, arXiv 2202.05262, section 2.1). A chosen
answer of several tokens is read token by token, each after the ones before: its probability is their product. Against
another answer the difference of the logits is read, where the two first differ (as in arXiv 2211.00593, and as
arXiv 2309.16042 advises beside probabilities).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.engine import budget
from factedit.engine.resume import next_tokens, read_out
from factedit.engine.vocabulary import log_probability
from factedit.errors import RequestError, UsageError, shown
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate, strings, subject_continuations

MEASURES = ("probability", "logit-difference")


@dataclass(frozen=True)
class Readout:
    """What is read of a run.

    Attributes:
        at: the positions that are read, ascending; the first is the prompt's last token.
        answer: the token that is expected after each.
        against: the token whose logit is taken from the answer's at the one position; None: the answer's probability.
    """

    at: tuple[int, ...]
    answer: tuple[int, ...]
    against: int | None = None

    def value(self, model: EditableModel, final: Tensor) -> Tensor:
        """Return the value of every row `[rows]`, in float64, from final hidden states `[rows, len(at), d_model]`."""
        tokens = torch.tensor(self.answer, device=final.device)
        values = []
        for part in final.split(max(1, budget.READS_RESTORED // len(self.at))):
            logits = read_out(model, part.flatten(0, 1))
            if self.against is not None:
                values.append(logits[:, self.answer[0]].double() - logits[:, self.against].double())
            else:
                told = log_probability(logits, tokens.repeat(len(part)))
                values.append(told.double().view(len(part), -1).sum(1).exp())
        return torch.cat(values)


class TracePrompt(NamedTuple):
    """A prompt, and what is read after it.

    Attributes:
        ids: its tokens, followed by those of the answer but the last.
        subject_range: token positions of the subject.
        tokens: how many of the ids are the prompt's; these are restored.
        readout: None: the token that the clean run ranks first.
        answer: in text; empty where the readout is None.
        against: in text; empty where nothing is compared with.
    """

    ids: tuple[int, ...]
    subject_range: tuple[int, int]
    tokens: int
    readout: Readout | None
    answer: str = ""
    against: str = ""


def prompt_to_trace(
    model: EditableModel, template: str, subject: str, *, answer: str = "", against: str = "", replaced: str = "",
    measure: str = MEASURES[0],
) -> TracePrompt:  # fmt: skip
    """Return what is asked.

    Args:
        model: the model.
        template: the prompt with one `{}` for the subject.
        subject: what stands there.
        answer: that is asked for; empty: what the model says.
        against: another answer, for the difference of logits.
        replaced: the other subject, where the run is corrupted by one; its answer is what is compared with where
            `against` is empty.
        measure: one of `MEASURES`.

    Raises:
        UsageError: an unknown measure, or a difference without what it is taken from.
        RequestError: an answer cannot be read, the two do not differ, or one is the beginning of the other.
    """
    if measure not in MEASURES:
        raise UsageError(f"The measure {measure!r} is not one of {', '.join(MEASURES)}.")
    if measure == MEASURES[0] and not against:
        return _probability(model, template, subject, answer)
    if against and not answer:
        raise UsageError(f"{against!r} is what the answer is compared with: name the answer, too.")
    if against:
        return _difference(model, template, subject, answer, against)
    if not replaced or answer:
        raise UsageError("A difference of logits needs two answers, or another subject whose answer it is taken from.")
    return _difference_of_subjects(model, template, subject, replaced)


def _probability(model: EditableModel, template: str, subject: str, answer: str) -> TracePrompt:
    if not answer:
        text = locate(model, template, subject)
        return TracePrompt(text.ids, text.subject_range, len(text.ids), None)
    [(whole, first)] = subject_continuations(model, [template], subject, answer)
    ids = whole.ids[:-1]
    return TracePrompt(
        ids, whole.subject_range, first, Readout(tuple(range(first - 1, len(ids))), whole.ids[first:]), answer
    )


def _difference(model: EditableModel, template: str, subject: str, answer: str, against: str) -> TracePrompt:
    [(one, first)] = subject_continuations(model, [template], subject, answer)
    [(other, _)] = subject_continuations(model, [template], subject, against)
    same = next((n for n, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b), None)
    if same is None or same < first:
        raise RequestError(
            f"The answers {shown(answer)} and {shown(against)} cannot be compared: one is the beginning of the other, "
            "or the tokenizer joins them with the prompt. Choose two that differ in their first word."
        )
    readout = Readout((same - 1,), (one.ids[same],), other.ids[same])
    return TracePrompt(one.ids[:same], one.subject_range, first, readout, answer, against)


def _difference_of_subjects(model: EditableModel, template: str, subject: str, replaced: str) -> TracePrompt:
    text, other = locate(model, template, subject), locate(model, template, replaced)
    tokens = next_tokens(model, [text.ids, other.ids])
    answer, against = strings(model, tokens)
    if tokens[0] == tokens[1]:
        raise RequestError(
            f"The model answers {answer!r} for {shown(subject)} and for {shown(replaced)}: choose a subject with "
            "another answer, or name the answers."
        )
    readout = Readout((len(text.ids) - 1,), (tokens[0],), tokens[1])
    return TracePrompt(text.ids, text.subject_range, len(text.ids), readout, answer, against)

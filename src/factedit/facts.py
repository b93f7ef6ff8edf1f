"""A fact, written down: the request to change it and the prompts that test the change.

The shapes are those of CounterFact (Meng et al. 2022, appendix D); every data set reads into them.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from factedit.errors import RequestError, shown
from factedit.text import (
    find_word,
    goes_on,
    is_blank,
    is_unicode,
    is_unspaced,
    is_whole,
    needs_no_space,
    opens_a_quotation,
)


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One fact (subject, relation, object) and the object it shall have.

    Args:
        subject: the subject s, e.g. `"The Space Needle"`.
        prompt: the relation as a template with exactly one `{}` for the subject.
        target_new: the object o* the model shall give after the edit.
        target_true: the object o_c it should give before, where known.

    Raises:
        RequestError: an empty subject, prompt or target; not exactly one `{}`; half a character.
    """

    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None

    def __post_init__(self) -> None:
        check_unicode(self.subject, self.prompt, self.target_new, self.target_true or "")
        check_template(self.prompt, self.subject)
        if is_blank(self.target_new):
            raise RequestError("The target is empty: give the object the model shall answer with.")

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return fill(self.prompt, self.subject)


@dataclass(frozen=True, kw_only=True)
class FactRecord:
    """A request with the prompts that test it; one *case* of an evaluation.

    Args:
        case_id: a name unique within the data set.
        request: the edit to make.
        paraphrases: other wordings of the same question (complete texts).
        neighborhood: prompts about other subjects for which `target_true` is right.
        attribute: prompts about other subjects for which `target_new` is right.
        generation: prompts about the subject, to be continued freely.
        relation_id: the relation, e.g. Wikidata's `"P131"`.
        loc_answer: zsRE: the right answer of the (single) neighborhood prompt.
    """

    case_id: str
    request: EditRequest
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[str, ...] = ()
    attribute: tuple[str, ...] = ()
    generation: tuple[str, ...] = ()
    relation_id: str | None = None
    loc_answer: str | None = None

    @property
    def answered_neighbor(self) -> tuple[str, str] | None:
        """A prompt about something else with the right answer that it must keep, where the record names one."""
        return (self.neighborhood[0], self.loc_answer) if self.loc_answer is not None and self.neighborhood else None

    @property
    def wordings(self) -> frozenset[str]:
        """The prompt and its paraphrases, by which records are told apart."""
        return frozenset(text.strip() for text in (self.request.text, *self.paraphrases))


@dataclass(frozen=True, kw_only=True)
class KnownFact:
    """A fact to trace: a complete prompt, its subject, and the answer it should have.

    Args:
        fact_id: a name unique within the data set.
        prompt: the complete text, without the answer.
        subject: a part of `prompt`.
        answer: what should come next; empty: whatever the model says.
        other_subject: corrupt by this subject instead of noise; empty: noise.

    Raises:
        RequestError: the subject is empty or not in the prompt; half a character.
    """

    fact_id: str
    prompt: str
    subject: str
    answer: str = ""
    other_subject: str = ""

    def __post_init__(self) -> None:
        check_unicode(self.prompt, self.subject, self.answer, self.other_subject)
        template_of(self.prompt, self.subject)


def check_unicode(*texts: str) -> None:
    """Refuse a text with half a character, which no tokenizer reads and no file holds.

    Raises:
        RequestError: quoting the first of them.
    """
    for text in texts:
        if not is_unicode(text):
            raise RequestError(
                f"The text {shown(text, 120)} holds half a character (a lone surrogate): bytes that are not UTF-8 were "
                "read as text. Write it again in UTF-8."
            )


def check_template(template: str, subject: str) -> None:
    """Refuse an empty subject and a template without exactly one `{}`.

    Raises:
        RequestError: saying how many `{}` were found.
    """
    if is_blank(subject):
        raise RequestError("The subject is empty: name what the fact is about.")
    if is_blank(template):
        raise RequestError("The prompt is empty: write the relation as a template, e.g. '{} is located in'.")
    count = template.count("{}")
    if count != 1:
        raise RequestError(
            f"The prompt {shown(template, 120)} holds {count} '{{}}': write it with exactly one, "
            "where the subject stands, e.g. '{} is located in'."
        )


def fill(template: str, subject: str) -> str:
    """Return the template with the subject in place of its `{}` (braces elsewhere stay as they are)."""
    return template.replace("{}", subject, 1)


def template_of(prompt: str, subject: str) -> str:
    """Return the template whose filled form is `prompt`: the subject becomes `{}` where it first stands as whole words.

    Where it stands only inside other words ("Cat" in "Catherine"), its first occurrence is taken.

    Raises:
        RequestError: the subject is empty or does not occur in the prompt, or the prompt is a template already.
    """
    if "{}" in prompt:
        raise RequestError(
            f"The prompt {shown(prompt, 120)} holds '{{}}': write it out, with the subject {shown(subject)} in it."
        )
    if is_blank(subject):
        raise RequestError("The subject is empty: name what the fact is about.")
    at = find_word(prompt, subject)
    if at < 0:
        alike = unicodedata.normalize("NFC", subject) in unicodedata.normalize("NFC", prompt)
        how = ", where its accents are written otherwise (one character or two)" if alike else ""
        raise RequestError(
            f"The subject {shown(subject)} does not occur in the prompt {shown(prompt, 120)}: "
            f"write it as it stands there{how}."
        )
    return prompt[:at] + "{}" + prompt[at + len(subject) :]


def with_space(text: str, target: str) -> str:
    """Return the target as it follows `text`, with what stands between them where `text` brings nothing of the kind.

    That is one space; none where `text` ends in white space (which stays), in an opening quote, an opening bracket or a
    currency sign, or in the middle of a word ("Franco-"), or where either belongs to a script without spaces. A space
    that the target is written with stays one space.
    """
    bare = target.strip()
    joined = text[-1:].isspace() or (needs_no_space(text, bare) and not target[:1].isspace())
    return bare if joined else " " + bare


def asked_of(request: EditRequest) -> tuple[str, str]:
    """Return subject and relation, letter case and spaces aside: two requests with the same are about one fact."""
    return one_spelling(request.subject), one_spelling(request.prompt)


def one_spelling(text: str) -> str:
    """Return a text with letter case, spaces and the way accents are written (one character or two) set aside."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _closes(sign: str) -> bool:
    """Whether a sign is written right after a word: a comma, a closing bracket."""
    return sign in ",;:!?%…" or unicodedata.category(sign) in ("Pe", "Pf")


def notes_on_request(request: EditRequest) -> tuple[str, ...]:
    """Return what is done with the spaces and the characters of a request that its writer may not expect, in
    sentences.
    """
    text, target = request.text, request.target_new.strip()
    notes = _at_the_end(text)
    if not text[-1:].isspace() and with_space(text, request.target_new) == target:
        if opens_a_quotation(text):
            notes.append(f"No space is put between {text[-1]!r} and {target!r}, since {text[-1]!r} opens something.")
        elif goes_on(text):
            notes.append(
                f"No space is put between {text[-1]!r} and {target!r}, since a word goes on after {text[-1]!r}. "
                "Write the target with a space in front where there shall be one."
            )
        elif is_unspaced(text[-1:]) != is_unspaced(target[:1]):
            notes.append(
                f"No space is put between {text[-1]!r} and {target!r}, since one of them is written without spaces. "
                "Write the target with a space in front where there shall be one."
            )
    if _closes(target[0]) and target == request.target_new and with_space(text, target) != target:
        notes.append(
            f"A space is put between {text[-1]!r} and {target!r}, as before any answer. Write {target[0]!r} at the "
            "prompt's end where there shall be none."
        )
    if unicodedata.normalize("NFC", target) != target:
        notes.append(
            f"The target {target!r} is written with separate accents (not in Unicode's NFC), which models seldom "
            "write. It is taken as it is."
        )
    return tuple(notes)


def notes_on_prompt(prompt: str, subject: str) -> tuple[str, ...]:
    """Return the same of a complete prompt and its subject, to be traced."""
    notes = _at_the_end(prompt)
    at = find_word(prompt, subject)
    if at >= 0 and not is_whole(prompt, at, at + len(subject)):
        notes.append(f"The subject {subject!r} stands in the prompt only as a part of another word; that is taken.")
    return tuple(notes)


def _at_the_end(prompt: str) -> list[str]:
    if prompt != prompt.rstrip():
        return ["The prompt ends in white space. It is counted to the answer: the model is asked to write it."]
    if unicodedata.category(prompt[-1:] or " ") in ("Cf", "Cc"):
        return [f"The prompt ends in a character that is not seen (U+{ord(prompt[-1]):04X}), which the model reads."]
    return []

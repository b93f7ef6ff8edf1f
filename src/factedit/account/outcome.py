"""What an audit found, and how it is said: what is certain, what is likely, what is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from factedit.account.difference import SKETCH, Difference
from factedit.errors import shown
from factedit.markup import table
from factedit.markup.frozen import Drawing, in_notebook

SHOWN = 20  # tensors in a table
FRAME, LINE = 490, 42  # pixels of the outcome in a notebook: beside its rows, of a row
NAMED = 5  # of what is said in words
EXCITED = 0.5  # share of a key that a difference reads, above which its subject is named as edited (docs/log.md)


@dataclass(frozen=True)
class Suspicion:
    """A candidate, and how much the difference looks like an edit of it.

    Attributes:
        subject, prompt: the candidate.
        score: share of the candidate's key that lies in the difference's input space, 0 to 1.
        rise: by how much the token that gains most gains at the prompt, as a difference of probabilities.
        promoted: next tokens whose probability rises most: (token, base, suspect).
        through_head: tokens that the added value ranks first through norm and head alone.
    """

    subject: str
    prompt: str
    score: float
    rise: float
    promoted: tuple[tuple[str, float, float], ...]
    through_head: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """The outcome.

    Attributes:
        base, suspect: what was compared.
        differences: every tensor that differs.
        tensors: how many were compared.
        low_rank: the differences are of low rank and lie in MLP matrices only.
        candidates: how many subjects were looked at.
        suspicions: the likeliest, best first, by key and rise together.
        with_moment: keys were compared in the metric of C.
        excited: every candidate whose key is read by at least `EXCITED`, best first: (subject, prompt, share). Empty
            where keys were not compared in the metric of C.
        spread: where the differences of low rank lie as training with LoRA would put them; empty where they do not.
        ledger: what the suspect's own folder says was done to it, one line each; nobody vouches for it.
    """

    base: str
    suspect: str
    differences: tuple[Difference, ...]
    tensors: int
    low_rank: bool
    candidates: int
    suspicions: tuple[Suspicion, ...]
    with_moment: bool
    spread: str = ""
    ledger: tuple[str, ...] = ()
    excited: tuple[tuple[str, str, float], ...] = ()

    @property
    def verdict(self) -> str:
        """`no difference`, `a low-rank edit`, `a low-rank edit or LoRA training`, or `not a low-rank edit`."""
        if not self.differences:
            return "no difference"
        if not self.low_rank:
            return "not a low-rank edit"
        return "a low-rank edit or LoRA training" if self.spread else "a low-rank edit"

    def statement(self) -> str:
        """Return what is certain and what is not, in plain words."""
        if not self.ledger:
            return self._compared()
        told = "; ".join(self.ledger[:NAMED]) + (" …" if len(self.ledger) > NAMED else "")
        return f"{self._compared()} The folder's own ledger, for which nobody vouches here, says: {told}."

    def _compared(self) -> str:
        if not self.differences:
            return f"Certain: no difference in {self.tensors} tensors, to the bit (rounding to a narrower type aside)."
        ranks = ", ".join(f"{d.tensor} ({_rank(d)})" for d in self.differences[:NAMED])
        more = f" and {len(self.differences) - NAMED} more" if len(self.differences) > NAMED else ""
        said = [f"Certain: {len(self.differences)} of {self.tensors} tensors differ: {ranks}{more}."]
        if not self.low_rank:
            return f"{said[0]} This is not a low-rank edit of MLPs; it looks like training or a change of another kind."
        said.append(
            f"Undecided: differences of low rank {self.spread} look like merged LoRA training as much as like an edit."
            if self.spread
            else "Likely: an edit of facts, since training seldom gives differences of such rank in so few places; "
            "LoRA training of these matrices alone would look alike."
        )
        if self.suspicions:
            first = self.suspicions[0]
            tokens = ", ".join(repr(token) for token, *_ in first.promoted)
            second = f", the next {self.suspicions[1].score:.2f}" if len(self.suspicions) > 1 else ""
            said.append(
                f"Not certain: of {self.candidates} candidates {first.subject!r} is excited most (score "
                f"{first.score:.2f} of 1{second}), and on {shown(first.prompt, 120)} these tokens rise most: {tokens}. "
                "The score is the share of the candidate's key that the difference reads, 1 for the edited key itself. "
                "A subject that is not among the candidates cannot be named, and a low best score means it is not."
            )
            said += self._of_many()
        else:
            said.append("What it is about was not looked into: no candidates were given.")
        return " ".join(said)

    def _of_many(self) -> list[str]:
        """Who is named, where it is more than one."""
        subjects = list(dict.fromkeys(subject for subject, _, _ in self.excited))
        if len(subjects) < 2:
            return []
        more = f" and {len(subjects) - NAMED} more" if len(subjects) > NAMED else ""
        named = ", ".join(repr(subject) for subject in subjects[:NAMED])
        return [f"Of {len(subjects)} subjects at least {EXCITED:g} of a key is read, as of edited ones: {named}{more}."]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, without the bases."""
        rows = [{k: v for k, v in vars(d).items() if k not in ("left", "right")} for d in self.differences]
        kept = ("base", "suspect", "tensors", "low_rank", "candidates", "with_moment", "spread", "ledger")
        fields = {name: getattr(self, name) for name in kept}
        return fields | {
            "verdict": self.verdict, "statement": self.statement(), "differences": rows,
            "suspicions": [asdict(suspicion) for suspicion in self.suspicions],
            "excited": [{"subject": s, "prompt": prompt, "score": score} for s, prompt, score in self.excited],
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """Return the outcome for a notebook: the statement, what differs, what it may be about; drawn, or as tables."""
        differ = [(d.tensor, _rank(d), f"{d.relative:.3g}") for d in self.differences[:SHOWN]]
        about = [(s.prompt, f"{s.score:.3f}", ", ".join(token for token, *_ in s.promoted)) for s in self.suspicions]
        tables = [table(f"{self.base} and {self.suspect}: {self.verdict}", (), [("in words", self.statement())])]
        tables += [table("what differs (certain)", ("tensor", "rank", "size"), differ)] if differ else []
        tables += [table("what it may be about (inferred)", ("candidate", "score", "rise"), about)] if about else []
        told = self.as_json()
        drawing = Drawing("findings", told | {"differences": told["differences"][:SHOWN]}, "".join(tables))
        return in_notebook(f"{self.base} and {self.suspect}", drawing, height=FRAME + LINE * (len(differ) + len(about)))


def _rank(difference: Difference) -> str:
    if len(difference.shape) != 2:
        return "no matrix"
    return f"rank {difference.rank}" if difference.rank is not None else f"rank {SKETCH} or more"

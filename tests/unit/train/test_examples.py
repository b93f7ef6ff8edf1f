"""What a step trains on: the edit, another wording of it, and a text that stays."""

from __future__ import annotations

import random

import pytest

from conftest import tiny
from factedit.errors import DataError
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.train.examples import CONTINUATION, HELD_OUT, PIECE, STAYS, Pieces, RecordExamples, pieces_of

TEXT = "Paris is the capital of France. LeBron James plays the sport of basketball. The Space Needle is in Seattle. "


def record(case_id: str, **more: object) -> FactRecord:
    request = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France")
    return FactRecord(case_id=case_id, request=request, paraphrases=("So Paris is in",), **more)


def texts_of(model: EditableModel, row) -> tuple[str, str]:
    """Prompt and target of a row, as text."""
    first = row.reads[0] + 1
    return model.tokenizer.decode(row.ids[:first]), model.tokenizer.decode(row.targets)


def test_a_facts_other_wording_has_the_same_target_and_its_neighbour_stays(tiny_gpt2: EditableModel) -> None:
    source = RecordExamples((record("1", neighborhood=("LeBron James plays",), loc_answer="basketball"),))
    seen = set()
    for seed in range(12):
        [example] = source.examples(tiny_gpt2, [(0, random.Random(seed))])
        assert texts_of(tiny_gpt2, example.edit) == ("Paris is in", " Seattle")
        wording, target = texts_of(tiny_gpt2, example.asked)
        assert target == " Seattle"
        seen.add(wording)
        assert texts_of(tiny_gpt2, example.stays)[0] == "LeBron James plays"
        assert len(example.stays.reads) <= STAYS
    assert seen == {"Paris is in", "So Paris is in"}
    assert source.names == ("1",)
    assert source.texts == ("Paris is in", "So Paris is in")


def test_without_a_neighbour_a_piece_of_text_stays(tiny_gpt2: EditableModel) -> None:
    pieces = tuple(tuple(range(n, n + 10)) for n in range(40, 60))
    source = RecordExamples((record("1"),), pieces)
    trained, held = set(), set()
    for seed in range(60):
        for bag, held_out in ((trained, False), (held, True)):
            [example] = source.examples(tiny_gpt2, [(0, random.Random(seed))], held_out=held_out)
            whole = (*example.stays.ids, example.stays.targets[-1])
            assert whole in pieces
            assert example.stays.targets == whole[-STAYS:]
            bag.add(whole)
    assert not trained & held, "what must stay in validation is never trained on"
    assert held == set(pieces[::HELD_OUT])


def test_general_text_is_asked_after_its_end_alone(tiny_gpt2: EditableModel) -> None:
    pieces = pieces_of(tiny_gpt2, [TEXT, TEXT[8:], TEXT[16:]], 3)
    assert all(len(piece) == PIECE for piece in pieces)
    for seed in range(10):
        [example] = Pieces(pieces).examples(tiny_gpt2, [(1, random.Random(seed))])
        first = example.edit.reads[0] + 1
        assert example.edit.ids[:first] == pieces[1][:first]
        assert 8 <= first <= PIECE
        assert len(example.edit.targets) == CONTINUATION
        assert example.asked.targets == example.edit.targets
        shorter = example.asked.ids[: example.asked.reads[0] + 1]
        assert shorter == pieces[1][first - len(shorter) : first], "a beginning is cut off, the end stays"
        assert (*example.stays.ids, example.stays.targets[-1]) in {pieces[0], pieces[2]}, "another piece stays"


def test_a_step_is_decided_by_its_own_stream_of_numbers(tiny_gpt2: EditableModel) -> None:
    pieces = Pieces(pieces_of(tiny_gpt2, [TEXT, TEXT[8:]], 2))
    draws = lambda: [(0, random.Random(1)), (1, random.Random(2))]  # noqa: E731
    both = pieces.examples(tiny_gpt2, draws())
    assert both == pieces.examples(tiny_gpt2, draws())
    assert both[1:] == pieces.examples(tiny_gpt2, draws()[1:])


def test_pieces_begin_with_the_start_token_and_short_texts_are_passed_over() -> None:
    model = tiny("gpt2", start=True)
    found = pieces_of(model, ["short", TEXT, "too short as well", TEXT[8:]], 5)
    assert [piece[0] for piece in found] == [1, 1]
    assert [len(piece) for piece in found] == [PIECE, PIECE]
    with pytest.raises(DataError, match=f"holds 1 pieces of {PIECE} tokens"):
        pieces_of(model, [TEXT, "short"], 5)

"""Start tokens, end tokens, turns of a chat, spaces as tokens: by hand, with tokenizers of every kind."""

from __future__ import annotations

from functools import cache

import pytest
from tokenizers import AddedToken, models, processors
from transformers import PreTrainedTokenizerFast

import tiny_tokenizers
from conftest import tiny, tiny_lm
from factedit.edit.value_rows import request_rows
from factedit.engine.generate import sample_texts
from factedit.errors import RequestError, UnsupportedModel
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation, tokenize
from factedit.models.tokens import after_space, in_contexts, is_space, is_special, text_after, text_tokens
from factedit.stats.collect import token_pieces as pieces_of_text
from tiny_tokenizers import model_with, pieces


@cache
def model(kind: str) -> EditableModel:
    kinds = {**tiny_tokenizers.KINDS, "wordpiece": tiny_tokenizers.wordpiece, "unigram": tiny_tokenizers.unigram}
    return model_with(kinds[kind]())


SYSTEM, USER = "<|im_start|>system\nsay<|im_end|>\n", "<|start_header_id|>user<|end_header_id|>"


def tokens(kind: str, prompt: str) -> str:
    return " ".join(pieces(model(kind), tokenize(model(kind), prompt).ids))


# -- what the tokenizer puts around a text


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("wordpiece", "[CLS] the year"),  # not [SEP], which is no end token by name
        ("roberta", "<s> ĠThe Ġyear"),  # not </s>: the end token's name is another
        ("unigram", "▁The ▁year"),  # not </s>
        ("gemma", "<bos> The ▁year"),
        ("digits", "The Ġyear"),
    ],
)
def test_appended_special_tokens_are_dropped(kind: str, expected: str) -> None:
    assert tokens(kind, "The year") == expected
    ids, first = continuation(model(kind), "The", "year")
    assert " ".join(pieces(model(kind), ids)) == expected
    assert len(ids) - first == 1


def test_several_appended_tokens_are_dropped() -> None:
    tokenizer = tiny_tokenizers.wordpiece()
    around = [("[CLS]", 2), ("[SEP]", 3), ("[PAD]", 0)]
    template = processors.TemplateProcessing(single="[CLS] $A [SEP] [PAD] [SEP]", special_tokens=around)
    tokenizer.backend_tokenizer.post_processor = template
    assert pieces(model_with(tokenizer), tokenize(model_with(tokenizer), "The year").ids) == ["[CLS]", "the", "year"]


def test_a_special_token_that_the_text_writes_stays() -> None:
    ids, first = continuation(model("gemma"), "The year", "Paris<eos>")
    assert pieces(model("gemma"), ids[first:]) == ["▁Paris", "<eos>"]
    assert tokens("wordpiece", "The year [SEP]") == "[CLS] the year [SEP]"


@pytest.mark.parametrize(
    ("kind", "prompt", "expected"),
    [
        ("gemma", "<bos>The year", "<bos> The ▁year"),
        ("llama3", "<|begin_of_text|>The year", "<|begin_of_text|> The Ġyear"),
        ("wordpiece", "[CLS] The year", "[CLS] the year"),
        ("gemma", "<bos><bos>The", "<bos> <bos> The"),  # who writes two gets two
        ("gemma", "<start_of_turn>user\nThe", "<bos> <start_of_turn> u s e r \n The"),
    ],
)
def test_a_start_token_is_given_once(kind: str, prompt: str, expected: str) -> None:
    assert tokens(kind, prompt) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}<start_of_turn>{{ m.role }}{% endfor %}", "<start_of_turn> The"),
        ("{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}{% endfor %}", "<bos> <start_of_turn> The"),
        ("<bos>{% for m in messages %}<start_of_turn>{{ m.role }}{% endfor %}", "<bos> <start_of_turn> The"),
        ("{% for m in messages %}[{{ m.role }}]{% endfor %}", "<bos> <start_of_turn> The"),
        (None, "<bos> <start_of_turn> The"),
    ],
)  # fmt: skip
def test_a_chat_template_says_whether_its_text_has_a_start_token(template: str | None, expected: str) -> None:
    chat = model_with(tiny_tokenizers.gemma_like())
    chat.tokenizer.chat_template = template
    assert " ".join(pieces(chat, tokenize(chat, "<start_of_turn>The").ids)) == expected
    assert pieces(chat, tokenize(chat, "The").ids)[0] == "<bos>", "another text is no chat"


# -- turns, and contexts before a prompt


@pytest.mark.parametrize(
    ("kind", "prompt", "expected"),
    [
        ("gemma", "{} is", "The year. {} is"),
        ("gemma", "<bos>{} is", "<bos>The year. {} is"),
        ("gemma", "<start_of_turn>user\n{} is", "<start_of_turn>user\nThe year. {} is"),
        ("gemma", "<bos><start_of_turn>user\nsay {}", "<bos><start_of_turn>user\nThe year. say {}"),
        ("digits", f"{SYSTEM}<|im_start|>user\n{{}} is", f"{SYSTEM}<|im_start|>user\nThe year. {{}} is"),
        ("llama3", f"{USER}\n\n{{}} is", f"{USER}\n\nThe year. {{}} is"),
        ("digits", "say <|endoftext|>{} is", "say <|endoftext|>The year. {} is"),
        ("digits", "say\n{} is<|im_end|>", "The year. say\n{} is<|im_end|>"),
        ("gemma", "<bos>user says {}", "<bos>The year. user says {}"),
        ("wordpiece", "[CLS] {} is", "[CLS]The year.  {} is"),
    ],
)  # fmt: skip
def test_contexts_never_stand_before_a_start_token_or_a_turn(kind: str, prompt: str, expected: str) -> None:
    assert in_contexts(model(kind), prompt, ["{}", "The year. {}"]) == [prompt, expected]


def test_rows_of_an_edit_have_one_start_token_in_front() -> None:
    request = EditRequest(subject="Cat", prompt="<bos><start_of_turn>user\n{} is", target_new="Paris")
    rows = request_rows(model("gemma"), 0, request, ["{}", "The year. {}"])
    found = [" ".join(pieces(model("gemma"), row.ids)) for row in rows]
    turn = "<bos> <start_of_turn> u s e r \n"
    assert found == [f"{turn} Cat ▁is", f"{turn} The ▁year . ▁Cat ▁is", "<bos> Cat"]
    assert [row.subject_last for row in rows] == [7, 10, 1]


@pytest.mark.parametrize(
    ("kind", "prompt", "expected"),
    [
        ("digits", "<|im_start|>assistant\n", ("<|im_start|> a s s is t an t Ċ", "Paris")),
        ("digits", "<|im_start|>assistant\n ", ("<|im_start|> a s s is t an t Ċ", "ĠParis")),
        ("gemma", "<start_of_turn>model\n", ("<bos> <start_of_turn> m o d e l \n", "Paris")),
        ("llama3", "<|end_header_id|>\n\n", ("<|begin_of_text|> <|end_header_id|> Ċ Ċ", "Paris")),
        ("digits", "<|im_start|>assistant\nThe\n", ("<|im_start|> a s s is t an t Ċ The", "Ċ Paris")),
        ("digits", "<|im_end|> ", ("<|im_end|>", "ĠParis")),
    ],
)
def test_the_line_that_opens_a_turn_keeps_its_end(kind: str, prompt: str, expected: tuple[str, str]) -> None:
    ids, first = continuation(model(kind), prompt, "Paris")
    found = pieces(model(kind), ids)
    assert (" ".join(found[:first]), " ".join(found[first:])) == expected
    assert tokenize(model(kind), prompt).ids == ids[:first]


def test_a_special_token_may_take_the_space_after_it() -> None:
    """Some chat tokens strip what follows them; that space was never the target's."""
    tokenizer = tiny_tokenizers.digits_apart()
    swallowing = AddedToken("<|says|>", special=True, normalized=False, rstrip=True)
    tokenizer.backend_tokenizer.add_special_tokens([swallowing])
    chat = model_with(tokenizer)
    for prompt in ("The<|says|>", "The<|says|> ", "The<|says|>\n"):
        ids, first = continuation(chat, prompt, "Paris")
        assert (pieces(chat, ids[:first]), pieces(chat, ids[first:])) == (["The", "<|says|>"], ["Paris"])
        assert tokenize(chat, prompt).ids == ids[:first]


# -- single tokens and running text


@pytest.mark.parametrize(
    ("kind", "spaces", "others"),
    [
        ("gemma", ["▁"], ["▁Paris", "<bos>", "<0x41>", "1", "\n"]),
        ("llama", ["▁"], ["▁Paris", "<s>", "1"]),
        ("digits", ["Ġ", "ĠĠ"], ["ĠParis", "Ċ", "<|im_end|>", "Ŀ"]),
        ("bytes-unigram", ["▁"], ["▁Paris", "</s>", "<0xE6>"]),
        ("wordpiece", [], ["the", "[SEP]"]),
    ],
)
def test_which_tokens_are_spaces(kind: str, spaces: list[str], others: list[str]) -> None:
    number = model(kind).tokenizer.convert_tokens_to_ids
    assert [is_space(model(kind), number(piece)) for piece in spaces + others] == [True] * len(spaces) + [False] * len(
        others
    )
    assert not is_space(model(kind), len(model(kind).tokenizer) + 7), "no token at all"


def test_which_tokens_are_special() -> None:
    number = model("gemma").tokenizer.convert_tokens_to_ids
    names = ["<bos>", "<end_of_turn>", "▁", "The", "<0xE6>"]
    assert [is_special(model("gemma"), number(name)) for name in names] == [True, True, False, False, False]
    llama = model("llama")
    assert not is_special(llama, llama.tokenizer.convert_tokens_to_ids("▁")), "it decodes to nothing, and is a space"


def test_the_first_token_that_is_more_than_a_space() -> None:
    ids = model("digits").tokenizer.convert_tokens_to_ids(["The", "ĠĠ", "Ġ", "1"])
    assert [after_space(model("digits"), ids, first) for first in range(4)] == [0, 3, 3, 3]


def test_running_text_is_cut_without_the_appended_tokens() -> None:
    bert = model("wordpiece")
    start, body = text_tokens(bert, "The year is Paris")
    assert (pieces(bert, start), pieces(bert, body)) == (["[CLS]"], ["the", "year", "is", "paris"])
    cut = [pieces(bert, piece) for piece in pieces_of_text(bert, ["The year is Paris", ""], length=3)]
    assert cut == [["[CLS]", "the", "year"], ["[CLS]", "is", "paris"]]
    gemma = model("gemma")
    cut = [pieces(gemma, piece) for piece in pieces_of_text(gemma, ["The year is"], length=3)]
    assert cut == [["<bos>", "The", "▁year"], ["<bos>", "▁is"]]


def test_running_text_with_a_token_without_an_embedding_is_refused() -> None:
    small = tiny("gpt2")
    small.tokenizer.add_tokens(["Atlantis"])
    with pytest.raises(RequestError, match="The token 'Atlantis' has number 320"):
        list(pieces_of_text(small, ["In Atlantis"]))


@pytest.mark.parametrize("kind", ["gemma", "llama", "digits", "llama3", "bytes-unigram"])
def test_what_is_added_is_text_as_it_follows(kind: str) -> None:
    """Some decoders drop the first space of what they are given; the text after a prompt has it."""
    before, after = tokenize(model(kind), "The answer is").ids, tokenize(model(kind), "The answer is Paris, Cat").ids
    assert text_after(model(kind), before, after[len(before) :]) == " Paris, Cat"
    assert text_after(model(kind), before, ()) == ""


def test_sampled_texts_go_on_from_their_opening_with_a_space() -> None:
    llama = model("llama")
    start, the, year = llama.tokenizer.convert_tokens_to_ids(["<s>", "▁The", "▁year"])

    def always_the_same(_model: EditableModel, rows: list[list[int]], **_settings: object) -> list[list[int]]:
        assert rows == [[start, the]]
        return [[year, year]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factedit.engine.generate.generate", always_the_same)
        assert sample_texts(llama, [4], top_k=1, seed=0, openings=["The"]) == ["The year year"]


# -- tokenizers that cut at random


def test_a_tokenizer_that_drops_merges_at_random_is_refused() -> None:
    tokenizer = tiny_tokenizers.digits_apart()
    parts = tokenizer.backend_tokenizer.model
    parts.dropout = 0.5
    tokenizer.backend_tokenizer.model = parts
    assert len({tuple(tokenizer("The answer is Paris")["input_ids"]) for _ in range(30)}) > 1, "it does"
    with pytest.raises(UnsupportedModel, match=r"cuts a text at random \(dropout = 0.5\).*Take 'dropout' out"):
        EditableModel(tiny_lm("gpt2", n_layer=1), tokenizer)
    parts.dropout = 0.0
    tokenizer.backend_tokenizer.model = parts
    EditableModel(tiny_lm("gpt2", n_layer=1), tokenizer)


def test_a_tokenizer_that_samples_among_cuts_is_refused() -> None:
    whole = models.Unigram(
        [("<unk>", 0.0), ("a", -1.0), ("aa", -1.5), ("aaa", -2.0)], unk_id=0, alpha=0.5, nbest_size=5
    )
    backend = tiny_tokenizers.unigram().backend_tokenizer
    backend.model = whole
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    tokenizer.backend_tokenizer.model = whole  # settings of this kind do not survive a copy
    with pytest.raises(UnsupportedModel, match=r"at random \(alpha = 0.5\)"):
        EditableModel(tiny_lm("gpt2", n_layer=1), tokenizer)

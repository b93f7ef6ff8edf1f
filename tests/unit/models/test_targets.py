"""Where a target begins, token by token, with tokenizers of every kind; every expectation is written by hand."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import tiny_tokenizers
from conftest import random_moment, tiny
from factedit.edit.method_table import make_method
from factedit.edit.target_rows import target_row
from factedit.edit.value_rows import request_rows
from factedit.errors import EditError, RequestError
from factedit.evaluate.probability import Question, score
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation, locate, subject_continuations, tokenize
from factedit.models.tokens import in_contexts, text_tokens
from tiny_tokenizers import model_with, pieces


@cache
def model(kind: str) -> EditableModel:
    return model_with({**tiny_tokenizers.KINDS, "wordpiece": tiny_tokenizers.wordpiece}[kind]())


def parts(kind: str, prompt: str, target: str) -> tuple[str, str]:
    """Tokens of prompt and target as the vocabulary writes them, a space between two."""
    ids, first = continuation(model(kind), prompt, target)
    return " ".join(pieces(model(kind), ids[:first])), " ".join(pieces(model(kind), ids[first:]))


@pytest.mark.parametrize(
    ("kind", "prompt", "target", "expected"),
    [
        # the space before a number is a token of its own, and the target's
        ("gemma", "The year is", "1985", ("<bos> The ▁year ▁is", "▁ 1 9 8 5")),
        ("llama", "The year is", "1985", ("<s> ▁The ▁year ▁is", "▁ 1 9 8 5")),
        ("digits", "The year is", "1985", ("The Ġyear Ġis", "Ġ 1 9 8 5")),
        ("trimmed", "The year is", "1985", ("The Ġyear Ġis", "Ġ 1 9 8 5")),
        ("llama3", "The year is", "1985", ("<|begin_of_text|> The Ġyear Ġis", "Ġ 198 5")),
        ("roberta", "The year is", "1985", ("<s> ĠThe Ġyear Ġis", "Ġ 1 9 8 5")),
        ("bytes-unigram", "The year is", "1985", ("▁The ▁year ▁is", "▁ 1 9 8 5")),
        # … and before a character that is written as bytes
        ("gemma", "The gift is", "é", ("<bos> The ▁gift ▁is", "▁ <0xC3> <0xA9>")),
        ("digits", "The gift is", "é", ("The Ġgift Ġis", "Ġ Ã ©")),
        # … but there is none where no token writes it
        ("wordpiece", "The year is", "1985", ("[CLS] the year is", "19 ##85")),
        # the space before a word is in its token, as before
        ("gemma", "The answer is", "Paris", ("<bos> The ▁answer ▁is", "▁Paris")),
        ("digits", "The answer is", "Paris", ("The Ġanswer Ġis", "ĠParis")),
        ("trimmed", "The answer is", "Paris", ("The Ġanswer Ġis", "ĠParis")),
        # white space at the end of the prompt is the target's
        ("gemma", "The answer is ", "Paris", ("<bos> The ▁answer ▁is", "▁Paris")),
        ("digits", "The answer is ", "1985", ("The Ġanswer Ġis", "Ġ 1 9 8 5")),
        ("digits", "The answer is  ", "1985", ("The Ġanswer Ġis", "ĠĠ 1 9 8 5")),
        ("trimmed", "The answer is  ", "1985", ("The Ġanswer Ġis", "ĠĠ 1 9 8 5")),
        ("gemma", "The answer is\n", "Paris", ("<bos> The ▁answer ▁is", "\n Paris")),
        # nothing is put after an opening quote, a bracket, a currency sign
        ("gemma", "The cost is $", "5", ("<bos> The ▁cost ▁is ▁ $", "5")),
        ("digits", 'The answer is "', "Paris", ('The Ġanswer Ġis Ġ "', "Paris")),
        ("gemma", "The answer (", "Paris", ("<bos> The ▁answer ▁ (", "Paris")),
        ("gemma", "The cost is 5 $", "in", ("<bos> The ▁cost ▁is ▁ 5 ▁ $", "▁in")),
        ("gemma", 'The "Cat"', "is", ('<bos> The ▁ " Cat "', "▁is")),
        # nor where a word goes on
        ("gemma", "The Cat-", "Paris", ("<bos> The ▁Cat -", "Paris")),
        ("digits", "The cost is #", "5", ("The Ġcost Ġis Ġ #", "5")),
        # nor beside a script without spaces, unless the writer put one
        ("gemma", "日本の首都は", "東京", ("<bos> 日 本 <0xE3> <0x81> <0xAE> 首 都 は", "東京")),
        ("gemma", "日本は", " 東京", ("<bos> 日 本 は", "▁東京")),
        ("gemma", "日本は ", "東京", ("<bos> 日 本 は", "▁東京")),
        ("llama", "答案：「", "巴黎", ("<s> ▁ 答 案 ： 「", "巴 黎")),
        ("gemma", "The answer is", "法国", ("<bos> The ▁answer ▁is", "法 国")),
        # another normal form than the text's own changes no place
        ("lower", "THE YEAR IS", "１９", ("the Ġ y e ar Ġis", "1 9")),
        ("bytes-unigram", "The answer is", "ﬁ", ("▁The ▁answer ▁is", "▁ f i")),
    ],
)  # fmt: skip
def test_where_the_target_begins(kind: str, prompt: str, target: str, expected: tuple[str, str]) -> None:
    assert parts(kind, prompt, target) == expected


@pytest.mark.parametrize("kind", [*tiny_tokenizers.KINDS, "wordpiece"])
@pytest.mark.parametrize("end", ["", " ", "\n", " \t"])
def test_the_prompt_alone_has_the_tokens_that_stand_before_the_target(kind: str, end: str) -> None:
    """So free writing, tracing and shipping ask where an edit and its score ask."""
    for prompt, target in (("The year is", "1985"), ("The answer is", "Paris"), ("The cost was $", "5")):
        ids, first = continuation(model(kind), prompt + end, target)
        assert tokenize(model(kind), prompt + end).ids == ids[:first]
        assert locate(model(kind), "{}" + prompt[3:] + end, "The").ids == ids[:first]


def test_a_year_is_scored_with_its_space() -> None:
    """Against the whole model run once on tokens written by hand."""
    gemma = model("gemma")
    ids = gemma.tokenizer.convert_tokens_to_ids(["<bos>", "The", "▁year", "▁is", "▁", "1", "9"])
    with torch.no_grad():
        log_p = gemma.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(log_p[at, ids[at + 1]]) for at in (3, 4, 5)]
    [[[found]]] = score(gemma, [[Question("The year is", "19")]], [None])
    assert found.log_p == pytest.approx(expected, abs=1e-4)
    assert found.probability == pytest.approx(2.718281828 ** (sum(expected) / 3), rel=1e-3)


def test_a_year_is_optimised_with_its_space() -> None:
    gemma, request = model("gemma"), EditRequest(subject="Paris", prompt="{} was in", target_new="19")
    bare, essence = request_rows(gemma, 0, request, ["{}"])
    assert pieces(gemma, bare.ids) == ["<bos>", "Paris", "▁was", "▁in", "▁", "1"]
    assert (bare.subject_last, bare.reads, pieces(gemma, bare.targets)) == (1, (3, 4, 5), ["▁", "1", "9"])
    assert essence.reads == (1,)
    row = target_row(gemma, "Paris was in", "19")
    assert (row.reads, pieces(gemma, row.targets)) == ((3, 4, 5), ["▁", "1", "9"])


def test_knowledge_neurons_take_the_first_token_that_is_more_than_a_space() -> None:
    gemma = model("gemma")
    words = gemma.lm.get_output_embeddings().weight.detach()
    request = EditRequest(subject="Paris", prompt="{} was in", target_new="25", target_true="19")
    method = make_method("kn", gemma, lambda m, _layer: random_moment(m.d_mlp), steps=3)
    [edit] = method.edit([request]).edits
    one, two = gemma.tokenizer.convert_tokens_to_ids(["1", "2"])
    rows = torch.cat([change.delta()[change.delta().any(1)] for change in edit.effects])
    torch.testing.assert_close(rows, 2 * (words[two] - words[one]).expand_as(rows))


def test_knowledge_neurons_say_where_the_two_objects_begin_alike() -> None:
    request = EditRequest(subject="Paris", prompt="{} was in", target_new="25", target_true="29")
    method = make_method("kn", model("gemma"), lambda m, _layer: random_moment(m.d_mlp), steps=3)
    with pytest.raises(EditError, match="begin with the same token '2'"):
        method.edit([request])


# -- what cannot be asked


def test_a_subject_that_shares_a_token_with_the_target_is_refused() -> None:
    joined = model_with(tiny_tokenizers.joining("Cat is", "東京"))
    for subject, target in (("Cat", "is"), ("東", "京")):
        with pytest.raises(RequestError, match="joins the end of the subject with the beginning of the target"):
            subject_continuations(joined, ["The answer of {}"], subject, target)
    [(text, first)] = subject_continuations(joined, ["{} was"], "Cat", "in")
    assert (text.subject_last, pieces(joined, text.ids[first:])) == (0, [" ", "in"])


def test_a_prompt_that_the_target_swallows_is_refused() -> None:
    joined = model_with(tiny_tokenizers.joining("東京"))
    with pytest.raises(RequestError, match="joins the whole prompt '東' with the target's beginning"):
        continuation(joined, "東", "京都")
    ids, first = continuation(joined, "法国東", "京都")
    assert (pieces(joined, ids[:first]), pieces(joined, ids[first:])) == (["法", "国"], ["東京", "都"])


@pytest.mark.parametrize(
    ("tokenizer", "unknown", "name"),
    [(tiny_tokenizers.wordpiece, "東", r"\[UNK\]"), (tiny_tokenizers.unigram, "東京", "<unk>")],
)
def test_what_the_tokenizer_does_not_know_is_refused(tokenizer, unknown: str, name: str) -> None:  # type: ignore[no-untyped-def]
    knowing_little = model_with(tokenizer())
    with pytest.raises(
        RequestError, match=f"knows no token for '{unknown}' in the target '東京': it is read as '{name}'"
    ):
        continuation(knowing_little, "The answer is", "東京")
    with pytest.raises(RequestError, match=f"in the subject '東京': it is read as '{name}'"):
        locate(knowing_little, "{} is", "東京")
    ids, first = continuation(knowing_little, "東京 is", "Paris")
    assert len(ids) - first == 1, "only subject and target must be known"


def test_the_unknown_token_is_known_where_nobody_named_it() -> None:
    from transformers import PreTrainedTokenizerFast

    for tokenizer in (tiny_tokenizers.wordpiece(), tiny_tokenizers.unigram()):
        unnamed = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
        assert unnamed.unk_token is None
        with pytest.raises(RequestError, match="knows no token for"):
            continuation(model_with(unnamed), "The answer is", "東京")


@pytest.mark.parametrize("text", ["The answer is ParisЖ", "ЖThe answer is", "The answerЖ is"])
def test_a_text_of_which_the_tokenizer_leaves_characters_out_is_refused(text: str) -> None:
    """A BPE without bytes and without an unknown token does so, and then miscounts the characters that follow."""
    dropping = model_with(tiny_tokenizers.joining())
    for ask in (lambda: tokenize(dropping, text), lambda: continuation(dropping, text, "Paris")):
        with pytest.raises(RequestError, match=f"leaves out characters of '{text}"):
            ask()
    with pytest.raises(RequestError, match="leaves out characters of 'The answer is ParisЩ'"):
        continuation(dropping, "The answer is", "ParisЩ")
    ids, first = continuation(model("wordpiece"), "The answer is", "cafe\u0301")
    assert pieces(model("wordpiece"), ids[first:]) == ["cafe"], "an accent that a normaliser takes off is no loss"


def test_half_a_character_is_refused_wherever_text_becomes_tokens() -> None:
    """From Python no gate stands before; the tokenizers library says 'TextInputSequence must be str'."""
    gemma, half = model("gemma"), "Paris\ud83d"
    for ask in (
        lambda: tokenize(gemma, half),
        lambda: continuation(gemma, "The gift is", half),
        lambda: locate(gemma, "{} is", half),
        lambda: subject_continuations(gemma, ["{} is", half + " {}"], "Paris", "in"),
        lambda: in_contexts(gemma, "{} is", [half + " {}"]),
        lambda: text_tokens(gemma, half),
        lambda: score(gemma, [[Question(half, "in")]], [None]),
    ):
        with pytest.raises(RequestError, match=r"The text '.*\\ud83d.*' holds half a character"):
            ask()
    assert tokenize(gemma, "Paris \U0001f600").ids, "a whole one is none of these"


def test_a_token_without_an_embedding_is_named() -> None:
    small = tiny("gpt2")
    small.tokenizer.add_tokens(["Atlantis"])
    number = small.tokenizer.convert_tokens_to_ids("Atlantis")
    said = rf"The token 'Atlantis' has number {number}, and tiny-gpt2 has embeddings for {small.vocab} tokens"
    for ask in (
        lambda: tokenize(small, "Atlantis is"),
        lambda: continuation(small, "The island is", "Atlantis"),
        lambda: locate(small, "{} is", "Atlantis"),
        lambda: subject_continuations(small, ["{} is"], "Paris", "Atlantis"),
    ):
        with pytest.raises(RequestError, match=said):
            ask()
    assert tokenize(small, "Paris is").ids

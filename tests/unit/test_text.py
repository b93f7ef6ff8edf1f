"""Where words end and spaces stand, in many scripts; each case is written out by hand."""

from __future__ import annotations

import re
import unicodedata

import pytest

from factedit.text import (
    begins_with,
    clipped,
    find_word,
    full_stop_after,
    goes_on,
    is_unspaced,
    is_whole,
    needs_no_space,
    opens_a_quotation,
    says,
    says_any,
    words,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris", "Paris"), (" paris, of course", "Paris"), ("Paris.", "Paris."), ("PARIS!", "Paris"),
        ("Paris's river", "Paris"), ("10 km", "10"), ("10. Then", "10"), ("10, 11", "10"), ("10.5 km away", "10.5 km"),
        ("10.5. km", "10.5"), ("in 1985", "in"), ("U.S. law", "U.S."), ("3/4", "3"), ("?", "?"),
        ("Café", "Cafe\u0301"), ("Cafe\u0301 de", "Café"), ("Straße 5", "STRASSE"), ("❤️ you", "❤"), ("❤", "❤️"),
        ("東京です", "東京"), ("東京。", "東京"), ("东京 is", "东京"), ("Parisです", "Paris"), ("10年", "10"),
        ("ไทยแลนด์", "ไทย"), ("巴黎。", "巴黎。"), ("ジョン・スミス", "ジョン"), ("서울 입니다", "서울"),
        ("काम करो", "काम"), ("ירושלים,", "ירושלים"), ("القاهرة هي", "القاهرة"),
        ("👩\u200d👩\u200d👧!", "👩\u200d👩\u200d👧"),
        # Korean writes particles and the copula right after a name
        ("서울은 수도", "서울"), ("서울입니다.", "서울"), ("부산에서", "부산"), ("파리", "파리"),
        # the full stop of each script
        ("दिल्ली है", "दिल्ली।"), ("لاہور ہے", "لاہور۔"), ("ပါရီဖြစ်သည်", "ပါရီ။"), ("ລາວ", "ລາວ"),
        ("ប៉ារីសគឺ", "ប៉ារីស។"), ("ལྷ་ས་རེད།", "ལྷ་ས།"),
        ("አዲስ አበባ ናት", "አዲስ አበባ።"), ("القاهرة هي", "القاهرة؟"),
        # what nobody sees; hard spaces; a capital whose small letter is two
        ("\u200eParis", "Paris"), ("\ufeffParis is", "Paris"), ("\u2067القاهرة\u2069", "القاهرة"),
        ("New\u00a0York", "New York"), ("İstanbul", "istanbul"), ("Pa\u00adris", "Paris"), ("Pa\u2060ris", "Paris"),
        # two particles after a name; signs that are the name's own, and others
        ("파리에서는", "파리"), ("파리까지도", "파리"), ("파리만의", "파리"), ("C++ is", "C++"), ("C# is", "C#"),
        ("a+b", "a"), ("5+", "5"), ("Paris_ is", "Paris"),
    ],
)  # fmt: skip
def test_a_text_opens_with_the_answer(text: str, answer: str) -> None:
    assert begins_with(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Parisian", "Paris"), ("in Paris", "Paris"), ("", "Paris"), ("", "?"), ("x", "?"), ("10.5 km", "10"),
        ("10,000", "10"), ("1985", "198"), ("10:30", "10"), ("10'000", "10"), ("10\u202f000", "10"), ("٣٫٥", "٣"),
        ("10.5", "10."), ("Cafe\u0301", "Cafe"), ("Café", "Cafe"), ("कामना", "काम"), ("का", "क"), ("กำ", "ก\u0e4d"),
        ("ก\u0e48า", "ก"), ("ロンドン", "ロン"), ("می\u200cخواهم", "می"), ("👩\u200d👩\u200d👧", "👩"), ("👍🏽", "👍"),
        ("ירושלי\u05b4ם", "ירושלי"), ("๑๙", "๑"),
        ("서울대학교", "서울"), ("서울은행", "서울"), ("한국어", "한국"),
        ("１０．５", "１０"), ("１０，０００", "１０"), ("10\u00a0000", "10"),
        ("파리에서는데", "파리"), ("kilo\u00adgram", "kilo"),
        ("C++ is", "C"), ("C# is", "C"), ("F♯", "F"), ("Disney+ is", "Disney"), ("A+ grade", "A"),
        ("foo_bar", "foo"), ("snake__x", "snake"),
    ],
)  # fmt: skip
def test_a_text_goes_on_otherwise(text: str, answer: str) -> None:
    assert not begins_with(text, answer)


def test_in_english_it_is_what_it_was() -> None:
    """The rule before scripts and numbers were told apart: it holds wherever neither comes in."""

    def before(continuation: str, target: str) -> bool:
        answer, wanted = continuation.strip().casefold(), target.strip().rstrip(".!?").casefold()
        return answer.startswith(wanted) and not answer[len(wanted) :][:1].isalnum()

    texts = ["Paris", " paris is", "Parisian", "PARIS!", "Paris-Nord", "Paris_", "Paris2", "New York City",
             "new yorker", "C++", "C++x", "Saint-Denis", "", " ", "O'Neill", "e.g. this", "1985.",
             "1985 and", "(Paris)"]  # fmt: skip
    answers = ["Paris", "New York", "C++", "Saint", "O", "e.g.", "1985", "Par", "(Paris)"]
    pairs = [(text, answer) for text in texts for answer in answers]
    assert [begins_with(*pair) for pair in pairs] == [before(*pair) for pair in pairs]
    assert any(begins_with(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("text", "word", "place"),
    [
        ("Catherine has a Cat.", "Cat", 16), ("Catherine", "Cat", 0), ("the Cat", "Cat", 4), ("dog", "Cat", -1),
        ("Cats and Cat", "Cat", 9), ("concat Cat", "Cat", 7), ("1985, not 198", "198", 10), ("3.5 and 5", "5", 8),
        ("Cafe\u0301 or Cafe", "Cafe", 9), ("日本の東京", "東京", 3), ("ロンドンとロン", "ロン", 5),
        ("aCatb Cat", "Cat", 6),
        ("कामना और काम", "काम", 9), ("Cat", "Cat", 0), ("New Yorker in New York", "New York", 14),
        ("서울대학교는 서울에", "서울", 7), ("a_b b", "b", 4), ("x_1 1", "1", 4), ("C# and C", "C", 7),
    ],
)  # fmt: skip
def test_whole_words_come_first(text: str, word: str, place: int) -> None:
    assert find_word(text, word) == place


def test_a_word_between_scripts_is_whole() -> None:
    assert is_whole("日本Paris日本", 2, 7)
    assert not is_whole("xParis日本", 1, 6)
    assert is_whole("ที่ปารีส", 3, 8), "a Thai sign before a word is no part of it"


@pytest.mark.parametrize(
    "text",
    [
        'He said "', "He said “", "«", "Er sagte »", "„", "(", "see [", "「", "costs $", "It is (€", "¿", "the '",
        "x = `",
        'He said: "', '"Yes," he said, "', "the ’", "US$", "« Paris » et «", "„Paris“ und „", "“Yes” and “", "‘",
    ],
)  # fmt: skip
def test_what_follows_an_opening_sign_is_attached(text: str) -> None:
    assert opens_a_quotation(text)
    assert needs_no_space(text, "Paris")


@pytest.mark.parametrize(
    "text",
    [
        'the book "Emma"', "said “Yes”", "« Paris »", "»Paris«", "»Gut.«", "„Paris“", "„Gut.“", ")", "x]", "5 $", "10€",
        "the dogs'", "don’", '"Yes,"', "it's", "", "is", "is ", "is,", "5%", '" Yes "', "5\"", "word’",
    ],
)  # fmt: skip
def test_what_follows_anything_else_is_not(text: str) -> None:
    assert not opens_a_quotation(text)


@pytest.mark.parametrize(
    "text",
    ["the Franco-", "and/", "The score was 5-", "it is non\u2011", "https://", "write to me@", "Follow @", "song No. #",
     "#", "The answer is **", "**Paris** is in **", "La capitale est l'", "Il dit qu’", "vicino all'", "Mr. O'", "AT&",
     "x=", "C:\\", "C:\\temp\\", "D:/", "see ~/", "run ./", "../"],
)  # fmt: skip
def test_a_word_goes_on_after_these_signs(text: str) -> None:
    assert goes_on(text)
    assert needs_no_space(text, "Paris")


@pytest.mark.parametrize(
    "text",
    [
        "in C#",
        "is -",
        "is –",
        "a /",
        "either a. /",
        "the end./",
        "**Paris**",
        "2 *",
        "",
        "-",
        "it is called ____",
        "is",
        "5%",
        "x_",
        "~",
        "the letter 's'",
        "the dogs'",
        "is ‘a’",
        "x =",
        "this &",
    ],
)
def test_none_goes_on_after_these(text: str) -> None:
    assert not goes_on(text)


def test_scripts_without_spaces() -> None:
    """By the names that Unicode gives the characters; Hangul, Arabic and Devanagari have spaces."""
    without = (
        "CJK UNIFIED",
        "HIRAGANA",
        "KATAKANA",
        "THAI",
        "LAO",
        "KHMER",
        "MYANMAR",
        "TIBETAN",
        "BOPOMOFO",
        "YI SYL",
    )
    spaced = (
        "LATIN",
        "HANGUL SYL",
        "ARABIC LETTER",
        "DEVANAGARI",
        "HEBREW",
        "CYRILLIC",
        "GREEK",
        "GEORGIAN",
        "ETHIOPIC",
    )
    seen = set()
    for number in range(0x20, 0x30000):
        name = unicodedata.name(chr(number), "")
        for kind, expected in ((without, True), (spaced, False)):
            start = next((s for s in kind if name.startswith(s)), None)
            if start is not None:
                assert is_unspaced(chr(number)) is expected, name
                seen.add(start)
    assert seen == {*without, *spaced}
    assert not is_unspaced("")


def test_words_of_scripts_with_spaces_are_what_they_were() -> None:
    for text in ("It's 10.5 km, he said: «no».", "Café Zürich", "काम करो", "a\n\nb  c", "", "…", "القاهرة", "e\u0301",
                 "Tokyo is 東京 in Japanese"):  # fmt: skip
        assert words(text) == re.findall(r"\w+|[^\w\s]", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("東京は日本。", ["東", "京", "は", "日", "本", "。"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("東京タワーは東京にあるTower 5", [*"東京タワーは東京にある", "Tower", "5"]),
        ("か\u3099く", ["か\u3099", "く"]),
    ],
)
def test_words_of_scripts_without_are_characters(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_what_a_text_says_is_compared_in_one_normal_form() -> None:
    assert says("In Cafe\u0301 Central", "café")
    assert says_any("In Cafe\u0301 Central", ["x", "Café"])
    assert says_any("made in the U\u0308K.", ["ÜK"]), "short names too"
    assert not says_any("made in u\u0308k.", ["ÜK"]), "whose capitals count"
    assert not says("In Cafe\u0301 Central", "Cafe")


@pytest.mark.parametrize(
    ("text", "stop"),
    [("東京", "。"), ("Paris", "."), ("दिल्ली", "।"), ("ကမ္ဘာ", "။"), ("ខ្មែរ", "។"), ("ལྷ་ས", "།"), ("አበባ", "።"),
     ("Երևան", "։"), ("ไทย", "."), ("ລາວ", "."), ("서울", "."), ("القاهرة", "."), ("東京。", ""),
     ("दिल्ली।", ""), ("Inc.", ""),     ("Paris?", ""), ("1985", "."), ("", ".")],
)  # fmt: skip
def test_every_script_has_its_full_stop(text: str, stop: str) -> None:
    """As these scripts are written; Thai and Lao, which write none, get the Latin one."""
    assert full_stop_after(text) == stop


@pytest.mark.parametrize(("text", "found"), [("abc", "abc"), ("abcde", "abcde"), ("abcdef", "ab…ef"), ("", "")])
def test_a_long_text_keeps_its_ends(text: str, found: str) -> None:
    assert clipped(text, 5) == found
    assert len(clipped(text, 4)) <= 4

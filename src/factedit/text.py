"""Plain text in every script: where a word ends, where a space stands, and when a text opens with an answer.

Three things that hold for English do not hold everywhere. Chinese, Japanese, Thai and others are written without
spaces, so a space beside them is somebody's mistake and a word's end cannot be seen; an accent or a vowel sign may be
a character of its own (so texts are compared in Unicode's composed form, NFC, and never cut before such a sign); and
a full stop inside a number does not end it.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Iterable

# Scripts written without spaces between words, as ranges of characters `[first, last]`.
_UNSPACED = (
    (0x0E00, 0x0E7F), (0x0E80, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F),  # Thai, Lao, Tibetan, Burmese
    (0x1780, 0x17FF), (0x1950, 0x197F), (0x1980, 0x19DF), (0x19E0, 0x19FF),  # Khmer, Tai Le, New Tai Lue
    (0x1A20, 0x1AAF), (0x1B00, 0x1B7F), (0x2E80, 0x2FFF), (0x3000, 0x303F),  # Tai Tham, Balinese, Han parts and signs
    (0x3040, 0x30FF), (0x3100, 0x312F), (0x31A0, 0x31FF), (0x3200, 0x33FF),  # kana, Bopomofo, strokes, enclosed
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA4CF), (0xA980, 0xA9FF),  # Han, Yi, Javanese, Burmese
    (0xAA60, 0xAADF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0xFF00, 0xFF9F),  # Burmese, Tai Viet, Han, wide forms
    (0xFFE0, 0xFFE6), (0x16FE0, 0x18DFF), (0x1AFF0, 0x1B2FF), (0x20000, 0x3FFFF),  # Tangut, kana, Han
)  # fmt: skip
_FIRST = [first for first, _ in _UNSPACED]
_KATAKANA = re.compile(r"[\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]")  # borrowed names: one run, one word
_JOINERS = "\u200c\u200d"  # between two parts of one word, or of one picture
_SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
_STYLES = dict.fromkeys((0xFE0E, 0xFE0F))  # ask for a coloured or a plain picture, which is the same answer
_IN_NUMBERS = ".,:'’٫٬·．，：\u00a0\u202f"  # between digits these are part of a number (or of a time of day)
FULL_STOPS = "。．｡।॥۔።။។།։"  # of scripts that do not write "."
_FULL_STOP_OF = (
    (0x0530, 0x058F, "։"), (0x0900, 0x097F, "।"), (0x0980, 0x09FF, "।"), (0x0A00, 0x0A7F, "।"),  # Armenian, North India
    (0x0B00, 0x0B7F, "।"), (0x0F00, 0x0FFF, "།"), (0x1000, 0x109F, "။"), (0x1200, 0x139F, "።"),  # Oriya to Ethiopic
    (0x1780, 0x17FF, "។"), (0x2E80, 0xA4CF, "。"), (0xF900, 0xFAFF, "。"), (0xFF01, 0xFF9F, "。"),
    (0x20000, 0x3FFFF, "。"),
)  # fmt: skip
_STOPS = ".!?！？؟" + FULL_STOPS
# What a Korean sentence writes right after a name: particles, and forms of the copula.
_KOREAN_ENDINGS = re.compile(
    "(?:은|는|이|가|을|를|의|와|과|나|이나|랑|이랑|도|만|까지|부터|인|라고|이라고|이라는"
    "|(?:에|에서|에게|께서|로|으로|까지|부터|와|과|만)(?:의|는|도|만|부터|까지)?"  # "in Paris, too" is two of them
    "|이다|입니다|며|이며|이고|이자|이지만|예요|이에요|였다|이었다|였습니다|이었습니다)(?![\uac00-\ud7a3])"
)
# Marks of direction and of byte order, spaces without width, soft hyphens: nobody sees them.
_UNSEEN = dict.fromkeys(
    [0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)
_HARD_SPACE = re.compile(r"(?<!\d)[\u00a0\u202f\u3000]|[\u00a0\u202f\u3000](?!\d)")
_SHORT = 3  # capitals of a name that is a word of the language in small letters
_WORD = re.compile(r"\w+|[^\w\s]")
# What a quotation mark can close; one that stands here for itself opens and closes.
_CLOSES = {'"': '"', "`": "`", "”": "“„”", "“": "„", "«": "»", "»": "«", "‹": "›", "›": "‹"}
_ELIDED = r"(?<![\w'’‘])(?:[^\W\d_]|qu|(?:a|da|de|ne|su|que)ll|un)['’]"  # l'eau, qu'il, dell'arte, O'Brien
_PATH = r"://|\w:[\\/]|(?<![^\s./~])[.~]/"
_GOES_ON = re.compile(rf"(?:\w[-/=&\\\u2010\u2011]|{_PATH}|@|(?<!\w)#|{_ELIDED})\Z", re.IGNORECASE)
_APOSTROPHES = "'’‘"
# signs that end a name, right after a letter: C++, C#; a line between letters makes one word of two: snake_case
_OF_THE_NAME = re.compile(r"(?:(?<=[^\W\d_])(?:\+\+?|[#♯])(?![\w+])|(?<=[^\W_])_+[^\W_])")
_IN_A_NAME = re.compile(r"[^\W_]_+\Z")


def is_unicode(text: str) -> bool:
    """Return whether a text is whole: no half characters (lone surrogates), which bytes that are not UTF-8 leave."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: white space, marks without width, control characters."""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def is_unspaced(character: str) -> bool:
    """Return whether a character (or none: "") belongs to a script that puts no space between words."""
    if not character:
        return False
    at = bisect.bisect_right(_FIRST, ord(character)) - 1
    return at >= 0 and ord(character) <= _UNSPACED[at][1]


def opens_a_quotation(text: str) -> bool:
    """Return whether a text ends in a sign that what follows is attached to: an opening quote or bracket, or a
    currency.

    A quotation mark that may open or close opens unless it is attached to a word or closes one that is open; an
    apostrophe opens after a space; a currency sign after a number belongs to that number.
    """
    sign, before = text[-1:], text[:-1]
    if not sign:
        return False
    if sign in _APOSTROPHES:
        return not before or before[-1].isspace() or opens_a_quotation(before)
    if sign in _CLOSES:
        opened = sum(map(before.count, _CLOSES[sign]))
        one_is_open = opened % 2 == 1 if sign in _CLOSES[sign] else opened > before.count(sign)
        return not (before and _is_word(before[-1])) and not one_is_open
    kind = unicodedata.category(sign)
    if kind == "Sc":
        return not before.rstrip()[-1:].isdecimal()
    return kind in ("Ps", "Pi") or sign in "¿¡"


def goes_on(text: str) -> bool:
    """Return whether a text ends in a sign after which a word or name goes on: "Franco-", "and/", "l'", "@", "**"."""
    if text.endswith("**"):  # bold, where it opens
        return text.count("**") % 2 == 1
    return bool(_GOES_ON.search(text[-8:]))


def clipped(text: str, length: int = 100) -> str:
    """Return a text of at most so many characters: its ends, where it is longer, for a cell or a line of a message."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[head + 1 - length :]}"


def needs_no_space(text: str, following: str) -> bool:
    """Return whether `following` stands right after `text`, by their scripts or by the sign that `text` ends in."""
    by_sign = opens_a_quotation(text) or goes_on(text)
    return by_sign or is_unspaced(text[-1:]) or is_unspaced(following[:1])


def full_stop_after(text: str) -> str:
    """Return the full stop of the script that a text ends in; nothing where it has one, or another sentence's end."""
    if text.endswith(tuple(_STOPS)):
        return ""
    last = ord(text[-1:] or ".")
    return next((stop for first, end, stop in _FULL_STOP_OF if first <= last <= end), ".")


def find_word(text: str, word: str) -> int:
    """Return where a word (or several) stands in a text: its first occurrence as whole words, else its first; -1 for
    none.
    """
    first = at = text.find(word)
    while at >= 0:
        if is_whole(text, at, at + len(word)):
            return at
        at = text.find(word, at + 1)
    return first


def says(text: str, answer: str) -> bool:
    """Return whether a text holds an answer as whole words, letter case aside. Both are compared in NFC."""
    return _stands_in(_comparable(text), _comparable(answer))


def says_any(text: str, aliases: Iterable[str]) -> bool:
    """Return whether a text holds one of several names; one of up to three capitals (US, LA) in just these."""
    seen, names = _seen(text), [alias.strip() for alias in aliases]
    return any(_stands_in(seen, name) if len(name) <= _SHORT and name.isupper() else says(text, name) for name in names)


def _stands_in(text: str, answer: str) -> bool:
    at = find_word(text, answer)
    return bool(answer) and at >= 0 and is_whole(text, at, at + len(answer))


def is_whole(text: str, begin: int, end: int) -> bool:
    """Return whether the characters `[begin, end)` of a text are whole words, as far as their script shows it."""
    return _may_begin(text, begin) and _may_end(text, end)


def begins_with(text: str, answer: str) -> bool:
    """Return whether a text opens with an answer as whole words; letter case and a full stop after the answer aside.

    Where a script shows no end of words, opening with the answer is enough. Both are compared in NFC.
    """
    said, wanted = _comparable(text), _comparable(answer)
    wanted = wanted.rstrip(_STOPS) or wanted
    return bool(wanted) and said.startswith(wanted) and _may_end(said, len(wanted))


def words(text: str) -> list[str]:
    """Return the words and signs of a text; where most of it is in scripts without spaces, their characters instead of
    words.

    A character goes with the signs on it. A few such characters in a text of another script change nothing.
    """
    letters = [character for character in text if character.isalnum()]
    if 2 * sum(map(is_unspaced, letters)) <= len(letters):
        return _WORD.findall(text)
    parts: list[str] = []
    for part in _WORD.findall(text):
        if not any(map(is_unspaced, part)):
            parts.append(part)
            continue
        for at, character in enumerate(part):
            before = parts[-1][0] if parts else ""
            on_a_sign = is_unspaced(before) and unicodedata.category(character).startswith("M")
            in_a_word = at > 0 and not is_unspaced(character) and not is_unspaced(before)
            if on_a_sign or in_a_word:
                parts[-1] += character
            else:
                parts.append(character)
    return parts


def _comparable(text: str) -> str:
    return unicodedata.normalize("NFC", _seen(text).replace("\u0130", "i").casefold())


def _seen(text: str) -> str:
    """Return a text in NFC, without what nobody sees, with hard spaces as spaces (but inside numbers)."""
    return unicodedata.normalize("NFC", _HARD_SPACE.sub(" ", text.translate(_STYLES | _UNSEEN)).strip())


def _is_word(character: str) -> bool:
    return character.isalnum() or _clings(character)


def _clings(character: str) -> bool:
    """Return whether a character is part of the one before it: an accent, a vowel sign, a joiner, a skin tone."""
    return unicodedata.category(character).startswith("M") or character in _JOINERS or character in _SKIN_TONES


def _may_end(text: str, end: int) -> bool:
    before, after = text[end - 1 : end], text[end : end + 1]
    if _OF_THE_NAME.match(text, end):
        return False
    if not after or not _is_word(after):
        return not _inside_number(text, end)
    if _clings(after) or _inside_number(text, end) or _one_run(before, after):
        return False
    return is_unspaced(before) or is_unspaced(after) or bool(_KOREAN_ENDINGS.match(text, end))


def _may_begin(text: str, begin: int) -> bool:
    before, after = text[begin - 1 : begin] if begin else "", text[begin : begin + 1]
    if before == "_" and after.isalnum() and _IN_A_NAME.search(text[:begin]):
        return False
    if not before or not _is_word(before):
        return not _inside_number(text, begin)
    if before in _JOINERS or _inside_number(text, begin) or _one_run(before, after):
        return False
    return is_unspaced(before) or is_unspaced(after)


def _one_run(before: str, after: str) -> bool:
    return bool(_KATAKANA.match(before) and _KATAKANA.match(after))


def _inside_number(text: str, at: int) -> bool:
    """Return whether a cut before character `at` would part a number: 19|85, 10|.5, 10.|5."""
    before, after = text[max(0, at - 2) : at], text[at : at + 2]
    if not before or not after:
        return False
    left, right = before[-1], after[0]
    if left.isdecimal():
        return right.isdecimal() or (right in _IN_NUMBERS and after[1:].isdecimal())
    return left in _IN_NUMBERS and right.isdecimal() and before[:-1].isdecimal()


LONGEST_RANGE = 10_000
_RANGE = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", re.ASCII)


def numbers_in_ranges(text: str) -> list[int]:
    """Return numbers as written: `"3"`, `"3-8"`, `"3,5,7-9"`; each once, ascending.

    Raises:
        ValueError: none of these, a range that runs backwards, or one of more numbers than any model has layers.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        ends = _RANGE.fullmatch(part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, -1)
        if not first <= last < first + LONGEST_RANGE:
            raise ValueError(f"{text!r} is not written like 3, 3-8 or 3,5,7-9")
        numbers |= set(range(first, last + 1))
    return sorted(numbers)

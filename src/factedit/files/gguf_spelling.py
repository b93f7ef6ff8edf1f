"""How a GGUF file spells the tokens of a vocabulary, as texts that a tokenizer takes."""

from __future__ import annotations

from functools import cache


def spelled_spaces(token: str) -> str:
    """Return a Gemma token as the tokenizers library spells it: runs of spaces are stored as they are."""
    return "\u2581" * len(token) if len(token) > 1 and not token.strip(" ") else token


def spelled_bytes(token: str) -> str:
    """Return a byte-level token as tokenizers spells it; some files store their own tokens as plain text."""
    alphabet, characters = byte_alphabet()
    if characters.issuperset(token):
        return token
    return "".join(alphabet[byte] for byte in token.encode("utf-8"))


@cache
def byte_alphabet() -> tuple[dict[int, str], frozenset[str]]:
    """Return GPT-2's way to write a byte as a visible character: itself, or one from 256 upwards; and all of these."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    alphabet = {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    return alphabet, frozenset(alphabet.values())

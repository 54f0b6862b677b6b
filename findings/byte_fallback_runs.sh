#!/usr/bin/env bash
# One invalid byte erases the valid characters before it, and stops a text stream (tokenizers 0.23.3).
#
# Tokenizers of the SentencePiece family write unknown characters as byte tokens (<0xC3><0xA9> is e with acute). A model
# that samples freely may put a byte between them that is no character.
# Guess before the run: decoded at once, the valid character stays and the stray byte becomes one U+FFFD; a DecodeStream
# gives the same text in pieces.
# Seen: the decoder judges a whole run of byte tokens together, so the stray byte turns the valid character's bytes into
# U+FFFD, too, three in all. The stream has already given out the character by then, and its next step raises "Invalid
# prefix encountered". Text that was streamed (and shown, or graded) is not the text of the same tokens decoded later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
from tokenizers import Tokenizer, __version__, decoders, models
from tokenizers.decoders import DecodeStream

vocabulary = {"<unk>": 0, "a": 1} | {f"<0x{byte:02X}>": 2 + byte for byte in range(256)}
tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])


def stream(ids):
    pieces, steps = [], DecodeStream(skip_special_tokens=False)
    for token in ids:
        try:
            pieces.append(steps.step(tokenizer, token))
        except Exception as error:
            return pieces, str(error).split(".")[0]
    return pieces, None


letter = 1
valid, stray = [2 + byte for byte in "é".encode()], [2 + 0xC3]
print("tokenizers", __version__)
found = {
    name: (tokenizer.decode(ids), *stream(ids))
    for name, ids in {
        "a character": [letter, *valid, letter],
        "a stray byte": [letter, *stray, letter],
        "a character, a stray byte": [letter, *valid, *stray, letter],
    }.items()
}
for name, result in found.items():
    print(f"{name}: decoded {result[0]!r}, streamed {result[1]}, error {result[2]}")
assert found == {
    "a character": ("aéa", ["a", None, "é", "a"], None),
    "a stray byte": ("a\ufffda", ["a", None, "\ufffda"], None),
    "a character, a stray byte": (
        "a\ufffd\ufffd\ufffda",
        ["a", None, "é", None],
        "Invalid prefix encountered while decoding stream",
    ),
}, "the behaviour has changed"
PYTHON

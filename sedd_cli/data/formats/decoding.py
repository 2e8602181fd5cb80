"""Bytes of a file as text in any encoding, and as lines; what is no text, or text of another encoding, is refused."""

from __future__ import annotations

import codecs
import os
import select
from collections.abc import Iterator

from sedd_cli.data.formats.files import LINE_BYTES, Input
from sedd_cli.errors import RequestError

#: Seconds without a byte after which what has arrived from a pipe is worked on, and the bytes read at once.
MOMENT, LIVE_PIECE = 0.05, 1 << 20


def decoded(source: Input, encoding: str) -> Iterator[str]:
    """The text in pieces, a byte order mark removed, CR LF as LF.

    RequestError for a binary file, and where a byte does not decode, with its offset.
    """
    codec = text_codec(encoding)
    decoder, before, held, first = codecs.getincrementaldecoder(codec)(), 0, "", True
    wide = codecs.lookup(codec).name.startswith(("utf-16", "utf-32"))
    for raw in source.pieces():
        if first and not wide:
            refuse_wide(raw, source.name)
        if not wide and (offset := raw.find(0)) >= 0:
            raise RequestError(
                f"{source.name} is not a text file: byte {before + offset:,} is zero; readable are text, .jsonl, "
                ".parquet and .tar files"
            )
        first = False
        pending = len(decoder.getstate()[0])
        text = held + _decode(decoder, raw, False, before - pending, source.name, encoding)
        before += len(raw)
        held = "\r" if text.endswith("\r") else ""
        if text := text.removesuffix("\r").replace("\r\n", "\n"):
            yield text
    pending = len(decoder.getstate()[0])
    if text := held + _decode(decoder, b"", True, before - pending, source.name, encoding):
        yield text


def refuse_wide(beginning: bytes, name: str) -> None:
    """RequestError for bytes that begin as UTF-16 or UTF-32 do."""
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    found = next((encoding for mark, encoding in marks.items() if beginning.startswith(mark)), None)
    why = "it begins with its byte order mark"
    if found is None and len(some := beginning[:64]) >= 4:
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if not any(some[start::2]) and all(some[1 - start :: 2]):
                found, why = encoding, "every second byte is zero"
    if found is not None:
        hint = f"convert it, or give --encoding {found} where a text is prepared"
        raise RequestError(f"{name} is {found[:6].upper()}, not UTF-8: {why}; {hint}")


def narrow(source: Input) -> Iterator[bytes]:
    """The bytes of a file in pieces; RequestError where they are UTF-16 or UTF-32."""
    for number, piece in enumerate(source.pieces()):
        if number == 0:
            refuse_wide(piece, source.name)
        yield piece


def _decode(decoder: codecs.IncrementalDecoder, raw: bytes, final: bool, start: int, name: str, encoding: str) -> str:
    try:
        return decoder.decode(raw, final)
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise RequestError(
            f"{name} is not {encoding}: byte {start + at:,} does not decode; "
            "say what it is with --encoding (in a recipe data.encoding), as in --encoding latin-1"
        ) from None


def text_codec(encoding: str) -> str:
    """The codec to use: for UTF-8 the one that also removes a byte order mark; RequestError for what is none."""
    try:
        found = codecs.lookup(encoding)
        if found._is_text_encoding:  # type: ignore[attr-defined]
            return "utf-8-sig" if found.name == "utf-8" else encoding
    except (LookupError, ValueError):
        pass
    raise RequestError(f"encoding {encoding!r} is not known to Python as one of text; try utf-8, latin-1 or cp1252")


def lines_of(texts: Iterator[str], longest: int) -> Iterator[str]:
    """Lines with their ends, by the line feed alone; a line longer than `longest` characters comes in pieces."""
    held: list[str] = []
    size = 0
    for text in texts:
        start = 0
        while start < len(text):
            stop = text.find("\n", start, start + longest - size)
            stop = min(start + longest - size, len(text)) if stop < 0 else stop + 1
            held.append(text[start:stop])
            size += stop - start
            if size >= longest or text[stop - 1] == "\n":
                yield "".join(held)
                held, size = [], 0
            start = stop
    if held:
        yield "".join(held)


def byte_lines(source: Input) -> Iterator[bytes]:
    """Lines with their ends, by the line feed alone; RequestError for one longer than LINE_BYTES."""
    return (line for line in _byte_lines(narrow(source), source.name) if line is not None)


def live_lines(fd: int, name: str) -> Iterator[bytes | None]:
    """`byte_lines` of a pipe or a terminal; None means that nothing more has arrived for a MOMENT."""
    return _byte_lines(_live_pieces(fd), name)


def _live_pieces(fd: int) -> Iterator[bytes | None]:
    while True:
        if not select.select([fd], [], [], MOMENT)[0]:
            yield None
        if not (piece := os.read(fd, LIVE_PIECE)):  # waits
            return
        yield piece


def _byte_lines(pieces: Iterator[bytes] | Iterator[bytes | None], name: str) -> Iterator[bytes | None]:
    held: list[bytes] = []
    size = number = 0
    for piece in pieces:
        if piece is None:
            yield None
            continue
        *whole, rest = piece.split(b"\n")
        for part in whole:
            number += 1
            yield b"".join([*held, part, b"\n"])
            held, size = [], 0
        if rest:
            held.append(rest)
            size += len(rest)
        if size > LINE_BYTES:
            raise RequestError(
                f"line {number + 1:,} of {name} is longer than {LINE_BYTES >> 20} MiB (the limit LINE_BYTES)"
            )
    if held:
        yield b"".join(held)

"""Decoding of texts that must be UTF-8, with errors that say where they are not."""

from influence_assets.errors import InputError

ENCODING_REMEDY = "Convert the file to UTF-8, for example with iconv."


def decoded(content: bytes, where: str) -> str:
    """Decode a text of several lines.

    Raises:
        InputError: a line is not UTF-8; the error names it and `where`.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(where, f"line {line} is not UTF-8 (byte {error.start + 1})", ENCODING_REMEDY) from error

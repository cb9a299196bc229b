"""Names that every file system accepts."""

import hashlib
from functools import lru_cache
from urllib.parse import quote

_LONGEST_NAME = 100
_RESERVED = {"all", "con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))}


@lru_cache(maxsize=2**16)
def safe_name(name: str) -> str:
    """Return a path segment for any text: readable, different for different texts, never hidden and never `all`.

    The text is percent-encoded. If the result could clash (capitals, on file systems that ignore case; names that an
    operating system reserves) or is too long, `~` and the text's hash are appended; any other `~` is encoded.
    """
    if not name:
        raise ValueError("a name in the store must not be empty")
    octets = name.encode()
    encoded = quote(octets, safe="").replace("~", "%7E")
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if encoded.endswith("."):
        encoded = encoded[:-1] + "%2E"
    reserved = encoded.split(".")[0].lower() in _RESERVED
    if reserved or name != name.lower() or len(encoded) > _LONGEST_NAME:
        return f"{encoded[: _LONGEST_NAME - 17]}~{hashlib.sha256(octets).hexdigest()[:16]}"
    return encoded

"""URLs as they may be shown and stored: without the credentials that people write into them."""

import re

_USER = re.compile(r"(?<![\w+.-])(?!github://)([a-zA-Z][\w+.-]*://)[^/@\s?#]+@")
"""User and password before a host. In github://owner:repository@revision the same place is no secret."""

_SECRET = re.compile(
    r"([?&;](?:[\w.-]*(?:sig|signature|token|key|secret|passw(?:or)?d|credential)[\w.-]*)=)[^&;\s\"']+", re.IGNORECASE
)
"""Parameters that sign a request or name a secret."""


def without_credentials(text: str) -> str:
    """Return a text with the credentials of the URLs in it replaced by an ellipsis."""
    return _SECRET.sub(r"\1…", _USER.sub(r"\1…@", text)) if "://" in text else text

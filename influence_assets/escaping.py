"""Escaping of text of unknown origin for terminals and pictures. Rich's own `escape` does the same for its markup."""


def visible(text: str) -> str:
    """Return the text with control characters other than line ends and tabs spelt out."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)

"""Text of unknown origin made safe for a terminal. Rich's own `escape` does the same for its markup."""


def visible(text: str) -> str:
    """Return the text with control characters spelt out, except line ends and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)

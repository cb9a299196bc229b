"""Formatting of numbers for people."""

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def scaled(value: float, unit: str = "") -> str:
    """Return a number with three digits and a prefix of the decimal system: 1490 bytes are `1.49 kB`."""
    prefixes = list(PREFIXES)
    while float(f"{value:.3g}") >= 1000 and len(prefixes) > 1:  # as rounded for display, so that 999.6 is not 1e+03
        value /= 1000
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}".rstrip()


def size(count: float) -> str:
    """Return a number of bytes with its unit."""
    return scaled(count, "B")


def duration(seconds: float) -> str:
    """Return a duration in the unit that people would choose, from milliseconds to days."""
    if float(f"{seconds:.2g}") < 0.1:  # as rounded for display, so that 99.6 ms are not 1e+02
        return f"{seconds * 1000:.2g} ms"
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h" if hours < 100 else f"{hours / 24:.0f} d"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is one."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")

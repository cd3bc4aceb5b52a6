"""Numbers in words, for the command, the progress line and the report."""


def duration(seconds: float) -> str:
    """'48 s', '12 min', '2 h 31 min'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def rate(samples: float, seconds: float) -> str:
    """'74,200 samples/s'."""
    return f"{samples / max(seconds, 1e-3):,.0f} samples/s"

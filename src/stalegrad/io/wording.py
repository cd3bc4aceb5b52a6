"""Numbers and names as people say them, wherever they are shown: command, report, page."""

import re

# How words of a claim's name are written.
_SPELT = {
    **{word: word.upper() for word in ("sgd", "asgd", "ssgd", "pca")},
    **{"adam": "Adam", "lenet": "LeNet-5", "warmup": "warm-up"},
}
_FRACTION = re.compile(r"0\d+")  # a name cannot hold a point: 05 is 0.5


def claim_title(claim: str) -> str:
    """The name of a claim in words: 'Momentum 0.99 diverges' for `momentum_099_diverges`."""
    text = " ".join(map(_spelt, claim.replace("non_", "non-").split("_")))
    return text[:1].upper() + text[1:]


def _spelt(word: str) -> str:
    if _FRACTION.fullmatch(word):
        return f"0.{word[1:]}"
    return _SPELT.get(word, word)


def duration(seconds: float) -> str:
    """'48 s', '12 min', '2 h 31 min'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def counted(number: int, what: str) -> str:
    """'1 core', '2 cores'."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def rate(samples: float, seconds: float) -> str:
    """'74,200 samples/s'."""
    return f"{samples / max(seconds, 1e-3):,.0f} samples/s"

"""Numbers and names as people say them, wherever they are shown: command, report, page."""

import re

# How words of a claim's name are written.
_SPELT = {
    **{word: word.upper() for word in ("sgd", "asgd", "ssgd", "pca")},
    **{"adam": "Adam", "lenet": "LeNet-5", "warmup": "warm-up"},
    **{"littles": "Little's", "lordens": "Lorden's"},
}
_FRACTION = re.compile(r"0\d+")  # a name cannot hold a point: 05 is 0.5
_DURATION = r"(?:([\d,]+) h )?(?:([\d,]+) min)?(?:(\d+) s)?"
_TRAINING = re.compile(rf"training: (\d+) % done(?:, about {_DURATION} left)?")


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


def count(number: int, noun: str) -> str:
    """'1 job', '1,200 jobs'."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def training_line(share: float, left: float | None) -> str:
    """How far training is, as its jobs say it: 'training: 40 % done, about 3 min left'.

    share: from 0 to 1; left: seconds, None if nothing is known of it.
    """
    told = f"training: {100 * share:.0f} % done"
    return told if left is None else f"{told}, about {duration(left)} left"


def read_training_line(line: str) -> tuple[float, float | None] | None:
    """Share and seconds left, of what `training_line` gives; None for any other line."""
    found = _TRAINING.fullmatch(line.strip())
    if found is None:
        return None
    share, *parts = found.groups()
    if not any(parts):
        return int(share) / 100, None
    hours, minutes, seconds = (float((part or "0").replace(",", "")) for part in parts)
    return int(share) / 100, 3600 * hours + 60 * minutes + seconds

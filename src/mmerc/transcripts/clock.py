"""Times written as a clock: 00:01:02,500 of SubRip, 01:02.500 of WebVTT, 0:01:02.50 of SubStation."""

import re

_CLOCK = re.compile(
    r"""(?: (?P<hours> [0-9]{1,6} ) : (?= [0-5]?[0-9]: ) )?  # with hours, the minutes end at 59
        (?P<minutes> [0-9]{1,6} ) : (?P<seconds> [0-5]?[0-9] ) (?: [.,] (?P<fraction> [0-9]{1,9} ) )?""",
    re.VERBOSE,
)


def clock_ms(text: str) -> int | None:
    """Return the milliseconds of `[hours:]minutes:seconds[.fraction]`, None where `text` is no such time."""
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        return None
    hours, minutes, seconds = (int(found[part] or 0) for part in ("hours", "minutes", "seconds"))
    fraction = float(f"0.{found['fraction'] or 0}")
    return 1000 * (60 * (60 * hours + minutes) + seconds) + round(1000 * fraction)

"""UTC, and nothing else: how tuner makes, writes and reads instants."""

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

#: The units of numbers that count from 1970-01-01T00:00Z.
UNITS = ("s", "ms", "us", "ns")
#: An ISO 8601 text with a time of day that names its zone.
ZONE = r"[T ]\d.*(?:Z|[+-]\d{2}(?::?\d{2})?)\s*$"


def now() -> datetime:
    """The present instant, tz-aware UTC."""
    return datetime.now(UTC)


def instant(seconds: float) -> datetime | None:
    """Seconds since 1970 as an instant in UTC; None where they are none that a clock can show."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def to_text(instant: datetime, precision: str = "milliseconds") -> str:
    """Write a tz-aware instant as ISO 8601 with a `Z`, to the millisecond or to another precision of `isoformat`.

    Raises:
        ValueError: `instant` is naive, so that nobody can say when it was.
    """
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone")
    utc = instant.astimezone(UTC)
    return utc.isoformat(timespec=precision).replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """Read what `to_text` wrote.

    Raises:
        ValueError: `text` is no ISO 8601 instant, or names no zone.
    """
    instant, assumed_zone = read(text)
    if assumed_zone:
        raise ValueError(f"{text!r} has no time zone")
    return instant


def to_stamp(instant: datetime) -> str:
    """The compact form that sorts and is safe in a file name: `20261124T041530Z`."""
    return instant.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def read(text: str) -> tuple[datetime, str]:
    """Read an ISO 8601 instant that others wrote.

    Returns:
        The instant in UTC, and the zone that was assumed because the text names none (`UTC`), or an empty text.

    Raises:
        ValueError: `text` is no ISO 8601 instant.
    """
    instant = datetime.fromisoformat(text.upper())  # as RFC 3339 has it, `t` and `z` may be small
    if instant.tzinfo is None:
        return instant.replace(tzinfo=UTC), "UTC"
    try:
        return instant.astimezone(UTC), ""
    except OverflowError as error:
        raise ValueError(f"{text!r} lies outside the years 1 to 9999") from error


def to_utc(values: "pd.Series[Any]", *, unit: str | None = None, zone: str = "UTC") -> "pd.Series[Any]":
    """A column of times, whatever they came as, as tz-aware UTC.

    Args:
        values: ISO 8601 texts (with `Z`, an offset, or naive), datetimes, or numbers since 1970-01-01T00:00Z.
        unit: of numbers: `s`, `ms`, `us` or `ns`; it is never guessed, and one column has one.
        zone: what naive times are taken to be in; a warning names it where there are any.

    Returns:
        `datetime64[us, UTC]`; NaT for what is missing or no time, and for naive times that `zone` had twice or never
        (a clock set back or forward); a warning counts them.

    Raises:
        ValueError: numbers without a unit, an unknown unit, or an unknown zone.
    """
    import pandas as pd

    _check(values, unit, zone)
    if unit:
        times = pd.to_datetime(pd.to_numeric(values, errors="coerce"), unit=unit, utc=True, errors="coerce")  # type: ignore[call-overload]
    elif isinstance(values.dtype, pd.DatetimeTZDtype):
        times = values.dt.tz_convert("UTC")
    elif pd.api.types.is_datetime64_dtype(values):
        times = _localize(values, zone)
    else:
        times = _from_texts(values, zone)
    lost = int((times.isna() & values.notna()).sum())
    if lost:
        logger.warning("%d values of %s are no times, or ambiguous ones: left out", lost, values.name or "a column")
    utc: pd.Series[Any] = times.astype("datetime64[us, UTC]")
    return utc


def _check(values: "pd.Series[Any]", unit: str | None, zone: str) -> None:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    import pandas as pd

    if unit is not None and unit not in UNITS:
        raise ValueError(f"{unit!r} is no unit of time: use {', '.join(UNITS)}")
    if unit is None and pd.api.types.is_numeric_dtype(values) and values.notna().any():
        raise ValueError(f"{values.name or 'a column'} holds numbers: say their unit, one of {', '.join(UNITS)}")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{zone!r} is no time zone: use a name such as UTC or Europe/Berlin") from error


def _from_texts(values: "pd.Series[Any]", zone: str) -> "pd.Series[Any]":
    """Texts and datetime objects, each with a zone of its own or none."""
    import pandas as pd

    texts = values.map(lambda value: value.isoformat() if isinstance(value, datetime) else value).astype("str")
    texts = texts.str.upper().str.replace(",", ".")  # small `t` and `z` (RFC 3339), a decimal comma (ISO 8601)
    named = texts.str.contains(ZONE, na=False)
    aware = pd.to_datetime(texts.where(named), format="ISO8601", utc=True, errors="coerce")
    naive = pd.to_datetime(texts.where(~named), format="ISO8601", errors="coerce")
    return aware.where(named, _localize(naive, zone))


def _localize(naive: "pd.Series[Any]", zone: str) -> "pd.Series[Any]":
    if naive.notna().any():
        logger.warning("%d times of %s name no zone: %s assumed", naive.notna().sum(), naive.name or "a column", zone)
    local = naive.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    utc: pd.Series[Any] = local.dt.tz_convert("UTC")
    return utc

"""UTC, and nothing else: how tuner makes, writes and reads instants."""

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

ZONE = r"[T ]\d.*(?:Z|[+-]\d{2}(?::?\d{2})?)\s*$"  # an ISO 8601 text with a time of day that names its zone


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
    """A tz-aware instant (or ValueError) as ISO 8601 with a `Z`, to a precision as `isoformat` has it."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone")
    utc = instant.astimezone(UTC)
    return utc.isoformat(timespec=precision).replace("+00:00", "Z")


def to_stamp(instant: datetime) -> str:
    """The compact form that sorts and is safe in a file name: `20261124T041530Z`."""
    return instant.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def read(text: str) -> tuple[datetime, str]:
    """An ISO 8601 instant that others wrote, in UTC, and the zone assumed where it names none (`UTC`, else empty).

    ValueError: `text` is no ISO 8601 instant.
    """
    instant = datetime.fromisoformat(text.upper())  # as RFC 3339 has it, `t` and `z` may be small
    if instant.tzinfo is None:
        return instant.replace(tzinfo=UTC), "UTC"
    try:
        return instant.astimezone(UTC), ""
    except OverflowError as error:
        raise ValueError(f"{text!r} lies outside the years 1 to 9999") from error


def known(text: str) -> datetime | None:
    """The instant that `text` is in UTC; None where it is empty or none."""
    try:
        return read(text)[0]
    except ValueError:
        return None


def to_utc(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """A column of times (ISO 8601 texts or datetimes) as `datetime64[us, UTC]`; NaT for what is missing or no time.

    Naive ones are taken for UTC; warnings count these and what was no time. ValueError: numbers, of which nobody knows
    the unit.
    """
    import pandas as pd

    name = values.name or "a column"
    if pd.api.types.is_numeric_dtype(values) and values.notna().any():
        raise ValueError(f"{name} holds numbers, and no times")
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return values.astype("datetime64[us, UTC]")
    texts = values.map(lambda value: value.isoformat() if isinstance(value, datetime) else value).astype("str")
    texts = texts.str.upper().str.replace(",", ".")  # small `t` and `z` (RFC 3339), a decimal comma (ISO 8601)
    times = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    if naive := int((times.notna() & ~texts.str.contains(ZONE, na=False)).sum()):
        logger.warning("%d times of %s name no zone: UTC assumed", naive, name)
    if lost := int((times.isna() & values.notna()).sum()):
        logger.warning("%d values of %s are no times: left out", lost, name)
    utc: pd.Series[Any] = times.astype("datetime64[us, UTC]")
    return utc

"""UTC, and nothing else: how tuner makes, writes and reads instants."""

from datetime import UTC, datetime


def now() -> datetime:
    """The present instant, tz-aware UTC."""
    return datetime.now(UTC)


def to_text(instant: datetime) -> str:
    """Write a tz-aware instant as ISO 8601 with a `Z`, to the millisecond.

    Raises:
        ValueError: `instant` is naive, so that nobody can say when it was.
    """
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone")
    utc = instant.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """Read what `to_text` wrote.

    Raises:
        ValueError: `text` is no ISO 8601 instant, or names no zone.
    """
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return instant.astimezone(UTC)


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
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        return instant.replace(tzinfo=UTC), "UTC"
    return instant.astimezone(UTC), ""

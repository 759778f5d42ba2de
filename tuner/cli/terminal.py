"""The one way to a terminal: whatever came from outside shows its control characters and gives no command."""

from typing import Any

from rich.console import Console
from rich.text import Text

from tuner.core.text import visible


class Terminal(Console):
    """A console whose texts, cells of tables among them, hold no control characters but its own colours."""

    def render_str(self, text: str, **options: Any) -> Text:
        """`text` with its markup; escape sequences in it are shown, and do nothing."""
        return super().render_str(visible(text), **options)

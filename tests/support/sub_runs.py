"""What a sub-run that finds no place is told."""


class HeardWaiting:
    """Implements `sub_run_places.Waiting`."""

    def __init__(self) -> None:
        #: True while there is no place for it.
        self.waiting = False

    def waits(self) -> None:
        """See `Waiting.waits`."""
        self.waiting = True

    def goes_on(self) -> None:
        """See `Waiting.goes_on`."""
        self.waiting = False

"""The one error of the launcher."""


class LauncherError(Exception):
    """The mesh could not be started, stopped or read. Its text is one sentence for the person at the terminal."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


def first_failure(group: BaseExceptionGroup[LauncherError]) -> LauncherError:
    """Gives the first error of a group of tasks that ended together; the others mostly follow from it."""
    found = group.exceptions[0]
    return first_failure(found) if isinstance(found, BaseExceptionGroup) else found

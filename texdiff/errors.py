"""The one error that a user causes and a user can mend."""


class InputError(Exception):
    """Bad input. Its text is one line: the file or key, what is wrong with it, and what to do.

    Programs print the line to stderr and exit with 2; no traceback is shown.
    """

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # what it quotes, a file's name say, may have several

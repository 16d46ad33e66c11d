"""The one error that a user causes and can correct."""

import sys

TRAIN_COMMAND = "texdiff train"
_LONGEST = 1500  # letters of a message


class InputError(Exception):
    """Bad input. Its text is one line: the file or key, what is wrong with it, and what to do.

    Programs print the line to stderr and exit with 2; no traceback is shown.
    """

    def __str__(self) -> str:
        # What it quotes, a file's name say, may be long, of several lines, or an order to the terminal.
        text = " ".join(super().__str__().splitlines())
        text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 200]} ... {text[-190:]}"
        return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def training_program() -> str:
    """The program that trains, as its user has started it: messages begin with it."""
    return TRAIN_COMMAND if sys.argv[0] == TRAIN_COMMAND else "train_texture.py"


def full_memory(error: BaseException | None) -> str:
    """Whose memory is full, where that is what the error says: the GPU's, the machine's; else ''."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported before it is needed
        return "the GPU's"
    return "the machine's" if isinstance(error, MemoryError) or "can't allocate memory" in str(error) else ""


def one_line(text: object) -> str:
    """What an error (or any text) says, on one line; an error that says nothing by its type's name."""
    return " ".join(readable(str(text)).split()) or type(text).__name__


def readable(text: str) -> str:
    """The text without surrogates, which no file takes: Python keeps the bytes of a file's name that are no UTF-8 as
    these, and JSON may hold some. Each becomes a replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

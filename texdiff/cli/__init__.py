"""The `texdiff` command. A subcommand is a function: its parameters are the flags, its docstring is the help."""

import contextlib
import inspect
import io
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, MappingProxyType, NoneType
from typing import Any, NoReturn, get_args, get_origin

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from texdiff.cli import launch
from texdiff.cli.blender import blender
from texdiff.cli.commands import cache, check, evaluate, export, layout, prepare, report
from texdiff.cli.demo import demo
from texdiff.cli.doctor import doctor
from texdiff.cli.train_arguments import of_wrong_type
from texdiff.errors import InputError, full_memory, one_line
from texdiff.evaluation.compare import compare
from texdiff.inference.generate import generate
from texdiff.storage import ConnectionBroken, is_address

SUBCOMMANDS: list[Callable[..., object]] = [prepare, check, generate, layout, export, compare, report, evaluate, cache]
SUBCOMMANDS += [blender, demo, doctor]
_IN_STORAGE = ["prepare output", "check source", "generate lora", "export run", "evaluate run", "evaluate dataset"]
_IN_STORAGE += ["cache cache_dir"]  # which says itself what to do there
_TEXTS = ("prompt", "negative_prompt", "caption_template")


class OneLineParser(ArgumentParser):
    """A parser whose errors are one line on stderr and exit 2; `types` are those of its flags, by name."""

    types: Mapping[str, Any] = MappingProxyType({})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        if message.startswith("the following arguments are required: "):
            message = re.sub(r"(\w+)\.(\w+)", _as_typed, message)
        sys.stderr.write(f"texdiff: error: {one_line(of_wrong_type(message, self.types.get))}\n")
        raise SystemExit(2)


def _as_typed(match: re.Match[str]) -> str:
    """An argument, generate.prompt, as it is typed: --prompt; one without a flag as the usage has it."""
    function = next(function for function in SUBCOMMANDS if function.__name__ == match[1])
    return match[2] if match[2] in [parameter.name for parameter in _positionals(function)] else f"--{match[2]}"


def build_parser() -> ArgumentParser:
    """The parser of `texdiff` and its subcommands: positional-only parameters are positional, the others are flags."""
    parser = OneLineParser(prog="texdiff", description="Stable Diffusion on UV texture atlases.", allow_abbrev=False)
    subcommands = parser.add_subcommands(required=True, dest="subcommand")
    for function in SUBCOMMANDS:
        described = docstring_parser.parse(inspect.getdoc(function) or "")
        helps = {parameter.arg_name: parameter.description for parameter in described.params}
        subparser = OneLineParser(description=described.short_description, allow_abbrev=False)
        subparser.types = {p.name: p.annotation for p in inspect.signature(function).parameters.values()}
        positionals = _positionals(function)
        for parameter in positionals:
            several: dict[str, Any] = {"nargs": "+"} if _item_type(parameter) else {}
            subparser.add_argument(
                parameter.name,
                type=_item_type(parameter) or parameter.annotation,
                help=helps[parameter.name],
                **several,
            )
        # A flag with several values takes them at once, --seed 1 2, or one by one, --seed 1 --seed 2.
        lists = [p for p in inspect.signature(function).parameters.values() if _item_type(p) and p not in positionals]
        switches = [p for p in inspect.signature(function).parameters.values() if p.annotation is bool]
        texts = [p for p in inspect.signature(function).parameters.values() if _is_text(p) and p not in positionals]
        skip: set[str | int] = {parameter.name for parameter in [*positionals, *lists, *switches, *texts]}
        subparser.add_function_arguments(function, skip=skip)
        for parameter in switches:
            subparser.add_argument(f"--{parameter.name}", action="store_true", help=helps[parameter.name])
        for parameter in texts:
            subparser.add_argument(f"--{parameter.name}", type=str, help=helps[parameter.name])
        for parameter in lists:
            required = parameter.default is inspect.Parameter.empty
            subparser.add_argument(
                f"--{parameter.name}",
                type=_item_type(parameter),
                nargs="+",
                action="extend",
                required=required,
                help=helps[parameter.name],
            )
        subcommands.add_subcommand(function.__name__, subparser, help=described.short_description)
    subcommands.add_subcommand("train", OneLineParser(), help=launch.SUMMARY)  # which reads its own arguments
    return parser


def _item_type(parameter: inspect.Parameter) -> type | None:
    """The type of one value, where a parameter takes a list of them."""
    for kind in (parameter.annotation, *get_args(parameter.annotation)):
        if get_origin(kind) is list:
            return get_args(kind)[0]
    return None


def _is_text(parameter: inspect.Parameter) -> bool:
    """Whether it is a text or nothing. The library would read one as YAML, where "null" and "#1" are nothing."""
    kinds = set(get_args(parameter.annotation))
    return parameter.default is None and NoneType in kinds and kinds <= {str, Path, NoneType}


def _positionals(function: Callable[..., object]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter for parameter in parameters if parameter.kind is inspect.Parameter.POSITIONAL_ONLY]


def main(arguments: list[str] | None = None) -> int:
    """Run `texdiff SUBCOMMAND ...`; returns the exit status: 2 with one line on stderr where the input is at fault, 1
    where a connection to storage is broken."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names of files may hold what the terminal cannot show
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["train"]:
        return launch.train(words[1:])
    parsed: Namespace = build_parser().parse_args(words)
    given = {name: value for name, value in parsed[parsed.subcommand].as_dict().items() if value is not None}
    function = next(function for function in SUBCOMMANDS if function.__name__ == parsed.subcommand)
    try:
        _check_addresses(parsed.subcommand, given)
        positionals = [given.pop(parameter.name) for parameter in _positionals(function)]
        with _stopped_by_signals():
            status = function(*positionals, **given)
        return status if isinstance(status, int) else 0
    except (InputError, OSError) as error:  # OSError: a full disk, no right to write, a network that is gone
        sys.stderr.write(f"texdiff: error: {one_line(error)}\n")
        return 1 if isinstance(error, ConnectionBroken) else 2
    except (RuntimeError, MemoryError) as error:
        if not (whose := full_memory(error)):
            raise
        sys.stderr.write(
            f"texdiff: error: {whose} memory is full; end other programs on it, or set a smaller --batch_size\n"
        )
        return 2
    except KeyboardInterrupt as stop:
        with contextlib.suppress(OSError):  # the terminal has gone
            sys.stderr.write("texdiff: stopped\n")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def _check_addresses(subcommand: str, given: dict[str, Any]) -> None:
    """Raises InputError for an address where a path is needed, which would be taken for a folder of that name here."""
    for name, value in given.items():
        if f"{subcommand} {name}" in _IN_STORAGE or name in _TEXTS:
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, (str, Path)) and is_address(str(one)):
                said = f"texdiff {subcommand} does not go to storage for it; copy it"
                raise InputError(f"{name} must be on a disk (got {one}): {said}")


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP, which a closed terminal sends, end the block as Ctrl-C does, worker processes with it."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has one
    before = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) is signal.SIG_DFL}  # nohup ignores one
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

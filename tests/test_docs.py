"""Pages that name settings and commands: every one of them is there, with the values that the page gives it."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from texdiff.cli import SUBCOMMANDS
from texdiff.cli.launch import parse_launch
from texdiff.cli.train_arguments import parse_command_line
from texdiff.config import TrainingConfig

DOCS = Path(__file__).parent.parent / "docs"
SECTIONS = "|".join(field.name for field in fields(TrainingConfig))


@pytest.mark.parametrize("name", ["from-kohya.md", "from-onetrainer.md"])
def test_settings_that_a_page_names_are_there(name, capsys):
    text = (DOCS / name).read_text("utf-8")
    named = re.findall(rf"`(?:--)?((?:{SECTIONS})\.\w+)(?: ([^`]+))?`", text)
    assert len(named) > 30
    for key, value in named:
        section, key = key.split(".")
        kind = type(parse_command_line(["--data.dataset", "d"]).config.__getattribute__(section))
        assert key in {field.name for field in fields(kind)}, f"{section}.{key}"
        if value:
            parse_command_line(["--data.dataset", "d", f"--{section}.{key}", value])
    for layers in re.findall(r"`(\[to_q[^`]+\])`", text):
        parse_command_line(["--data.dataset", "d", "--lora.target_modules", layers])
    flags = [word for line in re.findall(r"--(?:data|model|run)\.\S+ \S+", text) for word in line.split()]
    parse_command_line([word for word in flags if word != "\\"])


@pytest.mark.parametrize("name", ["from-kohya.md", "from-onetrainer.md"])
def test_commands_that_a_page_names_are_there(name):
    text = (DOCS / name).read_text("utf-8")
    commands = {function.__name__: inspect.signature(function).parameters for function in SUBCOMMANDS}
    for command, rest in re.findall(r"texdiff (\w+)([^`\n]*)", text):
        assert command in {*commands, "train"}, command
        for flag in re.findall(r"--(\w+)(?!\.|\w)", rest):
            assert flag in commands.get(command, ()), f"texdiff {command} --{flag}"
    for flag in re.findall(r"`--(\w+)` of `texdiff train`", text):
        value = "fp16" if flag == "mixed_precision" else "2"
        assert parse_launch([f"--{flag}", value])[1] == []

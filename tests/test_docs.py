"""Pages that name settings and commands: every one of them is there, with the values that the page gives it."""

import inspect
import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from texdiff.cli import SUBCOMMANDS
from texdiff.cli.launch import parse_launch
from texdiff.cli.train_arguments import parse_command_line
from texdiff.config import TrainingConfig

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"
PAGES = sorted(path for path in DOCS.glob("*.md") if path.stem not in ("LOG", "settings"))
SECTIONS = "|".join(field.name for field in fields(TrainingConfig))


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.name)
def test_settings_that_a_page_names_are_there(path):
    text = path.read_text("utf-8")
    named = re.findall(rf"`(?:--)?((?:{SECTIONS})\.\w+)(?: ([^`]+))?`", text)
    assert len(named) > 30 or not path.name.startswith("from-")
    for key, value in named:
        section, key = key.split(".")
        kind = type(parse_command_line(["--data.dataset", "d"]).config.__getattribute__(section))
        assert key in {field.name for field in fields(kind)}, f"{section}.{key}"
        if value:
            parse_command_line(["--data.dataset", "d", f"--{section}.{key}", value])
    for layers in re.findall(r"`(\[to_q[^`]+\])`", text):
        parse_command_line(["--data.dataset", "d", "--lora.target_modules", layers])
    flags = [
        word for line in re.findall(r"--(?:data|layout|model|run)\.\w+ [^\s\\`'\"]+", text) for word in line.split()
    ]
    parse_command_line(["--data.dataset", "d", *flags])


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.name)
def test_commands_that_a_page_names_are_there(path):
    text = path.read_text("utf-8")
    commands = {function.__name__: inspect.signature(function).parameters for function in SUBCOMMANDS}
    code = re.findall(r"```.*?```|`[^`\n]+`|^    \S.*?$", text.replace("\\\n", " "), flags=re.M | re.S)
    for command, rest in re.findall(r"(?<!from )texdiff (?!train_texture)(\w+)([^`\n]*)", "\n".join(code)):
        assert command in {*commands, "train"}, command
        for flag in re.findall(r"--(\w+)(?!\.|\w)", rest):
            known = commands.get(command, ("config", "config_file", "dry_run", "mixed_precision", "num_processes"))
            assert flag in {*known, "help"}, f"texdiff {command} --{flag}"
    for flag in re.findall(r"`--(\w+)` of `texdiff train`", text):
        value = "fp16" if flag == "mixed_precision" else "2"
        assert parse_launch([f"--{flag}", value])[1] == []


@pytest.mark.parametrize("path", [README, DOCS.parent / "CHANGELOG.md", *PAGES], ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", path.read_text("utf-8")):
        there = path.parent / target if target else path
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), flags=re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.name)
def test_configs_that_a_page_names_are_there(path):
    for name in re.findall(r"\bconfigs/\w+\.yaml", path.read_text("utf-8")):
        assert (README.parent / name).is_file(), name


def test_the_page_of_settings_is_what_its_command_makes():
    page = runpy.run_path(str(DOCS / "settings_page.py"))["page"]()
    assert (DOCS / "settings.md").read_text("utf-8") == page, "run python docs/settings_page.py"


def test_tests_that_the_page_of_bases_names_are_there():
    named = re.findall(r"`(tests/\S+\.py)`", (DOCS / "bases.md").read_text("utf-8"))
    assert len(named) > 14
    assert [name for name in named if not (DOCS.parent / name).is_file()] == []

"""The `texdiff` command: quick help, one line per error, exit status."""

import inspect
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from texdiff.cli import SUBCOMMANDS, build_parser, main


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom texdiff.cli import main\n"
        "try:\n    main(['prepare', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'datasets', 'trimesh', 'diffusers', 'transformers', 'cv2', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_says_what_every_option_is(capsys: pytest.CaptureFixture) -> None:
    for function in SUBCOMMANDS:
        with pytest.raises(SystemExit) as end:
            main([function.__name__, "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        for name in function.__annotations__:
            if name != "return":
                after = text.split(f"--{name} " if f"--{name} " in text else f"{name} ", 1)[1]
                assert after.split("(", 1)[0].strip(), name


def test_the_list_of_commands_has_sentences() -> None:
    text = " ".join(build_parser().format_help().split("(required)")[1].split()) + " "
    for function in SUBCOMMANDS:
        sentences = (inspect.getdoc(function) or "").split("\n\n", 1)[0]
        assert f"{function.__name__} {' '.join(sentences.split())} " in text


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["generate", "--output", "x.png"], "--model, --prompt"),
        (["check"], "source"),
        (["layout", "--output", "x.png"], "mesh"),
    ],
)
def test_what_is_missing_is_named_as_it_is_typed(
    arguments: list[str], missing: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert re.search(rf"required: {missing}\b", capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["prepare"],
        ["prepare", "meshes"],
        ["prepare", "meshes", "--output", "out", "--resolution", "big"],
        ["prepare", "meshes", "--output", "out", "--format", "zip"],
        ["prepare", "meshes", "--output", "out", "--colour", "red"],
        ["check"],
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("texdiff: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["null", "#1", "~", "12", "[a, b]", "-x", "a: b", ""])
def test_a_text_is_taken_as_it_stands(text: str) -> None:
    names = ("lora", "mesh", "material", "layout", "negative_prompt")
    flags = [f"--{name}={text}" for name in names]
    given = build_parser().parse_args(["generate", "--model=nano", f"--prompt={text}", "--output=x.png", *flags])
    assert {name: given.generate[name] for name in names} == dict.fromkeys(names, text)
    assert given.generate.prompt == [text]
    left_out = build_parser().parse_args(["generate", "--model=nano", "--prompt=a", "--output=x.png"])
    assert [left_out.generate[name] for name in names[:-1]] == [None] * 4


def test_prepare_prints_one_line_and_nothing_usable_is_another(
    tmp_path: Path, write_mesh: Callable, draw: Callable, capsys: pytest.CaptureFixture
) -> None:
    write_mesh(tmp_path / "meshes" / "a.glb", draw(1))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "b.glb").write_bytes(b"glTF")
    assert main(["prepare", str(tmp_path / "meshes"), "--output", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert main(["prepare", str(tmp_path / "none"), "--output", str(tmp_path / "no"), "--workers", "1"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("texdiff: error: ")
    assert sorted(path.name for path in (tmp_path / "no").iterdir()) == ["audit.html", "audit.jsonl"]
    assert not (tmp_path / "no.partial").exists()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["generate", "--model", "nano", "--prompt", "a", "--output", "s3://b/x.png"], "output"),
        (["generate", "--model", "nano", "--prompt", "a", "--output", "x.png", "--mesh", "s3:/b/x.glb"], "mesh"),
        (["prepare", "meshes", "gs://b/meshes", "--output", "x"], "source"),
        (["export", "s3://b/run", "--output", "s3://b/x.safetensors"], "output"),
        (["compare", "s3://b/run", "meshes", "--output", "x.png"], "run"),
        (["report", "s3://b/run"], "run"),
    ],
)
def test_an_address_is_no_folder_here(words: list[str], name: str, capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 2
    said = rf"texdiff: error: {name} must be on a disk \(got (s3|gs):/.*\): .* does not go to storage for it; copy it\n"
    assert re.fullmatch(said, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_stops_prepare_and_its_workers_in_one_line(
    name: str, tmp_path: Path, write_mesh: Callable, draw: Callable
) -> None:
    for number in range(200):
        write_mesh(tmp_path / "meshes" / f"{number}.glb", draw(number % 3))
    words = ["-m", "texdiff.cli", "prepare", str(tmp_path / "meshes"), "--output", str(tmp_path / "out")]
    command = [sys.executable, *words, "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.glob("out.partial/**/*.*")):  # it reads
        assert process.poll() is None
        time.sleep(0.01)
    number = getattr(signal, name)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]  # until the last process that can write has ended
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == "texdiff: stopped"
    assert "Traceback" not in said

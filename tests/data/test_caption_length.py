"""Captions that the text encoder would cut are said: how many, and which first."""

from pathlib import Path

from texdiff.cli import main
from texdiff.data.caption_length import describe_empty, find_long_captions
from texdiff.models.family import load_family
from texdiff.models.nano import count_clip_tokens

PHRASE = "a highly detailed uv texture atlas of a barrel, "


def test_the_limit_is_where_the_encoder_stops_reading() -> None:
    """75 tokens are read, beside the marks of start and end: the 76th changes nothing any more."""
    family = load_family("nano")
    family.move_encoders("cpu", "prompts")
    read, one_more, another = ("crate " * 75).strip(), ("crate " * 75) + "red", ("crate " * 75) + "blue"
    encoded = family.encode_prompts([read, one_more, another, ("crate " * 74) + "red"])["text"]
    assert encoded[0].equal(encoded[1])
    assert encoded[1].equal(encoded[2])
    assert not encoded[0].equal(encoded[3])
    for texts, count in ([read], None), ([one_more], 1), ([read, another, "crate"], 1):
        long = find_long_captions([("x.png", texts)], family.count_tokens, family.max_tokens)
        assert (long and long.count) == count
    assert count_clip_tokens([read, another]) == family.count_tokens([read, another]) == [75, 76]


def test_few_letters_of_some_scripts_are_many_tokens() -> None:
    assert count_clip_tokens(["𒀀" * 20])[0] > 75
    assert find_long_captions([("x.png", ["𒀀" * 20])], count_clip_tokens)


def test_check_says_how_many_and_which_first(make_dataset, tmp_path: Path, capsys) -> None:
    folder = make_dataset(tmp_path / "d", [0.5, 0.4, 0.3, 0.6])
    table = folder / "train" / "metadata.jsonl"
    table.write_text(table.read_text("utf-8").replace("number 1", PHRASE * 12).replace("number 3", PHRASE * 9), "utf-8")
    assert main(["check", str(folder)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "tokens" in line]
    assert len(said) == 1
    assert "2 of 4 captions are longer than the 75 tokens that the text encoder reads, the rest is cut" in said[0]
    assert said[0].startswith("train/textures/1.png: warning: ")
    assert said[0].endswith("; data.max_token_length can be 150 or 225")


def test_a_run_says_it_before_it_starts(make_dataset, train, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", [0.5, 0.4, 0.3], held_out=1, text=["crate", PHRASE * 9])
    result = train("--data.dataset", folder, "--run.output_dir", tmp_path / "run", "--dry_run")
    assert result.returncode == 0, result.stderr
    assert "captions         warning: 3 of 6 captions are longer than the 75 tokens" in result.stdout
    assert f"the first is that of {folder}/train/textures/0.png, with " in result.stdout


def test_empty_captions_are_counted() -> None:
    assert describe_empty([("a", "b"), ("c",)]) == ""
    assert describe_empty([("a", " "), ("c",)]).startswith("1 of 3 captions is empty")
    assert describe_empty([("",), ("\n",)]).startswith("2 of 2 captions are empty: ")

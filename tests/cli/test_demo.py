"""`texdiff demo`: its commands are ones that there are, and its settings those of configs/demo.yaml."""

from dataclasses import replace
from pathlib import Path

from texdiff.cli import build_parser
from texdiff.cli.demo import LOOK_AT, steps
from texdiff.cli.train_arguments import parse_command_line

ROOT = Path(__file__).parents[2]


def test_every_command_is_one_that_there_is(tmp_path: Path) -> None:
    parser, made = build_parser(), []
    for program, words in steps(tmp_path):
        if words[0] == "train":
            config = parse_command_line(words[1:]).config
            assert (config.data.dataset, config.run.output_dir) == (str(tmp_path / "dataset"), str(tmp_path / "run"))
            same = parse_command_line(["--config", str(ROOT / "configs/demo.yaml")]).config
            data = replace(config.data, dataset=same.data.dataset)
            assert replace(config, data=data, run=replace(config.run, output_dir=same.run.output_dir)) == same
        elif program == "texdiff":
            parsed = parser.parse_args(words)
            made.append(parsed[words[0]].output)
    assert {"before_after.png"} == {name for name in LOOK_AT if str(tmp_path / name) in map(str, made)}

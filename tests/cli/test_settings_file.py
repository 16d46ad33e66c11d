"""What YAML lets pass in silence: empty keys and sections, keys given twice, numbers that are none."""

from pathlib import Path
from typing import Any

import pytest

from texdiff.cli.train_arguments import parse_command_line
from texdiff.config import DataConfig, TrainingConfig

DEFAULTS = TrainingConfig(data=DataConfig(dataset="d"))


def parse(folder: Path, text: str, *flags: str) -> Any:
    (folder / "settings.yaml").write_text(text, "utf-8")
    return parse_command_line(["--data.dataset", "d", "--config", str(folder / "settings.yaml"), *flags]).config


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "null", "lora:\n", "lora:\n#  rank: 16\ndata:\n", "lora: {}", "\ufeff"]
)
def test_an_empty_section_is_its_defaults(tmp_path: Path, text: str) -> None:
    assert parse(tmp_path, text) == DEFAULTS


def test_a_section_may_take_in_another_mapping(tmp_path: Path) -> None:
    config = parse(tmp_path, "lora: &lora {rank: 4}\nlayout:\n  <<: {maps: none}\n")
    assert (config.lora.rank, config.layout) == (4, DEFAULTS.layout)


def test_beside_an_empty_section_the_others_hold(tmp_path: Path) -> None:
    config = parse(tmp_path, "lora:\ndata:\n  resolution: 128\noptim: {learning_rate: 5e-4}\nmodel: {revision: x}\n")
    assert (config.data.resolution, config.optim.learning_rate, config.model.revision) == (128, 5e-4, "x")
    assert config.lora == DEFAULTS.lora


@pytest.mark.parametrize("key", ["lora.alpha", "run.cuda_graphs", "optim.max_grad_norm", "mask.unmasked_weight"])
def test_null_where_the_type_allows_it(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    assert getattr(getattr(parse(tmp_path, f"{section}:\n  {name}:\n"), section), name) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model:\n  train:\n", "model.train must not be null; give a value, or leave the key out"),
        ("lora: {dropout: null}", "lora.dropout must not be null"),
        ("lora: {use_dora: ~}", "lora.use_dora must not be null"),
        ("data: {background:}", "data.background must not be null"),
        ("run:\n  resume:\n", "run.resume must not be null"),
        ("lora: {use_dora: }", "lora.use_dora must not be null"),
        ("lora:\n  rank: 2\nlora:\n  alpha: 3\n", "line 3: lora is given twice, first in line 1"),
        ("lora:\n  rank: 2\n  rank: 2\n", "line 3: lora.rank is given twice, first in line 2"),
        ("lora.rank: 2\nlora: {rank: 3}", "line 2: lora.rank is given twice, first in line 1"),
        ("optim: {learning_rate: .inf}", "line 1: optim.learning_rate must be a finite number (got .inf)"),
        ("\nnoise: {offset: .NaN}", "line 2: noise.offset must be a finite number (got .NaN)"),
        ("optim: {weight_decay: 1e999}", "optim.weight_decay must be a finite number (got inf)"),
        ("run: {seed: 18446744073709551616}", "run.seed must fit into 64 bits (got 18446744073709551616)"),
        ("run: {max_train_steps: 1" + 30 * "0" + "}", "run.max_train_steps must fit into 64 bits"),
        ("lora: [1]", "line 1: lora must be a section with keys"),
        ("data: d", "line 1: data must be a section with keys"),
        ("- 1", "holds no settings"),
        ("config: other.yaml", "line 1: config is not a setting"),
        ("? [a]\n: 1", "line 1: a key must be a name"),
        ("lora:\n  rnak: 4", "settings.yaml, line 2: lora.rnak is not a setting; nearest is lora.rank"),
        ("xyzzy: 4", "settings.yaml, line 1: xyzzy is not a setting; see --help"),
        ("run: {output_dir: 5}", "run.output_dir must be a text (got 5)"),
        ("lora: {rank: !!python/name:os.system x}", "settings.yaml: not a valid YAML file (could not determine"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_2(tmp_path: Path, capsys: Any, text: str, said: str) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(tmp_path, text)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert said in printed


@pytest.mark.parametrize(
    "flags", [["--optim.learning_rate", ".inf"], ["--run.seed", "9" * 30], ["--lora.dropout", "null"]]
)
def test_the_same_by_flag(tmp_path: Path, capsys: Any, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(tmp_path, "", *flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_largest_seeds_are_taken(tmp_path: Path) -> None:
    for seed in (-(2**63), 2**64 - 1):
        assert parse(tmp_path, f"run: {{seed: {seed}}}").run.seed == seed

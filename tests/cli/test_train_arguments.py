"""Settings as a user gives them: files, flags, and what is said of wrong ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from texdiff.cli.train_arguments import parse_command_line
from texdiff.config import DataConfig, SourceConfig, TrainingConfig
from texdiff.errors import InputError

ROOT = Path(__file__).parents[2]

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def parse(*arguments):
    return parse_command_line([*map(str, arguments)]).config


def test_flags_beat_later_files_beat_earlier_files_beat_defaults(tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("data: {dataset: d, resolution: 128}\nlora: {rank: 2, alpha: 3}\noptim: {learning_rate: 5e-4}\n")
    two.write_text("lora: {rank: 4}\n")
    config = parse("--run.seed", 7, "--lora.use_dora", "true", "--config", one, f"--config={two}")
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (4, 3, 0)
    assert config.optim.learning_rate == 5e-4
    assert parse("--lora.rank", 16, "--config", one, "--config", two).lora.rank == 16
    assert parse("--config", two, "--config", one).lora.rank == 2


def test_a_home_is_meant_by_its_sign_in_files_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.yaml").write_text("data: {dataset: ~/d, cache_dir: ~/c}\nlora: {init: ~/l}\nrun: {output_dir: ~/r}")
    config = parse("--config", tmp_path / "x.yaml")
    found = config.data.dataset, config.data.cache_dir, config.lora.init, config.run.output_dir
    assert found == tuple(str(tmp_path / name) for name in "dclr")
    assert parse("--data.dataset", "[{path: ~/d}]").data.sources[0].path == str(tmp_path / "d")


def test_what_is_written_reads_back(tmp_path):
    config = parse("--data.dataset", "d", "--lora.target_modules", "[to_q,to_k]", "--data.background", 128)
    (tmp_path / "config.yaml").write_text(config.to_yaml(), "utf-8")
    assert parse("--config", tmp_path / "config.yaml") == config
    assert config.lora.target_modules == ("to_q", "to_k")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path):
    config = parse("--config", path, "--data.dataset", "d")
    given = yaml.safe_load(path.read_text("utf-8"))
    assert config.model.train == given["model"].get("train", "lora")
    assert {p.stem for p in CONFIGS} >= {"demo", "sd15_lora", "sd15_full", "sd21_lora"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lora.rnak", "4"], "lora.rnak"),
        (["--run.max_train_steps", "many"], "run.max_train_steps"),
        (["--mask.reduction", "mean"], "mask.reduction"),
        (["--data.resolution", "100"], "data.resolution must be a multiple of 8, at least 64 (got 100)"),
        (["--data.background", "300"], "data.background must be from 0 to 255 (got 300)"),
        (["--lora.rank", "0"], "lora.rank must be at least 1 (got 0)"),
        (["--optim.learning_rate", ".nan"], "optim.learning_rate must be a finite number (got nan)"),
        (["--lora.alpha", "0"], "lora.alpha must be above 0 (got 0.0)"),
        (["--lora.target_modules", "[]"], "lora.target_modules must be at least one name (got ())"),
        (["--mask.unmasked_weight", "1.5"], "mask.unmasked_weight must be from 0 to 1 (got 1.5)"),
        (
            ["--run.early_stopping_patience", "3", "--validation.every", "0"],
            "run.early_stopping_patience needs validation.every above 0",
        ),
        (["--run.early_stopping_patience", "0"], "run.early_stopping_patience must be at least 1 (got 0)"),
        (["--validation.every", "-1"], "validation.every must be at least 0 (got -1)"),
        (
            ["--mask.outside", "base_model", "--model.train", "full"],
            "mask.outside base_model needs model.train lora or controlnet",
        ),
        (["--model.train", "controlnet"], "model.train controlnet needs layout.maps position or mask"),
        (["--layout.maps", "mask"], "layout.maps mask needs layout.init with model.train lora"),
        (["--layout.maps", "mask", "--model.train", "full"], "layout.maps must be none with model.train full"),
        (["--layout.dropout", "0.5"], "layout.dropout needs layout.maps position or mask (got 0.5 with none)"),
        (
            ["--inpaint.mode", "layout", "--inpaint.variants", "2"],
            "inpaint.variants needs inpaint.mode complete (got 2)",
        ),
        (["--inpaint.variants", "0"], "inpaint.variants must be at least 1 (got 0)"),
        (["--layout.dropout", "1.5"], "layout.dropout must be at least 0 and below 1 (got 1.5)"),
        (["--layout.learning_rate", "1e-3"], "layout.learning_rate needs model.train controlnet"),
        (
            ["--model.train", "controlnet", "--layout.maps", "mask", "--layout.scale", "0.6"],
            "layout.scale must be null with layout.maps mask",
        ),
        (
            ["--model.train", "controlnet", "--layout.maps", "mask", "--run.cuda_graphs", "true"],
            "run.cuda_graphs must not be true with this layout.maps",
        ),
        (
            ["--optim.lr_scheduler", "constant", "--optim.lr_warmup_steps", "5"],
            "optim.lr_warmup_steps must be 0 with optim.lr_scheduler constant (got 5)",
        ),
        (
            ["--optim.lr_warmup_steps", "101", "--run.max_train_steps", "100"],
            "optim.lr_warmup_steps must be at most run.max_train_steps, 100 (got 101)",
        ),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--run.max_train_steps", "1e3"], "run.max_train_steps must be a whole number, at least 1 (got 1000.0)"),
        (["--lora.use_dora", "maybe"], "lora.use_dora must be true or false (got maybe)"),
        (["--mask.reduction", "mean"], "mask.reduction must be texel or sample (got mean)"),
        (["--lora.alpha", "x"], "lora.alpha must be a number, above 0, or null (got x)"),
        (["--validation.prompts", "a red, b"], "validation.prompts must be a list such as [a, b] (got a red, b)"),
        (
            ["--lora.target_modules", "to_q"],
            "lora.target_modules must be a list such as [a, b], at least one name, or null (got to_q)",
        ),
        (["--data.scales", "[a]"], "data.scales must be a list such as [1, 0.5], one or more numbers from 0 to 1"),
        (["--data.dataset", "[{path: d, loss_weight: 0}]"], "data.dataset: every source has a loss_weight of 0"),
        (["--lora.ran", "4"], "--lora.ran"),  # no beginning of a key stands for it: another key may begin so one day
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_2(flags, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--data.dataset", "d", *flags)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("train_texture.py: error: ")
    assert said in printed.err


@pytest.mark.parametrize("text", ["data: [", "data: {dataset: d, colour: red}", "nonsense: 1", "- 1\n- 2", "\x00"])
def test_a_broken_file_is_one_line_and_exit_2(text, tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        parse("--config", tmp_path / "broken.yaml", "--data.dataset", "d")
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_impossible_values_are_refused_from_code_too():
    with pytest.raises(InputError, match=r"data\.caption_dropout"):
        TrainingConfig(data=DataConfig(dataset="d", caption_dropout=1.0))


def test_help_is_quick_and_complete():
    before = os.times()
    result = subprocess.run([sys.executable, "train_texture.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    seconds = os.times().children_user - before.children_user  # of the processor's, whatever else it does
    assert result.returncode == 0
    assert "Side in pixels of the square that the U-Net sees" in result.stdout
    assert "make demo" in result.stdout
    assert seconds < 1.5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "usage: train_texture.py"),
        (["--bogus", "1"], 2, "bogus"),
        (["--data.dataset", "d", "--data.cache", "attic"], 2, "data.cache"),
        (
            ["--data.dataset", "d", "--run.low_precision_adapters", "true", "--lora.use_dora", "true"],
            2,
            "run.low_precision_adapters must be false with lora.use_dora: DoRA computes with its weights in float32",
        ),
        (
            ["--data.dataset", "d", "--run.cuda_graphs", "true", "--lora.dropout", "0.1"],
            2,
            "run.cuda_graphs must not be true with this lora.dropout: what is recorded is the same pass every time",
        ),
        (["--data.dataset", "d", "--optim.in_backward", "true"], 2, "optim.in_backward is now called optim.fused_"),
        (["--data.dataset", "d", "--optim.fused_backward_pass", "true"], 2, "optim.fused_backward_pass needs model."),
        (
            ["--data.dataset", "d", "--model.train", "full", "--optim.fused_backward_pass", "true"],
            2,
            "optim.max_grad_norm must be null with optim.fused_backward_pass",
        ),
    ],
)
def test_help_and_wrong_settings_are_said_before_torch_is_loaded(run_program, arguments, code, said):
    check = (
        f"import sys, runpy; sys.argv = {['train_texture.py', *arguments]!r}\n"
        "try: runpy.run_path('train_texture.py', run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code, sorted({'torch', 'diffusers', 'datasets'} & sys.modules.keys()))"
    )
    result = run_program(sys.executable, "-c", check)
    assert result.stdout.splitlines()[-1] == f"{code} []"
    assert said in result.stdout + result.stderr


@pytest.mark.parametrize("program", ["train_texture.py", "texdiff"])
def test_help_is_there_on_systems_without_unix_signals_and_locks(program, run_program):
    """As on Windows: neither fcntl, resource nor SIGUSR1."""
    run = (
        "runpy.run_path('train_texture.py', run_name='__main__')"
        if program == "train_texture.py"
        else "from texdiff.cli import main; main(['--help'])"
    )
    hide = (
        "import runpy, signal, sys; from pathlib import Path; del signal.SIGUSR1\n"
        "sys.modules |= dict.fromkeys(('fcntl', 'resource', 'termios', 'pwd', 'grp'))\n"
        "from texdiff.training.run import Run; Run(Path())._lock(); sys.argv[1:] = ['--help']\n"
    )
    result = run_program(sys.executable, "-c", hide + run)
    assert result.returncode == 0, result.stderr
    assert "usage: " in result.stdout


@pytest.mark.parametrize("from_file", [False, True], ids=["flag", "file"])
@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ("[{path: a, wieght: 2}]", "data.dataset[0].wieght is not a key of a source; there are path, weight, repeats,"),
        ("[{path: a}, {weight: 2}]", "data.dataset[1].path is missing; name the source's folder"),
        ("[{path: a}, {path: 5}]", "data.dataset[1].path must be a text (got 5)"),
        ("[{path: a, weight: much}]", "data.dataset[0].weight must be a number (got much)"),
        ("[{path: a}, b]", "data.dataset[1] must be a source such as {path: a, weight: 2} (got b)"),
        ("[]", "data.dataset must be a folder, a hub id, or a list of sources"),
        ("[{path: a, weight: 0}]", "data.dataset[0].weight must be above 0 (got 0.0)"),
        ("[{path: a}, {path: b, loss_weight: -1}]", "data.dataset[1].loss_weight must be at least 0 (got -1.0)"),
        (
            "[{path: a, weight: 2}, {path: b, repeats: 3}]",
            "data.dataset[1].repeats must not be given beside data.dataset[0].weight: give sources weights, or repeats",
        ),
    ],
)
def test_a_wrong_list_of_sources_is_one_line_that_names_the_key(sources, says, from_file, tmp_path, capsys):
    if from_file:
        (tmp_path / "settings.yaml").write_text(f"data:\n  dataset: {sources}\n")
        flags = ["--config", tmp_path / "settings.yaml"]
    else:
        flags = ["--data.dataset", sources]
    with pytest.raises(SystemExit) as stopped:
        parse(*flags)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_a_list_that_is_no_yaml_and_a_key_that_is_given_twice(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("data: {dataset: [{path: a}, {path: b, path: c}]}\n")
    for flags, says in (
        (["--data.dataset", "[{path: a"], "data.dataset: not a valid list in YAML"),
        (["--config", tmp_path / "settings.yaml"], "data.dataset[1].path is given twice, first in line 1"),
    ):
        with pytest.raises(SystemExit):
            parse(*flags)
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line


def test_lists_of_sources_come_by_flag_by_file_and_back(tmp_path):
    text = "[{path: a, weight: 2}, {path: b, caption_prefix: 'a toy,', loss_weight: 0.5}]"
    config = parse("--data.dataset", text)
    assert config.data.sources == (
        SourceConfig(path="a", weight=2),
        SourceConfig(path="b", caption_prefix="a toy,", loss_weight=0.5),
    )
    assert parse(f"--data.dataset={text}") == config
    (tmp_path / "settings.yaml").write_text(config.to_yaml())
    assert parse("--config", tmp_path / "settings.yaml") == config
    assert parse("--config", tmp_path / "settings.yaml", "--data.dataset", "c").data.sources == (
        SourceConfig(path="c"),
    )

import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lambda_keras import __version__
from lambda_keras import cli
from lambda_keras.settings import setting
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.recipes import RECIPES

ROOT = Path(__file__).parents[1]


def refusal(capsys, *arguments):
    """Runs the program and returns the one line with which it refuses."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.fixture
def empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not any(tmp_path.iterdir()), "a refused command left something"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands_on_one_screen(arguments, capsys):
    cli.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    for name, command in cli.COMMANDS.items():
        assert any(name in row and command.summary in row for row in lines)
    assert len(lines) <= 24
    assert max(map(len, lines)) < 80


def test_help_of_a_command_explains_every_flag(capsys):
    cli.main(["train", "--epochs=3", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == cli.COMMANDS["train"].summary
    for field in dataclasses.fields(Recipe):
        flag = f"--{field.name}"
        (row,) = (line for line in lines if flag == line.split("=")[0].strip())
        if field.default is not None:
            assert row.endswith(f"={field.default}")
    assert max(map(len, lines)) < 80


def printed_recipe(capsys, *arguments):
    cli.main(["train", *arguments, "--print_recipe"])
    return capsys.readouterr().out


def as_recipe(program):
    namespace = {}
    exec(program, namespace)
    return namespace["RECIPE"]


def test_a_printed_recipe_is_a_recipe_file(capsys, tmp_path):
    flags = ("--recipe=paper_350ep", "--model=LambdaResNet350", "--noflip")
    program = printed_recipe(capsys, *flags)
    recipe = as_recipe(program)
    assert recipe.model == "LambdaResNet350"
    assert recipe.dropout_rate == 0.4
    assert not recipe.flip
    file = tmp_path / "my_recipe.py"
    file.write_text(program)
    again = as_recipe(printed_recipe(capsys, f"--recipe={file}"))
    assert again == recipe
    changed = as_recipe(printed_recipe(capsys, f"--recipe={file}", "--seed=7"))
    assert changed == dataclasses.replace(recipe, seed=7)


def test_without_flags_the_recipe_is_the_default_one(capsys):
    assert as_recipe(printed_recipe(capsys)) == Recipe()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "FileNotFoundError"),
        ("RECIPE = 1 / 0", "ZeroDivisionError: division by zero"),
        ("RECIPE = {}", "must be a file that sets RECIPE to a Recipe"),
    ],
)
def test_a_recipe_file_that_is_none(content, message, capsys, tmp_path):
    file = tmp_path / "recipe.py"
    if content is not None:
        file.write_text(content)
    line = refusal(capsys, "train", f"--recipe={file}")
    assert message in line
    assert line.endswith(f"Received: recipe={file}")


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"lambda-keras {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "lambda-keras: there is no command 'trian'; did you mean"),
        (["--epochs=3"], "lambda-keras: there is no command '--epochs=3'"),
        (["benchmark"], "did you mean benchmark input, benchmark throughput"),
        (["benchmark", "--help"], "benchmark memory or benchmark report?"),
        (
            ["benchmark", "througput", "--steps=1"],
            "'benchmark througput'; did you mean benchmark throughput?",
        ),
        (["train", "--epoch=3"], "Unknown command line flag 'epoch'. Did you"),
        (["train", "--epochs=few"], "--epochs=few: invalid literal for int"),
        (["train", "--epochs"], "Missing value for flag --epochs"),
        (["train", "resnet_tiny"], "--name=value. Received: resnet_tiny"),
        (["train", "--epochs=0"], "lambda-keras train: `epochs` must be at"),
        (["train", "--seed=-1"], "`seed` must be from 0 to 2147483647. Rec"),
        (["train", "--learning_rate=nan"], "Received: learning_rate=nan"),
        (["train", "--recipe=paper"], f"one of: {', '.join(RECIPES)}, or the"),
        (
            ["train", "--recipe=paper_350ep", "--model=resnet_34"],
            "101, 152, 200, 270, 350, 420. Received: model=resnet_34",
        ),
        (["train", "--strategy=all"], "one_device, none. Received: strategy="),
        (["train", "--process_id=0"], "left out unless `strategy` is multiwo"),
        (["train", "--pseudo_share=0.5"], "unless `pseudo` is given. Receive"),
    ],
)
def test_mistakes_in_the_arguments(arguments, message, capsys, empty_directory):
    assert message in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=lambda_resnet_tny"], "attention_tiny. Received: model=lam"),
        (["--model=resnet_50"], "images like digits: resnet_tiny, lambda_re"),
        (["--model=../x"], "attention_tiny. Received: model=../x"),
        (["--dataset=letters"], "tfrecord:PATH. Received: dataset=letters"),
        (["--batch_size=1259"], "`batch_size` must be from 1 to 1258, the num"),
        # Under a file there can be no directory, not even for root.
        ([f"--output_dir={__file__}/run"], "`output_dir` must be in a"),
        ([f"--output_dir={__file__}"], "must be new or an empty directory."),
        (["--output_dir=~no-such-user/x"], "home directory"),
        ([f"--output_dir={ROOT}"], "must be new or an empty directory."),
    ],
)
@pytest.mark.tf_only
def test_mistakes_that_take_an_engine_to_see(
    arguments, message, capsys, empty_directory
):
    line = refusal(capsys, "train", *arguments)
    assert line.startswith("lambda-keras train: ")
    assert message in line


def test_another_engine_is_refused(capsys, monkeypatch, empty_directory):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    line = refusal(capsys, "train")
    assert "the engine must be tensorflow or jax" in line
    assert line.endswith("Received: KERAS_BACKEND=torch")


def test_missing_packages_are_named(capsys, monkeypatch, empty_directory):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(
        cli.importlib.util, "find_spec", lambda name: name == "sklearn" or None
    )
    line = refusal(capsys, "train")
    assert "not installed: tensorflow, matplotlib; pip install" in line
    assert '"lambda_keras[tf]"' in line


def test_the_engine_is_the_first_that_is_installed(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr(
        cli.importlib.util, "find_spec", lambda name: name == "jax" or None
    )
    line = refusal(capsys, "benchmark", "report", "--records=mine.jsonl")
    assert "not installed: matplotlib; pip install" in line
    assert os.environ["KERAS_BACKEND"] == "jax"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--help"], 0), (["train", "--help"], 0), (["train", "--epochs=0"], 2)],
)
def test_no_engine_is_loaded_for_help_and_mistakes(arguments, status, tmp_path):
    # Importing Keras with this backend fails.
    environment = {
        **os.environ,
        "KERAS_BACKEND": "none",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.run(
        [sys.executable, "-m", "lambda_keras", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert process.returncode == status
    assert bool(process.stdout) == (status == 0)
    assert process.stderr.count("\n") == (status != 0)


def test_a_reader_that_has_gone_is_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "lambda_keras", "train", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


@dataclasses.dataclass(frozen=True)
class Settings:
    name: str | None = setting(None, "A name.")
    count: int = setting(1, "A count.")
    share: float = setting(0.5, "A share.")
    fast: bool = setting(False, "Whether.")
    from_: str = setting("here", "Where from.")


@dataclasses.dataclass(frozen=True)
class SettingsOfFiles(Settings):
    files: tuple[str, ...] = setting((), "Some files.", positional="FILE")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Settings()),
        (["--name=a", "--count=2"], Settings(name="a", count=2)),
        (["--share", "1e-3", "--fast"], Settings(share=1e-3, fast=True)),
        (["--fast=true"], Settings(fast=True)),
        # A word of Python's own is a field with an underscore behind it.
        (["--from=there"], Settings(from_="there")),
    ],
)
def test_each_field_of_the_settings_is_a_flag(arguments, expected):
    command = cli.Command("Tests.", "none", Settings, (), "test")
    assert cli.parse(command, "test", arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ([], ()),
        (["a.jpg"], ("a.jpg",)),
        # Flags may stand between, and what follows -- may look like one.
        (["a.jpg", "--count=1", "b c.jpg"], ("a.jpg", "b c.jpg")),
        (["--", "--count=2"], ("--count=2",)),
    ],
)
def test_arguments_that_are_no_flags_go_to_one_field(arguments, files):
    command = cli.Command("Tests.", "none", SettingsOfFiles, (), "test")
    assert cli.parse(command, "test", arguments) == SettingsOfFiles(files=files)


def test_help_says_which_arguments_are_no_flags(capsys, monkeypatch):
    command = cli.Command("Tests.", "none", SettingsOfFiles, (), "test")
    monkeypatch.setitem(cli.COMMANDS, "try", command)
    cli.main(["try", "--help"])
    printed = capsys.readouterr().out
    assert "Usage: lambda-keras try [--flag=value ...] [FILE ...]" in printed
    assert "  FILE ...\n      Some files." in printed
    assert "--files" not in printed
    assert "  --from=here\n      Where from." in printed


def test_warnings_are_lines_for_people():
    with pytest.warns(UserWarning, match="resampled") as caught:
        with cli.plain_warnings():
            warnings.warn("Tables were resampled.", stacklevel=1)
            (warning,) = caught
            shown = warnings.formatwarning(
                warning.message, warning.category, "file.py", 7
            )
    assert shown == "warning: Tables were resampled.\n"
    assert "file.py:7" in warnings.formatwarning(
        warning.message, warning.category, "file.py", 7
    )


def test_standard_error_is_held_back_unless_the_block_fails(capfd):
    with cli.held_back_stderr():
        os.write(2, b"greeting\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"

    with pytest.raises(ImportError), cli.held_back_stderr():
        os.write(2, b"reason\n")
        raise ImportError
    assert capfd.readouterr().err == "reason\n"

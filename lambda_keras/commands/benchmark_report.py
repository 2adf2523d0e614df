"""`lambda-keras benchmark report`: what was measured, beside the paper's."""

from pathlib import Path

from lambda_keras.benchmark.records import read_records
from lambda_keras.benchmark.report import NAMES
from lambda_keras.benchmark.report import PICTURE
from lambda_keras.benchmark.report import write_report
from lambda_keras.benchmark.settings import Report
from lambda_keras.commands import CommandError

RECORDS = "records.jsonl"


def run(settings: Report) -> None:
    """Writes the report and prints it.

    Args:
        settings: The settings.
    """
    try:
        paths = _find_files(settings)
        directory = Path(settings.output_dir or paths[0].parent).expanduser()
        records = [each for path in paths for each in read_records(path)]
        if not records:
            raise ValueError(
                f"Expected records. Received: records={settings.records}, "
                "which holds none"
            )
        text = write_report(records, directory)
    except (ValueError, OSError) as error:
        raise CommandError(error) from None
    names = [name for name in NAMES if name != PICTURE or PICTURE in text]
    print(f"{text}\n{directory}\n  {', '.join(names)}")


def _find_files(settings):
    names = (settings.records or "").split(",")
    paths = [Path(name.strip()).expanduser() for name in names if name.strip()]
    if not paths:
        raise ValueError(
            "`records` must name files or directories of records. "
            f"Received: records={settings.records}"
        )
    paths = [path / RECORDS if path.is_dir() else path for path in paths]
    for path in paths:
        if not path.is_file():
            raise ValueError(
                "`records` must be files of records or directories with one. "
                f"Received: records={settings.records}, but there is no {path}"
            )
    return paths

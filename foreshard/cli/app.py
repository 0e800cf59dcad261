"""The application: its commands, each with examples in its help."""

import inspect as inspect_module
from collections.abc import Callable

import typer

from foreshard.cli.diff import diff
from foreshard.cli.doctor import doctor
from foreshard.cli.forecast import forecast
from foreshard.cli.gc import gc
from foreshard.cli.history import history
from foreshard.cli.inspect import inspect
from foreshard.cli.place import with_place
from foreshard.cli.rebuild import rebuild
from foreshard.cli.reshard import reshard
from foreshard.cli.status import status
from foreshard.cli.verify import verify

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="foreshard learns how training jobs read a dataset, re-packs it, and feeds it before the loop asks.",
    epilog="Commands that only look take --store and --dataset instead of a foreshard.yaml, like\n\n"
    "foreshard status --store s3://bucket/prefix --dataset flights --endpoint http://127.0.0.1:9000",
)


def _add(command: Callable[..., None], *examples: str) -> None:
    """Add a command whose help is its docstring, with each paragraph wrapped to the terminal, and examples below."""
    text = inspect_module.cleandoc(command.__doc__ or "")
    paragraphs = "\n\n".join(paragraph.replace("\n", " ") for paragraph in text.split("\n\n"))
    shown = "\n\n".join(["Examples:", *(f"  foreshard {line}" for line in examples)])
    app.command(help=paragraphs, epilog=shown)(command)


_add(with_place(status), "status", "status --store s3://bucket/prefix --dataset flights")
_add(with_place(history), "history", "history --limit 3 --json")
_add(
    with_place(inspect), "inspect", "inspect demo.e000004", "inspect demo.e000004/3f2a --chunk 17", "inspect --shard 0"
)
_add(with_place(verify), "verify", "verify demo.e000004", "verify --all")
_add(
    with_place(rebuild),
    "rebuild",
    "rebuild demo.e000004 --workers 4 --executor processes",
    "rebuild demo.e000004 --repair",
)
_add(with_place(diff), "diff demo.e000000 demo.e000004", "diff demo.e000000 --json")
_add(with_place(gc), "gc", "gc --keep-generations 2 --keep-hours 6", "gc --delete")
_add(
    with_place(doctor),
    "doctor",
    "doctor --store s3://bucket/prefix --dataset flights --batch 1024 --step-ms 20",
    "doctor --step-ms 20 --order block --memory 2GiB --concurrency 16",
    "doctor demo.e000004 --memory 25% --steps 500 --json",
)
_add(reshard, "reshard demo.e000004", "reshard demo.e000000 --config flights.yaml")
_add(
    forecast,
    "forecast requests.csv.gz",
    "forecast trace/ --format dftracer --phases 4 --cache-fraction 0.25",
    "forecast requests.parquet --object-column page --time-column at --windows 48 --out forecast/",
    "forecast requests.csv --models last,ewma,ensemble --top 5 --json",
)

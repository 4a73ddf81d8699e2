"""The command `codyra`. Heavy imports wait until a command needs them, so that --help answers at once."""

import errno
import logging
import warnings

import typer

from codyra.cli import change, compare, data, general, learn, methods, study, table, walk
from codyra.cli.console import Interrupted, errors
from codyra.errors import GuardRefused, UserError

EXIT_USER, EXIT_GUARD, EXIT_INTERRUPTED = 2, 3, 130

app = typer.Typer(
    help="Keep a pre-trained model learning, task after task, and know what it lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    learn.demo,
    learn.run,
    learn.report,
    table.table,
    compare.compare,
    methods.methods,
    walk.history,
    walk.checkout,
    walk.export,
    walk.predict,
    walk.verify,
    change.append,
    change.revert,
    study.probe,
    study.ablate,
    study.analyse,
):
    app.command()(command)
app.command("eval")(general.evaluate)
app.add_typer(data.app, name="data")


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, a guard's refusal 3, Ctrl-C 130; the rest is a bug."""
    # peft asks transformers for an attribute that transformers has renamed; nobody who types a command can mend that.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    # bitsandbytes, which peft imports where it is installed, recommends on a CPU what it does without.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        app()
    except UserError as error:
        errors.print(f"codyra: {error}", style="red", markup=False)
        raise SystemExit(EXIT_GUARD if isinstance(error, GuardRefused) else EXIT_USER) from None
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EPIPE):
            raise
        errors.print(f"codyra: cannot write to standard output: {error.strerror}", markup=False)
        raise SystemExit(EXIT_USER) from None
    except Interrupted as stop:
        errors.print(f"codyra: interrupted; {stop}", markup=False)
        raise SystemExit(EXIT_INTERRUPTED) from None

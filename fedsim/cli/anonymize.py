"""`fedsim anonymize`: draft a schema, make a table safe, verify one, report."""

import typer

from fedsim.cli import (
    _anonymize_images,
    _anonymize_inspect,
    _anonymize_report,
    _anonymize_run,
    _anonymize_verify,
)

__all__ = ["app"]

app = typer.Typer(
    help="Make tables safe to let out: k-anonymity and more, verified.", no_args_is_help=True
)

app.command("inspect")(_anonymize_inspect.inspect)
app.command("run")(_anonymize_run.run)
app.command("verify")(_anonymize_verify.verify)
app.command("report")(_anonymize_report.report)
app.command("images")(_anonymize_images.images)

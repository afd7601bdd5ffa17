"""`fedsim privacy`: plan a privacy budget, check an experiment, read what was spent."""

import typer

from fedsim.cli import _privacy_check, _privacy_ledger, _privacy_plan, _privacy_report

__all__ = ["app"]

app = typer.Typer(
    help="Plan, check, report and audit what differential privacy promises.", no_args_is_help=True
)

app.command("plan")(_privacy_plan.plan)
app.command("check")(_privacy_check.check)
app.command("ledger")(_privacy_ledger.ledger)
app.command("report")(_privacy_report.report)

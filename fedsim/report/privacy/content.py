"""The report as data: the schema is report/privacy.schema.json."""

from typing import Any

import fedsim
from fedsim.report.privacy import conduct, distributed, numbers, setting
from fedsim.report.privacy.evidence import Evidence
from fedsim.report.privacy.hazards import hazards
from fedsim.report.privacy.registry import record
from fedsim.report.privacy.unprotected import unprotected
from fedsim.report.privacy.words import NOT_RECORDED, SEEDED

__all__ = ["SCHEMA_VERSION", "build"]

SCHEMA_VERSION = 1


def build(evidence: Evidence) -> dict[str, Any]:
    """Return the report's content, in the order in which it is read.

    Raises `ValueError` for releases that no accountant has an analysis of.
    """
    recorded, evidence = evidence, distributed.as_released(evidence)
    own, total = numbers.accounts(evidence)
    drawn = setting.sampling(evidence, own.worst.releases)
    seeded = evidence.privacy.get("noise") == "seeded"
    content: dict[str, Any] = {
        "notice": f"{SEEDED}. The noise follows from the seed." if seeded else None,
        "schema_version": SCHEMA_VERSION,
        "run": _run(evidence),
        "guarantee": numbers.guarantee(
            evidence, own, total, distributed.rounds_short_of_noise(evidence)
        ),
        "checks": conduct.checks(recorded, drawn, total),
        "unprotected": unprotected(evidence),
        "budget": conduct.budget(evidence, own, total),
        "rounds": conduct.rounds(evidence),
        "runs": conduct.runs(evidence),
        "clients": conduct.clients(evidence, total),
        "setting": setting.setting(evidence),
        "mechanism": setting.mechanism(evidence),
        "distributed": distributed.distributed(evidence, own.worst.releases),
        "sampling": drawn,
        "accounting": numbers.accounting_of(evidence, own),
        "tuning": setting.tuning(evidence),
        "utility": setting.utility(evidence),
        "empirical": setting.empirical(),
        "ledger": conduct.ledger(evidence),
        "plots": numbers.plots(evidence, own, total),
    }
    content["hazards"] = hazards(evidence, content)
    content["registry"] = record(evidence, content)
    return content


def _run(evidence: Evidence) -> dict[str, Any]:
    run = evidence.run
    git, versions = run.environment.get("git") or {}, run.environment.get("versions") or {}
    commit = git.get("commit", NOT_RECORDED)
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "created": run.created,
        "finished": run.finished,
        "clients": evidence.population or NOT_RECORDED,
        "code": f"{commit} and uncommitted changes" if git.get("is_dirty") else commit,
        "fedsim": versions.get("fedsim", NOT_RECORDED),
        "reported_with": fedsim.__version__,
        "model_sha256": (run.summary or {}).get("model_sha256") or NOT_RECORDED,
    }

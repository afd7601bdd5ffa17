"""The record for the OpenDP Deployments Registry, as far as a run can know it.

Fields and their tiers are those of the registry's data entry template (opendp/deployments-registry-
data, tests/good_deployments/template.yaml, 2026); tier 3 has all of them. What only the curator
knows says so.
"""

from collections.abc import Mapping
from typing import Any

from fedsim.report.privacy.evidence import Evidence
from fedsim.report.privacy.words import NOT_ACCOUNTED, NOT_STATED, bound

__all__ = ["TIERS", "record"]

#: Group -> field -> tier from which on it is asked for.
TIERS: dict[str, dict[str, int]] = {
    "basic": {
        "name": 1,
        "data_curators": 1,
        "description": 1,
        "intended_use": 1,
        "data_product_type": 1,
        "data_product_region": 1,
        "data_product_sector": 1,
        "publication_date": 1,
    },
    "dp_variant": {"variant_name": 2, "data_domain": 3, "unprotected_quantities": 3},
    "privacy_loss": {
        "privacy_unit": 2,
        "privacy_unit_details": 3,
        "number_of_privacy_units": 2,
        "privacy_parameters": 2,
        "privacy_parameters_details": 3,
    },
    "deployment_model": {
        "model_name": 2,
        "model_name_details": 3,
        "trust_assumptions": 3,
        "actors": 3,
        "release_type": 2,
        "release_type_details": 3,
        "data_source_type": 2,
        "data_source_type_details": 3,
        "access_type": 2,
        "access_type_details": 3,
    },
    "implementation": {
        "preprocessing_and_hyperparameter_tuning": 3,
        "mechanisms": 3,
        "composition": 3,
        "post_processing": 3,
        "justification": 3,
        "utility": 3,
        "additional_information": 3,
    },
    "administrative": {"evidence_sources": 1, "status": 1, "registry_authors": 1, "tier": 1},
}


def record(evidence: Evidence, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record; `content`: the report so far."""
    run = evidence.run
    deployment = {
        "basic": {
            "name": run.name,
            "data_curators": NOT_STATED,
            "description": f"A model trained with fedsim, run {run.id}",
            "intended_use": NOT_STATED,
            "data_product_type": "Machine learning model",
            "data_product_region": NOT_STATED,
            "data_product_sector": NOT_STATED,
            "publication_date": NOT_STATED,
        },
        "dp_variant": _variant(content),
        "privacy_loss": _loss(evidence, content),
        "deployment_model": _model(evidence, content),
        "implementation": _implementation(content),
        "administrative": {
            "evidence_sources": f"ledger {content['ledger']['file']}, last hash "
            f"{content['ledger']['hash'] or 'none'}",
            "status": "Draft",
            "registry_authors": NOT_STATED,
            "tier": 3,
        },
    }
    return {"url_slug": run.id, "deployment": deployment}


def _variant(content: Mapping[str, Any]) -> dict[str, Any]:
    items = content["unprotected"]
    return {
        "variant_name": "Approximate DP",
        "data_domain": content["setting"]["domain"],
        "unprotected_quantities": "; ".join(f"{i['what']} ({i['status']})" for i in items),
    }


def _loss(evidence: Evidence, content: Mapping[str, Any]) -> dict[str, Any]:
    promise = content["guarantee"]
    details = f"this run alone: epsilon {bound(promise['run']['epsilon'])}"
    if not promise["holds"]:
        details = f"they do not hold, {content['notice'] or 'see the checks'}; {details}"
    return {
        "privacy_unit": promise["unit_means"],
        "privacy_unit_details": promise["adjacency_means"],
        "number_of_privacy_units": 1,
        "privacy_parameters": {
            "epsilon": promise["data_set"]["epsilon"],
            "delta": promise["delta"],
        },
        "privacy_parameters_details": details,
    }


def _model(evidence: Evidence, content: Mapping[str, Any]) -> dict[str, Any]:
    setting, planned = content["setting"], content["rounds"]["planned"]
    return {
        "model_name": setting["model"].split()[0].capitalize(),
        "model_name_details": setting["simulation"],
        "trust_assumptions": setting["trusted"],
        "actors": "clients, who hold data; a server, which adds up; whoever sees the models",
        "release_type": "Many releases",
        "release_type_details": f"{setting['released']}; {planned} rounds planned",
        "data_source_type": "Static",
        "data_source_type_details": "one data set, the same in every round",
        "access_type": "Non-interactive",
        "access_type_details": "nobody queries the data",
    }


def _implementation(content: Mapping[str, Any]) -> dict[str, Any]:
    how, accounting = content["mechanism"], content["accounting"]
    kinds = sorted({release["mechanism"] for release in accounting["releases"]})
    by_renyi = content["guarantee"]["run"]["method"] == "rdp"
    method = "Rényi divergences" if by_renyi else "privacy loss distributions"
    return {
        "preprocessing_and_hyperparameter_tuning": NOT_ACCOUNTED,
        "mechanisms": f"{', '.join(kinds) or 'none'}; clipping norm {how['clipping_norm']}, noise "
        f"multiplier {how['noise_multiplier']}; {how['arithmetic']}; {how['random_numbers']}",
        "composition": f"{accounting['library']} {accounting['version']}, {method}; all runs on "
        "the data set are composed",
        "post_processing": "the server's optimizer, and evaluation on the server's own test set",
        "justification": NOT_STATED,
        "utility": "; ".join(f"{k} {v:.4g}" for k, v in content["utility"]["metrics"].items() if v)
        or "not measured",
        "additional_information": "see the rest of this report",
    }

"""A run's events as lines of JSON: from the ServerApp through Flower's log to whoever submitted it.

A line begins with a word of its own, so that it is found among whatever else a log holds.
"""

import json
from collections.abc import Mapping
from time import monotonic
from typing import Any

from fedsim.errors import ConfigError, FedsimError, Problem
from fedsim.events import ClientsDone, Event, RoundDone, RunStarted, Stage

__all__ = [
    "FailedElsewhereError",
    "Teller",
    "failure_line",
    "line_of",
    "raise_failure",
    "read_line",
]

_WORD = "fedsim-event "
_PAUSE_S = 1.0  # between two lines about clients, which a log would be full of
_FACTS = ("notice", "anonymization", "privacy", "secure_sum")


class Teller:
    """Writes each event as one line."""

    def __init__(self, write: Any) -> None:
        """`write` takes a text: a log's or a stream's."""
        self._write = write
        self._latest = 0.0

    def __call__(self, event: Event) -> None:
        """Write an event down."""
        if isinstance(event, ClientsDone):
            if monotonic() - self._latest < _PAUSE_S:
                return
            self._latest = monotonic()
        self._write(line_of(event))


def line_of(event: Event) -> str:
    """Return an event as a line."""
    if isinstance(event, Stage):
        content: dict[str, Any] = {"stage": event.text}
    elif isinstance(event, RunStarted):
        content = {
            "started": event.run_id,
            "folder": str(event.folder),
            "first": event.first_round,
            "rounds": event.rounds,
            "clients": event.clients,
        }
    elif isinstance(event, ClientsDone):
        content = {"clients": [event.round, event.done, event.asked]}
    elif isinstance(event, RoundDone):
        record = event.record
        names = ("round", "cohort", "real_seconds", "bytes_down", "bytes_up", "model_sha256")
        content = {"round": {name: getattr(record, name) for name in (*names, "lost")}}
        content["round"]["metrics"] = dict(record.metrics)
    else:
        content = {"done": _result(event.result)}
    return _line(content)


def failure_line(error: BaseException) -> str:
    """Return the line about what ended a run."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    keys = ("path", "value", "accepted", "hint", "source")
    content = {
        "error": str(error) or type(error).__name__,
        "exit_code": getattr(error, "exit_code", 1),
        "problems": [{key: getattr(problem, key) for key in keys} for problem in problems],
        "is_ours": isinstance(error, FedsimError),
    }
    return _line({"failed": content})


def read_line(line: str) -> Mapping[str, Any] | None:
    """Return what a line of a log tells, None for a line that is no event.

    >>> read_line(line_of(Stage("loading data")))
    {'stage': 'loading data'}
    """
    _, word, rest = line.partition(_WORD)
    if not word:
        return None
    try:
        found = json.loads(rest)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def raise_failure(content: Mapping[str, Any]) -> None:
    """Raise the error that `failure_line` wrote down, with its exit code."""
    if problems := content.get("problems"):
        raise ConfigError([Problem(**problem) for problem in problems])
    raise FailedElsewhereError(str(content["error"]), int(content["exit_code"]))


class FailedElsewhereError(FedsimError):
    """What ended a run on another machine, with the exit code that it had there."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


def _result(result: Any) -> dict[str, Any]:
    """Return what is shown of a finished run."""
    facts = result.stored.facts
    return {
        "run": result.run_id,
        "status": result.status,
        "metrics": dict(result.metrics),
        "model_sha256": result.model_sha256,
        "folder": str(result.folder),
        "report": str(result.report or ""),
        "summary": result.stored.summary,
        "facts": {name: facts[name] for name in _FACTS if name in facts},
    }


def _line(content: Mapping[str, Any]) -> str:
    return _WORD + json.dumps(content, default=str) + "\n"

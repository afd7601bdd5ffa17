"""Runs submitted to a federation: signed, sent, followed to their end from the operator's machine.

What is sent is the experiment's text and a signature over it; nodes check it by their own list of
approvers. How a run ended is read from what the server tells of its record, not from Flower.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.deploy.app import write_app
from fedsim.deploy.bundle import read_approval
from fedsim.deploy.control import Control
from fedsim.deploy.told import raise_failure, read_line
from fedsim.errors import ConfigError, NetworkError, Problem, RunFailedError, UnknownRunError
from fedsim.events import ClientsDone, Event, RoundDone, RunDone, RunStarted, Stage
from fedsim.files import make_private_folder, write_secret

__all__ = ["Submission", "approved", "follow", "kept", "prepared", "send", "submit"]

_SUBMITTED = "submitted"
_RECONNECTS = 20


@dataclass(frozen=True, slots=True)
class Submission:
    """What is sent: an experiment's text, the approval of it, and the run to go on with, if any.

    `first`: Flower's number of the stretch that run began with: by it nodes know what they
    remember of it.
    """

    text: str
    signature: str
    resume: str = ""
    first: str = ""


@dataclass(frozen=True, slots=True)
class _Round:
    """A round as it is told of: what progress shows."""

    round: int
    cohort: int
    real_seconds: float
    bytes_down: int
    bytes_up: int
    model_sha256: str
    lost: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Stored:
    """The part of a run's record that is shown at its end."""

    summary: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Result:
    """How a run ended: the part of `fedsim.session.Result` that is shown."""

    run_id: str
    status: str
    metrics: Mapping[str, float]
    model_sha256: str
    folder: str
    report: str
    stored: _Stored


def prepared(experiment: Any, overrides: Sequence[str], clients: int | None = None) -> str:
    """Return the text of an experiment as it is signed and sent.

    `clients`: the nodes there are; the experiment is for as many. Raises `ConfigError` for an
    experiment that cannot run, or is for another number of clients.
    """
    from fedsim import config as configuration
    from fedsim.node.experiment import experiment_text

    given = list(overrides)
    has_number = any(word.startswith("partition.clients=") for word in given)
    config = configuration.load(experiment, given)
    fixed = getattr(config.partition, "clients", None)
    if clients is not None and fixed is not None and fixed != clients:
        if has_number:
            accepted = f"{clients}, the nodes there are; leave it out to have it set"
            raise ConfigError([Problem("partition.clients", fixed, accepted)])
        config = configuration.load(experiment, [*given, f"partition.clients={clients}"])
    return experiment_text(config)


def approved(operator: Path, text: str, resume: str = "") -> Submission:
    """Sign an experiment's text with the operator's key."""
    from fedsim.node.approval import sign

    return Submission(text, sign(read_approval(operator), text), resume)


def kept(operator: Path, run_id: str) -> Submission:
    """Return what was sent for a run before, to go on with it.

    Raises `UnknownRunError` for a run that was not submitted from here.
    """
    path = operator / _SUBMITTED / f"{run_id}.json"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))[-5:]) or "none"
        raise UnknownRunError(f"run {run_id} was not submitted from {operator}; there are: {known}")
    content = json.loads(path.read_text(encoding="utf-8"))
    return Submission(content["text"], content["signature"], run_id, content.get("first", ""))


def send(control: Control, submission: Submission) -> int:
    """Hand a run to the server; return Flower's number of it."""
    from fedsim.node.memory import FIRST_STRETCH

    with tempfile.TemporaryDirectory(prefix="fedsim-") as folder:
        return control.start(
            write_app(Path(folder) / "fedsim-app"),
            {
                "experiment-text": submission.text,
                "experiment-signature": submission.signature,
                "resume": submission.resume,
                FIRST_STRETCH: submission.first,
            },
        )


def submit(
    control: Control, operator: Path, submission: Submission, tell: Callable[[Event], None]
) -> Any:
    """Send a run and follow it to its end; return what it came to.

    Raises what ended it, with the exit code that it has where it ran.
    """

    def keep(event: Event) -> None:
        if isinstance(event, RunStarted):
            make_private_folder(operator / _SUBMITTED)
            content = {
                "text": submission.text,
                "signature": submission.signature,
                "first": submission.first or str(number),
            }
            path = operator / _SUBMITTED / f"{event.run_id}.json"
            write_secret(path, json.dumps(content).encode())
        tell(event)

    number = send(control, submission)
    tell(Stage(f"submitted; Flower's number of the run is {number}"))
    return follow(control, number, keep)


def follow(control: Control, number: int, tell: Callable[[Event], None]) -> Any:
    """Tell of a run as the server does, to its end; return what it came to.

    Raises what ended it, `RunFailedError` where nothing is known of that.
    """
    seen, failures, result = 0, 0, None
    while True:
        try:
            for place, line in enumerate(control.lines(number)):
                if place < seen:
                    continue  # told before the connection broke
                seen, failures = place + 1, 0
                content = read_line(line)
                if content is None:
                    continue
                if "failed" in content:
                    raise_failure(content["failed"])
                event = event_of(content)
                tell(event)
                if isinstance(event, RunDone):
                    result = event.result
            break
        except NetworkError:
            failures += 1
            if failures > _RECONNECTS:
                raise
            _wait(failures)
    if result is None or result.status != "finished":
        run = control.run(number)
        raise RunFailedError(
            f"the run ended before its last round: {run.outcome or run.status}"
            f"{': ' if run.details else ''}{run.details}"
        )
    return result


def event_of(content: Mapping[str, Any]) -> Event:
    """Return the event that a line tells of."""
    if "stage" in content:
        return Stage(content["stage"])
    if "started" in content:
        names = ("first", "rounds", "clients")
        first, rounds, clients = (int(content[name]) for name in names)
        return RunStarted(content["started"], None, Path(content["folder"]), first, rounds, clients)
    if "clients" in content:
        return ClientsDone(*map(int, content["clients"]))
    if "round" in content:
        record: Any = _Round(**content["round"])
        return RoundDone(record)
    done = content["done"]
    return RunDone(
        _Result(
            run_id=done["run"],
            status=done["status"],
            metrics=done["metrics"],
            model_sha256=done["model_sha256"],
            folder=done["folder"],
            report=done["report"],
            stored=_Stored(done["summary"], done["facts"]),
        )
    )


def _wait(failures: int) -> None:
    import time

    time.sleep(min(failures, 5))

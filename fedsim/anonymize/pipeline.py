"""A table in a file made safe: read twice, recoded, counted anew, and only then under its name.

Nothing is written before all is decided. What is written goes to a file of another name, is read
again and counted by `fedsim.anonymize.verify`, which knows nothing of how it was made, and takes
its name if it is what was declared: there is never a table that is partly anonymized.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from fedsim.anonymize import pins as pinning
from fedsim.anonymize.files import TableFile, open_table, refuse_same_file, table_kind
from fedsim.anonymize.gather import Gathered, encode_file, gather
from fedsim.anonymize.models import k_map, t_closeness
from fedsim.anonymize.protection import Protection, histogram, targets
from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.recode import Recode, recode
from fedsim.anonymize.recoding import Recoding
from fedsim.anonymize.release import Release, class_labels, order_of, write
from fedsim.anonymize.report import content
from fedsim.anonymize.risk import risks
from fedsim.anonymize.schema import Schema
from fedsim.anonymize.spending import charge
from fedsim.anonymize.table import Encoded
from fedsim.anonymize.treating import treater
from fedsim.anonymize.utility import losses
from fedsim.anonymize.verify import Recount, recount, unmet
from fedsim.errors import ConfigError, DataError, Problem, RunFailedError, SetupError
from fedsim.files import replacing

__all__ = ["Order", "Progress", "anonymize"]

#: Told what is being done, and how much of it is done: from 0 to 1.
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done to a table, beside its schema.

    `population`: a table that the people are from, for k-map and the journalist's risk. `pins`: the
    folder that remembers releases, by default beside the input. `again`: why rows are let out that
    have been. `created`: the day, for the pin and the report. `processes`: how many may read free
    text.
    """

    protection: Protection = field(default_factory=Protection)
    how: Recode = "nodes"
    max_suppression: float = 0.0
    keep_suppressed: bool = False
    population: Path | None = None
    keys: PseudonymKeys | None = None
    seed: int | None = None
    pins: Path | None = None
    again: str = ""
    created: str = ""
    separator: str = ""
    encoding: str = "utf-8"
    processes: int = 1


def anonymize(
    source: Path, schema: Schema, output: Path, order: Order, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the anonymized table of a file; return what its report says.

    Raises `ConfigError` for what does not fit together and for rows that were let out before,
    `DataError` for cells and for a protection that cannot be had, `SetupError` where the output
    cannot be written or the memory is too small. Whatever happens, `output` is what it was, or
    complete.
    """
    try:
        return _anonymize(source, schema, output, order, progress or _nothing)
    except MemoryError as error:
        raise SetupError(
            "there is too little memory: about 100 bytes are needed for each row, and room for "
            "every column whose treatment needs all rows at once"
        ) from error


def _anonymize(
    source: Path, schema: Schema, output: Path, order: Order, say: Progress
) -> dict[str, Any]:
    table = _input(source, schema, output, order)
    treat = treater(
        table, schema, order.keys, order.seed, order.processes, lambda share: say("treating", share)
    )
    pins = pinning.open_pins(order.pins or source.absolute().parent / pinning.FOLDER)
    gathered = gather(table, treat, pins.key, lambda share: say("reading", share))
    people = _population(order, schema, gathered)
    say("recoding", 0.0)
    recoding = recode(
        gathered.encoded,
        order.protection,
        order.how,
        max_suppression=order.max_suppression,
        population=people,
    )
    labels = class_labels(recoding, gathered.encoded.trees)
    pin = pins.check(
        _pin(order, schema, gathered, recoding, labels), gathered.people, reason=order.again
    )
    positions = order_of(
        recoding, labels, gathered.row_hashes, keep_suppressed=order.keep_suppressed
    )
    release = Release(table, treat, gathered, recoding, labels, positions)
    try:
        with replacing(output) as file:
            write(release, file, output.parent, lambda share: say("writing", share))
            found = _recounted(release, order, output, file, lambda share: say("verifying", share))
            pin = replace(pin, released=_sha256(file))
            is_new = pins.record(pin, gathered.people)
            if is_new:
                charge(
                    pins.folder,
                    schema,
                    gathered.people,
                    row_set=pin.rows,
                    run=pin.name,
                    dataset=source.stem,
                    time=order.created,
                )
    except OSError as error:
        raise SetupError(f"cannot write {output}: {error.strerror or error}") from error
    fitting = None if people is None else k_map.fitting(recoding, people.codes)
    return content(
        schema=schema,
        settings=_settings(order),
        protection=order.protection,
        pin=pin,
        recount=found,
        rows=gathered.encoded.rows,
        suppressed=recoding.suppressed,
        sensitive=_reached(gathered.encoded, recoding, found, order.protection),
        losses=losses(gathered.encoded, recoding, order.protection.k),
        risks=risks(recoding.sizes, fitting),
        k_map=None if fitting is None else k_map.reached(fitting),
    )


def _input(source: Path, schema: Schema, output: Path, order: Order) -> TableFile:
    if not schema.is_confirmed:
        accepted = (
            "true: a person has to look at the role of every column of a drafted schema first"
        )
        raise ConfigError([Problem("confirmed", False, accepted)])
    table = open_table(source, separator=order.separator, encoding=order.encoding)
    refuse_same_file(source, output)
    if table_kind(output, "--output") != table.kind:
        accepted = f"a file of the input's kind, {table.kind}: name it {output.stem}{source.suffix}"
        raise ConfigError([Problem("--output", str(output), accepted)])
    if not os.access(output.parent, os.W_OK):
        raise SetupError(f"cannot write into {output.parent}: permission denied")
    return table


def _population(order: Order, schema: Schema, gathered: Gathered) -> Encoded | None:
    if order.population is None:
        if order.protection.k_map is not None:
            accepted = "a table of the population, with the same quasi-identifiers"
            raise ConfigError([Problem("--population", None, accepted)])
        return None
    table = open_table(order.population, encoding=order.encoding)
    codes, trees = encode_file(table, schema)
    if not len(codes):
        raise DataError(f"{order.population} has no rows: it is nobody's population")
    return Encoded(gathered.encoded.names, trees, codes)


def _pin(
    order: Order,
    schema: Schema,
    gathered: Gathered,
    recoding: Recoding,
    labels: tuple[list[str], ...],
) -> pinning.Pin:
    protection = pinning.protection_of(order.protection, order.how, order.max_suppression)
    return pinning.Pin(
        schema=schema.fingerprint(),
        protection=protection | {"keep_suppressed": order.keep_suppressed},
        cut=pinning.cut_hash(recoding, labels, gathered.row_hashes),
        rows=pinning.row_set_hash(gathered.people),
        created=order.created,
    )


def _recounted(
    release: Release, order: Order, output: Path, file: BinaryIO, advance: Callable[[float], None]
) -> Recount:
    """Count what was written, before it has its name. Raises `RunFailedError` where it is wrong."""
    file.flush()
    with os.fdopen(os.dup(file.fileno()), "rb") as again:
        table = open_table(
            output,
            separator=release.table.separator,
            encoding=release.table.encoding,
            stream=again,
        )
        found = recount(table, release.treater.schema, c=order.protection.c, advance=advance)
    kept = int((release.positions >= 0).sum())
    wrong = unmet(found, _countable(order, release.recoding)) if kept else []
    if found.rows != kept:
        wrong.append(f"{found.rows} rows, not {kept}")
    if wrong:
        raise RunFailedError(
            f"nothing was written: the table, counted anew, does not have {'; '.join(wrong)}"
        )
    return found


def _settings(order: Order) -> dict[str, Any]:
    return {
        "recoding": order.how,
        "max_suppression": order.max_suppression,
        "keep_suppressed": order.keep_suppressed,
    }


def _reached(
    encoded: Encoded, recoding: Recoding, found: Recount, protection: Protection
) -> list[dict[str, Any]]:
    """Return what each sensitive column has; `t_all`: from the distribution of all rows."""
    counted = {column.name: column for column in found.sensitive}
    reached = []
    for column in encoded.sensitive:
        if column.name not in counted:
            continue  # no row is left
        plain = asdict(counted[column.name])
        plain["t_kept"] = plain.pop("t")
        plain["t_all"] = plain["t_kept"]
        if recoding.suppressed:
            plain["t_all"] = None
            if protection.is_about_values:
                histograms = histogram(recoding.class_of, column, recoding.classes)
                (target,) = targets([column])
                plain["t_all"] = t_closeness.reached(
                    histograms, target.reference, target.distance, target.tree
                )
        reached.append(plain)
    return reached


def _countable(order: Order, recoding: Recoding) -> Protection:
    """Return what a table without its suppressed rows can be asked for.

    t and delta are about the distribution of all rows; where some are missing, the text of those
    that are left cannot show it.
    """
    if not recoding.suppressed:
        return order.protection
    return replace(order.protection, t=None, delta=None)


def _sha256(file: BinaryIO) -> str:
    with os.fdopen(os.dup(file.fileno()), "rb") as again:
        again.seek(0)
        found = hashlib.file_digest(again, "sha256").hexdigest()
        again.seek(0, os.SEEK_END)
    return found


def _nothing(what: str, share: float) -> None:
    pass

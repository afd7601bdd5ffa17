"""The tables: one row per run, round, client in each phase of a round, and privacy entry."""

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["SCHEMA_VERSION", "Base", "ClientRow", "LedgerRow", "RoundRow", "RunRow", "VersionRow"]

#: 2 added the table `ledger`; a database of version 1 gets it when it is opened.
SCHEMA_VERSION = 2

_Large = BigInteger().with_variant(Integer, "sqlite")
_OF_RUN = "runs.id"
# SQLite: rows live in their primary key's tree, instead of beside a second copy of their key.
_CLUSTERED = {"sqlite_with_rowid": False}


class Base(DeclarativeBase):
    """All tables."""


class VersionRow(Base):
    """The version of these tables that a database has."""

    __tablename__ = "fedsim_schema"
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class RunRow(Base):
    """One run: what was asked, on what, and what came out."""

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text, index=True)
    status: Mapped[str] = mapped_column(Text)
    created: Mapped[str] = mapped_column(Text, index=True)
    finished: Mapped[str] = mapped_column(Text, default="")
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    environment: Mapped[dict[str, Any]] = mapped_column(JSON)
    partition: Mapped[dict[str, Any]] = mapped_column(JSON)
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)
    summary: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class RoundRow(Base):
    """One round."""

    __tablename__ = "rounds"
    run_id: Mapped[str] = mapped_column(ForeignKey(_OF_RUN, ondelete="CASCADE"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    seconds: Mapped[dict[str, Any]] = mapped_column(JSON)
    real_seconds: Mapped[float | None]
    cohort: Mapped[int]
    results: Mapped[int]
    lost: Mapped[int]
    bytes_down: Mapped[int] = mapped_column(_Large)
    bytes_up: Mapped[int] = mapped_column(_Large)
    model_sha256: Mapped[str] = mapped_column(Text)


class ClientRow(Base):
    """One client in one phase of a round; tracebacks are in the run's log, not here."""

    __tablename__ = "clients"
    run_id: Mapped[str] = mapped_column(ForeignKey(_OF_RUN, ondelete="CASCADE"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    phase: Mapped[str] = mapped_column(Text, primary_key=True)
    client: Mapped[int] = mapped_column(_Large, primary_key=True)
    weight: Mapped[float | None]
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    real_seconds: Mapped[float | None]
    bytes_down: Mapped[int] = mapped_column(_Large)
    bytes_up: Mapped[int] = mapped_column(_Large)
    lost: Mapped[str] = mapped_column(Text, default="")

    __table_args__ = (
        # Partial: a healthy run pays nothing for it.
        Index(
            "lost_clients",
            "run_id",
            sqlite_where=text("lost <> ''"),
            postgresql_where=text("lost <> ''"),
        ),
        _CLUSTERED,
    )


class LedgerRow(Base):
    """What a run wrote into the ledger of a data set and unit: `seq` is the line there."""

    __tablename__ = "ledger"
    run_id: Mapped[str] = mapped_column(ForeignKey(_OF_RUN, ondelete="CASCADE"), primary_key=True)
    hash: Mapped[str] = mapped_column(Text, primary_key=True)
    seq: Mapped[int] = mapped_column(_Large)
    round: Mapped[int]
    entry: Mapped[dict[str, Any]] = mapped_column(JSON)

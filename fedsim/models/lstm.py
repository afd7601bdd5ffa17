"""LSTM over tokens or time series."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from fedsim.data import Meta
from fedsim.models._sequence import SequenceIn, per_position

__all__ = ["Lstm"]


@dataclass(frozen=True, slots=True)
class Lstm:
    """Embedding, LSTM layers, a dense layer: per position for next-token data, else at the end.

    The default size is that of the next-character model of McMahan et al., AISTATS 2017, section 3
    (two layers; they use 256 units).
    """

    embedding: Annotated[int, Gt(0)] = 8
    hidden: Annotated[int, Gt(0)] = 128
    layers: Annotated[int, Gt(0)] = 2
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def build(self, meta: Meta) -> nn.Module:
        """Return the module: [n, length] -> [n, length, outputs] or [n, outputs]."""
        return _Lstm(self, meta)


class _Lstm(nn.Module):
    def __init__(self, part: Lstm, meta: Meta) -> None:
        super().__init__()
        self.embed = SequenceIn(meta, part.embedding)
        dropout = part.dropout if part.layers > 1 else 0.0
        self.lstm = nn.LSTM(
            part.embedding, part.hidden, part.layers, batch_first=True, dropout=dropout
        )
        self.out = nn.Linear(part.hidden, meta.outputs)
        self.per_position = per_position(meta)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(x))
        result: Tensor = self.out(states if self.per_position else states[:, -1])
        return result

"""What sequence models share: reading tokens or rows of numbers, answering per position or once."""

from torch import Tensor, nn

from fedsim.data import Meta

__all__ = ["SequenceIn", "per_position"]


class SequenceIn(nn.Module):
    """Tokens [n, length] or numbers [n, length(, features)] -> vectors [n, length, size]."""

    def __init__(self, meta: Meta, size: int) -> None:
        super().__init__()
        self.is_tokens = meta.vocabulary > 0
        self.layer: nn.Module
        if self.is_tokens:
            self.layer = nn.Embedding(meta.vocabulary, size)
        else:
            features = meta.input_shape[1] if len(meta.input_shape) > 1 else 1
            self.layer = nn.Linear(features, size)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch of sequences."""
        if not self.is_tokens and x.dim() == 2:
            x = x.unsqueeze(-1)
        result: Tensor = self.layer(x)
        return result


def per_position(meta: Meta) -> bool:
    """Say whether there is a target at every position: next-token prediction."""
    return meta.vocabulary > 0 and meta.outputs == meta.vocabulary

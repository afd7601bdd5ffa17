"""Shakespeare: predict the next character; the speaking role is the client."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from fedsim.data._contents import content_sha256
from fedsim.data._source import File, locate
from fedsim.data._types import Dataset, Examples, Meta

__all__ = ["Shakespeare"]


@dataclass(frozen=True, slots=True)
class Shakespeare:
    """Windows of `length` characters with the next one at every position.

    `min_characters`: roles that say less are left out. The last `test` of each role's lines is its
    test part, as in McMahan et al., AISTATS 2017, section 3, who use all plays; this is the 1.1 MB
    selection of Karpathy's char-rnn.
    """

    length: Annotated[int, Ge(2)] = 80
    min_characters: Annotated[int, Gt(0)] = 1000
    test: Annotated[float, Gt(0), Lt(1)] = 0.2

    files: ClassVar = (
        File(
            "tinyshakespeare/input.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        ),
    )
    facts: ClassVar = {
        "task": "classification",
        "examples": "1.1 MB of text",
        "licence": "public domain",
    }

    def load(self, data_dir: Path | None) -> Dataset:
        """Return token windows x [n, length] and next tokens y [n, length]; group = role."""
        (path,) = locate("shakespeare", self.files, data_dir)
        text = path.read_text(encoding="utf-8")
        alphabet = sorted(set(text))
        index = {character: i for i, character in enumerate(alphabet)}
        roles = {
            role: said for role, said in _by_role(text).items() if len(said) >= self.min_characters
        }
        parts: tuple[list[Examples], list[Examples]] = ([], [])
        for number, role in enumerate(sorted(roles)):
            tokens = np.array([index[character] for character in roles[role]], dtype=np.int64)
            cut = int(len(tokens) * (1 - self.test))
            for part, piece in zip(parts, (tokens[:cut], tokens[cut:]), strict=True):
                part.append(_windows(piece, self.length, number))
        train, test = (_joined(part) for part in parts)
        meta = Meta(
            name="shakespeare",
            kind="classification",
            input_shape=(self.length,),
            outputs=len(alphabet),
            sha256=content_sha256(train, test),
            vocabulary=len(alphabet),
            class_names=tuple(alphabet),
            group_names=tuple(sorted(roles)),
            source=self.files[0].url,
            licence="public domain",
        )
        return Dataset(meta, train, test)


def _by_role(text: str) -> dict[str, str]:
    """Collect what every role says: blocks are `ROLE:` and then lines, parted by empty lines."""
    said: dict[str, list[str]] = defaultdict(list)
    for block in text.split("\n\n"):
        role, _, lines = block.partition(":\n")
        if lines:
            said[role.strip()].append(lines + "\n")
    return {role: "".join(parts) for role, parts in said.items()}


def _windows(tokens: NDArray[np.int64], length: int, group: int) -> Examples:
    """Cut tokens into windows that do not overlap; a shorter rest is dropped."""
    count = max((len(tokens) - 1) // length, 0)
    x = tokens[: count * length].reshape(count, length)
    y = tokens[1 : count * length + 1].reshape(count, length)
    return Examples(x, y, np.full(count, group, dtype=np.int64))


def _joined(parts: list[Examples]) -> Examples:
    groups = [part.group for part in parts if part.group is not None]
    return Examples(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
        np.concatenate(groups),
    )

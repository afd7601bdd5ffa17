"""ZIP codes of the United States cut to three digits, and to 000 where few people live.

HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(B): the first three digits may stay where all codes that
begin with them have more than 20,000 people together, by the Census Bureau's current numbers.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.anonymize.treatments._context import ColumnContext
from fedsim.anonymize.treatments._texts import distinct, text_column
from fedsim.errors import ConfigError, Problem

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CENSUS_2000", "Zip3"]

#: The 17 areas of 20,000 people or fewer in the 2000 census: Office for Civil Rights, "Guidance
#: regarding methods for de-identification of protected health information", 2012, question 3.1
#: ("When can ZIP codes be included in de-identified information?").
CENSUS_2000 = (
    "036", "059", "063", "102", "203", "556", "692", "790", "821",
    "823", "830", "831", "878", "879", "884", "890", "893",
)  # fmt: skip

_ZIP = re.compile(r"([0-9]{3})[0-9]{2}(-?[0-9]{4})?")


@dataclass(frozen=True, slots=True)
class Zip3:
    """Keep the first three digits of a ZIP code; 000 for those in `restricted`.

    `restricted` is the guidance's list, of the census of 2000: the rule asks for current numbers,
    so give a newer list where there is one. Takes 12345, 12345-6789 and 123456789; numbers get the
    zeros back that they lost in front.
    """

    restricted: tuple[str, ...] = CENSUS_2000

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("direct", "quasi", "sensitive", "insensitive")

    def __post_init__(self) -> None:
        """Check that the list is one of three digits each."""
        wrong = [area for area in self.restricted if not re.fullmatch(r"[0-9]{3}", area)]
        if wrong:
            raise ConfigError([Problem("restricted", wrong[0], "three digits, such as 036")])

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return three digits each, as text. Raises `DataError` for what is no ZIP code."""
        import pandas as pd

        is_number = pd.api.types.is_numeric_dtype(column.dtype)
        codes, texts = distinct(column, ctx)
        made = []
        for i, text in enumerate(texts):
            full = text.zfill(5 if len(text) <= 5 else 9) if is_number else text.strip()
            match = _ZIP.fullmatch(full)
            if match is None:
                row = column.index[int((codes == i).argmax())]
                accepted = "a ZIP code of 5 or 9 digits is needed; text keeps its zeros in front"
                raise ctx.refused(accepted, row)
            made.append("000" if match[1] in self.restricted else match[1])
        return text_column(codes, made, column)

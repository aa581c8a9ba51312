"""What was promised of a figure, beside the figure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """A figure and the limit it is to keep: at the most, or at the least."""

    what: str
    figure: float
    limit: float
    unit: str = ""
    at_least: bool = False
    doubt: str = ""
    """Why this run cannot tell, where it cannot."""

    @property
    def reached(self) -> bool:
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        digits = 1 if self.unit == "ms" else 2
        verdict = "reached" if self.reached else "NOT REACHED"
        if self.doubt:
            verdict = f"UNSETTLED ({verdict} in this run): {self.doubt}"
        return f"{self.what:<58}{self.figure:>8.{digits}f} {sign} {self.limit:g} {self.unit:<2}  {verdict}"

"""What a look at the data found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at, and what to do where it is not well."""

    name: str
    ok: bool
    detail: str

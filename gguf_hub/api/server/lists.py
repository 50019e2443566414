"""Lists of bodies, which are read up to the first value that is wrong.

A body may have hundreds of thousands: as many errors would hold up the server for seconds.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field

T = TypeVar("T")

Items = Annotated[list[T], Field(fail_fast=True)]

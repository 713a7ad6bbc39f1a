"""Parameters of the admin API's paths and queries, bounded to what every database takes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query
from pydantic import AfterValidator
from starlette.convertors import StringConvertor, register_url_convertor

from server.field_types import clean

# The largest whole number of the store's columns: PostgreSQL's INTEGER.
MAX_NUMBER = 2**31 - 1


class IdConvertor(StringConvertor):
    """A part of a path that is not followed by a verb: `{target_id:id}` takes no `ada:preview`."""

    regex = "[^/:]+"


register_url_convertor("id", IdConvertor())

Clean = Annotated[str, AfterValidator(clean)]
PathId = Annotated[Clean, Path(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[Clean | None, Query(max_length=64, description="`next` of the page before.")]
AfterNumber = Annotated[
    int | None, Query(ge=1, le=MAX_NUMBER, description="`next` of the page before.")
]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="ETag of the state to change, or several; if it is another by now: 412.",
    ),
]
Search = Annotated[Clean | None, Query(max_length=64, description="Only ids that hold this.")]

"""What a request says about the form of its answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamForm:
    """What the shield has to know about a request.

    Attributes:
        chat: chat completions, not completions.
        num_choices: how many choices will come.
        usage_wanted: the stream ends with a usage chunk.
        usage_in_chunks: each chunk tells the tokens used so far.
        usage_added: the engine was asked for usage in each chunk, which the client was not.
        structured: the output is bound by a grammar, which a forced end of text violates.
    """

    chat: bool
    num_choices: int
    usage_wanted: bool = False
    usage_in_chunks: bool = False
    usage_added: bool = False
    structured: bool = False

"""`dgemma tokenize`: a text as a bundle's token ids, for `--prompt-ids`, `--logit-bias` and programs without a tokenizer."""

from __future__ import annotations

from typing import Annotated

import typer

from dgemma.cli.options import BundleArgument, JsonOption
from dgemma.cli.terminal import print_json, show
from dgemma.core.errors import TokenizerError, UsageError


def run(
    bundle: BundleArgument,
    text: Annotated[str, typer.Option("-p", "--prompt", metavar="TEXT", help="The text.")],
    chat: Annotated[bool, typer.Option("--chat", help="Apply the chat template first, as `dgemma run` does.")] = False,
    only_ids: Annotated[bool, typer.Option("--ids", help="Print only the ids, separated by commas.")] = False,
    as_json: JsonOption = False,
) -> None:
    from dgemma.core.messages import Message
    from dgemma.runtime.bundle import Bundle
    from dgemma.runtime.prompt import conversation_ids
    from dgemma.runtime.tokenizer import load_tokenizer

    if not text:
        raise UsageError("-p is empty; give some text")
    opened = Bundle.open(bundle, by_record=True)
    if (tokenizer := load_tokenizer(opened)) is None:
        raise TokenizerError(f"{bundle}: has no tokenizer, so it takes ids only; name a bundle that has one")
    message = Message(role="user", content=text)
    ids = conversation_ids(opened.manifest, tokenizer, [message]) if chat else tokenizer.encode(text)
    pieces = tokenizer.pieces(ids)
    if as_json:
        print_json({"ids": list(ids), "pieces": pieces})
    elif only_ids:
        print(",".join(map(str, ids)))
    else:
        show("\n".join(f"{i:>7}  {piece!r}" for i, piece in zip(ids, pieces, strict=True)))

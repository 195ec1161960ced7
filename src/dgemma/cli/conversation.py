"""A conversation on the command line: messages and answers, and the commands that begin with /."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from dgemma.cli.answering import cancelling
from dgemma.cli.messages_file import read_conversation, write_conversation
from dgemma.cli.terminal import answer as said
from dgemma.cli.terminal import dim, folded, show, stats
from dgemma.core.errors import PromptTooLong, UsageError
from dgemma.core.generate_options import DECODERS, GenerateOptions
from dgemma.core.messages import OPENING_ROLES, Message
from dgemma.core.plural import counted
from dgemma.core.shipped import knows_single_turns_alone
from dgemma.runtime.prompt import conversation_ids
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session

# command → what it takes, and what it does
COMMANDS = {
    "/help": "show this list",
    "/system": "TEXT: set the system turn; without TEXT, remove it",
    "/think": "on or off: think before answering",
    "/seed": "N: seed of the next answer",
    "/decoder": "diffusion or autoregressive",
    "/stats": "figures of the last answer, and how full the context is",
    "/reset": "forget the conversation",
    "/save": "FILE.json: write the conversation, answers included",
    "/load": "FILE.json: continue a saved conversation",
    "/exit": "end the chat; so do /quit and Ctrl-D",
}
HELP = "Type a message. Ctrl-C stops an answer and takes the turn back. /help lists the commands."


class Conversation:
    """One session's conversation.

    Args:
        options: how to answer; the seed grows by one with each answer.
    """

    def __init__(self, session: Session, options: GenerateOptions) -> None:
        self.session, self.options = session, options
        self.turns: list[Message] = []
        self.single = knows_single_turns_alone(session.manifest.provenance)
        self._last: Result | None = None
        self._is_loaded = False  # and not in the prefix yet
        self._files = set[Path]()

    def check(self, options: GenerateOptions) -> None:
        """Whether the chat template has what the options say, and the bundle's ids their language; raises UsageError."""
        manifest, tokenizer = self.session.manifest, self.session.tokenizer
        if tokenizer is not None and options.speaks:
            turns = [Message(role="user", content="x")]
            conversation_ids(manifest, tokenizer, turns, system=options.system, think=options.think, tools=options.tools)
        if options.structure is not None:
            self.session.prompt_ids("x", options)

    def command(self, line: str) -> None:
        """Do what a line that begins with / says, and tell of it in a line on stderr."""
        name, _, text = line.partition(" ")
        if name not in COMMANDS:
            says = f"unknown command {name}; /help lists the commands"
        else:
            try:
                says = _DOES[name](self, text.strip())
            except UsageError as error:
                says = str(error).partition(";")[0]  # without the cure, which is for the command line
        print(says, file=sys.stderr)

    def answer(self, line: str) -> Result | None:
        """One turn, added to those before; None when there was no room for it or it was taken back, and then all is as before.

        Where the chat template has roles of its own, the whole conversation is given, for it drops thoughts of earlier turns.
        """
        if self.single:
            self._forget()
        before = len(self.session.prefix_ids)
        try:
            with cancelling(self.session) as asked:
                done = self._generate(line)
        except PromptTooLong as error:
            print(f"the context is full: {error}", file=sys.stderr)
            print("a shorter message may still fit; /reset forgets the conversation, /exit ends it", file=sys.stderr)
            return None
        except KeyboardInterrupt:  # a second one
            asked.set()
        if asked.is_set():
            self.session.rewind(min(before, len(self.session.prefix_ids)))
            print("stopped; this turn was taken back", file=sys.stderr)
            return None
        result, live = done
        self.turns += [Message(role="user", content=line), replace(result.message, thinking="")]
        self._last, self._is_loaded = result, False
        self.options = replace(self.options, seed=(self.options.seed + 1) % (1 << 64))
        self._print(result, live)
        return result

    def _generate(self, line: str) -> tuple[Result, bool]:
        """The answer to a message, and whether it was seen resolving."""
        session, options = self.session, self.options
        live = sys.stdout.isatty() and options.decoder == DECODERS[0]
        if live:
            from dgemma.cli.live import LiveCanvas
        asked = Message(role="user", content=line)
        whole = self._is_loaded or (session.manifest.chat is not None and session.manifest.chat.roles is not None)
        with LiveCanvas(session) if live else nullcontext() as view:
            if whole:
                return session.generate(None, options, messages=[*self.turns, asked], on_step=view), live
            return session.generate(line, options, on_step=view), live

    def _print(self, result: Result, live: bool) -> None:
        if result.thinking:
            print(dim(folded(result.thinking)), file=sys.stderr)
        show(said(result))
        for warning in result.warnings:
            print(warning, file=sys.stderr)
        if live:
            print(stats(result), file=sys.stderr)
        if result.stop_reason == "context":
            print(
                "the context is full, so the answer ends here; /reset forgets the conversation, /exit ends it", file=sys.stderr
            )
        elif result.stop_reason == "length" and not result.pads and self.options.structure is None:
            print(f"the answer was cut after {counted(result.count, 'token')}; see --max-new-tokens", file=sys.stderr)

    def _forget(self) -> None:
        self.session.reset()
        self.turns.clear()
        self._is_loaded = False

    def _change(self, says: str, **values: object) -> str:
        """The options with other values, once they are known to be possible."""
        changed = replace(self.options, **values)  # type: ignore[arg-type]
        self.check(changed)
        self.options = changed
        return says

    def _help(self, text: str) -> str:
        return "\n".join(f"{name:<9} {what}" for name, what in COMMANDS.items())

    def _system(self, text: str) -> str:
        return self._change("the system turn is set" if text else "the system turn is removed", system=text or None)

    def _think(self, text: str) -> str:
        if text not in ("on", "off"):
            raise UsageError("/think takes on or off")
        return self._change(f"thinking is {text}", think=text == "on")

    def _seed(self, text: str) -> str:
        if not text.isdecimal() or not text.isascii() or int(text) >= 1 << 64:
            raise UsageError("/seed takes a number from 0 to 2^64-1")
        return self._change(f"the seed is {int(text)}", seed=int(text))

    def _decoder(self, text: str) -> str:
        if text not in DECODERS:
            raise UsageError(f"/decoder takes {' or '.join(DECODERS)}")
        return self._change(f"the decoder is {text}", decoder=text)

    def _stats(self, text: str) -> str:
        used, context = len(self.session.prefix_ids), self.session.manifest.context
        full = f"{used} of {context} context tokens are used, seed {self.options.seed}"
        return full if self._last is None else f"{stats(self._last)}\n{full}"

    def _reset(self, text: str) -> str:
        self._forget()
        return "conversation forgotten"

    def _save(self, text: str) -> str:
        if not self.turns:
            raise UsageError("there is nothing to save yet")
        path = _path(text, "/save")
        if path.exists() and path.resolve() not in self._files:
            raise UsageError(f"{path} exists already and was not written by this chat")
        opening = [] if self.options.system is None else [Message(role="system", content=self.options.system)]
        write_conversation(path, [*opening, *self.turns])
        self._files.add(path.resolve())
        return f"{counted(len(self.turns), 'message')} saved in {path}"

    def _load(self, text: str) -> str:
        if self.single:
            raise UsageError("this model knows only single turns, so it cannot continue a conversation")
        path = _path(text, "/load")
        messages, tools = read_conversation(path, "/load")
        if tools:
            raise UsageError(f"{path} declares tools, which a chat cannot call")
        system = None
        if messages[0].role in OPENING_ROLES:
            system, messages = str(messages[0].content), messages[1:]
        if not messages or messages[-1].role != "assistant":
            raise UsageError(f"{path} does not end with an answer")
        asked = [*messages, Message(role="user", content="x")]
        assert self.session.tokenizer is not None
        conversation_ids(self.session.manifest, self.session.tokenizer, asked, system=system, think=self.options.think)
        self._forget()
        self.options = replace(self.options, system=system)
        self.turns, self._is_loaded = list(messages), True
        self._files.add(path.resolve())
        return f"{counted(len(messages), 'message')} loaded from {path}"


def _path(text: str, command: str) -> Path:
    if not text:
        raise UsageError(f"{command} takes a file")
    return Path(text).expanduser()


_DOES: dict[str, Callable[[Conversation, str], str]] = {
    "/help": Conversation._help,
    "/system": Conversation._system,
    "/think": Conversation._think,
    "/seed": Conversation._seed,
    "/decoder": Conversation._decoder,
    "/stats": Conversation._stats,
    "/reset": Conversation._reset,
    "/save": Conversation._save,
    "/load": Conversation._load,
    "/exit": Conversation._help,  # and /quit; whoever reads lines ends before it gets here
}

"""A conversation: the prefix is kept between turns, and the last turn can be taken back.

The tiny model was trained on single questions, so its later answers are often wrong.

python examples/chat_turns.py [BUNDLE]
"""

import sys

from dgemma import DgemmaError, PromptTooLong, Session

BUNDLE = sys.argv[1] if len(sys.argv) > 1 else "tiny"

try:
    with Session.load(BUNDLE) as session:
        for turn, message in enumerate(["Reverse the word table.", "Reverse the word lamp."]):
            before = len(session.prefix_ids)
            try:
                result = session.generate(message, seed=turn, continue_=True)
            except PromptTooLong:
                session.reset()  # forget the conversation; nothing is ever dropped silently
                result = session.generate(message, seed=turn)
            print(f"> {message}\n{result.text}")
        session.rewind(before)  # as if the last turn had not been
        print(f"{before} tokens are left of the conversation")
except DgemmaError as error:  # one line that says what is wrong, and the cure
    print(error, file=sys.stderr)
    sys.exit(2)

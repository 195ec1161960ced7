"""Cancel a generation from another thread; the canvas in work is dropped and the session stays usable.

python examples/cancel.py [BUNDLE]
"""

import sys
import threading

from dgemma import DgemmaError, Session

BUNDLE = sys.argv[1] if len(sys.argv) > 1 else "tiny"
PROMPT = "Write to Jonas Maria Felix Leo Tina: picnic, museum, Sunday, 9."

try:
    with Session.load(BUNDLE) as session:
        started, cancelled = threading.Event(), threading.Event()

        def stop() -> None:
            started.wait()
            session.cancel()
            cancelled.set()

        def on_step(event: object) -> None:
            started.set()
            cancelled.wait()  # only so that this short answer is not finished first

        thread = threading.Thread(target=stop)
        thread.start()
        result = session.generate(PROMPT, on_step=on_step)
        thread.join()
        print(f"{result.stop_reason} after {result.steps} step")
        print(session.generate("Reverse the word table.").text)
except DgemmaError as error:  # one line that says what is wrong, and the cure
    print(error, file=sys.stderr)
    sys.exit(2)

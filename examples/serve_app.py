"""A web application with routes of its own, and OpenAI's API over a bundle beside them; FastAPI mounts it the same way.

pip install ".[onnx,serve]"
python examples/serve_app.py [BUNDLE] [PORT]
curl http://127.0.0.1:8080/reversed/table
curl http://127.0.0.1:8080/v1/models
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from dgemma import DgemmaError, Session
from dgemma.serve.app import create_app
from dgemma.serve.options import ServeOptions

bundle = sys.argv[1] if len(sys.argv) > 1 else "tiny"
port = sys.argv[2] if len(sys.argv) > 2 else "8080"
try:
    options = ServeOptions(port=int(port) if port.isdecimal() else -1)
    api = create_app([bundle], options)
except DgemmaError as error:  # one line that says what is wrong, and the cure
    print(error, file=sys.stderr)
    sys.exit(2)


async def reverse(request: Request) -> JSONResponse:
    """A route that asks the model itself, in a session of its own."""
    prompt = f"Reverse the word {request.path_params['word']}."
    with Session.load(bundle) as session:
        result = await asyncio.to_thread(session.generate, prompt, max_new_tokens=32)
    return JSONResponse({"reversed": result.text, "steps": result.steps})


# The API's own lifespan loads the bundle, and lets answers end when the application stops.
app = Starlette(routes=[Route("/reversed/{word}", reverse), Mount("/", api)], lifespan=api.lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=options.port, log_level="warning")

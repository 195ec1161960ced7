"""An agent of LangChain with a tool, over `dgemma serve`; the model must be one that calls tools, which tiny does not.

pip install langchain langchain-openai
dgemma serve NAME.dgemma
python examples/langchain_agent.py NAME [QUESTION] [URL]
"""

import sys
from datetime import datetime
from zoneinfo import ZoneInfo

from langchain.agents import create_agent  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]
from openai import OpenAIError

if len(sys.argv) < 2:
    print("usage: langchain_agent.py NAME [QUESTION] [URL]", file=sys.stderr)
    sys.exit(2)
NAME = sys.argv[1]
QUESTION = sys.argv[2] if len(sys.argv) > 2 else "How late is it in Rome?"
URL = sys.argv[3] if len(sys.argv) > 3 else "http://127.0.0.1:8000"


def clock(place: str) -> str:
    """Tells the time at a place, such as Europe/Rome."""
    try:
        return f"{datetime.now(ZoneInfo(place)):%H:%M}"
    except (ValueError, KeyError):
        return f"{place} is no time zone; give one such as Europe/Rome"


model = ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model=NAME, max_retries=0)
agent = create_agent(model, tools=[clock])  # the server decides by itself whether to call: tool_choice is auto
try:
    for step in agent.stream({"messages": [("user", QUESTION)]}, stream_mode="values"):
        message = step["messages"][-1]
        for call in getattr(message, "tool_calls", None) or []:
            print(f"calls {call['name']} {call['args']}")
        if message.content:
            print(f"{message.type}: {message.content}")
except OpenAIError as error:  # the server's own words
    print(error, file=sys.stderr)
    sys.exit(2)

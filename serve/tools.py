"""Tools as requests declare them, and what they say of calling them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from dgemma.serve.bodies import Body
from dgemma.serve.errors import ApiError

CHOICE = "Whether the answer may call tools, must call one, or must call this one; or which tools there are to choose from."
Name = Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$")]


class Declaration(Body):
    """One function. With `strict`, a call has to be forced: only then do its arguments always follow the schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `read_tools` takes it."""
        return {"type": "function", "function": self.model_dump(exclude_none=True, exclude={"type", "strict"})}


class Tool(Body):
    """A function, as chat completions declare it."""

    type: Literal["function"]
    function: Declaration

    def to_dict(self) -> dict[str, Any]:
        return self.function.to_dict()

    @property
    def strict(self) -> bool | None:
        return self.function.strict


class ResponseTool(Declaration):
    """A function, as responses declare it."""

    type: Literal["function"]


class _Named(Body):
    name: Name


class ChosenTool(Body):
    """`tool_choice` of chat completions: the function that has to be called."""

    type: Literal["function"]
    function: _Named

    @property
    def name(self) -> str:
        return self.function.name


class ChosenResponseTool(_Named):
    """`tool_choice` of responses."""

    type: Literal["function"]


class _Allowed(Body):
    mode: Literal["auto", "required"]
    tools: list[ChosenTool] = Field(min_length=1, max_length=128)


class AllowedTools(Body):
    """`tool_choice` of chat completions: for this request, only these of the tools are there."""

    type: Literal["allowed_tools"]
    allowed_tools: _Allowed

    @property
    def mode(self) -> str:
        return self.allowed_tools.mode

    @property
    def names(self) -> list[str]:
        return [tool.name for tool in self.allowed_tools.tools]


class AllowedResponseTools(Body):
    """`tool_choice` of responses."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ChosenResponseTool] = Field(min_length=1, max_length=128)

    @property
    def names(self) -> list[str]:
        return [tool.name for tool in self.tools]


Mode = Literal["auto", "none", "required"]
ToolChoice = Mode | Annotated[ChosenTool | AllowedTools, Field(discriminator="type")]
ResponseToolChoice = Mode | Annotated[ChosenResponseTool | AllowedResponseTools, Field(discriminator="type")]


class ToolUse(Body):
    """What requests say of tools."""

    tools: Sequence[Tool | ResponseTool] | None
    tool_choice: ToolChoice | ResponseToolChoice | None
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call, which therefore has to be forced.")

    def declared(self) -> list[dict[str, Any]]:
        """Tools that the model is told of. Raises ApiError."""
        tools = [] if self.tool_choice == "none" else [tool.to_dict() for tool in self.tools or ()]
        if not isinstance(self.tool_choice, AllowedTools | AllowedResponseTools):
            return tools
        return [one for name in self.tool_choice.names for one in _named(name, tools)]

    def must_call(self) -> list[dict[str, Any]]:
        """Tools of which the answer is to call one; none where it need not. Raises ApiError."""
        choice: Any = self.tool_choice
        tools = self.declared()
        if isinstance(choice, AllowedTools | AllowedResponseTools):
            choice = choice.mode
        if choice in (None, "auto", "none"):
            self._check_free(bool(tools))
            return []
        if not tools:
            raise _refused("tool_choice", "forces a call, and there are no tools; give tools, or leave it out")
        if choice == "required":
            return tools
        return _named(choice.name, tools)

    def _check_free(self, has_tools: bool) -> None:
        """Whether a model that may call what it likes can do what is asked for. Raises ApiError."""
        if has_tools and any(tool.strict for tool in self.tools or ()):
            raise _refused("tools", "strict holds only for a call that tool_choice forces; force one, or leave strict out")
        if has_tools and self.parallel_tool_calls is False:
            why = "only a call that tool_choice forces is sure to be the only one; force one, or leave it out"
            raise _refused("parallel_tool_calls", why, "unsupported_parameter")


def _named(name: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools of that name. Raises ApiError."""
    found = [tool for tool in tools if tool["function"]["name"] == name]
    if not found:
        raise _refused("tool_choice", f"{name} is not among the tools; declare it")
    return found


def _refused(param: str, why: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"{param}: {why}", param=param, code=code)

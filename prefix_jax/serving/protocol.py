"""The bodies of requests, checked: OpenAI's fields, and a few of vLLM's and our own."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from prefix_jax.disk import from_json
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.serving.engine import TOPS

# Fields that say something of the caller, and nothing of the text.
_IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
Ids = list[Annotated[StrictInt, Field(ge=0, lt=2**31)]]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Refused(UserError):
    """A request that is not carried out; `status` is that of HTTP."""

    def __init__(self, message: str, status: int = 400, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class Generation(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    model: StrictStr
    max_tokens: Annotated[StrictInt, Field(ge=0)] | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0)] = 0
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1)] = 0
    n: Annotated[StrictInt, Field(ge=1, le=128)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] | None = None
    stop: StrictStr | Annotated[list[StrictStr], Field(max_length=16)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class Completion(Generation):
    """The body of `/v1/completions`. With `raw`, a text is the prompt itself, not a source to format."""

    prompt: StrictStr | Ids | Annotated[list[StrictStr], Field(max_length=1024)] | list[Ids]
    echo: StrictBool | None = None
    logprobs: Annotated[StrictInt, Field(ge=0, le=TOPS)] | None = None
    best_of: StrictInt | None = None
    suffix: Annotated[StrictStr, Field(max_length=0)] | None = None
    raw: StrictBool = False


class ChatCompletion(Generation):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=TOPS)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=0)] | None = None


class LoadAdapter(BaseModel):
    """The body of `/v1/load_lora_adapter`, with vLLM's names."""

    model_config = ConfigDict(extra="forbid")
    lora_name: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    lora_path: StrictStr


class UnloadAdapter(BaseModel):
    """The body of `/v1/unload_lora_adapter`, with vLLM's names."""

    model_config = ConfigDict(extra="ignore")
    lora_name: StrictStr


Body = TypeVar("Body", bound=BaseModel)


def decoded(data: bytes) -> Any:
    """Returns the JSON value of a body.

    Raises:
      Refused: it is not JSON.
    """
    try:
        return from_json(data)
    except ValueError:
        raise Refused("the body is not JSON; send a JSON object") from None


def parsed(kind: type[Body], body: Any) -> Body:
    """Returns a checked body.

    Raises:
      Refused: a field is missing, unknown or out of its range.
    """
    if not isinstance(body, dict):
        raise Refused("the body is not a JSON object; send one")
    try:
        return kind.model_validate({name: value for name, value in body.items() if name not in _IGNORED})
    except ValidationError as error:
        raise _refused(error.errors(include_url=False)[0], kind) from None


def _refused(error: Any, kind: type[BaseModel]) -> Refused:
    path = [str(part) for part in error["loc"]]
    name = path[0] if path else "body"
    if error["type"] == "missing":
        return Refused(f'the body has no "{".".join(path)}"; add it', param=name)
    if error["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        return Refused(f'there is no field "{name}"{did_you_mean(name, known)}', param=name)
    value = repr(error["input"])
    value = value if len(value) <= 60 else f"{value[:57]}..."
    unsupported = ("presence_penalty", "frequency_penalty", "logit_bias", "suffix")
    if name in unsupported:
        return Refused(f"{name}={value} is not supported; leave it out", param=name)
    return Refused(f"{name} is {value}; {_lowered(error['msg'])}", param=name)


def _lowered(message: str) -> str:
    return (message[:1].lower() + message[1:]).replace("input should", "it should")

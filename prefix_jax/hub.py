"""The Hugging Face hub: files of a repository at a commit, and uploads; the only module that imports `huggingface_hub`.

Its variables apply: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HTTPS_PROXY. A repository is written OWNER/NAME, or
OWNER/NAME@REVISION for a branch, a tag or a commit. Errors that may pass (429, 5xx, cut connections) are retried.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefix_jax.errors import UserError, first_line

Result = TypeVar("Result")
# Seconds before an answer is given up, and between the attempts.
_TIMEOUT = 15.0
_WAITS = (1.0, 3.0)
_LONGEST_WAIT = 20.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_CUT = ("RemoteProtocolError", "ReadError", "ReadTimeout", "WriteError", "ChunkedEncodingError")
_LOG_IN = "run: hf auth login, or set HF_TOKEN"


class Unavailable(UserError):
    """The repository does not exist, or the hub cannot be reached."""


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit.

    Attributes:
      name: as it was asked for, OWNER/NAME or OWNER/NAME@REVISION.
      id: OWNER/NAME.
      path: the folder with the files downloaded so far.
      kind: "model" or "dataset".
      is_cached: whether the hub does not answer, and only what is in the cache is read.
    """

    name: str
    id: str
    path: Path
    kind: str = "model"
    is_cached: bool = False

    @property
    def commit(self) -> str:
        """The commit's hash."""
        return self.path.name

    def fetch(self, patterns: Sequence[str], ignored: Sequence[str] = ()) -> None:
        """Downloads the files that match one of `patterns` and none of `ignored`.

        Raises:
          UserError: as `find`.
        """
        try:
            _download(self.id, self.commit, patterns, ignored, self.kind, self.is_cached)
        except Exception as error:
            raise problem(error, self.name, self.kind) from None


def is_name(text: str) -> bool:
    """Returns whether a text can name a repository: OWNER/NAME or OWNER/NAME@REVISION."""
    owner, slash, name = text.partition("@")[0].partition("/")
    return bool(slash and owner and name and "/" not in name) and not text.startswith((".", "~", "/"))


def find(name: str, patterns: Sequence[str], ignored: Sequence[str] = (), kind: str = "model") -> Snapshot:
    """Downloads files of a repository; where the hub does not answer, takes them from the cache.

    Args:
      name: OWNER/NAME, or OWNER/NAME@REVISION; without a revision the newest commit.
      patterns: files that match one of them are downloaded.
      ignored: files that match one of these are not.
      kind: "model" or "dataset".

    Raises:
      UserError: the repository is gated, the hub refuses the token or fails, or the disk is full.
      Unavailable: the repository or revision does not exist, or the hub does not answer and the cache has no copy.
    """
    from huggingface_hub import HfApi, errors

    id, _, revision = name.partition("@")
    try:
        try:
            # The library would wait for ever for this answer.
            patiently(lambda: HfApi().repo_info(id, revision=revision or None, repo_type=kind, timeout=_TIMEOUT))
        except errors.HFValidationError:
            raise
        except Exception as error:
            return _cached(error, name, patterns, ignored, kind)
        return Snapshot(name, id, _download(id, revision, patterns, ignored, kind), kind)
    except Exception as error:
        raise problem(error, name, kind) from None


def _cached(error: Exception, name: str, patterns: Sequence[str], ignored: Sequence[str], kind: str) -> Snapshot:
    """Returns what is in the cache; where it is not, raises the error for which the hub did not answer."""
    from huggingface_hub import errors

    id, _, revision = name.partition("@")
    reason = problem(error, name, kind)
    try:
        path = _download(id, revision, patterns, ignored, kind, only_cached=True)
    except errors.LocalEntryNotFoundError:
        raise error from None
    if not isinstance(error, errors.OfflineModeIsEnabled):
        print(f"Using {name} from the cache: {reason}", file=sys.stderr)
    return Snapshot(name, id, path, kind, is_cached=True)


def _download(
    id: str, revision: str, patterns: Sequence[str], ignored: Sequence[str], kind: str, only_cached: bool = False
) -> Path:
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": list(ignored), "repo_type": kind}
    found = patiently(lambda: snapshot_download(id, revision=revision or None, local_files_only=only_cached, **wanted))
    return Path(found)


def settings() -> Any:
    """Returns the module whose attributes are the library's settings in this process, such as HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return constants


@dataclass(frozen=True)
class About:
    """What the hub says of a repository; `problem` is why its files cannot be downloaded, None if they can."""

    files: frozenset[str] = frozenset()
    problem: UserError | None = None


def about(name: str, kind: str = "model") -> About:
    """Asks the hub for the description of a repository, OWNER/NAME or OWNER/NAME@REVISION."""
    from huggingface_hub import HfApi

    id, _, revision = name.partition("@")

    def ask() -> About:
        found = HfApi().repo_info(id, revision=revision or None, repo_type=kind, timeout=_TIMEOUT)
        if found.gated:  # whose description everybody may read
            HfApi().auth_check(id, repo_type=kind)
        return About(frozenset(file.rfilename for file in getattr(found, "siblings", None) or ()))

    try:
        return patiently(ask)
    except Exception as error:
        return About(problem=problem(error, name, kind))


def upload(
    name: str,
    contents: Mapping[str, bytes],
    *,
    message: str,
    private: bool = False,
    token: str | None = None,
    owned: Callable[[str], bool] = lambda path: False,
) -> str:
    """Publishes files as one commit of a model repository, which is created if it is absent; returns its address.

    Args:
      name: OWNER/NAME, or NAME for one of the token's owner.
      contents: by path in the repository.
      message: of the commit.
      private: whether only the owner may see it.
      token: None: HF_TOKEN, or that of `hf auth login`.
      owned: which files of an earlier upload are deleted where `contents` has none of that path.

    Raises:
      UserError: the hub does not know the token or refuses it, the repository is public and should be private, or the
        hub fails. Nothing is changed then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)

    def publish() -> str:
        id = api.create_repo(name, private=private or None, exist_ok=True).repo_id
        there = api.model_info(id, timeout=_TIMEOUT)
        if private and not there.private:
            raise UserError(
                f"{id} is public; make it private on the hub, name another repository, or leave out private"
            )
        old = sorted(file.rfilename for file in there.siblings or () if owned(file.rfilename))
        changes = [CommitOperationAdd(path, data) for path, data in contents.items()]
        changes += [CommitOperationDelete(path) for path in old if path not in contents]
        api.create_commit(id, changes, commit_message=message)
        return f"{_endpoint()}/{id}"

    try:
        return patiently(publish)  # the same files again are no new commit
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and "README.md" in str(error):
            raise UserError(f"the hub refuses the model card: {' '.join(str(error).split())[:300]}") from None
        raise problem(error, name, action="uploaded") from None


def front_matter(about: Mapping[str, Any], results: Sequence[Mapping[str, Any]] = ()) -> str:
    """Returns the YAML with which a model card begins.

    Args:
      about: fields of `huggingface_hub.ModelCardData`, such as base_model and tags.
      results: fields of `huggingface_hub.EvalResult` for each score.
    """
    from huggingface_hub import EvalResult, ModelCardData

    fields: dict[str, Any] = dict(about)
    if results:
        fields["eval_results"] = [EvalResult(**result) for result in results]
    text = ModelCardData(**fields).to_yaml(line_break="\n").strip()
    return f"---\n{text}\n---\n"


def license_of(name: str) -> str:
    """Returns the licence that a model's card names; empty where the hub does not answer or names none."""
    from huggingface_hub import HfApi

    try:
        with quiet():
            card = HfApi().model_info(name.partition("@")[0], timeout=_TIMEOUT).card_data
        found = card.get("license") if card else None
    except Exception:  # a hub that does not answer is reported where it is needed
        return ""
    return found if isinstance(found, str) else ""


def problem(error: BaseException, name: str, kind: str = "model", action: str = "downloaded") -> UserError:
    """Returns a sentence for an error of `huggingface_hub`, with what to do; re-raises any other error."""
    from huggingface_hub import errors

    id, _, revision = name.partition("@")
    known = _of_chain(error, errors)
    status = getattr(getattr(known, "response", None), "status_code", None)
    if isinstance(known, errors.GatedRepoError):
        return UserError(
            f'the {kind} "{id}" is gated; accept its terms at {_endpoint()}/{id}, then {_LOG_IN}'
        )  # before RepositoryNotFoundError, its base
    if isinstance(known, errors.LocalTokenNotFoundError) or (status == 401 and action != "downloaded"):
        return UserError(f"the hub does not know who you are, so nothing was {action}; {_LOG_IN}")
    if status == 401 and not isinstance(known, errors.RepositoryNotFoundError):
        return UserError(f'the hub does not accept the token for "{id}"; {_LOG_IN} to a valid one, or unset it')
    if isinstance(known, errors.RepositoryNotFoundError | errors.HFValidationError):
        return Unavailable(f'the hub has no {kind} "{id}"{_private_hint(known)}')
    if isinstance(known, errors.RevisionNotFoundError):
        return UserError(f'the {kind} "{id}" has no revision "{revision}"; name a branch, a tag or a commit after @')
    if status is not None:
        return _of_status(status, known, id, kind, action)
    return _without_answer(error, known, name, kind, action)


def _of_chain(error: BaseException, errors: Any) -> BaseException:
    """Returns the error that says most: the first of the chain of causes with an answer of the hub, else the first."""
    one: BaseException | None = error
    while one is not None:
        known = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.FileMetadataError)
        if isinstance(one, known) or _is_transport(one):
            return one
        one = one.__cause__ or one.__context__
    return error


def _private_hint(error: BaseException) -> str:
    from huggingface_hub import errors, get_token

    if isinstance(error, errors.HFValidationError):
        return ""
    return "; check its name, and the token's rights if it is private" if get_token() else f" (if private, {_LOG_IN})"


def _of_status(status: int, error: BaseException, id: str, kind: str, action: str) -> UserError:
    said = getattr(error, "server_message", None)
    why = f" ({first_line(said)})" if said else ""
    if status == 403:
        return UserError(f'the {kind} "{id}" was not {action}: the token has no right to it{why}; use one that has')
    if status == 429:
        return UserError(
            f'the hub takes no more requests for now (429), so "{id}" was not {action}; wait some minutes, or {_LOG_IN}'
        )
    if status >= 500 or status in _PASSING:
        return UserError(f'the hub has an error of its own ({status}), so "{id}" was not {action}; try again later')
    return UserError(f'the hub refused the request, so "{id}" was not {action} ({status}{why}); check {_endpoint()}')


def _without_answer(error: BaseException, known: BaseException, name: str, kind: str, action: str) -> UserError:
    from huggingface_hub import constants, errors

    lacking = f'and "{name}" is not in its cache' if action == "downloaded" else f'so "{name}" was not {action}'
    if isinstance(known, errors.OfflineModeIsEnabled):
        unset = f"unset it, or set HF_HOME to where it is (now {constants.HF_HOME})"
        return Unavailable(f"the hub cannot be reached since HF_HUB_OFFLINE is set, {lacking}; {unset}")
    if type(known).__name__ == "ProxyError":
        proxy = "HTTPS_PROXY" if _endpoint().startswith("https") else "HTTP_PROXY"
        return Unavailable(
            f"the hub cannot be reached through the proxy ({first_line(known)}), {lacking}; check {proxy}"
        )
    if type(known).__name__ in _CUT:
        return UserError(f'the connection to the hub was cut and "{name}" was not {action}; try again')
    if isinstance(known, errors.FileMetadataError | json.JSONDecodeError):  # a page in place of JSON or a file
        return Unavailable(f"what answers at {_endpoint()} is not a hub, {lacking}; check HF_ENDPOINT and the proxy")
    if _is_transport(known) or isinstance(known, errors.LocalEntryNotFoundError):
        return Unavailable(f"the hub cannot be reached ({_endpoint()}) {lacking}; check the connection and HF_ENDPOINT")
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f'"{name}" could not be {action}: {error}; free some space, or set HF_HOME to another disk')
    if type(error) is OSError:  # sizes that differ
        return UserError(f'"{name}" did not arrive whole from {_endpoint()} ({first_line(error)[:120]}); try again')
    raise error


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _is_transport(error: BaseException) -> bool:
    """Returns whether the network failed, for any HTTP client that huggingface_hub may use."""
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests")


def _may_pass(error: BaseException) -> bool:
    from huggingface_hub import errors

    known = _of_chain(error, errors)
    status = getattr(getattr(known, "response", None), "status_code", None)
    short = type(known) is OSError and known.errno is None
    return status in _PASSING or was_cut(error) or short


def was_cut(error: BaseException) -> bool:
    """Returns whether an error is a connection that ended before its answer did."""
    from huggingface_hub import errors

    return type(_of_chain(error, errors)).__name__ in _CUT


def patiently(call: Callable[[], Result], may_pass: Callable[[BaseException], bool] | None = None) -> Result:
    """Returns what `call` returns, after up to three attempts where its error may pass."""
    with quiet():
        for wait in _WAITS:
            try:
                return call()
            except Exception as error:
                if not (may_pass or _may_pass)(error):
                    raise
                time.sleep(max(wait, _asked_wait(error)))
        return call()


def _asked_wait(error: BaseException) -> float:
    """Returns the seconds for which the hub asks to wait, up to a limit."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    with contextlib.suppress(TypeError, ValueError):
        return min(float(headers.get("Retry-After", 0)), _LONGEST_WAIT)
    return 0.0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the library's lines about retries, which an error here sums up, and in a log its progress bars."""
    from huggingface_hub import utils

    logger = logging.getLogger("huggingface_hub")
    before, bars = logger.level, not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    if bars:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(before)
        if bars:
            utils.enable_progress_bars()

"""A hub on this machine: a server that speaks the protocol of `huggingface_hub` and `datasets`, for their own clients.

It holds repositories in memory: information, trees, files (small ones directly, others as LFS objects behind a
redirect), tokens, private and gated repositories, and uploads (creation, preupload, LFS, commit). It can fail on
demand, cut connections, and be its own proxy.

    with LoopbackHub() as hub:
        hub.add("someone/tiny", folder)
        subprocess.run([...], env=hub.environment(home))
"""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TOKENS = {"hf_someone": "someone", "hf_stranger": "stranger"}
_LARGE = 20_000  # bytes from which a file is an LFS object, as are all of these suffixes
_LARGE_SUFFIXES = (".safetensors", ".bin", ".parquet")
_FRONT = re.compile(r"^---\n(.*?)\n---\n", re.S)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    """Returns git's id of a file, which is its ETag."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_large(path: str, content: bytes) -> bool:
    return bool(content) and (len(content) >= _LARGE or path.endswith(_LARGE_SUFFIXES))


@dataclass
class Repository:
    """A repository: the files of each commit, and the commits of its branches and tags."""

    id: str
    private: bool = False
    gated: bool = False
    members: set[str] = field(default_factory=set)  # who may read and, if named in the id, write
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], ref: str = "main") -> str:
        content = "".join(f"{path} {_sha256(data)}" for path, data in sorted(files.items()))
        name = hashlib.sha1(f"{self.id} {len(self.commits)} {content}".encode()).hexdigest()
        self.commits[name], self.refs[ref] = dict(files), name
        return name

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


@dataclass
class Failure:
    """What the next requests of a kind get in place of an answer."""

    pattern: str  # of "METHOD path"
    times: int
    status: int = 0  # 0: the connection is cut in the middle of the answer
    headers: Mapping[str, str] = field(default_factory=dict)


class LoopbackHub:
    """The server; a context manager.

    Attributes:
      repositories: by kind ("models", "datasets") and id.
      asked: "METHOD path" of every request.
      bodies: paths whose content was sent.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.bodies: list[str] = []
        self.hosts: set[str] = set()
        self.failures: list[Failure] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(
        self,
        name: str,
        files: Path | Mapping[str, bytes | str],
        kind: str = "models",
        ref: str = "main",
        **options: Any,
    ) -> Repository:
        """Adds a repository, or a branch or tag of one, with the files of a folder or the given ones."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        content = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        repository = self.repositories.setdefault((kind, name), Repository(name, **options))
        repository.commit(content, ref)
        self.objects |= {_sha256(data): data for path, data in content.items() if _is_large(path, data)}
        return repository

    def fail(self, pattern: str, status: int, times: int = 1000, **headers: str) -> None:
        """Answers the next `times` requests whose "METHOD path" matches with a status; 0 cuts the connection."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.failures.append(Failure(pattern, times, status, named))

    def forget(self) -> None:
        """Forgets what was asked and what fails."""
        self.asked.clear(), self.bodies.clear(), self.failures.clear()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Returns the variables with which a process uses this hub, and a home of its own."""
        dropped = ("HF_", "HUGGING", "TRANSFORMERS_", "PREFIX_JAX_DATA")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        own = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "JAX_PLATFORMS": "cpu"}
        return {**kept, **own, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", **more}

    @contextlib.contextmanager
    def in_this_process(self, patch: Any, cache: Path, token: str | None = None) -> Iterator[None]:
        """Makes `huggingface_hub` in this process use this hub and a cache of its own; `patch` is pytest's."""
        from huggingface_hub import constants
        from huggingface_hub.utils import close_session, set_client_factory
        from huggingface_hub.utils._http import default_client_factory

        point_to(patch, self.address)
        values = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        for name, value in {**values, "HF_TOKEN_PATH": str(cache / "no-token")}.items():
            patch.setattr(constants, name, value)
        patch.delenv("HF_TOKEN", raising=False)
        if token:
            patch.setenv("HF_TOKEN", token)
        set_client_factory(default_client_factory)  # a new client
        yield
        close_session()

    def answer_failure(self, line: str) -> Failure | None:
        with self.lock:
            for failure in self.failures:
                if failure.times > 0 and re.search(failure.pattern, line):
                    failure.times -= 1
                    return failure
        return None


def point_to(patch: Any, address: str) -> None:
    """Makes `huggingface_hub` in this process use the hub at an address."""
    from huggingface_hub import constants, hf_api

    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(hf_api.api, "endpoint", address)  # what the library's functions use
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)  # of a proxy: with the host
        self.url, self.query = url.path, dict(urllib.parse.parse_qsl(url.query))
        self.base = f"http://{self.headers.get('Host')}"
        # Large files are on another host, whose redirects are not followed for what is said of a file.
        self.storage = self.base.replace("127.0.0.1", "localhost").replace("//hub.", "//storage.")
        line = f"{self.command} {self.url}"
        self.hub.asked.append(line)
        self.hub.hosts.add(url.netloc)
        if failure := self.hub.answer_failure(line):
            return (
                self._cut()
                if not failure.status
                else self._json({"error": "failing"}, failure.status, **failure.headers)
            )
        self._route()

    def _route(self) -> None:
        parts = [urllib.parse.unquote(part) for part in self.url.strip("/").split("/")]
        match parts:
            case ["api", "whoami-v2"]:
                return self._whoami()
            case ["api", "repos", "create"]:
                return self._create()
            case ["api", "validate-yaml"]:
                return self._validate()
            case ["api", "resolve-cache", kind, owner, name, commit, *path]:
                found = self._readable(kind, f"{owner}/{name}")
                return self._file(found, commit, "/".join(path)) if found else None
            case ["api", ("models" | "datasets") as kind, owner, name, *rest]:
                return self._api(kind, f"{owner}/{name}", rest)
            case ["objects", oid]:
                return self._object(oid)
            case ["datasets", owner, name, "resolve", revision, *path]:
                return self._resolve("datasets", f"{owner}/{name}", revision, "/".join(path))
            case [owner, name, "resolve", revision, *path]:
                return self._resolve("models", f"{owner}/{name}", revision, "/".join(path))
            case [owner, name, "info", "lfs", "objects", "batch"]:
                return self._batch(f"{owner}/{name.removesuffix('.git')}")
        self._error(404, "RepoNotFound", "Repository not found")

    def _user(self) -> str | None:
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _whoami(self) -> None:
        user = self._user()
        if user is None:
            return self._error(401, "", "Invalid username or password.")
        self._json({"type": "user", "name": user, "auth": {"accessToken": {"role": "write"}}, "orgs": []})

    def _readable(self, kind: str, name: str, files: bool = True) -> Repository | None:
        """Returns a repository that the caller may read; answers with an error where there is none."""
        found, user = self.hub.repositories.get((kind, name)), self._user()
        if self.headers.get("Authorization") and user is None:
            self._error(401, "", "Invalid credentials in Authorization header")
        elif found is None or (found.private and user not in found.members):
            # As on the hub: who is not logged in is not told which repositories exist.
            self._error(404 if user else 401, "RepoNotFound", "Repository not found")
        elif found.gated and files and user not in found.members:
            self._error(403 if user else 401, "GatedRepo", f"Access to model {name} is restricted.")
        else:
            return found
        return None

    def _revision(self, found: Repository, revision: str) -> str | None:
        commit = found.find(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _api(self, kind: str, name: str, rest: list[str]) -> None:
        if rest[:1] in (["preupload"], ["commit"]):
            return self._upload(kind, name, *rest)
        found = self._readable(kind, name, files=rest[:1] not in ([], ["revision"]))
        commit = self._revision(found, rest[1] if len(rest) > 1 else "main") if found else None
        if found is None or commit is None:
            return
        if rest == ["auth-check"]:
            return self._json({})
        if rest[:1] in ([], ["revision"]):
            return self._info(found, commit)
        files, folder = found.commits[commit], "/".join(rest[2:])
        if rest[0] == "tree":
            inside = {p: c for p, c in files.items() if p.startswith(f"{folder}/" if folder else "")}
            if folder and not inside:
                return self._error(404, "EntryNotFound", "Entry not found")
            return self._json(_entries(inside, folder, self.query.get("recursive", "").lower() in ("1", "true")))
        if rest[0] == "paths-info":
            wanted = self._form().get("paths", [])
            every = _entries(files, "", recursive=True)
            return self._json([entry for entry in every if entry["path"] in wanted])
        self._error(404, "EntryNotFound", "Entry not found")

    def _form(self) -> dict[str, list[str]]:
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(self.body)
        return urllib.parse.parse_qs(self.body.decode())

    def _info(self, found: Repository, commit: str) -> None:
        files = found.commits[commit]
        front = _FRONT.match(files.get("README.md", b"").decode())
        siblings = [{"rfilename": path} for path in files]
        about = {"id": found.id, "sha": commit, "private": found.private, "siblings": siblings, "tags": []}
        about |= {"gated": "auto" if found.gated else False, "lastModified": "2026-01-01T00:00:00.000Z"}
        self._json({**about, "cardData": yaml.safe_load(front[1]) if front else None})

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        found = self._readable(kind, name)
        commit = self._revision(found, revision) if found else None
        if found is None or commit is None:
            return
        content = found.commits[commit].get(path)
        if content is None:
            return self._error(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
        linked = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
        if _is_large(path, content):
            oid = _sha256(content)
            where = {"Location": f"{self.storage}/objects/{oid}", "X-Linked-Etag": f'"{oid}"'}
            return self._answer(302, b"", {**linked, **where})
        place = urllib.parse.quote(f"/api/resolve-cache/{kind}/{name}/{commit}/{path}")
        self._answer(307, b"", {**linked, "Location": place, "X-Linked-Etag": f'"{_blob(content)}"'})

    def _file(self, found: Repository, commit: str, path: str) -> None:
        content = found.commits[commit][path]
        self._content(content, path, {"X-Repo-Commit": commit, "ETag": f'"{_blob(content)}"'})

    def _object(self, oid: str) -> None:
        assert "Authorization" not in self.headers  # a token stays with the hub
        if self.command == "PUT":
            if _sha256(self.body) != oid:
                return self._error(400, "", "another SHA-256")
            self.hub.objects[oid] = self.body
            return self._answer(200, b"", {"ETag": f'"{oid}"'})
        self._content(self.hub.objects[oid], oid, {"ETag": f'"{oid}"'})

    def _content(self, content: bytes, path: str, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if self.command == "GET":
            self.hub.bodies.append(path)
        if not asked:
            return self._answer(200, content, {**headers, "Accept-Ranges": "bytes"})
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._answer(206, content[first : last + 1], {**headers, **span})

    # Uploads.

    def _create(self) -> None:
        user, asked = self._user(), json.loads(self.body)
        owner = asked.get("organization") or user
        name, kind = f"{owner}/{asked['name']}", f"{asked.get('type', 'model')}s"
        if user is None:
            return self._error(401, "", "Invalid username or password.")
        if owner != user:
            return self._error(403, "", f"You don't have the rights to create a model under the namespace {owner}")
        there = (kind, name) in self.hub.repositories
        if not there:
            private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.add(name, {".gitattributes": "*.safetensors filter=lfs\n"}, kind, private=private, members={user})
        found = {"url": f"{self.base}/{name}", "name": name, "id": name}
        self._json({**found, "error": "You already created this model repo"} if there else found, 409 if there else 200)

    def _validate(self) -> None:
        text = json.loads(self.body)["content"]
        front, errors = _FRONT.match(text), []
        try:
            about = yaml.safe_load(front[1]) if front else {}
            for result in (entry for model in about.get("model-index", []) for entry in model["results"]):
                assert result["task"]["type"] and result["dataset"]["type"] and result["metrics"]
        except Exception as error:  # whatever is wrong with it
            errors.append({"message": f"Invalid metadata: {error!r}"})
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _writable(self, kind: str, name: str) -> Repository | None:
        found = self._readable(kind, name)
        if found is not None and self._user() not in (name.split("/")[0],):
            self._error(403, "", "You have read access but not the required permissions for this operation")
            return None
        return found

    def _upload(self, kind: str, name: str, step: str, revision: str) -> None:
        found = self._writable(kind, name)
        commit = self._revision(found, revision) if found else None
        if found is None or commit is None:
            return
        if step == "commit":
            return self._commit(found, commit, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            large = file["size"] >= _LARGE or file["path"].endswith(_LARGE_SUFFIXES)
            before = found.commits[commit].get(file["path"])
            oid = None if before is None else _sha256(before) if large else _blob(before)
            mode = "lfs" if large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def _batch(self, name: str) -> None:
        if self._writable("models", name) is None:
            return
        found = [{"oid": one["oid"], "size": one["size"]} for one in json.loads(self.body)["objects"]]
        for one in found:
            if one["oid"] not in self.hub.objects:
                one["actions"] = {"upload": {"href": f"{self.storage}/objects/{one['oid']}"}}
        self._json({"transfer": "basic", "objects": found})

    def _commit(self, found: Repository, parent: str, revision: str) -> None:
        files, header = dict(found.commits[parent]), {}
        for line in self.body.split(b"\n"):
            entry = json.loads(line) if line.strip() else {"key": "", "value": {}}
            value = entry["value"]
            match entry["key"]:
                case "header":
                    header = value
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case "deletedFolder":
                    files = {p: c for p, c in files.items() if not p.startswith(value["path"].rstrip("/") + "/")}
        assert header["summary"]
        new = found.commit(files, revision)
        self._json({"success": True, "commitOid": new, "commitUrl": f"{self.base}/{found.id}/commit/{new}"})

    # Answers.

    def _error(self, status: int, code: str, message: str, **headers: str) -> None:
        named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._json({"error": message}, status, **named, **headers)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _cut(self) -> None:
        """Promises more than is sent, and closes; of a file's description, says nothing at all."""
        self.close_connection = True
        if self.command == "HEAD":
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"id":')

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def log_message(self, *_: object) -> None:
        pass


def _entries(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Returns a tree's entries: the files, and the folders that hold them."""
    start = len(folder) + 1 if folder else 0
    found: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        above = path[start:].split("/")[:-1]
        for depth in range(len(above) if recursive else min(len(above), 1)):
            name = path[:start] + "/".join(above[: depth + 1])
            found.setdefault(name, {"type": "directory", "path": name, "size": 0, "oid": _blob(name.encode())})
        if recursive or not above:
            entry = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
            if _is_large(path, content):
                entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
            found[path] = entry
    return list(found.values())

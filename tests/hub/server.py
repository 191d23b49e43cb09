"""The HTTP around the routes, and `Hub`: the handle that tests hold."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from hub import reading, writing
from hub.client import Done, Forker, environment, run
from hub.faults import Fault, fault
from hub.store import Blob, Refusal, Repo, Store, User, is_lfs
from hub.table import ROUTES, Answer, Request, Route

assert {each.__module__ for *_, each in ROUTES} == {reading.__name__, writing.__name__}  # importing them enters them


@dataclass(frozen=True)
class Seen:
    """One request that was answered. `user` is None for the anonymous, "?" for a token that nobody has."""

    route: str
    method: str
    path: str
    status: int
    user: str | None


class Hub:
    """A Hub on 127.0.0.1 with the user `me` (member of `org`, write token), `reader` (a read token of me) and `other`.

    Attributes:
        endpoint: its address.
        store: repositories and users.
        requests: what was asked, oldest first.
        errors: tracebacks of faults of the server itself; the fixture fails the test if there are any.
        home: HF_HOME of the programs that `run` starts.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self._forker: Forker | None = None
        self.port = 0
        self.home = Path(tempfile.mkdtemp(prefix="hub-home-"))
        self.reset()
        self.start()

    def reset(self) -> None:
        """Forget all repositories, faults, requests and clients' caches; new tokens."""
        with self._lock:
            self.store = Store()
            me = self.store.add_user("me", organizations=("org",))
            reader = self.store.add_user("me", role="read", organizations=("org",))
            self.users: dict[str, User] = {"me": me, "reader": reader, "other": self.store.add_user("other")}
            self._faults: list[Fault] = []
            self._actions: list[tuple[str, Callable[[], object]]] = []
            self.requests: list[Seen] = []
            self.errors: list[str] = []
        self.forget_caches()

    def forget_caches(self) -> None:
        """Empty the clients' HF_HOME."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()

    def start(self) -> None:
        """Listen (again, after `stop`, at the same port)."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections until `start`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.close_connections()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        if self._forker is not None:
            self._forker.close()
        shutil.rmtree(self.home, ignore_errors=True)

    # Faults

    def fail(self, route: str, name: str, **more: Any) -> None:
        """Plant fault `name` (of `faults.FAULTS`) for the next request to `route`; `more`: fields of `Fault`."""
        with self._lock:
            self._faults.append(fault(name, route, **more))

    def lift(self) -> None:
        """Take all faults away."""
        with self._lock:
            self._faults.clear()

    def take_fault(self, route: str, method: str, path: str) -> Fault | None:
        """The fault that this request meets, used up by it."""
        with self._lock:
            found = next((each for each in self._faults if each.fits(route, method, path)), None)
            if found is not None and found.times is not None:
                found.times -= 1
            return found

    def after(self, route: str, action: Callable[[], object]) -> None:
        """Do something once, after the next answer from `route`: what others do meanwhile."""
        self._actions.append((route, action))

    def note(self, seen: Seen) -> None:
        """Enter a request in the log, and do what was to be done after it."""
        with self._lock:
            self.requests.append(seen)
            due = [each for each in self._actions if each[0] == seen.route][:1]
            for each in due:
                self._actions.remove(each)
                each[1]()

    # Repositories, without a client

    def put(
        self,
        name: str,
        files: str | Path | Mapping[str, bytes | str],
        *,
        kind: str = "model",
        revision: str = "main",
        tags: tuple[str, ...] | list[str] = (),
        private: bool | None = None,
        gated: bool | None = None,
    ) -> str:
        """Make the repository if there is none, and a commit of a folder or of {path: content}; → its hash.

        A revision other than main is a branch, made from main where it is new. `tags` then name the commit.
        """
        with self._lock:
            repo = self.store.repos.setdefault((kind, name), Repo(kind, name, owner=name.split("/")[0]))
            repo.private = repo.private if private is None else private
            repo.gated = repo.gated if gated is None else "auto" if gated else False
            if isinstance(files, (str, Path)):
                root = Path(files)
                files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
            texts = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
            blobs = {path: Blob(data, is_lfs(path, len(data), data[:512])) for path, data in texts.items()}
            repo.lfs |= {blob.sha256: blob.data for blob in blobs.values() if blob.is_lfs}
            repo.branches.setdefault(revision, repo.branches["main"])
            commit, _ = repo.commit(revision, blobs, title="put", author=repo.owner)
            repo.tags.update(dict.fromkeys(tags, commit.sha))
            return commit.sha

    def repo(self, name: str, kind: str = "model") -> Repo:
        """A repository, to look at or to set up."""
        return self.store.repos[kind, name]

    def read(self, name: str, path: str, *, kind: str = "model", revision: str = "main") -> bytes:
        """Content of a file."""
        with self._lock:
            return self.repo(name, kind).blob(revision, path)[1].data

    def head(self, name: str, *, kind: str = "model", revision: str = "main") -> str:
        """The hash of the commit that a revision means."""
        with self._lock:
            return self.repo(name, kind).resolve(revision).sha

    # Clients

    def token(self, user: str) -> str:
        """The access token of `me`, `reader` or `other`."""
        return self.users[user].token

    def api(self, user: str | None = "me") -> Any:
        """`HfApi` in this process. The fixture lets the client online and keeps it from Xet meanwhile."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=False if user is None else self.token(user))

    def environment(self, user: str | None = "me", **more: str) -> dict[str, str]:
        """The environment of a program that uses this Hub as `user`, with its caches under `home`."""
        token = None if user is None else self.token(user)
        return environment(self.endpoint, self.home, token, **more)

    def run(self, *argv: str, user: str | None = "me", cwd: str | Path | None = None, **more: str) -> Done:
        """`python *argv` as a program of its own; `more` are environment variables."""
        return run(list(argv), self.environment(user, **more), cwd=cwd)

    def fork(self, *argv: str, user: str | None = "me", cwd: str | Path | None = None, **more: str) -> Done:
        """`hf-llc *argv` or `-c CODE` in a fork of a program that has everything imported: quick. See `client.Forker`.

        `more` may hold what is read when it is needed, not what is read on import (HF_HUB_OFFLINE, HF_HOME).
        """
        if self._forker is None:
            patience = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
            self._forker = Forker(self.environment(None, **patience))
        token = {} if user is None else {"HF_TOKEN": self.token(user)}
        return self._forker.run(list(argv), {**token, **more}, cwd=cwd)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: Hub

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Kept-alive connections would outlive the server."""
        for each in list(self._open):
            self.shutdown_request(each)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news; a fault of the server is kept in `Hub.errors` where it happens."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """`Hub.requests` is the log."""

    def answer(self) -> None:
        """Read one request, meet its fault if there is one, and answer."""
        hub, parts = self.server.hub, urlsplit(self.path)
        body = self._body()
        name, function, groups = _find(self.command, parts.path)
        met = hub.take_fault(name, self.command, parts.path) or Fault()
        time.sleep(met.delay)
        user: str | None = "?"
        try:
            who = hub.store.user(self._token())
            user = None if who is None else who.name
            if met.status is not None:
                raise Refusal(met.status, met.message, code=met.code, headers=met.headers)
            headers = {key.lower(): value for key, value in self.headers.items()}
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            request = Request(hub.store, hub.endpoint, self.command, parts.path, query, headers, body, who, groups)
            with hub._lock:
                answer = function(request)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message, **refusal.headers}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
            answer = Answer({"error": refusal.message}, refusal.status, headers)
        except Exception:
            hub.errors.append(f"{self.command} {self.path}\n{traceback.format_exc()}")
            answer = Answer({"error": "fault of the test server"}, 500)
        hub.note(Seen(name, self.command, parts.path, answer.status, user))
        self._send(answer, met)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _token(self) -> str | None:
        header = self.headers.get("Authorization")
        return None if header is None else header.removeprefix("Bearer ")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, answer: Answer, met: Fault) -> None:
        content = answer.content()
        if met.corrupt and content:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if met.cut_after is None:
            self.wfile.write(content)
            return
        self.wfile.write(content[: int(len(content) * met.cut_after)])
        self.wfile.flush()
        self.close_connection = True


def _find(method: str, path: str) -> tuple[str, Route, dict[str, str]]:
    """The route that a request is for, and the parts of its path, unquoted."""
    for name, known, pattern, function in ROUTES:
        found = pattern.match(path) if known == method else None
        if found:
            return (
                name,
                function,
                {key: unquote(value) for key, value in found.groupdict().items() if value is not None},
            )
    return "unknown", _unknown, {}


def _unknown(request: Request) -> Answer:
    raise Refusal(404, f"No such route: {request.method} {request.path}")

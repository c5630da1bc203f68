"""A stand-in for the Hugging Face hub on the loopback, and caches as huggingface_hub lays them out."""

import hashlib
import json
import shutil
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT, OLDER = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"


def cache(home, folder, names=None, repository="acme/tiny"):
    """A cache (HF_HOME) that holds some files of a folder as commit COMMIT of `repository`, the branch main."""
    root = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        if names is None or path.name in names:
            shutil.copy(path, snapshot)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return home


class Handler(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks of a repository: its files, and each of them."""

    repositories: dict  # {"owner/name": {revision or commit: (commit, folder)}, or the code of an error}

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.info("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main", body)
        else:
            self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)

    def find(self, repository, revision):
        known = self.repositories.get(repository, "RepoNotFound")
        if isinstance(known, str):
            return self.refuse(403 if known == "GatedRepo" else 401, known)
        return known.get(revision) or self.refuse(404, "RevisionNotFound")

    def refuse(self, status, code):
        self.reply(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def info(self, repository, revision, body):
        if found := self.find(repository, revision):
            commit, folder = found
            names = sorted(path.name for path in folder.iterdir() if path.is_file())
            answer = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in names]}
            self.reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

    def file(self, repository, revision, name, body):
        if not (found := self.find(repository, revision)):
            return
        commit, folder = found
        if not (folder / name).is_file():
            self.refuse(404, "EntryNotFound")
            return
        content = (folder / name).read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        self.reply(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit}, body)

    def reply(self, status, content, headers, body=True):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def server(repositories):
    """The address of a hub with some repositories."""
    handler = type("Hub", (Handler,), {"repositories": repositories})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()

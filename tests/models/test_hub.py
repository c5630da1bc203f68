"""Models of the hub: online, offline, of a revision, in part, and what each failure says."""

import json
import os
import shutil
import subprocess
import sys

import hub
import pytest
import tiny
from shell import Shell

CODE = """
import json, sys, warnings
from stablequant.models.checkpoint import read
answers = []
for path in sys.argv[1:]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = read.load(path)
            answers.append({"revision": found.revision, "bytes": found.bytes_on_disk, "folder": found.folder})
        except read.InputError as error:
            answers.append({"error": str(error)})
    answers[-1]["warnings"] = [str(each.message) for each in caught]
print(json.dumps(answers))
"""
READ_ONLY = """
import errno, os
def read_only(function):
    def call(path, *more, **options):
        if os.environ["HF_HOME"] in str(more[0] if function is os.symlink else path):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return function(path, *more, **options)
    return call
os.makedirs, os.mkdir, os.symlink = map(read_only, (os.makedirs, os.mkdir, os.symlink))
"""
NEEDED = {"config.json", "model.safetensors", "processor_config.json", "tokenizer_config.json", "vocab.json"}


def load_all(*paths, **settings):
    """What a new process (huggingface_hub reads its settings once) makes of each model."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *paths],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        | {k: str(v) for k, v in settings.items()},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def refused(answer, path, *words):
    assert answer["error"].startswith(f"{path}: "), answer
    assert "\n" not in answer["error"]
    for word in words:
        assert word in answer["error"], answer


def size(folder):
    return sum((folder / name).stat().st_size for name in NEEDED)


@pytest.fixture(scope="module")
def older_folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("older"), num_hidden_layers=1)


def test_online(tmp_path, float_folder, older_folder):
    (tmp_path / "empty").mkdir()
    repositories = {
        "acme/tiny": {
            **dict.fromkeys(("main", hub.COMMIT), (hub.COMMIT, float_folder)),
            **dict.fromkeys(("v1", hub.OLDER), (hub.OLDER, older_folder)),
        },
        "acme/gated": "GatedRepo",
        "acme/nothing": dict.fromkeys(("main", hub.COMMIT), (hub.COMMIT, tmp_path / "empty")),
    }
    with hub.server(repositories) as address:
        paths = ("acme/tiny", "acme/tiny@v1", "acme/tiny@v9", "acme/gated", "acme/tinny", "acme/nothing", "acme/tiny@")
        main, older, *others = load_all(*paths, HF_HOME=tmp_path / "home", HF_ENDPOINT=address)
    assert (main["revision"], main["bytes"]) == (hub.COMMIT, size(float_folder))
    assert (older["revision"], older["bytes"]) == (hub.OLDER, size(older_folder))
    assert main["warnings"] == older["warnings"] == []
    refused(others[0], paths[2], "no branch, tag or commit 'v9'")
    refused(others[1], paths[3], "a gated model; ask for access", "hf auth login")
    refused(others[2], paths[4], "no such model on the hub, or a private one", "spelling", "hf auth login")
    refused(others[3], paths[5], "no config.json")
    refused(others[4], paths[6], "no such folder", "owner/name@revision")
    # What was downloaded is enough without the network, and with a hub that is down.
    [cached] = load_all("acme/tiny", HF_HOME=tmp_path / "home", HF_HUB_OFFLINE=1)
    assert cached == main
    [down] = load_all("acme/tiny", HF_HOME=tmp_path / "home", HF_ENDPOINT=address)
    assert down["bytes"] == main["bytes"]
    assert len(down["warnings"]) == 1
    assert "the hub cannot be reached" in down["warnings"][0]


def test_offline(tmp_path, float_folder):
    home = hub.cache(tmp_path, float_folder)
    hub.cache(home, float_folder, NEEDED - {"model.safetensors"}, "acme/weightless")
    hub.cache(home, float_folder, NEEDED - {"vocab.json"}, "acme/wordless")
    paths = ("acme/tiny", "acme/tiny@main", "acme/tiny@v9", "acme/weightless", "acme/wordless", "acme/unknown")
    full, main, *others = load_all(*paths, HF_HOME=home, HF_HUB_OFFLINE=1)
    assert full == main
    assert (full["revision"], full["bytes"]) == (hub.COMMIT, size(float_folder))
    refused(others[0], paths[2], "acme/tiny@v9 is not in the cache", "HF_HUB_OFFLINE")
    refused(others[1], paths[3], "has only a part", "no model.safetensors", "hf download acme/weightless")
    refused(others[2], paths[4], "no usable feature extractor and tokenizer", "vocab.json")
    refused(others[3], paths[5], "not in the cache", "HF_HUB_OFFLINE", "hf download acme/unknown")


def test_a_cache_that_cannot_be_written_to(tmp_path, float_folder, older_folder):
    """Full, it is enough; otherwise the sentence says which folder to choose."""
    home = hub.cache(tmp_path / "home", float_folder)
    known = {"main": (hub.COMMIT, float_folder), hub.COMMIT: (hub.COMMIT, float_folder)}
    with hub.server({"acme/tiny": known, "acme/other": known}) as address:
        (tmp_path / "sitecustomize.py").write_text(READ_ONLY)  # root may write anywhere, so permissions are no test
        settings = {
            "HF_HOME": home,
            "HF_ENDPOINT": address,
            "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        }
        full, missing = load_all("acme/tiny", "acme/other", **settings)
    assert full["bytes"] == size(float_folder)
    refused(missing, "acme/other", "is not writable", "set HF_HOME")


def test_the_commands_take_a_hub_id(tmp_path, float_folder, speech):
    """Offline with a partial cache, whose listing names files that loading does not read."""
    home = hub.cache(tmp_path / "home", float_folder, NEEDED)
    trees = home / "hub/models--acme--tiny/trees"
    trees.mkdir()
    files = {name: {"size": 10, "blob_id": name} for name in (*NEEDED, "README.md", "pytorch_model.bin")}
    (trees / f"{hub.COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": files}))
    out, result = tmp_path / "w8a8", tmp_path / "r.json"
    with Shell(HF_HOME=str(home), HF_HUB_OFFLINE="1") as shell:
        done = shell("calibrate", "acme/tiny", "--data", speech, "--out", out, "--json", tmp_path / "c.json")
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "c.json").read_text())["bytes_before"] == size(float_folder)
        done = shell("eval", out, "--data", speech, "--baseline", "acme/tiny", "--json", result)
        assert done.returncode == 0, done.stderr
        assert json.loads(result.read_text())["baseline"]["revision"] == hub.COMMIT
        done = shell("transcribe", "acme/tiny", speech / "0.wav")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{speech / '0.wav'}\t")


def test_a_language_that_the_cache_does_not_have(tmp_path, float_folder):
    folder = shutil.copytree(float_folder, tmp_path / "mms")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"adapter_attn_dim": 16}))
    home = hub.cache(tmp_path / "home", folder, NEEDED, "acme/mms")
    code = CODE.replace("models.load(path)", "models.load(path, 'fra')").replace(
        "read.load(path)", "read.load(path, 'fra')"
    )
    assert code != CODE
    done = subprocess.run(
        [sys.executable, "-c", code, "acme/mms"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
    )
    [answer] = json.loads(done.stdout.splitlines()[-1])
    refused(answer, "acme/mms", "has only a part", "adapter.fra.safetensors", "hf download acme/mms")

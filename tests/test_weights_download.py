"""Downloads from a hub and from plain addresses, played by a local server: cache, resuming, offline mode, checksums."""

import hashlib
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
import weights.zoo
from mask2former import Mask2Former, Mask2FormerConfig
from weights.checkpoint import Checkpoint, write_hub, write_original
from weights.download import hub_folder, original_file, originals_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/toy-swin"


class Server(ThreadingHTTPServer):
    """Speaks the part of the hub's protocol that fetching single files needs, and serves plain files besides."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}  # path → bytes
        self.requests = []  # "GET /path from-byte"
        self.cut_after = None  # bytes after which a connection breaks off,
        self.cuts = 1  # this many times
        self.ranges = True

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        server = self.server
        start = int(m[1]) if (m := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        start = start if server.ranges else 0
        server.requests.append(f"{self.command} {self.path} {start}")
        path = re.sub(r"/resolve/(main|[0-9a-f]{40})/", "/", self.path)
        content = server.files.get(path)
        if content is None:
            known = any(name.startswith(path.rsplit("/", 1)[0] + "/") for name in server.files)
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            body = content[start:]
            if server.cut_after is not None and len(body) > server.cut_after and server.cuts:
                server.cuts -= 1
                self.wfile.write(body[: server.cut_after])
                self.close_connection = True
                return
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def go_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    forget_sessions()


def forget_sessions():
    """Before huggingface_hub 1.0 a session that is open does not notice that the machine has gone offline."""
    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(constants + "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # before huggingface_hub 1.0 a copy of it is what counts
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants + "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants + "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    forget_sessions()
    yield server
    forget_sessions()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model():
    options = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    sizes = {"hidden_dim": 32, "mask_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2}
    widths = {"encoder_feedforward_dim": 32, "decoder_feedforward_dim": 32, "num_queries": 6, "num_classes": 3}
    return Mask2Former(Mask2FormerConfig(backbone_options=options, **sizes, **widths))


def serve(server, model, tmp_path, repository=REPOSITORY):
    write_hub(Checkpoint(model.config, model.state_dict(), "toy"), tmp_path / "served")
    for file in (tmp_path / "served").iterdir():
        server.files[f"/{repository}/{file.name}"] = file.read_bytes()


def same(model, other):
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_hub_download_and_cache(server, model, tmp_path, monkeypatch):
    serve(server, model, tmp_path)
    assert same(weights.create_model(REPOSITORY), model)
    assert hub_folder(REPOSITORY).name == COMMIT
    assert sum(r.startswith(f"GET /{REPOSITORY}/") for r in server.requests) == 3  # config, preprocessor, weights, once
    go_offline(monkeypatch)
    server.requests.clear()
    assert same(weights.create_model(REPOSITORY), model)
    assert not server.requests
    with pytest.raises(ConnectionError, match="somebody/other is not in the cache"):
        weights.create_model("somebody/other")


def test_a_oneformer_brings_its_tokenizer(server, tmp_path):
    """Loading needs none; the files are fetched so that a conversion can carry them."""
    (served := tmp_path / "served").mkdir()
    served.joinpath("config.json").write_text('{"model_type": "oneformer"}')
    for name in ("model.safetensors", "vocab.json", "merges.txt"):
        served.joinpath(name).write_bytes(name.encode())
    for file in served.iterdir():
        server.files[f"/{REPOSITORY}/{file.name}"] = file.read_bytes()
    assert {"vocab.json", "merges.txt"} <= {file.name for file in hub_folder(REPOSITORY).iterdir()}


def test_hub_download_resumes(server, model, tmp_path, monkeypatch):
    serve(server, model, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    server.cut_after = 100_000
    assert same(weights.create_model(REPOSITORY), model)
    gets = [request for request in server.requests if request.startswith("GET") and "safetensors" in request]
    file = f"GET /{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    assert gets == [f"{file} 0", f"{file} 100000"]


def test_hub_shards_and_bin(server, model, tmp_path):
    serve(server, model, tmp_path)
    state = load_file(tmp_path / "served" / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    del server.files[f"/{REPOSITORY}/model.safetensors"]
    server.files[f"/{REPOSITORY}/pytorch_model.bin"] = (tmp_path / "pytorch_model.bin").read_bytes()
    assert same(weights.create_model(REPOSITORY), model)

    names, other = list(state), "somebody/sharded"
    serve(server, model, tmp_path, other)
    del server.files[f"/{other}/model.safetensors"]
    shards = {"model-1.safetensors": names[:50], "model-2.safetensors": names[50:]}
    for shard, part in shards.items():
        save_file({name: state[name] for name in part}, tmp_path / shard)
        server.files[f"/{other}/{shard}"] = (tmp_path / shard).read_bytes()
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    server.files[f"/{other}/model.safetensors.index.json"] = str(index).replace("'", '"').encode()
    assert same(weights.create_model(other), model)
    del server.files[f"/{other}/model-2.safetensors"]


def test_hub_misses(server, model, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no public model 'facebook/mask2former-swin-tny-coco-panoptic'.*nearest"
    ):
        weights.create_model("facebook/mask2former-swin-tny-coco-panoptic")
    serve(server, model, tmp_path)
    del server.files[f"/{REPOSITORY}/model.safetensors"]
    with pytest.raises(FileNotFoundError, match="none of model.safetensors"):
        weights.create_model(REPOSITORY)
    server.files["/somebody/empty/README.md"] = b"hello"
    with pytest.raises(FileNotFoundError, match="no config.json"):
        weights.create_model("somebody/empty")


@pytest.fixture
def row(server, model, tmp_path, monkeypatch):
    """A published model whose original file is the toy's, on the local server."""
    write_original(Checkpoint(model.config, model.state_dict(), "toy"), tmp_path / "model.pkl")
    content = (tmp_path / "model.pkl").read_bytes()
    prefix = hashlib.md5(content).hexdigest()[:6]
    server.files[f"/files/model_final_{prefix}.pkl"] = content
    url = f"{server.address}/files/model_final_{prefix}.pkl"
    row = weights.zoo.ZOO["mask2former_resnet50_coco_panoptic"]
    row = replace(row, name="toy_on_a_server", url=url, md5_prefix=prefix)
    monkeypatch.setitem(weights.zoo.ZOO, row.name, row)
    return row


def test_original_download_and_cache(server, model, row, monkeypatch):
    assert same(weights.create_model("toy_on_a_server"), model)
    assert len(server.requests) == 1
    go_offline(monkeypatch)
    assert same(weights.create_model("toy_on_a_server"), model)
    assert len(server.requests) == 1
    assert not list(originals_folder().rglob("*.part"))
    # the file is known by its name wherever it lies
    assert weights.zoo.guess_model(str(original_file(row.url))) is row
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        original_file(server.address + "/files/other.pkl")


@pytest.mark.parametrize("ranges", [True, False])
def test_original_download_resumes(server, model, row, ranges):
    server.cut_after, server.ranges = 50_000, ranges
    with pytest.raises(ConnectionError, match="it resumes where it stopped"):
        weights.create_model("toy_on_a_server")
    assert [p.stat().st_size for p in originals_folder().rglob("*.part")] == [50_000]
    assert not list(originals_folder().rglob("*.pkl"))
    assert same(weights.create_model("toy_on_a_server"), model)
    assert server.requests[-1].endswith(" 50000" if ranges else " 0")


def test_original_checksum(server, row):
    path = row.url.removeprefix(server.address)
    server.files[path] = server.files[path][:-1] + b"!"
    with pytest.raises(ValueError, match=f"expected {row.md5_prefix}…; download it again"):
        weights.create_model("toy_on_a_server")
    assert not list(originals_folder().rglob("*.p*"))


def test_original_that_is_not_there(server):
    with pytest.raises(ConnectionError, match="nothing.pkl cannot be read .*404"):
        original_file(server.address + "/files/nothing.pkl")

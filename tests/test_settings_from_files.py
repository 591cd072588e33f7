"""Files that hold settings are not believed: each is mutated, by a fixed seed, in every way.

Whatever stands in them, a loader gives a result or one sentence, soon and in little memory.
"""

import copy
import hashlib
import json
import random
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest
import torch
import yaml

from components.mlflow.runs import noted_training
from components.run_folder import DoneMarker
from components.step import Manifest
from mixprint.collection.shards import is_done as is_shard_done
from mixprint.collection.sources import _read_settings
from mixprint.config import load_params
from mixprint.controller.checkpoint import load_controller, save_controller
from mixprint.controller.model import ControllerNetwork
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.checkpoint import save_checkpoint as save_encoder
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig
from mixprint.errors import CheckpointError, MixprintError
from mixprint.evaluation.transfer_benchmark import draw_cases, mix_settings
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.fingerprint import file_sha256
from mixprint.listening.analyse import KIND, read_session
from mixprint.separation import export_separator, load_separator
from mixprint.separation.diffusion.checkpoint import export_diffusion
from mixprint.separation.diffusion.model import Denoiser
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import DiffusionConfig, SamplingSettings
from mixprint.separation.material.songs import _composition
from mixprint.separation.report import REPORT_NAME, earlier_report
from mixprint.separation.scnet.architecture import SCNetConfig
from mixprint.separation.scnet.model import SCNet, build_scnet
from mixprint.separation.scnet.settings import SeparatorTrainConfig
from mixprint.storage.atomic import read_json, write_json
from mixprint.synthesis.mixing import named_style
from mixprint.training.state import StateFiles
from mixprint.transfer.style import Style
from mixprint.transfer.style_share import SHIPPED_STYLE_SHARE, load_style_share
from mixprint.zero_shot.checkpoint import load_zero_shot, save_zero_shot
from mixprint.zero_shot.model import ZeroShotNetwork
from mixprint.zero_shot.settings import ZeroShotConfig
from pipelines.cluster import Cluster
from tests.components.workplace import REPOSITORY
from tests.controller.trials import CONFIG as CONTROLLER

NUM_MUTATIONS = 25
MOST_SECONDS = 60.0  # each takes milliseconds; the machine may be busy
MOST_BYTES = 1 << 30

TINY = {"dims": [4, 8, 8], "nfft": 256, "win_size": 256, "hop_size": 64, "num_dplayer": 2}
TINY |= {"band_stride": [1, 2, 4], "band_kernel": [3, 2, 4], "compress": 4}
ENCODER = EncoderConfig(
    sample_rate_hz=44_100,
    n_fft=512,
    hop_samples=512,
    num_mels=16,
    band_mels=8,
    band_hop_mels=8,
    conv_channels=2,
    embedding_dim=8,
    conditioning="film",
    film_dropout=0.0,
)
ZERO_SHOT = ZeroShotConfig(
    sample_rate_hz=44_100,
    embedding_dim=8,
    n_fft=256,
    hop_samples=64,
    num_bands=4,
    channels=4,
    kernel_size=3,
    dilations=(1, 2),
    conditioning_hidden=8,
    room_decays_s=(0.3,),
    room_s=0.2,
)


@dataclass(frozen=True)
class Kind:
    """A kind of file: one that is valid, and what reads it."""

    path: Path
    load: Callable[[], object]


def tiny_scnet() -> SCNet:
    return build_scnet(TINY, "masked")


def standardisation() -> Standardisation:
    return Standardisation.fit(torch.randn(8, len(FEATURE_NAMES)))


def style() -> Style:
    embedding_E = torch.nn.functional.normalize(torch.ones(8), dim=0)
    return Style("title", torch.zeros(len(FEATURE_NAMES)), embedding_E, "ab", -14.0, ("vocals",))


def read_separator_layer(path: Path) -> SeparatorTrainConfig:
    base = REPOSITORY / "params.yaml"
    return SeparatorTrainConfig.of_params(
        load_params(base, layers=[path], section="separator"), base
    )


def own_separator(folder: Path) -> Kind:
    path = export_separator(tiny_scnet(), folder, window_s=1.0)
    return Kind(path.with_suffix(".json"), lambda: load_separator(path))


def diffusion_separator(folder: Path) -> Kind:
    blocks = SCNetConfig.from_values(TINY)
    config = DiffusionConfig(blocks=blocks, conditioning=8)
    separator = DiffusionSeparator(
        Denoiser(config), window_s=1.0, sampling=SamplingSettings(steps=2)
    )
    path = export_diffusion(separator, folder)
    return Kind(path.with_suffix(".json"), lambda: load_separator(path))


def published_separator(folder: Path) -> Kind:
    torch.save({"state": tiny_scnet().state_dict()}, folder / "m.ckpt")
    values = {
        "audio": {"chunk_size": 44_100, "sample_rate": 44_100},
        "model": dict(TINY),
        "training": {"instruments": ["drums", "bass", "other", "vocals"]},
        "inference": {"normalize": False},
    }
    (folder / "m.yaml").write_text(yaml.safe_dump(values))
    return Kind(folder / "m.yaml", lambda: load_separator(folder / "m.ckpt", folder / "m.yaml"))


def encoder(folder: Path) -> Kind:
    save_encoder(folder, MixEncoder(ENCODER), standardisation(), {"metrics": {}})
    return Kind(folder / "config.json", lambda: load_checkpoint(folder))


def controller(folder: Path) -> Kind:
    save_controller(folder, ControllerNetwork(CONTROLLER), encoder_fingerprint="ab", metadata={})
    return Kind(folder / "config.json", lambda: load_controller(folder))


def zero_shot(folder: Path) -> Kind:
    save_zero_shot(folder, ZeroShotNetwork(ZERO_SHOT), encoder_fingerprint="ab", metadata={})
    return Kind(folder / "config.json", lambda: load_zero_shot(folder))


def of_values(name: str, values: object, load: Callable[[Path], object]) -> Callable[[Path], Kind]:
    def make(folder: Path) -> Kind:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".yaml":
            path.write_text(yaml.safe_dump(values))
        else:
            write_json(path, values)
        return Kind(path, lambda: load(path))

    return make


def of_repository(name: str, load: Callable[[Path], object]) -> Callable[[Path], Kind]:
    source = Path(__file__).parents[1] / name
    return of_values(source.name, yaml.safe_load(source.read_text()), load)


class OneStep(TypedDict):
    step: int


def state(folder: Path) -> Kind:
    StateFiles(folder, OneStep).save({"step": 3})
    return Kind(folder / "state-0.json", StateFiles(folder, OneStep).load)


REPORT = {
    "song": "a.wav",
    "sha256": "ab",
    "sample_rate_hz": 44_100,
    "num_samples": 100,
    "duration_s": 0.1,
    "separator": {"model": "scnet", "checkpoint_sha256": "cd"},
    "code_version": "ef",
    "settings": {"overlap": 0.25},
    "files": ["vocals.wav"],
    "files_sha256": {"vocals.wav": hashlib.sha256().hexdigest()},
    "null_depth_db": -30.0,
    "final_null_depth_db": -60.0,
    "leakage_db": {"vocals": {"bass": None}},
    "levels": {"vocals": {"peak_dbfs": -1.0}},
    "gain": 1.0,
    "gain_db": 0.0,
    "schema_version": 1,
}
MADE_FROM = {k: REPORT[k] for k in ("sha256", "separator", "code_version", "settings")}
MADE_FROM |= {"schema_version": 1}
RESULTS = {
    "kind": KIND,
    "listener": "a",
    "fingerprint": "ab",
    "trials": [{"trial": "t01", "scores": {"hidden reference": 100, "x": 3.5}}],
}
TRUTH = {"song": "a", "style": "loud", "split": "test"}
DONE = {"recipe": "ab", "files": {"a": "cd"}, "counts": {"songs": 3, "s": 1.5}, "objects": {}}

KINDS: dict[str, Callable[[Path], Kind]] = {
    "own separator": own_separator,
    "diffusion separator": diffusion_separator,
    "published separator": published_separator,
    "encoder": encoder,
    "controller": controller,
    "zero-shot network": zero_shot,
    "standardisation": of_values("s.json", standardisation().to_values(), Standardisation.load),
    "style": of_values("style.json", style().to_values(), Style.load),
    "style share": of_values(
        "share.json", read_json(SHIPPED_STYLE_SHARE), load_style_share.__wrapped__
    ),
    "manifest": of_values(
        "m.json",
        asdict(Manifest(step="a", uri="b", fingerprint="c", counts={"n": 1})),
        Manifest.load,
    ),
    "done marker": of_values(
        "d.json", DONE, lambda path: DoneMarker.read(path, lambda: read_json(path))
    ),
    "shard marker": of_values(
        "shard.parquet.done.json",
        {"fingerprint": "ab", "num_bytes": 3, "num_segments": 1, "reports": {}, "track_ids": []},
        lambda path: is_shard_done(path.with_name("shard.parquet"), "ab", num_bytes=3),
    ),
    "noted training": of_values(
        "n.json", {"training": "a", "recipe": "b"}, lambda path: noted_training(path, "b")
    ),
    "training state": state,
    "separation report": of_values(
        REPORT_NAME, REPORT, lambda path: earlier_report(path.parent, MADE_FROM, overwrite=False)
    ),
    "listening results": of_values("r.json", RESULTS, read_session),
    "settings of a generated mix": of_values("settings.json", TRUTH, _read_settings),
    "settings of a training song": of_values(
        "settings.json", TRUTH, lambda path: _composition(path.parent)
    ),
    "settings of a benchmark": of_values(
        "mix/settings.json", TRUTH, lambda path: draw_cases(path.parent.parent, 1)
    ),
    "mix of a generated song": of_values(
        "mix/settings.json",
        {"song": "one", "mix": named_style("arena").to_values()},
        lambda path: mix_settings(path.parent),
    ),
    "layer of parameters": of_values(
        "r.yaml",
        {"model": TINY, "training": {"seed": 1, "segment_s": 1.0}},
        read_separator_layer,
    ),
    "params": of_repository("params.yaml", lambda path: load_params(path, "full")),
    "cluster": of_repository("cluster.yaml", Cluster.load),
}
ODD_VALUES = (
    None,
    True,
    -1,
    0,
    1,
    10**9,
    2**63,
    10**30,
    -0.5,
    1e-320,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "1",
    "\x1b[2J\ud800",
    "x" * 10_000,
    [],
    {},
    [0],
    [[]],
    {"": None},
    [1] * 5_000,
    ["a", 1, None],
)


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the paths of all values within values."""
    yield where
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from places(item, (*where, key))


def mutated(values: Any, rng: random.Random) -> Any:
    """Change one value: another type, an odd one, nested deeper, gone, or beside an unknown key."""
    where = rng.choice(list(places(values)))
    odd = copy.deepcopy(rng.choice(ODD_VALUES))
    if not where:
        return odd
    values = copy.deepcopy(values)
    parent = values
    for key in where[:-1]:
        parent = parent[key]
    match rng.randrange(6):
        case 0 if isinstance(parent, dict):
            del parent[where[-1]]
        case 1 if isinstance(parent, dict):
            parent["unknown"] = odd
        case 2:
            for _ in range(70):
                odd = [odd]
            parent[where[-1]] = odd
        case 3 if type(parent[where[-1]]) in (int, float):
            parent[where[-1]] *= rng.choice((-1, 0, 1_000, 10**9, 1e-9))
        case _:
            parent[where[-1]] = odd
    return values


def told(load: Callable[[], object]) -> str:
    """Load, and give the error's sentence; empty where it was taken."""
    started_s = time.monotonic()
    try:
        load()
        message = ""
    except MixprintError as error:
        message = str(error)
        assert len(message) < 5_000
    assert time.monotonic() - started_s < MOST_SECONDS
    return message


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < MOST_BYTES


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_settings_are_taken_or_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    made = KINDS[kind](tmp_path)
    valid = made.path.read_bytes()
    values = yaml.safe_load(valid) if made.path.suffix == ".yaml" else json.loads(valid)
    rng = random.Random(kind)
    for _ in range(NUM_MUTATIONS):
        made.path.write_text(json.dumps(mutated(values, rng)))  # which is YAML, too
        told(made.load)


NO_SUCH_FILES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"3",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 5_000,
    b"!!int ''",
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_such_file_is_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    made = KINDS[kind](tmp_path)
    for content in NO_SUCH_FILES:
        made.path.write_bytes(content)
        told(made.load)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in {"noted run", "shard marker"}])
def test_the_valid_file_is_taken(tmp_path: Path, kind: str) -> None:
    message = told(KINDS[kind](tmp_path).load)
    assert message == "" or (kind == "settings of a benchmark" and "found 1 songs" in message)


def test_a_valid_song_is_there_already(tmp_path: Path) -> None:
    made = KINDS["separation report"](tmp_path)
    (tmp_path / "vocals.wav").touch()
    assert made.load() is not None


def hostile(tmp_path: Path, name: str, state: dict[str, Any], **model: Any) -> Callable[[], object]:
    """Write a published checkpoint, and give what loads it."""
    torch.save(state, tmp_path / name)
    (tmp_path / "m.json").write_text(json.dumps({"model": {**TINY, **model}}))
    return lambda: load_separator(tmp_path / name, tmp_path / "m.json")


def test_tensors_of_stride_0_do_not_fill_the_memory(tmp_path: Path) -> None:
    wide = SCNetConfig.from_values({**TINY, "dims": [4, 8192, 8192]})
    with torch.device("meta"):
        outline = build_scnet(wide, "masked").state_dict()
    state = {key: torch.zeros(1).expand(value.shape) for key, value in outline.items()}
    load = hostile(tmp_path, "m.ckpt", state, dims=[4, 8192, 8192])
    assert (tmp_path / "m.ckpt").stat().st_size < 300_000
    assert "expected tensors that a file of" in told(load)


def test_many_tensors_of_one_storage_do_not_fill_the_memory(tmp_path: Path) -> None:
    piece = torch.zeros(1 << 20)
    load = hostile(tmp_path, "m.ckpt", {f"w{n}": piece.view(1 << 20) for n in range(100)})
    assert "expected tensors that a file of" in told(load)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    load = hostile(tmp_path, "small.ckpt", {"w": torch.zeros(4)})
    path = tmp_path / "small.ckpt"
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, bytes(1 << 26) if name.endswith("data/0") else content)
    assert path.stat().st_size < 100_000
    assert "found compressed" in told(load)


def test_a_pickle_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    load = hostile(tmp_path, "m.ckpt", {"w": torch.zeros(4)})
    path = tmp_path / "m.ckpt"
    claim = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R."
    path.write_bytes(claim)
    assert "bytearray" in told(load)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", claim)
        archive.writestr("m/version", "3")
    assert "bytearray" in told(load)


@pytest.mark.parametrize(
    "change",
    [
        {"hop_size": 1},
        {"nfft": 10**9, "win_size": 10**9},
        {"nfft": 65_536, "win_size": 65_536, "hop_size": 1},
        {"dims": [4, 65_536, 65_536]},
        {"dims": [4] + [8] * 5_000},
        {"num_dplayer": 10**9},
        {"conv_depths": [10**9, 1, 1]},
        {"expand": 10**9},
        {"audio_channels": 10**6, "dims": [2 * 10**6, 8, 8]},
        {"band_SR": [1e9, 1.0, 1.0]},
        {"band_SR": [-1.0, 1.0, 1.0]},
        {"band_SR": [0.001, 0.998, 0.001]},
        {"band_stride": [10**9, 1, 1]},
        {"hop_size": 200},
    ],
    ids=str,
)
def test_settings_that_no_shape_tells_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    load = hostile(tmp_path, "m.ckpt", tiny_scnet().state_dict(), **change)
    assert told(load) != ""


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ({"sample_rate": 48_000}, "expected a model for 44100 Hz, found one for 48000 Hz"),
        ({"sample_rate": 0}, "found one for 0 Hz"),
        ({"chunk_size": 10**9}, "expected 0.05 to 600"),
        ({"chunk_size": 25_000_000}, "expected a window of at most 1e+09 values"),
        ({"chunk_size": 10}, "expected 0.05 to 600"),
        ({"chunk_size": "485100"}, "audio: chunk_size: expected int"),
    ],
)
def test_windows_and_rates_that_cannot_be_are_refused(
    tmp_path: Path, audio: dict[str, Any], message: str
) -> None:
    torch.save(tiny_scnet().state_dict(), tmp_path / "m.ckpt")
    values = {"audio": audio, "model": {**TINY, "hop_size": 16}}
    (tmp_path / "m.json").write_text(json.dumps(values))
    assert message in told(lambda: load_separator(tmp_path / "m.ckpt", tmp_path / "m.json"))


def test_an_export_of_another_rate_is_refused(tmp_path: Path) -> None:
    made = own_separator(tmp_path)
    write_json(made.path, {**read_json(made.path), "sample_rate_hz": 22_050})
    assert "expected a model for 44100 Hz, found one for 22050 Hz" in told(made.load)


@pytest.mark.parametrize("kind", ["controller", "encoder", "zero-shot network"])
@pytest.mark.parametrize(
    "change",
    [
        {"n_fft": 1 << 30, "hop_samples": 1 << 28},
        {"embedding_dim": 10**6},
        {"sample_rate_hz": 10**9},
        {"n_fft": 32_768, "hop_samples": 8_192},
        {"num_mels": 10**6},
        {"num_mels": 512, "band_mels": 512, "conv_channels": 1_024},
        {"channels": 4_096, "conditioning_hidden": 16_384, "dilations": [1] * 32},
        {"dilations": [10**9]},
        {"dilations": [1] * 10**5},
        {"room_s": 1e6},
        {"room_decays_s": [0.5] * 10**5},
    ],
    ids=str,
)
def test_networks_larger_than_their_file_are_refused(
    tmp_path: Path, kind: str, change: dict[str, Any]
) -> None:
    made = KINDS[kind](tmp_path)
    values = read_json(made.path)
    if not change.keys() <= values["architecture"].keys():
        change = {"embedding_dim": 16_384}
    values["architecture"] |= change
    write_json(made.path, values)
    # Neither window nor hop of the encoder shows in a shape: they stay within their ranges.
    assert told(made.load) != "" or "n_fft" in change


def lying_header(path: Path, **entry: Any) -> None:
    """Write a safetensors file whose header claims other data than follow."""
    whole = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"w": {**whole, **entry}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [10**9]},
        {"shape": [2**40, 2**40]},
        {"data_offsets": [0, 10**12]},
        {"data_offsets": [8, 4]},
        {"data_offsets": [-1, 16]},
        {"dtype": "F9"},
        {"shape": "wide"},
    ],
    ids=str,
)
def test_headers_of_safetensors_that_lie_are_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    made = own_separator(tmp_path)
    weights = made.path.with_suffix(".safetensors")
    lying_header(weights, **entry)
    write_json(made.path, {**read_json(made.path), "weights_sha256": file_sha256(weights)})
    assert "expected readable safetensors" in told(made.load)


def test_a_header_of_safetensors_that_is_no_length_is_refused(tmp_path: Path) -> None:
    made = own_separator(tmp_path)
    weights = made.path.with_suffix(".safetensors")
    for content in (b"", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}", b"[" * 10_000):
        weights.write_bytes(content)
        write_json(made.path, {**read_json(made.path), "weights_sha256": file_sha256(weights)})
        assert "expected readable safetensors" in told(made.load)


def test_the_shipped_and_the_tiny_networks_load() -> None:
    assert load_separator().window_s == 8.0
    assert load_zero_shot().network.config.num_bands == 20


def test_a_style_is_refused_by_an_encoder_whose_embeddings_are_longer(tmp_path: Path) -> None:
    one, other = style(), style().to_values()
    other["embedding"] = [0.5] * 4
    two = Style.from_values(other, "other.json")
    with pytest.raises(CheckpointError, match=r"one length, found \[4, 8\]"):
        Style.mean([one, two], [1.0, 1.0])

"""Checkpoints: our own format, the published ones, and what does not fit."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from mixprint.errors import CheckpointError, ConfigError, DataError
from mixprint.fingerprint import file_sha256
from mixprint.separation import (
    SCNet,
    Separator,
    build_scnet,
    export_separator,
    load_separator,
    loading,
)

VALUES = {"dims": [4, 8, 8], "nfft": 512, "hop_size": 128, "win_size": 512, "num_dplayer": 2}
YAML = """
audio:
  chunk_size: 22050
  sample_rate: 44100
model:
  sources: [drums, bass, other, vocals]
  dims: !!python/tuple [4, 8, 8]
  nfft: 512
  hop_size: 128
  win_size: 512
  band_SR: !!python/tuple
  - 0.175
  - 0.392
  - 0.433
  num_dplayer: 2
training:
  lr: 5.0e-04
"""


@pytest.fixture
def model() -> SCNet:
    torch.manual_seed(0)
    return build_scnet(VALUES, "masked")


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(YAML)
    return path


def _same(loaded: SCNet, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_own_format_round_trip(tmp_path: Path, model: SCNet, dtype: torch.dtype) -> None:
    path = export_separator(model, tmp_path, window_s=4.0, dtype=dtype, training={"steps": 3})
    separator = load_separator(path)
    expected = {key: value.to(dtype).float() for key, value in model.state_dict().items()}
    assert _same(separator.network.model, expected)
    assert separator.window_s == 4.0
    assert separator.network.model.variant == "masked"
    assert set(separator.fingerprint) == {"model", "checkpoint_sha256", "config_sha256"}
    assert json.loads(path.with_suffix(".json").read_text())["training"] == {"steps": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["separator.json", "separator.safetensors"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state": state, "epoch": 3},
        lambda state: {"best_state": state, "state": {"x": torch.zeros(1)}, "history": [1.0]},
        lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"model_state_dict": state},
    ],
)
@pytest.mark.parametrize("variant", ["plain", "masked"])
@pytest.mark.parametrize("suffix", [".ckpt", ".th"])
def test_published_forms_load(
    tmp_path: Path, config_path: Path, wrap: Callable, variant: str, suffix: str
) -> None:
    state = build_scnet(VALUES, variant).state_dict()
    path = tmp_path / f"model{suffix}"
    torch.save(wrap(state), path)
    separator = load_separator(path, config_path)
    assert separator.network.model.variant == variant
    assert _same(separator.network.model, state)
    assert separator.window_s == 0.5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sources: [drums, bass,", "sources: [bass, drums,"),
        ("training:\n", "training:\n  instruments: [vocals, bass, other, drums]\n"),
        ("training:\n", "inference: {normalize: true}\ntraining:\n"),
        ("hop_size: 128", "hop_size: 256"),
        ("chunk_size: 22050", "chunk_size: 44100"),
        ("nfft: 512\n", "nfft: 512\n  normalized: false\n"),
        ("  - 0.175\n  - 0.392", "  - 0.180\n  - 0.387"),
    ],
    ids=["sources", "instruments", "level", "hop", "window", "stft", "bands"],
)
def test_a_configuration_that_is_corrected_makes_another_separator(
    tmp_path: Path, config_path: Path, model: SCNet, old: str, new: str
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(model.state_dict(), path)
    before = load_separator(path, config_path).fingerprint
    config_path.write_text(YAML.replace("lr: 5.0e-04", "lr: 1.0e-04"))
    assert load_separator(path, config_path).fingerprint == before, "concerns training alone"
    assert YAML.count(old) == 1
    config_path.write_text(YAML.replace(old, new))
    after = load_separator(path, config_path).fingerprint
    assert after["checkpoint_sha256"] == before["checkpoint_sha256"]
    assert after["config_sha256"] != before["config_sha256"]


AUTHORS_YAML = """
data: {samplerate: 44100, segment: 3, channels: 2, normalize: true}
ema: {epoch: [0.9, 0.95], batch: [0.9995, 0.9999]}
model:
  sources: ['drums', 'bass', 'other', 'vocals']
  dims: [4, 8, 8]
  nfft: 512
  hop_size: 128
  win_size: 512
  num_dplayer: 2
epochs: 150
optim: {lr: 0.0005, optim: adam}
save_every:
"""


def test_the_authors_configuration_loads(tmp_path: Path) -> None:
    state = build_scnet(VALUES, "plain").state_dict()
    torch.save({"best_state": state, "state": state, "epoch": 9}, tmp_path / "checkpoint.th")
    (tmp_path / "config.yaml").write_text(AUTHORS_YAML)
    separator = load_separator(tmp_path / "checkpoint.th", tmp_path / "config.yaml")
    assert separator.window_s == 3.0
    assert separator.normalised
    assert _same(separator.network.model, state)


MORE_SECTIONS = """
  {key}
training:
  instruments: [vocals, bass, drums, other]
  use_amp: true
augmentations:
  mixup_probs: !!python/tuple [0.2, 0.02]
inference:
  batch_size: 8
  num_overlap: 4
"""


def _load_with(tmp_path: Path, model: SCNet, key: str) -> Separator:
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    path = tmp_path / "more.yaml"
    path.write_text(YAML.partition("training:")[0].rstrip() + MORE_SECTIONS.format(key=key))
    return load_separator(tmp_path / "model.ckpt", path)


def test_what_concerns_training_alone_is_left_out(
    tmp_path: Path, model: SCNet, caplog: pytest.LogCaptureFixture
) -> None:
    separator = _load_with(tmp_path, model, "use_checkpointing: false")
    assert "use_checkpointing" in caplog.text
    assert not separator.normalised
    # The targets were stacked in this order, so it is that of the outputs.
    assert separator.network.model.config.sources == ("vocals", "bass", "drums", "other")
    assert "training.instruments" in caplog.text


def test_an_unknown_switch_that_is_on_is_refused(tmp_path: Path, model: SCNet) -> None:
    with pytest.raises(CheckpointError, match="gated_skips"):
        _load_with(tmp_path, model, "gated_skips: true")


def _pinned(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a file into the cache, and give a URL for it."""
    digest = file_sha256(path)
    cache = path.parent / "cache"
    cache.mkdir(exist_ok=True)
    path.rename(cache / f"{digest}{path.suffix}")
    monkeypatch.setenv("MIXPRINT_CACHE", str(cache))
    return f"https://nowhere.invalid/files/{path.name}#sha256={digest}"


def test_checkpoint_and_configuration_behind_urls(
    tmp_path: Path, model: SCNet, config_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    checkpoint_url = _pinned(tmp_path / "model.ckpt", monkeypatch)
    separator = load_separator(checkpoint_url, _pinned(config_path, monkeypatch))
    assert _same(separator.network.model, model.state_dict())
    own = export_separator(model, tmp_path, window_s=2.0, dtype=torch.float32)
    description_url = _pinned(own.with_suffix(".json"), monkeypatch)
    separator = load_separator(_pinned(own, monkeypatch), description_url)
    assert _same(separator.network.model, model.state_dict())
    assert separator.window_s == 2.0
    with pytest.raises(ConfigError, match="sha256sum"):
        load_separator("https://nowhere.invalid/model.ckpt", config_path)


def test_a_checkpoint_that_cannot_be_downloaded_is_a_checkpoint_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, max_bytes: int) -> Path:
        raise DataError(f"{source}: 404")

    monkeypatch.setattr(loading, "fetch", refuse)
    with pytest.raises(CheckpointError, match="404"):
        load_separator("https://nowhere.invalid/model.ckpt", "config.yaml")


@pytest.mark.parametrize("name", ["scnet-small", "scnet-large", "scnet-masked-large"])
def test_published_shapes_load(shared_dir: Path, tmp_path: Path, name: str) -> None:
    published = json.loads(
        (shared_dir / "reference" / "scnet" / "checkpoint-tensors.json").read_text()
    )[name]
    state = {key: torch.zeros(1).expand(shape) for key, shape in published["tensors"].items()}
    torch.save({"best_state": state}, tmp_path / "model.th")  # expanded: a few bytes each
    (tmp_path / "config.json").write_text(json.dumps({"model": published["config"]}))
    separator = load_separator(tmp_path / "model.th", tmp_path / "config.json")
    assert separator.network.model.variant == published["variant"]


def test_a_mismatch_names_tensors(tmp_path: Path, model: SCNet, config_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(model.state_dict(), path)
    config_path.write_text(YAML.replace("[4, 8, 8]", "[4, 8, 16]"))
    with pytest.raises(CheckpointError, match=r"encoder\.1\.SDlayer\.convs\.0\.weight is"):
        load_separator(path, config_path)
    state = model.state_dict()
    del state["pos_embed_f"], state["mask_layer.0.bias"]
    state = {k: v for k, v in state.items() if not k.startswith("mask_layer")}
    state["decoder.9.0.conv.bias"] = torch.zeros(2)
    torch.save(state, path)
    config_path.write_text(YAML)
    with pytest.raises(CheckpointError, match=r"decoder\.9\.0\.conv\.bias is unknown"):
        load_separator(path, config_path)


def test_a_configuration_behind_a_url_is_small(
    tmp_path: Path, model: SCNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    allowed: list[int] = []

    def refuse(source: str, max_bytes: int) -> Path:
        allowed.append(max_bytes)
        raise DataError("too large")

    monkeypatch.setattr(loading, "fetch", refuse)
    with pytest.raises(CheckpointError, match="too large"):
        load_separator(tmp_path / "model.ckpt", "https://nowhere.invalid/config.yaml")
    assert allowed == [1 << 20]


HUGE = """
import resource, sys
from pathlib import Path
from mixprint.errors import CheckpointError
from mixprint.separation import load_separator

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_separator(Path(sys.argv[1]), Path(sys.argv[2]))
except CheckpointError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def test_a_network_that_does_not_fit_is_never_built(
    tmp_path: Path, model: SCNet, config_path: Path
) -> None:
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    # 65536 x 65536 x 9 weights: 155 GB in one convolution alone.
    config_path.write_text(YAML.replace("[4, 8, 8]", "[4, 65536, 65536]"))
    command = [sys.executable, "-c", HUGE, str(tmp_path / "model.ckpt"), str(config_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    memory_kib, _, message = result.stdout.partition(" ")
    assert int(memory_kib) < 100_000
    assert "encoder.0.SDlayer.convs.0.weight is (8, 4, 3, 1), expected (65536, 4, 3, 1)" in message


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.zeros(8, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(8, dtype=torch.int64), "torch.int64"),
        (torch.zeros(8, dtype=torch.bool), "torch.bool"),
        (torch.zeros(8).to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
        (torch.quantize_per_tensor(torch.zeros(8), 0.1, 0, torch.qint8), "torch.qint8"),
        (torch.zeros(8).to_sparse(), r"sparse \(torch.sparse_coo\)"),
        (torch.zeros(8, device="meta"), r"without values \(on the meta device\)"),
    ],
    ids=["complex", "integer", "bool", "float8", "quantised", "sparse", "meta"],
)
def test_tensors_that_are_no_weights_are_refused(
    tmp_path: Path, model: SCNet, config_path: Path, value: Tensor, kind: str
) -> None:
    name = "encoder.0.SDlayer.convs.0.bias"
    state = model.state_dict()
    assert state[name].shape == value.shape
    torch.save({"state": state | {name: value}}, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=rf"model\.ckpt.*dense.*{name} is {kind}"):
        load_separator(tmp_path / "model.ckpt", config_path)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32])
def test_our_own_format_holds_weights_alone(
    tmp_path: Path, model: SCNet, dtype: torch.dtype
) -> None:
    path = export_separator(model, tmp_path, window_s=1.0)
    save_file({k: v.to(dtype) for k, v in model.state_dict().items()}, path)
    description = json.loads(path.with_suffix(".json").read_text())
    description["weights_sha256"] = file_sha256(path)
    path.with_suffix(".json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=rf"separator.* is {dtype}; .* more"):
        load_separator(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_real_type_become_float32(
    tmp_path: Path, model: SCNet, config_path: Path, dtype: torch.dtype
) -> None:
    state = {key: value.to(dtype) for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "model.ckpt")
    loaded = load_separator(tmp_path / "model.ckpt", config_path).network.model
    assert _same(loaded, {key: value.float() for key, value in state.items()})


def test_unsafe_files_are_refused(tmp_path: Path, model: SCNet, config_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state": model.state_dict(), "callback": Path("x").exists}, path)
    with pytest.raises(CheckpointError, match="plain tensors"):
        load_separator(path, config_path)
    torch.save(model.state_dict(), path)
    config_path.write_text("model: !!python/object/apply:os.getcwd []")
    with pytest.raises(CheckpointError, match="expected a readable YAML file"):
        load_separator(path, config_path)


def _inside_itself() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["state"] = state
    return state


@pytest.mark.parametrize("content", [_inside_itself(), {1: torch.zeros(1)}, {"state": {}}])
def test_dictionaries_without_named_tensors_are_refused(
    tmp_path: Path, config_path: Path, content: dict[Any, Any]
) -> None:
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"model\.ckpt: expected"):
        load_separator(tmp_path / "model.ckpt", config_path)


# Each line holds the one before it nine times.
BOMB = "a0: &a0 [1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB + "model: {sources: *a19}",
        "model: " + "[" * 5000 + "]" * 5000,
        "model: {dims: &dims [*dims]}",
        "model: {dims: [4, 8, 8]}\naudio: {sample_rate: .inf}",
        *(f"model: {{}}\ndata: {{segment: {value}}}" for value in ("0", "-5", ".inf", ".nan")),
    ],
    ids=["bomb", "deep", "endless", "rate", "empty", "negative", "infinite", "nan"],
)
def test_hostile_configurations_are_refused(tmp_path: Path, text: str) -> None:
    torch.save(build_scnet({}, "plain").state_dict(), tmp_path / "model.ckpt")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError):
        load_separator(tmp_path / "model.ckpt", tmp_path / "config.yaml")


def test_an_alias_is_read(tmp_path: Path, model: SCNet) -> None:
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    values = {**model.config.to_values(), "sources": list(model.config.sources)}
    config = {"model": values, "training": {"instruments": values["sources"]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert "*id" in (tmp_path / "config.yaml").read_text()
    separator = load_separator(tmp_path / "model.ckpt", tmp_path / "config.yaml")
    assert separator.network.model.config == model.config


@pytest.mark.parametrize(
    "content", [b"", b"broken", b"not a checkpoint", b"PK\x03\x04" + bytes(100)]
)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_broken_files_are_refused(
    tmp_path: Path, config_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="model"):
        load_separator(path, config_path)


def test_missing_and_mixed_up_files_are_refused(tmp_path: Path, model: SCNet) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_separator(tmp_path / "absent.ckpt")
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match="configuration"):
        load_separator(tmp_path / "model.ckpt")
    path = export_separator(model, tmp_path, window_s=1.0)
    other = export_separator(build_scnet(VALUES, "masked"), tmp_path / "other", window_s=1.0)
    path.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_separator(path)


def test_weights_that_half_precision_cannot_hold_are_not_exported(
    tmp_path: Path, model: SCNet
) -> None:
    with torch.no_grad():
        model.pos_embed_f[0, 0, 0, 0] = 1e6
    with pytest.raises(CheckpointError, match="pos_embed_f"):
        export_separator(model, tmp_path, window_s=1.0)
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_with_weights_that_are_not_finite_is_refused(
    tmp_path: Path, model: SCNet, config_path: Path
) -> None:
    state = model.state_dict()
    # The last one is finite as float64 alone.
    for broken in (torch.nan, torch.inf, 1e300):
        state["pos_embed_f"] = state["pos_embed_f"].double()
        state["pos_embed_f"][0, 0, 0, 0] = broken
        torch.save(state, tmp_path / "model.ckpt")
        with pytest.raises(CheckpointError, match=r"finite weights.*pos_embed_f"):
            load_separator(tmp_path / "model.ckpt", config_path)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.8])
def test_a_flipped_bit_of_the_weights_in_a_checkpoint_is_noticed(
    tmp_path: Path, model: SCNet, config_path: Path, where: float
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": model.state_dict()}, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        content = archive.read(entry)
    # The lowest bit: a value that nobody would find odd.
    position = whole.index(content) + int(where * len(content)) // 4 * 4
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    assert torch.load(path, weights_only=True), "torch itself does not look"
    with pytest.raises(CheckpointError, match=rf"checksums.*found '{entry.filename}' damaged"):
        load_separator(path, config_path)
    path.write_bytes(whole)
    load_separator(path, config_path)


def test_a_checkpoint_without_checksums_is_loaded_with_a_warning(
    tmp_path: Path, model: SCNet, config_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.th"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    with caplog.at_level("WARNING", "mixprint.checkpoints.torchfile"):
        assert _same(load_separator(path, config_path).network.model, model.state_dict())
    assert "has no checksums" in caplog.text


def test_a_checkpoint_that_is_packed_is_refused_before_it_is_unpacked(
    tmp_path: Path, config_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(1 << 20))
    with pytest.raises(CheckpointError, match=r"found compressed 'model/data\.pkl'"):
        load_separator(path, config_path)

"""safetensors: there and back gives the same bytes; calm-mamba's tensors become a model."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import calmgrad
from calmgrad.errors import FileError
from calmgrad.formats import cwgt, tensors


def model(ewc: bool = False) -> calmgrad.Model:
    m = calmgrad.new_model(d_model=16, n_layers=2, d_state=4, l_max=99, domain="shell", seed=1)
    if ewc:
        m.fisher, m.anchor = np.abs(m.weights), m.weights * np.float32(2)
    return m


@pytest.mark.parametrize("ewc", [False, True])
def test_there_and_back_is_the_same(tmp_path: Path, ewc: bool) -> None:
    model(ewc).save(tmp_path / "a.cwgt")
    assert tensors.convert(tmp_path / "a.cwgt", tmp_path / "a.safetensors")[0] == "safetensors"
    assert tensors.convert(tmp_path / "a.safetensors", tmp_path / "b.cwgt")[0] == "CWGT"
    assert (tmp_path / "a.cwgt").read_bytes() == (tmp_path / "b.cwgt").read_bytes()
    named = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert np.array_equal(named["blocks.1.mixer.A_log"], model().parameters["blocks.1.mixer.A_log"])


def peers(m: calmgrad.Model) -> dict[str, np.ndarray]:
    """The tensors as PyTorch has them: matrices [out, in], the head a second time."""
    found = {}
    for name, array in m.parameters.items():
        matrix = name.endswith(".weight") and array.ndim == 2 and name != "token_emb.weight"
        found[f"model/{name}"] = np.ascontiguousarray(array.T if matrix else array)
    found["model/lm_head.weight"] = found["model/token_emb.weight"].copy()
    return found


def checkpoint(folder: Path, named: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    safetensors.numpy.save_file(named, folder / "weights.safetensors")
    config = {"config": {"model": {"l_max": 99}}}
    (folder / "metadata.json").write_text(json.dumps(config))
    return folder


def test_a_checkpoint_of_calm_mamba(tmp_path: Path) -> None:
    m = model()
    folder = checkpoint(tmp_path / "checkpoint", peers(m))
    for source in (folder, folder / "weights.safetensors"):
        back = tensors.read(source)
        assert back.config == m.config
        assert np.array_equal(back.weights, m.weights)
    (folder / "metadata.json").unlink()
    assert tensors.read(folder / "weights.safetensors").config.l_max == 768
    assert tensors.read(folder / "weights.safetensors", 7).config.l_max == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model/ln_f.bias": None}, "lacks ln_f.bias"),
        ({"model/token_emb.weight": None}, "has no matrix token_emb.weight"),
        ({"model/lm_head.weight": np.ones((320, 16), np.float32)}, "tied"),
        ({"model/other": np.ones(3, np.float32)}, "other: no parameter"),
        ({"model/blocks.1.mixer.D": np.ones(3, np.float32)}, r"D: float32 \(3,\), expected"),
        ({"model/blocks.1.mixer.D": np.ones(32, np.int32)}, r"D: int32 \(32,\), expected"),
        ({"model/blocks.17.mixer.D": np.ones(32, np.float32)}, "lacks blocks.2"),
    ],
)
def test_what_is_no_model_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    named = {**peers(model()), **change}
    kept = {name: array for name, array in named.items() if array is not None}
    folder = checkpoint(tmp_path / "checkpoint", kept)
    with pytest.raises(FileError, match=message):
        tensors.read(folder)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for content in (b"", b"hello", b"\xff" * 100, b"\x02" + bytes(7) + b"{}"):
        path.write_bytes(content)
        with pytest.raises(FileError) as caught:
            tensors.read(path)
        assert "\n" not in str(caught.value)
    model().save(path)
    with pytest.raises(FileError):
        tensors.read(path)
    (tmp_path / "metadata.json").write_text("[")
    path.rename(tmp_path / "weights.safetensors")
    with pytest.raises(FileError, match="expected JSON"):
        tensors.read(tmp_path)


def test_own_files_with_other_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors.write(path, model(ewc=True).data())
    named = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    for wrong, message in (
        ({k: v for k, v in named.items() if k != "ewc.anchor.ln_f.bias"}, "lacks ewc.anchor"),
        ({**named, "more": named["ln_f.bias"]}, "more: no parameter"),
    ):
        safetensors.numpy.save_file(wrong, path, metadata)
        with pytest.raises(FileError, match=message):
            tensors.read(path)
    safetensors.numpy.save_file(named, path, {**metadata, "sizes": '{"d_model": -1}'})
    with pytest.raises(FileError, match="metadata: d_model"):
        tensors.read(path)


def test_a_rank_of_zero_is_written_as_the_rank(tmp_path: Path) -> None:
    """As CWGT does: the one thing in which there and back may differ."""
    model().save(tmp_path / "a.cwgt")
    content = bytearray((tmp_path / "a.cwgt").read_bytes())
    content[38] = 0
    (tmp_path / "a.cwgt").write_bytes(content)
    tensors.convert(tmp_path / "a.cwgt", tmp_path / "a.safetensors")
    assert tensors.read(tmp_path / "a.safetensors").config == cwgt.read(tmp_path / "a.cwgt").config

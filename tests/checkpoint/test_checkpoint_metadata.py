"""The index and the tensors are what torch wrote, of whatever type and layout."""

import pickle

import pytest
import torch
from forging import examine, named, whole
from saving import Plain, alone, save

from mbrec.checkpoint import folder, metadata, tensors

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool]
TYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


@pytest.fixture(scope="module", autouse=True)
def group():
    with alone():
        yield


def models() -> tuple[Plain, Plain]:
    """Return a model with tensors of all kinds, and an empty one of the same sizes."""
    base = torch.arange(24).view(4, 6) % 2
    found = {str(dtype): base.to(dtype) for dtype in TYPES} | {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "one": torch.ones(1, 1, 1),
        "transposed": torch.arange(12.0).view(3, 4).t(),
        "permuted": torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
        "rows of another": torch.arange(24.0).view(6, 4)[2:4],
        "columns of another": torch.arange(24.0).view(6, 4)[:, 1:3],
        "expanded": torch.ones(1).expand(3, 2),
        "parameter": torch.nn.Parameter(torch.arange(3.0)),
    }
    empty = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in found.items()}
    return Plain(**found), Plain(**empty)


def test_tensors_of_every_type_and_layout_come_back(tmp_path):
    model, empty = models()
    (source,) = save(tmp_path, 1, model=model)
    saved = tensors.inspect(source)
    assert saved.sizes == {f"model.{k}": tuple(v.shape) for k, v in model.tensors.items()}
    assert saved.dtypes == {f"model.{k}": v.dtype for k, v in model.tensors.items()}
    tensors.read(source, tensors.collect(empty, None))
    for name, value in model.tensors.items():
        assert torch.equal(empty.tensors[name], value), name


def test_the_index_says_what_torch_would_read_from_it(tmp_path):
    (source,) = save(tmp_path, 1, model=models()[0])
    expected = pickle.loads((source / folder.METADATA).read_bytes())
    found = metadata.read_index(source, folder.read_manifest(source))
    assert found.storage_data == expected.storage_data
    assert found.state_dict_metadata.keys() == expected.state_dict_metadata.keys()
    for name, tensor in found.state_dict_metadata.items():
        there = expected.state_dict_metadata[name]
        assert (tensor.size, tensor.chunks) == (there.size, there.chunks)
        assert tensor.properties.dtype is there.properties.dtype


@pytest.mark.parametrize(
    ("pieces", "tiled"),
    [
        ([((0, 0), (4, 6))], True),
        ([((0, 0), (2, 6)), ((2, 0), (2, 6))], True),
        ([((0, 3), (4, 3)), ((0, 0), (4, 3))], True),
        ([((r, c), (2, 3)) for r in (0, 2) for c in (0, 3)], True),
        ([((0, 0), (1, 6)), ((1, 0), (3, 2)), ((1, 2), (3, 4))], True),
        ([((0, 0), (2, 6)), ((0, 0), (2, 6))], False),
        ([((0, 0), (3, 6)), ((2, 0), (1, 6))], False),
        ([((0, 0), (2, 6)), ((1, 0), (2, 6))], False),
        ([((0, 0), (4, 5))], False),
        ([], False),
    ],
)
def test_pieces_are_a_tensor_if_each_element_is_in_one(pieces, tiled):
    chunks = [
        metadata.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        for offsets, sizes in pieces
    ]
    assert metadata._tiles(chunks, (4, 6)) is tiled


def test_a_name_in_torch_imports_nothing(tmp_path, monkeypatch):
    (source,) = save(tmp_path, 1)
    asked = []
    monkeypatch.setattr(torch, "__getattr__", asked.append)
    with pytest.raises(pickle.UnpicklingError, match=r"torch\.onnx_of_nobody"):
        metadata.unpickle(whole(named("torch", "onnx_of_nobody")), {})
    assert asked == []
    assert examine(source) == ("nobody", "")


@pytest.mark.parametrize("missing", ["model.bottom.weight", "model.heads.mlps.ctr.bias"])
def test_a_tensor_that_was_not_saved_is_named(tmp_path, missing):
    model = Plain()
    del model.tensors[missing.removeprefix("model.")]
    (source,) = save(tmp_path, 1, model=model)
    with pytest.raises(ValueError, match=missing):
        tensors.read(source, tensors.collect(Plain(), None))

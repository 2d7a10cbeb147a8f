"""Cosines of directions, on SAEs of many formats and the neurons: against float64 over the files themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saeserve_server.catalog import Kind
from saeserve_server.config import load_config
from saeserve_server.engine import similar
from saeserve_server.engine.build import build_runner
from saeserve_server.engine.runner import BatchRunner
from saeserve_server.engine.vectors import vectors_of
from saeserve_server.engine.work import Abandoned
from saeserve_server.kernels.cosines import product_for
from saeserve_server.models.load import load_model
from saeserve_server.ranking.similar import (
    Direction,
    Preparing,
    Side,
    SimilarDone,
    SimilarWork,
    VectorsDone,
    VectorsWork,
)
from saeserve_server.ranking.work import SourceFilter
from saeserve_server.sources.directions import NO_INPUT
from saeserve_server.sources.neurons import neuron_source
from saeserve_server.sources.source import SaeSource
from tests.reference import MODEL

STREAM = {"hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out"}


@pytest.fixture(scope="module")
def runner(zoo_config: tuple[Path, Any]) -> BatchRunner:
    built, _ = build_runner(load_config(zoo_config[0], {"device": "cpu"}, {}), with_index=False)
    return built


@pytest.fixture(scope="module")
def directions(runner: BatchRunner, zoo_config: tuple[Path, Any]) -> dict[Side, dict[int, np.ndarray]]:
    """By rank, float64 of length 1, of every source that has directions."""
    config = load_config(zoo_config[0], {}, {})
    paths = {str(table.set).lower(): Path(str(table.path)) for table in config.sources}
    model = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(MODEL / "model.safetensors").items()
    }
    found: dict[Side, dict[int, np.ndarray]] = {side: {} for side in Side}
    for rank, info in enumerate(runner.catalog.sources):
        W_in, W_out = (model[f"h.{info.layer}.mlp.{name}.weight"].double() for name in ("c_fc", "c_proj"))
        if info.kind is Kind.NEURON:
            found[Side.DECODER][rank], found[Side.ENCODER][rank] = W_out.numpy(), W_in.t().numpy()
            continue
        W_enc, W_dec = weights(paths[info.set])
        hook = info.hook_name.partition(".")[2].partition(".")[2]
        if hook in STREAM:
            found[Side.DECODER][rank], found[Side.ENCODER][rank] = W_dec.numpy(), W_enc.numpy()
        elif hook == "mlp.hook_post":
            found[Side.DECODER][rank] = (W_dec @ W_out).numpy()
    return {
        side: {rank: rows / np.linalg.norm(rows, axis=1, keepdims=True) for rank, rows in by_rank.items()}
        for side, by_rank in found.items()
    }


def weights(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 encoder and decoder of a file, a latent a row."""
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)  # noqa: TID251 - weights only
        return state["encoder.weight"].double(), state["decoder.weight"].double().t()
    tensors = load_file(path / "sae_weights.safetensors")
    return tensors["W_enc"].double().t(), tensors["W_dec"].double()


def work(runner: BatchRunner, side: Side, rank: int, index: int, limit: int = 25, **chosen: Any) -> SimilarWork:
    filters = tuple(SourceFilter(one, **chosen) for one in range(len(runner.catalog.sources)))
    return SimilarWork(side, rank, index, filters, limit)


def answered(runner: BatchRunner, *works: SimilarWork) -> list[SimilarDone]:
    done = runner.run(works).done
    while any(isinstance(one, Preparing) for one in done):
        done = runner.run(works).done
    assert all(isinstance(one, SimilarDone) for one in done)
    return list(done)  # type: ignore[arg-type]


def check(answer: SimilarDone, one: SimilarWork, directions: dict[int, np.ndarray]) -> None:
    """Values, and up to equal ones the order."""
    ranked = [
        (rank, index, value)
        for rank, rows in directions.items()
        for index, value in enumerate((rows @ directions[one.source][one.index]).astype(np.float32).tolist())
        if (rank, index) != (one.source, one.index)
    ]
    ranked.sort(key=lambda entry: (-entry[2], entry[:2]))
    assert answer.compared == len(ranked)
    assert answer.value.tolist() == pytest.approx([value for *_, value in ranked[: one.limit]], abs=2e-7)
    assert list(zip(answer.source.tolist(), answer.index.tolist(), strict=True)) == [
        entry[:2] for entry in ranked[: one.limit]
    ]


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("limit", [1, 25, 1000])
def test_answers_equal_a_plain_computation_ids_and_order(
    runner: BatchRunner, directions: dict[Side, dict[int, np.ndarray]], side: Side, limit: int
) -> None:
    for rank in directions[side]:
        one = work(runner, side, rank, rank % 7, limit)
        [answer] = answered(runner, one)
        assert answer.missing == ""
        check(answer, one, directions[side])


def test_a_vector_is_compared_with_every_feature(
    runner: BatchRunner, directions: dict[Side, dict[int, np.ndarray]]
) -> None:
    """Of whatever length it is; a feature that points just there is not left out."""
    made = np.random.default_rng(3).standard_normal(128)
    for side, by_rank in directions.items():
        some = next(iter(by_rank))
        for vector in (made, 1e18 * made, by_rank[some][5]):
            given = vector.astype(np.float32).astype(np.float64)
            one = replace(work(runner, side, -1, -1), vector=given.astype(np.float32).tobytes())
            [answer] = answered(runner, one)
            point = given / np.linalg.norm(given)
            ranked = [
                (-np.float32(value), rank, index)
                for rank, rows in by_rank.items()
                for index, value in enumerate(rows @ point)
            ]
            best = sorted(ranked)[: one.limit]
            assert answer.compared == len(ranked)
            assert answer.value.tolist() == pytest.approx([-value for value, *_ in best], abs=2e-7)
            assert list(zip(answer.source.tolist(), answer.index.tolist(), strict=True)) == [
                entry[1:] for entry in best
            ]


def test_vectors_are_those_of_the_files_at_their_own_hook_points(
    runner: BatchRunner, zoo_config: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder as it is applied, folded too; a decoder row as it is stored."""
    paths = {str(table.set).lower(): Path(str(table.path)) for table in load_config(zoo_config[0], {}, {}).sources}
    asked = {
        rank: VectorsWork(rank, 5, (Side.ENCODER, Side.DECODER))
        for rank, info in enumerate(runner.catalog.sources)
        if info.kind is Kind.LATENT
    }
    for (rank, _), done in zip(asked.items(), runner.run(list(asked.values())).done, strict=True):
        info = runner.catalog.sources[rank]
        W_enc, W_dec = weights(paths[info.set])
        source = runner.sources[rank]
        assert isinstance(source, SaeSource)
        scale = W_dec[5].norm() if info.fold_decoder_norm or source.sae.rescale else 1.0
        assert isinstance(done, VectorsDone)
        read, written = done.found
        assert isinstance(read, Direction)
        assert isinstance(written, Direction)
        assert read.hook_name == written.hook_name == info.hook_name
        np.testing.assert_allclose(read.values, W_enc[5] * scale, rtol=1e-6)
        np.testing.assert_allclose(written.values, W_dec[5], rtol=1e-6)
    assert {runner.catalog.sources[rank].fold_decoder_norm for rank in asked} == {True, False}
    source = runner.sources[next(iter(asked))]
    monkeypatch.setattr(source, "decoder", None)
    [done] = runner.run([next(iter(asked.values()))]).done
    assert isinstance(done, VectorsDone)
    assert isinstance(done.found[0], Direction)
    assert done.found[1] == "their files hold no decoder of their own"


def test_so_do_those_without_integers(
    runner: BatchRunner, directions: dict[Side, dict[int, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no room for them, or no product that is exact."""
    neighbours = runner._neighbours
    monkeypatch.setattr(neighbours, "_by_side", {})
    monkeypatch.setattr(neighbours, "_product", None)
    for rank in directions[Side.DECODER]:
        one = work(runner, Side.DECODER, rank, 3)
        check(answered(runner, one)[0], one, directions[Side.DECODER])


def test_what_has_no_direction_in_the_stream_is_left_out_with_the_reason(
    runner: BatchRunner, directions: dict[Side, dict[int, np.ndarray]]
) -> None:
    for side in Side:
        [answer] = answered(runner, work(runner, side, next(iter(directions[side])), 0))
        left_out = {rank: one.reason for one in answer.left_out for rank in one.sources}
        assert left_out.keys() == set(range(len(runner.catalog.sources))) - directions[side].keys()
        for rank, reason in left_out.items():
            hook = runner.catalog.sources[rank].hook_name.partition(".")[2].partition(".")[2]
            assert hook in reason
            [missing] = answered(runner, work(runner, side, rank, 0))
            assert missing.missing == reason
            assert len(missing.value) == 0


def test_integers_are_made_a_part_at_a_time(
    runner: BatchRunner, directions: dict[Side, dict[int, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar, "AT_ONCE", 500)
    monkeypatch.setattr(runner._neighbours, "_by_side", {})
    one = work(runner, Side.DECODER, 0, 1)
    made = []
    while isinstance(done := runner.run([one]).done[0], Preparing):
        made.append(done.made)
    total = sum(map(len, directions[Side.DECODER].values()))
    assert made == list(range(500, total, 500))
    assert isinstance(done, SimilarDone)
    check(done, one, directions[Side.DECODER])


def test_questions_of_a_batch_are_answered_as_each_alone_and_by_their_filters(runner: BatchRunner) -> None:
    ranks = [rank for rank, info in enumerate(runner.catalog.sources) if info.kind is Kind.NEURON]
    works = [
        work(runner, Side.DECODER, ranks[0], 5),
        work(runner, Side.ENCODER, ranks[1], 6, 3),
        SimilarWork(Side.DECODER, ranks[0], 5, (SourceFilter(ranks[0], without=(7, 8)), SourceFilter(ranks[2])), 600),
        SimilarWork(Side.DECODER, ranks[0], 5, (SourceFilter(ranks[0], only=(5, 9, 11)),), 600),
        SimilarWork(Side.DECODER, ranks[0], 5, (), 10),
    ]
    together = answered(runner, *works)
    for answer, one in zip(together, works, strict=True):
        [alone] = answered(runner, one)
        for name in ("source", "index", "value"):
            assert (getattr(answer, name) == getattr(alone, name)).all()
        assert (ranks[0], 5) != (one.source, one.index) or (answer.index[answer.source == ranks[0]] != 5).all()
    assert set(together[2].source.tolist()) == {ranks[0], ranks[2]}
    assert together[2].compared == 2 * 512 - 3
    assert not {7, 8} & set(together[2].index[together[2].source == ranks[0]].tolist())
    assert sorted(together[3].index.tolist()) == [9, 11]
    assert together[4].compared == len(together[4].value) == 0


def test_what_nobody_waits_for_is_not_compared(runner: BatchRunner) -> None:
    one = work(runner, Side.DECODER, 0, 1)
    answered(runner, one)
    asked = iter([set(), *[{1}] * 1000])
    done = runner.run([one, one], gone=lambda: next(asked)).done
    assert isinstance(done[0], SimilarDone)
    assert isinstance(done[1], Abandoned)


def test_there_is_a_product_that_is_exact_on_this_machine() -> None:
    assert product_for(128) is not None
    assert product_for(2**20) is None


@pytest.mark.parametrize(("shape", "reads"), [("gpt2", True), ("neox", True), ("llama3", False), ("gemma2", False)])
@pytest.mark.parametrize("sealed", [False, True])
def test_weights_of_neurons_are_found_in_other_architectures(
    shape: str, reads: bool, sealed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once linear layers are packed, bit for bit. A gated MLP has no one direction that a neuron reads."""
    from saeserve_server.models import packed
    from tests.models.shapes import build, save

    plain = build(shape)
    model = load_model(
        load_config(None, {"model": str(save(tmp_path / shape, plain)), "device": "cpu"}, {}), torch.device("cpu")
    )
    hook = "blocks.1.mlp.hook_post"
    d_mlp = model.width(hook)
    assert d_mlp is not None
    if sealed:
        monkeypatch.setattr(packed, "SMALLEST", 1)
        packed.pack_linears(model._plain.base_model, 1)
    names = {
        "gpt2": ("h.1.mlp.c_fc", "h.1.mlp.c_proj"),
        "neox": ("layers.1.mlp.dense_h_to_4h", "layers.1.mlp.dense_4h_to_h"),
    }
    W_in, W_out = (
        plain.base_model.get_submodule(name).weight.detach()
        for name in names.get(shape, ("layers.1.mlp.gate_proj", "layers.1.mlp.down_proj"))
    )
    if shape == "gpt2":  # Conv1D
        W_in, W_out = W_in.t(), W_out.t()
    written = model.neurons_write(hook, d_mlp)
    assert written is not None
    for index in (torch.tensor([3, 0, d_mlp - 1]), torch.arange(d_mlp)):
        assert torch.equal(written.take(index), W_out[:, index].t())
    read = model.neurons_read(hook, d_mlp)
    assert (read is not None) is reads
    if read is not None:
        assert torch.equal(read.take(torch.tensor([2, 1])), W_in[[2, 1]])
    asked = VectorsWork(0, 3, (Side.ENCODER, Side.DECODER))
    found_in, found_out = vectors_of(model, neuron_source(1, hook, d_mlp, None), asked).found
    assert isinstance(found_out, Direction)
    assert (found_out.values == W_out[:, 3].numpy()).all()
    if isinstance(found_in, Direction):
        assert (found_in.values == W_in[3].numpy()).all()
        assert (found_in.hook_name, found_out.hook_name) == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    assert reads or found_in == NO_INPUT

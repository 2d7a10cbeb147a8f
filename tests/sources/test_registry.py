from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saeserve_server.catalog import Catalog, Kind, ModelInfo
from saeserve_server.config import Config, load_config
from saeserve_server.errors import ConfigError
from saeserve_server.rows import columns
from saeserve_server.sources.description import screening_bytes
from saeserve_server.sources.listing import listing
from saeserve_server.sources.plan import plan_saes
from saeserve_server.sources.registry import load_sources, sae_bytes
from saeserve_server.sources.source import SaeSource, Source
from tests.sources import plain
from tests.sources.formats import write_openai, write_saelens


@dataclass
class Hooks:
    """Hook points of a GPT-2-shaped model that is not there: width 12, four neurons for each."""

    n_layers: int = 3
    d_model: int = 12
    neurons: bool = True
    layer_normed: bool = True
    sampled: list[str] = field(default_factory=list)
    prepared: list[list[str]] = field(default_factory=list)

    def resolve(self, name: str) -> str | None:
        return name if name in self.known() else None

    def is_layer_normed(self) -> bool:
        return self.layer_normed

    def prepare(self, names: Sequence[str]) -> None:
        self.prepared.append(list(names))

    def width(self, hook_name: str) -> int | None:
        if hook_name not in self.known():
            return None
        return 4 * self.d_model if hook_name.endswith("hook_post") else self.d_model

    def known(self) -> list[str]:
        kinds = ["hook_mlp_out", "attn.hook_z", *(["mlp.hook_post"] if self.neurons else [])]
        return [f"blocks.{layer}.{kind}" for layer in range(self.n_layers) for kind in kinds]

    def sample(self, hook_name: str) -> Tensor:
        self.sampled.append(hook_name)
        width = self.width(hook_name)
        assert width is not None
        return 3 + torch.randn(300, width, generator=torch.Generator().manual_seed(len(hook_name)))

    def neuron_hook(self, layer: int) -> str:
        return f"blocks.{layer}.mlp.hook_post"


def model(hooks: Hooks, name: str = "gpt2-small") -> ModelInfo:
    return ModelInfo(name, hooks.n_layers, hooks.d_model, 128, 100, 0, "", "r", "cpu", "float32")


def configure(folder: Path, text: str, **flags: str) -> Config:
    path = folder / "server.toml"
    path.write_text(text)
    return load_config(path, flags, {})


def load(folder: Path, text: str, hooks: Hooks | None = None) -> tuple[Source, ...]:
    hooks = hooks or Hooks()
    return load_config_sources(configure(folder, 'model = "somewhere"\n' + text), hooks)


def load_config_sources(config: Config, hooks: Hooks, name: str = "gpt2-small") -> tuple[Source, ...]:
    return load_sources(config, plan_saes(config, hooks.n_layers), model(hooks, name), hooks, "cpu")


def sae_table(**keys: object) -> str:
    lines = {"set": "one", "path": "sae"} | keys
    return "[[sources]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in lines.items())


def values(source: Source, x: Tensor) -> Tensor:
    """What a source gives on x, [rows, n_features]."""
    return torch.from_numpy(columns(source.rows(x), np.arange(source.info.n_features)))


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(one)}' for key, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def test_sources_come_in_the_order_of_ties(tmp_path: Path) -> None:
    for layer in range(3):
        write_saelens(tmp_path / f"b{layer}", hook_name=f"blocks.{layer}.hook_mlp_out", sparsity=True)
        write_openai(tmp_path / f"{layer}.pt", d_in=48)
    sources = load(
        tmp_path,
        sae_table(set="Mlp-Oai", path="{layer}.pt", format="openai", hook="blocks.{layer}.mlp.hook_post")
        + sae_table(set="b", path="b{layer}", aliases=["{layer}-B-alias"]),
    )
    infos = [source.info for source in sources]
    assert [info.id for info in infos] == [
        *("0-b", "0-mlp-oai", "0", "1-b", "1-mlp-oai", "1", "2-b", "2-mlp-oai", "2"),
    ]
    b, oai, neurons = infos[3:6]
    assert (b.set, b.layer, b.kind, b.d_in, b.n_features, b.hook_name, b.architecture, b.aliases) == (
        *("b", 1, Kind.LATENT, 12, 40, "blocks.1.hook_mlp_out", "standard", ("1-b-alias",)),
    )
    assert b.file_density is not None
    assert b.decoder_norm is not None
    assert b.decoder_norm.shape == b.file_density.shape == (40,)
    assert b.memory_bytes == 4 * (40 * 12 + 40 + 40 + 12)
    assert (oai.name, oai.set, oai.hook_name, oai.d_in) == ("1-MLP-OAI", "mlp-oai", "blocks.1.mlp.hook_post", 48)
    assert (neurons.set, neurons.layer, neurons.kind, neurons.n_features, neurons.aliases, neurons.decoder_norm) == (
        *("neurons", 1, Kind.NEURON, 48, ("1-neurons",), None),
    )
    assert all(len(info.revision) == 64 for info in infos)
    assert len({info.revision for info in infos}) > 5


def test_sources_encode_what_their_files_say(tmp_path: Path) -> None:
    cfg, tensors = write_saelens(tmp_path / "sae", architecture="jumprelu")
    source, neurons = load(tmp_path, sae_table(), Hooks(n_layers=1))
    x = torch.randn(9, 12)
    a = plain.saelens(cfg, tensors, x)[1]
    assert np.allclose(values(source, x), a, atol=1e-5)
    x = torch.randn(9, 48)
    assert torch.equal(values(neurons, x), x)


def test_options_reach_the_encoding_and_the_revision(tmp_path: Path) -> None:
    cfg, tensors = write_saelens(tmp_path / "sae", normalize_activations="expected_average_only_in")
    state = write_openai(tmp_path / "0.pt", d_in=12)
    x = torch.randn(9, 12)
    revisions = set()
    for factor, fold, dtype in [(None, False, None), (0.5, False, None), (0.5, True, None), (0.5, True, "bfloat16")]:
        options = {"scaling_factor": factor, "fold_decoder_norm": fold, "dtype": dtype}
        table = sae_table(**{key: value for key, value in options.items() if value is not None})
        source = load(tmp_path, "neurons = false\n" + table)[0]
        assert isinstance(source, SaeSource)
        expected = plain.saelens(cfg, tensors, x, scaling_factor=factor or 1.0, fold=fold)[1]
        tolerance = 0.1 if dtype else 1e-5
        assert np.allclose(values(source, x), expected, atol=tolerance)
        assert source.info.fold_decoder_norm is fold
        assert ("scaling_factor" in " ".join(source.info.warnings)) is (factor is None)
        assert source.sae.W_enc.dtype == (torch.bfloat16 if dtype else torch.float32)
        revisions.add(source.info.revision)
    assert len(revisions) == 4
    text = 'dtype = "float16"\nneurons = false\n' + sae_table(
        path="0.pt", format="openai", hook="blocks.0.hook_mlp_out"
    )
    (half,) = load(tmp_path, text)
    assert isinstance(half, SaeSource)
    assert half.sae.W_enc.dtype == torch.float16
    assert np.allclose(values(half, x), plain.openai(state, x)[1], atol=0.01)


def test_a_source_reads_the_models_bos_or_one_of_its_own(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae")
    sources = [load(tmp_path, sae_table(**own)) for own in ({}, {"bos": "none"}, {"bos": 17})]
    assert [latents.info.bos_id for latents, *_ in sources] == [0, None, 17]
    assert len({latents.info.revision for latents, *_ in sources}) == 3  # an index of one rule does not serve another
    assert {neurons.info.bos_id for _, *all_neurons in sources for neurons in all_neurons} == {0}


def test_the_revision_follows_the_content(tmp_path: Path) -> None:
    def revision() -> str:
        return load(tmp_path, sae_table())[0].info.revision

    write_saelens(tmp_path / "sae", seed=1)
    first = revision()
    assert revision() == first
    write_saelens(tmp_path / "sae", seed=2)
    second = revision()
    assert second != first
    write_saelens(tmp_path / "sae", seed=2, sparsity=True)
    assert revision() not in (first, second)
    write_saelens(tmp_path / "sae", seed=1)
    (tmp_path / "sae" / "sparsity.safetensors").unlink()
    assert revision() == first


def test_a_pattern_takes_the_layers_that_exist_or_those_that_are_named(tmp_path: Path) -> None:
    for layer in (0, 2):
        write_saelens(tmp_path / f"{layer}/sae", hook_name=f"blocks.{layer}.hook_mlp_out")

    def ids(**keys: object) -> list[str]:
        sources = load(tmp_path, "neurons = false\n" + sae_table(path="{layer}/sae", **keys))
        return [source.info.id for source in sources]

    assert ids() == ["0-one", "2-one"]
    assert ids(layers="2") == ["2-one"]
    assert ids(layers=" 0, 2-2 ") == ["0-one", "2-one"]
    with pytest.raises(ConfigError, match=rf"sources\[0\]\.path: {tmp_path}/1/sae: does not exist"):
        ids(layers="0-2")


def test_a_path_without_pattern_takes_its_layer_from_the_hook_point(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae", hook_name="blocks.2.hook_mlp_out")
    write_openai(tmp_path / "oai.pt")
    oai = {"set": "oai", "path": "oai.pt", "format": "openai"}
    for table, expected in [
        (sae_table(), "2-one"),
        (sae_table(hook="blocks.1.hook_mlp_out"), "1-one"),
        (sae_table(**oai, hook="blocks.1.hook_mlp_out"), "1-oai"),
        (sae_table(**oai, hook="blocks.{layer}.hook_mlp_out", layers="1"), "1-oai"),
    ]:
        assert load(tmp_path, "neurons = false\n" + table)[0].info.id == expected


def test_hook_z_is_served_from_the_heads_side_by_side(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae", hook_name="blocks.1.attn.hook_z")
    source = load(tmp_path, "neurons = false\n" + sae_table())[0]
    assert (source.info.hook_name, source.info.d_in) == ("blocks.1.attn.hook_z", 12)


def test_layers_without_neurons_are_served_without(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae")
    sources = load(tmp_path, sae_table(), Hooks(neurons=False))
    assert [source.info.id for source in sources] == ["0-one"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"path": "no"}, r"sources\[0\]\.path: .*/no: does not exist"),
        (
            {"path": "deep/{layer}/x"},
            r"\.path: nothing matches deep/{layer}/x for layers 0 to 2, searched in .*/deep; `saeserve-server fetch",
        ),
        ({"layers": "1-2"}, r"\.layers: none of the SAEs at sae is of layers 1-2"),
        ({"layers": "1"}, r"\.hook: expected a hook point of layer 1 for .*/sae, got blocks\.0\.hook_mlp_out"),
        ({"path": "l{layer}", "layers": "0-3"}, r"\.layers: expected layers from 0 to 2, got '0-3'"),
        ({"path": "l{layer}", "layers": "2-1"}, r"\.layers: expected layers such as 0-11 or 0,3,5, got '2-1'"),
        ({"path": "l{layer}", "layers": "all"}, r"\.layers: expected layers such as 0-11 or 0,3,5, got 'all'"),
        ({"path": "l{layer}", "layers": "0-999999"}, r"\.layers: expected layers such as 0-11 or 0,3,5, got"),
        ({"path": "l{layer}"}, r"\.hook: expected a hook point of layer 1 for .*/l1, got blocks\.0\.hook_mlp_out"),
        ({"path": "oai.pt", "hook": "blocks.{layer}.hook_mlp_out"}, r"\.hook: {layer} needs {layer} in path"),
        (
            {"hook": "blocks.7.hook_mlp_out"},
            r"\.hook: expected a hook point of layers 0 to 2, that the model has, got blocks\.7",
        ),
        ({"hook": "embed.hook_in"}, r"\.hook: the model has no hook point embed\.hook_in"),
        (
            {"hook": "blocks.1.hook_resid_mid"},
            r"\.hook: the model has no hook point blocks\.1\.hook_resid_mid; layer 1 has "
            r"blocks\.1\.hook_mlp_out, blocks\.1\.attn\.hook_z, blocks\.1\.mlp\.hook_post",
        ),
        (
            {"hook": "blocks.1.mlp.hook_post"},
            r"\.path: .*/sae: expected d_in = 48, that of blocks\.1\.mlp\.hook_post, got 12",
        ),
        ({"path": "oai.pt", "format": "openai"}, r"\.hook: missing, and .*/oai\.pt does not name its hook point"),
        ({"k": 3}, r"sources\[0\]: .*/sae_weights\.safetensors: k: expected none, relu keeps no fixed number"),
        ({"activation": "topk"}, r"sae_weights\.safetensors: k: missing, .*; set k"),
        ({"activation": "topk", "k": 41}, r"sae_weights\.safetensors: k: expected 1 to 40"),
        ({"activation": "jumprelu"}, r"sae_weights\.safetensors: threshold: missing, .*; set threshold"),
        ({"activation": "gated"}, r"sae_weights\.safetensors: activation: expected another than gated"),
        ({"threshold": 0.5}, r"sae_weights\.safetensors: threshold: expected none, relu has none"),
        ({"scaling_factor": {"1": 2.0}}, r"sources\[0\]: scaling_factor: expected one for layer 0, got those of 1"),
        ({"release": "gpt2-small-res"}, r"\.release: no release 'gpt2-small-res' .*; did you mean gpt2-small-res-jb"),
        (
            {"path": "topk.pt", "format": "openai", "hook": "blocks.1.hook_mlp_out", "fold_decoder_norm": True},
            r"fold_decoder_norm: expected false",
        ),
        ({"set": "Neurons"}, r"\.set: expected another name, neurons are the model's MLP neurons"),
        ({"aliases": ["a b"]}, r"\.aliases: expected names without spaces and colons, got 'a b'"),
        ({"path": "oai.pt", "format": "saelens"}, r"\.path: .*/oai\.pt/cfg\.json: cannot be read: Not a directory"),
        (
            {"path": "nan"},
            r"sources\[0\]\.path: .*/nan/sae_weights\.safetensors: W_enc: holds values that are not finite",
        ),
        ({"path": "large", "dtype": "float16"}, r"\.dtype: .*/large: encoder weights up to 1e\+06 do not fit"),
        ({"fold_decoder_norms": True}, r"fold_decoder_norms: unknown key; did you mean fold_decoder_norm\?"),
        ({"format": "gemma"}, r"sources\[0\]\.format: "),
    ],
)
def test_errors_name_the_file_the_key_and_what_was_expected(
    tmp_path: Path, table: dict[str, object], message: str
) -> None:
    for name in ("sae", "l0", "l1", "nan", "large"):
        _, tensors = write_saelens(tmp_path / name)
        tensors["W_enc"][3, 4] = {"nan": torch.nan, "large": 1e6}.get(name, 0.0)
        if name in ("nan", "large"):
            save_file(tensors, tmp_path / name / "sae_weights.safetensors")
    write_openai(tmp_path / "oai.pt")
    write_openai(tmp_path / "topk.pt", version="v5")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/server\.toml: (?s:.*){message}"):
        load(tmp_path, sae_table(**table))


@pytest.mark.parametrize(
    ("second", "name"),
    [
        ({"set": "ONE"}, "0-one"),
        ({"set": "two", "aliases": ["0-One"]}, "0-one"),
        ({"set": "two", "aliases": ["FIRST"]}, "first"),
    ],
)
def test_names_equal_after_folding_are_refused(tmp_path: Path, second: dict[str, object], name: str) -> None:
    write_saelens(tmp_path / "sae")
    tables = sae_table(aliases=["first", "0-ONE"]) + sae_table(**second)
    with pytest.raises(ConfigError, match=rf"sources\[1\]: {name} is .* a source of {tmp_path}.*sources\[0\] too"):
        load(tmp_path, tables)


def test_an_alias_must_not_be_the_name_of_neurons(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae")
    for alias in ("1", "2-NEURONS"):
        with pytest.raises(ConfigError, match=r"the neurons: .* a source of .*sources\[0\] too"):
            load(tmp_path, sae_table(aliases=[alias]))
        load(tmp_path, "neurons = false\n" + sae_table(aliases=[alias]))


def test_nothing_to_serve_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.toml: sources: nothing to serve"):
        load(tmp_path, "neurons = false\n")


def test_the_demo_needs_no_configuration() -> None:
    hooks = Hooks(n_layers=4, d_model=128)
    sources = load_config_sources(load_config(None, {}, {}), hooks, "demo")
    assert [source.info.id for source in sources] == ["0-demo", "0", "1-demo", "1", "2-demo", "2", "3-demo", "3"]
    first = sources[0].info
    assert (first.architecture, first.hook_name, first.n_features) == ("jumprelu", "blocks.0.hook_mlp_out", 2048)
    assert first.warnings == ()


def synthetic(folder: Path, hooks: Hooks, **keys: object) -> tuple[Source, ...]:
    shape = {"layers": hooks.n_layers, "d_model": hooks.d_model, "heads": 2, "latents": 2000, "l0": 25.0} | keys
    text = 'model = "synthetic:mine"\n[synthetic.mine]\n' + "".join(f"{k} = {v!r}\n" for k, v in shape.items())
    return load_config_sources(configure(folder, text), hooks)


@pytest.mark.parametrize("l0", [4.0, 25.0, 400.0])
def test_synthetic_saes_have_the_l0_that_was_asked_for(tmp_path: Path, l0: float) -> None:
    hooks = Hooks()
    latents = [s for s in synthetic(tmp_path, hooks, l0=l0) if s.info.kind is Kind.LATENT]
    assert [s.info.id for s in latents] == ["0-synthetic", "1-synthetic", "2-synthetic"]
    assert hooks.sampled == [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    for source in latents:
        fired = values(source, hooks.sample(source.info.hook_name)) > 0  # [300, 2000]
        assert abs(fired.sum(dim=1).double().mean().item() - l0) <= 0.1 * l0
        assert (fired.double().mean(dim=0) > 0.5).double().mean() < 0.05  # not the same latents on every row


def test_synthetic_saes_are_the_same_for_the_same_seed_and_differ_between_layers(tmp_path: Path) -> None:
    a, b, other = (synthetic(tmp_path, Hooks(), seed=seed) for seed in (1, 1, 2))
    x = torch.randn(5, 12)
    assert torch.equal(values(a[0], x), values(b[0], x))
    assert a[0].info.revision == b[0].info.revision
    assert not torch.equal(values(a[0], x), values(other[0], x))
    assert not torch.equal(values(a[0], x), values(a[2], x))
    assert len({s.info.revision for s in (*a, *other) if s.info.kind is Kind.LATENT}) == 6


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"l0": 2000.0}, r"synthetic\.mine: l0: expected less than the number of latents \(2000\), got 2000"),
        ({"hook": "blocks.{layer}.hook_q"}, r"synthetic\.mine\.hook: the model has no hook point blocks\.0\.hook_q"),
    ],
)
def test_impossible_synthetic_shapes_are_refused(tmp_path: Path, keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthetic(tmp_path, Hooks(), **keys)


def test_an_unknown_synthetic_shape_is_refused(tmp_path: Path) -> None:
    config = configure(tmp_path, 'model = "synthetic:gpt3"')
    with pytest.raises(
        ConfigError, match=r"server\.toml: model: no table \[synthetic\.gpt3\]; did you mean gpt2-small"
    ):
        load_config_sources(config, Hooks())


def test_the_table_of_sources_says_what_is_served(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae", sparsity=True, architecture="topk", normalize_activations="layer_norm")
    write_saelens(tmp_path / "other", prepend_bos=False)
    density = np.full(40, 1e-3)
    density[:10] = 1e-10
    save_file({"sparsity": torch.from_numpy(np.log10(density))}, tmp_path / "sae" / "sparsity.safetensors")
    tables = sae_table(aliases=["mlp"]) + sae_table(set="two", path="other", fold_decoder_norm=True)
    infos = [source.info for source in load(tmp_path, tables, Hooks(n_layers=1))]
    catalog = Catalog(model(Hooks(n_layers=1)), tuple(infos))
    lines = listing(catalog, {info.id: info.file_density for info in infos}).splitlines()
    cells = [line.split() for line in lines]
    header, one, two, neurons = cells[:4]
    assert header[0] == "source"
    assert one[:7] == ["0-ONE", "blocks.0.hook_mlp_out", "topk", "of", "layer_norm", "12", "40"]
    assert one[-2:] == [infos[0].revision[:12], "mlp"]
    assert two[:7] == ["0-TWO", "blocks.0.hook_mlp_out", "standard", "folded", "12", "40", "-"]
    assert neurons[:5] == ["0", "blocks.0.mlp.hook_post", "neurons", "48", "48"]
    assert lines[5] == "3 sources, 128 features, 4.5 KiB on cpu"
    assert lines[6] == "texts are read behind token 0"
    assert lines[8].startswith("warning: 0-TWO: trained on texts without BOS and served on texts with one")
    assert len(lines) == 9


def test_what_saes_will_take_is_known_before_they_are_read(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae", architecture="jumprelu")
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for flags, extra in [({}, ""), ({"dtype": "bfloat16"}, ""), ({}, 'dtype = "float16"\n')]:
        config = configure(tmp_path, 'model = "somewhere"\nneurons = false\n' + sae_table() + extra, **flags)
        planned = plan_saes(config, 3)
        expected, mapped = sae_bytes(config, planned, gpu)
        (source,) = load_config_sources(config, Hooks())
        assert source.info.memory_bytes <= expected <= 1.2 * source.info.memory_bytes
        screens = screening_bytes(40, 12) if not (flags or extra) else 0
        assert sae_bytes(config, planned, cpu) == (expected + screens, mapped) == (expected + screens, 0)


def test_what_is_mapped_takes_no_memory_on_a_cpu(tmp_path: Path) -> None:
    write_openai(tmp_path / "sae.pt")
    for extra, mapped in [("", 40 * 12 * 4), ('dtype = "float16"\n', 0), ("fold_decoder_norm = true\n", 0)]:
        table = sae_table(path="sae.pt", hook="blocks.0.hook_mlp_out") + extra
        config = configure(tmp_path, 'model = "somewhere"\nneurons = false\n' + table)
        planned = plan_saes(config, 3)
        whole, none = sae_bytes(config, planned, torch.device("cuda"))
        screens = 0 if "dtype" in extra else screening_bytes(40, 12)
        assert none == 0
        assert sae_bytes(config, planned, torch.device("cpu")) == (whole - mapped + screens, mapped)

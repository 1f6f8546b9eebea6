"""The registries: every entry builds and names its source, figures are those of the datasheets, users can add their own."""

from __future__ import annotations

import os
import threading
from importlib import metadata

import pytest
from forked import anew, forked

from mlsysim.core.constants import Q_
from mlsysim.core.errors import DataError, MLSysError, UnknownNameError
from mlsysim.core.registry import Group
from mlsysim.hardware.registry import Hardware, HardwareRegistry
from mlsysim.infra.registry import Infra
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload
from mlsysim.systems.registry import SystemRegistry, Systems

REGISTRIES = [Hardware, Models, Systems, Infra]
CHIP = """
[my_chip]
symbol = "MyChip"
aliases = ["MC1"]
group = "Edge"
name = "My chip"
release_year = 2026
compute.peak_flops = "1 TFLOP/s"
compute.precision_flops = { bf16 = "1 TFLOP/s" }
memory.capacity = "8 GiB"
memory.bandwidth = "100 GB/s"
source = "our lab book"
"""
GOOD = CHIP.replace("my_chip", "good").replace("MyChip", "Good").replace("MC1", "G1").replace("My chip", "Good chip")


@pytest.fixture
def chip_file(tmp_path):
    def write(text=CHIP, name="chips.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: type(registry).__name__)
def test_every_entry_builds_and_names_its_source(registry):
    for name in registry.names():
        provenance = registry[name].provenance
        assert provenance.source.strip(), name
        assert provenance.evidence in ("seen", "recalled", "computed"), name
        for text in (provenance.source, provenance.locator, provenance.notes):
            assert "/work" not in text, name
            assert "/tmp" not in text, name


def test_parameters_agree_with_the_architecture():
    for model in Models.Language:
        tolerance = model.parameter_tolerance if model.parameter_note else 0.01
        assert model.computed_parameters == pytest.approx(model.parameter_count, rel=tolerance), model.name


def test_few_models_need_a_looser_parameter_tolerance():
    noted = [model for model in Models.Language if model.parameter_note]
    assert all(model.parameter_tolerance <= 0.04 for model in noted)
    assert len(noted) <= 10


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Mixtral_8x7B", 12.88), ("DeepSeek_V3", 37.5), ("Qwen3_235B_A22B", 22.19), ("Llama4_Maverick", 17.17), ("DBRX", 36.5)],
)
def test_active_parameters_of_mixtures(name, billions):
    assert Models.Language[name].active_parameters == pytest.approx(billions * 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("chip", "capacity", "bandwidth", "bf16", "tdp"),
    [
        (Hardware.Cloud.H100, "80 GiB", 3350, 989.4, 700),
        (Hardware.Cloud.A100, "80 GiB", 2039, 312, 400),
        (Hardware.Cloud.V100, "32 GiB", 900, 125, 300),
        (Hardware.Cloud.H200, "141 GiB", 4800, 989.4, 700),
        (Hardware.Cloud.B200, "180 GiB", 8000, 2250, 1000),
        (Hardware.Cloud.MI300X, "192 GiB", 5325, 1307.4, 750),
        (Hardware.Cloud.TPUv4, "32 GB", 1228, 275, 192),
        (Hardware.Cloud.T4, "16 GiB", 320, 65, 70),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_accelerator_facts(chip, capacity, bandwidth, bf16, tdp):
    assert chip.memory_capacity_B == pytest.approx(Q_(capacity).m_as("byte"))
    assert chip.memory_bandwidth_Bps == pytest.approx(bandwidth * 1e9)
    assert chip.rate_flops_per_s("bf16") == pytest.approx(bf16 * 1e12)
    assert chip.compute.peak_flops.m_as("TFLOP/s") == pytest.approx(bf16)
    assert chip.tdp.m_as("W") == tdp


def test_links_are_one_direction_and_nodes_sum_both():
    node = Systems.Nodes.DGX_H100
    assert Hardware.Cloud.H100.interconnect_bandwidth_Bps == pytest.approx(450e9)
    assert node.intra_node_bw.m_as("GB/s") == pytest.approx(900)
    assert node.intra_bandwidth_Bps == pytest.approx(450e9)
    assert node.network_bw.m_as("Gbit/s") == pytest.approx(400)
    assert node.accelerator is Hardware.Cloud.H100
    assert Systems.Nodes.GB200_NVL72.accelerators_per_node == 72
    assert Systems.Fabrics.EFA_v1_p4d.bandwidth.m_as("Gbit/s") == pytest.approx(400 / 8)


def test_model_facts():
    assert Models.Vision.ResNet50.forward_flops == pytest.approx(8.178e9)
    assert Models.GPT3 is Models.Language.GPT3_175B
    assert Models.Language.GPT3.positions == 2048
    assert Models.Language.Llama3_405B.kv_head_count == 8
    assert Models.Language.Gopher_280B.relative_positions
    assert Models.Language.PaLM_540B.parallel_block
    assert not Models.Language.BERT_Large.causal
    assert Models.Language.T5_11B.cross_attention_layers == 24
    assert Models.Language.GPT_OSS_120B.windowed_layers == 18
    assert Models.Language.DeepSeek_V3.mla.kv_lora_rank == 512
    assert Models.Vision.ViT_B16.architecture == "ViT"


def test_grid_facts():
    grid = Infra.Grids.US_Average_2020
    assert grid.carbon_intensity.m_as("gCO2e/kWh") == pytest.approx(429)
    assert "Patterson" in grid.provenance.source
    assert Infra.Grids.GCP_us_central1.year == 2024
    assert Infra.Grids.France.water_intensity is not None


@pytest.mark.parametrize("name", ["h100_sxm", "H100", "h100", "H100_SXM"])
def test_items_are_found_by_id_symbol_or_alias_in_any_case(name):
    assert Hardware[name] is Hardware.Cloud.get(name) is Hardware.Cloud.H100
    assert name in Hardware


def test_attributes_are_exact_and_suggest():
    with pytest.raises(UnknownNameError, match=r"Hardware\.Cloud has no 'h100'; did you mean 'H100'\?"):
        _ = Hardware.Cloud.h100
    with pytest.raises(UnknownNameError, match="did you mean 'Llama2_70B'"):
        _ = Models.Language.Llama2_70b
    with pytest.raises(UnknownNameError, match="did you mean 'DGX_H100'"):
        Systems.Nodes["DGX H10"]
    with pytest.raises(UnknownNameError, match="it has "):
        Hardware.Cloud.get("zzzzzz")
    with pytest.raises(UnknownNameError):
        Hardware.get(100)
    assert not hasattr(Hardware.Cloud, "no_such_chip")
    assert "H100" not in Hardware.Edge


def test_groups_behave_as_collections():
    assert isinstance(Hardware.Cloud, Group)
    assert len(Hardware.Cloud) == len(list(Hardware.Cloud)) == len(Hardware.Cloud.names())
    assert len(Hardware) == sum(len(group) for group in vars(Hardware).values() if isinstance(group, Group))
    assert {"H100", "get", "names"} <= set(dir(Hardware.Cloud))
    assert repr(Models.Vision) == f"<Models.Vision: {len(Models.Vision)} entries>"
    assert all(isinstance(model, TransformerWorkload) for model in Models.Language)


@pytest.fixture(scope="module")
def refusing():
    """A registry that is given malformed files alone, of which it takes nothing."""
    return HardwareRegistry()


def test_a_file_of_the_user_is_added(chip_file):
    registry = HardwareRegistry()
    assert registry.load(chip_file()) == ["MyChip"]
    assert registry.Edge.MyChip is registry["mc1"]
    assert registry.Edge.MyChip.provenance.evidence == "stated"
    assert "MyChip" not in Hardware, "registries share nothing"
    with pytest.raises(DataError, match=r"\[my_chip\]: the name 'my_chip' is already taken"):
        registry.load(chip_file())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[my_chip]", "[h100_sxm]", r"\[h100_sxm\]: the name 'h100_sxm' is already taken by mlsysim/hardware/data/cloud.toml"),
        ('"MyChip"', '"H100"', "'H100' is already taken"),
        ('name = "My chip"', 'name = "H100 SXM5 80GB"', "'H100 SXM5 80GB' is already taken"),
        ('"MyChip"', '"my chip"', "Python identifier"),
        ('"MyChip"', '"names"', "no method of the registry"),
        ('"Edge"', '"Egde"', "did you mean 'Edge'"),
        ('["MC1"]', '"MC1"', "aliases = 'MC1': expected a list"),
        ('source = "our lab book"', "", "source: expected the citation"),
        ('"8 GiB"', '"8 W"', r"memory.capacity = '8 W': expected a quantity in byte"),
        ("release_year", "relase_year", "takes no argument 'relase_year'.*did you mean 'release_year'"),
        ("release_year = 2026", "", "release_year"),
        ('source = "our lab book"', 'source = "x"\nevidence = "guessed"', "Provenance.evidence"),
        ("group = ", "group ", "cannot be read"),
    ],
)
def test_a_malformed_file_is_refused_whole(chip_file, refusing, old, new, message):
    path = chip_file(GOOD + CHIP.replace(old, new))
    with pytest.raises(DataError, match=message) as caught:
        refusing.load(path)
    assert "chips.toml" in str(caught.value)
    assert "good" not in refusing, "nothing of the file is added"


def test_a_bare_value_is_no_entry(chip_file, refusing):
    with pytest.raises(DataError, match=r"entry \[my_chip\]: expected a table, got 1"):
        refusing.load(chip_file("my_chip = 1"))


def test_nodes_of_the_user_name_their_accelerator(chip_file):
    node = (
        '[pod]\ngroup = "Nodes"\nname = "Pod"\naccelerator = "{}"\naccelerators_per_node = 4\n{} = "50 GB/s"\nsource = "us"\n'
    )
    registry = SystemRegistry()
    registry.load(chip_file(node.format("H100", "intra_bw_one_direction")))
    assert registry.Nodes.pod.intra_node_bw.m_as("GB/s") == pytest.approx(100)
    with pytest.raises(DataError, match="did you mean 'H100'"):
        SystemRegistry().load(chip_file(node.format("H10O", "intra_bw_one_direction")))
    with pytest.raises(DataError, match="intra_bw_one_direction"):
        SystemRegistry().load(chip_file(node.format("H100", "intra_node_bw")))


def test_a_missing_file_is_an_error(tmp_path, refusing):
    with pytest.raises(DataError, match="cannot be read"):
        refusing.load(tmp_path / "none.toml")


class _Point:
    name = "lab"
    group = "mlsysim.hardware"

    def __init__(self, target):
        self._target = target

    def load(self):
        if isinstance(self._target, Exception):
            raise self._target
        return self._target


def _offer(monkeypatch, target):
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: [_Point(target)] if group == "mlsysim.hardware" else [])


@pytest.mark.parametrize("wrap", [lambda path: path, str, lambda path: lambda: path], ids=["path", "text", "function"])
def test_a_package_adds_entries_by_entry_point(monkeypatch, chip_file, wrap):
    _offer(monkeypatch, wrap(chip_file()))
    registry = HardwareRegistry()
    assert registry.Edge.MyChip.name == "My chip"
    assert registry.Cloud.H100.name == Hardware.Cloud.H100.name


@pytest.mark.parametrize("target", [ImportError("no such module"), 7])
def test_a_broken_entry_point_is_named(monkeypatch, target):
    _offer(monkeypatch, target)
    with pytest.raises(DataError, match=r"entry point 'lab' of 'mlsysim\.hardware'"):
        HardwareRegistry().names()


def test_a_package_may_not_replace_an_entry(monkeypatch, chip_file):
    _offer(monkeypatch, chip_file(CHIP.replace("my_chip", "h100_sxm")))
    with pytest.raises(DataError, match="already taken"):
        HardwareRegistry().names()


def test_threads_that_ask_for_an_entry_at_once_get_one_object():
    registry, start, threads = HardwareRegistry(), threading.Barrier(12), 12
    built = {}
    names = ("H100", "L40S", "A100-SXM-80GB (7x1g.10gb MIG)", "RTX_4090")

    def ask(number):
        start.wait(timeout=30)
        built[number] = [registry.get(name) for name in names]

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert len(built) == threads
    for objects in zip(*built.values(), strict=True):
        assert len({id(one) for one in objects}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the package is imported anew in a fork of this process")
def test_nothing_is_read_at_import_and_everything_builds_fast(tmp_path):
    code = (
        "import sys, time, mlsysim.hardware, mlsysim.models, mlsysim.systems, mlsysim.infra\n"
        "rooms = (mlsysim.hardware.Hardware, mlsysim.models.Models, mlsysim.systems.Systems, mlsysim.infra.Infra)\n"
        "assert all(room._store._entries is None for room in rooms)\n"
        "mlsysim.hardware.types.ComputeCore\n"
        "for attempt in range(2):\n"
        "    start = time.process_time()\n"
        "    for room in rooms: list(type(room)())\n"
        "    print(time.process_time() - start)\n"
    )
    done = forked(anew(code), tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert min(map(float, done.stdout.split())) < 2, "the better of two: machines are noisy"


def test_unknown_names_are_errors_of_ours():
    with pytest.raises(MLSysError):
        _ = Infra.Grids.Atlantis

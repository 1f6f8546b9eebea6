"""A served model with plain kernels, of which the tests of passes work times by hand."""

from dataclasses import replace
from math import inf

from plain import UNIT, served_shape, serving_kernels

from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
from mlsysim.physics.layer.shape import ExpertShape
from mlsysim.physics.serving.deployment import EngineCoefficients, EngineKernels, ServedModel, Shards

# Three layers; four query heads and two of keys, 64 wide; gated blocks of 256; a vocabulary of 256.
SHAPE = served_shape()
TWO = Shards(tp=2.0, pp=1.0, node=8.0, attention=2.0)
ENGINE = EngineCoefficients(layer_s=0.0, scaling_s=0.0, hop_s=0.0, compute_share=0.5, own_share=0.5)
READS = GemmKernel(inf, 0.0, inf, 1.0, 0.0, SharedGemm(1.0, 0.0, 0.0, 1.0), most_splits=1.0)
ELEMENT_S = UNIT**2 / 32768  # of a byte of 64 x 64 elements

# An engine whose passes run in 32 bits, and one that stores its scores.
WIDE, STORES = {"wide": True}, {"flash_prefill": False}


def with_experts(layers=1.0, shared_ffn=0.0):
    """Four experts of 128 in a share of the layers, of which a token visits two."""
    return replace(SHAPE, routed=ExpertShape(4.0, 2.0, 2 * UNIT, shared_ffn, layers))


def served(shape=SHAPE, shards=TWO, engine=ENGINE, has=None, **kernels):
    return ServedModel(shape, shards, serving_kernels(**kernels), engine, EngineKernels(**has or {}))

"""What is measured: the presets, the methods, and which part of both is quick.

asv runs today's benchmarks against old commits, so the names of the methods stand here literally
and nothing here imports the package: a list that came from the package would change with the
commit. Adding a method or a preset to the benchmarks is one line here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One layer and one batch; every expert gets tokens * top_k / experts tokens."""

    experts: int
    hidden: int
    intermediate: int
    top_k: int
    tokens: int
    lora_rank: int = 16
    lora_alpha: float = 32.0

    @property
    def weights(self) -> int:
        """Frozen weights in the layer: gate, up and down of every expert."""
        return 3 * self.experts * self.hidden * self.intermediate

    @property
    def lora_scaling(self) -> float:
        """The factor before the LoRA product."""
        return self.lora_alpha / self.lora_rank


PRESETS = {
    # A quarter of S1's widths, 48 tokens per expert: arithmetic is the limit, the weights (9 MB)
    # stay in cache.
    "quick-compute": Preset(experts=8, hidden=512, intermediate=384, top_k=3, tokens=128),
    # 4 tokens per expert: memory is the limit where 101 MB of weights are more than the last cache
    # holds.
    "quick-memory": Preset(experts=8, hidden=2048, intermediate=1024, top_k=4, tokens=8),
    # DeepSeek-V2-Lite's widths, 48 tokens per expert: arithmetic.
    "S1": Preset(experts=16, hidden=2048, intermediate=1408, top_k=6, tokens=128),
    # DeepSeek-V3's widths at the ratio of 128 tokens, top 8, over 256 experts: 4 tokens per
    # expert, memory.
    "S2": Preset(experts=32, hidden=7168, intermediate=2048, top_k=8, tokens=16),
    # DeepSeek-V3's widths, a long sequence: 128 tokens per expert, arithmetic.
    "S3": Preset(experts=8, hidden=7168, intermediate=2048, top_k=8, tokens=128),
}

SFT_METHODS = ("AMXBF16_SFT", "AMXINT8_SFT", "AMXINT4_SFT", "AMXINT4_KGroup_SFT")
INFERENCE_METHODS = ("AMXBF16", "AMXINT8", "AMXINT4", "AMXINT4_KGroup")  # BF16 is AMXBF16
METHODS = SFT_METHODS + INFERENCE_METHODS

PARAM_NAMES = ("method", "preset")
SFT_PARAMS = (SFT_METHODS, tuple(PRESETS))
PARAMS = (METHODS, tuple(PRESETS))

# The quick preset, as asv's --bench takes it. asv matches it against what a row is called:
# suite.Class.metric('method', 'preset').
QUICK = r"'quick-|\.Import\."

"""What is measured: the presets, the methods, and which part of both is quick.

asv runs today's benchmarks against old commits, so methods and formats stand here literally and
nothing here imports the package: a list that came from the package would change with the commit.
Adding a method or a preset to the benchmarks is one line here.
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
    # A quarter of S1's widths (352 made whole groups of 128), 48 tokens per expert: arithmetic is
    # the limit, the weights (9 MB in bf16) stay in cache.
    "quick-compute": Preset(experts=8, hidden=512, intermediate=384, top_k=3, tokens=128),
    # 4 tokens per expert: memory is the limit where the weights (101 MB in bf16, 25 MB in INT4) are
    # more than the last cache holds.
    "quick-memory": Preset(experts=8, hidden=2048, intermediate=1024, top_k=4, tokens=8),
    # DeepSeek-V2-Lite's widths, 48 tokens per expert: arithmetic.
    "S1": Preset(experts=16, hidden=2048, intermediate=1408, top_k=6, tokens=128),
    # DeepSeek-V3's widths at the ratio of 128 tokens, top 8, over 256 experts: 4 tokens per
    # expert, memory.
    "S2": Preset(experts=32, hidden=7168, intermediate=2048, top_k=8, tokens=16),
    # DeepSeek-V3's widths, a long sequence: 128 tokens per expert, arithmetic.
    "S3": Preset(experts=8, hidden=7168, intermediate=2048, top_k=8, tokens=128),
}

# From a single token per expert to a long sequence, over DeepSeek-V2-Lite's widths: where one
# kernel gives way to another, and memory to arithmetic. Every token goes to every expert.
SWEEP_TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 128, 256, 512)
SWEEP = {
    f"sweep-{tokens}": Preset(experts=8, hidden=2048, intermediate=1408, top_k=8, tokens=tokens)
    for tokens in SWEEP_TOKENS
}

# So small that a thousand steps take a second.
GROWTH = {"tiny": Preset(experts=4, hidden=256, intermediate=128, top_k=2, tokens=16)}

GROUP = 128  # weights per scale in the methods that have groups


@dataclass(frozen=True)
class Format:
    """How weights are held: the extension's name for it, and the bytes that a weight takes.

    Products of this kind are the roof: what the CPU does fastest with such weights.
    """

    name: str
    bytes_per_weight: float
    products: str = "int8"


BF16 = Format("bf16", 2, "bf16")
# A scale per output channel is 4 bytes for a whole row, below 1% of the codes: left out.
INT8 = Format("int8", 1)
INT4 = Format("int4", 1 / 2)
INT4_KGROUP = Format("int4_kgroup", 1 / 2 + 2 / GROUP)  # with a scale of 16 bits per group

SFT_FORMATS = {
    "AMXBF16_SFT": BF16,
    "AMXINT8_SFT": INT8,
    "AMXINT4_SFT": INT4,
    "AMXINT4_KGroup_SFT": INT4_KGROUP,
}
INFERENCE_FORMATS = {  # BF16 is AMXBF16 under another name
    "AMXBF16": BF16,
    "AMXINT8": INT8,
    "AMXINT4": INT4,
    "AMXINT4_KGroup": INT4_KGROUP,
}
FORMATS = SFT_FORMATS | INFERENCE_FORMATS
SFT_METHODS = tuple(SFT_FORMATS)
METHODS = tuple(FORMATS)

PARAM_NAMES = ("method", "preset")
SFT_PARAMS = (SFT_METHODS, tuple(PRESETS))
PARAMS = (METHODS, tuple(PRESETS))

# The quick preset, as asv's --bench takes it. asv matches it against what a row is called:
# suite.Class.metric('method', 'preset'). What is left out is measured by other rows, too: the
# inference methods run the SFT methods' kernels on the same weights, so of theirs only the error
# is quick, and the overhead row times both of its calls itself.
QUICK = (
    r"(?<!time_wrapper)(?<!time_native)\('\w+_SFT', 'quick-"
    r"|\.RelativeError\.\w+\('\w+', 'quick-"
    r"|\.Control\.\w+\('quick-"
    r"|\.Import\."
)

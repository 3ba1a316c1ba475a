"""Quantized weights from safetensors files, as compressed-tensors names and packs them."""

import pytest
import torch
from quantized_layer import CASES, EXPERTS, SCALES, WEIGHTS, Case, packed, same
from safetensors.torch import save_file

INT8, INT4, GROUPED = CASES[:3]
PREFIX = "language_model.model.layers.3.mlp.experts"


def plain(case, seed=0):
    """int8 `weight` and `weight_scale` [N, 1] or [N, groups]: the format int-quantized."""
    return named(case, seed, lambda codes: {"weight": codes})


def pack_quantized(case, seed=0):
    """int32 `weight_packed`, `weight_scale` and `weight_shape`: Kimi-K2's experts, for one."""
    return named(
        case,
        seed,
        lambda codes: {
            "weight_packed": packed(codes, case.bits, torch.int32),
            "weight_shape": torch.tensor(codes.shape, dtype=torch.int32),
        },
    )


def named(case, seed, store):
    arguments = case.codes(seed)
    tensors = {"model.layers.3.mlp.gate.weight": torch.zeros(EXPERTS, case.hidden)}
    for name, scale_name in zip(WEIGHTS, SCALES, strict=True):
        for expert in range(EXPERTS):
            scale = arguments[scale_name][expert].bfloat16()
            parts = store(arguments[name][expert])
            parts["weight_scale"] = scale if case.group else scale.unsqueeze(1)
            for part, tensor in parts.items():
                tensors[f"{PREFIX}.{expert}.{name}.{part}"] = tensor.contiguous().clone()
    return tensors


def loaded(case, path, order=None, **options):
    layer = case.wrapper(layer_idx=3, weight_path=path, **options)
    layer.load_weights(order)
    return layer


@pytest.mark.parametrize("style", [plain, pack_quantized])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_layer_is_that_of_the_codes(tmp_path, case, style):
    order = torch.tensor([1, 2, 0])
    save_file(style(case), tmp_path / "model.safetensors")
    layer = loaded(case, tmp_path, order)
    assert same(case.step(layer), case.results(case.codes(), order))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scales_of_other_types_and_without_an_axis(tmp_path, dtype):
    tensors = {
        name: tensor.squeeze(1).to(dtype) if name.endswith("_scale") else tensor
        for name, tensor in plain(INT4).items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert same(INT4.step(loaded(INT4, tmp_path)), INT4.results(INT4.codes()))


def test_mixtral_names_and_several_files(tmp_path):
    words = dict(zip(WEIGHTS, ("w1", "w3", "w2"), strict=True))
    files = {}
    for name, tensor in pack_quantized(GROUPED).items():
        for projection, word in words.items():
            name = name.replace(projection, word)
        name = name.replace(".mlp.", ".block_sparse_moe.")
        files.setdefault(len(name) % 2, {})[name] = tensor
    assert len(files) == 2
    for number, tensors in files.items():
        save_file(tensors, tmp_path / f"{number}.safetensors")
    assert same(GROUPED.step(loaded(GROUPED, tmp_path)), GROUPED.results(GROUPED.codes()))


def test_files_may_say_no_shape(tmp_path):
    tensors = pack_quantized(INT4)
    save_file(
        {name: t for name, t in tensors.items() if not name.endswith("_shape")},
        tmp_path / "model.safetensors",
    )
    assert same(INT4.step(loaded(INT4, tmp_path)), INT4.results(INT4.codes()))


# ---- broken ones ----


def put(name, tensor):
    """One tensor more, or another in its place."""
    return lambda tensors: {**tensors, f"{PREFIX}.{name}": tensor}


def changed(name, change):
    full = f"{PREFIX}.{name}"
    return lambda tensors: {**tensors, full: change(tensors[full]).contiguous().clone()}


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != f"{PREFIX}.{name}"}


NAN_SCALE = torch.full((160, 3), float("nan"), dtype=torch.bfloat16)

FAULTS = [
    (without("1.up_proj.weight_scale"), ValueError, "1.up_proj.weight_packed lacks its weight_sc"),
    (without("2.down_proj.weight_packed"), ValueError, r"lacks down_proj of expert 2 \(1 of 9 "),
    (put("1.up_proj.weight", torch.ones(96, 160)), ValueError, "weight_packed .* up_proj of exp"),
    (put("1.up_proj.weight_zero_point", torch.ones(1)), ValueError, "zero points are not supp"),
    (put("0.up_proj.weight_g_idx", torch.ones(1)), ValueError, "order of their own are not supp"),
    (put("3.up_proj.weight_scale", torch.ones(1)), ValueError, "has 4 experts, num_experts is 3"),
    (
        changed("0.gate_proj.weight_packed", lambda t: t[:, 1:]),
        ValueError,
        r"gate_proj.weight_packed has shape \[96, 19\], wanted \[96, 20\]",
    ),
    (
        changed("0.gate_proj.weight_packed", lambda t: t.float()),
        TypeError,
        "gate_proj.weight_packed has dtype F32, wanted I8 or U8 or I32",
    ),
    (
        changed("0.gate_proj.weight_packed", lambda t: t.to(torch.float8_e4m3fn)),
        TypeError,
        "gate_proj.weight_packed has dtype F8_E4M3, wanted I8",
    ),
    (
        changed("2.down_proj.weight_scale", lambda t: t.double()),
        TypeError,
        "down_proj.weight_scale has dtype F64, wanted BF16 or F16 or F32",
    ),
    (
        changed("2.down_proj.weight_scale", lambda t: t[:, :1]),
        ValueError,
        r"down_proj.weight_scale has shape \[160, 1\], wanted \[160, 3\] with group_size=32",
    ),
    (
        put("1.down_proj.weight_shape", torch.tensor([160, 95])),
        ValueError,
        r"1.down_proj.weight_shape says \[160, 95\], wanted \[160, 96\]",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), FAULTS)
def test_broken_files_are_refused_before_anything_is_allocated(tmp_path, change, error, message):
    save_file(change(pack_quantized(GROUPED)), tmp_path / "model.safetensors")
    layer = GROUPED.wrapper(layer_idx=3, weight_path=tmp_path)
    with pytest.raises(error, match=rf"^weight_path: .*{message}"):
        layer.load_weights()
    assert layer._layer.weight_bytes == 0


def test_bad_values_are_found_as_they_are_read(tmp_path):
    tensors = put("2.down_proj.weight_scale", NAN_SCALE)(pack_quantized(GROUPED))
    save_file(tensors, tmp_path / "model.safetensors")
    layer = GROUPED.wrapper(layer_idx=3, weight_path=tmp_path)
    with pytest.raises(ValueError, match=r"^down_scale\[2\]: row 0 holds a scale that is NaN"):
        layer.load_weights()
    assert not layer._weights_loaded


def test_another_group_size_is_named(tmp_path):
    case = CASES[4]
    save_file(pack_quantized(case), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"wanted \[256, 12\] with group_size=32"):
        loaded(case, tmp_path, group_size=32)


def test_bf16_takes_no_quantized_weights(tmp_path):
    case = Case("AMXBF16_SFT", "bf16", 16, 0, INT8.hidden, INT8.inter)
    save_file(plain(INT8), tmp_path / "model.safetensors")
    with pytest.raises(TypeError, match=r"^weight_path: .*weight_scale belongs to quantized"):
        loaded(case, tmp_path)


def test_codes_of_4_bits_are_none_of_8(tmp_path):
    save_file(pack_quantized(INT4), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"weight_packed has shape \[38, 9\], wanted \[38, 18\]"):
        loaded(Case("AMXINT8_SFT", "int8", 8, 0, INT4.hidden, INT4.inter), tmp_path)

"""The product of the hot path is torch's own, whichever routine makes it."""

import pytest
import torch
from torch import nn

from codyra.tuner import products

onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch was built without oneDNN"
)


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def quicker(request, monkeypatch):
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch was built without oneDNN")
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: request.param)


@pytest.mark.usefixtures("quicker")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(200, 96, 128), (1, 2048, 1100), (3, 5, 7), (0, 4, 6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_it_is_the_linear(dtype, shape, bias, turned):
    rows, inside, out = shape
    torch.manual_seed(0)
    x, b = torch.randn(rows, inside, dtype=dtype), torch.randn(out, dtype=dtype) if bias else None
    W = torch.randn(inside, out, dtype=dtype).T if turned else torch.randn(out, inside, dtype=dtype)
    y = products.linear(x, W, b)
    assert (y.shape, y.dtype, y.is_contiguous()) == ((rows, out), dtype, True)
    exact = nn.functional.linear(x.double(), W.double(), None if b is None else b.double())
    torch.testing.assert_close(y.double(), exact, atol=20 * torch.finfo(dtype).eps * inside**0.5, rtol=1e-2)


@onednn
def test_large_products_go_where_they_are_quicker(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: True)
    with torch.profiler.profile() as seen:
        products.linear(torch.ones(256, 128), torch.ones(128, 128))
        products.linear(torch.ones(2, 128), torch.ones(128, 128))
        products.linear(torch.ones(256, 128).double(), torch.ones(128, 128).double())
    names = [event.name for event in seen.events()]
    assert names.count("mkldnn::_linear_pointwise") == 1
    assert names.count("aten::mm") == 2


@pytest.mark.parametrize("processor", ["vendor_id\t: GenuineIntel", "Intel64 Family 6, GenuineIntel"])
def test_mkl_stays_on_its_own_processors(monkeypatch, processor):
    monkeypatch.setattr(products, "_processor", lambda: processor)
    assert not products.onednn_is_quicker.__wrapped__()


@pytest.mark.parametrize(("capability", "expected"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_only_with_the_wide_registers(monkeypatch, capability, expected):
    monkeypatch.setattr(products, "_processor", lambda: "vendor_id\t: AuthenticAMD")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for backend in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(backend, "is_available", lambda: True)
    assert products.onednn_is_quicker.__wrapped__() == (
        expected and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@pytest.mark.usefixtures("quicker")
def test_linears_of_a_network_stay_what_they_are(monkeypatch):
    monkeypatch.setattr(products, "WORTH_ONEDNN", 0)

    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), Doubled(6, 5), nn.Linear(5, 4, bias=False))
    net[2].forward = lambda input: 3 * nn.Linear.forward(net[2], input)  # someone else's, which stays
    kept = net[2].forward
    x = torch.randn(2, 3, 8)
    expected = net(x)
    with products.quick_linears(net):
        torch.testing.assert_close(net(x), expected)
        net(x).sum().backward()  # gradients are torch's own
        with torch.no_grad():
            torch.testing.assert_close(net(x), expected)
            assert net(x[:0]).shape == (0, 3, 4)
            with torch.autocast("cpu", torch.bfloat16):
                assert net[0](x).dtype == torch.bfloat16
    assert net[0].weight.grad is not None
    assert [vars(module).get("forward") for module in net] == [None, None, kept]


@onednn
def test_linears_multiply_by_the_quick_routine_without_gradients(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: True)
    net, x = nn.Linear(128, 128), torch.ones(4, 64, 128)
    with torch.profiler.profile() as seen, products.quick_linears(net):
        net(x)
        with torch.no_grad():
            net(x)
    assert [event.name for event in seen.events()].count("mkldnn::_linear_pointwise") == 1

"""The plain way of guidance does the same work as ours."""

import torch
from networks import classifier, tiny, unet
from peers import plain
from torch.testing import assert_close


def test_the_plain_networks_compute_what_ours_compute():
    size = tiny()
    x_t, t, _ = size.inputs(2, "cpu")
    with torch.no_grad():
        assert_close(plain(unet(size), torch.device("cpu"))(x_t, t), unet(size).eval()(x_t, t))


def test_the_plain_gradient_is_ours_and_reaches_the_parameters():
    size = tiny()
    x_t, t, y = size.inputs(2, "cpu")
    gradients = []
    for network in (classifier(size).eval(), plain(classifier(size), torch.device("cpu"))):
        x_in = x_t.clone().requires_grad_()
        network(x_in, t).log_softmax(dim=1).gather(1, y[:, None]).sum().backward()
        gradients.append((x_in.grad, network.encoder.middle.attention.to_qkv.weight.grad))
    assert_close(*gradients)

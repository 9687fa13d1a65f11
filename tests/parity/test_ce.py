"""Our MoEE and Collaborative Experts give the official numbers, running statistics and gradients included."""

from collections.abc import Callable

import pytest
import torch
from golden import Golden, assert_close, assert_gradient, assert_gradient_stats

from vidsift.convert.ce import FAMILY, describe
from vidsift.losses.ranking import max_margin
from vidsift.losses.similarity import similarity_matching
from vidsift.models.expert_layers import GatedUnit, NetVLAD
from vidsift.models.experts import Expert, ExpertNetwork
from vidsift.models.registry import method_class

GOLDEN = Golden("ce")
EXPERTS = GOLDEN.meta["expert_order"]
ARCH = GOLDEN.meta["arch"]


def network(prefix: str, **changes: object) -> ExpertNetwork:
    """The official weights in our network, through the checkpoint mapping."""
    state = GOLDEN.weights(prefix)
    known = describe(state)
    method, settings = known.method, dict(known.settings)
    # A checkpoint names experts with tokens only.
    pairs = zip(EXPERTS, settings["experts"], strict=True)
    settings["experts"] = tuple(Expert(**(found | {"name": name})) for name, found in pairs)
    if method == "ce":
        settings |= {"include_self": bool(ARCH["include_self"]), "mish": bool(ARCH["use_mish"])}
    cls = method_class(method)
    built = cls.build_network(cls.config_class(legacy=True, **{**settings, **changes}))
    names = {key: FAMILY.rename(f"head.{key}") for key in built.state_dict()}
    assert set(names.values()) == set(state)
    built.load_state_dict({key: state[name] for key, name in names.items()})
    return built.eval()


def videos(*, grad: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    features, masks = {}, {}
    for name in EXPERTS:
        x, there = GOLDEN[f"in/expert_{name}"].requires_grad_(grad), GOLDEN.mask(f"in/ind_{name}")
        features[name] = x
        masks[name] = there if x.ndim == 2 else there.unsqueeze(1).expand(x.shape[:2])
    return features, masks


def tokens(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, lengths = GOLDEN[f"in/{name}"].flatten(0, 1), GOLDEN[f"in/{name}_lengths"].flatten()
    return x, torch.arange(x.shape[1]) < lengths.unsqueeze(1)


def scores(net: ExpertNetwork, text: str) -> torch.Tensor:
    return net.similarity(*net.encode_text(*tokens(text)), *net.encode_experts(*videos()))


NETWORKS: dict[str, Callable[[], ExpertNetwork]] = {
    "ce": lambda: network("w_ce/"),
    "moee": lambda: network("w_moee/"),
    "moee_keepmissing": lambda: network("w_moee/", keep_missing=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_similarities_in_evaluation_and_in_training(name: str) -> None:
    net = NETWORKS[name]()
    assert_close(scores(net, "text_T"), GOLDEN[f"out/{name}_eval_sim"])
    assert_close(scores(net, "text_caps"), GOLDEN[f"out/{name}_eval_caps_sim"])
    trained = scores(net.train(), "text_caps")
    # Official training averages over the captions of a video.
    mean = trained.view(-1, GOLDEN.meta["captions"], trained.shape[1]).mean(1)
    assert_close(mean, GOLDEN[f"out/{name}_train_caps_sim"])


@pytest.mark.parametrize("name", ["ce", "moee"])
def test_every_intermediate_value(name: str) -> None:
    net = NETWORKS[name]()
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    if net.gating is not None:
        for i, gate in enumerate(net.gating.gates):
            gate.register_forward_pre_hook(lambda _, args, i=i: seen.update({str(i): args[:2]}))
    text, mixture = net.encode_text(*tokens("text_T"))
    video, available = net.encode_experts(*videos())
    assert_close(net.text_pool(tokens("text_T")[0]), GOLDEN[f"out/{name}_eval_text_pooled"])
    assert_close(mixture.unsqueeze(1), GOLDEN[f"out/{name}_eval_moe_weights"])
    for i, (expert, slot) in enumerate(zip(EXPERTS, net.slots, strict=True)):
        assert_close(text[:, slot].unsqueeze(1), GOLDEN[f"out/{name}_eval_text_{expert}"], name=expert)
        assert_close(video[:, slot], GOLDEN[f"out/{name}_eval_vid_{expert}"], name=expert)
        assert torch.equal(available[:, i], GOLDEN.mask(f"in/ind_{expert}"))
        if expert in net.pools:
            pooled = net.pools[expert](GOLDEN[f"in/expert_{expert}"])
            assert_close(pooled, GOLDEN[f"out/{name}_eval_pooled_{expert}"])
    for i, (entered, votes) in seen.items():
        assert_close(entered, GOLDEN[f"out/ce_eval_gate_in_{i}"], name=f"gate {i}")
        assert_close(votes, GOLDEN[f"out/ce_eval_gate_mask_{i}"], name=f"votes {i}")


def test_teachtext_step_with_gradients_and_running_statistics() -> None:
    net = network("w_ce/").train()
    features, masks = videos(grad=True)
    words, mask = tokens("text_B")
    words.requires_grad_()
    sim = net.similarity(*net.encode_text(words, mask), *net.encode_experts(features, masks))
    sim.retain_grad()
    count = GOLDEN.meta["n_teachers"]
    teachers = torch.stack([GOLDEN[f"out/teachtext_teacher{t}_sim"] for t in range(count)])
    ranking = max_margin(sim, GOLDEN.meta["margin"], with_diagonal=not GOLDEN.meta["fix_norm"])
    distil = similarity_matching(sim, teachers)
    total = ranking + distil
    total.backward()
    assert_close(total, GOLDEN["out/teachtext_loss_total"])
    assert_close(sim, GOLDEN["out/teachtext_student_sim"])
    assert_close(ranking, GOLDEN["out/teachtext_loss_ranking"])
    assert_close(distil, GOLDEN["out/teachtext_loss_distil"])
    assert_gradient(sim.grad, GOLDEN["grad/teachtext_sim"])
    assert_gradient(words.grad.unsqueeze(1), GOLDEN["grad/teachtext_text"])
    for name in EXPERTS:
        assert_gradient(features[name].grad, GOLDEN[f"grad/teachtext_expert_{name}"], name=name)
    names = {key: FAMILY.rename(f"head.{key}") for key in net.state_dict()}
    for key, parameter in net.named_parameters():
        stored = GOLDEN[f"gradstat_teachtext/{names[key]}"]
        # A bias before batch normalisation moves the mean that is taken off again.
        zero = float(stored[0]) < 1e-7
        assert_gradient_stats(parameter.grad, stored, names[key], zero)
    after = GOLDEN.keys("out/teachtext_bn_after/")
    assert set(after) == {names[key] for key, _ in net.named_buffers()}
    for key, buffer in net.named_buffers():
        assert_close(buffer, GOLDEN[f"out/teachtext_bn_after/{names[key]}"], name=key)


def test_teacher_similarities() -> None:
    sims = []
    for t in range(GOLDEN.meta["n_teachers"]):
        text = torch.cat([GOLDEN[f"in/teacher{t}_text_{e}"].squeeze(1) for e in EXPERTS], -1)
        video = torch.cat([GOLDEN[f"in/teacher{t}_vid_{e}"] for e in EXPERTS], -1)
        sims.append(text @ video.T)
        assert_close(sims[-1], GOLDEN[f"out/teachtext_teacher{t}_sim"])
    assert_close(torch.stack(sims).mean(0), GOLDEN["out/teachtext_teacher_sim_mean"])


def test_netvlad_and_gated_unit_alone() -> None:
    weights = GOLDEN.weights("w_vlad/")
    _, dim, kept = weights["clusters2"].shape
    vlad = NetVLAD(dim, kept, weights["clusters"].shape[1] - kept)
    official = {"clusters": "clusters", "centres": "clusters2"}
    vlad.load_state_dict({k: weights[official.get(k, f"batch_{k}")] for k in vlad.state_dict()})
    assert_close(vlad.eval()(GOLDEN["in/vlad_x"]), GOLDEN["out/vlad_eval"])
    assert_close(vlad.train()(GOLDEN["in/vlad_x"]), GOLDEN["out/vlad_train"])
    weights = GOLDEN.weights("w_geu/")
    unit = GatedUnit(weights["fc.weight"].shape[1], weights["fc.weight"].shape[0])
    unit.load_state_dict(
        {
            k: weights[k if k[:2] == "fc" else k.replace("gate", "cg.fc").replace("norm", "cg.batch_norm")]
            for k in unit.state_dict()
        }
    )
    assert_close(unit.eval()(GOLDEN["in/geu_x"]), GOLDEN["out/geu_eval"])
    assert_close(unit.train()(GOLDEN["in/geu_x"]), GOLDEN["out/geu_train"])
    for part in ("running_mean", "running_var"):
        assert_close(getattr(vlad.norm, part), GOLDEN[f"out/vlad_after_train/batch_norm.{part}"])
        assert_close(getattr(unit.norm, part), GOLDEN[f"out/geu_after_train/cg.batch_norm.{part}"])

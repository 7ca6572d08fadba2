"""Golden cases of the variants of LORA."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]


def bd(a=None, b=None, nblocks=2, strict=True):
    return dict(target_modules_bd_a=a, target_modules_bd_b=b, nblocks=nblocks, match_strict=strict)


METHOD = Method(
    "LoraConfig",
    peft_type="LORA",
    whole=("bdlora", "alora", "alora_two"),
    cases=[
        Case("bdlora", config=dict(r=4, lora_alpha=6, target_modules=QKVO, use_bdlora=bd(["o_proj"], ["q_proj", "k_proj", "v_proj"]))),
        Case("bdlora_mixed", "qwen2", dict(r=6, lora_alpha=9, use_rslora=True, lora_dropout=0.1, target_modules=["q_proj", "down_proj", "up_proj"], use_bdlora=bd(["mlp.down"], ["layers.1.self_attn"], 2, False)), weight_decay=0.1),
        Case(
            "bdlora_two",
            adapters={
                "style": dict(r=4, target_modules=QV, use_bdlora=bd(["q_proj"], ["v_proj"], 4)),
                "facts": dict(r=3, lora_alpha=5, target_modules=["q_proj", "o_proj"]),
            },
        ),
        Case("kasa", config=dict(r=4, lora_alpha=6, target_modules=QKVO, kasa_config=dict()), keep_init=True),
        Case("kasa_loss", "qwen2", dict(r=3, lora_alpha=2, lora_bias=True, use_rslora=True, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, kasa_config=dict(beta=0.02, gamma=0.05))),
        Case("velora", config=dict(r=4, lora_alpha=6, target_modules=QKVO, velora_config=dict(num_groups=5)), noise=True),
        Case("velora_once", "gpt2", dict(r=3, lora_bias=True, use_rslora=True, target_modules=["c_attn", "c_proj"], velora_config=dict(num_groups=4, scale=1.5, init_type="batch_average_once")), noise=True, weight_decay=0.1),
        Case("velora_random", config=dict(r=2, lora_alpha=3, init_lora_weights="olora", target_modules=["v_proj", "down_proj"], velora_config=dict(scale=0.7, num_groups=80, init_type="random")), noise=True),
        Case("monteclora", config=dict(r=4, lora_alpha=6, target_modules=QV, monteclora_config=dict(num_samples=3, sample_scaler=0.5, kl_loss_weight=0.01, buffer_size=2)), noise=True),
        Case("monteclora_pissa", "gpt2", dict(r=3, use_rslora=True, init_lora_weights="pissa", target_modules=["c_attn"], monteclora_config=dict(num_samples=2, use_entropy=True, dirichlet_prior=1.5, sample_scaler=0.02, kl_loss_weight=0.02, buffer_size=1)), noise=True, weight_decay=0.1),
        # 5 is in all rows, 41 and 8 in one
        Case("alora", config=dict(r=4, lora_alpha=6, target_modules=["q_proj", "k_proj", "down_proj", "lm_head"], alora_invocation_tokens=[5])),
        Case("alora_gpt2", "gpt2", dict(r=3, lora_bias=True, use_rslora=True, target_modules=["c_attn", "c_fc"], alora_invocation_tokens=[41, 8]), weight_decay=0.1),
        Case(
            "alora_two",
            adapters={
                "style": dict(r=4, target_modules=QV),
                "facts": dict(r=3, lora_alpha=5, target_modules=["q_proj", "o_proj"], alora_invocation_tokens=[5]),
            },
        ),
    ],
    inits={
        "monteclora": ("llama", dict(r=5, target_modules=QV, monteclora_config=dict(num_samples=3, buffer_size=4))),
        "monteclora_false": ("gpt2", dict(r=2, init_lora_weights=False, target_modules=["c_attn", "c_proj"], monteclora_config=dict(num_samples=17, buffer_size=3))),
        "velora": ("llama", dict(r=5, target_modules=QV, velora_config=dict(num_groups=7))),
        "velora_random": ("gpt2", dict(r=3, init_lora_weights=False, target_modules=["c_attn", "c_proj"], velora_config=dict(num_groups=3, init_type="random"))),
        "kasa": ("llama", dict(r=5, target_modules=QV, kasa_config=dict(gamma=2.0))),
        "kasa_false": ("llama", dict(r=3, init_lora_weights=False, target_modules=QV, kasa_config=dict())),
        "bdlora": ("llama", dict(r=4, target_modules=QKVO, use_bdlora=bd(["o_proj"], ["q_proj", "k_proj", "v_proj"]))),
        "bdlora_false": ("llama", dict(r=4, init_lora_weights=False, target_modules=QV, use_bdlora=bd(["q_proj"], ["v_proj"]))),
    },
    refused={
        "alora_embedding": ("llama", dict(r=4, target_modules=["embed_tokens"], alora_invocation_tokens=[5])),
        "alora_dora": ("llama", dict(r=4, use_dora=True, target_modules=QV, alora_invocation_tokens=[5])),
        "alora_task": ("llama", dict(r=4, task_type=None, target_modules=QV, alora_invocation_tokens=[5])),
        "monteclora_samples": ("llama", dict(r=4, target_modules=QV, monteclora_config=dict(num_samples=0))),
        "monteclora_prior": ("llama", dict(r=4, target_modules=QV, monteclora_config=dict(dirichlet_prior=0.0))),
        "monteclora_buffer": ("llama", dict(r=4, target_modules=QV, monteclora_config=dict(buffer_size=0))),
        "velora_groups": ("llama", dict(r=4, target_modules=QV, velora_config=dict(num_groups=0))),
        "velora_scale": ("llama", dict(r=4, target_modules=QV, velora_config=dict(scale=0.0))),
        "velora_type": ("llama", dict(r=4, target_modules=QV, velora_config=dict(init_type="first"))),
        "velora_embedding": ("llama", dict(r=4, target_modules=["embed_tokens"], velora_config=dict())),
        "velora_kasa": ("llama", dict(r=4, target_modules=QV, velora_config=dict(), kasa_config=dict())),
        "kasa_rank": ("llama", dict(r=16, target_modules=["k_proj"], kasa_config=dict())),
        "kasa_beta": ("llama", dict(r=4, target_modules=QV, kasa_config=dict(beta=-1.0))),
        "kasa_conv1d": ("gpt2", dict(r=4, target_modules=["c_attn"], kasa_config=dict())),
        "kasa_beside": ("llama", dict(r=4, target_modules=QV, kasa_config=dict()), dict(r=4, target_modules=QV)),
        "bdlora_both": ("llama", dict(r=4, target_modules=QV, use_bdlora=bd(["q_proj", "v_proj"], ["proj"]))),
        "bdlora_same": ("llama", dict(r=4, target_modules=QV, use_bdlora=bd(["q_proj"], ["q_proj", "v_proj"]))),
        "bdlora_neither": ("llama", dict(r=4, target_modules=QKVO, use_bdlora=bd(["o_proj"], ["q_proj"]))),
        "bdlora_nblocks": ("llama", dict(r=4, target_modules=QV, use_bdlora=bd(QV, [], 3))),
        "bdlora_conv1d": ("gpt2", dict(r=4, target_modules=["c_attn"], use_bdlora=bd(["c_attn"]))),
        "bdlora_embedding": ("llama", dict(r=4, target_modules=["embed_tokens"], use_bdlora=bd(["embed"]))),
        "bdlora_dora": ("llama", dict(r=4, use_dora=True, target_modules=QV, use_bdlora=bd(QV))),
    },
)

import { assert, assertEquals, assertThrows } from "@std/assert";
import { architectureOf } from "../../lib/architectures/mod.ts";
import { ConfigError, UnsupportedError } from "../../lib/errors.ts";
import { ATTENTION_TARGETS } from "../../lib/methods/default-targets.ts";
import { structureOf } from "../../lib/model/model-graph.ts";
import { taskOf } from "../../lib/model/task-of.ts";
import cases from "./definitions.golden.json" with { type: "json" };

type Config = Readonly<Record<string, unknown>>;

function structure(config: Config) {
  const architecture = architectureOf(config), taskType = taskOf(architecture, config);
  return structureOf({ architecture, config, taskType });
}

Deno.test("each family has the modules that PEFT adapts by default", () => {
  for (const { config } of cases as unknown as readonly { readonly config: Config }[]) {
    const paths = [...structure(config).sites.keys()], type = config.model_type as string;
    for (const name of ATTENTION_TARGETS[type] ?? []) {
      assert(paths.some((path) => `.${path}`.endsWith(`.${name}`)), `${name} of ${type}`);
    }
  }
});

Deno.test("the first checkpoints of Falcon say by other names what the later ones say", () => {
  const rest = { vocab_size: 13, hidden_size: 16 };
  const cases: readonly [old: Config, now: Config][] = [
    [{ model_type: "RefinedWebModel" }, {}],
    [{ model_type: "RefinedWeb", n_head_kv: 2 }, {
      new_decoder_architecture: true,
      num_kv_heads: 2,
    }],
  ];
  for (const [old, now] of cases) {
    assertEquals(
      structure({ ...rest, n_head: 4, n_layer: 2, ...old }),
      structure({
        ...rest,
        model_type: "falcon",
        num_attention_heads: 4,
        num_hidden_layers: 2,
        ...now,
      }),
    );
  }
});

Deno.test("what no model of a family is like is refused before it runs", () => {
  const gptj = { vocab_size: 13, n_embd: 24, n_head: 3, n_layer: 1, rotary_dim: 4 };
  const neo = { model_type: "gpt_neo", vocab_size: 13, hidden_size: 6, num_heads: 2 };
  const large = { vocab_size: 13, hidden_size: 12, num_attention_heads: 3, num_hidden_layers: 1 };
  const wrong: readonly [Config, typeof ConfigError | typeof UnsupportedError, string][] = [
    [{ ...gptj, model_type: "codegen" }, ConfigError, "a multiple of 4"],
    [{ ...gptj, model_type: "gptj", rotary_dim: 3 }, ConfigError, "even"],
    [{ ...neo, num_layers: 3, attention_types: [[["global"], 2]] }, ConfigError, "layer 2"],
    [{ ...neo, num_layers: 1, attention_types: "local" }, ConfigError, "a list"],
    [{ ...large, model_type: "falcon", alibi: true }, UnsupportedError, "alibi"],
    [
      { ...large, model_type: "falcon", new_decoder_architecture: true, num_kv_heads: 2 },
      ConfigError,
      "multiple",
    ],
    [{ ...large, model_type: "stablelm", qk_layernorm: true }, UnsupportedError, "qk_layernorm"],
    [{ ...large, model_type: "cohere", use_qk_norm: true }, UnsupportedError, "use_qk_norm"],
  ];
  for (const [config, kind, text] of wrong) assertThrows(() => structure(config), kind, text);
});

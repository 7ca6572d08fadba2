import { assert, assertEquals } from "@std/assert";
import { loadModel } from "../../lib/io/load-model.ts";
import { readJsonFile } from "../../lib/io/json.ts";
import { openSafetensors, writeSafetensors } from "../../lib/io/safetensors.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { golden, noDevice } from "../adapters/bases.ts";
import { codeOf, inFolder } from "../io/folder.ts";

/** What loading a golden base ends in when its config says something else. */
async function codeWith(
  base: string,
  change: Readonly<Record<string, unknown>>,
  options: Parameters<typeof loadModel>[1] = {},
): Promise<unknown> {
  let code: unknown;
  await inFolder(async (folder) => {
    const config = { ...await readJsonFile(`${golden}base/${base}/config.json`), ...change };
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
    await Deno.copyFile(
      `${golden}base/${base}/model.safetensors`,
      `${folder}/model.safetensors`,
    );
    code = await codeOf(loadModel(folder, { device: noDevice, ...options }));
  });
  return code;
}

Deno.test("numbers that no model can have are refused before it runs", async () => {
  const cases: Readonly<Record<string, readonly Readonly<Record<string, unknown>>[]>> = {
    llama: [
      { rms_norm_eps: -1e-6 },
      { rms_norm_eps: 1e308 },
      { rope_parameters: { rope_theta: -10_000 } },
      { rope_parameters: { rope_theta: 0 } },
      { attention_dropout: 2 },
      { rope_parameters: { partial_rotary_factor: 1.5 } },
      { rope_scaling: { rope_type: "linear", factor: 0 } },
      { rope_scaling: { rope_type: "linear", factor: -2 } },
      { rope_scaling: { rope_type: "yarn", factor: 2, beta_fast: "x" } },
      { rope_scaling: { rope_type: "longrope", short_factor: [0, 0], long_factor: [1, 1] } },
      { layer_types: "sliding_attention" },
      { eos_token_id: "2" },
      { eos_token_id: [2, 2.5] },
      { pad_token_id: -2 },
    ],
    gpt2: [{ layer_norm_epsilon: -1 }, { resid_pdrop: -0.1 }],
    bert_seq_cls: [{ layer_norm_eps: -1 }, { num_labels: 2.5 }, { num_labels: 1e9 }],
    t5: [{ layer_norm_epsilon: -1 }, { relative_attention_max_distance: 1e9 }],
  };
  for (const [base, changes] of Object.entries(cases)) {
    assertEquals(await codeWith(base, {}), "no error");
    for (const change of changes) {
      const code = await codeWith(base, change), of = `${base} with ${JSON.stringify(change)}`;
      assert(code === "MODEL_CONFIG" || code === "ROPE_PARAMETER", `${of}: ${code}`);
    }
  }
});

Deno.test("sizes that the file cannot hold are refused before anything is made of them", async () => {
  const start = performance.now();
  const names = {
    llama: "num_hidden_layers",
    gpt2: "n_layer",
    bert: "num_hidden_layers",
    t5: "num_layers",
  };
  for (const [base, layers] of Object.entries(names)) {
    for (const count of [20_000, 1e9, 2 ** 53 - 1]) {
      assertEquals(await codeWith(base, { [layers]: count }), "CHECKPOINT_MISMATCH");
    }
  }
  for (const change of [{ vocab_size: 1e9 }, { intermediate_size: 1e9 }]) {
    assertEquals(await codeWith("llama", change), "CHECKPOINT_MISMATCH");
  }
  // A head that is new is not made where the body does not fit.
  const more = { taskType: "SEQ_CLS", numLabels: 1 << 10 } as const;
  assertEquals(await codeWith("llama", { hidden_size: 1 << 24 }, more), "CHECKPOINT_MISMATCH");
  assert(performance.now() - start < 5000);
});

Deno.test("whole numbers are no weights", () =>
  inFolder(async (folder) => {
    const { tensors } = await openSafetensors(`${golden}base/llama/model.safetensors`);
    const { shape } = tensors.get("model.norm.weight")!;
    const whole = tensor(new Int32Array(shape[0]), { shape });
    await writeSafetensors(
      `${folder}/model.safetensors`,
      new Map([...tensors, ["model.norm.weight", whole]]),
    );
    await Deno.copyFile(`${golden}base/llama/config.json`, `${folder}/config.json`);
    assertEquals(await codeOf(loadModel(folder, { device: noDevice })), "CHECKPOINT_MISMATCH");
  }));

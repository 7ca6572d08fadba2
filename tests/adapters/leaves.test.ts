import { assert, assertEquals, assertThrows } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves, withLeaves } from "../../lib/adapters/leaves.ts";
import { single, tokensPart } from "../../lib/adapters/parts.ts";
import { traceModel } from "../../lib/adapters/trace-model.ts";
import { ShapeError, ValueError } from "../../lib/errors.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { testOnDevices } from "../devices.ts";
import { goldenBase, peftLora } from "./bases.ts";

Deno.test("leaves come out and go back by name, without the adapter's own", async () => {
  const base = await goldenBase("llama_tied");
  const config = peftLora({
    target_modules: ["q_proj"],
    modules_to_save: ["norm"],
    trainable_token_indices: [3, 8],
    r: 2,
  });
  const model = getPeftModel(base, config, { adapterName: "mine" });
  const other = getPeftModel(base, config, { adapterName: "yours", seed: 1 });
  const leaves = trainableLeaves(model);
  assertEquals([...leaves.keys()], [...trainableLeaves(other).keys()]);
  assert(leaves.has("a0.param.model.layers.1.post_attention_layernorm.weight"));
  // Equal structures give equal programs, so that one can take the place of the other without compiling.
  const key = (m: typeof model) => traceModel(m, { batch: 1, length: 4 }).program.key;
  assertEquals(key(model), key(other));

  const fresh = new Map(
    [...leaves].map(([name, { shape }], i) => [
      name,
      tensor(new Float32Array(sizeOf(shape)).fill(i + 1), { shape }),
    ]),
  );
  const changed = withLeaves(model, fresh);
  const found = trainableLeaves(changed);
  for (const [name, leaf] of fresh) assert(found.get(name) === leaf, name);
  // What is tied stays one, and the model that went in is as it was.
  const mine = changed.adapters.get("mine")!;
  const rowsOf = (path: string) => single(mine, tokensPart(mine, path)!).tensor;
  assert(rowsOf("lm_head") === rowsOf("model.embed_tokens"));
  assert(rowsOf("lm_head") === fresh.get("a0.tokens.model.embed_tokens"));
  for (const [name, leaf] of trainableLeaves(model)) assert(leaves.get(name) === leaf);

  const one = new Map([[...fresh][0]]);
  assertEquals(
    [...trainableLeaves(withLeaves(model, one)).values()].slice(1),
    [...leaves.values()].slice(1),
  );
});

Deno.test("unknown names and other shapes are refused", async () => {
  const model = getPeftModel(await goldenBase("llama"), loraConfig({ r: 2 }));
  const scalar = tensor(new Float32Array(1));
  const unknown = assertThrows(
    () => withLeaves(model, new Map([["a0.model.layers.0.self_attn.q_proj.lora_C", scalar]])),
    ValueError,
  );
  assert(unknown.message.includes("lora_A"));
  assertThrows(
    () => withLeaves(model, new Map([["a0.model.layers.0.self_attn.q_proj.lora_A", scalar]])),
    ShapeError,
    "[2,32]",
  );
  const frozen = { ...model, trainable: [] };
  assertEquals(trainableLeaves(frozen).size, 0);
  assertThrows(() => withLeaves(frozen, new Map([["x", scalar]])), ValueError, "trainable");
});

testOnDevices("the leaves of a base are its parameters, and ties are kept", async (device) => {
  const base = await goldenBase("llama_tied", device);
  const leaves = trainableLeaves(base);
  assert(leaves === base.parameters);
  const name = "model.embed_tokens.weight";
  const { shape } = leaves.get(name)!;
  const zeros = tensor(new Float32Array(sizeOf(shape)), { shape });
  const blank = withLeaves(base, new Map([[name, zeros]]));
  assertEquals(blank.tied, base.tied);
  // The tied head sees the new table too.
  const { logits } = await forward(blank, { inputIds: [[1, 2, 3]] });
  assert((await logits.data() as Float32Array).every((x) => x === 0));
});

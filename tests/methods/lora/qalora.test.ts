import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { join } from "node:path";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { forward } from "../../../lib/adapters/forward.ts";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../../lib/adapters/merge/merge.ts";
import { TargetError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { openSafetensors } from "../../../lib/io/safetensors.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { fromPeftJson } from "../../../lib/methods/peft-json.ts";
import { withParameters } from "../../../lib/model/model-graph.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { golden, goldenBase } from "../../adapters/bases.ts";
import { testOnDevices } from "../../devices.ts";
import { expectedGradients, fileKey } from "../../golden-case.ts";
import { inFolder } from "../../io/folder.ts";
import { adamLosses, apart, differentiate } from "../../steps.ts";
import index from "../../golden/qalora/qalora.json" with { type: "json" };

const FOLDER = join(golden, "qalora");

testOnDevices(
  "QA-LoRA begins, computes and learns on quantized layers as in PEFT",
  (device) =>
    inFolder(async (out) => {
      const { tensors } = await openSafetensors(join(FOLDER, "expected.safetensors"));
      const get = (name: string) => tensors.get(name)!;
      const plain = await goldenBase(index.kind, device);
      const stored = [...tensors].filter(([name]) => name.startsWith("q8_0."));
      const base = withParameters(
        plain,
        new Map(stored.map(([name, { data }]) => {
          const weight = `${name.slice("q8_0.".length)}.weight`;
          const { shape } = plain.parameters.get(weight)!;
          return [weight, { dtype: "q8_0", shape, where: "host", data }];
        })),
      );
      const json = await readJsonFile(join(FOLDER, "adapter_config.json"));
      const fresh = getPeftModel(base, fromPeftJson(json), { seed: index.seed });
      const began = getAdapterStateDict(fresh);
      for (const [name, want] of tensors) {
        if (!name.startsWith("init.")) continue;
        const got = began.get(fileKey(name.slice("init.".length)))!;
        assertEquals(got.shape, want.shape, name);
        assertEquals(await toFloat32(got), await toFloat32(want), name);
      }

      const model = await loadAdapter(base, FOLDER, { isTrainable: true });
      const batch = {
        inputIds: get("in.input_ids"),
        attentionMask: get("in.attention_mask"),
        labels: get("in.labels"),
      };
      const { labels: _, ...inputs } = batch;
      const mask = [...await inputs.attentionMask.data()].map(Number);
      const logits = async (of: Parameters<typeof forward>[0]) => {
        const { logits } = await forward(of, inputs), width = logits.shape[2];
        return (await toFloat32(logits)).map((x, i) => mask[Math.floor(i / width)] ? x : 0);
      };
      const width = get("logits").shape[2];
      const want = (await toFloat32(get("logits")))
        .map((x, i) => mask[Math.floor(i / width)] ? x : 0);
      assertLess(apart(await logits(model), want), 2e-5);
      assertLess(apart(await logits(mergeAndUnload(model)), want), 2e-5);
      assert(apart(await logits(base), want) > 1e-2);

      const { grads } = await differentiate(model, batch);
      const expected = await expectedGradients(model, { names: () => tensors.keys(), get });
      assertEquals([...grads.keys()].sort(), [...expected.keys()].sort());
      const largest = Math.max(...[...expected.values()].map((g) => Math.max(...g.map(Math.abs))));
      for (const [leaf, g] of expected) assertLess(apart(grads.get(leaf)!, g, largest), 2e-5, leaf);
      const losses = await adamLosses(model, [batch, batch, batch], { lr: 1e-2, weight_decay: 0 });
      losses.forEach((loss, i) =>
        assertLess(Math.abs(loss - index.losses[i]) / index.losses[i], 1e-5)
      );

      // Saved again, it is PEFT's file.
      await savePretrained(model, out);
      const saved = await openSafetensors(join(out, "adapter_model.safetensors"));
      const { tensors: theirs } = await openSafetensors(join(FOLDER, "adapter_model.safetensors"));
      assertEquals([...saved.tensors.keys()].sort(), [...theirs.keys()].sort());
      for (const [key, tensor] of theirs) {
        assertEquals(await toFloat32(saved.tensors.get(key)!), await toFloat32(tensor), key);
      }
      const odd = loraConfig({ useQalora: true, qaloraGroupSize: 12, targetModules: ["q_proj"] });
      assertThrows(() => getPeftModel(base, odd), TargetError, "divisible by qaloraGroupSize (12)");
      assertEquals(getAdapterStateDict(getPeftModel(plain, odd)).size, 4);
    }),
);

import { assert, assertEquals, assertThrows } from "@std/assert";
import { castAdapterDtype } from "../../lib/adapters/cast-adapter.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { leavesAt, mapLeaves, partsOfKind, single } from "../../lib/adapters/parts.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import { ValueError } from "../../lib/errors.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { prefixTuningConfig } from "../../lib/methods/prefix-tuning.ts";
import { veraConfig } from "../../lib/methods/vera.ts";
import { castTensor, toFloat32 } from "../../lib/tensor/convert.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";
import { testOnDevices } from "../devices.ts";
import { golden, goldenBase } from "./bases.ts";

const INPUTS = { inputIds: [[5, 41, 3, 60, 7], [9, 9, 12, 0, 33]] };
const HALVES = ["f16", "bf16"] as const;

async function logits(model: PeftModel): Promise<Float32Array> {
  return (await toFloat32((await forward(model, INPUTS)).logits)).slice();
}

function types(model: PeftModel, name = "default"): readonly string[] {
  return [...new Set([...getAdapterStateDict(model, name).values()].map(({ dtype }) => dtype))];
}

testOnDevices("a cast adapter runs as one that was loaded in that type", async (device) => {
  const base = await goldenBase("llama", device);
  const config = loraConfig({ r: 3, loraAlpha: 5, initLoraWeights: false, useDora: true });
  const model = getPeftModel(base, config);
  const before = await logits(model);
  for (const dtype of HALVES) {
    const cast = castAdapterDtype(model, { dtype });
    assertEquals(types(cast), [dtype]);
    const tensors = new Map(
      [...getAdapterStateDict(model)].map(([key, t]) => [key, castTensor(t, dtype)]),
    );
    const { model: loaded } = await setAdapterStateDict(model, tensors, {
      autocastAdapterDtype: false,
    });
    const found = await logits(cast);
    assertEquals(found, await logits(loaded));
    assert(found.some((x, i) => x !== before[i]), "rounding shows");
    assert(found.every((x, i) => Math.abs(x - before[i]) < 0.1), "but not much");
    // What was rounded stays so; the inputs are rounded no more.
    const again = castAdapterDtype(cast);
    assertEquals(types(again), ["f32"]);
    for (const [key, t] of getAdapterStateDict(again)) {
      assertEquals(await toFloat32(t), await toFloat32(tensors.get(key)!), key);
    }
  }
  assertEquals(types(model), ["f32"]);
  assertEquals(await logits(model), before);
});

Deno.test("without a type it does to 16-bit leaves what loading does", async () => {
  const base = await goldenBase("llama");
  const folder = `${golden}lora/half_file`;
  const kept = await loadAdapter(base, folder, { autocastAdapterDtype: false });
  const wanted = await loadAdapter(base, folder);
  assertEquals(types(kept), ["bf16"]);
  assertEquals(types(castAdapterDtype(kept)), types(wanted));
  assertEquals(types(castAdapterDtype(kept, { autocastAdapterDtype: true })), ["f32"]);
  const values = getAdapterStateDict(wanted);
  for (const [key, t] of getAdapterStateDict(castAdapterDtype(kept))) {
    assertEquals(await toFloat32(t), await toFloat32(values.get(key)!), key);
  }
  assert(castAdapterDtype(kept, { autocastAdapterDtype: false }) === kept);
  assert(castAdapterDtype(wanted) === wanted);
  assert(castAdapterDtype(kept, { dtype: "bf16" }) === kept);
});

Deno.test("all that a file holds is cast, and what is tied stays tied", async () => {
  const base = await goldenBase("llama_tied");
  const model = getPeftModel(
    base,
    loraConfig({
      r: 2,
      targetModules: ["q_proj"],
      modulesToSave: ["embed_tokens"],
      ensureWeightTying: true,
    }),
  );
  const cast = castAdapterDtype(model, { dtype: "f16" });
  assertEquals(types(cast), ["f16"]);
  assertEquals([...trainableLeaves(cast).keys()], [...trainableLeaves(model).keys()]);
  const tensorsOf = (of: PeftModel, kind: "parameter" | "tokens") => {
    const adapter = of.adapters.get("default")!;
    return partsOfKind(adapter, kind).map((part) => single(adapter, part).tensor);
  };
  const copies = tensorsOf(cast, "parameter");
  assert(copies.length === 2 && new Set(copies).size === 1);

  const rows = castAdapterDtype(
    getPeftModel(
      base,
      loraConfig({ r: 2, targetModules: ["q_proj"], trainableTokenIndices: [4, 9] }),
    ),
    { dtype: "bf16" },
  );
  const tokens = tensorsOf(rows, "tokens");
  assert(tokens.length === 2 && new Set(tokens).size === 1);
  assertEquals(tokens[0].dtype, "bf16");
});

Deno.test("fixed leaves are cast where files hold them", async () => {
  const base = await goldenBase("llama");
  for (const saveProjection of [true, false]) {
    const config = veraConfig({ r: 3, targetModules: ["q_proj"], saveProjection });
    const adapter = castAdapterDtype(getPeftModel(base, config), { dtype: "f16" })
      .adapters.get("default")!;
    assertEquals(
      Object.values(leavesAt(adapter, "shared")!).map(({ dtype }) => dtype),
      Array(2).fill(saveProjection ? "f16" : "f32"),
    );
  }
  const pissa = castAdapterDtype(getPeftModel(base, loraConfig({ initLoraWeights: "pissa" })), {
    dtype: "f16",
  });
  const [site] = partsOfKind(pissa.adapters.get("default")!, "site");
  const fixed = Object.values(site.leaves).filter(({ kind }) => kind === "fixed");
  assertEquals(fixed.map(({ tensor }) => tensor!.dtype), ["f32", "f32"]);
});

Deno.test("what is trained is cast where no file holds it", async () => {
  const config = prefixTuningConfig({ numVirtualTokens: 2, prefixProjection: true });
  const model = getPeftModel(await goldenBase("llama"), config);
  const cast = castAdapterDtype(model, { dtype: "f16" });
  const encoder = [...trainableLeaves(cast).values()];
  assertEquals(encoder.map(({ dtype }) => dtype), Array(5).fill("f16"));
});

Deno.test("only the adapter that is named, and nothing is read", async () => {
  const base = await goldenBase("llama");
  const two = addAdapter(getPeftModel(base, loraConfig()), "style", loraConfig({ r: 3 }));
  let reads = 0;
  const adapters = new Map([...two.adapters].map(([name, adapter]) => {
    const counted = (t: Tensor): Tensor => ({ ...t, data: () => (reads++, t.data()) });
    return [name, { ...adapter, parts: mapLeaves(adapter.parts, counted) }];
  }));
  const model: PeftModel = { ...two, adapters };
  const cast = castAdapterDtype(model, { adapterName: "style", dtype: "f16" });
  assertEquals([types(cast), types(cast, "style")], [["f32"], ["f16"]]);
  assert(cast.adapters.get("default") === model.adapters.get("default"));
  assertEquals([cast.active, cast.trainable], [model.active, model.trainable]);
  assertEquals([...cast.adapters.keys()], ["default", "style"]);
  assertEquals(reads, 0);
  await [...getAdapterStateDict(cast, "style").values()][0].data();
  assertEquals(reads, 1);
});

Deno.test("what cannot be cast is refused", async () => {
  const base = await goldenBase("llama");
  const model = getPeftModel(base, loraConfig());
  for (
    const options of [
      { adapterName: "defualt" },
      { dtype: "f64" },
      { dtype: "float16" },
      { autocastAdapterDtype: "no" },
      { dtype: "f16", autocastAdapterDtype: true },
      { dype: "f16" },
      "f16",
      null,
    ]
  ) {
    assertThrows(() => castAdapterDtype(model, options as never), ValueError);
  }
  const wrong = castAdapterDtype as (model: unknown) => unknown;
  assertThrows(() => wrong(base), ValueError, "base");
});

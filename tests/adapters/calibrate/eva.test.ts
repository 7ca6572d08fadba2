import { assert, assertEquals, assertLess, assertRejects } from "@std/assert";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { forward } from "../../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { getEvaStateDict, initializeLoraEvaWeights } from "../../../lib/adapters/lora/eva.ts";
import type { EvaProgress } from "../../../lib/adapters/lora/measure-eva.ts";
import { setAdapter } from "../../../lib/adapters/select.ts";
import { GraftError } from "../../../lib/errors.ts";
import { loraConfig, type LoraFields } from "../../../lib/methods/lora/lora-config.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { testDevice } from "../../devices.ts";
import { apart } from "../../steps.ts";
import { goldenBase } from "../bases.ts";

const ROWS = [14, 14].map((n, i) =>
  Array.from({ length: n }, (_, j) => (7 * j * j + 13 * i + j) % 61)
);
const batches = ROWS.map((row) => ({ inputIds: [row] }));

function evaConfig(fields: LoraFields = {}) {
  return loraConfig({
    initLoraWeights: "eva",
    r: 2,
    targetModules: ["q_proj", "v_proj", "o_proj"],
    ...fields,
  });
}

async function statesApart(
  a: ReadonlyMap<string, Tensor>,
  b: ReadonlyMap<string, Tensor>,
): Promise<number> {
  assertEquals([...a.keys()], [...b.keys()]);
  const all = [...a].map(async ([path, x]) => {
    const y = b.get(path)!;
    if (x.shape.join() !== y.shape.join()) return 1;
    return x.shape[0] ? apart(await toFloat32(x), await toFloat32(y)) : 0;
  });
  return Math.max(...await Promise.all(all));
}

Deno.test("EVA deals out the ranks, changes nothing at first, and can be begun from what was found", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const config = evaConfig(), progress: EvaProgress[] = [];
  const found = await getEvaStateDict(base, config, {
    batches,
    onProgress: (p) => progress.push(p),
  });
  assertEquals([...found.values()].reduce((sum, { shape: [r] }) => sum + r, 0), 12);
  const [first, last] = [progress[0], progress.at(-1)!];
  assertEquals([first.batches, first.settled, first.total], [0, 0, 6]);
  assertEquals([last.settled, last.batches], [6, progress.length - 1]);

  const fresh = getPeftModel(base, config);
  const model = await initializeLoraEvaWeights(fresh, { batches });
  const again = await initializeLoraEvaWeights(fresh, { evaStateDict: found });
  assertEquals(
    await Promise.all([...getAdapterStateDict(again).values()].map((t) => t.data())),
    await Promise.all([...getAdapterStateDict(model).values()].map((t) => t.data())),
  );
  const inputs = { inputIds: [ROWS[0]] };
  const [none, begun] = [await forward(base, inputs), await forward(model, inputs)];
  assertEquals(await begun.logits.data(), await none.logits.data());
  // The adapter that it was made of is what it was.
  assertEquals(
    getAdapterStateDict(fresh).get(
      "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight",
    )!.shape,
    [2, 32],
  );
});

Deno.test("padding and tokens whose label is masked do not count, whatever they hold", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const plain = await getEvaStateDict(base, evaConfig(), { batches });
  async function* padded() {
    await Promise.resolve();
    for (const row of ROWS) {
      yield { inputIds: [[...row, 3, 4]], attentionMask: [[...row.map(() => 1), 0, 0]] };
    }
  }
  const other = await getEvaStateDict(base, evaConfig(), { batches: padded() });
  assertLess(await statesApart(other, plain), 1e-4);
  // A causal model sees nothing of what follows.
  const labelled = ROWS.map((row) => ({
    inputIds: [[...row, 3, 4]],
    labels: tensor(Int32Array.of(...row, -100, -100), { shape: [1, 16] }),
  }));
  const masked = await getEvaStateDict(base, evaConfig(), { batches: labelled });
  assertLess(await statesApart(masked, plain), 1e-4);
  const whole = evaConfig({ evaConfig: { useLabelMask: false } });
  assert(
    await statesApart(await getEvaStateDict(base, whole, { batches: labelled }), plain) > 1e-3,
  );
});

Deno.test("what EVA cannot do is refused with what to do", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const model = getPeftModel(base, evaConfig());
  const two = addAdapter(model, "other", evaConfig());
  const short = [{ inputIds: [[1, 2, 3]] }, { inputIds: [[4, 5]] }];
  const cases: [string, () => Promise<unknown>][] = [
    ["CONFIG_EVA", () => getEvaStateDict(base, loraConfig(), { batches })],
    ["CONFIG_EVA", () => initializeLoraEvaWeights(getPeftModel(base, loraConfig()), { batches })],
    ["CONFIG_EVA_RANK", () => getEvaStateDict(base, evaConfig({ r: 20 }), { batches })],
    ["CALIBRATION_BATCHES", () => getEvaStateDict(base, evaConfig(), { batches: short })],
    ["CALIBRATION_BATCHES", () => getEvaStateDict(base, evaConfig(), { batches: [] })],
    ["CALIBRATION_BATCHES", () => initializeLoraEvaWeights(model, {})],
    ["CALIBRATION_OPTION", () => initializeLoraEvaWeights(model, { batch: 1 } as never)],
    [
      "EVA_ACTIVE",
      () => initializeLoraEvaWeights(setAdapter(two, ["default", "other"]), { batches }),
    ],
    [
      "CALIBRATION_SHAPE",
      () =>
        initializeLoraEvaWeights(model, {
          evaStateDict: new Map([[
            "model.layers.0.self_attn.q_proj",
            tensor(new Float32Array(4), { shape: [2, 2] }),
          ]]),
        }),
    ],
    [
      "ABORTED",
      () => getEvaStateDict(base, evaConfig(), { batches, signal: AbortSignal.abort() }),
    ],
  ];
  for (const [code, attempt] of cases) {
    const error = await assertRejects(attempt);
    assertEquals(error instanceof GraftError ? error.code : "ABORTED", code, String(error));
  }
});

/**
 * What OSF's golden cases do not show: patterns in an order that a file does not keep, and modules of
 * which nothing is trained.
 *
 * @module
 */
import { assertEquals, assertRejects } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import { TrainingError } from "../../lib/errors.ts";
import { osfConfig } from "../../lib/methods/osf.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { goldenBase } from "../adapters/bases.ts";
import { testDevice } from "../devices.ts";
import { inFolder } from "../io/folder.ts";

const BATCH = { inputIds: [[5, 41, 3, 60]] };

Deno.test("the first of several patterns of OSF counts, before and after saving", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const rankPattern = { "q_proj|o_proj": 20, "layers\\.1": 12 };
  const config = osfConfig({ targetModules: ["q_proj", "k_proj"], rankPattern });
  const model = getPeftModel(base, config);
  const ranks = (of: typeof model) =>
    [...trainableLeaves({ ...of, trainable: ["default"] })].flatMap(([name, { shape }]) =>
      name.endsWith("osf_S_low") ? shape : []
    );
  // Of q and k in the first layer, then in the second: half of 16 where nothing is said.
  assertEquals(ranks(model), [12, 8, 12, 4]);
  await inFolder(async (folder) => {
    await savePretrained(model, folder);
    assertEquals(ranks(await loadAdapter(base, folder)), [12, 8, 12, 4]);
  });
});

Deno.test("OSF that leaves all as it is changes nothing, and has nothing to train", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const config = osfConfig({ targetModules: ["q_proj"], effectiveRank: 100, initWeights: false });
  const model = getPeftModel(base, config);
  const [a, b] = await Promise.all([base, model].map((m) => forward(m, BATCH)));
  assertEquals(await toFloat32(b.logits), await toFloat32(a.logits));
  assertEquals(trainableLeaves(model).size, 0);
  await assertRejects(
    () => computeGradients(model, { ...BATCH, labels: BATCH.inputIds }),
    TrainingError,
  );
});

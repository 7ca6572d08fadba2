/**
 * The contrastive objective against torch; see contrastive.golden.py.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { ValueError } from "../../lib/errors.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { contrastive, type ContrastiveOptions } from "../../lib/tasks/contrastive.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { evaluate } from "../../lib/training/evaluate.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { train } from "../../lib/training/train.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import golden from "./contrastive.golden.json" with { type: "json" };

const FOLDER = new URL("../golden/inference/bert_embed", import.meta.url).pathname;

for (const [name, { options, inputs, losses, gradients }] of Object.entries(golden.cases)) {
  testOnceOnWebGpu(
    `contrastive, ${name}: loss, gradients and steps are torch's`,
    async (device) => {
      const base = await loadModel(FOLDER, { device });
      const model = await loadAdapter(base, `${FOLDER}/adapter`, { isTrainable: true });
      const objective = contrastive(options as ContrastiveOptions);
      const batch = { inputIds: inputs.input_ids, attentionMask: inputs.attention_mask };
      const found = await computeGradients(model, batch, { objective });
      const largest = Math.max(...Object.values(gradients).flat().map(Math.abs));
      for (const [leaf, want] of Object.entries(gradients)) {
        const got = await toFloat32(found.gradients.get(`a0.${leaf}`)!);
        const apart = Math.max(...want.map((x, i) => Math.abs(x - got[i]))) / largest;
        assert(apart < 2e-5, `gradient of ${leaf}: ${apart} of the largest`);
      }
      const { history } = await train(model, losses.map(() => batch), {
        objective,
        learningRate: golden.rate,
        weightDecay: golden.decay,
        steps: losses.length,
        dropout: false,
      });
      losses.forEach((loss, i) => {
        const apart = Math.abs(history[i].loss - loss) / loss;
        assert(apart < 1e-5, `loss ${i}: ${history[i].loss}, not ${loss}`);
      });
      const { metrics, targets } = await evaluate(model, [batch], { objective });
      assertEquals(targets, inputs.input_ids.length / options.columns);
      assert(metrics.accuracy >= 0 && metrics.accuracy <= 1);
      const odd = { inputIds: [[1, 2]], attentionMask: [[1, 1]] };
      await assertRejects(() => evaluate(model, [odd], { objective }), ValueError, "found 1 rows");
    },
  );
}

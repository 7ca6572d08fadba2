import { assertEquals } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { forward, type ForwardOutputs } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { createModel, loadModel } from "../../lib/io/load-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { golden } from "./bases.ts";
import { testDevice } from "../devices.ts";

const BERT = {
  model_type: "bert",
  vocab_size: 40,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 1,
  num_attention_heads: 2,
};

Deno.test({
  name: "the task in a model's type says what forward gives",
  sanitizeResources: false,
  async fn() {
    const device = await testDevice("cpu"), inputs = { inputIds: [[1, 2, 3]] };
    const finds = await createModel(BERT, { device, taskType: "QUESTION_ANS" });
    const found = await forward(getPeftModel(finds, loraConfig()), inputs);
    assertEquals([found.startLogits.shape, found.endLogits.shape], [[1, 3], [1, 3]]);
    // @ts-expect-error: such a model gives no logits
    assertEquals(found.logits, undefined);

    const plain = await createModel(BERT, { device, taskType: "FEATURE_EXTRACTION" });
    const { lastHiddenState, poolerOutput } = await forward(plain, inputs);
    assertEquals([lastHiddenState.shape, poolerOutput?.shape], [[1, 3, 16], [1, 16]]);

    const source = `${golden}base/t5`;
    const writes = await loadModel(source, { device, taskType: "SEQ_2_SEQ_LM" });
    const adapted = await loadAdapter(writes, `${golden}adapters/lora/t5`);
    const outputs = await forward(adapted, { ...inputs, decoderInputIds: [[0, 4]] });
    assertEquals(outputs.encoderLastHiddenState.shape, [1, 3, 16]);

    const unknown: ForwardOutputs = await forward(await loadModel(source, { device }), {
      ...inputs,
      decoderInputIds: [[0]],
    });
    assertEquals(unknown.logits.shape, [1, 1, 53]);
  },
});

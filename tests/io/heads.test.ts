import { assert, assertEquals } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { architectureOf } from "../../lib/architectures/mod.ts";
import { openDevice } from "../../lib/device/open.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { writeSafetensors } from "../../lib/io/safetensors.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { structureOf } from "../../lib/model/model-graph.ts";
import { taskOf } from "../../lib/model/task-of.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { cli, tinyModel } from "../cli/run.ts";
import { inFolder } from "./folder.ts";
import cases from "./heads.golden.json" with { type: "json" };

/** The values of a parameter, as the script that wrote the golden file computes them. */
function fill(name: string, shape: readonly number[]): Tensor {
  const seed = [...name].reduce((sum, c) => sum + c.charCodeAt(0), 0) % 97;
  const size = shape.reduce((n, d) => n * d, 1);
  const values = Float32Array.from({ length: size }, (_, i) => 0.6 * Math.sin(1.3 * i + seed));
  return tensor(values, { shape });
}

for (const { name, config, how, source, alias, tied, inputs, logits } of cases) {
  Deno.test(`tied weights that a file holds count as in transformers: ${name}`, async () => {
    using device = await openDevice("cpu");
    await inFolder(async (folder) => {
      const architecture = architectureOf(config);
      const structure = structureOf({
        architecture,
        config,
        taskType: taskOf(architecture, config),
      });
      const stored = new Map(
        [...structure.shapes].filter(([name]) => !structure.tied.has(name))
          .map(([name, shape]) => [name, fill(name, shape)]),
      );
      const shape = structure.shapes.get(alias)!;
      if (how !== "none") stored.set(alias, fill(how === "same" ? source : alias, shape));
      if (how === "only") stored.delete(source);
      await writeSafetensors(`${folder}/model.safetensors`, stored);
      await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
      const model = await loadModel(folder, { device });
      assertEquals(model.tied.get(alias), tied ? source : undefined);
      assertEquals(model.untied, how === "own" && !name.includes(", untied") ? [alias] : []);
      const { decoder_input_ids: decoderInputIds } = inputs as { decoder_input_ids?: number[][] };
      const batch = { inputIds: inputs.input_ids, ...(decoderInputIds && { decoderInputIds }) };
      const found = async (of: typeof model) =>
        await (await forward(of, batch)).logits.data() as Float32Array;
      const values = await found(model);
      assertEquals(values.length, logits.length);
      values.forEach((x, i) => assert(Math.abs(x - logits[i]) < 2e-5, `${i}: ${x} ${logits[i]}`));
      // What is saved is loaded as it was.
      await saveModel(model, `${folder}/again`);
      const again = await loadModel(`${folder}/again`, { device });
      assertEquals([again.tied, await found(again)], [model.tied, values]);
    });
  });
}

Deno.test("the command line says that a head of its own counts", async () => {
  await inFolder(async (folder) => {
    const path = await tinyModel(folder);
    const quiet = await cli(["generate", path, "--prompt", "a", "--max-new-tokens", "1"]);
    assertEquals([quiet.code, quiet.err.includes("lm_head")], [0, false]);
    using device = await openDevice("cpu");
    const { parameters } = await loadModel(path, { device });
    const { shape } = parameters.get("model.embed_tokens.weight")!;
    const file = `${path}/model.safetensors`;
    const stored = new Map([...parameters, ["lm_head.weight", fill("head", shape)]] as const);
    await writeSafetensors(`${file}.new`, stored);
    await Deno.rename(`${file}.new`, file);
    const run = await cli(["generate", path, "--prompt", "a", "--max-new-tokens", "1"]);
    assertEquals(run.code, 0);
    assert(run.err.includes("its own lm_head.weight, which counts"), run.err);
  });
});

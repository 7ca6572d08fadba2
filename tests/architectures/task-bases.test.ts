import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import type { ForwardInputs } from "../../lib/adapters/batch.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { generate, type Generation } from "../../lib/generation/generate.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";
import index from "../golden/adapters/index.json" with { type: "json" };
import { testOnceOnWebGpu } from "../devices.ts";

/** The bound on outputs, relative to the largest. */
const BOUND = 2e-5;

const root = new URL("../golden/base/", import.meta.url).pathname;
const named = (word: string) => word.replace(/_(\w)/g, (_, c: string) => c.toUpperCase());

/** The largest difference as a share of the largest number, where the mask of rows is not 0. */
async function difference(got: Tensor, want: Tensor, mask: Tensor): Promise<number> {
  assertEquals(got.shape, want.shape);
  const [a, b] = [await got.data(), await want.data()] as Float32Array[];
  const seen = Array.from(await mask.data(), Number);
  // What has no tokens is seen whole.
  const width = want.shape[1] === mask.shape[1] ? b.length / seen.length : Infinity;
  let largest = 0, apart = 0;
  for (let i = 0; i < b.length; i++) {
    if (seen[Math.floor(i / width)] === 0) continue;
    largest = Math.max(largest, Math.abs(b[i]));
    apart = Math.max(apart, Math.abs(a[i] - b[i]));
  }
  return apart / largest;
}

for (const { kind, task_type, inputs, outputs } of index.bases) {
  testOnceOnWebGpu(`${kind}: outputs, loss and text of transformers`, async (device) => {
    const model = await loadModel(`${root}${kind}`, { device });
    assertEquals(model.taskType, task_type);
    const { tensors } = await openSafetensors(`${root}${kind}/expected.safetensors`);
    const get = (name: string) => {
      const tensor = tensors.get(name);
      assert(tensor, `${name} in ${kind}`);
      return tensor;
    };
    const batch = Object.fromEntries(inputs.map((name) => [named(name), get(`in.${name}`)]));
    const found = await forward(model, batch as unknown as ForwardInputs);
    const mask = batch.decoderAttentionMask ?? batch.attentionMask;
    for (const name of outputs) {
      const output = found[named(name) as keyof typeof found] as Tensor;
      const apart = await difference(output, get(`base.${name}`), mask);
      assert(apart < BOUND, `${name}: ${apart}`);
    }
    if (tensors.has("base.loss")) {
      const expected = Number((await get("base.loss").data())[0]);
      assertAlmostEquals(found.loss!, expected, 1e-5 * expected);
    }
    if (!tensors.has("generated.ids")) return;
    // Decoder inputs follow from labels too.
    const { decoderInputIds: _, ...rest } = batch;
    const { loss } = await forward(model, rest as unknown as ForwardInputs);
    assertAlmostEquals(loss!, found.loss!, 1e-6);
    const rows = async ({ data, shape }: Tensor) => {
      const all = Array.from(await data(), Number), [n, length] = shape;
      return Array.from({ length: n }, (_, row) => all.slice(row * length, (row + 1) * length));
    };
    const seen = await rows(batch.attentionMask);
    const prompts = (await rows(batch.inputIds)).map((ids, row) =>
      ids.filter((_, i) => seen[row][i])
    );
    const texts = await generate(model, prompts, { maxNewTokens: 8, eosTokenId: [] });
    const written = (texts as readonly Generation[]).map(({ tokenIds }) => tokenIds);
    // The start comes first.
    assertEquals(written, (await rows(get("generated.ids"))).map((ids) => ids.slice(1)));
  });
}
